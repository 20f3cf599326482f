"""Full-text search: scans backwards through the messages that a user may read, in short steps.

It uses no full-text index: those of the engines split no Chinese words without extensions, differ from each
other, and make every stored message more expensive.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from imserver.storage.log.contract import Entry
from imserver.storage.log.read import VISIBLE, fetch
from imserver.storage.log.statements import NUMBERS, LogHead, ask, head_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
Read = Callable[[Callable[["Connection"], T], T], T]

SEARCH_SECONDS: Final = 0.5
"""After this time a search returns how far it has come; the caller may continue from there."""
_FIRST_STRETCH: Final = 4096
"""Ids that the first step scans, in one transaction."""
_SHORT_SECONDS: Final = 0.005
"""A step that took less is followed by one over four times as many ids; one of more than four times this, by
one over half as many. So a writer never waits for long."""
_GROWTH: Final = 4
_LEAST_STRETCH: Final = 256

EVERYBODY: Final = ""
"""The member in ``hidden`` that stands for all: recalled entries, and edits."""


def search(
    read: Callable[[Callable[[Connection], Any]], Any],
    app: str,
    user: str,
    text: str,
    conversation: int,
    before: int,
    limit: int,
) -> tuple[list[Entry], int]:
    """The newest entries with a text in them, in order, and the id before which to go on (0: that was all).

    ``read`` does one step in a transaction of its own.
    """
    head: LogHead | None = read(lambda connection: head_of(connection, app))
    if head is None:
        return [], 0
    words = _spellings(text)
    upto = min(before - 1, head.last_id) if before > 0 else head.last_id
    found: list[Entry] = []
    stretch = _FIRST_STRETCH
    deadline = monotonic() + SEARCH_SECONDS
    while upto > head.floor:
        began = monotonic()
        after = max(upto - stretch, head.floor)
        step = _Step(head.number, user, words, conversation, after, upto, limit + 1 - len(found))
        some: list[Entry] = read(step)
        found = [entry for entry in some if _has(entry, text)] + found
        if len(found) > limit:
            return found[-limit:], found[-limit].id
        # If the limit cut the step short, its rest is still to be scanned.
        upto = some[0].id - 1 if len(some) == step.count else after
        now = monotonic()
        if now > deadline and upto > head.floor:
            return found, upto + 1
        took = now - began
        if took < _SHORT_SECONDS:
            stretch *= _GROWTH
        elif took > _GROWTH * _SHORT_SECONDS:
            stretch = max(stretch // 2, _LEAST_STRETCH)
    return found, 0


def _spellings(text: str) -> list[str]:
    """The spellings to look for, as SQL folds only ASCII."""
    return list(dict.fromkeys(_small(each) for each in (text, text.lower(), text.upper(), text.title())))


def _small(text: str) -> str:
    """ASCII letters in lower case, all others unchanged."""
    return "".join(each.lower() if each.isascii() else each for each in text)


def _has(entry: Entry, text: str) -> bool:
    """Whether an entry that the database found really contains the text."""
    return text.casefold() in entry.body.decode(errors="replace").casefold()


class _Step:
    """One stretch: ids above ``after`` up to ``upto``, and at most ``count`` entries, the newest."""

    def __init__(
        self,
        log: int,
        user: str,
        words: list[str],
        conversation: int,
        after: int,
        upto: int,
        count: int,
    ) -> None:
        self.count = count
        self._log = log
        self._words = words
        self._one = f"AND s.conversation = {int(conversation)} " if conversation else ""
        self._values = (log, user, after, upto, user)

    def __call__(self, connection: Connection) -> list[Entry]:
        matches, needle = _MATCHES[connection.dialect.name]
        # Quoted values are text here; ``ask`` passes parameters to MySQL as bytes.
        statement = (
            f"SELECT m.id FROM membership s, message m WHERE s.log = %s AND s.member = %s {self._one}"
            f"AND {VISIBLE} AND m.id > %s AND m.id <= %s "
            f"AND m.kind = {NUMBERS['message']} AND m.type = 'text' "
            f"AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = m.log AND h.id = m.id "
            f"AND h.member IN ('{EVERYBODY}', %s)) "
            f"AND ({' OR '.join([matches] * len(self._words))}) ORDER BY m.id DESC LIMIT %s"
        )
        values = (*self._values, *[needle(word) for word in self._words], self.count)
        ids = [row[0] for row in ask(connection, statement, values)]
        return fetch(connection, self._log, ids) if ids else []


def _escaped(word: str) -> str:
    """As PostgreSQL escapes bytes, so that invalid text is no error."""
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
    "mariadb": _MYSQL,
}
"""By engine: the condition for a body that contains a word, and the word's parameter. False hits are filtered
out afterwards."""
