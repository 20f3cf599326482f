"""Removes messages of users, brings them back, and erases their contents.

A removal is a row of a :class:`Runner`. A node that continues it skips messages
that are removed already. All times come from the clock of the database, because
the clocks of nodes differ.
"""

from collections.abc import Callable, Sequence
from secrets import token_hex
from time import monotonic
from typing import Final

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.safety.declared import HTTP_UNKNOWN_ACT
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import PooledStatements, RowsOf, Runner, Statements, Store

UNDER_WAY: Final = 0
"""The state of a removal whose messages are being removed."""
DONE: Final = 1
"""The state after it: all messages are removed, and can still be restored."""
UNDOING: Final = 2
"""The state of a removal whose messages are being restored."""
ENDING: Final = 3
"""The state of a removal that becomes final: the copies of its messages are
being erased."""
UNDO_SECONDS: Final = 60
"""How long a removal may be undone."""
_ID_BYTES: Final = 8
_LEASE_SECONDS: Final = 10
_LOOK_SECONDS: Final = 5.0
_WAIT_STEP_SECONDS: Final = 0.05


class Removal(Struct, frozen=True):
    """Messages that are removed together.

    ``user`` is their sender; ``""`` for several senders. ``state`` is
    :data:`UNDER_WAY` or one of the states after it. ``since`` and ``until`` are
    times of the messages, in Unix milliseconds. ``reached`` and ``last`` are
    the ids between which messages are still searched. ``created`` and ``ends``
    are in Unix seconds: the removal may be undone until ``ends``; 0 means until
    a moderator decides.
    """

    app: str
    id: str
    user: str
    state: int
    since: int
    until: int
    reached: int
    last: int
    created: int = 0
    ends: int = 0


_ROWS: Final = RowsOf(Removal, "removal", user="member")


