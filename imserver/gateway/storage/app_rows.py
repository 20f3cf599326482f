"""The rows of an app and of a user in all tables: how many there are, how an
export reads them, in pages, and their deletion in small transactions."""

import logging
from collections.abc import Iterator, Sequence, Set
from typing import Any, Final

from msgspec import Struct, json, msgpack

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import id_of
from imserver.gateway.storage.contract import AppContents
from imserver.gateway.storage.row_query import ALL, Clause, ReadWork, RowQuery, pages
from imserver.gateway.storage.statements import (
    PooledStatements,
    Row,
    text_objection,
    text_of,
)
from imserver.gateway.storage.tables import OF_APP, OF_LOGS, Reason, Table, tables_in

log = logging.getLogger(__name__)

DELETED: Final = "null"
"""In place of the settings of an app: it was deleted."""


def is_deleted(name: str, sql: PooledStatements, lock: bool = False) -> bool:
    """Whether there was an app of this name, and it was deleted. ``lock``: it
    is not created anew until the transaction ends."""
    rows = sql.query(
        f"SELECT settings FROM app WHERE name = %s{sql.for_update if lock else ''}",
        (name,),
    )
    return bool(rows) and rows[0][0] == DELETED


def has_files(name: str, sql: PooledStatements) -> bool:
    """Whether rows of files of an app are left."""
    return bool(sql.query("SELECT id FROM upload WHERE app = %s LIMIT 1", (name,)))


def contents(name: str, sql: PooledStatements) -> AppContents:
    """The contents of an app.

    Messages are not counted one by one, because millions would exceed the time
    limit of a query. The ids of a log have gaps only after a restore.
    """
    entries = "SELECT coalesce(sum(last_id - floor), 0) FROM log WHERE app = %s"
    keys = sql.query("SELECT apps FROM api_key WHERE revoked = 0")
    return AppContents(
        keys=sum(json.decode(apps) == [name] for (apps,) in keys),
        accounts=_count(sql, name, "account", OF_APP),
        messages=int(sql.query(entries, (name,))[0][0]),
        uploads=_count(sql, name, "upload", OF_APP),
        groups=_count(sql, name, "conversation", f"{OF_LOGS} AND kind = 1"),
    )


def _count(sql: PooledStatements, name: str, table: str, mine: str) -> int:
    return int(sql.query(f"SELECT count(*) FROM {table} WHERE {mine}", (name,))[0][0])


def tables_of_others(sql: PooledStatements) -> list[Table]:
    """The tables of features of other distributions that nodes have
    recorded, also of those that no node has. An operator may have dropped
    some of them."""
    rows = sql.query("SELECT feature, tables FROM feature_schema ORDER BY feature")
    connection = sql.connection
    return [
        table
        for feature, record in rows
        for table in tables_in(text_of(feature), bytes(record))
        if connection.dialect.has_table(connection, table.name)
    ]


def delete_of_user(app: str, user: str, table: Table, sql: PooledStatements) -> None:
    """Delete the rows of a user in a table."""
    form = form_of(table, user)
    if isinstance(table.erase_user, Reason) or not form:
        return
    for number, statement in enumerate(table.erase_user):
        rows = sql.execute(statement, (app, form))
        if not number:
            _warn_of_files(table.name, rows)


def form_of(table: Table, user: str) -> str | bytes | int:
    """How a user stands in the rows of a table; empty or 0: they have none
    there."""
    if table.user_as == "account":
        return id_of(user)
    if table.user_as == "bytes":
        return user.encode()
    if text_objection(user, MAX_USER_BYTES):
        return ""
    return user


def _warn_of_files(table: str, rows: int) -> None:
    """Tell operators that bytes are left, because the rows of files were
    deleted without them."""
    if table == "upload" and rows:
        log.warning(
            "erased the rows of %d files: this node has no uploads, so their bytes are left",
            rows,
        )


