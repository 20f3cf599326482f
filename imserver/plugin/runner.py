"""Runs work that outlives a node: each piece is a row of a feature's own
table."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

from gevent.event import Event as Flag
from gevent.pool import Group

from imserver.gateway.clock import retry_pause, until_beat
from imserver.gateway.errors import ImserverError, StorageUnavailable, Unavailable
from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.store import Store

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 1.0
"""Least time between two renewals of a lease."""
MAX_PAUSE_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 2.0
"""How long a node that ends waits for its work to stop."""
_ROW: Final = "app = %s AND id = %s"
"""The condition of one row, with placeholders for its key."""


class Runner(Store.Rows):
    """Runs the work that rows of a table ask for.

    Only one node at a time works on a row, while it has the *lease* of the row.
    If that node ends, another node continues the work. The runner owns the rows
    on which this node works.

    ``table`` has the columns ``app`` and ``id``, its key, ``created``, and
    ``leased``. The last one is the Unix second, by the clock of the database,
    until which a node works on the row. ``due``: the condition of the rows that
    ask for work; ``{now}`` in it is the time of the database. The work on a row
    ends when the row is deleted or no longer meets the condition. ``work(app,
    id)`` does the whole work, from the content of the row. It calls
    :meth:`proceed` between its steps, and :meth:`end` after the last one. If it
    raises, it is called again after a pause, on any node. Pauses get longer, up
    to two minutes. ``look_seconds``: the time between two looks for rows that
    other nodes have left.
    """

    class Lost(ImserverError):
        """The work has to stop.

        It was cancelled, another node does it, or this node ends.
        """

    def __init__(
        self,
        store: Store,
        table: str,
        due: str,
        work: Callable[[str, str], object],
        lease_seconds: int,
        look_seconds: float,
    ) -> None:
        """Begin without work.

        The class explains the arguments. A lease lasts ``lease_seconds`` unless
        it is renewed.
        """
        super().__init__(store)
        self._table = table
        self._condition = due
        self._function = work
        self._lease_seconds = lease_seconds
        self._look_seconds = look_seconds
        # Wakes run() before its next look.
        self._wake = Flag()
        self._works = Group()
        self._leases: dict[tuple[str, str], tuple[int, float]] = {}
        """App and id of a row on which this node works → the end of the lease
        (0: not leased yet), and the monotonic time of its last renewal."""
        self._failures: Counter[tuple[str, str]] = Counter()
        """App and id of a row → how often the work on it has failed."""
        self._has_ended = False

    # --- which rows -----------------------------------------------------------

    def run(self) -> None:
        """Greenlet: look for rows on which no node works, until it is killed.

        It looks every ``look_seconds``, and at once after :meth:`wake`.
        """
        while True:
            self._wake.clear()
            seconds = self._look_seconds
            try:
                # A node that works on a row now may die: look again when its
                # lease ends.
                if self.look():
                    seconds = min(seconds, self._lease_seconds)
            except StorageUnavailable as error:
                log.debug("the table %s could not be read: %s", self._table, error)
            except Exception:
                log.exception("the table %s could not be read", self._table)
            self._wake.wait(until_beat(seconds))

    def wake(self) -> None:
        """Let :meth:`run` look at once, because a row was added.

        Never switches greenlets.
        """
        self._wake.set()

    def look(self) -> bool:
        """Work on the rows on which no node works, the oldest first.

        Returns True if a row asks for work, whether this node or another one
        does it. Switches greenlets. Raises StorageUnavailable.
        """
        rows = self._due()
        # The failures of work that has ended are forgotten.
        due_keys = {(app, id) for app, id, _, _ in rows}
        for key in self._failures.keys() - due_keys:
            del self._failures[key]

        for app, id, lease_end, now in rows:
            is_free = lease_end < now
            if is_free:
                # In a greenlet of its own, which stop() can wait for.
                self._works.spawn(self._work, app, id, lease_end).join()
        return bool(rows)

    @Store.reading_or([])
    def _due(self, sql: PooledStatements) -> list[tuple[str, str, int, int]]:
        """Read the rows that ask for work, the oldest first.

        Each is app, id, the end of the lease, and the time of the database.
        """
        rows = sql.query(
            f"SELECT app, id, leased, {sql.now} "
            f"FROM {self._table} "
            f"WHERE {self._due_condition(sql)} "
            "ORDER BY created"
        )
        return [
            (text_of(app), text_of(id), lease_end, int(now))
            for app, id, lease_end, now in rows
        ]

    def _due_condition(self, sql: PooledStatements) -> str:
        """Return the condition of the rows that ask for work, in SQL."""
        return f"({self._condition.format(now=sql.now)})"

    def start(self, app: str, id: str) -> None:
        """Work on a row at once, at the same time as on other rows.

        If another node works on it, that node loses the lease. Never switches
        greenlets.
        """
        self._works.spawn(self._work, app, id, known_end=None)

    def stop(self) -> None:
        """Stop all work, and give the leases back. Switches greenlets.

        So other nodes continue at once.
        """
        self._has_ended = True
        self._works.join(_STOP_SECONDS)

    # --- one row --------------------------------------------------------------

    def _work(self, app: str, id: str, known_end: int | None) -> None:
        """Greenlet: lease a row, do its work, and give the lease back.

        After an error the lease ends later, so that the work is done again
        after a pause. ``known_end`` is the end of the lease that this node has
        seen, for :meth:`_lease`.
        """
        row = (app, id)
        if row in self._leases or self._has_ended:
            return

        # Set before the first switch of greenlets, so that no other greenlet
        # begins the same row.
        self._leases[row] = (0, 0.0)
        pause = -1.0  # seconds; the lease ends now, and any node may continue
        try:
            self._leases[row] = (self._lease(app, id, known_end), 0.0)
            self._function(app, id)
        except Runner.Lost as error:
            log.info("the work on %s %s of %s stops: %s", self._table, id, app, error)
        except Exception as error:
            pause = self._pause_after(error, app, id)
        finally:
            self._end_lease(app, id, int(pause))

    def _end_lease(self, app: str, id: str, pause: int) -> None:
        """Give a lease back, so that it ends after ``pause`` seconds.

        If the database is away, it ends by itself.
        """
        lease_end, _ = self._leases.pop((app, id))
        with suppress(StorageUnavailable):
            self._give_back(app, id, lease_end, pause)

    def _pause_after(self, error: Exception, app: str, id: str) -> float:
        """Log that work has failed, and return the seconds until the next try.

        The more often it has failed, the longer is the pause. A service that
        does not answer is only a warning.
        """
        row = (app, id)
        self._failures[row] += 1
        is_unexpected = not isinstance(error, Unavailable | OSError)
        level = logging.ERROR if is_unexpected else logging.WARNING
        text = "the work on %s %s of %s has to wait: %s"
        log.log(level, text, self._table, id, app, error, exc_info=is_unexpected)
        return retry_pause(self._failures[row], self._lease_seconds, MAX_PAUSE_SECONDS)

    def proceed(self, app: str, id: str, **progress: int) -> None:
        """Renew the lease of a row, and set columns with its progress.

        It does so at most once a second, however often it is called. Switches
        greenlets. Raises :class:`Runner.Lost` and StorageUnavailable.
        """
        known_end, renewed_at = self._leases[app, id]
        if self._has_ended:
            raise Runner.Lost("this node ends")
        if monotonic() - renewed_at >= RENEW_SECONDS:
            lease_end = self._lease(app, id, known_end, **progress)
            self._leases[app, id] = (lease_end, monotonic())

    @Store.writing
    def _lease(
        self,
        sql: PooledStatements,
        /,
        app: str,
        id: str,
        known_end: int | None,
        **progress: int,
    ) -> int:
        """Lease a row, or renew its lease, and set columns (``progress``).

        Returns the new end of the lease. ``known_end`` is the end that the
        lease must still have, because otherwise another node has leased the row
        meanwhile (None: take the lease from any node). Raises
        :class:`Runner.Lost`.
        """
        rows = sql.query(
            f"SELECT leased, {sql.now} FROM {self._table} WHERE {_ROW}", (app, id)
        )
        if rows:
            stored_end, now = rows[0]
            # Each lease has another end. So a node sees that its lease is lost.
            lease_end: int = max(int(now) + self._lease_seconds, stored_end + 1)
            expected_end = stored_end if known_end is None else known_end
            statement = self._lease_statement(sql, progress)
            values = (lease_end, *progress.values(), app, id, expected_end)
            if sql.execute(statement, values):
                return lease_end
        raise Runner.Lost("it was cancelled, or another node does it")

    def _lease_statement(self, sql: PooledStatements, columns: Iterable[str]) -> str:
        """Write the statement that leases a row and sets ``columns``.

        Its values are the new end, the columns, app and id of the row, and the
        end that the lease has now. A row that is not due is not leased.
        """
        changes = "".join(f", {column} = %s" for column in columns)
        return (
            f"UPDATE {self._table} "
            f"SET leased = %s{changes} "
            f"WHERE {_ROW} AND leased = %s AND {self._due_condition(sql)}"
        )

    @Store.writing
    def _give_back(
        self, sql: PooledStatements, app: str, id: str, lease_end: int, pause: int
    ) -> None:
        """Let the lease of a row end after ``pause`` seconds.

        If another node has the lease now, nothing changes.
        """
        statement = (
            f"UPDATE {self._table} "
            f"SET leased = {sql.now} + %s "
            f"WHERE {_ROW} AND leased = %s"
        )
        sql.execute(statement, (pause, app, id, lease_end))

    @Store.writing
    def end(self, sql: PooledStatements, /, app: str, id: str, **columns: int) -> None:
        """End the work on a row, so that it no longer asks for work.

        Sets these columns; without columns, it deletes the row. If two nodes
        work on a row, only one of their calls succeeds. Switches greenlets.
        Raises :class:`Runner.Lost` and StorageUnavailable.
        """
        # The condition makes sure that only one node ends the work.
        change = f"DELETE FROM {self._table}"
        if columns:
            changes = ", ".join(f"{column} = %s" for column in columns)
            change = f"UPDATE {self._table} SET {changes}"
        statement = f"{change} WHERE {_ROW} AND {self._due_condition(sql)}"
        if not sql.execute(statement, (*columns.values(), app, id)):
            raise Runner.Lost("it was cancelled, or has ended elsewhere")
