"""The rows of an app or a user in all tables, as an export reads them: table by table, in pages.

A page follows the last key of the page before. Where no index leads to the rows of a user (``Table.scan``), a
query looks through some thousand rows of the app, and the next one goes on behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Struct, msgpack

from imserver.model import id_of
from imserver.storage.app_rows import form_of, tables_of_others
from imserver.storage.statements import PooledStatements, Row, T, text_of
from imserver.storage.tables import OF_APP, OF_LOGS, Reason, Table

PAGE_ROWS: Final = 200
_SCAN_ROWS: Final = 10_000
"""Rows through which one query looks."""
_ACCOUNTS_AT_ONCE: Final = 500


class TablePage(Struct, frozen=True):
    """Rows of one table. ``columns``: their names; bytes in UTF-8 are text. ``position``: what a later call
    takes to go on behind this page."""

    table: str
    columns: tuple[str, ...]
    rows: list[Row]
    position: bytes = b""


class _Position(Struct, frozen=True, array_like=True):
    """Where a page ends: its table, the values of the condition of its rows, and the key of the last row."""

    table: str
    values: tuple[Any, ...]
    key: tuple[Any, ...]


_write_position: Final = msgpack.Encoder().encode
_read_position: Final = msgpack.Decoder(_Position).decode


class ReadWork(Protocol):
    """Runs work in a transaction; see :meth:`imserver.storage.store.Store.read`."""

    def __call__(self, work: Callable[[PooledStatements], T]) -> T: ...


class _Part(Struct, frozen=True):
    """Some rows of a table: those that meet ``scope``, and ``of_user`` (``""``: anything), in the order of
    ``order``.

    ``scan``: rows that meet ``scope`` are looked through, because no index leads to those of a user."""

    table: str
    order: tuple[str, ...]
    columns: tuple[str, ...]
    scope: str
    values: Row
    of_user: str = ""
    user: Row = ()
    scan: bool = False


def read_app(read: ReadWork, tables: Sequence[Table], app: str, position: bytes = b"") -> Iterator[TablePage]:
    """The rows of an app, behind the position of a page. Switches. Raises StorageUnavailable."""
    yield from _from(read, _parts_of_app(read, tables, app), position)


def _parts_of_app(read: ReadWork, tables: Sequence[Table], app: str) -> Iterator[_Part]:
    for table in (*read(tables_of_others), *tables):
        if isinstance(table.columns, Reason) or not table.exported:
            continue
        each = _accounts if table.exported == Table.OF_ACCOUNTS else _scopes
        for scope, values in each(read, table.exported, app):
            yield _Part(table.name, _order(table), table.columns, scope, values)


def read_user(
    read: ReadWork, tables: Sequence[Table], app: str, user: str, position: bytes = b""
) -> Iterator[TablePage]:
    """The rows of a user, behind the position of a page. Switches. Raises StorageUnavailable."""
    yield from _from(read, _parts_of_user(read, tables, app, user), position)


def _parts_of_user(read: ReadWork, tables: Sequence[Table], app: str, user: str) -> Iterator[_Part]:
    for table in (*read(tables_of_others), *tables):
        form = form_of(table, user)
        if isinstance(table.of_app, Reason) or isinstance(table.columns, Reason):
            continue
        if isinstance(table.of_user, Reason) or not form:
            continue
        for scope, values in _scopes(read, table.of_app, app):
            whose = (table.of_user, (form,), table.scan)
            yield _Part(table.name, _order(table), table.columns, scope, values, *whose)


def _from(read: ReadWork, parts: Iterator[_Part], position: bytes) -> Iterator[TablePage]:
    """The pages of all parts; with a position, of those behind it."""
    begin = _read_position(position) if position else None
    for part in parts:
        if begin is None:
            yield from _pages(read, part)
        elif (part.table, part.values) == (begin.table, begin.values):
            yield from _pages(read, part, begin.key)
            begin = None


def _order(table: Table) -> tuple[str, ...]:
    """The columns of the key that differ within a scope."""
    fixed = {OF_APP: "app", OF_LOGS: "log"}.get(str(table.of_app))
    return tuple(column for column in table.key if column != fixed) or table.key


def _scopes(read: ReadWork, of_app: str, app: str) -> Iterator[tuple[str, Row]]:
    """Conditions of an app's rows, each for one log: for several, some engines would sort all rows for each
    page."""
    if of_app == OF_LOGS:
        logs = read(lambda sql: sql.query("SELECT number FROM log WHERE app = %s", (app,)))
        yield from (("log = %s", (number,)) for (number,) in logs)
    else:
        yield of_app, (app,)


def _accounts(read: ReadWork, of_app: str, app: str) -> Iterator[tuple[str, Row]]:
    """Conditions of an app's rows, each for some accounts, for the same reason."""
    last = 0
    while ids := read(partial(_next_accounts, app, last)):
        yield f"{of_app[:-1]} AND id > %s AND id <= %s)", (app, last, ids[-1][0])
        last = ids[-1][0]


