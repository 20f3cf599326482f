"""Migration steps of features of other distributions. The table
``feature_schema`` has a record of each such feature.

The record also describes the tables of the feature. So a node without the
feature can erase and export their rows.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct, json
from sqlalchemy import Connection

from imserver.gateway.errors import StartError
from imserver.gateway.storage.migrations.runner import StepOwner, StepRunner, run_step
from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.tables import FeatureTables, Migration


class RecordedTables(Struct, frozen=True):
    """The record of a feature in the database.

    ``step`` is the last step that was taken; 0 if no step was taken. ``tables``
    describes the tables of the feature, as JSON.
    """

    step: int = 0
    tables: bytes = b"[]"


def recorded(connection: Connection) -> dict[str, RecordedTables]:
    """Return the records of all features, including features that no node has
    now."""
    sql = PooledStatements(connection)
    records = {}
    for feature, step, tables in sql.query(
        "SELECT feature, step, tables FROM feature_schema"
    ):
        records[text_of(feature)] = RecordedTables(step, bytes(tables))
    return records


def are_due(
    features: Sequence[FeatureTables], records: Mapping[str, RecordedTables]
) -> bool:
    """Whether the records differ from the steps and tables of these
    features."""
    return any(records.get(tables.feature) != _record_of(tables) for tables in features)


def run(connection: Connection, shown: str, features: Sequence[FeatureTables]) -> None:
    """Take the steps of features that a database lacks, and record them.

    Everything is in the transaction of ``connection``, which has the lock of
    migrations. ``shown`` is the address of the database, for messages. Raises
    StartError.
    """
    records = recorded(connection)
    for feature in features:
        before = records.get(feature.feature, RecordedTables())
        _refuse_newer(feature, before, shown)
        take(connection, _name_of(feature), _numbered(feature), before.step)
        _write(connection, feature, _record_of(feature), before)


def run_each(runner: StepRunner, features: Sequence[FeatureTables]) -> None:
    """Take the steps of features, each step in a transaction of its own.

    Raises StartError, also if a newer version of a feature has changed the
    database.
    """
    for feature in features:
        with runner.transactions.locked() as connection:
            before = _stored_record(connection, feature)
            _refuse_newer(feature, before, runner.database)

        owner = StepOwner(
            name=_name_of(feature),
            steps=_numbered(feature),
            last_step=partial(_last_step, feature),
            record=partial(_record_step, feature),
        )
        runner.run(owner, after=before.step)

        # The tables are recorded when all of them exist. Another node may have
        # changed the record meanwhile, so it is read again.
        with runner.transactions.locked() as connection:
            before = _stored_record(connection, feature)
            _write(connection, feature, _record_of(feature), before)


def _stored_record(connection: Connection, feature: FeatureTables) -> RecordedTables:
    """Return the record of a feature. The record of a new feature has the step
    0."""
    return recorded(connection).get(feature.feature, RecordedTables())


def _name_of(feature: FeatureTables) -> str:
    """Return the name of a feature, for messages."""
    return f"the feature {feature.feature!r}"


def _numbered(feature: FeatureTables) -> dict[int, Migration]:
    """Return the steps of a feature by their numbers, which begin with 1."""
    return dict(enumerate(feature.migrations, 1))


def _refuse_newer(feature: FeatureTables, before: RecordedTables, shown: str) -> None:
    """Raise StartError if a newer version of a feature has changed the
    database."""
    if before.step > len(feature.migrations):
        raise StartError(
            f"storage: the database {shown} is newer than the feature {feature.feature!r}: it is at its "
            f"step {before.step}, and the installed distribution has {len(feature.migrations)}"
        )


def _last_step(feature: FeatureTables, connection: Connection) -> int:
    """Return the last step of a feature that the database has taken."""
    return _stored_record(connection, feature).step


def _record_step(feature: FeatureTables, connection: Connection, number: int) -> None:
    """Record that a step of a feature was taken."""
    # The tables of the feature are recorded after the last step, when all of
    # them exist.
    before = _stored_record(connection, feature)
    _write(connection, feature, RecordedTables(number, before.tables), before)


def _record_of(feature: FeatureTables) -> RecordedTables:
    """Return the record of a feature whose steps were all taken."""
    return RecordedTables(len(feature.migrations), json.encode(feature.tables))


def _write(
    connection: Connection,
    feature: FeatureTables,
    record: RecordedTables,
    before: RecordedTables,
) -> None:
    """Write the record of a feature, if it differs from the record ``before``."""
    if record == before:
        return
    # The engines have no common statement that inserts or changes a row.
    sql = PooledStatements(connection)
    sql.execute("DELETE FROM feature_schema WHERE feature = %s", (feature.feature,))
    sql.execute(
        "INSERT INTO feature_schema (feature, step, tables) VALUES (%s, %s, %s)",
        (feature.feature, record.step, record.tables),
    )


def take(
    connection: Connection, owner: str, steps: Mapping[int, Migration], after: int
) -> None:
    """Take the steps after a number, all in the transaction of a connection.

    ``owner`` names the owner of the steps, for messages. Raises StartError.
    """
    for number, step in steps.items():
        if number > after:
            run_step(connection, owner, number, step)
