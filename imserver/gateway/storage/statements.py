"""Writes and runs statements, in one way for all engines.

A statement is text with ``%s`` for values and ``"`` around names that an engine
reserves.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache, partial
from itertools import chain
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    TypeVar,
    get_origin,
    get_type_hints,
)
from unicodedata import normalize

from msgspec import Struct, json

if TYPE_CHECKING:
    from sqlalchemy import Connection

S = TypeVar("S", bound=Struct)
T = TypeVar("T")
Row = tuple[Any, ...]
"""The values of a row, in the order of the columns. Texts may be bytes: see
:func:`text_of`."""

SECOND_MS: Final = 1000
"""Milliseconds of a second."""
_CHUNK: Final = 512
"""Number of values in one list; a power of two, see :func:`padded`."""
_CACHED_TEXTS: Final = 1024
"""How many texts of queries for lists of values are kept."""
CLOCK: Final = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400)",
    "postgresql": "extract(epoch FROM clock_timestamp())",
    # UNIX_TIMESTAMP uses the local time of the session, which repeats an hour
    # when summer time ends.
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) * 0.000001)",
}
"""The clock of the database in Unix seconds, with a fraction. It is used
because the clocks of nodes differ."""
NOW: Final = {
    "sqlite": f"CAST({CLOCK['sqlite']} AS INTEGER)",
    "postgresql": f"CAST(FLOOR({CLOCK['postgresql']}) AS BIGINT)",
    "mysql": f"FLOOR({CLOCK['mysql']})",
}
"""Whole seconds of :data:`CLOCK`."""
_CONTAINS: Final = {
    "sqlite": "instr({}, %s) > 0",
    "postgresql": "position(%s in {}) > 0",
    "mysql": "LOCATE(%s, {}) > 0",
}
"""The condition that a column (``{}``) contains a value."""
_replace_accents: Final = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f"
    "\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe2f]"
).sub
"""Replaces the combining marks of a text, such as accents."""
_replace_separators: Final = re.compile(
    r"[\s!-/:-@\[-`{-~\u00b7\u2010-\u2015\u2018\u2019\u30fb]+"
).sub
"""Replaces spaces and punctuation between words."""
_PLAIN: Final = str.maketrans(
    {
        "ł": "l",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ı": "i",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
    }
)
"""Letters that Unicode does not decompose → the plain letters that replace
them."""
_ARRAYS: Final[dict[type, str]] = {bytes: "bytea", int: "bigint", str: "text"}
"""The type of values → the type of the elements of their array on
PostgreSQL."""


def _rows_of_all(answers: Iterable[Callable[[], list[Row]]]) -> list[Row]:
    """Return the rows of several queries that have begun, one query after
    another."""
    rows: list[Row] = []
    for answer in answers:
        rows += answer()
    return rows


class Statements(ABC):
    """The statements of one transaction, on any engine.

    A statement is text with ``%s`` in place of values.
    """

    engine: str
    """``sqlite``, ``postgresql`` or ``mysql`` (also for MariaDB)."""

    for_update = " FOR UPDATE"
    """The suffix of a query that locks its rows; ``""`` on SQLite, where the
    transaction has locked everything."""

    @property
    def now(self) -> str:
        """The expression for whole Unix seconds of the database's clock. It is
        for leases, because the clocks of nodes differ."""
        return NOW[self.engine]

    @property
    def clock(self) -> str:
        """The expression for Unix seconds of the database's clock, with a
        fraction."""
        return CLOCK[self.engine]

    def clock_ms(self) -> int:
        """The Unix milliseconds of the database's clock."""
        seconds = float(self.query(f"SELECT {self.clock}")[0][0])
        return int(seconds * SECOND_MS)

    def on_sqlite(self, hint: str) -> str:
        """An index hint of SQLite; ``""`` on the other engines."""
        return hint if self.engine == "sqlite" else ""

    def contains(self, column: str) -> str:
        """The condition that a column contains a value. It uses no pattern, so
        no character has a special meaning."""
        return _CONTAINS[self.engine].format(column)

    @staticmethod
    def spellings(text: str) -> list[str]:
        """Return the spellings of a text to search for, with ASCII letters in
        lower case.

        SQL folds only ASCII, so other letters are searched in lower and in
        upper case.
        """
        variants = (text, text.lower(), text.upper(), text.title())
        return list(dict.fromkeys(map(_in_ascii_lower_case, variants)))

    @staticmethod
    def folded(text: str) -> str:
        """Return a text in the form that searches compare: lower case, without
        accents.

        For example, ``Café`` becomes ``cafe``. Wide and narrow forms of a
        character become the usual form.
        """
        if text.isascii():
            return text.lower()
        # NFKD separates the accents from their letters, so that the accents can
        # be removed.
        letters = normalize("NFKD", text).casefold()
        return normalize("NFC", _replace_accents("", letters))

    @classmethod
    def words(cls, text: str) -> list[str]:
        """Split a name, or a search in names, into words as :meth:`folded`
        makes them.

        Letters that Unicode does not decompose into a letter and an accent
        become plain, too: ``ł`` becomes ``l``.
        """
        return _replace_separators(" ", cls.folded(text).translate(_PLAIN)).split()

    @abstractmethod
    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run a query and return all its rows."""

    def ask(
        self, statement: str, values: Sequence[Any] = ()
    ) -> Callable[[], list[Row]]:
        """Begin a query. Call the returned function to get all its rows.

        If you begin several queries before you get rows, PostgreSQL receives
        them in one message.
        """
        rows = self.query(statement, values)
        return lambda: rows

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement, and return the number of rows that it has
        changed."""

    @abstractmethod
    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement once for each row.

        The statement may run later, but before the next query and the COMMIT.
        """

    def insert_new(self, table: str, columns: str, rows: Sequence[Row]) -> None:
        """Insert the rows whose keys are not in the table yet. Other rows are
        left out."""
        if self.engine == "mysql":
            insert = "INSERT IGNORE"
            clause = ""
        else:
            insert = "INSERT"
            clause = " ON CONFLICT DO NOTHING"
        # An engine limits the number of placeholders.
        for part in chunks(rows):
            marks = ", ".join([marks_of(len(row)) for row in part])
            statement = f"{insert} INTO {table} ({columns}) VALUES {marks}{clause}"
            self.execute(statement, list(chain.from_iterable(part)))

    def query_in(
        self,
        statement: str,
        first: Sequence[Any],
        values: Sequence[Any],
        many: bool = False,
    ) -> list[Row]:
        """Run a query that ends with ``IN {}``, for many ``values``, which must
        be distinct.

        Without values the result is empty. ``first`` has the parameters before
        ``{}``. ``many`` means that a value may have several rows; otherwise
        each value has at most one row. Example::

            statement = "SELECT id FROM lamp WHERE app = %s AND id IN {}"
            rows = sql.query_in(statement, (app,), ids)
        """
        return self.ask_in(statement, first, values, many)()

    def ask_in(
        self,
        statement: str,
        first: Sequence[Any],
        values: Sequence[Any],
        many: bool = False,
    ) -> Callable[[], list[Row]]:
        """Begin a query of :meth:`query_in`.

        As with :meth:`ask`, call the returned function to get all rows.
        PostgreSQL gets all values as one array. The other engines get them in
        parts.
        """
        if not values:
            return list  # called without arguments, it returns no rows

        if self.engine == "postgresql":
            kind = type(values[0])
            text = _for_list(self.engine, statement, _ARRAYS[kind], many)
            return self.ask(text, (_as_array(kind, values), *first))

        answers = [
            self._ask_in_part(statement, first, chunk) for chunk in chunks(values)
        ]
        if len(answers) == 1:
            return answers[0]
        return partial(_rows_of_all, answers)

    def _ask_in_part(
        self, statement: str, first: Sequence[Any], values: Sequence[Any]
    ) -> Callable[[], list[Row]]:
        """Begin a query for a part of the values, on SQLite or MySQL."""
        # The list is filled with NULL, which equals no value. So there are few
        # different sizes, and an engine can reuse its plan.
        filled = padded(values, None)
        # SQLite has the list in a WITH before the other parameters.
        if self.engine == "sqlite":
            parameters = (*filled, *first)
        else:
            parameters = (*first, *filled)
        text = _for_list(self.engine, statement, len(filled))
        return self.ask(text, parameters)


def _in_ascii_lower_case(text: str) -> str:
    """Return a text with its ASCII letters in lower case, and all other letters
    as they are."""
    return "".join(sign.lower() if sign.isascii() else sign for sign in text)


def _as_array(kind: type, values: Sequence[Any]) -> str | list[Any]:
    """Return values as the parameter for an array of PostgreSQL.

    ``kind`` is their Python type. Numbers become a text, such as ``{1,2}``,
    because the driver would take 1 ms for a list of 1000 numbers.
    """
    if kind is int:
        return f"{{{','.join(map(str, values))}}}"
    return list(values)


@lru_cache(_CACHED_TEXTS)
def _for_list(engine: str, statement: str, size: int | str, many: bool = False) -> str:
    """Return the text of a statement that ends with ``IN {}``, for a list of
    values.

    ``size`` is the number of values. PostgreSQL gets the values as one array;
    there ``size`` is the type of the elements. On PostgreSQL and SQLite, the
    list comes before all other parameters. Example for SQLite and two values::

        WITH w(v) AS (VALUES (%s), (%s))
        SELECT id FROM w CROSS JOIN lamp WHERE app = %s AND id = w.v
    """
    if isinstance(size, str):
        return _joined_to_array(statement, size, many)
    if engine == "sqlite":
        return _joined_to_values(statement, size)
    return statement.replace("{}", marks_of(size))


def _joined_to_array(statement: str, kind: str, many: bool) -> str:
    """Look up each value of an array, on PostgreSQL.

    Without statistics PostgreSQL reads the whole table for a list of values.
    """
    of_value = statement.replace("IN {}", "= w.v")
    array = f"unnest(%s::{kind}[]) AS w(v)"
    limit = "" if many else " LIMIT 1"
    return f"SELECT x.* FROM {array} CROSS JOIN LATERAL ({of_value}{limit}) x"


def _joined_to_values(statement: str, size: int) -> str:
    """Look up each of ``size`` values, on SQLite.

    Without statistics SQLite scans the table for a list of values. With the
    list to the left of a CROSS JOIN, it looks up each value.
    """
    joined = statement.replace(" FROM ", " FROM w CROSS JOIN ", 1)
    of_values = joined.replace("IN {}", "= w.v")
    marks = ", ".join(["(%s)"] * size)
    return f"WITH w(v) AS (VALUES {marks}) {of_values}"


Condition = Callable[[Statements], bool]
"""A check that runs in the transaction of a change, before the change. If it
returns False, the change is not made."""


class PooledStatements(Statements):
    """Statements on a connection of SQLAlchemy's pool."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        name = connection.dialect.name
        self.engine = "mysql" if name == "mariadb" else name
        if self.engine == "sqlite":
            self.for_update = ""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return list(self._run(statement, tuple(values)).fetchall())

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        return int(self._run(statement, tuple(values)).rowcount)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        if rows:
            self._run(statement, [tuple(row) for row in rows])

    def insert(self, statement: str, values: Sequence[Any]) -> int:
        """Insert a row and return its id."""
        if self.engine == "postgresql":
            return int(self.query(f"{statement} RETURNING id", values)[0][0])
        return int(self._run(statement, tuple(values)).lastrowid)

    def _run(self, statement: str, values: tuple[Any, ...] | list[Row]) -> Any:
        """Run a statement in the spelling of the engine."""
        if self.engine == "sqlite":
            statement = statement.replace("%s", "?")
        elif self.engine == "mysql":
            statement = statement.replace('"', "`")
        return self.connection.exec_driver_sql(statement, values)


