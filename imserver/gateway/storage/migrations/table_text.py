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


class Columns:
    """Columns of tables and options of tables, for the steps that make them."""

    MYSQL_OPTIONS: Final[dict[str, Any]] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_bin",
    }
    """Options of a table. The other engines have none of them."""
    KEY_ORDER: Final[dict[str, Any]] = {**MYSQL_OPTIONS, "sqlite_with_rowid": False}
    """Options of a table whose rows stand in the order of their key, on SQLite
    too: one tree less to write."""
    CONTENT: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQL)
    """Bytes of any content. MySQL's plain blobs are limited to 65,535 bytes."""

    @staticmethod
    def name(length: int = 500) -> TypeEngine[str]:
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
    # SQLite gives numbers to a column of exactly the type INTEGER only; there,
    # too, they have 64 bits.
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
    """Make what a text says, and a database lacks: MySQL keeps what was done
    before a crash.

    ``table NAME: COLUMNS`` makes a table, ``ordered`` one whose rows stand in
    the order of their key, on SQLite too; ``columns NAME: COLUMNS`` adds
    columns to a table. A column is ``name kind``, where ``*`` says that it is
    of the key, ``?`` that it may be NULL, ``=`` its default. Constraints
    (``unique``) and indexes follow. ``later`` gets the missing indexes of
    tables to which columns are added: there may be many rows.
    """
    for what, table, listed, more in re.findall(
        r"^(table|ordered|columns) (\w+): (.*(?:\n    .*)*)((?:\n  \w.*)*)",
        dedent(text),
        re.MULTILINE,
    ):
        columns = [column_of(each) for each in re.split(r",\s+", listed)]
        parts = [
            (*head.rsplit(" ", 1), of.split())
            for head, of in re.findall(r"  (.+): (.+)", more)
        ]
        if what == "columns":
            there = {
                each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)
            }
            for column in columns:
                if column.name not in there:
                    op.add_column(table, column)
        else:
            op.create_table(
                table,
                *columns,
                *(
                    sa.UniqueConstraint(*of, name=name)
                    for kind, name, of in parts
                    if kind == "unique"
                ),
                sqlite_autoincrement="bigserial" in listed,
                if_not_exists=True,
                **(Columns.KEY_ORDER if what == "ordered" else Columns.MYSQL_OPTIONS),
            )
        # An index is made after a look: no engine but PostgreSQL makes it
        # together with its table.
        indexes = {
            each["name"] for each in sa.inspect(op.get_bind()).get_indexes(table)
        }
        for kind, name, of in parts:
            if kind == "unique":
                continue
            is_unique = kind == "unique index"
            if what == "columns" and later is not None:
                later.append(IndexText(name, table, tuple(of), is_unique))
            elif name not in indexes:
                op.create_index(name, table, of, unique=is_unique)


def column_of(text: str) -> sa.Column[Any]:
    """The column that a text describes."""
    name, kind, size, mark, default = re.fullmatch(
        r"(\w+) ([a-z]+)(\d*)([*?=]?)(.*)", text
    ).groups()  # type: ignore[union-attr]
    return sa.Column(
        name,
        _KINDS[kind](int(size)) if size else _KINDS[kind],
        primary_key=mark == "*" or "serial" in kind,
        autoincrement="serial" in kind,
        nullable=mark == "?",
        server_default=sa.text(default) if default else None,
    )
