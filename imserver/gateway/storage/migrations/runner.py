"""Takes steps one by one while other nodes use the database.

Each step is a transaction of its own, which also records the step. If a node is
killed, or a step fails, only whole steps were taken, and the next start
continues after them. Two steps in one transaction would keep the locks of the
first step while they wait for the locks of the second. Another node that writes
meanwhile could wait for these locks in the other order, which would be a
deadlock.

A step does not wait long for a table, because all later transactions queue
behind it. The step gives up, lets these transactions pass, and tries again.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from imserver.gateway.errors import StartError
from imserver.gateway.storage.engines import is_lock_conflict
from imserver.gateway.storage.tables import IndexText, Migration

log = logging.getLogger(__name__)

_LOCK: Final = 0x696D736572766572
"""The number of the lock on PostgreSQL. No other program uses this number."""
_MYSQL_LOCK: Final = "LEFT(CONCAT('imserver ', DATABASE()), 64)"
"""The name of the lock on MySQL, where it is global on the server."""
_LOCK_SECONDS: Final = 60.0
"""How long a node waits for another node that takes a step."""
_LOOK_SECONDS: Final = 0.1
_TABLE_MS: Final = 400
"""How many milliseconds a step waits for a lock on PostgreSQL. Meanwhile other
transactions queue behind the step."""
_TABLE_SECONDS: Final = 1
"""How long a step waits for a lock on MySQL, in whole seconds."""
_ROW_SECONDS: Final = 5
"""How long a step waits for a row on MySQL, in seconds. No other transaction
queues behind it."""
_PAUSE_SECONDS: Final = (0.1, 0.6)
"""The shortest and the longest pause before a step is tried again."""
_MOST_SECONDS: Final = 3600.0
"""For how long a step is tried again. An export or a backup may use the tables
of the step for an hour."""
_LOG_SECONDS: Final = 10.0


class Transactions(Struct, frozen=True):
    """The two ways to change a database.

    ``writing()`` opens a connection in a transaction that writes. ``outside()``
    opens a connection that commits each statement by itself. Only on such a
    connection can PostgreSQL make some indexes.
    """

    writing: Callable[[], AbstractContextManager[Connection]]
    outside: Callable[[], AbstractContextManager[Connection]]

    @contextmanager
    def locked(self) -> Iterator[Connection]:
        """Open a connection in a transaction that has the lock of migrations.

        Only one node at a time has this lock. Each attempt to get the lock is a
        transaction of its own. In a longer transaction PostgreSQL keeps a
        snapshot, and an index that another node makes would wait for the end of
        the snapshot. Raises StartError.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            with self.writing() as connection:
                if _lock(connection):
                    with _released_after(connection):
                        yield connection
                    return
            _wait_for_lock(deadline)


class StepOwner(Struct, frozen=True):
    """The steps of one owner of tables.

    ``name`` is for messages. ``last_step`` reads the number of the last step
    that was taken, and ``record`` writes it, both in the transaction of a step.
    """

    name: str
    steps: Mapping[int, Migration]
    last_step: Callable[[Connection], int]
    record: Callable[[Connection, int], object]


class StepRunner(Struct, frozen=True):
    """Takes steps one by one. ``database`` is the address of the database, for
    messages."""

    transactions: Transactions
    database: str

    def run(self, owner: StepOwner, after: int) -> None:
        """Take the steps of an owner after a number. Raises StartError."""
        for number in sorted(owner.steps):
            if number > after:
                self._try_again(owner, number)

    def _try_again(self, owner: StepOwner, number: int) -> None:
        """Take a step, and try again as long as other transactions have locked
        its tables.

        Raises StartError after an hour.
        """
        name = f"step {number} of {owner.name}"
        deadline = time.monotonic() + _MOST_SECONDS
        next_warning = 0.0  # the first warning comes at once
        while True:
            try:
                self._take(owner, number)
                return
            except DBAPIError as error:
                if not is_lock_conflict(error):
                    raise
                now = time.monotonic()
                if now > deadline:
                    raise StartError(
                        f"storage: {name} was kept out by others for an hour"
                    ) from error
            if now > next_warning:
                self._warn_of_locks(name)
                next_warning = now + _LOG_SECONDS
            # The pause is random, so that two nodes do not collide again and
            # again.
            time.sleep(random.uniform(*_PAUSE_SECONDS))

    def _warn_of_locks(self, step: str) -> None:
        """Log that a step waits, because other transactions have locked its
        tables."""
        words = "the database %s: %s waits for tables that others use"
        log.warning(words, self.database, step)

    def _take(self, owner: StepOwner, number: int) -> None:
        """Take a step, unless another node has taken it meanwhile.

        Raises StartError, or the driver's error if others have locked its tables.
        """
        # The step fills this list with the indexes that are made afterwards.
        indexes: list[IndexText] = []
        with self.transactions.locked() as connection:
            if owner.last_step(connection) >= number:
                return

            _wait_shortly(connection)
            # PostgreSQL makes indexes outside the transaction, so that other
            # nodes can read and write large tables meanwhile.
            is_postgresql = connection.dialect.name == "postgresql"
            later = indexes if is_postgresql else None
            run_step(connection, owner.name, number, owner.steps[number], later)
            if not indexes:
                owner.record(connection, number)
                return
        self._make_indexes(owner, number, indexes)

    def _make_indexes(
        self, owner: StepOwner, number: int, indexes: list[IndexText]
    ) -> None:
        """Make the indexes of a step on PostgreSQL, then record the step."""
        with self.transactions.locked() as connection:
            if owner.last_step(connection) >= number:
                return
            # The statement before may keep its snapshot until this connection
            # runs another statement. Otherwise the index would wait for that
            # snapshot.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            for index in indexes:
                # The index waits for all transactions that have begun before.
                words = (
                    "the database %s: step %d of %s makes the index %s, "
                    "while others read and write"
                )
                log.info(words, self.database, number, owner.name, index.name)
                with self.transactions.outside() as free:
                    _make_index(free, index)
            owner.record(connection, number)


