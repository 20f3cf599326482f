"""The rows of mailboxes in the database. Each method is one transaction, may
switch greenlets, and raises StorageUnavailable. Times are Unix milliseconds by
the clock of the database.

A mailbox has a row for each conversation, and not for each message. Therefore
the messages of a conversation are claimed in order, and 100,000 of them wait at
no cost. A message has a separate row if it is a dead letter, or was put back.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.storage import (
    PooledStatements,
    Reason,
    RowsOf,
    Statements,
    Store,
    Table,
)
from imserver.plugin.wire import Limit

OPEN, DEAD, READER = range(3)
"""The states of a row: it may be claimed; it is a dead letter; it has the
position up to which the log was read."""
NEVER: Final = Limit.ID
"""The time at which a row is due if nothing waits in it."""
AT_ONCE: Final = 8
"""The number of rows that a worker reads, because other workers take some of
them meanwhile."""
REASON_CHARACTERS: Final = 200
_SECOND_MS: Final = 1000
_KEY: Final = "app = %s AND member = %s AND message = %s AND conversation = %s"
_LEASED: Final = f"{_KEY} AND claim = %s AND settled < %s AND due > %s"
"""The condition that a claim is still in force. Values: its key, its number
twice, and the time."""
_OF_USER: Final = "app = %s AND member = %s"


class Queue(Struct, frozen=True, kw_only=True):
    """A row of waiting messages. They are the messages of a conversation after
    ``handled``, up to ``last``.

    If ``message`` is not 0, the row is about one message; it is a dead letter
    if the ``state`` is DEAD. ``due``: the time from which on it may be claimed.
    This is the end of the lease while it is claimed, and NEVER if nothing
    waits. For a dead letter it is the time of its death. ``claim``: the number
    of claims. ``settled``: the last claim that was acknowledged or given back.
    ``tries``: claims since the last acknowledgement.
    """

    app: str
    member: str
    message: int = 0
    conversation: int
    state: int = OPEN
    due: int = NEVER
    handled: int
    last: int
    claim: int = 0
    settled: int = 0
    tries: int = 0
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """The primary key of the row."""
        return self.app, self.member, self.message, self.conversation


class Look(Struct, frozen=True):
    """The state of a mailbox as a worker sees it.

    ``position``: up to which the log was read; None if the mailbox does not
    exist yet. ``begin``: the end of the log when the mailbox was made. ``due``:
    the rows that may be claimed, the oldest first. ``seconds``: until another
    row is due; None if no other row waits.
    """

    position: int | None
    begin: int
    due: Sequence[Queue]
    seconds: float | None


_ROWS: Final = RowsOf(Queue, "mailbox_queue")
DUE: Final = (
    f"{_ROWS.select} WHERE {_OF_USER} AND state = %s AND due < %s ORDER BY due LIMIT %s"
)
"""The query for rows that are due, the oldest first."""


_ADD_MESSAGES: Final = (
    "UPDATE mailbox_queue SET "
    "handled = CASE WHEN due = %s THEN %s ELSE handled END, "
    "due = CASE WHEN due = %s THEN %s ELSE due END, "
    f"last = %s WHERE {_KEY}"
)
"""Adds new messages to a conversation. If nothing waits in it, it begins with
the first new message and is due now. MySQL sets columns one after the other, so
the column that reads ``due`` comes before ``due``."""


class MailboxRows(Store.Rows):
    """The mailboxes in a store with a database."""

    # --- filling --------------------------------------------------------------

    @Store.writing
    def begin(self, sql: PooledStatements, app: str, user: str, end: int) -> None:
        """Make a mailbox, unless it exists. ``end``: the end of the log now."""
        # The row of the conversation 0 keeps the position, and where the
        # mailbox began.
        row = Queue(
            app=app, member=user, conversation=0, state=READER, handled=0, last=end
        )
        _insert(sql, row)

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        app: str,
        user: str,
        before: int,
        position: int,
        ranges: Mapping[int, tuple[int, int]],
    ) -> bool:
        """Note that the log was read from ``before`` to ``position``, and add
        its new messages.

        ``ranges``: conversation → its first and last new message. Returns
        False, and adds nothing, if somebody else has noted it already.
        """
        reader = f"UPDATE mailbox_queue SET handled = %s WHERE {_KEY} AND handled = %s"
        if not sql.execute(reader, (position, app, user, 0, 0, before)):
            return False
        now = sql.clock_ms()
        for conversation, (first, last) in sorted(ranges.items()):
            key = app, user, 0, conversation
            values = NEVER, first - 1, NEVER, now, last, *key
            if not sql.execute(_ADD_MESSAGES, values):
                row = Queue(
                    app=app,
                    member=user,
                    conversation=conversation,
                    due=now,
                    handled=first - 1,
                    last=last,
                )
                _insert(sql, row)
        return True

    # --- claims ---------------------------------------------------------------

    @Store.reading_or(Look(None, 0, (), None))
    def look(self, sql: PooledStatements, app: str, user: str) -> Look:
        """The state of a mailbox, with the rows that may be claimed."""
        reader = sql.query(
            f"SELECT handled, last FROM mailbox_queue WHERE {_KEY}", (app, user, 0, 0)
        )
        if not reader:
            return Look(None, 0, (), None)
        now = sql.clock_ms()
        rows = list(map(_ROWS.read, sql.query(DUE, (app, user, OPEN, NEVER, AT_ONCE))))
        due = [row for row in rows if row.due <= now]
        seconds = None
        # The rows are in the order of their times, so the first of the others
        # is due next.
        if len(due) < len(rows):
            seconds = (rows[len(due)].due - now) / _SECOND_MS
        ((position, begin),) = reader
        return Look(position, begin, due, seconds)

    @Store.writing
    def claim(self, sql: PooledStatements, row: Queue, seconds: int) -> int | None:
        """Claim a row that a worker has read, for ``seconds``.

        Returns the end of the lease, or None if another worker has claimed it
        meanwhile.
        """
        until = sql.clock_ms() + seconds * _SECOND_MS
        change = f"UPDATE mailbox_queue SET claim = %s, due = %s, tries = %s, reason = '' WHERE {_KEY} "
        values = row.claim + 1, until, row.tries + 1, *row.key
        # The row must be as the worker has read it.
        same = "AND state = %s AND claim = %s AND due = %s"
        if sql.execute(change + same, (*values, OPEN, row.claim, row.due)):
            return until
        return None

    @Store.writing
    def renew(self, sql: PooledStatements, row: Queue, seconds: int) -> int | None:
        """Extend a claim. Returns the new end of the lease, or None if the
        claim has ended."""
        now = sql.clock_ms()
        until = now + seconds * _SECOND_MS
        change = f"UPDATE mailbox_queue SET due = %s WHERE {_LEASED}"
        if sql.execute(change, (until, *_claim_of(row, now))):
            return until
        return None

    @Store.writing
    def settle(self, sql: PooledStatements, row: Queue, upto: int) -> bool | None:
        """Note that the messages of a claim up to ``upto`` were handled.

        Returns False if this claim has noted it before, and None if the claim
        has ended.
        """
        if row.message:
            delete = f"DELETE FROM mailbox_queue WHERE {_LEASED}"
            if sql.execute(delete, _claim_of(row, sql.clock_ms())):
                return True
            return None
        if _settle_conversation(sql, row, upto):
            return True
        # A worker may repeat its acknowledgement, if it got no answer.
        same = f"SELECT 1 FROM mailbox_queue WHERE {_KEY} AND claim = %s AND settled = %s AND handled >= %s"
        if sql.query(same, (*row.key, row.claim, row.claim, upto)):
            return False
        return None

    @Store.writing
    def give_back(
        self, sql: PooledStatements, row: Queue, seconds: int, reason: str
    ) -> bool:
        """End a claim. Its messages are due again after ``seconds``, with the
        ``reason`` of the failure.

        Returns False if the claim had ended before.
        """
        now = sql.clock_ms()
        due = now + seconds * _SECOND_MS
        # Another number, so that the token of the claim is not valid any more.
        claim = row.claim + 1
        change = f"UPDATE mailbox_queue SET claim = %s, settled = %s, due = %s, reason = %s WHERE {_LEASED}"
        values = claim, claim, due, reason, *_claim_of(row, now)
        return bool(sql.execute(change, values))

    # --- dead letters ---------------------------------------------------------

    @Store.writing
    def bury(self, sql: PooledStatements, row: Queue, message: int) -> bool:
        """Make a message of a claim a dead letter, which nobody can claim.

        It is the first message of a conversation, or the message that was put
        back. ``row`` has the number of the claim, but the tries and the reason
        from before. Returns False if the claim has ended.
        """
        now = sql.clock_ms()
        if row.message:
            change = f"UPDATE mailbox_queue SET state = %s, settled = %s, due = %s, reason = %s WHERE {_LEASED}"
            values = DEAD, row.claim, now, row.reason, *_claim_of(row, now)
            return bool(sql.execute(change, values))
        # The message gets a row of its own, and its conversation continues
        # behind it.
        if not _settle_conversation(sql, row, message):
            return False
        _insert(sql, _dead_letter(row, message, now))
        return True

    @Store.reading_or(())
    def dead(
        self, sql: PooledStatements, app: str, user: str, after: int, limit: int
    ) -> Sequence[Queue]:
        """The dead letters with an id after ``after``, in the order of their
        ids."""
        where = f"WHERE {_OF_USER} AND message > %s AND state = %s ORDER BY message LIMIT %s"
        return _ROWS.find(sql.query, where, app, user, after, DEAD, limit)

    @Store.writing_or(False)
    def put_back(
        self, sql: PooledStatements, app: str, user: str, message: int
    ) -> bool:
        """Put a dead letter back, so that it may be claimed again. Returns
        False if it does not exist."""
        change = (
            f"UPDATE mailbox_queue SET state = %s, tries = 0, due = %s WHERE {_OF_USER} AND message = %s "
            "AND state = %s"
        )
        return bool(
            sql.execute(change, (OPEN, sql.clock_ms(), app, user, message, DEAD))
        )

    @Store.writing_or(False)
    def drop(self, sql: PooledStatements, app: str, user: str, message: int) -> bool:
        """Delete a dead letter. Returns False if it does not exist."""
        delete = f"DELETE FROM mailbox_queue WHERE {_OF_USER} AND message = %s AND state = %s"
        return bool(sql.execute(delete, (app, user, message, DEAD)))


def _insert(sql: PooledStatements, row: Queue) -> None:
    """Insert a row, unless one with its key exists."""
    sql.insert_new("mailbox_queue", _ROWS.columns, [_ROWS.values(row)])


def _dead_letter(row: Queue, message: int, now: int) -> Queue:
    """The row of a message that has become a dead letter. ``row``: of its
    conversation."""
    return Queue(
        app=row.app,
        member=row.member,
        message=message,
        conversation=row.conversation,
        state=DEAD,
        due=now,
        handled=message - 1,
        last=message,
        tries=row.tries,
        reason=row.reason,
    )


def _claim_of(row: Queue, now: int) -> tuple[str | int, ...]:
    """The values for the condition :data:`_LEASED`, by which a claim is still
    in force."""
    return *row.key, row.claim, row.claim, now


def _settle_conversation(sql: Statements, row: Queue, upto: int) -> bool:
    """End a claim, and let its conversation continue after the entry ``upto``.

    If it has newer messages, it is due now. Returns False if the claim has
    ended.
    """
    now = sql.clock_ms()
    change = (
        "UPDATE mailbox_queue SET "
        "due = CASE WHEN last > %s THEN %s ELSE %s END, "
        "handled = %s, settled = %s, tries = 0, reason = '' "
        f"WHERE {_LEASED} AND handled < %s AND last >= %s"
    )
    changes = upto, now, NEVER, upto, row.claim
    conditions = *_claim_of(row, now), upto, upto
    return bool(sql.execute(change, (*changes, *conditions)))


STEPS: Final = (
    """
    # "message": 0, or the dead letter, or the message that was put back, of
    # which the row is. "state": 0 may be claimed when it is "due", 1 is a dead
    # letter, 2 (of the conversation 0) says how far the log was read
    # ("handled"), and where it ended when the mailbox was made ("last").
    ordered mailbox_queue: app name500*, member name255*, message big*, conversation big*, state small,
        due big, handled big, last big, claim big, settled big, tries int, reason string200
      index mailbox_queue_by_due: app member state due
    """,
)

TABLES: Final = (
    Table(
        name="mailbox_queue",
        types="""app name500*, member name255* out user, message big* out, conversation big* out,
            state small out, due big out, handled big out, last big out, claim big out, settled big out,
            tries int out, reason string200 out words""",
        imported=Reason(
            "an import gives messages other ids: the mailbox begins with what the bot has not read"
        ),
    ),
)