def delete_some(
    name: str, spared: Set[str], tables: Sequence[Table], sql: PooledStatements
) -> int:
    """Delete some rows of a deleted app; how many, 0: none are left but in the
    tables of ``spared``, or the app was created anew.

    The heads of its logs and its feed stay: no id is given again if the app is
    created anew.
    """
    if not is_deleted(name, sql, lock=True):
        return 0
    tables = (*tables_of_others(sql), *tables)
    for table in tables:
        for statement in table.erase_app:
            sql.execute(statement, (name,))
    for table in tables:
        if table.name in spared or isinstance(table.of_app, Reason):
            continue
        columns = ", ".join(table.key)
        # Few rows in one transaction: writers never wait for long.
        rows = sql.query(
            f"SELECT {columns} FROM {table.name} WHERE {table.of_app} LIMIT 1000",
            (name,),
        )
        if rows:
            these = " AND ".join(f"{column} = %s" for column in table.key)
            sql.execute_many(
                f"DELETE FROM {table.name} WHERE {these}", [tuple(row) for row in rows]
            )
            _warn_of_files(table.name, len(rows))
            return len(rows)
    return 0


# --- what an export reads -----------------------------------------------------


class TablePage(Struct, frozen=True):
    """Rows of one table. ``columns``: their names; bytes in UTF-8 are text.
    ``position``: what a later call takes to go on behind this page."""

    table: str
    columns: tuple[str, ...]
    rows: list[Row]
    position: bytes = b""


def read_rows(
    read: ReadWork,
    tables: Sequence[Table],
    app: str,
    user: str | None,
    position: bytes = b"",
) -> Iterator[TablePage]:
    """The rows of a user (None: of an app), behind the position of a page.
    Switches. Raises StorageUnavailable."""
    begin: list[Any] = []
    after: Row = ()
    if position:
        *begin, after = msgpack.decode(position, type=tuple[str, Row, Row])
    for query in _queries(read, tables, app, user):
        part = [query.table, query.scope[1]]
        if begin and begin != part:
            continue
        names = tuple(column.strip('"') for column in query.columns)
        for rows, key in pages(read, query, after):
            end = msgpack.encode((*part, key))
            yield TablePage(
                query.table, names, [tuple(map(_plain, row)) for row in rows], end
            )
        begin = []
        after = ()


def _queries(
    read: ReadWork, tables: Sequence[Table], app: str, user: str | None
) -> Iterator[RowQuery]:
    for table in (*read(tables_of_others), *tables):
        if isinstance(table.columns, Reason):
            continue
        of_app = table.exported
        of_user = ALL
        scopes = _scopes
        if user is not None:
            form = form_of(table, user)
            if (
                isinstance(table.of_app, Reason)
                or isinstance(table.of_user, Reason)
                or not form
            ):
                continue
            of_user = table.of_user, (form,)
        elif of_app == Table.OF_ACCOUNTS:
            scopes = _accounts
        scan = table.scan and user is not None
        # the same within a scope
        fixed = {OF_APP: "app", OF_LOGS: "log"}.get(str(table.of_app))
        order = tuple(column for column in table.key if column != fixed) or table.key
        for scope in scopes(read, of_app, app) if of_app else ():
            yield RowQuery(table.name, order, table.columns, scope, of_user, True, scan)


def _scopes(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Conditions of an app's rows, each for one log: for several, some engines
    would sort all rows for each page."""
    if of_app == OF_LOGS:
        logs = read(
            lambda sql: sql.query("SELECT number FROM log WHERE app = %s", (app,))
        )
        yield from (("log = %s", (number,)) for (number,) in logs)
    else:
        yield of_app, (app,)


def _accounts(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Conditions of an app's rows, each for some accounts, for the same
    reason."""
    last = 0
    ids = RowQuery("account", ("id",), (), (OF_APP, (app,)))
    for _, (id,) in pages(read, ids, most=500):
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
    """User → the name of the account, for those who are accounts of an app and
    have a name."""
    ids = [id for user in users if (id := id_of(user))]
    rows = sql.query_in(
        "SELECT id, nickname, name FROM account WHERE app = %s AND id IN {}",
        (app,),
        ids,
    )
    return {
        str(id): text_of(nickname or name)
        for id, nickname, name in sorted(rows)
        if nickname or name
    }
