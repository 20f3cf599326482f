"""An engine for each kind of database, with what keeps it honest: time-outs, isolation, durability."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gevent import monkey
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from imserver.errors import StartError
from imserver.settings import StorageSettings
from imserver.storage.place import Place

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


def make_engine(place: Place, settings: StorageSettings) -> Engine:
    """The engine of a database; connects to nothing yet. Raises StartError for an address that is none."""
    try:
        return _MAKERS[place.engine](place, settings)
    except (ArgumentError, ValueError, TypeError) as error:
        raise StartError(f"storage: {place.shown} is no address of a database: {error}") from None


def _sqlite(place: Place, _settings: StorageSettings) -> Engine:
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


def _postgresql(place: Place, settings: StorageSettings) -> Engine:
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


def _mysql(place: Place, settings: StorageSettings) -> Engine:
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


_MAKERS: Final[dict[str, Callable[[Place, StorageSettings], Engine]]] = {
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
