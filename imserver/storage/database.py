"""One open database: its engine, and functions that run on a connection, each in its own transaction.

PostgreSQL and MySQL run in the caller's greenlet over cooperative sockets. SQLite works on files, which are
not cooperative, so one native thread does all of its work in turn.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import gevent
from gevent import GreenletExit, monkey
from gevent.threadpool import ThreadPool
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from imserver.config.settings import StorageSettings
from imserver.errors import StartError, StorageUnavailable
from imserver.storage import migrate, records
from imserver.storage.address import DatabaseAddress
from imserver.storage.migrations import HEAD

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Connection], T]
"""What is done in one transaction. SQLite's runs in another thread: it touches the connection only."""

_MIGRATE_SECONDS: Final = 3600.0
_DEADLOCKS: Final = 3
"""How often what a deadlock undid is done once more, within the time that it has."""
_CLOSE_SECONDS: Final = 1.0
"""For what is under way when nobody may ask any more."""


class _Late(BaseException):
    """The time for something is over.

    No Exception: after anything else SQLAlchemy may use the connection again, and the answer that is still to
    come would be taken for that of the next question.
    """


class Runner(Protocol):
    """Where the work on a database is done."""

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        """Do it and return what it returns, or raise what it raises; :class:`_Late` after ``seconds``."""

    def close(self) -> bool:
        """Take nothing more; False if something is still being done, and cannot be stopped."""


class GreenletRunner:
    """In the caller's greenlet."""

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        deadline = monotonic() + seconds if seconds is not None else inf
        try:
            with gevent.Timeout(seconds, _Late):
                return function()
        except Exception as error:
            # psycopg may stumble over its own state as it is interrupted, and say that instead.
            cause = error.__context__
            while cause is not None:
                if isinstance(cause, GreenletExit):  # nobody goes on who was killed
                    raise cause from None
                cause = cause.__context__
            if monotonic() >= deadline:
                raise _Late from None
            raise

    def close(self) -> bool:
        """Nothing goes on."""
        return True


class ThreadRunner:
    """In one native thread, one after the other; the caller's greenlet waits without holding up the loop.

    What was begun goes on when its caller has stopped waiting.
    """

    def __init__(self) -> None:
        self._pool = ThreadPool(1)

    def run(self, function: Callable[[], T], seconds: float | None) -> T:
        returned: list[T] = []

        def outcome() -> BaseException | None:
            # What is raised out of the thread by itself would be printed by the loop, too.
            try:
                returned.append(function())
            except BaseException as error:
                return error
            return None

        with gevent.Timeout(seconds, _Late):
            error = self._pool.spawn(outcome).get()
        if error is not None:
            raise error
        return returned[0]

    def close(self) -> bool:
        try:
            with gevent.Timeout(_CLOSE_SECONDS, _Late):
                self._pool.kill()
        except _Late:
            return False
        return True