def _next_accounts(app: str, after: int, sql: PooledStatements) -> list[Row]:
    statement = "SELECT id FROM account WHERE app = %s AND id > %s ORDER BY id LIMIT %s"
    return sql.query(statement, (app, after, _ACCOUNTS_AT_ONCE))


def _pages(read: ReadWork, part: _Part, after: Row = ()) -> Iterator[TablePage]:
    width = len(part.order)
    names = tuple(column.strip('"') for column in part.columns)
    while True:
        rows, upto = read(partial(_page, part, after))
        if rows:
            end = _write_position(_Position(part.table, tuple(part.values), tuple(rows[-1][:width])))
            yield TablePage(part.table, names, [tuple(map(_plain, row[width:])) for row in rows], end)
        if len(rows) == PAGE_ROWS:
            after = rows[-1][:width]
        elif upto:
            after = upto
        else:
            return


def _page(part: _Part, after: Row, sql: PooledStatements) -> tuple[list[Row], Row]:
    """The next rows, and the key up to which was looked; ``()``: up to the end."""
    where, values = part.scope, list(part.values)
    if after:
        text, more = behind(sql.engine, part.order, after)
        where, values = f"{where} AND {text}", [*values, *more]
    order, upto = ", ".join(part.order), ()
    if part.scan:
        last = f"SELECT {order} FROM {part.table} WHERE {where} ORDER BY {order} LIMIT 1 OFFSET %s"
        for upto in sql.query(last, (*values, _SCAN_ROWS - 1)):
            where, values = f"{where} AND {order} <= %s", [*values, *upto]
    if part.of_user:
        where, values = f"{where} AND {part.of_user}", [*values, *part.user]
    if sql.engine == "postgresql":
        # Without statistics it takes the rest of a table for a few rows, and sorts it for each page: 113 ms
        # instead of 36 for the first pages of 30,000 messages.
        sql.execute("SET LOCAL enable_sort = off")
    columns = ", ".join((*part.order, *part.columns))
    statement = f"SELECT {columns} FROM {part.table} WHERE {where} ORDER BY {order} LIMIT %s"
    return sql.query(statement, (*values, PAGE_ROWS)), upto


def behind(engine: str, order: tuple[str, ...], key: Row) -> tuple[str, list[Any]]:
    """The condition of rows behind a key, and its values. MySQL finds no index for a row of values."""
    if engine != "mysql":
        marks = ", ".join(["%s"] * len(order))
        return f"({', '.join(order)}) > ({marks})", list(key)
    choices: list[str] = []
    values: list[Any] = []
    for number, column in enumerate(order):
        same = "".join(f"{each} = %s AND " for each in order[:number])
        choices.append(f"{same}{column} > %s")
        values += key[: number + 1]
    return f"({' OR '.join(choices)})", values


def _plain(value: Any) -> Any:
    """A value from a driver. Drivers differ in what is text, and what bytes."""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return bytes(value)
    return value


def names_of(app: str, users: Sequence[str], sql: PooledStatements) -> dict[str, str]:
    """User → the name of the account, for those who are accounts of an app and have a name."""
    ids = [id for user in users if (id := id_of(user))]
    rows = sql.query_in("SELECT id, nickname, name FROM account WHERE app = %s AND id IN {}", (app,), ids)
    return {str(id): text_of(nickname or name) for id, nickname, name in sorted(rows) if nickname or name}
