"""Migration steps of the database schema, run by one node at a time.

Each owner of tables has its steps in a module ``steps`` of its folder: ``storage`` those of the core, and a
feature of this server its own, which a node without the feature takes, too. ``STEPS`` there has them by their
number: a text of :func:`imserver.gateway.storage.migrations.table_text.make_tables`, or a function. The table
``owner_step`` has the last one of each owner. A database that is at a newer one is used as it is.

Up to 40 all owners shared one line of numbers. ``alembic_version`` has the last one, where nodes of releases
before 1.1 read it. So each owner counts on from 41.

A step only adds. What the previous release uses is removed one release after its last use, so nodes of both
releases can share a database during an upgrade.

The lock belongs to the database, so it works between machines and is released with the connection of a killed
node. On PostgreSQL and SQLite all steps are one transaction. MySQL commits with each schema statement, so a
step may run twice there.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, text

import imserver
from imserver.gateway.errors import StartError
from imserver.gateway.storage.migrations import feature_steps
from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.tables import FeatureTables, Migration

_SHARED: Final = 40
"""The last number that all owners shared."""
_LOCK_SECONDS: Final = 60.0
_VERSIONS: Final = "alembic_version"
_MAKE_VERSIONS: Final = (
    f"CREATE TABLE IF NOT EXISTS {_VERSIONS} "
    f"(version_num VARCHAR(32) NOT NULL, CONSTRAINT {_VERSIONS}_pkc PRIMARY KEY (version_num))"
)
_numbers: Final = re.compile(r"^    (\d+): ", re.MULTILINE).findall
_table_names: Final = re.compile(r"^ *(?:table|ordered) (\w+): ", re.MULTILINE).findall


@cache
def _modules(package: str = imserver.__file__) -> dict[str, Path]:
    """Owner → its module; the core is first, whose tables the others use. Releases before 1.1 have none."""
    files = sorted(
        Path(package).parent.rglob("steps.py"), key=lambda file: (file.parent.name != "storage", file)
    )
    return {file.parent.name: file for file in files}


@cache
def newest_steps(package: str = imserver.__file__) -> dict[str, int]:
    """Owner → the number of its newest step. They are read in the texts: a node with a current database loads
    none of the modules. ``package``: the ``__init__.py`` of another release."""
    return {owner: int(_numbers(file.read_text("utf-8"))[-1]) for owner, file in _modules(package).items()}


def steps_of(owner: str) -> Mapping[int, Migration]:
    """Load the steps of an owner, without its package, which the node may not have."""
    spec = spec_from_file_location("steps", _modules()[owner])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    steps: Mapping[int, Migration] = module.STEPS
    return steps


def taken_steps(connection: Connection) -> dict[str, int]:
    """Owner → the last of its steps that a database has; empty: it has no tables of ours."""
    has_table, sql = connection.dialect.has_table, PooledStatements(connection)
    if has_table(connection, "owner_step"):
        rows = sql.query("SELECT owner, step FROM owner_step")
        if rows:
            return {text_of(owner): int(step) for owner, step in rows}
    versions = sql.query(f"SELECT version_num FROM {_VERSIONS}") if has_table(connection, _VERSIONS) else []
    shared = [text_of(version) for (version,) in versions]
    return {owner: int(step) if step.isdecimal() else 0 for step in shared for owner in newest_steps()}


def missing_steps(taken: Mapping[str, int], package: str = imserver.__file__) -> dict[str, int]:
    """Owner → its newest step, of those owners whose newest step a database lacks."""
    return {owner: step for owner, step in newest_steps(package).items() if taken.get(owner, 0) < step}


def newer_steps(taken: Mapping[str, int], package: str = imserver.__file__) -> dict[str, int]:
    """The steps of a database that a release does not have: a newer one has taken them."""
    newest = newest_steps(package)
    return {owner: step for owner, step in taken.items() if step > max(newest.get(owner, 0), _SHARED)}


def named(steps: Mapping[str, int]) -> str:
    """Steps, for messages."""
    return ", ".join(f"{step} of {owner}" for owner, step in sorted(steps.items()))


def migrate(connection: Connection, shown: str, features: Sequence[FeatureTables] = ()) -> None:
    """Run the missing steps, and those of features of other distributions, under a lock. Raises StartError.

    ``connection`` is in a transaction. On SQLite that is a writing transaction, which serves as the lock.
    ``shown``: the address of the database, for messages.
    """
    with _locked(connection):
        taken = taken_steps(connection)
        if missing_steps(taken):  # no other node has migrated meanwhile
            if tables := _foreign_tables(connection):
                raise StartError(
                    f"storage: the database {shown} belongs to another program, whose tables have names of "
                    f"ours ({', '.join(tables)}). Set storage.url to an empty database; 'imserver account "
                    "import' takes over the users of GoChat"
                )
            if taken and taken["storage"] < 20:
                raise StartError(
                    f"storage: the database {shown} is of a release before 1.0. Start version 1.0 with it "
                    "once, then this one"
                )
            _upgrade(connection, taken)
        feature_steps.run(connection, shown, features)


def _foreign_tables(connection: Connection) -> list[str]:
    """The tables of another program that have names of ours; empty if the database is ours, or free.

    The version table is made before all others, and names a step when ``directory`` exists.
    """
    tables = set(connection.dialect.get_table_names(connection))
    if _VERSIONS in tables and ("directory" in tables or not taken_steps(connection)):
        return []
    texts = "".join(file.read_text("utf-8") for file in _modules().values())
    return sorted(tables & {_VERSIONS, *_table_names(texts)})


def _upgrade(connection: Connection, taken: Mapping[str, int]) -> None:
    sql = PooledStatements(connection)
    sql.execute(_MAKE_VERSIONS)
    for owner in newest_steps():
        feature_steps.take(connection, owner, steps_of(owner), taken.get(owner, 0))
    # Last, in one transaction: MySQL keeps a part of what a crash interrupts, and then the steps run again.
    sql.execute(f"DELETE FROM {_VERSIONS}")
    sql.execute(f"INSERT INTO {_VERSIONS} (version_num) VALUES (%s)", (f"{_SHARED:04}",))
    sql.execute_many("DELETE FROM owner_step WHERE owner = %s", [(owner,) for owner in newest_steps()])
    rows = [(owner, max(step, taken.get(owner, 0))) for owner, step in newest_steps().items()]
    sql.execute_many("INSERT INTO owner_step (owner, step) VALUES (%s, %s)", rows)


# --- locks --------------------------------------------------------------------------------------------------


def _until(taken: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not taken():
        if time.monotonic() > deadline:
            raise StartError(f"storage: another node has been migrating the database for {_LOCK_SECONDS:g} s")
        time.sleep(0.1)


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """The lock of migrations. On SQLite the transaction is it."""
    engine = connection.dialect.name
    if engine == "postgresql":
        # Bound to the transaction, so it also works behind a transaction pooler.
        # No other program has this number.
        statement, lock = text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": 0x696D736572766572}
        _until(lambda: connection.execute(statement, lock).scalar())
    if engine in ("sqlite", "postgresql"):
        yield
        return
    # Bound to the connection, because schema statements end transactions. Its name is global on the server.
    name = {"lock": f"imserver {connection.execute(text('SELECT DATABASE()')).scalar()}"[:64]}
    _until(lambda: connection.execute(text("SELECT GET_LOCK(:lock, 0)"), name).scalar())
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:lock)"), name)