def run_step(
    connection: Connection,
    owner: str,
    number: int,
    step: Migration,
    later: list[IndexText] | None = None,
) -> None:
    """Do the work of a step in the transaction of a connection.

    ``owner`` and ``number`` are for messages. ``later`` is a list to which the
    indexes of tables with rows are added, so that the caller makes them. None
    means that they are made here. Raises StartError, or the driver's error if
    others have locked its tables.
    """
    operations = _operations(connection)
    from imserver.gateway.storage.migrations.table_text import make_tables

    try:
        if isinstance(step, str):
            make_tables(operations, step, later)
        else:
            step(operations)
    except Exception as error:
        # The caller tries again after a conflict.
        if isinstance(error, DBAPIError) and is_lock_conflict(error):
            raise
        words = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StartError(
            f"storage: step {number} of {owner} failed: {words}"
        ) from error


def _operations(connection: Connection) -> Any:
    """Return Alembic's operations, which make tables and columns, on a
    connection."""
    # Alembic is imported here, because nodes with a current database need not
    # load it.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    return Operations(MigrationContext.configure(connection))


def _make_index(connection: Connection, index: IndexText) -> None:
    """Make an index of PostgreSQL while others read and write.

    An index that an interrupted attempt has left behind is replaced.
    """
    find = text(
        "SELECT indisvalid FROM pg_index WHERE indrelid = to_regclass(:table) "
        "AND indexrelid = to_regclass(:name)"
    )
    names = {"table": index.table, "name": index.name}
    # None: the index does not exist. False: an attempt to make it was
    # interrupted.
    is_valid = connection.execute(find, names).scalar()
    if is_valid:
        return

    operations = _operations(connection)
    if is_valid is False:
        operations.drop_index(index.name, postgresql_concurrently=True)
    operations.create_index(
        index.name,
        index.table,
        list(index.columns),
        unique=index.is_unique,
        postgresql_concurrently=True,
    )


# --- locks --------------------------------------------------------------------


def _wait_shortly(connection: Connection) -> None:
    """Limit how long the statements of a step wait for locks.

    All later transactions would queue behind a step that waits.
    """
    engine = connection.dialect.name
    if engine == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_TABLE_MS}ms'")
    elif engine != "sqlite":
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {_TABLE_SECONDS}")
        connection.exec_driver_sql(
            f"SET SESSION innodb_lock_wait_timeout = {_ROW_SECONDS}"
        )


@contextmanager
def locked(connection: Connection) -> Iterator[None]:
    """A context with the lock of migrations, in the transaction of a
    connection.

    Use it only for a connection whose transaction makes nobody else wait.
    Raises StartError if another node has the lock for too long.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _lock(connection):
        _wait_for_lock(deadline)
    with _released_after(connection):
        yield


def _wait_for_lock(deadline: float) -> None:
    """Pause before the next attempt. Raises StartError after the deadline."""
    if time.monotonic() > deadline:
        raise StartError(
            "storage: another node has been migrating "
            f"the database for {_LOCK_SECONDS:g} s"
        )
    time.sleep(_LOOK_SECONDS)


def _lock(connection: Connection) -> bool:
    """Take the lock of migrations if it is free, and return whether it was
    free.

    On SQLite the transaction itself is the lock.
    """
    engine = connection.dialect.name
    if engine == "sqlite":
        return True
    if engine == "postgresql":
        # This lock belongs to the transaction, so it also works with a
        # transaction pooler.
        statement = f"SELECT pg_try_advisory_xact_lock({_LOCK})"
    else:
        # This lock belongs to the connection, because schema statements end
        # transactions.
        statement = f"SELECT GET_LOCK({_MYSQL_LOCK}, 0)"
    return bool(connection.exec_driver_sql(statement).scalar())


@contextmanager
def _released_after(connection: Connection) -> Iterator[None]:
    """A context at whose end the lock of migrations is released.

    On SQLite and PostgreSQL the lock is released with the transaction.
    """
    if connection.dialect.name in ("sqlite", "postgresql"):
        yield
        return
    try:
        yield
        # Commit before the release, so that the next owner of the lock sees the
        # record of the step.
        connection.exec_driver_sql("COMMIT")
    finally:
        connection.exec_driver_sql(f"SELECT RELEASE_LOCK({_MYSQL_LOCK})")
