"""An open database: its engine, and functions that run on a connection, each in
its own transaction.

PostgreSQL and MySQL run in the caller's greenlet over cooperative sockets.
SQLite uses files, which are not cooperative, so one native thread does all its
work in order.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

import gevent
from gevent import GreenletExit
from msgspec.structs import replace
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.process import make_folder, open_private
from imserver.gateway.storage import migrations
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.damage import refuse_damaged
from imserver.gateway.storage.engines import (
    WRITES,
    compact,
    direct_statements,
    driver_errors,
    is_damage,
    is_deadlock,
    laxness_of,
    make_engine,
    refusal_of,
)
from imserver.gateway.storage.migrations import feature_steps
from imserver.gateway.storage.migrations.feature_steps import RecordedTables
from imserver.gateway.storage.migrations.runner import Transactions
from imserver.gateway.storage.statements import (
    CommitGuard,
    DirectStatements,
    NotStored,
    PooledStatements,
    RowRefused,
    T,
    Unsure,
)
from imserver.gateway.storage.tables import FeatureTables
from imserver.gateway.threads import Threads

log = logging.getLogger(__name__)

Work = Callable[[PooledStatements], T]
"""The work of one transaction. On SQLite it runs in another thread, so it must
use only the statements."""

LONG_SECONDS: Final = 3600.0
"""The time limit of changes of many rows."""
_CLOSE_SECONDS: Final = 1.0
"""How long running work may still take after the last caller has left."""
_DEADLOCK_RETRIES: Final = 3
"""How many times a transaction is tried again after a deadlock, within its time
limit."""
REFUSED_SECONDS: Final = 30.0
"""For this time, a database counts as unable to write after it has refused a
write. On a full disk a small write may still succeed, although a message does
not fit."""


class _TimedOut(BaseException):
    """The time limit of an operation has passed.

    It derives from BaseException on purpose. After an Exception SQLAlchemy may
    reuse the connection, and would read the late answer as the answer to its
    next query.
    """


def _raise_kill_behind(error: Exception) -> None:
    """Raise GreenletExit if ``error`` came up while the greenlet was killed.

    Python keeps the error that was being handled as the context of the next
    error. So a GreenletExit can be found there.
    """
    cause = error.__context__
    while cause is not None:
        if isinstance(cause, GreenletExit):
            raise cause from None
        cause = cause.__context__


_AT_FAULT: Final = (
    OperationalError,
    InterfaceError,
    InternalError,
    PoolTimeout,
    _TimedOut,
)
"""Errors that mean that the database is at fault, and not the statement."""


class GreenletRunner:
    """Runs work in the caller's greenlet."""

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        """Call ``function``, and return its result.

        Raises :class:`_TimedOut` after ``seconds``; None means that there is no
        time limit.
        """
        deadline = inf if seconds is None else monotonic() + seconds
        try:
            with gevent.Timeout(seconds, _TimedOut):
                return function()
        except Exception as error:
            # If the greenlet was killed, psycopg may raise an error about its
            # own state instead of GreenletExit. A killed greenlet must end.
            _raise_kill_behind(error)
            if monotonic() >= deadline:
                raise _TimedOut from None
            raise

    def close(self) -> bool:
        """Return True, because no work is running: work never outlives its
        caller here."""
        return True


class ThreadRunner:
    """Runs work in one native thread, in order.

    The caller's greenlet waits without blocking the loop. Work that has begun
    continues even if its caller has stopped waiting.
    """

    def __init__(self) -> None:
        self._threads = Threads(1)

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        """Call ``function`` in the thread, and return its result.

        Raises :class:`_TimedOut` after ``seconds``; None means that there is no
        time limit.
        """
        with gevent.Timeout(seconds, _TimedOut):
            return self._threads.do(function)

    def close(self) -> bool:
        """Refuse new work. Returns False if work is still running and cannot be
        stopped."""
        return self._threads.close(_CLOSE_SECONDS)


