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
from msgspec import Struct

from tests.browser.chromium import Browser, Page
from tests.browser.messenger import Account, Chat
from tests.pages.page_sizes import sizes
from tests.support import Server, eventually

SLOWER: Final = 4
BYTES_A_SECOND: Final = 1_600_000 // 8
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


class Speed(Struct, frozen=True):
    """Times in milliseconds. ``usable``: online, with the list of conversations. ``passed``: messages above
    which the person has scrolled.
    """

    first_paint: float
    usable: float
    long_tasks: list[float]
    frame_p95: float
    rows: int
    passed: int


def _slow_down(page: Page) -> None:
    page.command("Emulation.setCPUThrottlingRate", rate=SLOWER)
    page.command(
        "Network.emulateNetworkConditions",
        offline=False,
        latency=LATENCY_MS,
        downloadThroughput=BYTES_A_SECOND,
        uploadThroughput=BYTES_A_SECOND,
    )


def measure(server: Server, browser: Browser, messages: int, frames: int = _FRAMES) -> Speed:
    """Open the page of a user with a conversation of so many messages, and scroll up."""
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, *(f"{number} {_WORDS[: 12 + number * 7 % 55]}" for number in range(messages)))
    chat = Chat(browser, ann, size=PHONE)  # stores the login
    chat.page.command("Network.enable")
    chat.page.command("Network.clearBrowserCache")
    chat.page.command("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
    _slow_down(chat.page)
    chat.page.command("Network.setCacheDisabled", cacheDisabled=True)
    chat.page.command("Network.setBypassServiceWorker", bypass=True)
    chat.page.driver.refresh()
    eventually(lambda: chat.page.run("return window.seen?.usable ?? 0") > 0, what="the page is usable")
    paint = chat.page.run("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    usable = chat.page.run("return window.seen.usable")
    chat.page.click("#conversations button")
    eventually(lambda: chat.page.shown("[role=log] article"), what="the messages")
    chat.page.run("const log = document.querySelector('[role=log]'); log.scrollTop = log.scrollHeight")
    chat.page.driver.set_script_timeout(600)
    chat.page.driver.execute_async_script(_SCROLL, _STEP_PX, frames)
    seen = chat.page.run("return window.seen")
    ordered = sorted(seen["frames"])
    highest = chat.page.run("return document.querySelectorAll('[role=log] article[data-id]').length")
    chat.page.command("Emulation.setCPUThrottlingRate", rate=1)
    return Speed(
        first_paint=round(paint or 0),
        usable=round(usable),
        long_tasks=[round(each) for each in seen["long"] if each > 50],
        frame_p95=round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        rows=seen["rows"],
        passed=highest,
    )


def main() -> None:
    """The command."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    try:
        with tempfile.TemporaryDirectory() as folder:
            server = Server(Path(folder) / "server", config={"accounts": {"registrations_per_address": 0}})
            browser = Browser(Path(folder) / "profile")
            try:
                speed = measure(server, browser, messages)
            finally:
                browser.quit()
                server.stop()
    except pytest.skip.Exception as reason:
        print(f"not measured: {reason}")
        return
    size = sizes()
    print(
        f"gzip: at first {size.first / 1024:.1f} KB, all scripts {size.script / 1024:.1f} KB, "
        f"SDK {size.sdk / 1024:.1f} KB, styles {size.style / 1024:.1f} KB"
    )
    print(f"first paint {speed.first_paint:.0f} ms, usable {speed.usable:.0f} ms")
    print(
        f"scrolling {messages} messages: {len(speed.long_tasks)} tasks above 50 ms {speed.long_tasks[:10]}, "
        f"p95 frame {speed.frame_p95} ms, at most {speed.rows} rows"
    )


if __name__ == "__main__":
    main()
