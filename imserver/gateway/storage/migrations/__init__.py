"""Migration steps of the database schema, run by one node at a time.

Each owner of tables has its steps in a module ``steps`` of its folder:
``storage`` has the steps of the core, and each feature of this server its own.
A node without a feature takes the steps of the feature, too. ``STEPS`` in such
a module has the steps by their number: a text of
:func:`imserver.gateway.storage.migrations.table_text.make_tables`, or a
function. The table ``owner_step`` has the last step of each owner. A database
that is at a newer step is used as it is.

Up to step 40, all owners shared one line of numbers. The table
``alembic_version`` has the last of these numbers, because nodes of releases
before 1.1 read it there. Since then, each owner counts from 41.

A step only adds. A thing is removed one release after its last use, so nodes of
both releases can share a database during an upgrade.

The lock belongs to the database, so it works between machines and is released
with the connection of a killed node. An empty database gets all tables in one
transaction. In a database that is in use, each step is a transaction of its own
(:mod:`imserver.gateway.storage.migrations.runner`). So a database may be at any
step of any owner, and the next start continues from there. MySQL commits with
each schema statement, so a step may run twice there.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

import imserver
from imserver.gateway.errors import StartError
from imserver.gateway.storage.migrations import feature_steps
from imserver.gateway.storage.migrations.runner import (
    StepOwner,
    StepRunner,
    Transactions,
    locked,
    run_step,
)
from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.tables import FeatureTables, Migration

_SHARED: Final = 40
"""The last number that all owners shared."""
_RECORDS_STEP: Final = 41
"""The step of the core that makes the table ``owner_step``."""
_FIRST_STEP: Final = 20
"""The step of the core that makes all tables of version 1.0."""
_VERSIONS: Final = "alembic_version"
_MAKE_VERSIONS: Final = (
    f"CREATE TABLE IF NOT EXISTS {_VERSIONS} (version_num VARCHAR(32) NOT NULL, "
    f"CONSTRAINT {_VERSIONS}_pkc PRIMARY KEY (version_num))"
)
_numbers: Final = re.compile(r"^    (\d+): ", re.MULTILINE).findall
"""Finds the numbers of the steps in the text of a module."""
_table_names: Final = re.compile(r"^ *(?:table|ordered) (\w+): ", re.MULTILINE).findall
"""Finds the names of the tables that the steps of a module make."""


@cache
def _modules(package: str = imserver.__file__) -> dict[str, Path]:
    """Return the module with the steps of each owner of tables.

    The core is first, because other owners use its tables. Releases before 1.1
    have no such modules.
    """
    files = sorted(Path(package).parent.rglob("steps.py"))
    files.sort(key=lambda file: file.parent.name != "storage")
    return {file.parent.name: file for file in files}


@cache
def newest_steps(package: str = imserver.__file__) -> dict[str, int]:
    """Return the number of the newest step of each owner.

    ``package`` is the path of the ``__init__.py`` of a release; the default is
    this release.
    """
    newest = {}
    for owner, file in _modules(package).items():
        # The numbers are read from the text, so that a node with a current
        # database need not load the module.
        numbers = _numbers(file.read_text("utf-8"))
        newest[owner] = int(numbers[-1])
    return newest


def steps_of(owner: str) -> Mapping[int, Migration]:
    """Load the steps of an owner, by their numbers.

    The module is loaded without its package, which the node may not have.
    """
    spec = spec_from_file_location("steps", _modules()[owner])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    steps: Mapping[int, Migration] = module.STEPS
    return steps


def taken_steps(connection: Connection) -> dict[str, int]:
    """Return the number of the last step of each owner that the database has
    taken.

    The result is empty if the database has no tables of this server.
    """
    has_table = connection.dialect.has_table
    sql = PooledStatements(connection)
    if has_table(connection, "owner_step"):
        rows = sql.query("SELECT owner, step FROM owner_step")
        if rows:
            return {text_of(owner): int(step) for owner, step in rows}
    if has_table(connection, _VERSIONS):
        return _steps_of_first_release(sql)
    return {}


def _steps_of_first_release(sql: PooledStatements) -> dict[str, int]:
    """Return the last step of each owner in a database of release 1.0.

    Such a database has one number for all owners. A database of another program
    may have a text that is not a number. That counts as step 0.
    """
    steps: dict[str, int] = {}
    for (version,) in sql.query(f"SELECT version_num FROM {_VERSIONS}"):
        number = text_of(version)
        step = int(number) if number.isdecimal() else 0
        steps = dict.fromkeys(newest_steps(), step)
    return steps


def missing_steps(
    taken: Mapping[str, int], package: str = imserver.__file__
) -> dict[str, int]:
    """Return the owners with steps that the database lacks, each with the
    number of its newest step.

    ``taken`` is the result of :func:`taken_steps`.
    """
    return {
        owner: step
        for owner, step in newest_steps(package).items()
        if taken.get(owner, 0) < step
    }


def newer_steps(
    taken: Mapping[str, int], package: str = imserver.__file__
) -> dict[str, int]:
    """Return the last steps of a database that this release does not have.

    A newer release has taken these steps. The result maps owners to the numbers
    of their steps.
    """
    newest = newest_steps(package)
    return {
        owner: step
        for owner, step in taken.items()
        if step > max(newest.get(owner, 0), _SHARED)
    }


def named(steps: Mapping[str, int]) -> str:
    """Return steps as text for messages, such as ``41 of storage``."""
    return ", ".join(f"{step} of {owner}" for owner, step in sorted(steps.items()))


def next_step(taken: Mapping[str, int], package: str = imserver.__file__) -> str:
    """Return the step that the first node of a release takes next, for
    messages.

    For example ``step 42 of storage``. The result is ``""`` if no step is
    missing.
    """
    for owner, file in _modules(package).items():
        last_step = taken.get(owner, 0)
        for number in _numbers(file.read_text("utf-8")):
            if int(number) > last_step:
                return f"step {number} of {owner}"
    return ""


def make_all(
    connection: Connection, shown: str, features: Sequence[FeatureTables] = ()
) -> None:
    """Take all missing steps in the transaction of a connection.

    Steps of features of other distributions are included. It is for a database
    that nobody uses yet. On SQLite the connection has a writing transaction,
    which serves as the lock. ``shown`` is the address of the database, for
    messages. Raises StartError.
    """
    with locked(connection):
        _make_all(connection, taken_steps(connection), shown, features)


def migrate(
    transactions: Transactions, shown: str, features: Sequence[FeatureTables] = ()
) -> None:
    """Take the missing steps while other nodes may use the database.

    Steps of features of other distributions are included. ``shown`` is the
    address of the database, for messages. Raises StartError.
    """
    with transactions.locked() as connection:
        taken = taken_steps(connection)
        if not taken:
            # Nobody uses a database without tables.
            _make_all(connection, taken, shown, features)
            return
        # No step is missing if another node has migrated meanwhile.
        missing = missing_steps(taken)
        if missing:
            _refuse_foreign(connection, taken, shown)
            _begin_records(connection, taken)

    # Each step is a transaction of its own from here on.
    runner = StepRunner(transactions, shown)
    for owner in missing:
        runner.run(_steps_of_owner(owner), after=taken.get(owner, 0))
    feature_steps.run_each(runner, features)


def _steps_of_owner(owner: str) -> StepOwner:
    """Return the steps of the core or a plug-in, for a runner of steps."""
    return StepOwner(
        name=owner,
        steps=steps_of(owner),
        last_step=partial(_last_step, owner),
        record=partial(_record, owner),
    )


def _make_all(
    connection: Connection,
    taken: Mapping[str, int],
    shown: str,
    features: Sequence[FeatureTables],
) -> None:
    """Take all missing steps in the transaction of a connection that has the
    lock of migrations.

    ``taken`` has the steps that the database has. ``shown`` is the address of
    the database, for messages. Raises StartError.
    """
    if missing_steps(taken):
        _refuse_foreign(connection, taken, shown)
        _upgrade(connection, taken)
    feature_steps.run(connection, shown, features)


def _refuse_foreign(
    connection: Connection, taken: Mapping[str, int], shown: str
) -> None:
    """Raise StartError if the database is not a usable database of this server.

    Such a database belongs to another program, or is older than version 1.0.
    """
    tables = _foreign_tables(connection)
    if tables:
        raise StartError(
            f"storage: the database {shown} belongs to another program, whose tables "
            f"have names of ours ({', '.join(tables)}). Set storage.url to an empty "
            "database; 'imserver account import' takes over the users of GoChat"
        )
    if taken and taken["storage"] < _FIRST_STEP:
        raise StartError(
            f"storage: the database {shown} is of a release before 1.0. "
            "Start version 1.0 with it once, then this one"
        )


def _foreign_tables(connection: Connection) -> list[str]:
    """Return the tables of another program that have the same names as our
    tables.

    The list is empty if the database is ours, or has no such tables.
    """
    # Our version table is made before all other tables, and names a step when
    # the table "directory" exists.
    tables = set(connection.dialect.get_table_names(connection))
    has_versions = _VERSIONS in tables
    if has_versions and ("directory" in tables or not taken_steps(connection)):
        return []
    texts = "".join(file.read_text("utf-8") for file in _modules().values())
    our_names = {_VERSIONS, *_table_names(texts)}
    return sorted(tables & our_names)


def _upgrade(connection: Connection, taken: Mapping[str, int]) -> None:
    """Take the missing steps of all owners in the transaction of a connection.

    The steps are recorded. ``taken`` has the steps that the database has.
    """
    sql = PooledStatements(connection)
    sql.execute(_MAKE_VERSIONS)
    for owner in newest_steps():
        feature_steps.take(connection, owner, steps_of(owner), taken.get(owner, 0))

    # This comes last. If a crash interrupts a transaction, MySQL keeps a part
    # of it, and the steps must run again.
    _end_shared_line(sql)
    steps = {}
    for owner, step in newest_steps().items():
        steps[owner] = max(step, taken.get(owner, 0))
    _write_steps(sql, steps)


def _begin_records(connection: Connection, taken: Mapping[str, int]) -> None:
    """Make the table with the last step of each owner, unless it has rows
    already.

    A database of release 1.0 does not have this table, because it has one
    number for all owners.
    """
    sql = PooledStatements(connection)
    has_table = connection.dialect.has_table(connection, "owner_step")
    if has_table and sql.query("SELECT 1 FROM owner_step"):
        return
    run_step(connection, "storage", _RECORDS_STEP, steps_of("storage")[_RECORDS_STEP])
    _write_steps(sql, taken)


def _last_step(owner: str, connection: Connection) -> int:
    """Return the last step of an owner that the database has taken; 0 if it has
    taken no step."""
    return taken_steps(connection).get(owner, 0)


def _record(owner: str, connection: Connection, number: int) -> None:
    """Record that a step was taken."""
    sql = PooledStatements(connection)
    _write_steps(sql, {owner: number})
    if not missing_steps(taken_steps(connection)):
        # This is written only after the last step, because a node of a release
        # before 1.1 decides by this number which steps it takes.
        _end_shared_line(sql)


def _write_steps(sql: PooledStatements, steps: Mapping[str, int]) -> None:
    """Store the last steps of these owners. They replace earlier steps."""
    sql.execute_many(
        "DELETE FROM owner_step WHERE owner = %s", [(owner,) for owner in steps]
    )
    sql.execute_many(
        "INSERT INTO owner_step (owner, step) VALUES (%s, %s)", [*steps.items()]
    )


def _end_shared_line(sql: PooledStatements) -> None:
    """Record that all steps with a shared number were taken.

    Up to step 40, all owners had one line of numbers.
    """
    sql.execute(f"DELETE FROM {_VERSIONS}")
    sql.execute(
        f"INSERT INTO {_VERSIONS} (version_num) VALUES (%s)", (f"{_SHARED:04}",)
    )