class _FoundState(NamedTuple):
    """The state in which a database was found when it was opened."""

    before: dict[str, int]
    """The migration steps that the database had; empty if it was new."""
    missing: dict[str, int]
    """The steps that were missing, and were taken now."""
    recorded: dict[str, RecordedTables]
    """The features of other distributions whose tables the database has."""
    laxness: str
    """The setting by which the database may lose confirmed data; ``""`` if it
    has no such setting."""


class Database:
    """One database. After :meth:`open` its schema is current.

    ``threaded`` means that a file is accessed in another thread, so that it
    does not block the loop. Commands without other work need no thread.
    ``features`` has the features of other distributions that have tables. Owner
    of its engine.
    """

    def __init__(
        self,
        address: DatabaseAddress,
        settings: StorageSettings,
        threaded: bool = True,
        features: Sequence[FeatureTables] = (),
    ) -> None:
        """Make the engine, without connecting. Raises StartError for an invalid
        address."""
        self.address = address
        self.id = ""
        """The id of the database. It stays the same after a copy or a move."""
        self.answers = False
        """Whether the last operation succeeded."""
        self._write_failed = False
        """Whether the database cannot write. A failed write sets it, and a
        later successful write resets it (:meth:`answered`)."""
        self._refused_at = -inf
        """Monotonic time of the last write that the database refused."""

        self._settings = settings
        self._features = features
        self._engine: Engine = make_engine(address, settings)
        self.runner: ThreadRunner | GreenletRunner
        # Access to files blocks the loop; access to sockets does not.
        if threaded and address.file is not None:
            self.runner = ThreadRunner()
        else:
            self.runner = GreenletRunner()
        self._lock = -1
        """The descriptor of the lock file beside a SQLite file; -1 if the lock
        file is not open."""

    def open(self, check_new: Callable[[], object] = lambda: None) -> None:
        """Connect, and take the migration steps that are missing.

        ``check_new`` is called before tables are made in a new database; it may
        raise StartError. Raises StartError with a message of one line.
        """
        try:
            if self.address.file is not None:
                self._take_file(self.address.file)
            found = self._bring_up_to_date(check_new)
        except OSError as error:
            raise self._unusable(error.filename, error.strerror) from None
        # A damaged database may also have values of wrong types.
        except (SQLAlchemyError, _TimedOut, TypeError, ValueError) as error:
            raise self._unusable(None, _message_of(error)) from None

        self.answers = True
        self._log_opened(found)

    def _unusable(self, file: str | None, reason: str | None) -> StartError:
        """Make the error that the database, or this file, cannot be used."""
        return StartError(
            f"storage: {file or self.address.shown} cannot be used: {reason}"
        )

    def _take_file(self, file: Path) -> None:
        """Prepare the file of an SQLite database, and open its lock file.

        Raises StartError if the file is damaged.
        """
        prepare_file(file)
        self._lock = open_private(Path(f"{file}.lock"))
        refuse_damaged(file)

    def _bring_up_to_date(self, check_new: Callable[[], object]) -> _FoundState:
        """Take the migration steps that are missing, and read the id of the
        database. Returns the state in which the database was found."""
        seconds = self._settings.seconds
        before, recorded = self.runner.run(self._read_steps, seconds)
        missing = migrations.missing_steps(before)
        if not before:
            check_new()
        if missing or feature_steps.are_due(self._features, recorded):
            # Each statement has its own time limit.
            self.runner.run(self._migrate, seconds=None)
        self.id, laxness = self.runner.run(self._read_identity, seconds)
        return _FoundState(before, missing, recorded, laxness)

    def _log_opened(self, found: _FoundState) -> None:
        """Log the state in which the database was found, for operators."""
        shown = self.address.shown
        if found.laxness:
            log.warning(
                "the database %s may lose confirmed data in a power failure: %s",
                shown,
                found.laxness,
            )

        if not found.before:
            log.info("the database %s was created", shown)
        elif found.missing:
            log.info(
                "the database %s was migrated to step %s",
                shown,
                migrations.named(found.missing),
            )

        # A database with newer steps works, because steps only add.
        newer = migrations.named(migrations.newer_steps(found.before))
        if newer:
            log.warning(
                "the database %s belongs to a newer release, at step %s", shown, newer
            )

        self._log_absent_features(found)

    def _log_absent_features(self, found: _FoundState) -> None:
        """Log the features that this node does not have, although the database
        has their tables."""
        features_here = {tables.feature for tables in self._features}
        absent = sorted(found.recorded.keys() - features_here)
        if absent:
            log.info(
                "the database %s has tables of features "
                "that this node does not have: %s",
                self.address.shown,
                ", ".join(absent),
            )

    # The following methods run in SQLite's thread and must not log, because the
    # locks of logging belong to the loop.

    def _read_steps(self) -> tuple[dict[str, int], dict[str, RecordedTables]]:
        """Return the migration steps that the database has, by their owner.

        Also returns the records of features of other distributions. The records
        are left out if steps are missing. Both results are empty for a new
        database.
        """
        # Without the lock, nodes that switch a new file to the write-ahead log
        # at the same time would find it locked.
        file = self.address.file
        is_new = file is not None and file.stat().st_size == 0
        lock = self.writing() if is_new else nullcontext()
        with lock, _connected(self._engine) as connection:
            taken = migrations.taken_steps(connection)
            if migrations.missing_steps(taken):
                # The table with the records may not exist yet.
                return taken, {}
            return taken, feature_steps.recorded(connection)

    def _write_long(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction with a time limit of an hour."""
        # Ordinary connections would end the transaction after some seconds.
        patient = self._patient_engine(self._settings)
        try:
            with (
                self.writing(),
                _connected(patient, writes=True) as connection,
                connection.begin(),
            ):
                return work(PooledStatements(connection))
        finally:
            patient.dispose()

    def _patient_engine(self, settings: StorageSettings) -> Engine:
        """Make a separate engine with a time limit of an hour, for changes of
        large tables."""
        return make_engine(self.address, replace(settings, seconds=LONG_SECONDS))

    def _migrate(self) -> None:
        """Take the migration steps that the database lacks. Raises StartError."""
        # A step uses two connections at once.
        pool_size = max(2, self._settings.pool_size)
        patient = self._patient_engine(replace(self._settings, pool_size=pool_size))

        @contextmanager
        def writing() -> Iterator[Connection]:
            """Open a write transaction that waits long for locks."""
            with (
                self.writing(),
                _connected(patient, writes=True) as connection,
                connection.begin(),
            ):
                yield connection

        def outside() -> Connection:
            return patient.connect().execution_options(isolation_level="AUTOCOMMIT")

        try:
            transactions = Transactions(writing, outside)
            migrations.migrate(transactions, self.address.shown, self._features)
        finally:
            patient.dispose()

    def _read_identity(self) -> tuple[str, str]:
        """Return the id of the database, and its setting that may lose
        confirmed commits.

        The setting is ``""`` if the database has no such setting. Raises
        StartError if the database has no id yet, because data are still being
        moved into it.
        """
        with _connected(self._engine) as connection:
            id = connection.exec_driver_sql(
                "SELECT id FROM directory"
            ).scalar_one_or_none()
            if id is None:
                raise StartError(
                    f"storage: the database {self.address.shown} is the target of a "
                    "move that has not ended: "
                    "run the same 'imserver move' or 'imserver restore' again"
                )
            return str(id), laxness_of(connection)

    def read(self, work: Work[T]) -> T:
        """Run ``work``, which only reads.

        All queries of ``work`` see the database as it was at the first query.
        Switches greenlets. Raises StorageUnavailable.
        """
        return self._guarded(partial(self._in_transaction, work), writes=False)

    def write(self, work: Work[T]) -> T:
        """Run ``work`` and commit. After a deadlock it is run again.

        If ``work`` raises, nothing is changed. Switches greenlets. Raises
        StorageUnavailable, after which the change may or may not have been
        made.
        """
        transaction = partial(self._in_transaction, work, writes=True)
        return self._guarded(transaction, writes=True)

    def write_long(self, work: Work[T]) -> T:
        """Run ``work`` and commit, as :meth:`write` does, for changes of many
        rows.

        ``work`` may take an hour, and is not run again after a deadlock.
        """
        transaction = partial(self._write_long, work)
        return self._guarded(transaction, writes=True, seconds=LONG_SECONDS)

    def compact(self) -> None:
        """Write all tables anew, so that the files no longer contain the data
        of deleted rows.

        Switches greenlets. Raises StorageUnavailable.
        """
        patient = self._patient_engine(self._settings)

        def work() -> None:
            """Compact the database outside a transaction, as the engines
            require."""
            with self.writing(), patient.connect() as connection:
                compact(connection.execution_options(isolation_level="AUTOCOMMIT"))

        try:
            self._guarded(work, writes=True, seconds=LONG_SECONDS)
        finally:
            patient.dispose()

    def retry_write(self) -> None:
        """Write something if the last write failed.

        So the node notices when the database can write again. Switches
        greenlets. Raises StorageUnavailable.
        """

        def work(sql: PooledStatements) -> None:
            """Write a row, without a lasting change."""
            # The value must change for a moment, because MySQL does not write a
            # row that stays the same. Other transactions never see the changed
            # value.
            sql.execute("UPDATE directory SET version = version + 1")
            sql.execute("UPDATE directory SET version = version - 1")

        if self._write_failed:
            self.write(work)

    def writer_connection(self) -> WriterConnection:
        """Return a connection that only the caller uses, for transactions one
        after the other."""
        return WriterConnection(self, self._engine)

    @property
    def healthy(self) -> bool:
        """Whether the last operation succeeded and the database can write.

        A database that is full or read-only still answers reads. After it has
        refused a write, it counts as unable to write for at least
        ``REFUSED_SECONDS``.
        """
        return self.answers and not self._write_failed

    def answered(self, wrote: bool) -> None:
        """Record a successful operation.

        ``wrote`` means that the operation was a write. Then the database counts
        as able to write again, but not within :data:`REFUSED_SECONDS` after a
        refused write.
        """
        if self.answers and not self._write_failed:
            return
        self.answers = True
        if wrote and monotonic() - self._refused_at >= REFUSED_SECONDS:
            self._write_failed = False
        if self.healthy:
            log.info("the database %s answers again", self.address.shown)

    def failed(
        self, words: str, wrote: bool, cause: BaseException | None = None
    ) -> StorageUnavailable:
        """Record a failed operation, and return the error to raise.

        ``words`` is the message of the driver. ``wrote`` means that the
        operation was a write. ``cause`` is the error of the driver, which tells
        whether the database cannot write.
        """
        refusal = refusal_of(cause) if wrote else ""
        how = refusal or "does not answer"
        if self.healthy:
            log.error("the database %s %s: %s", self.address.shown, how, words)

        # A database that refuses a write has answered.
        self.answers = bool(refusal)
        self._write_failed = self._write_failed or wrote
        error = StorageUnavailable(f"the database {how}: {words}")
        error.detail = ""
        if refusal:
            self._refused_at = monotonic()
            error.detail = f"The database {how}"
        return error

    def close(self) -> None:
        """Close all connections, unless an operation still runs."""
        if not self.runner.close():
            # The connection of the running operation must not be closed.
            log.warning(
                "the database %s stays open: an operation is still running",
                self.address.shown,
            )
            return
        self._engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- internal -------------------------------------------------------------

    def _in_transaction(self, work: Work[T], writes: bool = False) -> T:
        """Run ``work`` in a transaction, and return its result.

        ``writes`` means that the transaction needs a lock and a commit. It is
        run again after a deadlock.
        """
        if not writes:
            with _connected(self._engine) as connection:
                return work(PooledStatements(connection))

        retries = _DEADLOCK_RETRIES
        while True:
            try:
                with (
                    self.writing(),
                    _connected(self._engine, writes=True) as connection,
                    connection.begin(),
                ):
                    return work(PooledStatements(connection))
            except OperationalError as error:
                # The deadlock has ended, because this transaction was rolled
                # back.
                retries -= 1
                if retries < 0 or not is_deadlock(error):
                    raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Allow one writer of a SQLite file at a time, over all processes.

        Writers come in the order of their calls. Other engines have locks of
        their own.
        """
        if self._lock < 0:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _guarded(
        self, function: Callable[[], T], writes: bool, seconds: float | None = None
    ) -> T:
        """Run an operation, and record whether the database has answered.

        ``writes`` means that the operation writes. ``seconds`` is its time
        limit; None means the configured time limit. Raises StorageUnavailable
        if the database is at fault. Errors of a statement, such as a violated
        constraint, are raised unchanged.
        """
        try:
            value = self.runner.run(function, seconds or self._settings.seconds)
        except _AT_FAULT as error:
            raise self.failed(_message_of(error), writes, error) from None
        except DBAPIError as error:
            # If the connection is valid and the file is not damaged, the
            # statement is at fault.
            if not (error.connection_invalidated or is_damage(error)):
                raise
            raise self.failed(_message_of(error), writes, error) from None
        self.answered(writes)
        return value


class WriterConnection:
    """Runs transactions one after the other on one connection.

    It reconnects when the connection is lost. On SQLite a transaction runs in
    the database's thread, so its code must neither log nor switch greenlets.
    """

    def __init__(self, database: Database, engine: Engine) -> None:
        """Remember the database. The first transaction connects."""
        self._database = database
        self._engine = engine
        self._content_errors, self._errors = driver_errors(engine)
        self.sql: DirectStatements | None = None
        """The statements of the open connection; None: the next transaction
        connects."""

    def transact(
        self, work: Callable[[DirectStatements], T], guard: CommitGuard, seconds: float
    ) -> T:
        """Run ``work``, commit, and return the result of ``work``.

        Raises RowRefused or NotStored if nothing was stored, and Unsure if the
        answer to COMMIT was lost. A transaction is interrupted after
        ``seconds``. Work on SQLite cannot be interrupted. There the caller
        gives up by taking the guard, and then the transaction is rolled back.
        Switches greenlets.
        """
        try:
            return self._run(partial(self._transact, work, guard), seconds)
        except _TimedOut as timeout:
            self.sql = None
            if guard.take():
                # The guard was taken here, so the transaction cannot commit
                # later.
                raise NotStored(_message_of(timeout)) from None
            raise Unsure(_message_of(timeout)) from None

    def ask(self, work: Callable[[DirectStatements], T], seconds: float) -> T:
        """Run ``work``, which only reads, in a transaction that is rolled back.

        Switches greenlets. Raises NotStored if the database does not answer in
        time.
        """
        guard = CommitGuard()
        guard.take()  # so nothing can commit
        transaction = partial(self._transact, work, guard, undo=True)
        try:
            return self._run(transaction, seconds)
        except _TimedOut as timeout:
            raise NotStored(_message_of(timeout)) from None

    def answered(self, wrote: bool) -> None:
        """Record a successful transaction. ``wrote`` means that it has stored
        something."""
        self._database.answered(wrote)

    def failed(
        self, words: str, cause: BaseException | None = None
    ) -> StorageUnavailable:
        """Record that the database stored nothing. Returns the error to raise.

        ``words`` is the message of the driver, and ``cause`` is the error of
        the driver.
        """
        return self._database.failed(words, wrote=True, cause=cause)

    def close(self) -> None:
        """Release the connection."""
        try:
            self._run(self._drop, _CLOSE_SECONDS)
        except _TimedOut as timeout:
            raise NotStored(_message_of(timeout)) from None

    # --- internal -------------------------------------------------------------

    def _run(self, function: Callable[[], T], seconds: float) -> T:
        """Run ``function``. Raises _TimedOut after ``seconds``, except on
        SQLite."""
        if self._database.address.file is not None:
            # Work on SQLite cannot be interrupted.
            return self._database.runner.run(function, seconds=None)
        return self._database.runner.run(function, seconds)

    def _transact(
        self,
        work: Callable[[DirectStatements], T],
        guard: CommitGuard,
        undo: bool = False,
    ) -> T:
        """Run a transaction, and once more if the connection was lost.

        If the transaction fails on a connection that was open before, it is
        tried on a new connection, because the server may have closed the idle
        connection. ``undo`` means that the transaction is rolled back instead
        of committed.
        """
        is_new = self.sql is None
        try:
            return self._once(work, guard, undo)
        except NotStored:
            if is_new or self._database.address.file is not None:
                raise
            return self._once(work, guard, undo)

    def _once(
        self, work: Callable[[DirectStatements], T], guard: CommitGuard, undo: bool
    ) -> T:
        """Run one attempt of a transaction.

        ``guard`` is the permission to commit it. ``undo`` means that the
        transaction is rolled back instead of committed. Raises NotStored or
        RowRefused if nothing was stored, and Unsure if the answer to COMMIT was
        lost.
        """
        # This is True once COMMIT is sent. If an error follows, it is unknown
        # whether the database has executed the COMMIT.
        committing = False
        try:
            with self._database.writing():
                if self.sql is None:
                    self.sql = direct_statements(self._database.address, self._engine)
                sql = self.sql
                sql.begin()
                value = work(sql)

                if undo:
                    sql.rollback()
                    return value
                if not guard.take():
                    sql.rollback()
                    raise NotStored("no answer in time")

                committing = True
                sql.commit()
                return value
        except self._content_errors as error:
            is_unsure = committing and not self._was_refused(guard)
            raise self._after_bad_row(error, is_unsure) from None
        except self._errors as error:
            is_unsure = committing and not self._was_refused(guard)
            raise self._after_lost_connection(error, is_unsure) from error
        except BaseException:
            # The work was interrupted, for example by _TimedOut. An answer may
            # still arrive on this connection.
            self._drop()
            raise

    def _after_lost_connection(
        self, error: BaseException, is_unsure: bool
    ) -> NotStored | Unsure:
        """Drop the connection after an error of the database or the connection.

        Returns the error to raise. ``is_unsure`` means that the rows may be
        stored nevertheless.
        """
        self._drop()
        if is_unsure:
            return Unsure(_message_of(error))
        return NotStored(_message_of(error))

    def _after_bad_row(self, error: Exception, is_unsure: bool) -> Unsure | RowRefused:
        """Roll back after an error because of the content of a row.

        The connection stays usable. Returns the error to raise, which is Unsure
        if it is unknown whether the transaction was committed.
        """
        try:
            if self.sql is not None:
                self.sql.rollback()
        except self._errors:
            self._drop()
        if is_unsure:
            return Unsure(_message_of(error))
        return RowRefused(_message_of(error))

    def _was_refused(self, guard: CommitGuard) -> bool:
        """Whether the database has refused a statement that was sent together
        with COMMIT.

        Then it did not commit, and the guard gets its permission back.
        """
        if self.sql is None or not self.sql.refused:
            return False
        guard.put_back()
        return True

    def _drop(self) -> None:
        """Close the connection. The next transaction makes a new one."""
        sql = self.sql
        self.sql = None
        if sql is not None:
            with suppress(*self._errors):
                sql.close()


def _connected(engine: Engine, writes: bool = False) -> Connection:
    """Return a connection of the pool. ``writes`` says whether its transactions
    write."""
    options = {WRITES: writes}
    return engine.connect().execution_options(**options)


def _message_of(error: BaseException) -> str:
    """Return the driver's message in one line."""
    if isinstance(error, _TimedOut):
        return "no answer in time"
    cause = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
    return " ".join(str(cause).split()) or type(cause).__name__


def prepare_file(path: Path) -> None:
    """Create the folder of a SQLite file, and the file with access for its
    owner only. Raises OSError."""
    make_folder(path.parent)
    os.close(open_private(path))
