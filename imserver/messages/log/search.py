"""Searches of messages: by their words, sender, type, links and time.

A search scans backwards through the messages that a user may read, in short steps. It uses no full-text
index: without extensions the engines do not split Chinese words, they differ from each other, and an index
makes every stored message more expensive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

import msgspec

from imserver.clock import is_long_turn, serve_others
from imserver.messages.commands import NO_FILTER, SearchFilter
from imserver.messages.log.contract import Entry
from imserver.messages.log.read import VISIBLE, fetch, last_before
from imserver.messages.log.rows import NUMBERS, LogHead, LogTables, head_of
from imserver.storage.statements import Statements, lower_ascii, marks_of

TEXT_TYPE: Final = "text"
WORD_FIELDS: Final = frozenset(("name", "title", "text", "caption"))
"""The fields of JSON content, at any depth, in which words are found: of files, pictures and links."""

SEARCH_SECONDS: Final = 0.5
"""Time after which a search returns. The caller may continue it."""
_FIRST_STRETCH: Final = 4096
"""Number of ids that the first step scans, in one transaction."""
_SHORT_SECONDS: Final = 0.005
"""After a shorter step, the next one scans four times as many ids; after one longer than four times this,
half as many. So writers wait only briefly."""
_STRETCH_GROWTH: Final = 4
_LEAST_STRETCH: Final = 256
_CLOCKS_SECONDS: Final = 600
"""The clocks of the nodes, and the clock of a sender, may differ by so much."""
_LINKS: Final = ("http://", "https://", "www.")
_LINK: Final = re.compile("https?://|www\\.", re.IGNORECASE | re.ASCII)

EVERYBODY: Final = ""
"""The member in ``hidden`` that means everybody: for recalled entries and edits."""


class EntrySearch:
    """Searches the messages of users."""

    def __init__(self, tables: LogTables) -> None:
        self._tables = tables

    def find(
        self,
        app: str,
        user: str,
        text: str,
        conversation: int,
        before: int,
        limit: int,
        filter: SearchFilter = NO_FILTER,
    ) -> tuple[list[Entry], int]:
        """Search for ``text``, backwards from an id (0: the end), in one conversation or (0) in all.

        Without ``text``, the ``filter`` alone decides. Its default types are ``text``, or all if neither text
        nor links are wanted.

        Returns the entries in order, and the id to continue from (0: the search is complete). Finds only what
        the user may read, and nothing that is hidden or recalled. ASCII letters match in any case. Other
        letters match in any case if the word is in lower case, in upper case or capitalized. In JSON, the
        words of :data:`WORD_FIELDS` are found.

        Returns after half a second with the result so far, which may be empty. Each step is a transaction of
        its own.
        """
        head: LogHead | None = self._tables.read(lambda sql: head_of(sql, app), None)
        if head is None:
            return [], 0
        floor, upto = head.floor, last_before(head, before)
        if filter.since or filter.until:
            window = TimeWindow(head, upto, filter)
            floor, upto = self._tables.read(window, (floor, upto))
        conditions = _Conditions(text, filter)
        found: list[Entry] = []
        stretch = _FIRST_STRETCH
        deadline = monotonic() + SEARCH_SECONDS
        while upto > floor:
            began = monotonic()
            after = max(upto - stretch, floor)
            count = limit + 1 - len(found)
            step = _Step(head.number, user, conditions, conversation, after, upto, count)
            some: list[Entry] = self._tables.read(step, [])
            found = _checked(some, conditions) + found
            if len(found) > limit:
                return found[-limit:], found[-limit].id
            # If the limit cut the step short, the rest of the step remains to be scanned.
            upto = some[0].id - 1 if len(some) == step.count else after
            now = monotonic()
            if now > deadline and upto > floor:
                return found, upto + 1
            took = now - began
            if took < _SHORT_SECONDS:
                stretch *= _STRETCH_GROWTH
            elif took > _STRETCH_GROWTH * _SHORT_SECONDS:
                stretch = max(stretch // 2, _LEAST_STRETCH)
        return found, 0


class _Conditions:
    """What the messages of a search have: as SQL, and checked again, because engines compare differently."""

    def __init__(self, text: str, filter: SearchFilter) -> None:
        self._folded = text.casefold()
        self._filter = filter
        self._types = filter.types or ((TEXT_TYPE,) if text or filter.link else ())
        self._words = Statements.spellings(text) if text else []
        if self._words and self._types != (TEXT_TYPE,):
            # JSON escapes quotes and backslashes, and some writers all letters but those of ASCII.
            escaped = (
                lower_ascii(json.dumps(word, ensure_ascii=ascii_only)[1:-1])
                for ascii_only in (False, True)
                for word in self._words
            )
            self._words = list(dict.fromkeys([*self._words, *escaped]))

    def sql(self, engine: str) -> tuple[str, list[Any]]:
        """The condition for ``m``, and its values."""
        matches, needle = _MATCHES[engine]
        parts: list[str] = []
        values: list[Any] = []
        if self._filter.sender:
            parts.append("m.sender = %s")
            values.append(self._filter.sender)
        for bound, time in (("m.time_ms >= %s", self._filter.since), ("m.time_ms < %s", self._filter.until)):
            if time:
                parts.append(bound)
                values.append(time)
        if self._types:
            parts.append(f"m.type IN {marks_of(len(self._types))}")
            values += self._types
        for words in (self._words, _LINKS if self._filter.link else ()):
            if words:
                parts.append(f"({' OR '.join([matches] * len(words))})")
                values += map(needle, words)
        return " AND ".join(parts) or "1 = 1", values

    def hold(self, entry: Entry) -> bool:
        """Whether an entry that the database found has the words and a link."""
        if not (self._folded or self._filter.link):
            return True
        words = "\n".join(_words_of(entry))
        return self._folded in words.casefold() and not (self._filter.link and _LINK.search(words) is None)


def _checked(entries: list[Entry], conditions: _Conditions) -> list[Entry]:
    """The entries that have what is wanted. Long texts take time: others are served meanwhile."""
    found = []
    for entry in entries:
        if conditions.hold(entry):
            found.append(entry)
        if is_long_turn():
            serve_others()
    return found


def _words_of(entry: Entry) -> Iterator[str]:
    """The texts of a message that a reader sees."""
    if entry.type == TEXT_TYPE:
        yield entry.body.decode(errors="replace")
        return
    try:
        waiting: list[tuple[str, Any]] = [("text", msgspec.json.decode(entry.body))]
    except (ValueError, RecursionError):
        return
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((name, each) for each in value)
        elif isinstance(value, str) and name in WORD_FIELDS:
            yield value


class TimeWindow:
    """The ids that a filter of time leaves: (after, up to). ``stored_at`` grows with the ids, but for the
    differences of clocks."""

    def __init__(self, head: LogHead, upto: int, filter: SearchFilter) -> None:
        self._head = head
        self._upto = upto
        self._filter = filter

    def __call__(self, sql: Statements) -> tuple[int, int]:
        after, upto = self._head.floor, self._upto
        if self._filter.since:
            after = self._first(sql, self._filter.since // 1000 - _CLOCKS_SECONDS) - 1
        if self._filter.until:
            upto = min(upto, self._first(sql, self._filter.until // 1000 + _CLOCKS_SECONDS) - 1)
        return after, upto

    def _first(self, sql: Statements, second: int) -> int:
        """The first id that was stored at this Unix second or later; one after the last if there is none."""
        statement = "SELECT stored_at FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
        low, high = self._head.floor + 1, self._head.last_id + 1
        while low < high:
            middle = (low + high) // 2
            rows = sql.query(statement, (self._head.number, middle))
            if rows and rows[0][0] < second:
                low = middle + 1
            else:
                high = middle
        return low


class _Step:
    """One step: at most ``count`` entries, the newest with ``after < id <= upto``."""

    def __init__(
        self,
        log: int,
        user: str,
        conditions: _Conditions,
        conversation: int,
        after: int,
        upto: int,
        count: int,
    ) -> None:
        self.count = count
        self._log = log
        self._conditions = conditions
        self._one = f"AND s.conversation = {int(conversation)} " if conversation else ""
        self._user = user
        self._values = (log, user, after, upto, user)

    def __call__(self, sql: Statements) -> list[Entry]:
        condition, wanted = self._conditions.sql(sql.engine)
        statement = (
            f"SELECT m.id FROM membership s, message m WHERE s.log = %s AND s.member = %s {self._one}"
            f"AND {VISIBLE} AND m.id > %s AND m.id <= %s "
            f"AND m.kind = {NUMBERS['message']} "
            f"AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = m.log AND h.id = m.id "
            f"AND h.member IN ('{EVERYBODY}', %s)) "
            f"AND {condition} ORDER BY m.id DESC LIMIT %s"
        )
        ids = [row[0] for row in sql.query(statement, (*self._values, *wanted, self.count))]
        return fetch(sql, self._log, ids, self._user) if ids else []


def _escaped(word: str) -> str:
    """Escape bytes as PostgreSQL does, so that invalid text is not an error."""
    pieces = []
    for byte in word.encode():
        if byte == 0x5C:
            pieces.append("\\\\")
        else:
            pieces.append(chr(byte) if 0 < byte < 0x80 else f"\\{byte:03o}")
    return "".join(pieces)


_MYSQL: Final = ("LOCATE(CONVERT(%s USING utf8mb4), CONVERT(m.body USING utf8mb4)) > 0", str)
_MATCHES: Final[dict[str, tuple[str, Callable[[str], str]]]] = {
    "sqlite": ("instr(lower(CAST(m.body AS TEXT)), %s) > 0", str),
    "postgresql": ("position(%s in lower(encode(m.body, 'escape'))) > 0", _escaped),
    "mysql": _MYSQL,
}
"""Engine → (condition for a body that contains a word, conversion of the word). False hits are removed
afterwards."""
