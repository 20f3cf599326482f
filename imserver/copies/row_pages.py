"""Rows of any table in pages, from and to every engine, and their checksum: for moves and portable copies.

The values of a row are *plain*: the same on every engine. Texts are bytes in UTF-8, flags are 0 or 1.
Code here blocks: it runs in a process of its own, not in a node.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct, msgpack
from sqlalchemy import Engine, types
from sqlalchemy.dialects import mysql
from sqlalchemy.engine.reflection import Inspector

from imserver.errors import StartError
from imserver.storage import engines
from imserver.storage.address import DatabaseAddress
from imserver.storage.export_rows import behind
from imserver.storage.statements import DirectStatements, PooledStatements, Row

_PAGE_BYTES: Final = 4 << 20
_FETCH_ROWS: Final = 250
"""So many rows are in memory besides a page, whatever their size."""
_HASH_BYTES: Final = 16
_SUMS: Final = 1 << (8 * _HASH_BYTES)


class ColumnLayout(Struct, frozen=True):
    """A column on one engine. ``kind``: a key of :data:`_KINDS`. ``type``: its type for COPY."""

    name: str
    kind: str
    type: str


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
        kinds = {column.name: column.kind for column in self.columns}
        return self.key[0] if len(self.key) == 1 and kinds[self.key[0]] == "number" else ""


_KINDS: Final[tuple[tuple[type[types.TypeEngine[Any]], str], ...]] = (
    (types.Boolean, "flag"),
    (types.Integer, "number"),
    (types.Float, "real"),
    (types.Numeric, "decimal"),
    (types.LargeBinary, "bytes"),
    (types.BINARY, "bytes"),
    (types.VARBINARY, "bytes"),
    (mysql.TINYBLOB, "bytes"),
    (mysql.MEDIUMBLOB, "bytes"),
    (mysql.LONGBLOB, "bytes"),
    (types.String, "text"),
)
"""Types of columns → their kinds; the first that fits."""
_COPY_TYPES: Final = {"text": "bytea", "bytes": "bytea", "flag": "bool", "decimal": "numeric"}
"""Kind → type for COPY in binary form, where the bytes of a text are the text."""


def layout_of(inspector: Inspector, table: str, key: Sequence[str]) -> TableLayout:
    """The layout of a table. Raises StartError if a column has a type that this cannot copy."""
    columns = []
    for column in inspector.get_columns(table):
        kind = next((kind for base, kind in _KINDS if isinstance(column["type"], base)), "")
        if not kind:
            raise StartError(
                f"the column {column['name']} of {table} has the type {column['type']!r}, which is not copied"
            )
        columns.append(ColumnLayout(column["name"], kind, _copy_type(column["type"], kind)))
    columns.sort(key=lambda each: each.name)
    return TableLayout(table, tuple(each.strip('"') for each in key), tuple(columns))


def _copy_type(found: object, kind: str) -> str:
    if kind == "number":
        sizes = ((types.BigInteger, "int8"), (types.SmallInteger, "int2"))
        return next((name for base, name in sizes if isinstance(found, base)), "int4")
    if kind == "real":
        return "float4" if isinstance(found, types.REAL) else "float8"
    return _COPY_TYPES[kind]


# --- reading ------------------------------------------------------------------------------------------------


def _plain_decimal(value: Any) -> bytes:
    text = format(Decimal(value.decode() if isinstance(value, bytes) else str(value)), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()


_PLAIN: Final[dict[str, Callable[[Any], Any]]] = {"flag": int, "real": float, "decimal": _plain_decimal}
"""Kind → what makes a plain value of what a driver returns; others are plain."""

Change = tuple[int, Callable[[Any], Any]]


def _changed(rows: list[Row], changes: Sequence[Change]) -> list[Row]:
    if not changes:
        return rows
    changed = []
    for row in rows:
        cells = list(row)
        for position, change in changes:
            if cells[position] is not None:
                cells[position] = change(cells[position])
        changed.append(tuple(cells))
    return changed


class RowReader(ABC):
    """Reads tables as they are at its first query. Owner of a connection, which only reads."""

    engine: str
    quote = '"'

    def pages(self, layout: TableLayout, after: Row = ()) -> Iterator[list[Row]]:
        """The rows in the order of the key, behind the key ``after``, in pages that are not empty."""
        names = ", ".join(self._quoted(column.name) for column in layout.columns)
        order = tuple(map(self._quoted, layout.key))
        statement = f"SELECT {names} FROM {self._quoted(layout.table)}"
        values: list[Any] = []
        if after:
            kinds = {column.name: column.kind for column in layout.columns}
            key = tuple(
                value.decode() if kinds[name] == "text" else value
                for name, value in zip(layout.key, after, strict=True)
            )
            condition, values = behind(self.engine, order, key)
            statement = f"{statement} WHERE {condition}"
        changes = [(n, _PLAIN[each.kind]) for n, each in enumerate(layout.columns) if each.kind in _PLAIN]
        cursor = self.open_cursor(f"{statement} ORDER BY {', '.join(order)}", values)
        try:
            yield from (_changed(rows, changes) for rows in _bounded(cursor))
        finally:
            cursor.close()

    def _quoted(self, name: str) -> str:
        return f"{self.quote}{name}{self.quote}"

    @abstractmethod
    def open_cursor(self, statement: str, values: Sequence[Any]) -> Any:
        """A cursor that fetches rows from the server as they are needed."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def _bounded(cursor: Any) -> Iterator[list[Row]]:
    """All rows of a cursor, in pages of a few megabytes."""
    page: list[Row] = []
    size = 0
    while rows := cursor.fetchmany(_FETCH_ROWS):
        page += rows
        size += sum(len(value) for row in rows for value in row if type(value) is bytes)
        if size >= _PAGE_BYTES or len(page) >= 5000:
            yield page
            page, size = [], 0
    if page:
        yield page