class DirectStatements(Statements):
    """Statements on a driver's own connection.

    SQLAlchemy would double the cost of a stored message. All statements belong
    to the transaction that was begun last.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Commit the transaction."""
        self.connection.commit()

    def rollback(self) -> None:
        """Roll the transaction back."""
        self.connection.rollback()

    @property
    def refused(self) -> bool:
        """Whether the server has refused a statement, after an error of
        :meth:`commit`.

        Then COMMIT was not executed, so nothing was stored.
        """
        return False

    def close(self) -> None:
        """Close the connection, in any state."""
        self.connection.close()

    def insert_rows(
        self, table: str, columns: str, types: Sequence[str], rows: Sequence[Row]
    ) -> None:
        """Insert many rows. ``types`` has the PostgreSQL types of the columns,
        in order."""
        self.execute_many(
            f"INSERT INTO {table} ({columns}) VALUES {marks_of(len(types))}", rows
        )


class NotStored(Exception):
    """Nothing was stored: the database is unreachable, or the time limit has
    passed. A later attempt may succeed."""


class Unsure(Exception):
    """COMMIT was sent, but its answer was lost. So it is unknown whether the
    data are stored."""


class RowRefused(Exception):
    """Nothing was stored: the database refuses the content of a row."""


class CommitGuard:
    """The permission to commit a transaction, which can be taken only once.

    The transaction takes it before its COMMIT. A caller that gives up waiting
    takes it, too. So a transaction that its caller has given up cannot commit
    later. Thread-safe without a lock, because locks belong to the loop.
    """

    def __init__(self) -> None:
        self._open: Final = [None]
        """A list with one item until the permission is taken, and empty
        afterwards. Two threads cannot pop the same item."""

    def take(self) -> bool:
        """Take the permission. Returns False if it was taken before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        return True

    def put_back(self) -> None:
        """Give the permission back, because there was no COMMIT."""
        self._open.append(None)


class SqliteStatements(DirectStatements):
    """Statements on a connection of SQLite. ``BEGIN IMMEDIATE`` locks the whole
    file."""

    engine = "sqlite"
    for_update = ""

    def begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        rows: list[Row] = self.connection.execute(
            _with_question_marks(statement), values
        ).fetchall()
        return rows

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        text = _with_question_marks(statement)
        return int(self.connection.execute(text, values).rowcount)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        self.connection.executemany(_with_question_marks(statement), rows)


class MysqlStatements(DirectStatements):
    """Statements on a connection of MySQL. Names are sent as bytes. The driver
    turns many rows into one list of values."""

    engine = "mysql"

    def begin(self) -> None:
        self.connection.begin()

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, _as_bytes(values))
            return list(cursor.fetchall())

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self.connection.cursor() as cursor:
            return int(cursor.execute(statement, _as_bytes(values)))

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(statement, [_as_bytes(row) for row in rows])


class _Answer(Struct):
    """The rows of a query of PostgreSQL, for a later call.

    A call returns the rows, and first sends the query if it was not sent yet.
    ``rows`` is None until the server has sent the rows.
    """

    sql: PostgresqlStatements
    rows: list[Row] | None = None

    def __call__(self) -> list[Row]:
        """Return the rows. If the query was not sent yet, send it first."""
        if self.rows is None:
            self.sql.flush()
        assert self.rows is not None
        return self.rows


class PostgresqlStatements(DirectStatements):
    """Statements on a connection of PostgreSQL, sent together as far as
    possible.

    A statement waits until something needs an answer. Then all waiting
    statements are one message to the server, with the values in their text.
    Many rows are inserted by COPY. ``connection`` is in autocommit mode. Its
    ``cursor`` writes values into the text of a statement.
    """

    engine = "postgresql"

    def __init__(self, connection: Any, cursor: Any) -> None:
        """``connection`` is in autocommit mode. ``cursor`` writes values into
        the text of a statement."""
        super().__init__(connection)
        self._cursor = cursor
        self._waiting: list[tuple[str, _Answer | None]] = []
        """The texts of statements that were not sent yet, each with the answer
        that gets its rows. None means that the statement returns no rows."""

    @property
    def refused(self) -> bool:
        """Whether the server has refused a statement of the transaction."""
        # The server reports the state of the transaction after its answers. If
        # COMMIT itself fails, the transaction has ended.
        return bool(self.connection.info.transaction_status.name == "INERROR")

    def begin(self) -> None:
        """Begin a transaction with the next message to the server."""
        self._waiting = [("BEGIN ISOLATION LEVEL READ COMMITTED", None)]

    def commit(self) -> None:
        """Send the waiting statements, followed by a COMMIT.

        Raises OperationalError if the server has rolled back.
        """
        self._waiting.append(("COMMIT", None))
        self.flush()
        if self._cursor.statusmessage != "COMMIT":
            raise self.connection.OperationalError("the server has rolled back")

    def rollback(self) -> None:
        """Drop the waiting statements, and undo the statements that were
        sent."""
        self._waiting = []
        self.connection.rollback()

    def ask(
        self, statement: str, values: Sequence[Any] = ()
    ) -> Callable[[], list[Row]]:
        """Add a query to the waiting statements, and return a function for its
        rows.

        The function sends all waiting statements if they were not sent yet.
        """
        answer = _Answer(self)
        self._waiting.append((self._cursor.mogrify(statement, values), answer))
        return answer

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self.ask(statement, values)()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement at once, after all waiting statements.

        Returns the number of changed rows.
        """
        self.execute_many(statement, (tuple(values),))
        self.flush()
        return int(self._cursor.rowcount)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        self._waiting += [(self._cursor.mogrify(statement, row), None) for row in rows]

    def flush(self) -> None:
        """Send the statements that wait, in one message, and read all answers."""
        waiting = self._waiting
        self._waiting = []
        if not waiting:
            return
        cursor = self._cursor
        cursor.execute(";".join([text for text, _ in waiting]))
        # The answers come in the order of the statements.
        for _, answer in waiting:
            if answer is not None:
                answer.rows = cursor.fetchall()
            cursor.nextset()

    def insert_rows(
        self, table: str, columns: str, types: Sequence[str], rows: Sequence[Row]
    ) -> None:
        """Insert many rows by COPY, which is faster than INSERT."""
        self.flush()
        statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
        with (
            self.connection.cursor() as cursor,
            cursor.copy(statement.encode()) as copy,
        ):
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


