"""``python -m tests.browser.page_speed [MESSAGES]``: how fast the messages page
is on a slow phone.

Chromium runs with a quarter of the processor's speed, 1.6 Mbit/s and 150 ms.
The page opens without a cache, then a person scrolls up through a conversation
with 10,000 messages.

``python -m tests.browser.page_speed day [TREE …]`` measures a day of a team of
200: one has 500 conversations, one of them with 10,600 messages. The processor
has its own speed. Each tree is a folder with another version of the server,
which is measured beside this one, in turn.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from tests.browser.chromium import Browser
from tests.browser.messenger import Account, Chat
from tests.browser.screenshots import CONFIG, running
from tests.pages.page_sizes import sizes
from tests.support import ROOT, Server, eventually

SLOWER: Final = 4
_RATES: Final = dict.fromkeys(
    ("downloadThroughput", "uploadThroughput"), 1_600_000 // 8
)
"""Bytes a second."""
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
_MORE: Final = """
const list = document.querySelector("#conversations");
const more = document.querySelector("#conversations-more");
if (more?.checkVisibility()) more.click();
const root = document.querySelector("nav.conversations");
root.scrollTop = root.scrollHeight;
const rows = list.querySelectorAll("[data-conversation]");
const listed = list.querySelector("[aria-setsize]")?.getAttribute("aria-setsize");
return Math.max(rows.length, Number(listed ?? 0));
"""
"""Ask for more conversations, and say how many are listed."""
_TICKS: Final = """
const [count, done] = arguments;
const field = document.querySelector("#message");
const log = document.querySelector("[role=log]");
const times = [];
const isStored = (text) => [...log.querySelectorAll("article[data-id]")].slice(-5).some((row) =>
  row.querySelector(".text")?.textContent === text);
