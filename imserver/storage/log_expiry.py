"""What expires: the oldest entries of a log, some at a time, so that nobody who writes waits for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log_read import ask, change, head_of
from imserver.storage.log_row import Head, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EXPIRED_AT_ONCE: Final = 1000
"""Entries that are deleted in one transaction: who wants to write meanwhile waits for these only."""


def apps(connection: Connection) -> list[str]:
    """The apps that have entries which have not expired."""
    rows = ask(connection, "SELECT app FROM log WHERE part = 0 AND last_id > floor ORDER BY app", ())
    return [text_of(row[0]) for row in rows]


def raise_floor(connection: Connection, app: str, before: int, more_than: int) -> tuple[int, int] | None:
    """Let the oldest entries expire: (number of the log, its floor).

    ``before``: those stored earlier than this Unix second; ``more_than``: all but so many; 0: not by this.
    """
    head = head_of(connection, app, lock=True)
    if head is None:
        return None
    floor = head.floor
    if more_than > 0:
        floor = max(floor, head.last_id - more_than)
    if before > 0:
        floor = max(floor, _oldest_since(connection, head, before) - 1)
    if floor > head.floor:
        change(connection, "UPDATE log SET floor = %s WHERE number = %s", (floor, head.number))
    return head.number, floor


def _oldest_since(connection: Connection, head: Head, since: int) -> int:
    """The first id that was stored at this second or later: they are in the order of their storing."""
    low, high = head.floor + 1, head.last_id + 1
    statement = "SELECT id, stored_at FROM message WHERE log = %s AND id >= %s ORDER BY id LIMIT 1"
    while low < high:
        middle = (low + high) // 2
        rows = ask(connection, statement, (head.number, middle))
        if not rows or rows[0][1] >= since:
            high = middle
        else:
            low = rows[0][0] + 1
    return low


def delete_some(connection: Connection, log: int, floor: int) -> int | None:
    """Delete some of what has expired; how many, None: there is nothing left of it."""
    rows = ask(connection, "SELECT min(id) FROM message WHERE log = %s AND id <= %s", (log, floor))
    first: Any = rows[0][0]
    if first is None:
        return None
    upto = min(floor, first + _EXPIRED_AT_ONCE - 1)
    change(connection, "DELETE FROM hidden WHERE log = %s AND id <= %s", (log, upto))
    return change(connection, "DELETE FROM message WHERE log = %s AND id <= %s", (log, upto))
