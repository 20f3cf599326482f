"""The newest uplink session of each user: only that one may send drafts that name a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from imserver.messages.log.rows import LAST_SESSION
from imserver.storage.statements import Row, Statements

_SESSIONS: Final = "SELECT session FROM uplink_session WHERE log = %s AND member IN {}"
_MOST_KNOWN: Final = 10_000
"""Senders that are remembered."""


class UplinkSessions:
    """What a writer remembers of the newest sessions in one log."""

    def __init__(self) -> None:
        self._known: tuple[int, list[Row]] = (0, [])
        """The log, and its last uplink session, for which the next two hold."""
        self._users: frozenset[str] = frozenset()
        self._sessions: frozenset[int] = frozenset()

    def of(self, sql: Statements, log: int, users: set[str]) -> frozenset[int]:
        """The newest uplink sessions of these users, and of others. Each user is looked up once, until the
        session of any user of the log begins, on any node, or is forgotten."""
        last = sql.query(_SESSIONS.format("(%s)"), (log, LAST_SESSION))
        if not last or (log, last) != self._known or len(self._users) > _MOST_KNOWN:
            self._known, self._users, self._sessions = (log, last), frozenset(), frozenset()
        unknown = users - self._users
        if unknown:
            self._sessions |= stored_sessions(sql, log, list(unknown))
            self._users |= unknown
        return self._sessions


def stored_sessions(sql: Statements, log: int, users: Sequence[str]) -> set[int]:
    """The newest uplink sessions of these users."""
    return {row[0] for row in sql.query_in(_SESSIONS, (log,), users)}


def store_sessions(sql: Statements, log: int, sessions: Mapping[str, int]) -> None:
    """Write the newest uplink session of users, and which one was the last of the log."""
    sessions = {**sessions, LAST_SESSION: list(sessions.values())[-1]}
    sql.execute_many(
        "INSERT INTO uplink_session (log, member, session) VALUES (%s, %s, %s) "
        + (
            "ON DUPLICATE KEY UPDATE session = VALUES(session)"
            if sql.engine == "mysql"
            else "ON CONFLICT (log, member) DO UPDATE SET session = excluded.session"
        ),
        [(log, user, session) for user, session in sessions.items()],
    )
