"""The rows of an app or a user in all tables, as an export reads them: table by table, in pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct, msgpack

from imserver.model import id_of
from imserver.storage.app_rows import form_of, tables_of_others
from imserver.storage.row_query import ALL, Clause, ReadWork, RowQuery, pages
from imserver.storage.statements import PooledStatements, Row, text_of
from imserver.storage.tables import OF_APP, OF_LOGS, Reason, Table

_ACCOUNTS_AT_ONCE: Final = 500


class TablePage(Struct, frozen=True):
    """Rows of one table. ``columns``: their names; bytes in UTF-8 are text. ``position``: what a later call
    takes to go on behind this page."""

    table: str
    columns: tuple[str, ...]
    rows: list[Row]
    position: bytes = b""


_write_position: Final = msgpack.Encoder().encode
_read_position: Final = msgpack.Decoder(tuple[str, Row, Row]).decode
"""Where a page ends: its table, the values of the condition of its rows, and the key of the last row."""


def read_rows(
    read: ReadWork, tables: Sequence[Table], app: str, user: str | None, position: bytes = b""
) -> Iterator[TablePage]:
    """The rows of a user (None: of an app), behind the position of a page. Switches. Raises
    StorageUnavailable."""
    begin: list[Any] = []
    after: Row = ()
    if position:
        *begin, after = _read_position(position)
    for query in _queries(read, tables, app, user):
        part = [query.table, query.scope[1]]
        if begin and begin != part:
            continue
        names = tuple(column.strip('"') for column in query.columns)
        for rows, key in pages(read, query, after):
            end = _write_position((*part, key))
            yield TablePage(query.table, names, [tuple(map(_plain, row)) for row in rows], end)
        begin, after = [], ()


def _queries(read: ReadWork, tables: Sequence[Table], app: str, user: str | None) -> Iterator[RowQuery]:
    for table in (*read(tables_of_others), *tables):
        if isinstance(table.columns, Reason):
            continue
        of_app, of_user, scopes = table.exported, ALL, _scopes
        if user is not None:
            form = form_of(table, user)
            if isinstance(table.of_app, Reason) or isinstance(table.of_user, Reason) or not form:
                continue
            of_user = table.of_user, (form,)
        elif of_app == Table.OF_ACCOUNTS:
            scopes = _accounts
        scan = table.scan and user is not None
        for scope in scopes(read, of_app, app) if of_app else ():
            yield RowQuery(table.name, _order(table), table.columns, scope, of_user, True, scan)


def _order(table: Table) -> tuple[str, ...]:
    """The columns of the key that differ within a scope."""
    fixed = {OF_APP: "app", OF_LOGS: "log"}.get(str(table.of_app))
    return tuple(column for column in table.key if column != fixed) or table.key


def _scopes(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Conditions of an app's rows, each for one log: for several, some engines would sort all rows for each
    page."""
    if of_app == OF_LOGS:
        logs = read(lambda sql: sql.query("SELECT number FROM log WHERE app = %s", (app,)))
        yield from (("log = %s", (number,)) for (number,) in logs)
    else:
        yield of_app, (app,)


def _accounts(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Conditions of an app's rows, each for some accounts, for the same reason."""
    last, ids = 0, RowQuery("account", ("id",), (), (OF_APP, (app,)))
    for _, (id,) in pages(read, ids, most=_ACCOUNTS_AT_ONCE):
        yield f"{of_app[:-1]} AND id > %s AND id <= %s)", (app, last, id)
        last = id


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
