"""Tables of the steps, as a text that all engines share. Only a step loads
it."""

import re
from textwrap import dedent
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, LargeBinary, String
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from imserver.gateway.storage.tables import IndexText

_MYSQL: Final = ("mysql", "mariadb")


_NAME_BYTES: Final = 500
_items_of: Final = re.compile(
    r"^(table|ordered|columns) (\w+): (.*(?:\n    .*)*)((?:\n  \w.*)*)", re.MULTILINE
).findall
"""The tables of a text: each has a keyword, a name, its columns, and the lines
with its constraints and indexes."""
_parts_of: Final = re.compile(r"  (.+): (.+)").findall
"""The constraints and indexes of a table: each has a head, such as ``unique
app_by_version``, and the names of its columns."""
_match_column: Final = re.compile(r"(\w+) ([a-z]+)(\d*)([*?=]?)(.*)").fullmatch
"""Splits a column into its name, kind, size, sign and default."""


class Columns:
    """Columns of tables and options of tables, for the steps that make them."""

    MYSQL_OPTIONS: Final[dict[str, Any]] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_bin",
    }
    """Options of a table on MySQL. The other engines do not have them."""
    KEY_ORDER: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}
    """Options of a table whose rows are stored in the order of their key, on
    SQLite too. So SQLite need not write a second tree."""
    CONTENT: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)
    """Bytes of any content. MySQL's plain blobs are limited to 65,535 bytes."""

    @staticmethod
    def name(length: int = _NAME_BYTES) -> TypeEngine[str]:
        """A name of at most ``length`` bytes, compared byte by byte. MySQL's
        text collations may treat ``a`` and ``A`` as equal."""
        return String(length).with_variant(mysql.VARBINARY(length), *_MYSQL)

    @staticmethod
    def short_bytes(length: int) -> TypeEngine[bytes]:
        """Bytes in an index. MySQL cannot index blobs without a prefix
        length."""
        return LargeBinary().with_variant(mysql.VARBINARY(length), *_MYSQL)

    @staticmethod
    def key(column: str, kind: Any = BigInteger) -> Column[Any]:
        """A column of the primary key, whose values the database does not
        make."""
        return Column(column, kind, primary_key=True, autoincrement=False)

    @staticmethod
    def need(column: str, kind: Any = BigInteger) -> Column[Any]:
        """A column that must have a value."""
        return Column(column, kind, nullable=False)


_KINDS: Final[dict[str, Any]] = {
    "int": sa.Integer,
    "small": sa.SmallInteger,
    "big": sa.BigInteger,
    "serial": sa.Integer,
    # SQLite gives numbers only to a column of exactly the type INTEGER. The
    # numbers of this type have 64 bits, too.
    "bigserial": sa.BigInteger().with_variant(sa.Integer, "sqlite"),
    "text": sa.Text,
    "blob": Columns.CONTENT,
    "name": Columns.name,
    "bytes": Columns.short_bytes,
    "string": sa.String,
}


def make_tables(
    op: Operations, text: str, later: list[IndexText] | None = None
) -> None:
    """Make the tables, columns and indexes of a text. Tables, columns and
    indexes that exist are left out, because MySQL keeps what was made before a
    crash.

    ``table NAME: COLUMNS`` makes a table. ``ordered NAME: COLUMNS`` makes a
    table whose rows are stored in the order of their key, on SQLite too.
    ``columns NAME: COLUMNS`` adds columns to a table. A column is ``name
    kind``, with ``*`` if it belongs to the key, ``?`` if it may be NULL, and
    ``=`` before its default. Lines with constraints and indexes follow::

        table app: name name500*, settings text, version big, created big
          unique app_by_version: version name

    ``later`` is a list to which the indexes of tables with new columns are
    added. Such tables may have many rows, so the caller makes these indexes.
    None means that they are made here.
    """
    for keyword, table, columns_text, parts_text in _items_of(dedent(text)):
        columns = [column_of(column) for column in re.split(r",\s+", columns_text)]
        constraints, indexes = _constraints_and_indexes(table, parts_text)
        if keyword == "columns":
            _add_columns(op, table, columns)
            # A table with new columns may have many rows. A new table has none.
            if later is not None:
                later += indexes
                continue
        else:
            _make_table(
                op,
                table,
                [*columns, *constraints],
                is_ordered=keyword == "ordered",
                # SQLite never gives the number of a deleted row again.
                is_numbered="bigserial" in columns_text,
            )
        _make_indexes(op, table, indexes)


def _make_table(
    op: Operations,
    table: str,
    items: list[Column[Any] | sa.Constraint],
    is_ordered: bool,
    is_numbered: bool,
) -> None:
    """Make a table with these columns and constraints, unless it exists."""
    options = Columns.KEY_ORDER if is_ordered else Columns.MYSQL_OPTIONS
    op.create_table(
        table,
        *items,
        sqlite_autoincrement=is_numbered,
        if_not_exists=True,
        **options,
    )


def _constraints_and_indexes(
    table: str, parts_text: str
) -> tuple[list[sa.UniqueConstraint], list[IndexText]]:
    """Read the lines below a table, such as ``unique app_by_version: version name``.

    ``unique`` makes a constraint, which belongs to the table. ``index`` and
    ``unique index`` make an index, which can be added to a table later.
    """
    constraints: list[sa.UniqueConstraint] = []
    indexes: list[IndexText] = []
    for head, names_text in _parts_of(parts_text):
        kind, name = head.rsplit(" ", 1)
        names = names_text.split()
        if kind == "unique":
            constraints.append(sa.UniqueConstraint(*names, name=name))
        else:
            is_unique = kind == "unique index"
            indexes.append(IndexText(name, table, tuple(names), is_unique))
    return constraints, indexes


def _add_columns(op: Operations, table: str, columns: list[sa.Column[Any]]) -> None:
    """Add the columns that a table lacks."""
    stored = sa.inspect(op.get_bind()).get_columns(table)
    names = {column["name"] for column in stored}
    for column in columns:
        if column.name not in names:
            op.add_column(table, column)


def _make_indexes(op: Operations, table: str, indexes: list[IndexText]) -> None:
    """Make the indexes that a table lacks.

    Only PostgreSQL makes indexes together with their table. On other engines
    they may be missing after a crash.
    """
    names = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    for index in indexes:
        if index.name not in names:
            columns = list(index.columns)
            op.create_index(index.name, table, columns, unique=index.is_unique)


def column_of(text: str) -> sa.Column[Any]:
    """Return the column that a text describes, such as ``name name500*`` or
    ``open small=0``."""
    match = _match_column(text)
    name, kind, size, sign, default = match.groups()  # type: ignore[union-attr]

    type_of_column = _KINDS[kind]
    if size:
        type_of_column = type_of_column(int(size))
    return sa.Column(
        name,
        type_of_column,
        primary_key=sign == "*" or "serial" in kind,
        autoincrement="serial" in kind,
        nullable=sign == "?",
        server_default=sa.text(default) if default else None,
    )
