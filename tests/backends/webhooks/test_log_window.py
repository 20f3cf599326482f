"""The window of a log: what is in memory, what is read, and the position."""

from collections.abc import Callable, Sequence

import pytest

from imserver.backends.webhooks.log_window import (
    MAX_BUFFERED,
    MAX_BUFFERED_BYTES,
    LogWindow,
)
from imserver.messenger.log.contract import Entry


class Log:
    """A log. ``hidden``: ids of entries that the receiver may not read."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.hidden: set[int] = set()
        self.reads = 0
        self.then: Callable[[], None] = lambda: None
        """What happens during a read."""
        self.window = LogWindow(self.read, 0, 10)

    def read(self, after: int, limit: int) -> Sequence[Entry]:
        self.reads += 1
        found = [
            each
            for each in self.entries
            if each.id > after and each.id not in self.hidden
        ]
        self.then()
        return found[:limit]

    def store(self, count: int, size: int = 1) -> tuple[int, int, list[Entry]]:
        first = len(self.entries) + 1
        new = [
            Entry(
                id=id, conversation=1, seq=id, sender="ann", body=b"x" * size, time_ms=1
            )
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


@pytest.mark.parametrize(
    ("count", "size"), [(MAX_BUFFERED + 1000, 1), (100, MAX_BUFFERED_BYTES // 50)]
)
def test_the_entries_in_memory_are_bounded(count: int, size: int) -> None:
    log = Log()
    for _ in range(count // 20):
        log.window.committed(*log.store(20, size))
    assert log.window.count == count
    assert log.take_all() == list(range(1, count + 1))
    assert log.reads > 0, "not all were in memory"


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
    log.then = lambda: log.window.committed(*log.store(2)) if log.reads == 1 else None
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