const send = () => {
  const text = `tick ${times.length} ${Math.random()}`;
  field.focus();
  field.value = text;
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  setTimeout(() => {
    const start = performance.now();
    const look = new MutationObserver(() => {
      if (!isStored(text)) return;
      look.disconnect();
      requestAnimationFrame(() => {
        const painted = new MessageChannel();
        painted.port1.onmessage = () => {
          times.push(performance.now() - start);
          if (times.length < count) setTimeout(send, 400);
          else done(times);
        };
        painted.port2.postMessage(0);
      });
    });
    look.observe(log, { childList: true, subtree: true, attributes: true });
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  }, 500);
};
send();
"""
"""Messages, one after the other: how long each takes from Enter until its
stored row is painted, in ms."""
CONVERSATIONS: Final = 500
MEMBERS: Final = 200
MESSAGES: Final = 10_600
ARRIVING: Final = 60
PAUSE_SECONDS: Final = 0.4
SENT: Final = 15
_WORDS: Final = "A message of about the usual length, as people send them all day. "


def measure(server: Server, browser: Browser, messages: int) -> str:
    """Open the page of a user with a conversation of so many messages, scroll
    up, and say how fast it was."""
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(
        ann,
        *(f"{number} {_WORDS[: 12 + number * 7 % 55]}" for number in range(messages)),
    )
    chat = Chat(browser, ann, size=PHONE)  # stores the login
    for command, options in (
        ("Network.enable", {}),
        ("Network.clearBrowserCache", {}),
        ("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH}),
        ("Emulation.setCPUThrottlingRate", {"rate": SLOWER}),
        (
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 150, **_RATES},
        ),
        ("Network.setCacheDisabled", {"cacheDisabled": True}),
        ("Network.setBypassServiceWorker", {"bypass": True}),
    ):
        chat.command(command, **options)
    chat.driver.refresh()
    usable = eventually(
        lambda: chat.run("return window.seen?.usable ?? 0"), what="the page is usable"
    )
    paint = chat.run(
        "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    )
    chat.click("#conversations button")
    chat.sees("[role=log] article")
    chat.run(
        "const log = document.querySelector('[role=log]'); log.scrollTop = log.scrollHeight"
    )
    chat.driver.set_script_timeout(600)
    chat.driver.execute_async_script(_SCROLL, 60, 400)
    seen = chat.run("return window.seen")
    frames = sorted(seen["frames"])
    slow = [round(each) for each in seen["long"] if each > 50]
    return (
        f"first paint {paint:.0f} ms, usable {usable:.0f} ms\n"
        f"scrolling {messages} messages: {len(slow)} tasks above 50 ms {slow[:10]}, "
        f"p95 frame {frames[int(0.95 * (len(frames) - 1))]:.1f} ms, at most {seen['rows']} rows"
    )


def populate(server: Server) -> tuple[Account, list[Account], int]:
    """A team on its first day: somebody with 500 conversations, the others, and
    the group of all."""
    ann, *team = [Account(server, f"Person {number}") for number in range(MEMBERS)]
    group = ann.create_group("Everybody", *team)
    for number in range(CONVERSATIONS - len(team) - 1):
        owner, *others = team[number % 190 :][:3]
        owner.say(
            owner.create_group(f"Group {number}", ann, *others), f"This is for {number}"
        )
    for each in team:
        each.say(ann, f"Hello, this is {each.nickname}")
    for number in range(0, MESSAGES, 100):
        texts = (
            f"{each} {_WORDS[: 12 + each * 7 % 55]}"
            for each in range(number, number + 100)
        )
        team[number // 100 % len(team)].say(group, *texts)
    return ann, team, group


class Day(Struct):
    """What a page of the team costs: CPU time of the renderer in ms for each
    message, the time from Enter to the tick in ms, alone and in the large
    group, and the frames of a scroll in ms.
    """

    cpu: float
    main_thread: float
    tick: float
    tick_in_group: float
    frame: float
    scrolled: int

    def __str__(self) -> str:
        return (
            f"a message costs the renderer {self.cpu:.1f} ms, its main thread {self.main_thread:.1f} ms; "
            f"Enter to tick p50 {self.tick:.0f} ms, in the group of all {self.tick_in_group:.0f} ms; "
            f"p95 frame {self.frame:.1f} ms while {self.scrolled} messages scroll by"
        )


def measure_day(
    server: Server, browser: Browser, team: tuple[Account, list[Account], int]
) -> Day:
    """Open the page of the one with 500 conversations, all of them loaded, and
    measure it."""
    ann, others, group = team
    chat = Chat(browser, ann)
    chat.driver.set_script_timeout(600)
    chat.run("window.seen = { frames: [], rows: 0 }")
    eventually(
        lambda: chat.run(_MORE) >= CONVERSATIONS,
        seconds=120,
        what="all conversations are listed",
    )
    chat.command("Performance.enable")
    chat.go(f"#u/{others[0].user}")
    chat.sees("[role=log] article")
    time.sleep(2)  # what follows the first view is done

    def spent() -> tuple[float, float]:
        metrics = {
            each["name"]: each["value"]
            for each in chat.command("Performance.getMetrics")["metrics"]
        }
        return metrics["ProcessTime"] * 1_000, metrics["TaskDuration"] * 1_000

    before = spent()
    begun = time.monotonic()
    for number in range(ARRIVING):
        others[1 + number * 7 % (len(others) - 1)].say(ann, f"Message {number}")
        time.sleep(max(0.0, begun + number * PAUSE_SECONDS - time.monotonic()))
    time.sleep(1)
    cpu, main_thread = (
        (late - early) / ARRIVING for early, late in zip(before, spent(), strict=True)
    )
    tick = statistics.median(chat.driver.execute_async_script(_TICKS, SENT))
    chat.open(group)
    chat.sees("[role=log] article")
    time.sleep(1)
    tick_in_group = statistics.median(chat.driver.execute_async_script(_TICKS, SENT))
    chat.run(
        "const log = document.querySelector('[role=log]'); log.scrollTop = log.scrollHeight"
    )
    first = int(chat.driver.execute_async_script(_SCROLL, 120, 2_400))
    frames = sorted(chat.run("return window.seen.frames"))
    newest = int(
        chat.run(
            "return document.querySelector('[role=log] article[data-id]').dataset.id"
        )
    )
    frame = frames[int(0.95 * (len(frames) - 1))]
    return Day(
        cpu,
        main_thread,
        tick,
        tick_in_group,
        frame,
        ann.id_of(group) - min(first, newest),
    )


def compare_days(trees: Sequence[Path]) -> None:
    """Measure each tree three times, in turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        browser = Browser(Path(folder, "profile"))
        started.callback(browser.quit)
        teams = []
        for number, tree in enumerate(trees):
            command = (str(tree / ".venv" / "bin" / "python"), "-m", "imserver")
            where = {
                "folder": Path(folder, str(number)),
                "environment": {"PYTHONPATH": str(tree)},
            }
            server = started.enter_context(
                Server(config=CONFIG, command=command, **where)
            )
            teams.append((tree, server, populate(server)))
        for _ in range(3):
            for tree, server, team in teams:
                print(f"{tree}: {measure_day(server, browser, team)}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["day"]:
        return compare_days([ROOT, *map(Path, sys.argv[2:])])
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    size = sizes()
    names = {
        "at first": size.first,
        "all scripts": size.script,
        "SDK": size.sdk,
        "styles": size.style,
    }
    parts = names.items()
    print("gzip:", ", ".join(f"{name} {count / 1024:.1f} KB" for name, count in parts))
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(Path(folder)) as (server, browser),
        ):
            print(measure(server, browser, messages))
    except pytest.skip.Exception as reason:
        print(f"not measured: {reason}")


if __name__ == "__main__":
    main()