def _detached(engine: Engine) -> Any:
    """A connection of the driver that belongs to the caller."""
    lent = engine.raw_connection()
    connection = lent.driver_connection
    lent.detach()
    return connection


class _SqliteReader(RowReader):
    engine = "sqlite"

    def __init__(self, address: DatabaseAddress) -> None:
        assert address.file is not None
        uri = f"{address.file.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._connection.text_factory = bytes
        self._connection.execute("PRAGMA query_only=ON")
        self._connection.execute("BEGIN")

    def open_cursor(self, statement: str, values: Sequence[Any]) -> Any:
        return self._connection.execute(statement.replace("%s", "?"), values)

    def close(self) -> None:
        self._connection.close()


class _PostgresqlReader(RowReader):
    engine = "postgresql"

    def __init__(self, engine: Engine) -> None:
        from psycopg import IsolationLevel

        self._connection = _detached(engine)
        self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        # Texts arrive as the bytes that they are, and rows by the index of their key.
        for setting in ("client_encoding = 'SQL_ASCII'", "enable_sort = off", "cursor_tuple_fraction = 0.01"):
            self._connection.execute(f"SET {setting}".encode())
        self._connection.commit()
        self._connection.execute(b"SELECT 1 FROM directory")

    def open_cursor(self, statement: str, values: Sequence[Any]) -> Any:
        cursor = self._connection.cursor("rows")
        cursor.execute(statement.encode(), values, binary=True)
        return cursor

    def close(self) -> None:
        self._connection.close()


class _MysqlReader(RowReader):
    engine = "mysql"
    quote = "`"

    def __init__(self, engine: Engine) -> None:
        self._connection = _detached(engine)
        self._connection.use_unicode = False  # texts arrive as the bytes that they are
        with self._connection.cursor() as cursor:
            # The reader waits while the other side stores a page.
            cursor.execute("SET SESSION net_write_timeout = 3600")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def open_cursor(self, statement: str, values: Sequence[Any]) -> Any:
        from pymysql.cursors import SSCursor

        cursor = self._connection.cursor(SSCursor)
        cursor.execute(statement, values)
        return cursor

    def close(self) -> None:
        self._connection.close()


def open_reader(address: DatabaseAddress, engine: Engine) -> RowReader:
    """A reader of a database. Raises the driver's errors."""
    if address.engine == "sqlite":
        return _SqliteReader(address)
    return _PostgresqlReader(engine) if address.engine == "postgresql" else _MysqlReader(engine)


class TableSum(Struct, frozen=True):
    """What two copies of a table have in common on all engines. The order of the rows does not count."""

    rows: int
    checksum: str


def sum_of(pages: Iterable[list[Row]], note: Callable[[int], object] = lambda rows: None) -> TableSum:
    """Count rows, and add up the hashes of their plain values. ``note`` hears the number of rows of each
    page."""
    rows = total = 0
    encode, blake2b, number_of = msgpack.Encoder().encode, hashlib.blake2b, int.from_bytes
    for page in pages:
        for row in page:
            total += number_of(blake2b(encode(row), digest_size=_HASH_BYTES).digest(), "big")
        rows += len(page)
        note(len(page))
    return TableSum(rows, f"{total % _SUMS:032x}")


# --- writing ------------------------------------------------------------------------------------------------


_STORED: Final[dict[str, dict[str, Callable[[Any], Any]]]] = {
    "sqlite": {"text": bytes.decode, "decimal": bytes.decode},
    "postgresql": {"flag": bool, "decimal": lambda value: Decimal(value.decode())},
    "mysql": {"decimal": bytes.decode},
}
"""Engine → kind → what a plain value becomes for its driver."""
_SESSION: Final = {
    # A power failure may take the last pages, and with them what is noted of them.
    "sqlite": ("PRAGMA synchronous=NORMAL", "PRAGMA cache_size=-65536"),
    "postgresql": (),
    "mysql": ("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'",),
}


