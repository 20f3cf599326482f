"""Scheduled messages in the database. Each method is one transaction, may
switch greenlets, and raises StorageUnavailable. Times are Unix milliseconds by
the clock of the database."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from imserver.messenger.later.declared import (
    HTTP_TOO_MANY_SCHEDULED,
    MOST_SECONDS,
    MOST_WAITING,
)
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.messages import Draft, Entry
from imserver.plugin.storage import PooledStatements, RowsOf, Statements, Store, text_of

AT_ONCE: Final = 100
"""The most messages that one query reads, and that a node sends together."""
_MOST_AWAITED: Final = 1000
"""The most users whose presence is checked at a time."""
_LEASE_MS: Final = 15_000
"""After this time nodes try a message again, because the node that sends it has
ended, or the message had to wait."""
_SECOND_MS: Final = 1000
_KEY: Final = "app = %s AND member = %s AND id = %s"
WAITS = 0
REFUSED = 1
"""The two values of :attr:`ScheduledMessage.state`. A refused message stays in
the list of its author."""


class ScheduledMessage(Struct, frozen=True, kw_only=True):
    """A scheduled message that waits, or was refused for a ``reason``. The
    fields from ``type`` on are as in a draft, and so are ``to_user`` and
    ``conversation``."""

    app: str
    member: str
    """The author."""
    id: str
    """The ``client_msg_id`` of the message in the log."""
    version: int = 0
    """How often the row was changed. A change is stored only if nobody else has
    changed the row since it was read."""
    state: int = WAITS
    due: int = 0
    """When the message is sent. If it ``awaits`` the receiver, this is the time
    at which it is sent at the latest."""
    created: int = 0
    awaits: bool = False
    """Whether the message is sent when ``to_user`` comes online."""
    to_user: str = ""
    conversation: int = 0
    reminds: int = 0
    """The message that this reminder is about, or 0 if the message is not a
    reminder."""
    type: str = "text"
    body: bytes = b""
    meta: bytes = b""
    about: int = 0
    thread: int = 0
    also: bool = False
    reason: str = ""
    """Why the message was refused, or has to wait longer. ``""`` means that it
    was not refused, and need not wait longer."""

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of its row: app, author and id."""
        return self.app, self.member, self.id


_ROWS: Final = RowsOf(ScheduledMessage, "scheduled_message")
_CONTENT: Final = (
    "to_user",
    "conversation",
    "type",
    "body",
    "meta",
    "about",
    "thread",
    "also",
)


def content_of(message: ScheduledMessage | Draft) -> dict[str, Any]:
    """Return the fields that a scheduled message and its draft have in
    common."""
    return {name: getattr(message, name) for name in _CONTENT}


class When(Struct, frozen=True):
    """When a message is sent: ``at`` a time, after ``seconds``, or when its
    receiver comes online (``awaits``)."""

    at: int = 0
    seconds: int = 0
    awaits: bool = False

    def due(self, now: int) -> int:
        """Return the time at which the message is sent, at the latest.

        ``now`` and the result are Unix milliseconds.
        """
        if self.awaits:
            return now + MOST_SECONDS * _SECOND_MS
        if self.at:
            return max(self.at, now)
        return now + self.seconds * _SECOND_MS


class SourceRow(Struct, frozen=True):
    """The row of a scheduled message that is being sent.

    The transaction of the log that stores the message deletes the row. So a
    message is sent exactly once, or is cancelled.
    """

    row: ScheduledMessage

    def holds(self, sql: Statements) -> bool:
        """Lock the row, and return whether it exists and is unchanged."""
        statement = (
            f"SELECT 1 FROM scheduled_message WHERE {_KEY} "
            f"AND version = %s{sql.for_update}"
        )
        return bool(sql.query(statement, (*self.row.key, self.row.version)))

    def stored(self, sql: Statements, _entry: Entry) -> None:
        """Delete the row, because the message is in the log now."""
        sql.execute_many(f"DELETE FROM scheduled_message WHERE {_KEY}", [self.row.key])


