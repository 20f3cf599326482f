"""Migration steps of the database schema, run by one node at a time.

A step only adds. What the previous release uses is removed one release after its last use, so nodes of both
releases can share a database during an upgrade.

The lock belongs to the database, so it works between machines and is released with the connection of a killed
node. On PostgreSQL and SQLite all steps are one transaction. MySQL commits with each schema statement, so a
step may run twice there.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, LargeBinary, String, inspect, text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from imserver.errors import StartError
from imserver.storage.migrations import feature_steps
from imserver.storage.tables import FeatureTables

HEAD: Final = "0040"
"""The newest step. A database at this step needs no migration, so Alembic is not loaded."""
FOLDER: Final = Path(__file__).parent

_LOCK_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_LOCK: Final = 0x696D736572766572
"""Number of the advisory lock on PostgreSQL, chosen to be unique."""
_VERSIONS: Final = "alembic_version"
_table_names: Final = re.compile(r"^ *(?:table|ordered) (\w+): ", re.MULTILINE).findall


def step_of(connection: Connection) -> str:
    """The last step of a database; ``""``: none."""
    if not inspect(connection).has_table(_VERSIONS):
        return ""
    return connection.execute(text(f"SELECT version_num FROM {_VERSIONS}")).scalar_one_or_none() or ""


def is_current(step: str) -> bool:
    """Whether a database at this step is current, or newer than this release."""
    return step.isdecimal() and step >= HEAD


def migrate(connection: Connection, shown: str, features: Sequence[FeatureTables] = ()) -> None:
    """Run the missing steps, and those of features of other distributions, under a lock. Raises StartError.

    ``connection`` is in a transaction. On SQLite that is a writing transaction, which serves as the lock.
    ``shown``: the address of the database, for messages.
    """
    with _LOCKS[connection.dialect.name](connection):
        step = step_of(connection)
        if not is_current(step):  # no other node has migrated meanwhile
            if tables := _foreign_tables(connection):
                raise StartError(
                    f"storage: the database {shown} belongs to another program, whose tables have names of "
                    f"ours ({', '.join(tables)}). Set storage.url to an empty database; 'imserver account "
                    "import' takes over the users of GoChat"
                )
            if step and step < "0020":
                raise StartError(
                    f"storage: the database {shown} is of a release before 1.0. Start version 1.0 with it "
                    "once, then this one"
                )
            _upgrade(connection)
        feature_steps.run(connection, shown, features)


def _foreign_tables(connection: Connection) -> list[str]:
    """The tables of another program that have names of ours; empty if the database is ours, or free.

    The version table is made before all others, and names a step when ``directory`` exists.
    """
    tables = set(inspect(connection).get_table_names())
    if _VERSIONS in tables and ("directory" in tables or not step_of(connection)):
        return []
    steps = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "versions").glob("[0-9]*.py"))
    return sorted(tables & {_VERSIONS, *_table_names(steps)})


def _upgrade(connection: Connection) -> None:
    # Imported here: nodes with a current database need not load it.
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
    # Bound to the transaction, so it also works behind a transaction pooler.
    statement, lock = text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}
    _until(lambda: connection.execute(statement, lock).scalar())
    yield


@contextmanager
def _mysql_lock(connection: Connection) -> Iterator[None]:
    # Bound to the connection, because schema statements end transactions. Its name is global on the server.
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


# --- column types -------------------------------------------------------------------------------------------

_MYSQL: Final = ("mysql", "mariadb")


class Columns:
    """Columns of tables and options of tables, for the steps that make them."""

    MYSQL_OPTIONS: Final[dict[str, Any]] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_bin",
    }
    """Options of a table. The other engines have none of them."""
    KEY_ORDER: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}
    """Options of a table whose rows stand in the order of their key, on SQLite too: one tree less to
    write."""
    CONTENT: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)
    """Bytes of any content. MySQL's plain blobs are limited to 65,535 bytes."""

    @staticmethod
    def name(length: int = 500) -> TypeEngine[str]:
        """A name of at most ``length`` bytes, compared byte by byte. MySQL's text collations may treat ``a``
        and ``A`` as equal."""
        return String(length).with_variant(mysql.VARBINARY(length), *_MYSQL)

    @staticmethod
    def short_bytes(length: int) -> TypeEngine[bytes]:
        """Bytes in an index. MySQL cannot index blobs without a prefix length."""
        return LargeBinary().with_variant(mysql.VARBINARY(length), *_MYSQL)

    @staticmethod
    def key(column: str, kind: Any = BigInteger) -> Column[Any]:
        """A column of the primary key, whose values the database does not make."""
        return Column(column, kind, primary_key=True, autoincrement=False)

    @staticmethod
    def need(column: str, kind: Any = BigInteger) -> Column[Any]:
        """A column that must have a value."""
        return Column(column, kind, nullable=False)
