"""Deletion of the oldest entries of a log, in small transactions, so that writers never wait for long."""

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
"""Entries that one transaction deletes."""
_FIRST_LOOK: Final = 50
_LOOK: Final = 5000
"""Entries whose age one query reads: the first query, and the following ones."""


class Does(Protocol):
    """Runs something in a transaction; returns ``nothing`` if there is no database."""

    def __call__(self, work: Callable[[Connection], T], nothing: T) -> T: ...


def apps(connection: Connection) -> list[str]:
    """The apps with entries that have not expired."""
    rows = ask(connection, "SELECT app FROM log WHERE part = 0 AND last_id > floor ORDER BY app", ())
    return [text_of(row[0]) for row in rows]


def expire(read: Does, write: Does, app: str, older_than_seconds: float, more_than: int) -> int:
    """Delete the oldest entries: by age, by number; 0: no such limit. Returns how many."""
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

    Reads entry by entry, because the clocks of nodes differ and ``stored_at`` may go back. The first young
    entry ends it, so that a wrong clock deletes nothing early. Entries from the future are ignored.
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
    """(id, ``stored_at``) of the oldest entries."""
    head = head_of(connection, app)
    if head is None:
        return []
    statement = "SELECT id, stored_at FROM message WHERE log = %s AND id > %s ORDER BY id LIMIT %s"
    return ask(connection, statement, (head.number, max(after, head.floor), many))


def _last_above(connection: Connection, app: str, most: int) -> int:
    """The newest entry beyond the newest ``most``; 0: there is none. Entries are counted, because ids have
    a gap after a restore."""
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
"""SQLite's name of ``message_by_conversation``, the second constraint of the table. Counting by it takes a
sixth of the time, as it does not read the bodies."""


def _raise_floor(connection: Connection, app: str, old: int) -> tuple[int, int] | None:
    """Expire entries up to an id: (number of the log, its floor)."""
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
    """Delete some expired entries; how many, None: there are none left."""
    rows = ask(connection, "SELECT min(id) FROM message WHERE log = %s AND id <= %s", (log, floor))
    first: Any = rows[0][0]
    if first is None:
        return None
    upto = min(floor, first + _EXPIRED_AT_ONCE - 1)
    return change(connection, "DELETE FROM message WHERE log = %s AND id <= %s", (log, upto))


def _delete_hidden(connection: Connection, log: int, floor: int) -> None:
    """Delete the ``hidden`` rows of expired entries. Scans the table, so it runs once."""
    change(connection, "DELETE FROM hidden WHERE log = %s AND id <= %s", (log, floor))
