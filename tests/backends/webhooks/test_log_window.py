"""The window of a log: what is in memory, what is read, and the position."""

from collections.abc import Sequence

import pytest

from imserver.backends.webhooks import log_window as module
from imserver.backends.webhooks.log_window import LogWindow
from imserver.messenger.messages.log.contract import Entry


class Log:
    """A log. ``hidden``: ids of entries that the receiver may not read."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.hidden: set[int] = set()
        self.reads = 0
        self.window = LogWindow(self.read, 0, 10)

    def read(self, after: int, limit: int) -> Sequence[Entry]:
        self.reads += 1
        found = [each for each in self.entries if each.id > after and each.id not in self.hidden]
        return found[:limit]

    def store(self, count: int, size: int = 1) -> tuple[int, int, list[Entry]]:
        first = len(self.entries) + 1
        new = [
            Entry(id=id, conversation=1, seq=id, sender="ann", body=b"x" * size, time_ms=1)
            for id in range(first, first + count)
        ]
        self.entries += new
        return first, first + count - 1, new

    def take_all(self, limit: int = 7) -> list[int]:
        taken = []
        while self.window.count:
            entries = self.window.first(limit)
            taken += [entry.id for entry in entries]
            self.window.take(self.window.after(len(entries)))
        return taken


def test_what_is_committed_here_is_not_read() -> None:
    log = Log()
    log.window.committed(*log.store(3))
    log.window.committed(*log.store(2))
    assert log.window.count == 5
    assert log.take_all() == [1, 2, 3, 4, 5]
    assert (log.reads, log.window.position) == (0, 5)


def test_what_others_commit_is_read_and_nothing_is_taken_twice() -> None:
    log = Log()
    log.store(25)
    log.window.head = 25
    log.window.committed(*log.store(5))
    assert log.window.count == 30
    assert log.take_all() == list(range(1, 31))
    log.window.committed(*log.store(1))
    assert log.take_all() == [31]


def test_the_entries_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 50)
    log = Log()
    for _ in range(10):
        log.window.committed(*log.store(20))
    assert len(log.window._entries) <= 60
    assert log.window.count == 200
    assert log.take_all() == list(range(1, 201))


def test_the_bytes_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED_BYTES", 10_000)
    log = Log()
    for _ in range(50):
        log.window.committed(*log.store(1, 1000))
    assert sum(len(entry.body) for entry in log.window._entries) <= 10_000
    assert log.take_all() == list(range(1, 51))
    assert log.window._size == 0


def test_entries_for_others_move_the_position() -> None:
    log = Log()
    log.hidden = {2, 3, 4}
    log.store(4)
    log.window.head = 4
    assert log.take_all() == [1]
    assert (log.window.position, log.window.count) == (4, 0)


def test_a_commit_during_a_read_is_found() -> None:
    log = Log()
    log.store(3)
    log.window.head = 3
    read = log.window._read

    def read_while_another_commits(after: int, limit: int) -> Sequence[Entry]:
        found = read(after, limit)
        log.window._read = read
        log.window.committed(*log.store(2))
        return found

    log.window._read = read_while_another_commits
    assert log.take_all() == [1, 2, 3, 4, 5]


def test_what_is_skipped_is_taken() -> None:
    log = Log()
    log.window.committed(*log.store(3))
    log.store(5)
    log.window.head = 8
    log.window.skip()
    assert (log.window.position, log.window.count) == (8, 0)
    log.window.committed(*log.store(1))
    assert log.take_all() == [9]
