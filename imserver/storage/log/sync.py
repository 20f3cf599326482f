"""The entries after a cursor that a user may read: every client asks for them at every login.

First the ids are read from an index, in the way that suits the engine; then the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log.contract import Entry
from imserver.storage.log.read import fetch
from imserver.storage.log.statements import GREATEST, LogHead, ask, ask_in, head_of, pair_of_room, room_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

_WINDOW: Final = 5000
"""Ids that SQLite looks at first; else it would sort everything after an old cursor for each page."""
_GROWTH: Final = 16
_OF_MYSQL: Final = ("mysql", "mariadb")
_MOST_UNIONS: Final = 500
"""Conversations for which MySQL uses one UNION branch each; for more, it scans the log."""

_ACTIVE: Final = (
    "membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation AND c.last_id > %s "
    "WHERE s.log = %s AND s.member = %s AND (s.left_id IS NULL OR s.left_id > %s)"
)
"""A user's memberships with entries after a cursor: parameters (after, log, user, after)."""


def sync(connection: Connection, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
    """At most ``limit`` entries after ``after``, in order, and whether there are more."""
    head = head_of(connection, app)
    if head is None or after >= head.last_id:
        return [], False
    after = max(after, head.floor)
    ids = _IDS[connection.dialect.name](connection, head, user, after, limit + 1)
    return fetch(connection, head.number, ids[:limit]), len(ids) > limit


def catch_up(
    connection: Connection, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
) -> tuple[list[Entry], bool]:
    """As :func:`sync`, with messages in rooms. ``places``: room → the id after which; ``""`` → that for the
    user's conversations."""
    head = head_of(connection, app)
    if head is None or after >= head.last_id:
        return [], False
    after, count = max(after, head.floor), limit + 1
    ids = {*_IDS[connection.dialect.name](connection, head, user, max(after, places[""]), count)}
    for conversation, place in _rooms(connection, head, places, after):
        ids.update(_said_in(connection, head, conversation, place, count))
    found = sorted(ids)
    return fetch(connection, head.number, found[:limit]), len(found) > limit


def _rooms(
    connection: Connection, head: LogHead, places: Mapping[str, int], after: int
) -> list[tuple[int, int]]:
    """The rooms with new entries: (conversation, id after which)."""
    hint = _BY_PAIR if connection.dialect.name == "sqlite" else ""
    statement = (
        f"SELECT id, pair, last_id FROM conversation {hint} WHERE log = %s AND last_id > %s AND pair IN {{}}"
    )
    pairs = [pair_of_room(room) for room in places if room]
    found = []
    for conversation, pair, last_id in ask_in(connection, statement, (head.number, after), pairs):
        place = max(after, places[room_of(pair)])
        if place < last_id:
            found.append((conversation, place))
    return found


_BY_PAIR: Final = "INDEXED BY sqlite_autoindex_conversation_2"
"""SQLite's name of ``conversation_by_pair``, the second constraint of the table. Without it SQLite scans
all conversations."""


def _said_in(
    connection: Connection, head: LogHead, conversation: int, after: int, count: int
) -> Sequence[int]:
    index = "FORCE INDEX (message_by_conversation) " if connection.dialect.name in _OF_MYSQL else ""
    statement = (
        f"SELECT id FROM message {index}WHERE log = %s AND conversation = %s AND id > %s AND id <= %s "
        "ORDER BY id LIMIT %s"
    )
    values = (head.number, conversation, after, head.last_id, count)
    return [row[0] for row in ask(connection, statement, values)]


def _sqlite(connection: Connection, head: LogHead, user: str, after: int, count: int) -> Sequence[int]:
    statement = (
        "SELECT m.id FROM membership s CROSS JOIN conversation c CROSS JOIN message m "
        "WHERE s.log = %s AND s.member = %s AND c.log = s.log AND c.id = s.conversation AND c.last_id > %s "
        "AND m.log = s.log AND m.conversation = s.conversation AND m.id > max(s.joined_id, %s) "
        "AND m.id <= min(ifnull(s.left_id, %s), %s) ORDER BY m.id LIMIT %s"
    )
    window = _WINDOW
    while True:
        upto = min(head.last_id, after + window)
        values = (head.number, user, after, after, GREATEST, upto, count)
        ids = [row[0] for row in ask(connection, statement, values)]
        if len(ids) >= count or upto == head.last_id:
            return ids
        window *= _GROWTH


def _postgresql(connection: Connection, head: LogHead, user: str, after: int, count: int) -> Sequence[int]:
    statement = (
        "SELECT f.id FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
        "CROSS JOIN LATERAL (SELECT m.id FROM message m WHERE m.log = s.log "
        "AND m.conversation = s.conversation AND m.id > greatest(s.joined_id, %s) "
        "AND m.id <= least(s.left_id, %s) ORDER BY m.id LIMIT %s) f "
        "WHERE s.log = %s AND s.member = %s AND c.last_id > %s ORDER BY f.id LIMIT %s"
    )
    values = (after, head.last_id, count, head.number, user, after, count)
    return [row[0] for row in ask(connection, statement, values)]


def _mysql(connection: Connection, head: LogHead, user: str, after: int, count: int) -> Sequence[int]:
    active = ask(
        connection,
        f"SELECT s.conversation, s.joined_id, s.left_id FROM {_ACTIVE}",
        (after, head.number, user, after),
    )
    if not active:
        return []
    if len(active) > _MOST_UNIONS:
        return _walk(connection, head, user, after, count)
    one = (
        "(SELECT id FROM message FORCE INDEX (message_by_conversation) WHERE log = %s AND conversation = %s "
        "AND id > %s AND id <= %s ORDER BY id LIMIT %s)"
    )
    values: list[Any] = []
    for conversation, joined, left in active:
        last = head.last_id if left is None else min(left, head.last_id)
        values += (head.number, conversation, max(joined, after), last, count)
    statement = f"{' UNION ALL '.join([one] * len(active))} ORDER BY id LIMIT %s"
    return [row[0] for row in ask(connection, statement, (*values, count))]


def _walk(connection: Connection, head: LogHead, user: str, after: int, count: int) -> Sequence[int]:
    statement = (
        "SELECT m.id FROM message m FORCE INDEX (PRIMARY) WHERE m.log = %s AND m.id > %s AND m.id <= %s "
        "AND EXISTS (SELECT 1 FROM membership s WHERE s.log = m.log AND s.member = %s "
        "AND s.conversation = m.conversation AND s.joined_id < m.id "
        "AND (s.left_id IS NULL OR s.left_id >= m.id)) ORDER BY m.id LIMIT %s"
    )
    values = (head.number, after, head.last_id, user, count)
    return [row[0] for row in ask(connection, statement, values)]


_IDS: Final[dict[str, Callable[[Connection, LogHead, str, int, int], Sequence[int]]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}
