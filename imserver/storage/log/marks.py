"""Users' marks: read positions and hidden entries. Each change is a transaction of its own.

Each change raises the version of the user's marks; devices ask for the changes after the version they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from imserver.storage.log.contract import MOST_RECEIPTED, Marks, Noted, Receipt
from imserver.storage.log.read import VISIBLE
from imserver.storage.log.statements import (
    CONVERSATION_KINDS,
    NUMBERS,
    LogHead,
    ask,
    ask_in,
    change,
    change_many,
    chunks,
    head_of,
    marks_of,
    members_of,
    padded,
    text_of,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

# --- positions ----------------------------------------------------------------------------------------------


def note(
    connection: Connection, app: str, user: str, conversation: int, read: int, received: int
) -> Noted | None:
    """Advance a user's positions, at most to the end of the log; None: not in this conversation."""
    head = head_of(connection, app)
    members = None if head is None else _members(connection, head, user, conversation)
    if head is None or members is None:
        return None
    read = min(read, head.last_id)
    received = max(min(received, head.last_id), read)
    before = _position(connection, head, user, conversation)
    if before and read <= before[0] and received <= before[1]:
        receipt = Receipt(conversation, user, *before)
        return Noted(receipt, _version(connection, head, user))
    # Always in this order, to avoid deadlocks.
    versions = {each: _raise(connection, head, each) for each in sorted({user, *members})}
    before = _position(connection, head, user, conversation)
    peer_version = next((version for each, version in versions.items() if each != user), 0)
    _move(
        connection, (head.number, user, conversation), (read, received, versions[user], peer_version), before
    )
    old_read, old_received = before or (0, 0)
    moved = read > old_read or received > old_received
    passed = (old_read, read) if read > old_read else (old_received, received)
    authors = _authors(connection, head, user, conversation, *passed) if moved else ()
    receipt = Receipt(conversation, user, max(read, old_read), max(received, old_received))
    return Noted(receipt, versions[user], moved, authors)


def _members(connection: Connection, head: LogHead, user: str, conversation: int) -> tuple[str, ...] | None:
    """The two users of a conversation, none for a group; None: the user never was a member."""
    statement = (
        "SELECT c.pair FROM conversation c WHERE c.log = %s AND c.id = %s AND EXISTS (SELECT 1 "
        "FROM membership s WHERE s.log = c.log AND s.conversation = c.id AND s.member = %s)"
    )
    rows = ask(connection, statement, (head.number, conversation, user))
    return members_of(rows[0][0]) if rows else None


def _position(connection: Connection, head: LogHead, user: str, conversation: int) -> tuple[int, int] | None:
    """The ids up to which a user has read and received."""
    statement = (
        "SELECT read_id, received_id FROM read_position WHERE log = %s AND member = %s AND conversation = %s"
    )
    rows = ask(connection, statement, (head.number, user, conversation))
    return (rows[0][0], rows[0][1]) if rows else None


def _move(
    connection: Connection,
    key: tuple[int, str, int],
    to: tuple[int, int, int, int],
    before: tuple[int, int] | None,
) -> None:
    """Write a position. Only reading raises the version of the user's own marks."""
    read, received, version, peer_version = to
    if before is None:
        change(
            connection,
            "INSERT INTO read_position (log, member, conversation, read_id, version, received_id, "
            "peer_version) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (*key, read, version if read else 0, received, peer_version),
        )
    else:
        change(
            connection,
            f"UPDATE read_position SET read_id = %s, {'version = %s, ' if read > before[0] else ''}"
            "received_id = %s, peer_version = %s WHERE log = %s AND member = %s AND conversation = %s",
            (
                max(read, before[0]),
                *((version,) if read > before[0] else ()),
                max(received, before[1]),
                peer_version,
                *key,
            ),
        )


def _authors(
    connection: Connection, head: LogHead, user: str, conversation: int, after: int, upto: int
) -> tuple[str, ...]:
    """The other authors of the entries between two positions, if they and the user are still members."""
    passed = (
        "SELECT m.id FROM membership s, message m WHERE s.log = %s AND s.member = %s "
        f"AND s.conversation = %s AND {VISIBLE} AND m.id > %s AND m.id <= %s "
        f"ORDER BY m.id DESC LIMIT {MOST_RECEIPTED}"
    )
    ids = [row[0] for row in ask(connection, passed, (head.number, user, conversation, after, upto))]
    # In a statement of its own: joined with the one above, an engine may scan the whole log.
    written = (
        f"SELECT m.id, m.sender FROM message m WHERE m.kind = {_MESSAGE} AND m.log = %s AND m.id IN {{}}"
    )
    rows = ask_in(connection, written, (head.number,), ids)
    rows.sort(key=lambda row: -row[0])
    names = [name for name in dict.fromkeys(text_of(row[1]) for row in rows) if name != user]
    if not names:
        return ()
    there = _still_there(connection, head, conversation, [user, *names])
    return tuple(name for name in names if name in there) if user in there else ()


def _still_there(connection: Connection, head: LogHead, conversation: int, users: Sequence[str]) -> set[str]:
    """Those of these users who are members of a conversation."""
    found: set[str] = set()
    statement = (
        "SELECT member FROM membership "
        "WHERE log = %s AND conversation = %s AND left_id IS NULL AND member IN "
    )
    for some in chunks(users):
        some = padded(some)
        rows = ask(connection, statement + marks_of(len(some)), (head.number, conversation, *some))
        found |= {text_of(row[0]) for row in rows}
    return found


