"""The connection that writes to the log, and the permission to commit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from imserver.errors import StorageUnavailable
from imserver.storage.address import DatabaseAddress
from imserver.storage.log.driver import LogDriver

if TYPE_CHECKING:
    from imserver.storage.database import Database

T = TypeVar("T")


class NotStored(Exception):
    """Nothing was stored: the database cannot be reached, or the time is over. Temporary."""


class Unsure(Exception):
    """COMMIT was sent, and its answer was lost."""


class RowRefused(Exception):
    """Nothing was stored: the database refuses a row for its content."""


class CommitGuard:
    """The permission to commit a transaction. It is taken once: by the transaction before its COMMIT, or by
    whoever gives up waiting for it.

    Safe between threads, without a lock, which would belong to the loop.
    """

    def __init__(self) -> None:
        self._open: Final = [None]

    def take(self) -> bool:
        """Whether the caller is the first."""
        try:
            self._open.pop()
        except IndexError:
            return False
        return True


class WriterConnection:
    """Runs transactions one after the other, on one connection, which is opened again when it is lost.

    On SQLite a transaction runs in the database's thread, so its code neither logs nor switches.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._driver: LogDriver | None = None
        self._make, self._content, self._faults = _kind(database.place, database)

    def transact(self, work: Callable[[LogDriver], T], guard: CommitGuard, seconds: float) -> T:
        """Do ``work`` and commit. Switches. Raises NotStored, Unsure or RowRefused.

        What holds up longer than ``seconds`` is broken off; on SQLite, by whoever takes the guard.
        """
        return self._database.run_raw(lambda: self._transact(work, guard), seconds, self._late(guard))

    def ask(self, work: Callable[[LogDriver], T], seconds: float) -> T:
        """Do ``work`` in a transaction that is undone. Switches. Raises NotStored."""
        guard = CommitGuard()
        guard.take()
        return self._database.run_raw(lambda: self._transact(work, guard, undo=True), seconds, NotStored)

    def heard(self) -> None:
        """The database answered."""
        self._database.heard()

    def away(self, words: str) -> StorageUnavailable:
        """The database did not answer. Returns the error to raise."""
        return self._database.away(words)

    def close(self) -> None:
        """Give the connection back."""
        self._database.run_raw(self._drop, 1.0, NotStored)

    # --- inside ---------------------------------------------------------------------------------------------

    def _late(self, guard: CommitGuard) -> Callable[[str], Exception]:
        # Called when the time is over, in the greenlet that waited.
        def decide(words: str) -> Exception:
            self._driver = None
            return NotStored(words) if guard.take() else Unsure(words)

        return decide

    def _transact(self, work: Callable[[LogDriver], T], guard: CommitGuard, undo: bool = False) -> T:
        fresh = self._driver is None
        try:
            return self._once(work, guard, undo)
        except NotStored:
            # A connection that lay idle may have been cut in the meantime: that is worth one more try.
            if fresh or self._database.place.file is not None:
                raise
            return self._once(work, guard, undo)

    def _once(self, work: Callable[[LogDriver], T], guard: CommitGuard, undo: bool) -> T:
        committing = False
        try:
            with self._database.writing():
                if self._driver is None:
                    self._driver = self._make()
                driver = self._driver
                driver.begin()
                value = work(driver)
                if undo:
                    driver.rollback()
                    return value
                if not guard.take():
                    driver.rollback()
                    raise NotStored("no answer in time")
                committing = True
                driver.commit()
                return value
        except self._content as error:
            self._undo()
            if committing:
                raise Unsure(_words(error)) from None
            raise RowRefused(_words(error)) from None
        except self._faults as error:
            self._drop()
            raise (Unsure if committing else NotStored)(_words(error)) from None
        except BaseException:
            self._drop()
            raise

    def _undo(self) -> None:
        try:
            if self._driver is not None:
                self._driver.rollback()
        except self._faults:
            self._drop()

    def _drop(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(*self._faults):
                driver.close()


def _kind(
    place: DatabaseAddress, database: Database
) -> tuple[Callable[[], LogDriver], tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """(makes a driver, errors that a row is to blame for, all other errors) of an engine."""
    if place.engine == "sqlite":
        from imserver.storage.log import sqlite

        file = place.file
        assert file is not None
        return lambda: sqlite.SqliteDriver(file), sqlite.CONTENT_ERRORS, sqlite.ERRORS
    if place.engine == "postgresql":
        from imserver.storage.log import postgresql

        return (
            lambda: postgresql.PostgresqlDriver(database.raw_connection()),
            postgresql.CONTENT_ERRORS,
            postgresql.ERRORS,
        )
    from imserver.storage.log import mysql

    return (
        lambda: mysql.MysqlDriver(database.raw_connection()),
        mysql.CONTENT_ERRORS,
        mysql.ERRORS,
    )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
