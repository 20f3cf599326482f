# ruff: noqa: E402
"""``python -m tests.messenger.messages.measure_search [MESSAGES [URL]]``: searches of a log of 1,000,000
messages.

The default database is a new SQLite file. Another one is filled if it is empty, and kept: the next run only
searches. Prints the 50th and 99th percentile of 100 searches of each kind, and the longest time for which the
loop was held; after a filling also the cost and the size of the index. 500 users, in 300 groups of ten and in
2,500 conversations of two; the frequencies of words are those of English; every fourth message is Chinese.
Texts come again after 100,000 messages.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from time import perf_counter, process_time

from gevent import monkey

monkey.patch_all()

import gevent

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.log.contract import Change, Draft
from imserver.messenger.messages.log.message_log import MessageLog
from tests.support import Ticks

MESSAGES = 1_000_000
BATCH = 2000
TEXTS = 100_000
SEARCHES = 100
USERS = 500
GROUPS = 300
WORDS = 40_000
SEEDED = random.Random(1)
SEARCHED = random.Random(2)
"""Of the searches, which are the same whether the database was there before or not."""
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
HAN = [chr(0x4E00 + 7 * number) for number in range(2500)]


def word(number: int) -> str:
    """A word of its own; the frequent ones are short."""
    text = ""
    while True:
        number, letter = divmod(number, len(LETTERS))
        text += LETTERS[letter]
        if not number:
            return text
        number -= 1


VOCABULARY = [word(number) for number in range(WORDS)]
WEIGHTS = list(accumulate(1 / (number + 3) for number in range(WORDS)))
HAN_WEIGHTS = list(accumulate(1 / (number + 10) for number in range(len(HAN))))


def text() -> str:
    if SEEDED.random() < 0.25:
        return "".join(SEEDED.choices(HAN, cum_weights=HAN_WEIGHTS, k=SEEDED.randint(4, 24)))
    return " ".join(SEEDED.choices(VOCABULARY, cum_weights=WEIGHTS, k=SEEDED.randint(3, 20)))


def fill(log: MessageLog, messages: int) -> None:
    """Store messages."""
    groups = []
    for number in range(GROUPS):
        members = [f"u{SEEDED.randrange(USERS)}" for _ in range(9)]
        change = log.groups.create("app", f"u{number}", "", members)
        assert isinstance(change, Change)
        groups.append(change.conversation)
    texts = [text().encode() for _ in range(min(TEXTS, messages))]
    owners = {group: f"u{number}" for number, group in enumerate(groups)}
    for first in range(0, messages, BATCH):
        drafts = []
        for number in range(first, first + BATCH):
            body = texts[number % TEXTS]
            if SEEDED.random() < 0.5:
                one = SEEDED.randrange(USERS)
                to = f"u{(one + SEEDED.randint(1, 5)) % USERS}"
                drafts.append(Draft(sender=f"u{one}", to_user=to, body=body))
            else:
                group = SEEDED.choice(groups)
                drafts.append(Draft(sender=owners[group], conversation=group, body=body))
        log.writer.append("app", drafts)


def build(store: Store, messages: int, is_file: bool) -> None:
    """Store messages, add their words to the index, and print what that costs."""
    log = store.part(MessageLog)
    began = process_time()
    fill(log, messages)
    print(f"{messages} messages stored: {(process_time() - began) / messages * 1e6:.1f} µs of CPU each")
    watch, left = Watch(), True
    while left:
        with watch.part():
            left = log.words.fill("app")
    cpu = sum(watch.cpu) / messages * 1e6
    print(f"index: {cpu:.1f} µs of CPU a message, a segment: {watch}")
    rows, size = store.read(lambda sql: sql.query("SELECT count(*), sum(length(terms)) FROM word")[0])
    print(f"{rows / messages:.2f} rows and {float(size) / messages:.0f} bytes of terms a message")
    if is_file:
        pages = store.read(
            lambda sql: sql.query(
                "SELECT name, sum(pgsize) FROM dbstat WHERE name IN ('word', 'message') GROUP BY name"
            )
        )
        print(f"bytes a message: {', '.join(f'{name} {size / messages:.0f}' for name, size in pages)}")


def rare() -> str:
    return VOCABULARY[SEARCHED.randrange(2000, 20_000)]


def frequent() -> str:
    return VOCABULARY[SEARCHED.randrange(20)]


def usual() -> str:
    return VOCABULARY[SEARCHED.randrange(50, 2000)]


KINDS: dict[str, Callable[[], str]] = {
    "two words": lambda: f'{usual()} "{usual()}"',
    "two words, the last unfinished": lambda: f"{usual()} {usual()[:3]}",
    "two frequent words": lambda: f'{frequent()} "{frequent()}"',
    "a rare and a frequent word": lambda: f'{rare()} "{frequent()}"',
    "two rare words": lambda: f'{rare()} "{rare()}"',
    "a phrase": lambda: f'"{usual()} {usual()}"',
    "one letter": lambda: SEARCHED.choice(LETTERS),
    "two Chinese characters": lambda: "".join(SEARCHED.choices(HAN, cum_weights=HAN_WEIGHTS, k=2)),
    "one Chinese character": lambda: SEARCHED.choice(HAN),
    "nobody's word": lambda: "zzzzzzzz",
}


class Watch:
    """Wall and CPU time of parts, and how long the loop was held."""

    def __init__(self) -> None:
        self._ticks = Ticks()
        self._greenlet = gevent.spawn(self._ticks.run)
        gevent.sleep(0.01)
        self._ticks.longest = 0.0
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        began, cpu = perf_counter(), process_time()
        yield
        self.wall.append(perf_counter() - began)
        self.cpu.append(process_time() - cpu)
        gevent.sleep(0)

    def __str__(self) -> str:
        self._greenlet.kill()
        columns = []
        for name, times in (("", self.wall), (" CPU", self.cpu)):
            times.sort()
            at = [1000 * times[len(times) * percent // 100] for percent in (50, 99)]
            columns.append(f"p50 {at[0]:.1f}, p99 {at[1]:.1f} ms{name}")
        return f"{', '.join(columns)}; loop held {self._ticks.longest * 1000:.1f} ms"


def main(messages: int, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(StorageSettings(url or f"sqlite:///{folder}/log.db", seconds=30), folder)
        store.start()
        log = store.part(MessageLog)
        if log.entries.head("app") == 0:
            build(store, messages, is_file=not url or url.startswith("sqlite:"))
        gc.collect()
        gc.freeze()  # as a node does after its start
        for area in ("all conversations", "one conversation"):
            for name, query in KINDS.items():
                watch, hits = Watch(), 0
                for _ in range(SEARCHES):
                    number = SEARCHED.randrange(GROUPS)
                    where = number + 1 if area == "one conversation" else 0  # the groups came first
                    with watch.part():
                        entries, _ = log.search.find("app", f"u{number}", Search(query(), where, 0, 30))
                    hits += len(entries)
                print(f"{area}, {name}: {watch}, {hits / SEARCHES:.1f} hits", flush=True)
        store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES, sys.argv[2] if len(sys.argv) > 2 else "")
