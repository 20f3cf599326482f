"""The newest entries that a node has stored, in the form that the index of
words needs."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.contract import Commit, Entry
from imserver.messenger.log.rows import NUMBERS
from imserver.messenger.search.word_content import (
    LONG_BODY,
    LONG_TEXT,
    SEPARATOR,
    ContentPart,
    ContentRow,
)
from imserver.messenger.search.words import TEXT_TYPE

_MOST_BYTES: Final = 16 << 20
"""The most memory for the entries of all apps, in bytes."""
_PART_BYTES: Final = 600
_NUMBER_BYTES: Final = 60
_ROW_BYTES: Final = 300
"""The memory of a part, of each of its entries, and of each of its rows, in
bytes."""


def _part_of(entries: Sequence[Entry]) -> ContentPart:
    """Prepare some consecutive entries for the index.

    Most texts are short ASCII texts. They are joined into one text, which takes
    less memory, and is divided into words in one step.
    """
    conversations: list[int] = []
    ids: list[int] = []
    texts: list[bytes] = []
    others: list[ContentRow] = []
    changed: list[int] = []
    size = _PART_BYTES + _NUMBER_BYTES * len(entries)
    for entry in entries:
        if entry.room:
            # Rooms have no members, so nobody searches them.
            conversations.append(0)
        else:
            conversations.append(entry.conversation)
        # Only messages have words of their own.
        if entry.kind != "message":
            if entry.kind in ("edit", "recall"):
                changed.append(entry.about)
            continue
        if entry.room:
            continue

        body: bytes | None = entry.body
        is_short = len(entry.body) <= LONG_TEXT
        if entry.type == TEXT_TYPE and is_short and entry.body.isascii():
            ids.append(entry.id)
            texts.append(entry.body)
            continue
        size += _ROW_BYTES
        if len(entry.body) <= LONG_BODY:
            size += len(entry.body)
        else:
            body = None  # the index does not read a long body
        others.append(
            (entry.id, entry.conversation, NUMBERS["message"], entry.type, body)
        )
    text = SEPARATOR.join(texts)
    return ContentPart(
        entries[0].id, conversations, ids, text, others, changed, size + len(text)
    )


class _Run(Struct, eq=False):
    """Consecutive entries of a log."""

    first: int
    """The id of the first entry."""
    end: int
    """The id after the last entry."""
    parts: deque[ContentPart] = field(default_factory=deque)
    changed: set[int] = field(default_factory=set)
    """The messages that these entries have changed."""
    bytes: int = 0
    """The approximate memory of the parts, in bytes."""


class RecentEntries:
    """The newest entries that this node has stored.

    So the index of words need not read these entries again. Never switches
    greenlets.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        """Begin without entries. ``most_bytes`` limits the memory of all
        apps."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._runs: dict[str, _Run] = {}
        """App → its entries. The app whose last news is oldest comes first, and
        is dropped first."""

    def add(self, commit: Commit) -> None:
        """Add entries that this node has stored.

        If another node has stored entries in between, the older entries are
        forgotten. If the entries need too much memory, whole apps are
        forgotten.
        """
        run = self._runs.pop(commit.app, None)
        # Another node has stored entries in between.
        if run is not None and run.end != commit.first:
            self._bytes -= run.bytes
            run = None
        if run is None:
            run = _Run(commit.first, commit.first)
        self._runs[commit.app] = run

        # Divide the entries into parts. The index takes whole parts.
        entries = commit.entries
        begin = 0
        while begin < len(entries):
            # A part ends with its segment at the latest.
            end = begin + SEGMENT - run.end % SEGMENT
            part = _part_of(entries[begin:end])
            run.parts.append(part)
            run.changed.update(part.changed)
            run.end += len(part.conversations)
            run.bytes += part.size
            self._bytes += part.size
            begin = end
        while self._bytes > self._most_bytes:
            oldest = next(iter(self._runs))
            self._bytes -= self._runs.pop(oldest).bytes

    def take(
        self, app: str, first: int, end: int
    ) -> tuple[list[ContentPart], set[int]]:
        """Take the entries of a segment, from the id ``first`` to before
        ``end``.

        Returns the entries, and the ids of their messages that were changed
        later. Both are empty unless this node has stored all these entries.
        Entries before ``end`` are forgotten.
        """
        run = self._runs.get(app)
        if run is None or run.first >= end:
            return [], set()

        # If entries of the segment are missing, the index reads the database.
        has_all = run.first <= first and end <= run.end
        parts = self._take_parts(run, end)
        changed: set[int] = set()
        if has_all:
            parts = [part for part in parts if part.first >= first]
            changed = {id for id in run.changed if first <= id < end}
        else:
            parts = []
        run.changed = {id for id in run.changed if id >= end}
        run.first = min(end, run.end)
        return parts, changed

    def _take_parts(self, run: _Run, end: int) -> list[ContentPart]:
        """Take the parts that begin before the id ``end`` from a run."""
        parts: list[ContentPart] = []
        while run.parts and run.parts[0].first < end:
            part = run.parts.popleft()
            run.bytes -= part.size
            self._bytes -= part.size
            parts.append(part)
        return parts
