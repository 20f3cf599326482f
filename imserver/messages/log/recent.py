"""The newest entries that this node has stored, so that the index of words needs not read them again."""

from __future__ import annotations

from typing import Final

from imserver.messages.log.contract import Commit, Entry

MOST_BYTES: Final = 16 << 20
"""Limit of all logs together."""
_ENTRY_BYTES: Final = 500
"""An entry without its content."""


class _Run:
    """Entries of a log that follow each other."""

    __slots__ = ("bytes", "end", "entries", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self.end = first
        self.entries: list[Entry] = []
        self.bytes = 0


class RecentEntries:
    """Owner of the entries. The methods never switch."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._runs: dict[str, _Run] = {}
        """By app. The one that has waited longest for news comes first, and goes first."""

    def add(self, commit: Commit) -> None:
        """This node has stored entries."""
        run = self._runs.pop(commit.app, None)
        if run is None or run.end != commit.first:  # another node has stored some in between
            self._bytes -= 0 if run is None else run.bytes
            run = _Run(commit.first)
        self._runs[commit.app] = run
        run.entries += commit.entries
        run.end = commit.last + 1
        size = _size(commit.entries)
        run.bytes += size
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= self._runs.pop(next(iter(self._runs))).bytes

    def take(self, app: str, first: int, end: int) -> list[Entry]:
        """All entries from an id on, and forget those before ``end``. Nothing, unless this node has stored
        each of them."""
        run = self._runs.get(app)
        if run is None or run.first >= end:
            return []
        taken = run.entries[first - run.first :] if run.first <= first and end <= run.end else []
        gone = run.entries[: end - run.first]
        del run.entries[: end - run.first]
        size = _size(gone)
        run.bytes -= size
        self._bytes -= size
        run.first = min(end, run.end)
        return taken


def _size(entries: list[Entry]) -> int:
    return sum([len(entry.body) + len(entry.meta) for entry in entries]) + _ENTRY_BYTES * len(entries)