class ScheduledRows(Store.Rows):
    """The scheduled messages in the database.

    The column ``look`` of a row is the time from which nodes look at the row.
    This is when the message is due, or when the lease of the node that sends it
    ends.
    """

    # --- the author -----------------------------------------------------------

    @Store.writing
    def add(
        self, sql: PooledStatements, message: ScheduledMessage, when: When
    ) -> ScheduledMessage:
        """Schedule a message, unless there already is a message with this id.

        Returns the row with this id. Raises ServiceRefused if the user has too
        many scheduled messages.
        """
        now = sql.clock_ms()
        # A repeated request schedules nothing more.
        row = _row(sql, *message.key)
        if row is not None:
            return row
        _check_count(sql, message.app, message.member)
        due = when.due(now)
        columns = f"{_ROWS.columns}, look"
        row = replace(message, due=due, awaits=when.awaits, created=now, version=1)
        sql.insert_new("scheduled_message", columns, [(*_ROWS.values(row), due)])
        return row

    @Store.writing
    def change(
        self,
        sql: PooledStatements,
        before: ScheduledMessage,
        after: ScheduledMessage,
        when: When | None,
    ) -> ScheduledMessage | None:
        """Change a message, and return it. The message waits again, even if it
        was refused.

        If ``when`` is None, its time does not change. Returns None, and changes
        nothing, if the message was changed or deleted since it was read as
        ``before``.
        """
        due = before.due
        awaits = before.awaits
        if when is not None:
            due = when.due(sql.clock_ms())
            awaits = when.awaits
        row = replace(
            after,
            due=due,
            awaits=awaits,
            version=before.version + 1,
            state=WAITS,
            reason="",
        )
        # The version shows whether somebody else was quicker.
        values = (*_ROWS.values(row), due, *before.key, before.version)
        if sql.execute(_update_all(), values):
            return row
        return None

    @Store.writing_or(False)
    def cancel(self, sql: PooledStatements, app: str, user: str, id: str) -> bool:
        """Delete a message.

        Returns False if there is no such message, because it was sent before,
        or was never scheduled.
        """
        statement = f"DELETE FROM scheduled_message WHERE {_KEY}"
        return bool(sql.execute(statement, (app, user, id)))

    @Store.reading_or(None)
    def get(
        self, sql: PooledStatements, app: str, user: str, id: str
    ) -> ScheduledMessage | None:
        """Return a message, or None if there is no such message."""
        return _row(sql, app, user, id)

    @Store.reading_or(((), 0))
    def of_user(
        self, sql: PooledStatements, app: str, user: str
    ) -> tuple[Sequence[ScheduledMessage], int]:
        """Return all messages of a user, in the order in which they are due.

        The second value is the current time, in Unix milliseconds.
        """
        rows = _ROWS.find(
            sql.query, "WHERE app = %s AND member = %s ORDER BY due, id", app, user
        )
        return rows, sql.clock_ms()

    # --- the node -------------------------------------------------------------

    @Store.reading_or(((), None))
    def due(
        self, sql: PooledStatements
    ) -> tuple[Sequence[tuple[ScheduledMessage, int]], float | None]:
        """Return some messages that are due, each with the column ``look`` of
        its row.

        The second value is the seconds until the next message is due, or None
        if no message waits. If no message is due, no contents are read.
        """
        # One cheap query tells whether anything is due.
        first_look, now = _first_look(sql)
        if first_look is None:
            return [], None
        if first_look > now:
            return [], (float(first_look) - float(now)) / _SECOND_MS
        statement = (
            f"SELECT {_ROWS.columns}, look FROM scheduled_message WHERE state = %s "
            "AND look <= %s "
        )
        rows = sql.query(
            f"{statement}ORDER BY look LIMIT %s", (WAITS, int(now), AT_ONCE)
        )
        return [(_ROWS.read(row), int(row[-1])) for row in rows], 0.0

    @Store.writing
    def lease(
        self, sql: PooledStatements, due: Sequence[tuple[ScheduledMessage, int]]
    ) -> list[ScheduledMessage]:
        """Reserve messages for this node until the lease ends.

        Returns the messages that no other node has reserved meanwhile. ``due``
        is the result of :meth:`due`.
        """
        statement = (
            f"UPDATE scheduled_message SET look = %s WHERE {_KEY} AND version = %s "
            "AND look = %s"
        )
        until = sql.clock_ms() + _LEASE_MS
        leased = []
        for row, look in due:
            # An unchanged `look` shows that no other node was quicker.
            if sql.execute(statement, (until, *row.key, row.version, look)):
                leased.append(row)
        return leased

    @Store.writing
    def refuse(
        self, sql: PooledStatements, row: ScheduledMessage, reason: str, again: int = 0
    ) -> ScheduledMessage | None:
        """Store why a message is not sent, and return the message.

        ``again``: nodes try to send the message again after this number of
        milliseconds. 0 means that they never do. Returns None if the message
        was changed or deleted since it was read.
        """
        # A refused message stays in the list of its author.
        state = REFUSED
        if again:
            state = WAITS
        after = replace(row, version=row.version + 1, state=state, reason=reason)
        next_look = sql.clock_ms() + again
        sets = "version = %s, state = %s, reason = %s, look = %s"
        statement = f"UPDATE scheduled_message SET {sets} WHERE {_KEY} AND version = %s"
        values = (after.version, state, reason, next_look)
        if sql.execute(statement, (*values, *row.key, row.version)):
            return after
        return None

    @Store.reading_or(())
    def awaited(
        self, sql: PooledStatements, after: tuple[str, str]
    ) -> Sequence[tuple[str, str]]:
        """Return a page of the users for whom messages wait: (app, user), in
        order.

        ``after`` is the last user of the previous page, or ``("", "")`` for the
        first page.
        """
        app, user = after
        statement = (
            "SELECT DISTINCT app, to_user FROM scheduled_message WHERE state = %s "
            "AND awaits = 1 AND (app > %s OR (app = %s AND to_user > %s)) "
            "ORDER BY app, to_user LIMIT %s"
        )
        rows = sql.query(statement, (WAITS, app, app, user, _MOST_AWAITED))
        return [(text_of(app), text_of(user)) for app, user in rows]

    @Store.reading_or(())
    def awaiting(
        self,
        sql: PooledStatements,
        app: str,
        user: str,
        after: tuple[str, str] = ("", ""),
    ) -> Sequence[ScheduledMessage]:
        """Return a page of the messages that await a user, ordered by author
        and id.

        ``after`` is the author and the id of the last message of the previous
        page.
        """
        author, id = after
        clauses = (
            "WHERE awaits = 1 AND app = %s AND to_user = %s AND state = %s "
            "AND (member > %s OR (member = %s AND id > %s)) "
            "ORDER BY member, id LIMIT %s"
        )
        return _ROWS.find(
            sql.query, clauses, app, user, WAITS, author, author, id, AT_ONCE
        )

    @Store.writing
    def come(
        self, sql: PooledStatements, rows: Sequence[ScheduledMessage]
    ) -> list[ScheduledMessage]:
        """Make messages due now, because their receiver has come online.

        Returns the messages, without messages that were changed or deleted since
        they were read.
        """
        now = sql.clock_ms()
        sets = "version = version + 1, awaits = 0, due = %s, look = %s"
        statement = f"UPDATE scheduled_message SET {sets} WHERE {_KEY} AND version = %s"
        changed = []
        for row in rows:
            if sql.execute(statement, (now, now, *row.key, row.version)):
                changed.append(
                    replace(row, version=row.version + 1, awaits=False, due=now)
                )
        return changed