class Database:
    """One database. Owner of its engine; after :meth:`open` it has all that this release expects.

    ``threaded``: there is a loop that must not be held up by files. A command that does nothing else needs
    no thread.
    """

    def __init__(self, place: DatabaseAddress, settings: StorageSettings, threaded: bool = True) -> None:
        self.place = place
        self.id = ""
        """What distinguishes it from all other databases, wherever it is copied or moved to."""
        self.healthy = False
        """Whether it did what it was asked last."""
        self._settings = settings
        self._engine: Engine = make_engine(place, settings)
        self._runner: Runner = ThreadRunner() if threaded and place.file is not None else GreenletRunner()
        self._lock = -1

    def open(self) -> None:
        """Connect, and migrate if need be. Raises StartError with one clear line."""
        try:
            if self.place.file is not None:
                prepare_file(self.place.file)
                self._lock = os.open(f"{self.place.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            before = self._runner.run(self._step, self._settings.seconds)
            if not migrate.is_current(before):
                self._runner.run(self._migrate, _MIGRATE_SECONDS)
            self.id, laxness = self._runner.run(self._look_at, self._settings.seconds)
        except OSError as error:
            raise StartError(f"storage: {self.place.shown} cannot be used: {error.strerror}") from None
        except (DBAPIError, PoolTimeout, _Late) as error:
            raise StartError(f"storage: {self.place.shown} cannot be used: {_words(error)}") from None
        self.healthy = True
        if laxness:
            log.warning("the database %s may lose what it has confirmed: %s", self.place.shown, laxness)
        if not migrate.is_current(before):
            log.info("the database %s was brought to step %s", self.place.shown, HEAD)
        elif before != HEAD:
            log.warning("the database %s is a newer release's, at step %s", self.place.shown, before)

    # These run in SQLite's thread, where nothing may be logged: the locks of logging are the loop's.

    def _step(self) -> str:
        with self._connected() as connection:
            return migrate.step_of(connection)

    def _migrate(self) -> None:
        # What changes a large table may take its time.
        patient = make_engine(self.place, replace(self._settings, seconds=_MIGRATE_SECONDS))
        try:
            with self.writing(), _connected(patient, writes=True) as connection, connection.begin():
                migrate.migrate(connection)
        finally:
            patient.dispose()

    def _look_at(self) -> tuple[str, str]:
        with self._connected() as connection:
            return records.read_id(connection), laxness_of(connection)

    def read(self, work: Work[T]) -> T:
        """Do ``work``, which changes nothing. Switches. Raises StorageUnavailable."""
        return self._guarded(lambda: self._in_transaction(work))

    def write(self, work: Work[T]) -> T:
        """Do ``work`` and commit, once more if a deadlock undid it. Switches.

        Nothing is changed if ``work`` raises. Raises StorageUnavailable, after which the change may have been
        made or not.
        """
        return self._guarded(lambda: self._in_transaction(work, writes=True))

    def run_raw(
        self, function: Callable[[], T], seconds: float, late: Callable[[str], Exception] | type[Exception]
    ) -> T:
        """Do something over a connection of the caller's own, where this database's work is done.

        What takes longer than ``seconds`` is broken off, and ``late`` gives what is raised then; only
        SQLite's work, in its thread, cannot be broken off.
        """
        try:
            return self._runner.run(function, None if self.place.file is not None else seconds)
        except _Late as error:
            raise late(_words(error)) from None

    def raw_connection(self) -> Any:
        """A driver's connection that belongs to the caller, set up as all others. Not for SQLite."""
        lent = self._engine.raw_connection()
        raw = lent.driver_connection
        lent.detach()
        return raw

    def heard(self) -> None:
        """It did what it was asked."""
        if not self.healthy:
            self.healthy = True
            log.info("the database %s answers again", self.place.shown)

    def away(self, words: str) -> StorageUnavailable:
        """It did not; what to raise."""
        if self.healthy:
            self.healthy = False
            log.error("the database %s does not answer: %s", self.place.shown, words)
        return StorageUnavailable(f"the database does not answer: {words}")

    def close(self) -> None:
        """Give all connections back."""
        if not self._runner.close():
            log.warning(
                "the database %s is left as it is: something is still being done there", self.place.shown
            )
            return
        self._engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- inside ---------------------------------------------------------------------------------------------

    def _in_transaction(self, work: Work[T], writes: bool = False) -> T:
        if not writes:
            with self._connected() as connection:
                return work(connection)
        for _ in range(_DEADLOCKS):
            try:
                return self._write_once(work)
            except OperationalError as error:
                if not is_deadlock(error):
                    raise
        return self._write_once(work)

    def _write_once(self, work: Work[T]) -> T:
        with self.writing(), self._connected(writes=True) as connection, connection.begin():
            return work(connection)

    def _connected(self, writes: bool = False) -> Connection:
        return _connected(self._engine, writes)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """SQLite: one writer after the other, in the order in which they came, of whatever process."""
        if self._lock < 0:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _guarded(self, function: Callable[[], T]) -> T:
        try:
            value = self._runner.run(function, self._settings.seconds)
        except (OperationalError, InterfaceError, InternalError, PoolTimeout, _Late) as error:
            raise self.away(_words(error)) from None
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise self.away(_words(error)) from None
        self.heard()
        return value


def _connected(engine: Engine, writes: bool = False) -> Connection:
    return engine.connect().execution_options(**{WRITES: writes})


def _words(error: BaseException) -> str:
    """What the driver says, in one line."""
    if isinstance(error, _Late):
        return "no answer in time"
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(cause).__name__


WRITES: Final = "imserver_writes"
"""Execution option of a connection whose transaction will change something."""

_BUSY_SECONDS: Final = 5.0
LEFT_SECONDS: Final = 10.0
"""After so long (or twice the time for one question) a server ends a transaction in which nothing more was
asked: a node that was cut off in the middle would hold the head of a log, and everybody up, for hours."""
_IDLE_SECONDS: Final = 60
"""The same on MySQL, which knows such a time for connections only."""
_DEADLOCK_STATES: Final = ("40P01", "40001")
"""PostgreSQL's names of what may be tried again: a deadlock, transactions that cannot follow each other."""
_MYSQL_DEADLOCK: Final = 1213


def make_engine(place: DatabaseAddress, settings: StorageSettings) -> Engine:
    """The engine of a database; connects to nothing yet. Raises StartError for an address that is none."""
    try:
        return _MAKERS[place.engine](place, settings)
    except (ArgumentError, ValueError, TypeError) as error:
        raise StartError(f"storage: {place.shown} is no address of a database: {error}") from None


def _sqlite(place: DatabaseAddress, _settings: StorageSettings) -> Engine:
    # One connection, used by one thread at a time. Others that write are kept out by a lock on a file beside
    # (imserver.storage.database); the busy handler is for who does not know of it.
    engine = create_engine(
        place.url, poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so, not where the driver guesses
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(place: DatabaseAddress, settings: StorageSettings) -> Engine:
    assert_cooperative()
    milliseconds = int(settings.seconds * 1000)
    return create_engine(
        place.url,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": max(2, round(settings.seconds)),
            "application_name": "imserver",
            "tcp_user_timeout": milliseconds,
            # A plan made while a table was empty would be kept, and read all of it once it is not.
            "options": f"-c statement_timeout={milliseconds} -c plan_cache_mode=force_custom_plan "
            f"-c idle_in_transaction_session_timeout={_left_seconds(settings) * 1000}",
        },
        **_pool(settings),
    )


def _mysql(place: DatabaseAddress, settings: StorageSettings) -> Engine:
    engine = create_engine(
        place.url,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": max(1, round(settings.seconds)),
            "read_timeout": settings.seconds,
            "write_timeout": settings.seconds,
            "charset": "utf8mb4",
            "program_name": "imserver",
        },
        **_pool(settings),
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (max(1, int(settings.seconds)),))
            left = _left_seconds(settings)
            if "MariaDB" in connection.get_server_info():
                cursor.execute("SET SESSION idle_transaction_timeout = %s", (left,))
            else:
                cursor.execute("SET SESSION wait_timeout = %s", (max(left, _IDLE_SECONDS),))

    return engine


