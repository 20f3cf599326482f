"""Searches for texts.

A search scans backwards through the messages that a user may read, in short steps. It uses no full-text
index: without extensions the engines do not split Chinese words, they differ from each other, and an index
makes every stored message more expensive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from imserver.storage.log.contract import Entry
from imserver.storage.log.read import VISIBLE, fetch, last_before
from imserver.storage.log.rows import NUMBERS, LogHead, LogTables, head_of
from imserver.storage.statements import Statements, marks_of

SEARCH_SECONDS: Final = 0.5
"""Time after which a search returns. The caller may continue it."""
_FIRST_STRETCH: Final = 4096
"""Number of ids that the first step scans, in one transaction."""
_SHORT_SECONDS: Final = 0.005
"""After a shorter step, the next one scans four times as many ids; after one longer than four times this,
half as many. So writers wait only briefly."""
_STRETCH_GROWTH: Final = 4
_LEAST_STRETCH: Final = 256

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
        types: Sequence[str] = (),
    ) -> tuple[list[Entry], int]:
        """Search for ``text``, backwards from an id (0: the end), in one conversation or (0) in all. With
        ``types``: for messages of these types, with any content.

        Returns the entries in order, and the id to continue from (0: the search is complete). Finds only what
        the user may read, and nothing that is hidden or recalled. ASCII letters match in any case. Other
        letters match in any case if the word is in lower case, in upper case or capitalized.

        Returns after half a second with the result so far, which may be empty. Each step is a transaction of
        its own.
        """
        head: LogHead | None = self._tables.read(lambda sql: head_of(sql, app), None)
        if head is None:
            return [], 0
        words = [] if types else _spellings(text)
        upto = last_before(head, before)
        found: list[Entry] = []
        stretch = _FIRST_STRETCH
        deadline = monotonic() + SEARCH_SECONDS
        while upto > head.floor:
            began = monotonic()
            after = max(upto - stretch, head.floor)
            count = limit + 1 - len(found)
            step = _Step(head.number, user, words, types, conversation, after, upto, count)
            some: list[Entry] = self._tables.read(step, [])
            found = [entry for entry in some if types or _has(entry, text)] + found
            if len(found) > limit:
                return found[-limit:], found[-limit].id
            # If the limit cut the step short, the rest of the step remains to be scanned.
            upto = some[0].id - 1 if len(some) == step.count else after
            now = monotonic()
            if now > deadline and upto > head.floor:
                return found, upto + 1
            took = now - began
            if took < _SHORT_SECONDS:
                stretch *= _STRETCH_GROWTH
            elif took > _STRETCH_GROWTH * _SHORT_SECONDS:
                stretch = max(stretch // 2, _LEAST_STRETCH)
        return found, 0


def _spellings(text: str) -> list[str]:
    """The spellings to search for, because SQL folds only ASCII."""
    return list(dict.fromkeys(_small(each) for each in (text, text.lower(), text.upper(), text.title())))


def _small(text: str) -> str:
    """ASCII letters in lower case, others unchanged."""
    return "".join(each.lower() if each.isascii() else each for each in text)


def _has(entry: Entry, text: str) -> bool:
    """Whether an entry that the database found contains the text."""
    return text.casefold() in entry.body.decode(errors="replace").casefold()


class _Step:
    """One step: at most ``count`` entries, the newest with ``after < id <= upto``."""

    def __init__(
        self,
        log: int,
        user: str,
        words: Sequence[str],
        types: Sequence[str],
        conversation: int,
        after: int,
        upto: int,
        count: int,
    ) -> None:
        self.count = count
        self._log = log
        self._words = words
        self._types = types
        self._one = f"AND s.conversation = {int(conversation)} " if conversation else ""
        self._user = user
        self._values = (log, user, after, upto, user)

    def __call__(self, sql: Statements) -> list[Entry]:
        matches, needle = _MATCHES[sql.engine]
        if self._types:
            condition, wanted = f"m.type IN {marks_of(len(self._types))}", self._types
        else:
            condition = f"m.type = 'text' AND ({' OR '.join([matches] * len(self._words))})"
            wanted = [needle(word) for word in self._words]
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
