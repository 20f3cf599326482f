"""The newest entries that this node has stored, so that the index of words needs not read them again.

They are here as the index needs them, from the moment of their commit: the entries themselves go, while the
processor still has them in its caches.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from imserver.messages.log.contract import Commit
from imserver.messages.log.word_content import ContentPart, part_of
from imserver.messages.log.word_rows import SEGMENT

MOST_BYTES: Final = 16 << 20
"""Limit of all logs together."""


class _Run:
    """Entries of a log that follow each other."""

    __slots__ = ("bytes", "changed", "end", "first", "parts")

    def __init__(self, first: int) -> None:
        self.first = first
        self.end = first
        self.parts: deque[ContentPart] = deque()
        self.changed: set[int] = set()
        """Messages that these entries have changed."""
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
        entries = commit.entries
        begin = 0
        while begin < len(entries):
            end = begin + SEGMENT - run.end % SEGMENT
            part = part_of(entries[begin:end])
            run.parts.append(part)
            run.changed.update(part.changed)
            run.end += len(part.conversations)
            run.bytes += part.size
            self._bytes += part.size
            begin = end
        while self._bytes > self._most_bytes:
            self._bytes -= self._runs.pop(next(iter(self._runs))).bytes

    def take(self, app: str, first: int, end: int) -> tuple[list[ContentPart], set[int]]:
        """The entries from ``first``, the beginning of a segment, to ``end``, and which of them were changed.

        Nothing, unless this node has stored each of them. All before ``end`` are forgotten.
        """
        run = self._runs.get(app)
        if run is None or run.first >= end:
            return [], set()
        is_whole = run.first <= first and end <= run.end
        parts: list[ContentPart] = []
        while run.parts and run.parts[0].first < end:
            part = run.parts.popleft()
            run.bytes -= part.size
            self._bytes -= part.size
            if is_whole and part.first >= first:
                parts.append(part)
        changed = {id for id in run.changed if first <= id < end} if is_whole else set()
        run.changed = {id for id in run.changed if id >= end}
        run.first = min(end, run.end)
        return parts, changed
