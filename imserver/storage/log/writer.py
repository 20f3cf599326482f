"""Group commit: one greenlet stores everything that waits in one transaction after the other.

Callers wait for the commit. On SQLite a transaction runs in the database's thread, so code that runs in it
neither logs nor switches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import SystemRandom
from time import time
from typing import TYPE_CHECKING, Final, TypeVar

import gevent
from gevent.event import Event

from imserver.errors import StorageUnavailable
from imserver.storage.address import DatabaseAddress
from imserver.storage.log.contract import INVALID, Change, OnCommitted, Rejected, StorageUnsure, Stored
from imserver.storage.log.driver import LogDriver
from imserver.storage.log.groups import GroupChange
from imserver.storage.log.statements import CheckedDraft
from imserver.storage.log.transaction import AppTransaction

if TYPE_CHECKING:
    from imserver.storage.database import Database

log = logging.getLogger(__name__)

_BATCH_DRAFTS: Final = 2000
_BATCH_BYTES: Final = 8 << 20
_MOST_WAITING: Final = 100_000
_LOOK_SECONDS: Final = 0.5
"""Between two attempts to find out what became of a COMMIT."""
_CLOSE_SECONDS: Final = 5.0

_random: Final = SystemRandom()


class Job:
    """What one caller wants of one app's log: drafts to append, or a group_change to do."""

    __slots__ = ("app", "change", "done", "error", "group_change", "guard", "outcomes", "ready")

    def __init__(
        self, app: str, ready: Sequence[CheckedDraft], group_change: GroupChange | None = None
    ) -> None:
        self.app = app
        self.ready = ready
        self.group_change = group_change
        self.outcomes: Sequence[Stored] = ()
        self.change: Change | Rejected | None = None
        self.error: StorageUnavailable | None = None
        self.guard: CommitGuard | None = None
        """Of the transaction that it is in; None: it still waits."""
        self.done = Event()

    @property
    def weight(self) -> int:
        """Bytes, roughly."""
        return sum(len(one.draft.body) + len(one.draft.meta) + 200 for one in self.ready)