def _left_seconds(settings: StorageSettings) -> int:
    return max(1, round(max(LEFT_SECONDS, 2 * settings.seconds)))


def _pool(settings: StorageSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.seconds,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "pool_use_lifo": True,
    }


_MAKERS: Final[dict[str, Callable[[DatabaseAddress, StorageSettings], Engine]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
}


def assert_cooperative() -> None:
    """Raise StartError if waiting for PostgreSQL would hold up the loop.

    psycopg decides how it waits when it is imported; imported before the standard library was patched, it
    waits in C.
    """
    from psycopg import waiting

    in_c = getattr(waiting, "wait_c", None)
    if monkey.is_module_patched("select") and in_c is not None and waiting.wait is in_c:
        raise StartError("psycopg was imported before gevent patched the standard library, and would block")


def prepare_file(path: Path) -> None:
    """Make the folder of a SQLite file, and the file for its owner's eyes only. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def laxness_of(connection: Connection) -> str:
    """The setting by which the server confirms what a power cut may take back; ``""``: it does not."""
    setting, safe = _DURABILITY.get(connection.dialect.name, ("", ()))
    if not setting:
        return ""
    value = str(connection.execute(text(setting)).scalar())
    return "" if value in safe else f"{setting} gives {value}"


_DURABILITY: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "postgresql": ("SHOW synchronous_commit", ("on", "local", "remote_write", "remote_apply")),
    "mysql": ("SELECT @@innodb_flush_log_at_trx_commit", ("1",)),
    "mariadb": ("SELECT @@innodb_flush_log_at_trx_commit", ("1",)),
}


def is_deadlock(error: DBAPIError) -> bool:
    """Whether the database has taken a transaction back because it and another waited for each other."""
    cause = error.orig
    if getattr(cause, "sqlstate", None) in _DEADLOCK_STATES:
        return True
    return bool(cause and cause.args and cause.args[0] == _MYSQL_DEADLOCK)
