"""Rows for all tables of any database: seeded, with values that engines treat
in different ways."""

import random
from collections.abc import Sequence

from sqlalchemy import inspect
from sqlalchemy.types import BigInteger, SmallInteger

from imserver.gateway.storage.row_layout import layout_of
from imserver.gateway.storage.statements import PooledStatements, marks_of
from imserver.gateway.storage.tables import Table

TEXTS = (
    "",
    "a",
    "A",
    "é",
    "e\u0301",
    "日本",
    "🙂",
    "'\"\\%s`;--",
    " x",
    "0",
    "null",
    "tab\tline\n",
)
BYTES = (b"", b"\0", b"\xff\xfe", b"a\0b", b"{}", "é".encode(), b"\\'")
STEPS = ("alembic_version", "feature_schema", "owner_step", "directory")


def fill(
    sql: PooledStatements, tables: Sequence[Table], rows: int, seed: int = 1
) -> dict[str, int]:
    """Put so many rows into each table of a SQLite database, and say how many
    each has then."""
    numbers = random.Random(seed)
    inspector = inspect(sql.connection)
    for table in tables:
        if table.name in STEPS:
            continue
        sql.execute(f'DELETE FROM "{table.name}"')
        layout = layout_of(inspector, table.name, table.key)
        columns = {
            column["name"]: column for column in inspector.get_columns(table.name)
        }
        unique = {
            name
            for each in inspector.get_unique_constraints(table.name)
            for name in each["column_names"]
        }
        unique |= {
            name
            for each in inspector.get_indexes(table.name)
            for name in each["column_names"]
            if name
        }
        names = ", ".join(f'"{column.name}"' for column in layout.columns)
        statement = f'INSERT INTO "{table.name}" ({names}) VALUES {marks_of(len(layout.columns))}'
        given = []
        for number in range(1, rows + 1):
            row = []
            for column in layout.columns:
                facts = columns[column.name]
                differs = column.name in unique or column.name in layout.key
                row.append(_value(numbers, column.kind.name, facts, number, differs))
            given.append(tuple(row))
        sql.execute_many(statement, given)
    # Numbers that were given to rows that are gone.
    sql.execute("UPDATE sqlite_sequence SET seq = seq + 1000")
    return {table.name: rows for table in tables if table.name not in STEPS}


def _value(
    numbers: random.Random,
    kind: str,
    facts: dict[str, object],
    number: int,
    differs: bool,
) -> object:
    if facts["nullable"] and not numbers.randrange(3):
        return None
    if kind == "number":
        bits = 15 if isinstance(facts["type"], SmallInteger) else 31
        if isinstance(facts["type"], BigInteger):
            bits = 63
        if differs:
            return number
        return numbers.choice(
            (0, 1, -1, (1 << bits) - 1, -(1 << bits), numbers.randrange(1 << bits))
        )
    length = getattr(facts["type"], "length", None) or 300
    if kind == "bytes":
        if facts["name"] == "body":
            return bytes(range(256)) * numbers.randrange(20)
        return (b"%d" % number if differs else b"") + numbers.choice(BYTES)
    text = numbers.choice(TEXTS)
    if differs:
        # In pairs that differ only in case. The dash ends the number: 2 and the
        # text "0" are not 20.
        text = f"{'kK'[number % 2]}{number // 2}-" + (
            "" if length < 32 else text.strip()
        )
    while len(text.encode()) > length:
        text = text[:-1]
    return text