def receipts(
    connection: Connection, app: str, user: str, conversation: int, after: str, limit: int
) -> list[Receipt]:
    """The positions of the other members of a conversation, by user."""
    head = head_of(connection, app)
    if head is None:
        return []
    own = "SELECT 1 FROM membership WHERE log = %s AND conversation = %s AND member = %s AND left_id IS NULL"
    if not ask(connection, own, (head.number, conversation, user)):
        return []
    statement = (
        "SELECT r.conversation, r.member, r.read_id, r.received_id FROM read_position r WHERE r.log = %s "
        "AND r.conversation = %s AND r.member > %s AND r.member <> %s AND EXISTS (SELECT 1 FROM membership s "
        "WHERE s.log = r.log AND s.member = r.member AND s.conversation = r.conversation "
        "AND s.left_id IS NULL) ORDER BY r.member LIMIT %s"
    )
    rows = ask(connection, statement, (head.number, conversation, after, user, limit))
    return [Receipt(row[0], text_of(row[1]), row[2], row[3]) for row in rows]


def _receipts_since(connection: Connection, head: LogHead, user: str, after: int) -> tuple[Receipt, ...]:
    """The positions of the peers of a user's conversations of two, changed after a version."""
    # Without the hint SQLite scans the positions of all users.
    hint = _BY_CONVERSATION if connection.dialect.name == "sqlite" else ""
    statement = (
        "SELECT r.conversation, r.member, r.read_id, r.received_id FROM membership s "
        f"CROSS JOIN conversation c CROSS JOIN read_position r {hint} WHERE s.log = %s AND s.member = %s "
        f"AND c.log = s.log AND c.id = s.conversation AND c.kind = {_TWO} AND r.log = s.log "
        "AND r.conversation = s.conversation AND r.member <> s.member AND r.peer_version > %s"
    )
    rows = sorted(ask(connection, statement, (head.number, user, after)))
    return tuple(Receipt(row[0], text_of(row[1]), row[2], row[3]) for row in rows)


_BY_CONVERSATION: Final = "INDEXED BY sqlite_autoindex_read_position_2"
"""SQLite's name of ``read_position_by_conversation``, the second constraint of the table."""
_TWO: Final = CONVERSATION_KINDS.index("user")
_MESSAGE: Final = NUMBERS["message"]


# --- what is hidden, and versions ---------------------------------------------------------------------------


def hide(connection: Connection, app: str, user: str, ids: Sequence[int]) -> int:
    """Hide entries from a user, of those that the user may read; the version of the marks."""
    head = head_of(connection, app)
    if head is None:
        return 0
    version = _raise(connection, head, user)
    change_many(
        connection,
        "INSERT INTO hidden (log, member, id, version) VALUES (%s, %s, %s, %s)",
        [(head.number, user, id, version) for id in _shown(connection, head, user, list(dict.fromkeys(ids)))],
    )
    return version


def _shown(connection: Connection, head: LogHead, user: str, ids: Sequence[int]) -> list[int]:
    """Those of these entries that a user may read and has not hidden."""
    statement = (
        "SELECT m.id FROM message m WHERE EXISTS (SELECT 1 FROM membership s WHERE s.member = %s "
        f"AND {VISIBLE}) AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = m.log AND h.member = %s "
        "AND h.id = m.id) AND m.log = %s AND m.id IN {}"
    )
    return [row[0] for row in ask_in(connection, statement, (user, user, head.number), ids)]


def forget(connection: Connection, app: str, user: str) -> None:
    """Delete all marks of a user."""
    head = head_of(connection, app)
    if head is None or not user:
        return
    for table in ("read_position", "hidden", "mark_version"):
        change(connection, f"DELETE FROM {table} WHERE log = %s AND member = %s", (head.number, user))


def marks(connection: Connection, app: str, user: str, after: int) -> Marks:
    """The marks of a user that changed after a version."""
    head = head_of(connection, app)
    if head is None:
        return Marks(0, {})
    # The version is read first: marks that are made meanwhile are returned again next time.
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
    others = _receipts_since(connection, head, user, after)
    return Marks(version, {row[0]: row[1] for row in reads}, tuple(row[0] for row in hidden), others)


def _version(connection: Connection, head: LogHead, user: str) -> int:
    statement = "SELECT version FROM mark_version WHERE log = %s AND member = %s"
    rows = ask(connection, statement, (head.number, user))
    return int(rows[0][0]) if rows else 0


def _raise(connection: Connection, head: LogHead, user: str) -> int:
    """The version of a new change. Locks the user's marks until the transaction ends."""
    clause = _AGAIN.get(connection.dialect.name, "ON CONFLICT (log, member) DO UPDATE SET version = ")
    change(
        connection,
        f"INSERT INTO mark_version (log, member, version) VALUES (%s, %s, 1) {clause}"
        "mark_version.version + 1",
        (head.number, user),
    )
    return _version(connection, head, user)


_AGAIN: Final[dict[str, str]] = dict.fromkeys(("mysql", "mariadb"), "ON DUPLICATE KEY UPDATE version = ")
