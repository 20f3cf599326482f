"""The columns of a table on one engine, the kinds of their values, and the form
in which a driver takes them. Also the import of the rows of an app that an
export has read.

A *plain* value is the same on all engines: texts are bytes in UTF-8, flags are
0 or 1.
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
from imserver.gateway.storage.numbers import MAX_NUMBER, give_above
from imserver.gateway.storage.row_query import RowQuery
from imserver.gateway.storage.statements import (
    PooledStatements,
    Row,
    Statements,
    marks_of,
)
from imserver.gateway.storage.tables import OF_APP, OF_LOGS, Reason, Table

Change = Callable[[Any], Any]
"""A function that converts a value of a column."""

_BYTE_BITS: Final = 8
_SMALL_BITS: Final = 16
_INT_BITS: Final = 32
_BIG_BITS: Final = 64
_MOST_CHARACTERS: Final = 1 << 24
"""The most characters or bytes in a column that has no limit of its own."""


class ColumnKind(Struct, frozen=True):
    """A kind of columns, such as numbers or texts.

    ``types`` has the types of SQLAlchemy that are of this kind, and ``value``
    is the Python type of a value in an export. ``copy`` is the PostgreSQL type
    for COPY in binary form, where a text is its bytes; ``""`` if the type
    follows from the column.

    ``plain`` converts a value of a driver to a plain value, which is the same
    on all engines. None means that the value is already plain. ``stored`` maps
    an engine to the function that converts a plain value for the driver of the
    engine. Engines that need no conversion are left out.
    """

    name: str
    types: tuple[type[types.TypeEngine[Any]], ...]
    value: type
    copy: str = ""
    plain: Change | None = None
    stored: dict[str, Change] = {}


def _plain_decimal(value: Any) -> bytes:
    """Return a decimal number as text, without the zeros at its end.

    Engines differ in these zeros: ``1.50`` and ``1.5`` both become ``b"1.5"``.
    """
    number = Decimal(value.decode() if isinstance(value, bytes) else str(value))
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.encode()


def _decimal(value: bytes) -> Decimal:
    return Decimal(value.decode())


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
    "postgresql": _decimal,
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
"""All kinds of columns. If several kinds fit a type, the first one counts."""


class ColumnLayout(Struct, frozen=True):
    """A column on one engine.

    ``copy`` is the PostgreSQL type of the column for COPY. ``least`` and
    ``most`` are the limits of its numbers, or of the length of its texts, and
    apply on every engine.
    """

    name: str
    kind: ColumnKind
    copy: str
    most: int
    least: int = 0


class TableLayout(Struct, frozen=True):
    """A table on one engine.

    ``columns`` are sorted by their names, which is their order in rows.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[ColumnLayout, ...]

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        names = [column.name for column in self.columns]
        return tuple(row[names.index(name)] for name in self.key)

    @property
    def number(self) -> str:
        """The name of the key column, if the key is a single number; otherwise
        ``""``."""
        if len(self.key) != 1:
            return ""
        (name,) = self.key
        kinds = {column.name: column.kind.name for column in self.columns}
        return name if kinds[name] == "number" else ""

    @property
    def query(self) -> RowQuery:
        """The query for all rows of the table."""
        return RowQuery(
            table=f'"{self.table}"',
            order=tuple(f'"{name}"' for name in self.key),
            columns=tuple(f'"{column.name}"' for column in self.columns),
        )


def layout_of(
    inspector: Inspector, table: str, key: Sequence[str], only: Collection[str] = ()
) -> TableLayout:
    """Return the layout of a table: its columns, with their kinds and limits.

    ``key`` has the columns of its primary key. ``only`` has the columns of the
    layout; empty means all columns. Raises StartError if a column has a type
    that is not copied.
    """
    key_names = tuple(column.strip('"') for column in key)
    columns = []
    for column in inspector.get_columns(table):
        name = column["name"]
        if not only or name in only:
            is_of_key = name in key_names
            columns.append(_column_layout(table, name, column["type"], is_of_key))
    # Exports of all engines have their columns in this order.
    columns.sort(key=lambda column: column.name)
    return TableLayout(table, key_names, tuple(columns))


def _column_layout(
    table: str, name: str, column_type: types.TypeEngine[Any], is_of_key: bool
) -> ColumnLayout:
    """Return the layout of the column ``name`` of a table.

    ``is_of_key`` means that the column belongs to the primary key. Raises
    StartError if the type of the column is not copied.
    """
    kind = next((kind for kind in _KINDS if isinstance(column_type, kind.types)), None)
    if kind is None:
        raise StartError(
            f"the column {name} of {table} has the type {column_type!r}, "
            "which is not copied"
        )

    if kind.name == "number":
        return _number_layout(name, kind, column_type, is_of_key)

    return ColumnLayout(
        name,
        kind,
        copy=_copy_type(kind, column_type),
        most=getattr(column_type, "length", None) or _MOST_CHARACTERS,
    )


