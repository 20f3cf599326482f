"""``python -m tests.browser.page_speed [MESSAGES]``: how fast the messages page is on a slow phone.

Chromium runs with a quarter of the processor's speed, 1.6 Mbit/s and 150 ms. The page opens without a cache,
then a person scrolls up through a conversation with 10,000 messages.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.browser.chromium import Browser
from tests.browser.messenger import Account, Chat
from tests.browser.screenshots import running
from tests.pages.page_sizes import sizes
from tests.support import Server, eventually

SLOWER: Final = 4
_RATES: Final = dict.fromkeys(("downloadThroughput", "uploadThroughput"), 1_600_000 // 8)
"""Bytes a second."""
LATENCY_MS: Final = 150
PHONE: Final = (390, 844)

_WATCH: Final = """
window.seen = { long: [], frames: [], rows: 0, usable: 0 };
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) window.seen.long.push(each.duration);
}).observe({ type: "longtask", buffered: true });
const look = () => {
  const online = document.querySelector("#state")?.dataset.state === "online";
  if (online && document.querySelector("#conversations li")) window.seen.usable ||= performance.now();
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
_SCROLL: Final = """
const [step, frames, done] = arguments;
const log = document.querySelector("[role=log]");
Object.assign(window.seen, { long: [], frames: [], rows: 0 });
let last = 0;
let left = frames;
const turn = (now) => {
  if (last) window.seen.frames.push(now - last);
  last = now;
  window.seen.rows = Math.max(window.seen.rows, log.firstElementChild.childElementCount);
  log.scrollTop -= step;
  if (--left > 0) requestAnimationFrame(turn);
  else done(log.querySelector("article[data-id]")?.dataset.id ?? "");
};
requestAnimationFrame(turn);
"""
_WORDS: Final = "A message of about the usual length, as people send them all day. "
_STEP_PX: Final = 60
_FRAMES: Final = 400


def measure(server: Server, browser: Browser, messages: int) -> str:
    """Open the page of a user with a conversation of so many messages, scroll up, and say how fast it was."""
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, *(f"{number} {_WORDS[: 12 + number * 7 % 55]}" for number in range(messages)))
    chat = Chat(browser, ann, size=PHONE)  # stores the login
    for command, options in (
        ("Network.enable", {}),
        ("Network.clearBrowserCache", {}),
        ("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH}),
        ("Emulation.setCPUThrottlingRate", {"rate": SLOWER}),
        ("Network.emulateNetworkConditions", {"offline": False, "latency": LATENCY_MS, **_RATES}),
        ("Network.setCacheDisabled", {"cacheDisabled": True}),
        ("Network.setBypassServiceWorker", {"bypass": True}),
    ):
        chat.command(command, **options)
    chat.driver.refresh()
    usable = eventually(lambda: chat.run("return window.seen?.usable ?? 0"), what="the page is usable")
    paint = chat.run("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
    chat.click("#conversations button")
    chat.sees("[role=log] article")
    chat.run("const log = document.querySelector('[role=log]'); log.scrollTop = log.scrollHeight")
    chat.driver.set_script_timeout(600)
    chat.driver.execute_async_script(_SCROLL, _STEP_PX, _FRAMES)
    seen = chat.run("return window.seen")
    frames = sorted(seen["frames"])
    slow = [round(each) for each in seen["long"] if each > 50]
    return (
        f"first paint {paint:.0f} ms, usable {usable:.0f} ms\n"
        f"scrolling {messages} messages: {len(slow)} tasks above 50 ms {slow[:10]}, "
        f"p95 frame {frames[int(0.95 * (len(frames) - 1))]:.1f} ms, at most {seen['rows']} rows"
    )


def main() -> None:
    messages, size = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sizes()
    names = {"at first": size.first, "all scripts": size.script, "SDK": size.sdk, "styles": size.style}
    parts = names.items()
    print("gzip:", ", ".join(f"{name} {count / 1024:.1f} KB" for name, count in parts))
    try:
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, browser):
            print(measure(server, browser, messages))
    except pytest.skip.Exception as reason:
        print(f"not measured: {reason}")


if __name__ == "__main__":
    main()