@cache
def _with_question_marks(statement: str) -> str:
    return statement.replace("%s", "?")


def _as_bytes(values: Sequence[Any]) -> list[Any]:
    """Return values for MySQL, with texts as bytes."""
    return [value.encode() if type(value) is str else value for value in values]


def chunks(values: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """Split values into parts of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def padded(values: Sequence[T], filler: T) -> Sequence[T]:
    """Fill the values up to a power of two with ``filler``.

    So few different statements exist.
    """
    size = 1 << (len(values) - 1).bit_length()
    fillers = [filler] * (size - len(values))
    return [*values, *fillers]


def marks_of(count: int) -> str:
    """Return the text of a list of placeholders, such as ``(%s, %s)`` for 2."""
    return f"({', '.join(['%s'] * count)})"


def text_objection(text: str, most: int) -> str:
    """Return why a text cannot be a name; ``""`` if it can.

    ``most`` is how many bytes of UTF-8 a name may have.
    """
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return "not valid text"
    if size > most:
        return f"at most {most} bytes"
    if "\0" in text:
        return "NUL"
    return ""


def text_of(value: Any) -> str:
    """Return a name from a driver as text. The driver of MySQL returns names as
    bytes."""
    if type(value) is str:
        return value
    return bytes(value).decode()


class RowsOf(Generic[S]):
    """Reads and writes the rows of a table as structs.

    Each field of the struct is a column of the same name, except the fields in
    ``names``:

    - A text is the column or expression of the field, for example
      ``created="moment"``.
    - ``""`` means that the table does not have the field.
    - A tuple lists all values that the field can have. The column stores the
      index of a value in this tuple.

    A field of type ``str`` may have a column with a number, such as an id.
    NULL, and the id 0, become an empty value. A value that is not a text,
    number, bool or bytes is stored as JSON. ``columns`` is the list of columns
    as SQL, and ``select`` is the beginning of a query for the rows.
    """

    def __init__(
        self, struct: type[S], table: str, **names: str | tuple[str, ...]
    ) -> None:
        """Prepare to read and write rows of ``table`` as structs of the type
        ``struct``.

        ``names`` has the fields without a column of the same name. Its values
        have three forms:

        - A text is the column or expression of the field, such as
          ``created="moment"``.
        - ``""`` means that the table does not have the field.
        - A tuple lists the values of the field. The column stores the index of
          a value in the tuple.
        """
        self._struct = struct
        self._table = table
        self._choices: dict[str, tuple[str, ...]] = {}

        fields = []
        columns = []
        for field in struct.__struct_fields__:
            column = names.get(field, field)
            if not column:
                continue  # the table does not have this field
            if isinstance(column, tuple):
                # The column has the index of the value in this tuple.
                self._choices[field] = column
                column = field
            fields.append(field)
            columns.append(column)

        self._fields = tuple(fields)
        self.columns = ", ".join(columns)
        self.select = f"SELECT {self.columns} FROM {table}"

    @cached_property
    def _codecs(self) -> list[tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]]:
        """The type of each field, and the functions that read and write the
        field."""
        kinds = get_type_hints(
            self._struct
        )  # not at the start, because this takes time
        codecs = []
        for field in self._fields:
            kind = kinds[field]
            read, write = _codec(kind, self._choices.get(field))
            codecs.append((kind, read, write))
        return codecs

    @cached_property
    def _read(self) -> Callable[..., S]:
        """The function that makes a struct from the values of a row.

        It is compiled from a text, as the methods of dataclasses are. A row of
        22 fields takes 1.8 µs; in a loop over the fields it would take 3.7 µs.
        For one field ``id`` the text is::

            lambda v_0, *_, **more: struct(
                id=v_0 if type(v_0) is kind_0 else read_0(v_0), **more
            )
        """
        names: dict[str, Any] = {"struct": self._struct}
        for n, (kind, read, _) in enumerate(self._codecs):
            names[f"kind_{n}"] = kind
            names[f"read_{n}"] = read
        compiled: Callable[..., S] = eval(_reader_text(self._fields), names)
        return compiled

    def find(
        self, query: Callable[[str, Row], list[Row]], rest: str, *values: Any
    ) -> list[S]:
        """Return the rows that a query finds, as structs.

        ``query`` runs the query. It is ``rows`` of a store, or ``query`` of
        statements. ``rest`` has the clauses after ``select``, such as ``WHERE
        id = %s``, for these ``values``.
        """
        rows = query(f"{self.select} {rest}", values)
        return list(map(self.read, rows))

    def first(
        self, query: Callable[[str, Row], list[Row]], rest: str, *values: Any
    ) -> S | None:
        """Return the first row that a query finds, as a struct; None if the
        query finds no row.

        See :meth:`find` for the arguments.
        """
        rows = query(f"{self.select} {rest}", values)
        return self.read(rows[0]) if rows else None

    def put(self, sql: Statements, struct: S, **key: Any) -> None:
        """Insert the row of a struct, or change the stored row with this key.

        ``key`` has the columns of the key with their values.
        """
        columns = self.columns.split(", ")
        row = dict(zip(columns, self.values(struct), strict=True))
        row.update(key)
        sql.insert_new(self._table, ", ".join(row), [tuple(row.values())])

        # The row may already exist with other values. An UPDATE is the same on
        # all engines.
        changes = {column: row[column] for column in row if column not in key}
        self._update(sql, changes, key)

    def _update(
        self, sql: Statements, changes: Mapping[str, Any], key: Mapping[str, Any]
    ) -> None:
        """Change columns of the row with this key."""
        assignments = ", ".join(f"{column} = %s" for column in changes)
        conditions = " AND ".join(f"{column} = %s" for column in key)
        sql.execute(
            f"UPDATE {self._table} SET {assignments} WHERE {conditions}",
            [*changes.values(), *key.values()],
        )

    def read(self, row: Row, **more: Any) -> S:
        """Make a struct from a row.

        ``more`` has the values of fields that have no column. Values after the
        last column are ignored.
        """
        return self._read(*row, **more)

    def values(self, struct: S) -> Row:
        """Return the row of a struct, in the order of its ``columns``."""
        codecs = zip(self._fields, self._codecs, strict=True)
        return tuple([write(getattr(struct, field)) for field, (_, _, write) in codecs])


def _codec(
    kind: Any, choices: tuple[str, ...] | None
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the functions that read and write a field of this type.

    ``choices`` has all values of the field if its column stores the index of
    the value; otherwise it is None.
    """
    if choices is not None:
        return choices.__getitem__, choices.index
    if kind is str or get_origin(kind) is Literal:
        return _read_text, str

    if kind in (int, bool, bytes):
        # NULL becomes 0, False or empty bytes.
        def read_plain(value: Any) -> Any:
            return kind(value or 0)

        write = bytes if kind is bytes else int
        return read_plain, write

    def read_json(value: Any) -> Any:
        return json.decode(value, type=kind)

    return read_json, json.encode


def _read_text(value: Any) -> str:
    """Return the text of a column. An id becomes text; the id 0 and NULL become
    ``""``."""
    if type(value) is int and value:
        return str(value)
    return text_of(value or "")


def _reader_text(fields: Sequence[str]) -> str:
    """Return the text of the lambda that makes a struct from a row.

    The names ``kind_0`` and ``read_0`` in it are the type and the reader of the
    first field.
    """
    parameters = []
    arguments = []
    for n, field in enumerate(fields):
        parameters.append(f"v_{n}")
        # A value that already has the type of the field needs no call.
        value = f"v_{n} if type(v_{n}) is kind_{n} else read_{n}(v_{n})"
        arguments.append(f"{field}={value}")
    call = f"struct({', '.join(arguments)}, **more)"
    return f"lambda {', '.join(parameters)}, *_, **more: {call}"
