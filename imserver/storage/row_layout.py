"""The columns of a table on one engine, what kinds of values they have, and how a driver takes these.

What is the same on all engines is a *plain* value: texts are bytes in UTF-8, flags are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import types
from sqlalchemy.dialects import mysql
from sqlalchemy.engine.reflection import Inspector

from imserver.errors import StartError
from imserver.storage.row_query import RowQuery
from imserver.storage.statements import Row

_LONGEST: Final = 1 << 24
Change = Callable[[Any], Any]


class ColumnKind(Struct, frozen=True):
    """A kind of columns. ``types``: those of SQLAlchemy. ``value``: the type of a value in an export.
    ``copy``: its type for COPY in binary form, where the bytes of a text are the text; ``""``: that of the
    column. ``plain``: what makes a plain value of what a driver returns. ``stored``: engine → what makes of a
    plain value what its driver takes."""

    name: str
    types: tuple[type[types.TypeEngine[Any]], ...]
    value: type
    copy: str = ""
    plain: Change | None = None
    stored: dict[str, Change] = {}


def _plain_decimal(value: Any) -> bytes:
    text = format(Decimal(value.decode() if isinstance(value, bytes) else str(value)), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()


_BYTES: Final = (
    types.LargeBinary,
    types.BINARY,
    types.VARBINARY,
    mysql.TINYBLOB,
    mysql.MEDIUMBLOB,
    mysql.LONGBLOB,
)
_DECIMALS: Final[dict[str, Change]] = {
    "sqlite": bytes.decode,
    "postgresql": lambda value: Decimal(value.decode()),
    "mysql": bytes.decode,
}
_KINDS: Final = (
    ColumnKind("flag", (types.Boolean,), bool, "bool", int, {"postgresql": bool}),
    ColumnKind("number", (types.Integer,), int),
    ColumnKind("real", (types.Float,), float, plain=float),
    ColumnKind("decimal", (types.Numeric,), Decimal, "numeric", _plain_decimal, _DECIMALS),
    ColumnKind("bytes", _BYTES, bytes, "bytea"),
    ColumnKind("text", (types.String,), str, "bytea", stored={"sqlite": bytes.decode}),
)
"""A type of columns has the first kind that fits."""


class ColumnLayout(Struct, frozen=True):
    """A column on one engine. ``copy``: its type for COPY. ``least``, ``most``: numbers, or characters of a
    text, that it takes on each engine."""

    name: str
    kind: ColumnKind
    copy: str
    most: int
    least: int = 0


class TableLayout(Struct, frozen=True):
    """A table on one engine. ``columns``: sorted by their names, which is their order in rows."""

    table: str
    key: tuple[str, ...]
    columns: tuple[ColumnLayout, ...]

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        names = [column.name for column in self.columns]
        return tuple(row[names.index(name)] for name in self.key)

    @property
    def number(self) -> str:
        """The only column of its key, if it is a number; else ``""``."""
        kinds = {column.name: column.kind.name for column in self.columns}
        return self.key[0] if len(self.key) == 1 and kinds[self.key[0]] == "number" else ""

    @property
    def query(self) -> RowQuery:
        """All its rows."""
        names = tuple(f'"{column.name}"' for column in self.columns)
        return RowQuery(f'"{self.table}"', tuple(f'"{name}"' for name in self.key), names)


def layout_of(
    inspector: Inspector, table: str, key: Sequence[str], only: Collection[str] = ()
) -> TableLayout:
    """The layout of a table. ``only``: with these columns alone. Raises StartError if one of them has a type
    that this cannot copy."""
    names, columns = tuple(each.strip('"') for each in key), []
    for column in inspector.get_columns(table):
        name, of = column["name"], column["type"]
        if only and name not in only:
            continue
        kind = next((kind for kind in _KINDS if isinstance(of, kind.types)), None)
        if kind is None:
            raise StartError(f"the column {name} of {table} has the type {of!r}, which is not copied")
        copy, most = kind.copy, getattr(of, "length", None) or _LONGEST
        if kind.name == "number":
            bits = (
                16 if isinstance(of, types.SmallInteger) else 64 if isinstance(of, types.BigInteger) else 32
            )
            copy = f"int{bits // 8}"
            # SQLite keeps numbers of any size.
            most = (1 << (63 if name in names and bits == 32 else bits - 1)) - 1
        elif kind.name == "real":
            copy = "float4" if isinstance(of, types.REAL) else "float8"
        columns.append(ColumnLayout(name, kind, copy, most))
    columns.sort(key=lambda each: each.name)
    return TableLayout(table, names, tuple(columns))
