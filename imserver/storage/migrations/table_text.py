"""Tables of the steps, as a text that all engines share."""

import re
from textwrap import dedent
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from imserver.storage.migrations import Columns

_KINDS: Final[dict[str, Any]] = {
    "int": sa.Integer,
    "small": sa.SmallInteger,
    "big": sa.BigInteger,
    "serial": sa.Integer,
    # SQLite gives numbers to a column of exactly the type INTEGER only; there, too, they have 64 bits.
    "bigserial": sa.BigInteger().with_variant(sa.Integer, "sqlite"),
    "text": sa.Text,
    "blob": Columns.CONTENT,
    "name": Columns.name,
    "bytes": Columns.short_bytes,
    "string": sa.String,
}


def make_tables(text: str) -> None:
    """Make what a text says, and a database lacks: MySQL keeps what was done before a crash.

    ``table NAME: COLUMNS`` makes a table, ``ordered`` one whose rows stand in the order of their key, on
    SQLite too; ``columns NAME: COLUMNS`` adds columns to a table. A column is ``name kind``, where ``*`` says
    that it is of the key, ``?`` that it may be NULL, ``=`` its default. Constraints (``unique``) and indexes
    follow.
    """
    for what, table, listed, more in re.findall(
        r"^(table|ordered|columns) (\w+): (.*(?:\n    .*)*)((?:\n  \w.*)*)", dedent(text), re.MULTILINE
    ):
        columns = [_column(each) for each in re.split(r",\s+", listed)]
        parts = [(*head.rsplit(" ", 1), of.split()) for head, of in re.findall(r"  (.+): (.+)", more)]
        if what == "columns":
            there = {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}
            for column in columns:
                if column.name not in there:
                    op.add_column(table, column)
        else:
            op.create_table(
                table,
                *columns,
                *(sa.UniqueConstraint(*of, name=name) for kind, name, of in parts if kind == "unique"),
                sqlite_autoincrement="bigserial" in listed,
                if_not_exists=True,
                **(Columns.KEY_ORDER if what == "ordered" else Columns.MYSQL_OPTIONS),
            )
        # An index is made after a look: no engine but PostgreSQL makes it together with its table.
        indexes = {each["name"] for each in sa.inspect(op.get_bind()).get_indexes(table)}
        for kind, name, of in parts:
            if kind != "unique" and name not in indexes:
                op.create_index(name, table, of, unique=kind == "unique index")


def _column(text: str) -> sa.Column[Any]:
    name, kind, size, mark, default = re.fullmatch(r"(\w+) ([a-z]+)(\d*)([*?=]?)(.*)", text).groups()  # type: ignore[union-attr]
    return sa.Column(
        name,
        _KINDS[kind](int(size)) if size else _KINDS[kind],
        primary_key=mark == "*" or "serial" in kind,
        autoincrement="serial" in kind,
        nullable=mark == "?",
        server_default=sa.text(default) if default else None,
    )