def _copy_type(kind: ColumnKind, column_type: types.TypeEngine[Any]) -> str:
    """Return the type of a column in a COPY of PostgreSQL.

    COPY in binary form needs the exact type, so numbers with a fraction have
    two: ``float4`` and ``float8``.
    """
    if kind.name != "real":
        return kind.copy
    if isinstance(column_type, types.REAL):
        return "float4"
    return "float8"


def _number_layout(
    name: str, kind: ColumnKind, column_type: types.TypeEngine[Any], is_of_key: bool
) -> ColumnLayout:
    """Return the layout of a column of whole numbers, which has 16, 32 or 64
    bits."""
    type_bits = _INT_BITS
    if isinstance(column_type, types.SmallInteger):
        type_bits = _SMALL_BITS
    elif isinstance(column_type, types.BigInteger):
        type_bits = _BIG_BITS
    copy = f"int{type_bits // _BYTE_BITS}"

    # SQLite stores larger numbers than this type says. It can number rows only
    # by a key of this type, so such a key may have larger numbers.
    value_bits = type_bits
    if is_of_key and type_bits == _INT_BITS:
        value_bits = _BIG_BITS
    most = (1 << (value_bits - 1)) - 1  # one bit is the sign
    return ColumnLayout(name, kind, copy, most)


# --- imports ------------------------------------------------------------------

BASE64: Final = "base64"
"""The only key of the JSON object that represents bytes that are not text."""


class BadRows(ImserverError):
    """These rows cannot be imported. The text says why."""


def _checked_ids(
    name: str,
    key_columns: Collection[str],
    columns: Sequence[str],
    rows: Sequence[Row],
) -> list[Any]:
    """Return the values of the key columns of all rows of the table ``name``.

    Raises BadRows if no server stores such numbers.
    """
    ids: list[Any] = []
    for column in key_columns:
        ids += _values_of(column, columns, rows)
    _check_ids(name, ids)
    return ids


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
    """Raise BadRows if the parent of a row is missing.

    A parent is a row of another table to which rows of this table belong, such
    as the user of a device. ``ids`` has the values of ``column``, which are ids
    of parents. ``parents`` has the ids of the known parents. A column outside
    the key may be 0, which means that the row has no parent.
    """
    may_be_none = column not in table.key
    for id in ids:
        if id not in parents and not (may_be_none and id == 0):
            raise BadRows(
                f"the table {table.name} has rows of "
                f"{Table.PARENT}s that are not in the archive"
            )


def _check_relations(
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    ids: Iterable[Any],
    parents: set[int],
) -> None:
    """Raise BadRows if the parent of a row is missing.

    The rows of the parent table come first, and their ``ids`` become
    ``parents``.
    """
    if table.name == Table.PARENT:
        parents.update(ids)
    for column in table.parents:
        _check_parents(table, column, _values_of(column, columns, rows), parents)


def _check_columns(table: str, needed: set[str], columns: Sequence[str]) -> None:
    """Raise BadRows if imported rows of a table lack one of the columns."""
    missing = needed.difference(columns)
    if missing:
        raise BadRows(f"rows of the table {table} have no column {missing.pop()}")


