"""Where transactions on the log are written: the owner of the connection that does it.

On SQLite a transaction runs in the database's thread, so nothing in here logs or switches by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from imserver.storage.log_pen import Pen
from imserver.storage.place import Place

if TYPE_CHECKING:
    from imserver.storage.database import Database

T = TypeVar("T")


class NotStored(Exception):
    """Nothing was stored: the database cannot be reached, or the time was over. Temporary."""


class Unsure(Exception):
    """COMMIT was asked for, and its answer was lost."""


class Refused(Exception):
    """Nothing was stored: the database refuses a row for its content."""


class Gate:
    """Between a transaction and its COMMIT, for one to pass: the transaction, or who gives up waiting for it.

    Safe between threads, without a lock that would be the loop's.
    """

    def __init__(self) -> None:
        self._open: Final = [None]

    def take(self) -> bool:
        """Whether the caller was the first to come."""
        try:
            self._open.pop()
        except IndexError:
            return False
        return True


class Desk:
    """Writes transactions one after the other, over one connection, which is made anew when it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pen: Pen | None = None
        self._make, self._content, self._faults = _kind(database.place, database)

    def transact(self, work: Callable[[Pen], T], gate: Gate, seconds: float) -> T:
        """Do ``work`` and commit. Switches. Raises NotStored, Unsure or Refused.

        What holds up longer than ``seconds`` is broken off; on SQLite, by whoever takes the gate.
        """
        return self._database.run_raw(lambda: self._transact(work, gate), seconds, self._late(gate))

    def ask(self, work: Callable[[Pen], T], seconds: float) -> T:
        """Do ``work`` in a transaction that is undone. Switches. Raises NotStored."""
        gate = Gate()
        gate.take()
        return self._database.run_raw(lambda: self._transact(work, gate, undo=True), seconds, NotStored)

    def close(self) -> None:
        """Give the connection back."""
        self._database.run_raw(self._drop, 1.0, NotStored)

    # --- inside ---------------------------------------------------------------------------------------------

    def _late(self, gate: Gate) -> Callable[[str], Exception]:
        # Called when the time is over, in the greenlet that waited.
        def decide(words: str) -> Exception:
            self._pen = None
            return NotStored(words) if gate.take() else Unsure(words)

        return decide

    def _transact(self, work: Callable[[Pen], T], gate: Gate, undo: bool = False) -> T:
        fresh = self._pen is None
        try:
            return self._once(work, gate, undo)
        except NotStored:
            # A connection that lay idle may have been cut in the meantime: that is worth one more try.
            if fresh or self._database.place.file is not None:
                raise
            return self._once(work, gate, undo)

    def _once(self, work: Callable[[Pen], T], gate: Gate, undo: bool) -> T:
        committing = False
        try:
            with self._database.writing():
                if self._pen is None:
                    self._pen = self._make()
                pen = self._pen
                pen.begin()
                value = work(pen)
                if undo:
                    pen.rollback()
                    return value
                if not gate.take():
                    pen.rollback()
                    raise NotStored("no answer in time")
                committing = True
                pen.commit()
                return value
        except self._content as error:
            self._undo()
            if committing:
                raise Unsure(_words(error)) from None
            raise Refused(_words(error)) from None
        except self._faults as error:
            self._drop()
            raise (Unsure if committing else NotStored)(_words(error)) from None
        except BaseException:
            self._drop()
            raise

    def _undo(self) -> None:
        try:
            if self._pen is not None:
                self._pen.rollback()
        except self._faults:
            self._drop()

    def _drop(self) -> None:
        pen, self._pen = self._pen, None
        if pen is not None:
            with suppress(*self._faults):
                pen.close()


def _kind(
    place: Place, database: Database
) -> tuple[Callable[[], Pen], tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """(makes a pen, errors that a row is to blame for, all other errors) of an engine."""
    if place.engine == "sqlite":
        from imserver.storage import log_sqlite

        file = place.file
        assert file is not None
        return lambda: log_sqlite.SqlitePen(file), log_sqlite.CONTENT_ERRORS, log_sqlite.ERRORS
    if place.engine == "postgresql":
        from imserver.storage import log_postgresql

        return (
            lambda: log_postgresql.PostgresqlPen(database.raw_connection()),
            log_postgresql.CONTENT_ERRORS,
            log_postgresql.ERRORS,
        )
    from imserver.storage import log_mysql

    return (
        lambda: log_mysql.MysqlPen(database.raw_connection()),
        log_mysql.CONTENT_ERRORS,
        log_mysql.ERRORS,
    )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