class RowWriter:
    """Writes rows. Owner of a connection; a transaction is what runs between ``begin`` and ``commit`` of
    ``sql``."""

    def __init__(self, address: DatabaseAddress, engine: Engine) -> None:
        self.sql: DirectStatements = engines.direct_statements(address, engine)
        self._quote = "`" if address.engine == "mysql" else '"'
        self.content_errors, self.errors = engines.driver_errors(engine)
        for statement in _SESSION[address.engine]:
            self.sql.execute(statement)
        if address.engine != "sqlite":
            self.sql.commit()

    def insert(self, layout: TableLayout, rows: list[Row]) -> None:
        """Insert rows of plain values. Raises StartError if one of them cannot be stored here."""
        engine = self.sql.engine
        names = ", ".join(f"{self._quote}{column.name}{self._quote}" for column in layout.columns)
        stored = _STORED[engine]
        changes = [(n, stored[each.kind]) for n, each in enumerate(layout.columns) if each.kind in stored]
        try:
            self.sql.insert_rows(
                f"{self._quote}{layout.table}{self._quote}",
                names,
                [column.type for column in layout.columns],
                _changed(rows, changes),
            )
        except self.content_errors as error:
            raise StartError(_objection(engine, layout, rows, error)) from None

    def close(self) -> None:
        """Close the connection."""
        self.sql.close()


def _objection(engine: str, layout: TableLayout, rows: list[Row], error: Exception) -> str:
    """Why rows cannot be stored, in words."""
    for row in rows:
        for column, value in zip(layout.columns, row, strict=True):
            if column.kind != "text" or value is None:
                continue
            where = f"{layout.table}.{column.name} of the row {_shown(layout.key_of(row))}"
            if engine == "postgresql" and b"\0" in value:
                return f"{where} has a NUL character, which no text of PostgreSQL can have: change this row"
            try:
                value.decode()
            except UnicodeDecodeError:
                return f"{where} is not UTF-8: change this row"
    words = " ".join(str(error).split())
    first, last = (_shown(layout.key_of(row)) for row in (rows[0], rows[-1]))
    if type(error).__name__ == "IntegrityError" or "uplicate" in words:
        return (
            f"the target takes two rows of {layout.table} as one (rows {first} to {last}): its collation may "
            f"ignore case or spaces at the end; the tables of a database of MySQL need utf8mb4_bin: {words}"
        )
    return f"the target refuses rows of {layout.table} (one of {first} to {last}): {words}"


def _shown(key: Row) -> str:
    texts = (
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value) for value in key
    )
    return "/".join(text if text.isprintable() else ascii(text)[1:-1] for text in texts)


# --- numbers that the database gives ------------------------------------------------------------------------


_next_in_table: Final = re.compile(r"\) .*\bAUTO_INCREMENT=(\d+)").search


def last_given(sql: PooledStatements, layout: TableLayout) -> int | None:
    """The last number that the database has given a row of a table; None: it gives none."""
    column, table = layout.number, layout.table
    if not column:
        return None
    if sql.engine == "sqlite":
        given = sql.query("SELECT seq FROM sqlite_sequence WHERE name = %s", (table,))
        return int((given or sql.query(f'SELECT coalesce(max("{column}"), 0) FROM "{table}"'))[0][0])
    if sql.engine == "postgresql":
        sequence = _sequence_of(sql, layout)
        if sequence is None:
            return None
        last, is_called = sql.query(f"SELECT last_value, is_called FROM {sequence}")[0]
        return int(last) if is_called else int(last) - 1
    making = str(sql.query(f"SHOW CREATE TABLE `{table}`")[0][1])
    if "AUTO_INCREMENT" not in making:
        return None
    found = _next_in_table(making)
    return int(found[1]) - 1 if found else 0


def give_after(sql: PooledStatements, layout: TableLayout, last: int) -> None:
    """Let the database continue after the number ``last``, if it gives the rows of this table numbers."""
    table = layout.table
    if sql.engine == "sqlite":
        making = sql.query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s", (table,))
        if "AUTOINCREMENT" in making[0][0].upper():
            sql.execute("DELETE FROM sqlite_sequence WHERE name = %s", (table,))
            sql.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", (table, last))
    elif sql.engine == "postgresql":
        if (sequence := _sequence_of(sql, layout)) is not None:
            sql.query("SELECT setval(%s, %s, %s)", (sequence, max(last, 1), last > 0))
    elif last_given(sql, layout) is not None:
        sql.execute(f"ALTER TABLE `{table}` AUTO_INCREMENT = {last + 1}")


def _sequence_of(sql: PooledStatements, layout: TableLayout) -> str | None:
    found = sql.query("SELECT pg_get_serial_sequence(%s, %s)", (f'"{layout.table}"', layout.number))[0][0]
    return None if found is None else str(found)