class ImportedRows:
    """Stores the rows of an app that an export has read.

    Its methods run in the transactions of their callers. Owner of the layouts
    of the tables that it has read, and of the number of the log of the app.
    """

    def __init__(
        self, app: str, tables: Sequence[Table], sql: PooledStatements
    ) -> None:
        """Prepare the import of rows of ``app``. ``tables`` has the tables of
        this server."""
        self._app = app
        self._tables = {
            table.name: table
            for table in (*tables_of_others(sql), *tables)
            if table.exported
        }
        self._columns: dict[str, dict[str, ColumnLayout]] = {}
        """Table → the columns that an export reads, by their names. A table is
        added when it is first used."""
        self._log = 0
        """The number of the log of the app; 0 if it was not read yet."""

    def reason(self, name: str) -> str:
        """Return the reason why an import makes no rows of a table; ``""`` if
        it makes rows."""
        table = self._tables.get(name)
        if table is None:
            return "this server has no such table"
        if isinstance(table.imported, Reason):
            return table.imported.why
        return ""

    def stays(self, name: str) -> bool:
        """Whether the table has a row of the app before the import.

        :meth:`finish` changes that row at the end.
        """
        return bool(self._tables[name].stays)

    def check(
        self,
        sql: PooledStatements,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Row],
        parents: set[int],
    ) -> str:
        """Check rows of the table ``name`` before any row is stored.

        Returns a key that a row of this server already has, in any app; ``""``
        if all keys are free. Keys that begin with the app or its log are free,
        because the app is empty.

        ``columns`` has the columns of the rows, in order. ``parents`` has the
        ids of the rows of :data:`Table.PARENT`. The table :data:`Table.PARENT`
        must be checked first; then the method adds the ids of its rows to the
        set.

        Raises BadRows for rows that no export could have read. Such rows have
        columns that an export leaves out, such as the app, or values of other
        types. Or they have numbers that no server stores, or parents that are
        not in ``parents``.
        """
        table = self._tables[name]
        self._check_values(sql, name, columns, rows)
        id_columns = {"id"} & set(table.key)
        _check_columns(name, id_columns.union(table.parents), columns)

        is_shared = _is_key_shared(table, columns)
        key_columns: Collection[str] = table.key if is_shared else id_columns
        ids = _checked_ids(name, key_columns, columns, rows)
        _check_relations(table, columns, rows, ids, parents)

        if is_shared:
            return _first_stored(sql, name, table.key[0], ids)
        return ""

    def _check_values(
        self,
        sql: PooledStatements,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Row],
    ) -> None:
        """Raise BadRows if a value does not fit into its column."""
        layouts = self._layouts(sql, name, columns)
        for row in rows:
            for value, layout in zip(row, layouts, strict=True):
                _converted(value, layout)  # raises BadRows

    def add(
        self,
        sql: PooledStatements,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Row],
    ) -> None:
        """Store rows in the table ``name``. Raises BadRows if the database
        refuses them.

        The values of a row are in the order of ``columns``.
        """
        # These columns have the same value in all rows, such as the app.
        constants = self._constants(sql, self._tables[name])
        layouts = self._layouts(sql, name, columns)
        statement = _insert_statement(name, (*columns, *constants))
        values = (*constants.values(),)
        try:
            stored_rows = [(*map(_converted, row, layouts), *values) for row in rows]
            sql.execute_many(statement, stored_rows)
        except (DataError, IntegrityError, ValueError, OverflowError) as error:
            raise BadRows(
                f"the table {name} does not take such rows: {error}"
            ) from None

    def _constants(self, sql: PooledStatements, table: Table) -> dict[str, Any]:
        """Return the columns that no archive has, with the value that all rows get.

        These are the columns that an import leaves empty, and the app or its log.
        """
        assert not isinstance(table.imported, Reason)
        constants: dict[str, Any] = dict(table.imported)
        if table.exported == OF_APP:
            constants["app"] = self._app
        elif table.exported == OF_LOGS:
            constants["log"] = self._log_number(sql)
        return constants

    def clear(self, sql: PooledStatements) -> None:
        """Delete all rows of the app, after rows were refused.

        The app was empty before the import, so no other rows are lost.
        """
        for name, table in self._tables.items():
            if not table.stays and not self.reason(name):
                sql.execute(f"DELETE FROM {name} WHERE {table.exported}", (self._app,))

    def count(self, sql: PooledStatements, name: str) -> int:
        """Return the number of rows of the app in a table."""
        condition = self._tables[name].exported
        statement = f"SELECT count(*) FROM {name} WHERE {condition}"
        return int(sql.query(statement, (self._app,))[0][0])

    def finish(
        self, sql: PooledStatements, heads: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Change the rows of the app that were there before the import.

        ``heads`` maps a table to its columns with their new values. From then
        on the app has the imported data, and new rows get ids above the
        imported ids.
        """
        for name, fields in heads.items():
            self._change_head(sql, name, fields)
        if sql.engine == "postgresql":
            # Other engines continue after the greatest id by themselves.
            for name, table in self._tables.items():
                if table.key == ("id",):
                    give_above(sql, name, f"(SELECT max(id) FROM {name})")

    def _change_head(
        self, sql: PooledStatements, name: str, fields: Mapping[str, Any]
    ) -> None:
        """Give new values to the row that the app had before the import."""
        self._log_number(sql)  # the row of the log may not exist yet
        layouts = self._layouts(sql, name, list(fields))
        values = [*map(_converted, fields.values(), layouts), self._app]
        changes = ", ".join(f'"{column}" = %s' for column in fields)
        condition = self._tables[name].stays
        sql.execute(f"UPDATE {name} SET {changes} WHERE {condition}", values)

    def _log_number(self, sql: PooledStatements) -> int:
        """Return the number of the log of the app. The log is made if the app
        has no log yet.

        A log has the stored messages of one app. The number is its key.
        """
        if not self._log:
            find = "SELECT number FROM log WHERE app = %s AND part = 0"
            if not sql.query(find, (self._app,)):
                # The new log is empty: no id was given in it yet.
                columns = "app, part, last_id, last_conversation, floor"
                sql.insert_new("log", columns, [(self._app, 0, 0, 0, 0)])
            self._log = sql.query(find, (self._app,))[0][0]
        return self._log

    def _layouts(
        self, sql: PooledStatements, name: str, columns: Sequence[str]
    ) -> list[ColumnLayout]:
        """Return the layouts of the columns with these names.

        Raises BadRows for a column that an export of the table does not read.
        """
        if name not in self._columns:
            self._columns[name] = self._exported_columns(sql, name)
        # Other columns could have secrets, or data of another app.
        exported = self._columns[name]
        unknown = [column for column in columns if column not in exported]
        if unknown:
            raise BadRows(
                f"no archive of this release has a column {unknown[0]} "
                f"in the table {name}: it is of a newer release, or forged"
            )
        return [exported[column] for column in columns]

    def _exported_columns(
        self, sql: PooledStatements, name: str
    ) -> dict[str, ColumnLayout]:
        """Return the columns of a table that an export reads, by their names.

        The limits of numbers in :attr:`Table.ranges` replace the limits of the
        type.
        """
        table = self._tables[name]
        assert not isinstance(table.columns, Reason)
        names = {column.strip('"') for column in table.columns}
        layout = layout_of(inspect(sql.connection), name, table.key, names)
        columns = {column.name: column for column in layout.columns}
        # Some numbers have limits that their type does not tell.
        for column, least, most in table.ranges:
            if column in columns:
                columns[column] = replace(columns[column], least=least, most=most)
        return columns


def _insert_statement(table: str, columns: Sequence[str]) -> str:
    """Return the statement that inserts a row with these columns."""
    # The names are quoted, because some names are reserved words of an engine.
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT INTO {table} ({names}) VALUES {marks_of(len(columns))}"


def _is_key_shared(table: Table, columns: Sequence[str]) -> bool:
    """Whether a row of another app may have the key of a row.

    That is so if the key is one column other than the app. Such a key is unique
    on the whole server.
    """
    return table.exported == OF_APP and len(table.key) == 1 and table.key[0] in columns


def _first_stored(sql: Statements, table: str, key: str, ids: Sequence[Any]) -> str:
    """Return one of these ids that a row of the table already has; ``""`` if
    there is no such row.

    ``key`` is the column with the ids.
    """
    find = f"SELECT {key} FROM {table} WHERE {key} IN {{}}"
    stored = sql.query_in(find, (), ids)
    if not stored:
        return ""
    return str(stored[0][0])


def _values_of(column: str, columns: Sequence[str], rows: Sequence[Row]) -> list[Any]:
    """The values of a column in rows with these columns."""
    index = columns.index(column)
    return [row[index] for row in rows]


def _is_id(value: Any) -> bool:
    """Whether a server could have given this id.

    A forged id could use up the numbers of all apps, or name a path.
    """
    if isinstance(value, str):
        return re.fullmatch(r"[\w-]+", value, re.ASCII) is not None
    # An id above MAX_NUMBER would leave no ids for later rows.
    return type(value) is int and 0 < value <= MAX_NUMBER


def _converted(value: Any, column: ColumnLayout) -> Any:
    """Return a value of an export in the form that the drivers of all engines take.

    Bytes that are not text are an object in an export, such as ``{"base64":
    "/w=="}``. Raises BadRows if the column cannot have the value.
    """
    expected = column.kind.value
    if isinstance(value, dict):
        value = _decoded_object(value)
        if expected is not bytes:
            value = value.decode(errors="replace")
    elif expected is bytes and isinstance(value, str):
        value = value.encode()
    # NULL is accepted for any column here. The database refuses it where it is
    # not allowed.
    if value is None:
        return value

    if type(value) is not expected:
        raise _wrong_type(value, expected)
    if not _fits(value, column):
        raise BadRows(f"a column has no place for such a value: {value!r:.100}")
    return value


def _wrong_type(value: Any, expected: type) -> BadRows:
    """Make the error for a value with a type other than the type of its
    column."""
    type_of_value: type = type(value)
    return BadRows(
        f"a value of the type {type_of_value.__name__} "
        f"stands in place of {expected.__name__}"
    )


def _fits(value: Any, column: ColumnLayout) -> bool:
    """Whether a value of the right type has the size that a column can store."""
    if isinstance(value, int):
        return column.least <= value <= column.most
    if isinstance(value, str) and "\0" in value:
        return False  # PostgreSQL stores no NUL in a text
    if isinstance(value, str | bytes):
        return column.least <= len(value) <= column.most
    return True


def _decoded_object(value: dict[str, str]) -> bytes:
    """Return the bytes of an object such as ``{"base64": "/w=="}``. Raises
    BadRows."""
    try:
        return b64decode(value[BASE64], validate=True)
    except (KeyError, TypeError, ValueError):
        raise BadRows("an object stands in place of a value") from None