class LogWriter:
    """Owner of what waits to be stored. ``on_committed`` is told of every transaction before anybody else."""

    def __init__(self, database: Database, seconds: float, on_committed: OnCommitted) -> None:
        self._on_committed = on_committed
        self._database = database
        self._seconds = seconds
        self._connection = WriterConnection(database)
        self._waiting: deque[Job] = deque()
        self._drafts_waiting = 0
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._closed = False

    def write(self, job: Job) -> None:
        """Have it stored; returns when it is. Switches. Raises StorageUnavailable, StorageUnsure too."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        if self._drafts_waiting >= _MOST_WAITING:
            raise StorageUnavailable("too much waits to be stored")
        self._waiting.append(job)
        self._drafts_waiting += len(job.ready)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        # Twice: for the transaction that is under way, and for its own.
        if not job.done.wait(2 * self._seconds):
            self._give_up(job)
        if isinstance(job.error, StorageUnsure):
            raise job.error
        if job.error is not None:
            raise StorageUnavailable(str(job.error)) from None

    def close(self) -> None:
        """Store what waits, as far as that goes, and take nothing more."""
        self._closed = True
        if self._greenlet is not None:
            self._greenlet.join(_CLOSE_SECONDS)
            if self._greenlet is not None:
                self._greenlet.kill(block=False)
        for job in self._waiting:
            self._fail([job], StorageUnavailable("the database is closed"))
        try:
            self._connection.close()
        except NotStored:
            log.debug("the log's connection is left as it is")

    def _give_up(self, job: Job) -> None:
        if job.guard is None:
            self._waiting.remove(job)
            self._drafts_waiting -= len(job.ready)
            job.error = self._database.away("no answer in time")
        elif job.guard.take():
            job.error = self._database.away("no answer in time")  # its transaction will be undone
        elif not job.done.wait(self._seconds):
            job.error = StorageUnsure("the database does not answer: no answer in time")

    # --- the greenlet ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._waiting:
                jobs = self._take()
                try:
                    self._store(jobs)
                except Exception:
                    log.exception("the log could not be written")
                    self._fail(jobs, StorageUnavailable("the log could not be written"))
        finally:
            self._greenlet = None

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        drafts = weight = 0
        while self._waiting and drafts < _BATCH_DRAFTS and weight < _BATCH_BYTES:
            job = self._waiting.popleft()
            jobs.append(job)
            drafts += len(job.ready)
            weight += job.weight
        self._drafts_waiting -= drafts
        return jobs

    def _store(self, jobs: list[Job]) -> None:
        guard = CommitGuard()
        for job in jobs:
            job.guard = guard
        written = WriteTransaction(jobs)
        try:
            self._connection.transact(written, guard, self._seconds)
        except NotStored as error:
            self._fail(jobs, self._database.away(str(error)))
            return
        except RowRefused as error:
            guard.take()
            self._store_one_by_one(jobs, str(error))
            return
        except Unsure as error:
            failure = self._database.away(str(error))
            if not self._was_stored(written):
                self._fail(jobs, failure)
                return
        self._database.heard()
        for job in jobs:
            _settle_late(job, job.outcomes)
        self._tell(written)
        for job in jobs:
            job.done.set()

    def _tell(self, written: WriteTransaction) -> None:
        for transaction in written.sheets:
            if transaction.entries:
                try:
                    self._on_committed(
                        transaction.app, transaction.before + 1, transaction.head.last_id, transaction.entries
                    )
                except Exception:  # it is stored all the same
                    log.exception("what was stored could not be passed on")

    def _was_stored(self, written: WriteTransaction) -> bool:
        """Find out, for as long as it takes: nothing may be told before what comes earlier in the log."""
        first = next(
            (
                (transaction.app, transaction.entries[0].id)
                for transaction in written.sheets
                if transaction.entries
            ),
            None,
        )
        if first is None:
            return True

        def look(driver: LogDriver) -> bool:
            # Behind the lock: the transaction may still be ending somewhere.
            return driver.batch_of(driver.lock(first[0]).number, first[1]) == written.batch

        while True:
            try:
                return self._connection.ask(look, self._seconds)
            except (NotStored, RowRefused):
                gevent.sleep(_LOOK_SECONDS)

    def _store_one_by_one(self, jobs: list[Job], words: str) -> None:
        """One row is to blame, and the others need not suffer for it."""
        single = len(jobs) == 1 and len(jobs[0].ready) <= 1
        for job in jobs:
            if single:
                log.error("the database refuses a row: %s", words)
                job.outcomes = [Rejected(INVALID, "the database refuses it")] * len(job.ready)
                job.change = Rejected(INVALID, "the database refuses it")
            elif job.group_change is not None:
                self._store([job])
                continue
            else:
                parts = [Job(job.app, [one]) for one in job.ready]
                for part in parts:
                    self._store([part])
                job.outcomes = [part.outcomes[0] if part.error is None else part.error for part in parts]
            _settle_late(job, job.outcomes)
            job.done.set()

    def _fail(self, jobs: Sequence[Job], error: StorageUnavailable) -> None:
        for job in jobs:
            if not _settle_late(job, None):
                job.error = error
            job.done.set()


def _settle_late(job: Job, outcomes: Sequence[Stored] | None) -> bool:
    """Say what became of it to somebody who could not wait; whether there is such a one."""
    if not isinstance(job.error, StorageUnsure):
        return False
    try:
        job.error.on_known(outcomes)
    except Exception:
        log.exception("what was stored late could not be passed on")
    return True


class WriteTransaction:
    """What is done in one transaction; may be done again from the start, on another connection."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.batch = _random.getrandbits(62) + 1
        self.sheets: list[AppTransaction] = []
        self._now = int(time())
        self._jobs: dict[str, list[Job]] = {}
        for job in jobs:
            self._jobs.setdefault(job.app, []).append(job)

    def __call__(self, driver: LogDriver) -> None:
        self.sheets = []
        for app in sorted(self._jobs):  # always in this order, so that two writers never wait for each other
            transaction = AppTransaction(driver, app, self.batch, self._now)
            self.sheets.append(transaction)
            appending = [job for job in self._jobs[app] if job.ready]
            for job in self._jobs[app]:
                if job.group_change is not None:
                    job.change = job.group_change(transaction)
            outcomes = iter(transaction.append([one for job in appending for one in job.ready]))
            for job in appending:
                job.outcomes = [next(outcomes) for _ in job.ready]
            transaction.write()


T = TypeVar("T")


class NotStored(Exception):
    """Nothing was stored: the database cannot be reached, or the time was over. Temporary."""


class Unsure(Exception):
    """COMMIT was asked for, and its answer was lost."""


class RowRefused(Exception):
    """Nothing was stored: the database refuses a row for its content."""


class CommitGuard:
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


class WriterConnection:
    """Writes transactions one after the other, over one connection, which is made anew when it is lost."""

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
