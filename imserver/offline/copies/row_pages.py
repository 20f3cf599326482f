"""Rows of whole tables in pages, from and to every engine, and their checksum:
for moves and portable copies.

Code here blocks, so it runs in a separate process, not in a node.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, msgpack
from sqlalchemy import Engine

from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage import engines
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.row_layout import Change, TableLayout
from imserver.gateway.storage.statements import DirectStatements, Row

_HASH_BYTES: Final = 16
_SUMS: Final = 1 << (8 * _HASH_BYTES)
"""A checksum is the sum of the hashes of all rows, modulo this number."""
_FETCHED_ROWS: Final = 250
_PAGE_BYTES: Final = 4 << 20
_PAGE_ROWS: Final = 5000
"""A page ends after this number of bytes, or of rows."""


@contextmanager
def usable(address: DatabaseAddress, engine: Engine) -> Iterator[None]:
    """Turn errors of a driver into StartError with the address of the database.

    Errors that values of a damaged database cause are turned into it, too.
    """
    errors = engines.driver_errors(engine)[1]
    faults: tuple[type[Exception], ...] = (
        *errors,
        StorageUnavailable,
        TypeError,
        ValueError,
    )
    try:
        yield
    except faults as error:
        # The error of the driver is inside that of SQLAlchemy. It may have
        # several lines.
        words = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StartError(
            f"the database {address.shown} cannot be used: {words}"
        ) from None


# --- reading ------------------------------------------------------------------


class RowReader:
    """Reads all rows of tables, in pages, on a read-only connection.

    All pages show the state of the database when the reader was made, even if
    servers change it meanwhile. Raises StartError.
    """

    def __init__(
        self, address: DatabaseAddress, engine: Engine, layouts: dict[str, TableLayout]
    ) -> None:
        """Connect, and begin the transaction that sees this one state.

        ``layouts``: name of a table → its columns and key.
        """
        self.layouts = layouts
        self._engine = address.engine
        self._usable = partial(usable, address, engine)
        with self._usable():
            if address.file is not None:
                self._connection: Any = _open_sqlite(address.file)
                self._connection.execute("BEGIN")
            else:
                self._connection = engines.detached(engine)
                if self._engine == "postgresql":
                    _begin_postgresql(self._connection)
                else:
                    _begin_mysql(self._connection)

    def pages(self, table: str, after: Row = ()) -> Iterator[list[Row]]:
        """Yield the rows of a table in the order of the key, page by page.

        No page is empty. Values have the *plain* form, which all engines share.
        ``after``: the key of the last row before the first page; ``()``: from
        the first row.
        """
        layout = self.layouts[table]
        query = layout.query
        condition = query.behind(self._engine, _key_of_query(layout, after))
        changes = [column.kind.plain for column in layout.columns]
        with self._usable():
            cursor = self._cursor(*query.select(query.columns, condition))
            with closing(cursor):
                for rows in _pages_of(cursor):
                    yield _changed(rows, changes)

    def _cursor(self, statement: str, values: Row) -> Any:
        """Execute a query, and return a cursor with its rows.

        The cursor fetches rows from the server as they are needed, instead of
        all at once. ``statement`` is in the form for PostgreSQL.
        """
        if self._engine == "sqlite":
            return self._connection.execute(statement.replace("%s", "?"), values)
        if self._engine == "postgresql":
            # A cursor with a name stays on the server.
            cursor = self._connection.cursor("rows")
            cursor.execute(statement.encode(), values, binary=True)
            return cursor
        from pymysql.cursors import SSCursor

        cursor = self._connection.cursor(SSCursor)
        cursor.execute(statement.replace('"', "`"), values)
        return cursor

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _open_sqlite(file: Path) -> sqlite3.Connection:
    """Open the file of a SQLite database for reading only."""
    url = f"{file.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(url, uri=True, isolation_level=None)
    # Texts arrive as their bytes, as from the other engines.
    connection.text_factory = bytes
    connection.execute("PRAGMA query_only=ON")
    return connection


def _key_of_query(layout: TableLayout, after: Row) -> Row:
    """Return a plain key in the form that queries compare: texts, not bytes."""
    text_columns = {
        column.name for column in layout.columns if column.kind.name == "text"
    }
    key: list[Any] = []
    for name, value in zip(layout.key, after, strict=bool(after)):
        if name in text_columns:  # plain texts are bytes
            key.append(value.decode())
        else:
            key.append(value)
    return tuple(key)


def _begin_postgresql(connection: Any) -> None:
    """Begin a read-only transaction that sees one state of the database."""
    from psycopg import IsolationLevel

    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    # The first setting makes texts arrive as their bytes. The others make
    # PostgreSQL read rows by the index of their key, instead of sorting them.
    for setting in (
        "client_encoding = 'SQL_ASCII'",
        "enable_sort = off",
        "cursor_tuple_fraction = 0.01",
    ):
        connection.execute(f"SET {setting}".encode())
    connection.commit()
    # The first query determines the state that the transaction sees.
    connection.execute(b"SELECT 1 FROM directory")


def _begin_mysql(connection: Any) -> None:
    """Begin a read-only transaction that sees one state of the database."""
    connection.use_unicode = False  # texts arrive as their bytes
    with connection.cursor() as cursor:
        # MySQL must not end the connection while the target stores a page.
        cursor.execute("SET SESSION net_write_timeout = 3600")
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def _pages_of(cursor: Any) -> Iterator[list[Row]]:
    """Yield all rows of a cursor, in pages of a few megabytes.

    A page is stored in one transaction, and must fit into the memory.
    """
    page: list[Row] = []
    size = 0
    while True:
        rows = cursor.fetchmany(_FETCHED_ROWS)
        if not rows:
            break
        page += rows
        # Numbers take little memory, so only bytes are counted.
        for row in rows:
            size += sum(len(value) for value in row if type(value) is bytes)
        if size >= _PAGE_BYTES or len(page) >= _PAGE_ROWS:
            yield page
            page = []
            size = 0
    if page:
        yield page


class TableSum(Struct, frozen=True):
    """The number of rows of a table, and their checksum in hexadecimal.

    Equal copies have the same checksum on all engines, whatever the order of
    rows.
    """

    rows: int
    checksum: str


def _note_nothing(rows: int) -> None:
    """Do nothing: nobody waits for progress."""


def sum_of(
    pages: Iterable[list[Row]], note: Callable[[int], object] = _note_nothing
) -> TableSum:
    """Count rows, and add up the hashes of their plain values.

    ``note`` is called with the number of rows of each page.
    """
    rows = 0
    total = 0
    # A move runs the loop for each row of two databases, so names are looked up
    # before it.
    encode = msgpack.Encoder().encode
    blake2b = hashlib.blake2b
    number_of = int.from_bytes
    for page in pages:
        for row in page:
            digest = blake2b(encode(row), digest_size=_HASH_BYTES).digest()
            total += number_of(digest, "big")
        rows += len(page)
        note(len(page))
    return TableSum(rows, f"{total % _SUMS:032x}")


# --- writing ------------------------------------------------------------------


_SESSION: Final = {
    # A power failure may take the last pages. It then also takes the positions
    # that were stored with them, so the copy continues correctly.
    "sqlite": ("PRAGMA synchronous=NORMAL", "PRAGMA cache_size=-65536"),
    "postgresql": (),
    "mysql": ("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'",),
}
"""Engine → statements at the beginning of a connection that writes."""


class RowWriter:
    """Writes rows of tables, on a connection of its own.

    The caller begins and commits transactions by ``sql``. ``content_errors``:
    exceptions for rows that the database refuses. ``errors``: all exceptions of
    the driver.
    """

    def __init__(
        self, address: DatabaseAddress, engine: Engine, layouts: dict[str, TableLayout]
    ) -> None:
        """Connect to the database of a move or a restore.

        ``layouts``: name of a table → its columns and key.
        """
        self.layouts = layouts
        self.content_errors, self.errors = engines.driver_errors(engine)
        with usable(address, engine):
            self.sql: DirectStatements = engines.direct_statements(address, engine)
            for statement in _SESSION[address.engine]:
                self.sql.execute(statement)
            if address.engine == "mysql":
                self.sql.commit()

    def insert(self, table: str, rows: list[Row]) -> None:
        """Insert rows with plain values.

        Raises StartError if this database cannot store a row.
        """
        layout = self.layouts[table]
        engine = self.sql.engine
        name = _quoted(layout.query.table, engine)
        columns = _quoted(", ".join(layout.query.columns), engine)
        if engine != "sqlite":
            _check_types(layout, rows)
        changes = [column.kind.stored.get(engine) for column in layout.columns]
        types = [column.copy for column in layout.columns]
        try:
            self.sql.insert_rows(name, columns, types, _changed(rows, changes))
        except self.content_errors as error:
            raise StartError(_objection(engine, layout, rows, error)) from None

    def close(self) -> None:
        """Close the connection."""
        self.sql.close()


_TYPES: Final = {"number": int, "flag": int, "real": float}
"""Kind → the type of plain values. Values of other kinds are bytes."""


def _quoted(names: str, engine: str) -> str:
    """Return quoted names in the way of an engine. MySQL has its own quotes."""
    if engine == "mysql":
        return names.replace('"', "`")
    return names


def _check_types(layout: TableLayout, rows: list[Row]) -> None:
    """Refuse values of wrong types, which a row of SQLite may have.

    MySQL would round or convert them. Raises StartError.
    """
    types = [_TYPES.get(column.kind.name, bytes) for column in layout.columns]
    for row in rows:
        for column, value, wanted in zip(layout.columns, row, types, strict=True):
            # Not isinstance: a bool is an int, too.
            if type(value) is not wanted and value is not None:
                where = _cell_name(layout, column.name, row)
                raise StartError(f"{where} is no {column.kind.name}: change this row")


def _cell_name(layout: TableLayout, column: str, row: Row) -> str:
    """Name a value in words, for an error: its column and its row."""
    return f"{layout.table}.{column} of the row {_shown(layout.key_of(row))}"


def _objection(
    engine: str, layout: TableLayout, rows: list[Row], error: Exception
) -> str:
    """Say why the target has refused rows, and what to do.

    The words name a text that the target cannot store. If no text explains the
    error of the driver, the words have that error.
    """
    for row in rows:
        problem_of_row = _objection_to_texts(engine, layout, row)
        if problem_of_row:
            return problem_of_row
    words = " ".join(str(error).split())
    first = _shown(layout.key_of(rows[0]))
    last = _shown(layout.key_of(rows[-1]))
    if "UNIQUE" in words or "uplicate" in words:  # SQLite; all other engines
        return (
            f"the target takes two rows of {layout.table} as one (rows {first} to {last}): its collation may "
            f"ignore case or spaces at the end; the tables of a database of MySQL need utf8mb4_bin: {words}"
        )
    return (
        f"the target refuses rows of {layout.table} (one of {first} to {last}): {words}"
    )


def _objection_to_texts(engine: str, layout: TableLayout, row: Row) -> str:
    """Say which text of a row the target cannot store, or return ``""``."""
    for column, value in zip(layout.columns, row, strict=True):
        if column.kind.name != "text" or value is None:
            continue
        problem = _problem_of_text(engine, value)
        if problem:
            where = _cell_name(layout, column.name, row)
            return f"{where} {problem}: change this row"
    return ""


def _problem_of_text(engine: str, value: bytes) -> str:
    """Say why a database cannot store a text, or ``""``."""
    if engine == "postgresql" and b"\0" in value:
        return "has a NUL character, which no text of PostgreSQL can have"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    return ""


def _shown(key: Row) -> str:
    """Return the key of a row for a terminal, such as ``shop/42``."""
    return "/".join(map(_shown_value, key))


def _shown_value(value: object) -> str:
    """Return a value for a terminal: without control characters."""
    if type(value) is bytes:
        text = value.decode("utf-8", "backslashreplace")
    else:
        text = str(value)
    if text.isprintable():
        return text
    return ascii(text)[1:-1]  # without the quotation marks


def _changed(rows: list[Row], changes: Sequence[Change | None]) -> list[Row]:
    """Convert the values of rows.

    ``changes`` has a function for each column; None means that the values of
    the column stay. NULL always stays.
    """
    # Most columns need no change.
    change_by_index = {
        index: change for index, change in enumerate(changes) if change is not None
    }
    if not change_by_index:
        return rows
    result = []
    for row in rows:
        cells = list(row)
        for index, change in change_by_index.items():
            if cells[index] is not None:
                cells[index] = change(cells[index])
        result.append(tuple(cells))
    return result