def _check_count(sql: Statements, app: str, user: str) -> None:
    """Raise ServiceRefused if the user has too many scheduled messages."""
    count = "SELECT count(*) FROM scheduled_message WHERE app = %s AND member = %s"
    if sql.query(count, (app, user))[0][0] >= MOST_WAITING:
        raise ServiceRefused(problem=HTTP_TOO_MANY_SCHEDULED)


def _first_look(sql: Statements) -> tuple[Any, Any]:
    """Return when the first waiting message is due, and the current time.

    Both are Unix milliseconds. The first value is None if no message waits.
    """
    statement = (
        f"SELECT min(look), {sql.clock} * 1000 FROM scheduled_message WHERE state = %s"
    )
    ((first_look, now),) = sql.query(statement, (WAITS,))
    return first_look, now


def _update_all() -> str:
    """Return the statement that writes all columns of a message.

    The statement changes nothing if the row has another version.
    """
    columns = _ROWS.columns.split(", ")
    sets = ", ".join(f"{column} = %s" for column in (*columns, "look"))
    return f"UPDATE scheduled_message SET {sets} WHERE {_KEY} AND version = %s"


def _row(
    sql: PooledStatements, app: str, user: str, id: str
) -> ScheduledMessage | None:
    """Return the row with this key, or None if there is no such message."""
    return _ROWS.first(sql.query, f"WHERE {_KEY}", app, user, id)
