"""The columns of a table on one engine, what kinds of values they have, and how
a driver takes these; and the rows of an app that an import makes, from those
that an export has read.

What is the same on all engines is a *plain* value: texts are bytes in UTF-8,
flags are 0 or 1.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import inspect, types
from sqlalchemy.dialects import mysql
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.exc import DataError, IntegrityError

from imserver.gateway.errors import ImserverError, StartError
from imserver.gateway.storage.app_rows import tables_of_others
from imserver.gateway.storage.numbers import give_above
from imserver.gateway.storage.row_query import RowQuery
from imserver.gateway.storage.statements import PooledStatements, Row, marks_of
from imserver.gateway.storage.tables import OF_APP, OF_LOGS, Reason, Table

Change = Callable[[Any], Any]


class ColumnKind(Struct, frozen=True):
    """A kind of columns. ``types``: those of SQLAlchemy. ``value``: the type of
    a value in an export. ``copy``: its type for COPY in binary form, where the
    bytes of a text are the text; ``""``: that of the column. ``plain``: what
    makes a plain value of what a driver returns. ``stored``: engine → what
    makes of a plain value what its driver takes."""

    name: str
    types: tuple[type[types.TypeEngine[Any]], ...]
    value: type
    copy: str = ""
    plain: Change | None = None
    stored: dict[str, Change] = {}


def _plain_decimal(value: Any) -> bytes:
    text = format(
        Decimal(value.decode() if isinstance(value, bytes) else str(value)), "f"
    )
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
    ColumnKind(
        "decimal", (types.Numeric,), Decimal, "numeric", _plain_decimal, _DECIMALS
    ),
    ColumnKind("bytes", _BYTES, bytes, "bytea"),
    ColumnKind("text", (types.String,), str, "bytea", stored={"sqlite": bytes.decode}),
)
"""A type of columns has the first kind that fits."""


class ColumnLayout(Struct, frozen=True):
    """A column on one engine. ``copy``: its type for COPY. ``least``, ``most``:
    numbers, or characters of a text, that it takes on each engine."""

    name: str
    kind: ColumnKind
    copy: str
    most: int
    least: int = 0


class TableLayout(Struct, frozen=True):
    """A table on one engine. ``columns``: sorted by their names, which is their
    order in rows."""

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
        if len(self.key) == 1 and kinds[self.key[0]] == "number":
            return self.key[0]
        return ""

    @property
    def query(self) -> RowQuery:
        """All its rows."""
        names = tuple(f'"{column.name}"' for column in self.columns)
        return RowQuery(
            f'"{self.table}"', tuple(f'"{name}"' for name in self.key), names
        )


def layout_of(
    inspector: Inspector, table: str, key: Sequence[str], only: Collection[str] = ()
) -> TableLayout:
    """The layout of a table. ``only``: with these columns alone. Raises
    StartError if one of them has a type that this cannot copy."""
    names = tuple(each.strip('"') for each in key)
    columns = []
    for column in inspector.get_columns(table):
        name = column["name"]
        of = column["type"]
        if only and name not in only:
            continue
        kind = next((kind for kind in _KINDS if isinstance(of, kind.types)), None)
        if kind is None:
            raise StartError(
                f"the column {name} of {table} has the type {of!r}, which is not copied"
            )
        copy = kind.copy
        most = getattr(of, "length", None) or 1 << 24
        if kind.name == "number":
            if isinstance(of, types.SmallInteger):
                bits = 16
            elif isinstance(of, types.BigInteger):
                bits = 64
            else:
                bits = 32
            copy = f"int{bits // 8}"
            # SQLite keeps numbers of any size.
            most = (1 << (63 if name in names and bits == 32 else bits - 1)) - 1
        elif kind.name == "real":
            copy = "float4" if isinstance(of, types.REAL) else "float8"
        columns.append(ColumnLayout(name, kind, copy, most))
    columns.sort(key=lambda each: each.name)
    return TableLayout(table, names, tuple(columns))


# --- imports ------------------------------------------------------------------

BASE64: Final = "base64"
"""The only name in an object that stands for bytes that are no text."""


class BadRows(ImserverError):
    """These rows cannot be imported. The text says why."""


def _check_ids(table: str, ids: Iterable[Any]) -> None:
    """Raise BadRows for an id that no server gives."""
    for id in ids:
        if not _is_id(id):
            raise BadRows(
                f"no server gives a row of the table {table} the id {id!r:.100}"
            )


def _check_parents(
    table: Table, column: str, ids: Iterable[Any], parents: Collection[int]
) -> None:
    """Raise BadRows if a row has no parent. ``ids``: the values of ``column``,
    which says the parent. One that is not in the key may be 0: none."""
    may_be_none = column not in table.key
    for id in ids:
        if id not in parents and not (may_be_none and id == 0):
            raise BadRows(
                f"the table {table.name} has rows of {Table.PARENT}s that are not in "
                "the archive"
            )


class ImportedRows:
    """Stores rows of an app. Its methods run in the transactions of their
    callers.

    Owner of what it knows of the columns of tables, and of the number of the
    log of the app.
    """

    def __init__(
        self, app: str, tables: Sequence[Table], sql: PooledStatements
    ) -> None:
        self._app = app
        self._tables = {
            table.name: table
            for table in (*tables_of_others(sql), *tables)
            if table.exported
        }
        self._columns: dict[str, dict[str, ColumnLayout]] = {}
        self._log = 0

    def reason(self, name: str) -> str:
        """Why an import makes no rows of a table; ``""``: it does."""
        table = self._tables.get(name)
        if table is None:
            return "this server has no such table"
        if isinstance(table.imported, Reason):
            return table.imported.why
        return ""

    def stays(self, name: str) -> bool:
        """Whether a table has a row of each app, which is changed last of all
        (:meth:`finish`)."""
        return bool(self._tables[name].stays)

    def check(
        self,
        sql: PooledStatements,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Row],
        parents: set[int],
    ) -> str:
        """Look at rows before any is stored. ``parents``: the ids of the rows
        of :data:`Table.PARENT`, which come first.

        Returns a key that a row of this server has already, whatever its app;
        ``""``: there is none. Keys that begin with the app or its log are free:
        the app is empty. Raises BadRows for what an export would not have read:
        other columns than those of the table, such as the app; values of other
        types; numbers that no server stores; and rows whose parents are not
        among these.
        """
        table = self._tables[name]
        kinds = self._kinds(sql, name, columns)
        for row in rows:
            for value, kind in zip(row, kinds, strict=True):
                _stored(value, kind)
        missing = {*table.parents, *({"id"} & {*table.key})} - {*columns}
        if missing:
            raise BadRows(f"rows of the table {name} have no column {missing.pop()}")

        # A key of one column that is no app is unique among all apps.
        is_shared = (
            table.exported == OF_APP and len(table.key) == 1 and table.key[0] in columns
        )
        numbered = table.key if is_shared else {"id"} & {*table.key}
        ids = [row[columns.index(column)] for column in numbered for row in rows]
        _check_ids(name, ids)
        if name == Table.PARENT:
            parents.update(ids)
        for column in table.parents:
            _check_parents(
                table, column, [row[columns.index(column)] for row in rows], parents
            )
        if not is_shared:
            return ""
        key = table.key[0]
        there = sql.query_in(f"SELECT {key} FROM {name} WHERE {key} IN {{}}", (), ids)
        return str(there[0][0]) if there else ""

    def add(
        self,
        sql: PooledStatements,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Row],
    ) -> None:
        """Store rows. Raises BadRows."""
        table = self._tables[name]
        assert not isinstance(table.imported, Reason)
        fixed: dict[str, Any] = dict(table.imported)
        if table.exported == OF_APP:
            fixed["app"] = self._app
        elif table.exported == OF_LOGS:
            fixed["log"] = self._number(sql)
        kinds = self._kinds(sql, name, columns)
        names = ", ".join(f'"{column}"' for column in (*columns, *fixed))
        statement = (
            f"INSERT INTO {name} ({names}) VALUES {marks_of(len(columns) + len(fixed))}"
        )
        values = (*fixed.values(),)
        try:
            sql.execute_many(
                statement, [(*map(_stored, row, kinds), *values) for row in rows]
            )
        except (DataError, IntegrityError, ValueError, OverflowError) as error:
            raise BadRows(
                f"the table {name} does not take such rows: {error}"
            ) from None

    def clear(self, sql: PooledStatements) -> None:
        """Delete what was stored before rows were refused: the app was
        empty."""
        for name, table in self._tables.items():
            if not table.stays and not self.reason(name):
                sql.execute(f"DELETE FROM {name} WHERE {table.exported}", (self._app,))

    def count(self, sql: PooledStatements, name: str) -> int:
        """The number of rows of the app in a table."""
        table = self._tables[name]
        return int(
            sql.query(
                f"SELECT count(*) FROM {name} WHERE {table.exported}", (self._app,)
            )[0][0]
        )

    def finish(
        self, sql: PooledStatements, heads: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Change the rows that stay: table → its columns. From then on the app
        has what was imported, and new rows get ids above it."""
        for name, fields in heads.items():
            self._number(sql)
            kinds = self._kinds(sql, name, list(fields))
            changes = ", ".join(f'"{column}" = %s' for column in fields)
            statement = f"UPDATE {name} SET {changes} WHERE {self._tables[name].stays}"
            sql.execute(statement, (*map(_stored, fields.values(), kinds), self._app))
        if sql.engine == "postgresql":
            # The other engines continue after the greatest id by themselves.
            for name, table in self._tables.items():
                if table.key == ("id",):
                    give_above(sql, name, f"(SELECT max(id) FROM {name})")

    def _number(self, sql: PooledStatements) -> int:
        """The number of the log of the app, which is made if there is none."""
        if not self._log:
            find = "SELECT number FROM log WHERE app = %s AND part = 0"
            if not sql.query(find, (self._app,)):
                columns = "app, part, last_id, last_conversation, floor"
                sql.insert_new("log", columns, [(self._app, 0, 0, 0, 0)])
            self._log = sql.query(find, (self._app,))[0][0]
        return self._log

    def _kinds(
        self, sql: PooledStatements, name: str, columns: Sequence[str]
    ) -> list[ColumnLayout]:
        """These columns. Raises BadRows for one that an export of the table
        does not read."""
        if name not in self._columns:
            table = self._tables[name]
            read = {column.strip('"') for column in table.columns}  # type: ignore[union-attr]
            ranges = {
                column: {"least": least, "most": most}
                for column, least, most in table.ranges
            }
            self._columns[name] = {
                each.name: replace(each, **ranges.get(each.name, {}))
                for each in layout_of(
                    inspect(sql.connection), name, table.key, read
                ).columns
            }
        known = self._columns[name]
        unknown = [column for column in columns if column not in known]
        if unknown:
            raise BadRows(
                f"no archive of this release has a column {unknown[0]} in the table {name}: it is of a newer "
                "release, or forged"
            )
        return [known[column] for column in columns]


