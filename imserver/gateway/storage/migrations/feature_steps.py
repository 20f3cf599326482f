"""Migration steps of features of other distributions, and the record of them in the table ``feature_schema``.

The record has the tables, too. So a node without the feature erases and exports their rows.
"""

import logging
from collections.abc import Mapping, Sequence

from msgspec import Struct, json
from sqlalchemy import Connection

from imserver.gateway.errors import StartError
from imserver.gateway.storage.statements import PooledStatements, text_of
from imserver.gateway.storage.tables import FeatureTables, Migration


class RecordedTables(Struct, frozen=True):
    """The record of a feature: the last step that was taken (0: none), and its tables as JSON."""

    step: int = 0
    tables: bytes = b"[]"


def recorded(connection: Connection) -> dict[str, RecordedTables]:
    """The records of all features, also of those that no node has."""
    rows = PooledStatements(connection).query("SELECT feature, step, tables FROM feature_schema")
    return {text_of(feature): RecordedTables(step, bytes(tables)) for feature, step, tables in rows}


def are_due(features: Sequence[FeatureTables], records: Mapping[str, RecordedTables]) -> bool:
    """Whether the records are not those of these features."""
    return any(records.get(each.feature) != _record_of(each) for each in features)


def run(connection: Connection, shown: str, features: Sequence[FeatureTables]) -> None:
    """Take the steps of features that a database lacks, and record them. Raises StartError.

    ``connection`` is in a transaction that has the lock of migrations. ``shown``: see
    :func:`imserver.gateway.storage.migrations.migrate`.
    """
    records = recorded(connection)
    for feature in features:
        steps = feature.migrations
        before = records.get(feature.feature, RecordedTables())
        if before.step > len(steps):
            raise StartError(
                f"storage: the database {shown} is newer than the feature {feature.feature!r}: it is at its "
                f"step {before.step}, and the installed distribution has {len(steps)}"
            )
        numbered = dict(enumerate(steps, 1))
        take(connection, f"the feature {feature.feature!r}", numbered, before.step)
        record = _record_of(feature)
        if record != before:
            sql = PooledStatements(connection)
            sql.execute("DELETE FROM feature_schema WHERE feature = %s", (feature.feature,))
            sql.execute(
                "INSERT INTO feature_schema (feature, step, tables) VALUES (%s, %s, %s)",
                (feature.feature, record.step, record.tables),
            )


def _record_of(feature: FeatureTables) -> RecordedTables:
    return RecordedTables(len(feature.migrations), json.encode(feature.tables))


def take(connection: Connection, owner: str, steps: Mapping[int, Migration], after: int) -> None:
    """Take the steps behind a number. ``owner``: whose they are, for messages. Raises StartError."""
    later = {number: step for number, step in steps.items() if number > after}
    if not later:
        return
    # Imported here: nodes with a current database need not load it.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from imserver.gateway.storage.migrations.table_text import make_tables

    operations = Operations(MigrationContext.configure(connection))
    for number, step in later.items():
        try:
            if isinstance(step, str):
                make_tables(operations, step)
            else:
                step(operations)
        except Exception as error:
            words = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StartError(f"storage: step {number} of {owner} failed: {words}") from error
