"""What a user may read behind a cursor: the question that every client asks at every login.

First the ids alone, from the index of the conversations, in the way that suits the engine; then the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from imserver.storage.log_contract import Entry
from imserver.storage.log_read import ask, fetch, head_of
from imserver.storage.log_row import GREATEST, Head

if TYPE_CHECKING:
    from sqlalchemy import Connection

_WINDOW: Final = 5000
"""Ids that SQLite looks at first: all that is behind an old cursor would be sorted for each page."""
_GROWTH: Final = 16
_MOST_UNIONS: Final = 500
"""Conversations that MySQL is asked about one by one; for more, it walks along the log."""

_ACTIVE: Final = (
    "membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation AND c.last_id > %s "
    "WHERE s.log = %s AND s.member = %s AND (s.left_id IS NULL OR s.left_id > %s)"
)
"""A user's memberships with anything behind a cursor: values (after, log, user, after)."""


def sync(connection: Connection, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
    """At most ``limit`` entries behind ``after``, in order, and whether there are more."""
    head = head_of(connection, app)
    if head is None or after >= head.last_id:
        return [], False
    after = max(after, head.floor)
    ids = _IDS[connection.dialect.name](connection, head, user, after, limit + 1)
    return fetch(connection, head.number, ids[:limit]), len(ids) > limit


def _sqlite(connection: Connection, head: Head, user: str, after: int, count: int) -> Sequence[int]:
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


def _postgresql(connection: Connection, head: Head, user: str, after: int, count: int) -> Sequence[int]:
    statement = (
        "SELECT f.id FROM membership s JOIN conversation c ON c.log = s.log AND c.id = s.conversation "
        "CROSS JOIN LATERAL (SELECT m.id FROM message m WHERE m.log = s.log "
        "AND m.conversation = s.conversation AND m.id > greatest(s.joined_id, %s) "
        "AND m.id <= least(s.left_id, %s) ORDER BY m.id LIMIT %s) f "
        "WHERE s.log = %s AND s.member = %s AND c.last_id > %s ORDER BY f.id LIMIT %s"
    )
    values = (after, head.last_id, count, head.number, user, after, count)
    return [row[0] for row in ask(connection, statement, values)]


def _mysql(connection: Connection, head: Head, user: str, after: int, count: int) -> Sequence[int]:
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


def _walk(connection: Connection, head: Head, user: str, after: int, count: int) -> Sequence[int]:
    statement = (
        "SELECT m.id FROM message m FORCE INDEX (PRIMARY) WHERE m.log = %s AND m.id > %s AND m.id <= %s "
        "AND EXISTS (SELECT 1 FROM membership s WHERE s.log = m.log AND s.member = %s "
        "AND s.conversation = m.conversation AND s.joined_id < m.id "
        "AND (s.left_id IS NULL OR s.left_id >= m.id)) ORDER BY m.id LIMIT %s"
    )
    values = (head.number, after, head.last_id, user, count)
    return [row[0] for row in ask(connection, statement, values)]


_IDS: Final[dict[str, Callable[[Connection, Head, str, int, int], Sequence[int]]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}
