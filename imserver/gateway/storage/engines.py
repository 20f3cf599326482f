"""The differences between SQLite, PostgreSQL and MySQL: how connections are
made, when they confirm a commit, and the meaning of their errors."""

import logging
import sqlite3
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, Final

from gevent import monkey
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.statements import (
    SECOND_MS,
    DirectStatements,
    MysqlStatements,
    PostgresqlStatements,
    SqliteStatements,
)

WRITES: Final = "imserver_writes"
"""Execution option of a connection whose transaction writes."""

_LEVEL: Final = "imserver_level"
"""Key of the isolation level of a MySQL session."""
_BUSY_SECONDS: Final = 5.0
ABANDONED_SECONDS: Final = 10.0
"""Time after which the database server ends an idle transaction, because its
node may be gone. The time is longer if a query may take more than half of it.
Without this limit, a node that was cut off could keep the lock of a log's head,
and block all writers for hours."""

_RECYCLE_SECONDS: Final = 1800
"""The age at which a pool replaces a connection."""
_MIN_MYSQL_IDLE_SECONDS: Final = 60
"""The least limit for idle connections on MySQL. This limit also ends idle
connections of the pool, so it is longer than :data:`ABANDONED_SECONDS`."""
_CACHED_STATEMENTS: Final = 256
"""How many compiled statements SQLite keeps for a connection."""
_PRIMARY_CODE: Final = 0xFF
"""The bits of an extended error code of SQLite that have the primary code."""

_ERASING: Final = "secure_delete=ON"
"""The setting with which SQLite writes zeros over deleted content."""


def make_engine(address: DatabaseAddress, settings: StorageSettings) -> Engine:
    """Make the engine of a database, without connecting.

    Raises StartError for an invalid address.
    """
    logging.getLogger("sqlalchemy.pool.impl.QueuePool").addFilter(_in_one_line)
    try:
        return _MAKERS[address.engine](address, settings)
    except (ArgumentError, ValueError, TypeError) as error:
        raise StartError(
            f"storage: {address.shown} is not a database address: {error}"
        ) from None


def compact(connection: Connection) -> None:
    """Write all tables anew, without the deleted rows.

    The connection must commit each statement by itself. Raises
    StorageUnavailable if others use a SQLite file.
    """
    name = connection.dialect.name
    if name == "sqlite":
        file: Any = connection.connection.driver_connection
        file.rollback()  # VACUUM must be outside a transaction
        file.execute("VACUUM")
        # The write-ahead log still has the deleted rows. The first column of
        # the answer is 1 if other connections use the file. Then the log stays.
        is_busy = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StorageUnavailable("the database is in use: stop all servers")
    elif name == "postgresql":
        connection.exec_driver_sql("VACUUM FULL")
    else:
        for (table,) in connection.exec_driver_sql("SHOW TABLES").all():
            connection.exec_driver_sql(f"ALTER TABLE `{table}` FORCE")


def _in_one_line(record: logging.LogRecord) -> bool:
    """Replace the traceback in a log record by one line. This is a filter of a
    logger.

    The pool may notice a lost connection only when the connection is returned.
    That is not an error of the program. Returns True, so that the record is
    logged.
    """
    if not record.exc_info:
        return True
    error = record.exc_info[1]
    if error:
        words = " ".join(str(error).split()) or type(error).__name__
        record.msg = f"{record.msg}: {words}"
        # If exc_info is None, the logger writes no traceback.
        record.exc_info = None
    return True


