"""Reads of the log: entries, conversations, histories, memberships and conversation lists.

Each function gets a connection in a transaction that changes nothing. Paging by ids reads the head first and
nothing beyond it: entries that are committed between two statements belong to the next page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log.contract import MOST_UNREAD, Conversation, ConversationSummary, Entry, Membership
from imserver.storage.log.statements import (
    CONVERSATION_KINDS,
    ENTRY_COLUMNS,
    FROM_MESSAGES,
    GREATEST,
    NUMBERS,
    SQLITE_BY_GROUP,
    LogHead,
    ask,
    ask_in,
    chunks,
    conversation_of,
    entry_of,
    head_of,
    marks_of,
    padded,
    pair_of,
    pair_of_room,
    text_of,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

CONVERSATION_COLUMNS: Final = "c.id, c.kind, c.name, c.pair, c.last_id, c.last_seq, c.created, c.open"
_ENTRIES: Final = f"SELECT {ENTRY_COLUMNS} {FROM_MESSAGES}"


def head(connection: Connection, app: str) -> int:
    """The greatest id."""
    found = head_of(connection, app)
    return found.last_id if found else 0


def heads(connection: Connection, apps: Sequence[str]) -> dict[str, int]:
    """App → the greatest id, of those of which something was stored."""
    found: dict[str, int] = {}
    for some in chunks(apps):
        some = padded(some)
        statement = f"SELECT app, last_id FROM log WHERE part = 0 AND app IN {marks_of(len(some))}"
        found |= {text_of(app): last_id for app, last_id in ask(connection, statement, some)}
    return found


def floor(connection: Connection, app: str) -> int:
    """Up to which id entries have expired."""
    found = head_of(connection, app)
    return found.floor if found else 0


def read(connection: Connection, app: str, after: int, limit: int) -> list[Entry]:
    """The whole log behind an id."""
    found = head_of(connection, app)
    if found is None:
        return []
    statement = f"{_ENTRIES} m.id > %s AND m.id <= %s ORDER BY m.id LIMIT %s"
    values = (found.number, max(after, found.floor), found.last_id, limit)
    return [entry_of(row) for row in ask(connection, statement, values)]


def entries(connection: Connection, app: str, ids: Sequence[int]) -> list[Entry]:
    """Those of these that exist, in order."""
    found = head_of(connection, app)
    return fetch(connection, found.number, ids) if found else []


def fetch(connection: Connection, log: int, ids: Sequence[int]) -> list[Entry]:
    """The entries of a log with these ids, as far as there are such, in order."""
    rows = ask_in(connection, f"{_ENTRIES} m.id IN {{}}", (log,), list(dict.fromkeys(ids)))
    return sorted(map(entry_of, rows), key=lambda entry: entry.id)


def conversation(connection: Connection, app: str, conversation: int) -> Conversation | None:
    """One conversation."""
    found = head_of(connection, app)
    return _conversation(connection, found, "c.id = %s", conversation) if found else None


def conversations(connection: Connection, app: str, ids: Sequence[int]) -> list[Conversation]:
    """Those of these conversations that exist, in the order of their ids."""
    found = head_of(connection, app)
    if found is None:
        return []
    statement = f"SELECT {CONVERSATION_COLUMNS} FROM conversation c WHERE c.log = %s AND c.id IN {{}}"
    rows = ask_in(connection, statement, (found.number,), ids)
    return sorted(map(conversation_of, rows), key=lambda one: one.id)


def between(connection: Connection, app: str, user: str, other: str) -> Conversation | None:
    """The conversation of two users."""
    found = head_of(connection, app)
    return _conversation(connection, found, "c.pair = %s", pair_of(user, other)) if found else None


def _conversation(connection: Connection, of: LogHead, where: str, value: Any) -> Conversation | None:
    statement = f"SELECT {CONVERSATION_COLUMNS} FROM conversation c WHERE c.log = %s AND {where}"
    rows = ask(connection, statement, (of.number, value))
    return conversation_of(rows[0]) if rows else None


_MEMBER_COLUMNS: Final = (
    "s.member, s.conversation, s.joined_id, s.left_id, s.role, s.muted_until, c.kind "
    "FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation"
)
VISIBLE: Final = (
    "m.log = s.log AND m.conversation = s.conversation AND m.id > s.joined_id "
    f"AND m.id <= coalesce(s.left_id, {GREATEST})"
)
"""What a membership ``s`` lets its user read, of the messages ``m``."""


def memberships(connection: Connection, app: str, user: str) -> list[Membership]:
    """All of a user's, those that have ended too."""
    head = head_of(connection, app)
    if head is None:
        return []
    statement = f"SELECT {_MEMBER_COLUMNS} WHERE s.log = %s AND s.member = %s"
    rows = ask(connection, f"{statement} ORDER BY s.conversation, s.joined_id", (head.number, user))
    return [_membership(app, row) for row in rows]


