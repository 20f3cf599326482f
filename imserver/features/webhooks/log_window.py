"""The entries of a log that a consumer reads, by position."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imserver.plugin.messages import Entry

MAX_BUFFERED: Final = 5000
"""Entries of an app that wait in memory; more are read from the log later."""
MAX_BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""Limit of their content in bytes."""
PAGE: Final = 500


class LogWindow:
    """Entries of a log after a position. What this node commits need not be read back from the database.

    ``read`` may leave out entries that are not for the receiver.
    """

    def __init__(self, read: Callable[[int, int], Sequence[Entry]], position: int, page: int = PAGE) -> None:
        self._read = read
        self.page = page
        """The number of entries that are read together."""
        self.position = position
        """The entries up to here were taken."""
        self._entries: deque[Entry] = deque()
        self._size = 0
        """Bytes of the content of these entries."""
        self._end = position
        """Up to this id the entries are here."""
        self.head = position
        """Up to this id entries are known to be stored."""

    def committed(self, first: int, last: int, entries: Sequence[Entry]) -> None:
        """A transaction stored the ids from ``first`` to ``last``. Never switches."""
        if first == self._end + 1 and len(self._entries) < MAX_BUFFERED and self._size < MAX_BUFFERED_BYTES:
            self._add(entries)
            self._end = last
        self.head = max(self.head, last)

    def _add(self, entries: Sequence[Entry]) -> None:
        self._entries += entries
        self._size += sum([len(entry.body) for entry in entries])

    @property
    def count(self) -> int:
        """The number of entries to take, as far as it is known."""
        return len(self._entries) + self.head - self._end

    def skip(self) -> None:
        """Take all entries that are known. Never switches."""
        self._entries.clear()
        self._size = 0
        self.position = self._end = self.head

    def first(self, limit: int = 0) -> list[Entry]:
        """The first entries after the position; 0: a page of them. May switch; raises StorageUnavailable."""
        limit = limit or self.page
        if len(self._entries) < limit and self.head > self._end:
            self._read_page()
        return [self._entries[number] for number in range(min(limit, len(self._entries)))]

    def _read_page(self) -> None:
        head = self.head
        found = self._read(self._end, self.page)
        # A commit that continues the window may have come while this was read.
        self._add([entry for entry in found if entry.id > self._end])
        end = found[-1].id if len(found) == self.page else max(head, found[-1].id if found else 0)
        self._end = max(self._end, end)
        self.head = max(self.head, self._end)

    def after(self, seen: int) -> int:
        """The position behind the first ``seen`` entries. Never switches."""
        if seen == len(self._entries):
            return self._end
        return self._entries[seen - 1].id if seen else self.position

    def take(self, upto: int) -> None:
        """Take the entries up to an id. Never switches."""
        while self._entries and self._entries[0].id <= upto:
            self._size -= len(self._entries.popleft().body)
        self.position = max(self.position, upto)
