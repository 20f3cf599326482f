"""``python -m tests.browser.page_speed [MESSAGES]``: how fast the messages page is on a slow phone.

Chromium runs with a quarter of the processor's speed, 1.6 Mbit/s and 150 ms. The page opens without a cache,
then a person scrolls up through a conversation with 10,000 messages.

``python -m tests.browser.page_speed --against FOLDER``: cold loads and reloads of the list of conversations,
in turn with those of another source tree, which has its own ``.venv``. Prints the medians of five.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

import pytest
from msgspec import Struct

from tests.browser.chromium import Browser, Page
from tests.browser.messenger import APP, Account, Chat
from tests.pages.page_sizes import sizes
from tests.support import ROOT, Server, eventually

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


class Load(Struct, frozen=True):
    """Milliseconds until the largest element is drawn (``lcp``), and until the list is there and the page
    online (``usable``); requests of the page that the network has answered, and their bytes.
    """

    lcp: float
    usable: float
    requests: int
    bytes: int


_LARGEST: Final = """
new PerformanceObserver((list) => { for (const each of list.getEntries()) window.seen.lcp = each.startTime; })
  .observe({ type: "largest-contentful-paint", buffered: true });
"""
_LOADED: Final = """
const entries = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
const sent = entries.filter((each) => each.transferSize);
const bytes = sent.reduce((sum, each) => sum + each.transferSize, 0);
return [window.seen.lcp, window.seen.usable, sent.length, bytes];
"""
_ROUNDS: Final = 5
_PEOPLE: Final = 12


class Tree:
    """A server of a source tree, with a user who has conversations."""

    def __init__(self, source: Path, folder: Path) -> None:
        command = [str(source / ".venv" / "bin" / "python"), "-m", "imserver"]
        self.server = Server(
            folder,
            config={"accounts": {"registrations_per_address": 0}},
            command=command,
            environment={"PYTHONPATH": str(source)},
        )
        self.ann = Account(self.server, "Ann")
        for number in range(_PEOPLE):
            Account(self.server, f"Person {number}").say(self.ann, _WORDS)
        self.cold: list[Load] = []
        self.again: list[Load] = []

    def load(self, browser: Browser) -> None:
        """One cold load, and one reload when the service worker has the page."""
        login = json.dumps({"token": self.ann.token, "user": self.ann.user, "nickname": "Ann"})
        stored = f"localStorage.setItem('imserver:account:{APP}', {json.dumps(login)});"
        page = browser.open("about:blank", size=PHONE, script=_WATCH + _LARGEST)
        page.command("Network.enable")
        page.command("Storage.clearDataForOrigin", origin=self.server.http_url, storageTypes="all")
        page.command("Network.clearBrowserCache")
        page.command(
            "Page.addScriptToEvaluateOnNewDocument", source=f"if (location.protocol !== 'about:') {stored}"
        )
        _slow_down(page)
        page.driver.get(f"{self.server.http_url}/home/messages?lang=en")
        self.cold.append(_loaded(page))
        page.command("Emulation.setCPUThrottlingRate", rate=1)
        active = "return Boolean(navigator.serviceWorker.controller)"
        eventually(lambda: page.run(active), what="the worker is active")
        _slow_down(page)
        page.driver.refresh()
        self.again.append(_loaded(page))
        page.command("Emulation.setCPUThrottlingRate", rate=1)


def _loaded(page: Page) -> Load:
    eventually(lambda: page.run("return window.seen?.usable ?? 0") > 0, what="the page is usable")
    quiet = """
      const [done] = arguments;
      const count = () => performance.getEntriesByType("resource").length;
      const wait = (before) => setTimeout(() => (count() === before ? done() : wait(count())), 1_000);
      wait(count());
    """
    page.driver.execute_async_script(quiet)  # what is loaded afterwards counts, too
    lcp, usable, requests, size = page.run(_LOADED)
    return Load(lcp, usable, requests, size)


def compare(before: Path) -> None:
    """Print the medians of this source tree and of another one."""
    with tempfile.TemporaryDirectory() as folder:
        trees: list[Tree] = []
        browser = Browser(Path(folder) / "profile")
        try:
            trees += [
                Tree(source, Path(folder) / f"server-{index}") for index, source in enumerate((before, ROOT))
            ]
            for _ in range(_ROUNDS):
                for tree in trees:
                    tree.load(browser)
        finally:
            browser.quit()
            for tree in trees:
                tree.server.stop()
    for name, loads in (
        ("cold load", [tree.cold for tree in trees]),
        ("reload", [tree.again for tree in trees]),
    ):
        fields = Load.__struct_fields__
        old, new = ([median(getattr(load, field) for load in each) for field in fields] for each in loads)
        print(
            f"{name}: LCP {old[0]:.0f} → {new[0]:.0f} ms ({new[0] / old[0]:.2f}), "
            f"usable {old[1]:.0f} → {new[1]:.0f} ms, "
            f"{old[2]:.0f} → {new[2]:.0f} requests, {old[3] / 1000:.1f} → {new[3] / 1000:.1f} kB"
        )


def main() -> None:
    """The command."""
    if sys.argv[1:2] == ["--against"]:
        compare(Path(sys.argv[2]).resolve())
        return
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