def _is_id(value: Any) -> bool:
    """Whether a server could have given this id. Others would end the numbers
    of all apps, or name a path."""
    if isinstance(value, str):
        return re.fullmatch(r"[\w-]+", value, re.ASCII) is not None
    # An id above would leave none to the rows that come after it.
    return type(value) is int and 0 < value < 1 << 53


def _stored(value: Any, column: ColumnLayout) -> Any:
    """A value of an export as the driver takes it, whichever engine the server
    has. Raises BadRows."""
    kind = column.kind.value
    if isinstance(value, dict):
        try:
            value = b64decode(value[BASE64], validate=True)
        except (KeyError, TypeError, ValueError):
            raise BadRows("an object stands in place of a value") from None
        if kind is bytes:
            value = value
        else:
            value = value.decode(errors="replace")
    elif kind is bytes and isinstance(value, str):
        value = value.encode()
    if value is None:
        return value
    given: type = type(value)
    if given is not kind:
        raise BadRows(
            f"a value of the type {given.__name__} stands in place of {kind.__name__}"
        )
    size = len(value) if kind in (str, bytes) else value
    fits = kind not in (int, str, bytes) or column.least <= size <= column.most
    if not fits or (kind is str and "\0" in value):
        raise BadRows(f"a column has no place for such a value: {value!r:.100}")
    return value
