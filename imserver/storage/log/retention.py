"""What expires: the oldest entries of a log, some at a time, so that nobody who writes waits for long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from imserver.storage.log.statements import ask, change, head_of, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

_EXPIRED_AT_ONCE: Final = 1000
"""Entries that are deleted in one transaction: who wants to write meanwhile waits for these only."""
_FIRST_LOOK: Final = 50
_LOOK: Final = 5000
"""Entries whose age is looked at in one question: the first question, and those behind it."""


class Does(Protocol):
    """Does something in a transaction; ``nothing`` is the answer where there is no database."""

    def __call__(self, work: Callable[[Connection], T], nothing: T) -> T: ...


def apps(connection: Connection) -> list[str]:
    """The apps that have entries which have not expired."""
    rows = ask(connection, "SELECT app FROM log WHERE part = 0 AND last_id > floor ORDER BY app", ())
    return [text_of(row[0]) for row in rows]


def expire(read: Does, write: Does, app: str, older_than_seconds: float, more_than: int) -> int:
    """Delete the oldest entries: those stored longer ago, all but the newest; 0: not by this. How many."""
    old = _last_old(read, app, older_than_seconds) if older_than_seconds > 0 else 0
    if more_than > 0:
        old = max(old, read(lambda connection: _last_above(connection, app, more_than), 0))
    found = write(lambda connection: _raise_floor(connection, app, old), None)
    if found is None:
        return 0
    log, floor = found
    deleted = 0
    while (some := write(lambda connection: _delete_some(connection, log, floor), None)) is not None:
        deleted += some
    if deleted:
        write(lambda connection: _delete_hidden(connection, log, floor), None)
    return deleted


def _last_old(read: Does, app: str, seconds: float) -> int:
    """The id up to which entries were stored longer ago; 0: none was.

    They are looked at one after the other: clocks are set, and differ between nodes, so the times at which
    they were stored may go back. What was stored before something young is only deleted when that is: nothing
    is lost early behind a clock that went wrong. What was stored in the future holds up nothing.
    """
    now = int(time())
    old = after = 0
    many = _FIRST_LOOK
    while True:
        rows: list[Any] = read(partial(_times, app=app, after=after, many=many), [])
        for id, stored_at in rows:
            if stored_at < now - seconds:
                old = id
            elif stored_at <= now:
                return old
        if len(rows) < many:
            return old
        after, many = rows[-1][0], _LOOK


def _times(connection: Connection, app: str, after: int, many: int) -> list[Any]:
    """When entries were stored: (id, Unix seconds)."""
    head = head_of(connection, app)
    if head is None:
        return []
    statement = "SELECT id, stored_at FROM message WHERE log = %s AND id > %s ORDER BY id LIMIT %s"
    return ask(connection, statement, (head.number, max(after, head.floor), many))


def _last_above(connection: Connection, app: str, most: int) -> int:
    """The newest entry but the newest ``most``; 0: there are no more. They are counted: behind a restore ids
    go on elsewhere."""
    head = head_of(connection, app)
    if head is None or head.last_id - head.floor <= most:
        return 0
    last = head.last_id - most
    hint = _NARROW if connection.dialect.name == "sqlite" else ""
    counted = f"SELECT count(*) FROM message {hint} WHERE log = %s AND id > %s"
    if ask(connection, counted, (head.number, last))[0][0] >= most:
        return last
    statement = "SELECT id FROM message WHERE log = %s ORDER BY id DESC LIMIT 1 OFFSET %s"
    rows = ask(connection, statement, (head.number, most))
    return int(rows[0][0]) if rows else 0


_NARROW: Final = "INDEXED BY sqlite_autoindex_message_2"
"""SQLite's name of ``message_by_conversation``, the second constraint of its table. To count rows by it
takes a sixth of the time: in the table all that was said stands in between."""


def _raise_floor(connection: Connection, app: str, old: int) -> tuple[int, int] | None:
    """Let entries expire up to an id: (number of the log, its floor)."""
    head = head_of(connection, app, lock=True)
    if head is None:
        return None
    floor = max(head.floor, old)
    if floor > head.floor:
        change(connection, "UPDATE log SET floor = %s WHERE number = %s", (floor, head.number))
    return head.number, floor


def stored_before(connection: Connection, app: str, time: int) -> int:
    """The greatest id that was stored before this Unix second."""
    head = head_of(connection, app)
    if head is None:
        return 0
    statement = (
        "SELECT id, stored_at FROM message WHERE log = %s AND id <= %s AND id > %s ORDER BY id DESC LIMIT %s"
    )
    upto = head.last_id
    while rows := ask(connection, statement, (head.number, upto, head.floor, _LOOK)):
        for id, stored_at in rows:
            if stored_at < time:
                return int(id)
        upto = rows[-1][0] - 1
    return head.floor


def _delete_some(connection: Connection, log: int, floor: int) -> int | None:
    """Delete some of what has expired; how many, None: there is nothing left of it."""
    rows = ask(connection, "SELECT min(id) FROM message WHERE log = %s AND id <= %s", (log, floor))
    first: Any = rows[0][0]
    if first is None:
        return None
    upto = min(floor, first + _EXPIRED_AT_ONCE - 1)
    return change(connection, "DELETE FROM message WHERE log = %s AND id <= %s", (log, upto))


def _delete_hidden(connection: Connection, log: int, floor: int) -> None:
    """Delete what says who has hidden what has expired: once, for all of it is looked through."""
    change(connection, "DELETE FROM hidden WHERE log = %s AND id <= %s", (log, floor))
