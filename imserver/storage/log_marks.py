"""What users mark, and what expires: changes beside the log, each in a transaction of its own.

A user's marks have a version of their own, which each change raises: devices ask for what came behind the
version that they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log_contract import Marks
from imserver.storage.log_list import VISIBLE
from imserver.storage.log_pen import chunks, padded
from imserver.storage.log_read import ask, change, change_many, head_of, marks_of
from imserver.storage.log_row import Head, text_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EXPIRED_AT_ONCE: Final = 1000
"""Entries that are deleted in one transaction: who wants to write meanwhile waits for these only."""


def set_read(connection: Connection, app: str, user: str, conversation: int, id: int) -> int:
    """Move a user's read position on, never back, and never beyond the log; the version of the marks."""
    head = head_of(connection, app)
    if head is None or not _belongs(connection, head, user, conversation):
        return 0 if head is None else _version(connection, head, user)
    id = min(id, head.last_id)
    version = _raise(connection, head, user)
    where = (head.number, user, conversation)
    rows = ask(
        connection,
        "SELECT read_id FROM read_position WHERE log = %s AND member = %s AND conversation = %s",
        where,
    )
    if not rows:
        change(
            connection,
            "INSERT INTO read_position (log, member, conversation, read_id, version) "
            "VALUES (%s, %s, %s, %s, %s)",
            (*where, id, version),
        )
    elif rows[0][0] < id:
        change(
            connection,
            "UPDATE read_position SET read_id = %s, version = %s "
            "WHERE log = %s AND member = %s AND conversation = %s",
            (id, version, *where),
        )
    return version


def hide(connection: Connection, app: str, user: str, ids: Sequence[int]) -> int:
    """Note entries that a user does not want to see, of those that the user may; the version of the marks."""
    head = head_of(connection, app)
    if head is None:
        return 0
    version = _raise(connection, head, user)
    statement = (
        f"SELECT DISTINCT m.id FROM membership s JOIN message m ON {VISIBLE} "
        "WHERE s.log = %s AND s.member = %s AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = s.member AND h.id = m.id) AND m.id IN "
    )
    for some in chunks(ids):
        some = padded(some)
        rows = ask(connection, statement + marks_of(len(some)), (head.number, user, *some))
        change_many(
            connection,
            "INSERT INTO hidden (log, member, id, version) VALUES (%s, %s, %s, %s)",
            [(head.number, user, row[0], version) for row in rows],
        )
    return version


def marks(connection: Connection, app: str, user: str, after: int) -> Marks:
    """What a user marked behind a version."""
    head = head_of(connection, app)
    if head is None:
        return Marks(0, {})
    # The version first: what is marked in between comes again with the next question.
    version = _version(connection, head, user)
    of = (head.number, user, after)
    reads = ask(
        connection,
        "SELECT conversation, read_id FROM read_position WHERE log = %s AND member = %s AND version > %s",
        of,
    )
    hidden = ask(
        connection,
        "SELECT id FROM hidden WHERE log = %s AND member = %s AND version > %s ORDER BY id",
        of,
    )
    return Marks(version, {row[0]: row[1] for row in reads}, tuple(row[0] for row in hidden))


def reads(connection: Connection, app: str, conversation: int) -> dict[str, int]:
    """Up to which id each member of a conversation has read."""
    head = head_of(connection, app)
    if head is None:
        return {}
    rows = ask(
        connection,
        "SELECT r.member, r.read_id FROM read_position r JOIN membership s ON s.log = r.log "
        "AND s.member = r.member AND s.conversation = r.conversation AND s.left_id IS NULL "
        "WHERE r.log = %s AND r.conversation = %s",
        (head.number, conversation),
    )
    return {text_of(row[0]): row[1] for row in rows}


def _belongs(connection: Connection, head: Head, user: str, conversation: int) -> bool:
    statement = "SELECT 1 FROM membership WHERE log = %s AND member = %s AND conversation = %s LIMIT 1"
    return bool(ask(connection, statement, (head.number, user, conversation)))


def _version(connection: Connection, head: Head, user: str) -> int:
    statement = "SELECT version FROM mark_version WHERE log = %s AND member = %s"
    rows = ask(connection, statement, (head.number, user))
    return int(rows[0][0]) if rows else 0


def _raise(connection: Connection, head: Head, user: str) -> int:
    """The version of a change that begins; the user's other changes wait until it has ended."""
    clause = _AGAIN.get(connection.dialect.name, "ON CONFLICT (log, member) DO UPDATE SET version = ")
    change(
        connection,
        f"INSERT INTO mark_version (log, member, version) VALUES (%s, %s, 1) {clause}"
        "mark_version.version + 1",
        (head.number, user),
    )
    return _version(connection, head, user)


_AGAIN: Final[dict[str, str]] = dict.fromkeys(("mysql", "mariadb"), "ON DUPLICATE KEY UPDATE version = ")


# --- retention ----------------------------------------------------------------------------------------------


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