def _sqlite(address: DatabaseAddress, _settings: StorageSettings) -> Engine:
    """Make the engine of a SQLite file, which has one connection."""
    # There is one connection, which one thread at a time uses. A lock file
    # beside the database keeps out other writers
    # (imserver.gateway.storage.database). The busy handler is for programs that
    # do not use this lock.
    engine = create_engine(
        address.url,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        """Set up a new connection."""
        # None keeps the driver from beginning transactions, because the
        # listener for "begin" begins them.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            _ERASING,
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        """Begin a transaction, and lock the file if it writes."""
        # A transaction that begins with a read could not wait for the lock of
        # the file when it writes later.
        if _is_write(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _is_write(connection: Connection) -> bool:
    """Whether the transaction of a connection writes.

    In a transaction that writes, each statement sees everything that was
    committed before the statement. Rows are locked, and their current values
    are read. A transaction that only reads sees one state of the database.
    """
    return bool(connection.get_execution_options().get(WRITES))


def _postgresql(address: DatabaseAddress, settings: StorageSettings) -> Engine:
    """Make the engine of a PostgreSQL database.

    Raises StartError if the driver would block the loop.
    """
    assert_cooperative()
    from psycopg import IsolationLevel  # must not be imported before the check

    engine = create_engine(
        address.url, connect_args=_postgresql_arguments(settings), **_pool(settings)
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        """Choose the isolation level of the transaction that begins."""
        raw: Any = connection.connection.driver_connection
        if _is_write(connection):
            level = IsolationLevel.READ_COMMITTED
        else:
            level = IsolationLevel.REPEATABLE_READ
        if raw.isolation_level != level:
            raw.isolation_level = level  # the driver sets this level with BEGIN

    return engine


def _postgresql_arguments(settings: StorageSettings) -> dict[str, Any]:
    """Return the arguments with which psycopg connects."""
    statement_ms = int(settings.seconds * SECOND_MS)
    idle_ms = _abandoned_seconds(settings) * SECOND_MS
    options = (
        f"-c statement_timeout={statement_ms}",
        # A plan cached while a table was empty would scan the whole table
        # later.
        "-c plan_cache_mode=force_custom_plan",
        f"-c idle_in_transaction_session_timeout={idle_ms}",
    )
    return {
        "connect_timeout": max(2, round(settings.seconds)),
        "application_name": "imserver",
        "tcp_user_timeout": statement_ms,
        "options": " ".join(options),
    }


def _mysql(address: DatabaseAddress, settings: StorageSettings) -> Engine:
    """Make the engine of a MySQL or MariaDB database.

    Raises ValueError for a parameter in the address that cannot be used.
    """
    arguments = {
        "connect_timeout": max(1, round(settings.seconds)),
        "read_timeout": settings.seconds,
        "write_timeout": settings.seconds,
        "charset": "utf8mb4",
        "program_name": "imserver",
    }
    engine = create_engine(address.url, connect_args=arguments, **_pool(settings))
    _check_mysql_parameters(engine)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        _set_mysql_limits(connection, settings)

    event.listen(engine, "begin", _set_isolation)
    return engine


def _set_isolation(connection: Connection) -> None:
    """Set the isolation level of the transaction that begins, on MySQL.

    The level is set for the session. A statement that changes tables ends the
    transaction, and would end a level of the transaction, too.
    """
    if _is_write(connection):
        level = "READ COMMITTED"
    else:
        level = "REPEATABLE READ"
    if connection.info.get(_LEVEL) != level:
        connection.exec_driver_sql(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        connection.info[_LEVEL] = level


def _set_mysql_limits(connection: Any, settings: StorageSettings) -> None:
    """Set the time limits of a new connection to MySQL or MariaDB.

    The server ends transactions that a node has left behind.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SET SESSION innodb_lock_wait_timeout = %s",
            (max(1, int(settings.seconds)),),
        )
        idle = _abandoned_seconds(settings)
        if "MariaDB" in connection.get_server_info():
            cursor.execute("SET SESSION idle_transaction_timeout = %s", (idle,))
        else:
            # MySQL has such a limit only for idle connections, not for idle
            # transactions.
            idle = max(idle, _MIN_MYSQL_IDLE_SECONDS)
            cursor.execute("SET SESSION wait_timeout = %s", (idle,))


def _check_mysql_parameters(engine: Engine) -> None:
    """Raise ValueError for a parameter that the address must not have.

    pymysql does not know such a parameter, or the parameter makes TLS weaker
    than it seems.
    """
    parameters = signature(engine.dialect.loaded_dbapi.connect).parameters
    _, arguments = engine.dialect.create_connect_args(engine.url)
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"unknown parameter {name}; for TLS set ssl_ca")

    for name in ("ssl_verify_identity", "ssl_verify_cert"):
        # With this parameter, pymysql ignores ssl_ca, and does not check the
        # name of the server.
        if name in arguments:
            raise ValueError(
                f"set ssl_ca instead of {name}: it checks the certificate and the name"
            )


def _abandoned_seconds(settings: StorageSettings) -> int:
    """Return the seconds after which the database server ends an idle
    transaction.

    This is :data:`ABANDONED_SECONDS`, or twice the time limit of a query if
    that is longer.
    """
    return max(1, round(max(ABANDONED_SECONDS, 2 * settings.seconds)))


def _pool(settings: StorageSettings) -> dict[str, Any]:
    """The options of SQLAlchemy's connection pool."""
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.seconds,
        "pool_pre_ping": True,
        "pool_recycle": _RECYCLE_SECONDS,
        "pool_use_lifo": True,
    }


_MAKERS: Final[dict[str, Callable[[DatabaseAddress, StorageSettings], Engine]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
}

_WAL_PAGES: Final = 4000
"""Pages of 4 KiB after which SQLite checkpoints the write-ahead log: four times
its default. A commit with a checkpoint waits for two more fsyncs and writes
index pages again."""


def direct_statements(address: DatabaseAddress, engine: Engine) -> DirectStatements:
    """Open a connection of the driver for transactions that write, and return
    its statements.

    Each statement sees everything that was committed before it.
    """
    if address.file is not None:
        return _sqlite_statements(address.file)

    connection = detached(engine)
    if address.engine == "mysql":
        statements = MysqlStatements(connection)
        statements.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return statements

    from psycopg import ClientCursor

    # The statements write BEGIN and COMMIT themselves.
    connection.autocommit = True
    for setting in ("plan_cache_mode = force_custom_plan", "enable_seqscan = off"):
        connection.execute(f"SET {setting}".encode())
    return PostgresqlStatements(connection, ClientCursor(connection))


def _sqlite_statements(path: Path) -> SqliteStatements:
    """Open a SQLite file for the writer of the message log.

    It has the settings of the pool's connection, except for the checkpoints.
    """
    file = sqlite3.connect(
        path,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"wal_autocheckpoint={_WAL_PAGES}",
        _ERASING,
    ):
        file.execute(f"PRAGMA {pragma}")
    return SqliteStatements(file)


def detached(engine: Engine) -> Any:
    """Return a connection of the driver that belongs to the caller, not to the
    pool."""
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    return connection


def driver_errors(
    engine: Engine,
) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return the errors of direct statements in two groups.

    Errors of the first group are caused by the content of a row. Errors of the
    second group are faults of the database.
    """
    driver = engine.dialect.loaded_dbapi
    of_content = (driver.DataError, driver.IntegrityError, ValueError, OverflowError)
    of_database = (driver.Error, SQLAlchemyError, OSError)
    return of_content, of_database


def assert_cooperative() -> None:
    """Raise StartError if waiting for PostgreSQL would block the loop.

    psycopg decides at import how it waits. If its import came before the patch
    of the standard library, it waits in C.
    """
    from psycopg import waiting

    in_c = getattr(waiting, "wait_c", None)
    if monkey.is_module_patched("select") and in_c is not None and waiting.wait is in_c:
        raise StartError(
            "psycopg was imported before gevent patched "
            "the standard library, and would block"
        )


def laxness_of(connection: Connection) -> str:
    """Return the setting by which the server confirms commits before they are
    durable.

    For example ``SHOW synchronous_commit gives off``. The result is ``""`` if
    commits are durable before the server confirms them.
    """
    # SQLite is not in the table, because its connections set it themselves.
    query, safe_values = _DURABILITY.get(connection.dialect.name, ("", ()))
    if not query:
        return ""
    value = str(connection.execute(text(query)).scalar())
    if value in safe_values:
        return ""
    return f"{query} gives {value}"


_DURABILITY: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "postgresql": (
        "SHOW synchronous_commit",
        ("on", "local", "remote_write", "remote_apply"),
    ),
    "mysql": ("SELECT @@innodb_flush_log_at_trx_commit", ("1",)),
    "mariadb": ("SELECT @@innodb_flush_log_at_trx_commit", ("1",)),
}
"""Engine → the query for its setting of durability, and the values with which a
commit is durable before it is confirmed."""

# The errors of the drivers by their codes, as :func:`_code_of` writes them.
_FULL: Final = (
    f"sqlite3 {sqlite3.SQLITE_FULL}",
    "psycopg 53100",
    "pymysql 1021",
    "pymysql 1114",
)
"""The disk is full."""
_REFUSALS: Final = (
    *(f"sqlite3 {code}" for code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)),
    "psycopg 25006",
    *(f"pymysql {code}" for code in (3, 1026, 1030, 1290, 1792, 1836)),
)
"""The database is read-only, or its disk fails."""


def _code_of(error: BaseException | None) -> str:
    """Return the name of the driver and the code of its error.

    For MySQL and MariaDB this is a number, such as ``pymysql 1021``, because
    MariaDB's SQL states are less precise. For PostgreSQL it is the SQL state,
    such as ``psycopg 53100``.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    driver, _, _ = type(cause).__module__.partition(".")
    return f"{driver} {_code_in(driver, cause)}"


def _code_in(driver: str, cause: BaseException | None) -> Any:
    """Return the code of an error of a driver, or its SQL state."""
    # SQLAlchemy wraps the error of the driver. The module of that error tells
    # the driver.
    sqlite_code = getattr(cause, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if sqlite_code:
        return sqlite_code
    if cause and driver == "pymysql":
        return next(iter(cause.args), "")
    return getattr(cause, "sqlstate", None)


def is_deadlock(error: DBAPIError) -> bool:
    """Whether the database has rolled back a transaction because of a deadlock.

    Two transactions waited for each other. The transaction may be run again.
    """
    # psycopg 40001: a serialization failure.
    return _code_of(error) in ("psycopg 40P01", "psycopg 40001", "pymysql 1213")


def is_lock_conflict(error: DBAPIError) -> bool:
    """Whether a transaction failed because another transaction had a lock that
    it needed.

    It may succeed later.
    """
    return is_deadlock(error) or _code_of(error) in ("psycopg 55P03", "pymysql 1205")


def is_damage(error: DBAPIError) -> bool:
    """Whether SQLite has found that its file is damaged.

    The other engines report damage by common errors.
    """
    return _code_of(error) in (
        f"sqlite3 {sqlite3.SQLITE_CORRUPT}",
        f"sqlite3 {sqlite3.SQLITE_NOTADB}",
    )


def refusal_of(error: BaseException | None) -> str:
    """Return why the database cannot write, as the predicate of a sentence.

    The result is ``has a full disk``, or ``takes no writes`` if the database is
    read-only or its disk fails. It is ``""`` if the error has another cause,
    such as a lost connection.
    """
    code = _code_of(error)
    if code in _FULL:
        return "has a full disk"
    if code in _REFUSALS or code.startswith(("psycopg 53", "psycopg 58")):
        return "takes no writes"
    return ""