def members(connection: Connection, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
    """Who is a member, by their ids."""
    head = head_of(connection, app)
    if head is None:
        return []
    columns = _MEMBER_COLUMNS
    if connection.dialect.name == "sqlite":
        columns = columns.replace("membership s", f"membership s {SQLITE_BY_GROUP}")
    statement = (
        f"SELECT {columns} WHERE s.log = %s AND s.conversation = %s AND s.left_id IS NULL "
        "AND s.member > %s ORDER BY s.member LIMIT %s"
    )
    rows = ask(connection, statement, (head.number, conversation, after, limit))
    return [_membership(app, row) for row in rows]


def member(connection: Connection, app: str, conversation: int, user: str) -> Membership | None:
    """The membership of a user that has not ended."""
    head = head_of(connection, app)
    if head is None:
        return None
    statement = (
        f"SELECT {_MEMBER_COLUMNS} WHERE s.log = %s AND s.conversation = %s AND s.member = %s "
        "AND s.left_id IS NULL"
    )
    rows = ask(connection, statement, (head.number, conversation, user))
    return _membership(app, rows[0]) if rows else None


def history(
    connection: Connection, app: str, user: str, conversation: int, before: int, limit: int
) -> tuple[list[Entry], bool]:
    """The newest entries before an id that the user may read and has not hidden; whether there are more."""
    head = head_of(connection, app)
    if head is None:
        return [], False
    last = min(before - 1, head.last_id) if before > 0 else head.last_id
    statement = (
        "SELECT m.id FROM membership s, message m "
        f"WHERE s.log = %s AND s.member = %s AND s.conversation = %s AND {VISIBLE} AND m.id <= %s "
        "AND NOT EXISTS (SELECT 1 FROM hidden h WHERE h.log = m.log AND h.member = %s AND h.id = m.id) "
        "ORDER BY m.id DESC LIMIT %s"
    )
    rows = ask(connection, statement, (head.number, user, conversation, last, user, limit + 1))
    ids = [row[0] for row in rows]
    return (fetch(connection, head.number, ids[:limit]) if ids else []), len(ids) > limit


def room_history(
    connection: Connection, app: str, room: str, before: int, limit: int
) -> tuple[list[Entry], bool]:
    """The newest entries of a room before an id; whether there are more."""
    head = head_of(connection, app)
    if head is None:
        return [], False
    last = min(before - 1, head.last_id) if before > 0 else head.last_id
    statement = (
        "SELECT m.id FROM conversation c JOIN message m ON m.log = c.log AND m.conversation = c.id "
        "WHERE c.log = %s AND c.pair = %s AND m.id > %s AND m.id <= %s ORDER BY m.id DESC LIMIT %s"
    )
    rows = ask(connection, statement, (head.number, pair_of_room(room), head.floor, last, limit + 1))
    ids = [row[0] for row in rows]
    return (fetch(connection, head.number, ids[:limit]) if ids else []), len(ids) > limit


def list_conversations(
    connection: Connection, app: str, user: str, before: int, limit: int
) -> tuple[list[ConversationSummary], bool]:
    """The user's conversations, those with the newest entry first, and whether there are more."""
    head = head_of(connection, app)
    if head is None:
        return [], False
    statement = _TALKS.get(connection.dialect.name, _TALKS["mysql"])
    values = (user, user, head.number, user, user, before or GREATEST, limit + 1)
    rows = ask(connection, statement, values)
    ids = [row[-2] for row in rows if row[-2] is not None]
    last = {entry.id: entry for entry in (fetch(connection, head.number, ids) if ids else ())}
    return [_talk(row, last) for row in rows[:limit]], len(rows) > limit


# A user who came back to a group has several memberships there: the last one is the one that counts. What is
# said in a conversation is looked at for those of the page only.
_PAGE: Final = (
    f"SELECT {CONVERSATION_COLUMNS}, s.role, coalesce(r.read_id, 0) AS read_id, "
    f"coalesce(s.left_id, c.last_id) AS place, s.joined_id, coalesce(s.left_id, {GREATEST}) AS upto, s.log "
    "FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
    "LEFT JOIN read_position r ON r.log = s.log AND r.member = s.member AND r.conversation = s.conversation "
    "WHERE s.log = %s AND s.member = %s AND s.joined_id = (SELECT max(o.joined_id) FROM membership o "
    "WHERE o.log = s.log AND o.member = %s AND o.conversation = s.conversation) "
    "AND coalesce(s.left_id, c.last_id) < %s ORDER BY coalesce(s.left_id, c.last_id) DESC LIMIT %s"
)


def _talks(page: str, unread: str, hint: str = "") -> str:
    """``hint`` names the index to use, where the engine would rather walk along the log."""
    seen = f"FROM message m {hint} WHERE m.log = p.log AND m.conversation = p.id AND m.id > p.joined_id"
    last = (
        f"SELECT m.id {seen} AND m.id <= p.upto AND NOT EXISTS (SELECT 1 FROM hidden h "
        "WHERE h.log = m.log AND h.member = %s AND h.id = m.id) ORDER BY m.id DESC LIMIT 1"
    )
    columns = CONVERSATION_COLUMNS.replace("c.", "p.")
    return (
        f"SELECT {columns}, p.role, p.read_id, p.place, ({last}), ({unread.replace('{seen}', seen)}) "
        f"FROM ({page}) p ORDER BY p.place DESC"
    )


_OF_OTHERS: Final = f"m.kind = {NUMBERS['message']} AND m.sender <> %s"
_UNREAD: Final = (
    "SELECT count(*) FROM (SELECT m.id {seen} AND m.id > p.read_id AND m.id <= p.upto "
    f"ORDER BY m.id DESC LIMIT {MOST_UNREAD}) n CROSS JOIN message m WHERE m.log = p.log AND m.id = n.id "
    f"AND {_OF_OTHERS}"
)
# MariaDB's derived tables know nothing of what stands around them, and without a limit become part of it.
_BY_CONVERSATION: Final = "FORCE INDEX (message_by_conversation)"
_PAGE_MYSQL: Final = (
    f"SELECT q.*, coalesce((SELECT b.id FROM message b {_BY_CONVERSATION} WHERE b.log = q.log "
    "AND b.conversation = q.id AND b.id <= q.upto AND b.id > q.read_id ORDER BY b.id DESC "
    f"LIMIT 1 OFFSET {MOST_UNREAD - 1}), q.read_id + 1) AS oldest FROM ({_PAGE}) q LIMIT {GREATEST}"
)
_UNREAD_MYSQL: Final = f"SELECT count(*) {{seen}} AND m.id >= p.oldest AND m.id <= p.upto AND {_OF_OTHERS}"
_TALKS: Final = {
    "sqlite": _talks(_PAGE, _UNREAD),
    "postgresql": _talks(_PAGE, _UNREAD),
    "mysql": _talks(_PAGE_MYSQL, _UNREAD_MYSQL, _BY_CONVERSATION),
}


def _talk(row: Sequence[Any], last: dict[int, Entry]) -> ConversationSummary:
    role, read, place, last_id, unread = row[8:]
    return ConversationSummary(conversation_of(row), last.get(last_id), unread, read, text_of(role), place)


def _membership(app: str, row: Sequence[Any]) -> Membership:
    return Membership(
        app=app,
        user=text_of(row[0]),
        conversation=row[1],
        joined_id=row[2],
        left_id=row[3],
        role=text_of(row[4]),
        muted_until=row[5],
        kind_of_conversation=CONVERSATION_KINDS[row[6]],
    )
