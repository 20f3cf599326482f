"""Brings a database to what this release expects, by one node at a time.

The lock is the database's own, so it holds between machines, and goes with the connection of a node that is
killed. On PostgreSQL and SQLite all steps are one transaction; MySQL ends one with each statement that
changes tables, so there a step may be taken twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, inspect, text

from imserver.errors import StartError
from imserver.storage.migrations import HEAD

FOLDER: Final = Path(__file__).parent / "migrations"

_LOCK_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_LOCK: Final = 0x696D736572766572
"""Number of the advisory lock on PostgreSQL: nobody else's, we hope."""
_VERSIONS: Final = "alembic_version"


def step_of(connection: Connection) -> str:
    """The last step that was taken; ``""``: none."""
    if not inspect(connection).has_table(_VERSIONS):
        return ""
    return connection.execute(text(f"SELECT version_num FROM {_VERSIONS}")).scalar_one_or_none() or ""


def is_current(step: str) -> bool:
    """Whether a database at this step is as this release, or a newer one, leaves it."""
    own = {path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py")}
    return step == HEAD or bool(step and step not in own)


def migrate(connection: Connection) -> None:
    """Take the steps that are missing, with a lock that keeps other nodes out. Raises StartError.

    ``connection`` is in a transaction; on SQLite in one that writes, which is lock enough.
    """
    with _LOCKS[connection.dialect.name](connection):
        if not is_current(step_of(connection)):  # or another node was quicker
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    # Loaded only here: a node whose database is as it should be needs none of it.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


# --- locks --------------------------------------------------------------------------------------------------


def _until(taken: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not taken():
        if time.monotonic() > deadline:
            raise StartError(f"storage: another node has been migrating the database for {_LOCK_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _sqlite_lock(_connection: Connection) -> Iterator[None]:
    yield


@contextmanager
def _postgresql_lock(connection: Connection) -> Iterator[None]:
    # Of the transaction, so that it goes with it, and works behind a pooler of transactions too.
    statement, lock = text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}
    _until(lambda: connection.execute(statement, lock).scalar())
    yield


@contextmanager
def _mysql_lock(connection: Connection) -> Iterator[None]:
    # Of the connection: statements that change tables end transactions. Its name is the whole server's.
    lock = {"lock": f"imserver {connection.execute(text('SELECT DATABASE()')).scalar()}"[:64]}
    _until(lambda: connection.execute(text("SELECT GET_LOCK(:lock, 0)"), lock).scalar())
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:lock)"), lock)


_LOCKS: Final[dict[str, Callable[[Connection], AbstractContextManager[None]]]] = {
    "sqlite": _sqlite_lock,
    "postgresql": _postgresql_lock,
    "mysql": _mysql_lock,
    "mariadb": _mysql_lock,
}