class Removals(Store.Rows):
    """Begins, undoes and ends removals of messages.

    ``runner`` does the long part of the work in the background. Methods may
    switch greenlets, and raise StorageUnavailable.
    """

    def __init__(self, store: Store) -> None:
        """Make the runner, which leases removals that need work to this node."""
        super().__init__(store)
        # A finished removal needs work again when the time for its undo is
        # over. The runner puts the time of the database for {now}.
        due = f"state <> {DONE} OR (ends > 0 AND ends <= {{now}})"
        self.runner = Runner(
            store,
            "removal",
            due,
            self._work,
            lease_seconds=_LEASE_SECONDS,
            look_seconds=_LOOK_SECONDS,
        )

    @property
    def _log(self) -> MessageLog:
        """The log of stored messages."""
        return self._store.part(MessageLog)

    @Store.writing
    def add(self, sql: PooledStatements, new: Removal, undo_seconds: int) -> Removal:
        """Store a new removal, and return it with its times.

        It can be undone for ``undo_seconds``; 0 means until a moderator
        decides.
        """
        now = int(sql.query(f"SELECT {sql.now}")[0][0])
        ends = 0
        if undo_seconds:
            ends = now + undo_seconds
        removal = replace(new, created=now, ends=ends)
        # No node has a lease of it yet, and no message is removed.
        leased_until = now
        messages = 0
        row = (*_ROWS.values(removal), leased_until, messages)
        sql.insert_new("removal", f"{_ROWS.columns}, leased, messages", [row])
        return removal

    def get(self, app: str, id: str) -> Removal | None:
        """A removal; None if it does not exist, or if it is final."""
        return _ROWS.first(self._store.rows, "WHERE app = %s AND id = %s", app, id)

    @Store.writing
    def change_state(
        self, sql: PooledStatements, removal: Removal, to: int, among: Sequence[int]
    ) -> bool:
        """Set the state of a removal to ``to``, if the present state is in
        ``among``.

        Returns whether the state was set. A removal can be undone only until
        the time in ``ends``, and can become final only after this time.
        """
        in_time = ""
        if to == UNDOING:
            in_time = f" AND (ends = 0 OR ends > {sql.now})"
        elif to == ENDING:
            # If the removal has begun to become final, a repeated attempt may
            # continue at any time.
            in_time = f" AND (state = {ENDING} OR (ends > 0 AND ends <= {sql.now}))"
        states = ", ".join(map(str, among))
        statement = (
            "UPDATE removal SET state = %s WHERE app = %s AND id = %s "
            f"AND state IN ({states}){in_time}"
        )
        return sql.execute(statement, (to, removal.app, removal.id)) > 0

    def begin(self, app: str, user: str, since: int, until: int) -> Removal:
        """Begin to remove the messages of a user that were sent in this time.

        The times are in Unix milliseconds; ``until`` 0 means until now. The
        runner removes the messages after this returns.
        """
        reached, last = self._log.removals.extent(app, since, until)
        new = Removal(
            app=app,
            id=token_hex(_ID_BYTES),
            user=user,
            state=UNDER_WAY,
            since=since,
            until=until,
            reached=reached,
            last=last,
        )
        removal = self.add(new, UNDO_SECONDS)
        self.runner.start(app, removal.id)
        return removal

    def remove(
        self, app: str, user: str, messages: Sequence[int], undecided: bool
    ) -> Removal:
        """Remove some messages before this returns.

        With ``undecided`` they can be restored until a moderator decides;
        otherwise for :data:`UNDO_SECONDS`. ``user`` is their sender; ``""`` for
        several.
        """
        new = _removal_of_ids(app, user)
        undo_seconds = UNDO_SECONDS
        if undecided:
            undo_seconds = 0
        removal = self.add(new, undo_seconds)
        # Messages of an earlier removal belong to this one from now on.
        self._log.removals.move(app, messages, removal.id)
        remaining = sorted(set(messages))
        while remaining:
            # Each call removes some of the first messages.
            done = self._log.removals.remove(app, removal.id, remaining) or []
            remaining = remaining[len(done) :]
        return removal

    def undo(self, app: str, act: str) -> Removal:
        """Begin to restore the messages of a removal; ``act`` is its id.

        Raises ServiceRefused if there is no such removal, or if it is too late.
        """
        removal = self.get(app, act)
        among = UNDER_WAY, DONE, UNDOING
        if removal is None or not self.change_state(removal, UNDOING, among):
            raise ServiceRefused(problem=HTTP_UNKNOWN_ACT)
        self.runner.start(app, act)
        return removal

    def count(self, app: str, act: str) -> int:
        """How many messages of a removal can be restored."""
        return self._log.removals.copies(app, act)

    def senders(self, app: str, act: str) -> list[str]:
        """The senders of the messages of a removal.

        Raises ServiceRefused if the removal does not exist.
        """
        removal = self.get(app, act)
        if removal is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_ACT)
        if removal.user:
            return [removal.user]
        return self._log.removals.senders(app, act)

    def wait(self, removal: Removal, seconds: float) -> bool:
        """Wait until all messages of a removal are removed or restored.

        Returns False if that takes longer than ``seconds``.
        """
        deadline = monotonic() + seconds
        while True:
            row = self.get(removal.app, removal.id)
            if row is None or row.state == DONE:  # the row of an undone one is deleted
                return True
            if monotonic() > deadline:
                return False
            gevent.sleep(_WAIT_STEP_SECONDS)

    # --- work -----------------------------------------------------------------

    def _work(self, app: str, act: str) -> None:
        """Do everything that a removal needs now, by its state.

        The runner calls this while this node has the lease of the removal;
        ``act`` is its id. ``proceed`` renews the lease, and raises an error if
        it is lost.
        """
        while True:
            # The row is read at each step, because a moderator may undo the
            # removal meanwhile.
            removal = self.get(app, act)
            if removal is None:
                return
            if removal.state == UNDER_WAY:
                self._remove(removal)
            elif removal.state == UNDOING:
                self._repeat(self._log.removals.restore, app, act)
            elif self.change_state(removal, ENDING, (DONE, ENDING)):
                self._repeat(self._log.removals.finish, app, act)
            else:
                return

    def _repeat(self, step: Callable[[str, str], object], app: str, act: str) -> None:
        """Repeat a step of a removal until it returns nothing, and end the
        removal."""
        while step(app, act):
            self.runner.proceed(app, act)
        self.runner.end(app, act)

    def _remove(self, removal: Removal) -> None:
        """Search the messages of a removal, and remove them.

        Ends when all are removed, or when a moderator undoes the removal. Each
        step stores the id up to which it has searched, so that another node can
        continue there.
        """
        reached = removal.reached
        while reached < removal.last:
            searched_to = self._remove_next(removal, reached)
            if searched_to is None:  # it is being undone
                return
            reached = searched_to
            self.runner.proceed(removal.app, removal.id, reached=reached)
        self.change_state(removal, to=DONE, among=(UNDER_WAY,))

    def _remove_next(self, removal: Removal, reached: int) -> int | None:
        """Remove the next messages after the id ``reached``.

        Returns the id up to which all messages are removed; None if a moderator
        undoes the removal.
        """
        app = removal.app
        act = removal.id

        def is_wanted(sql: Statements) -> bool:
            """Whether the removal is not being undone, in the same transaction."""
            return _is_under_way(sql, app, act)

        span = (removal.since, removal.until, reached, removal.last)
        messages, searched_to = self._log.removals.sent(app, removal.user, *span)
        ids = [id for id, _ in messages]
        if not ids:
            return searched_to
        done = self._log.removals.remove(app, act, ids, is_wanted)
        if done is None:
            return None
        if len(done) < len(ids):
            # One transaction removes not all of them. Search again after the
            # last removed one.
            return done[-1]
        return searched_to


def _removal_of_ids(app: str, user: str) -> Removal:
    """A removal of messages by their ids, so nothing is searched by time."""
    return Removal(
        app=app,
        id=token_hex(_ID_BYTES),
        user=user,
        state=DONE,
        since=0,
        until=0,
        reached=0,
        last=0,
    )


def _is_under_way(sql: Statements, app: str, id: str) -> bool:
    """Whether the messages of a removal are still to be removed.

    Locks its row until the end of the transaction in which the log removes
    messages, so that nobody can undo the removal in between.
    """
    rows = sql.query(
        f"SELECT state FROM removal WHERE app = %s AND id = %s{sql.for_update}",
        (app, id),
    )
    return bool(rows) and rows[0][0] == UNDER_WAY
