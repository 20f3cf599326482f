"""The rows of an app and of a user in all tables: counting them, reading them
for an export, in pages, and deleting them in small transactions."""

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
"""The value in place of the settings of a deleted app."""
_PART_ROWS: Final = 1000
"""How many rows of a deleted app one transaction deletes. The number is small,
so that writers never wait for long."""
_PART_ACCOUNTS: Final = 500
"""Limit of the accounts whose rows one query of an export reads."""


def is_deleted(name: str, sql: PooledStatements, lock: bool = False) -> bool:
    """Whether an app of this name was deleted.

    With ``lock``, nobody can create the app anew until the transaction ends.
    """
    suffix = sql.for_update if lock else ""
    rows = sql.query(f"SELECT settings FROM app WHERE name = %s{suffix}", (name,))
    return bool(rows) and rows[0][0] == DELETED


def has_files(name: str, sql: PooledStatements) -> bool:
    """Whether an app still has rows of files."""
    return bool(sql.query("SELECT id FROM upload WHERE app = %s LIMIT 1", (name,)))


def contents(name: str, sql: PooledStatements) -> AppContents:
    """Count the keys, accounts, messages, files and groups of an app.

    The number of messages follows from their ids. Counting millions of rows
    would exceed the time limit of a query. The ids of a log have gaps only
    after a restore.
    """
    return AppContents(
        keys=_count_keys(sql, name),
        accounts=_count(sql, name, "account", OF_APP),
        messages=_count_messages(sql, name),
        uploads=_count(sql, name, "upload", OF_APP),
        groups=_count(sql, name, "conversation", f"{OF_LOGS} AND kind = 1"),
    )


def _count_keys(sql: PooledStatements, name: str) -> int:
    """Count the valid API keys that are only for this app.

    A key for several apps is not lost with the app: it stays valid for the
    other apps.
    """
    keys = sql.query("SELECT apps FROM api_key WHERE revoked = 0")
    return sum(json.decode(apps) == [name] for (apps,) in keys)


def _count_messages(sql: PooledStatements, name: str) -> int:
    """Return how many ids the message logs of an app have given, added up."""
    entries = "SELECT coalesce(sum(last_id - floor), 0) FROM log WHERE app = %s"
    return int(sql.query(entries, (name,))[0][0])


def _count(sql: PooledStatements, name: str, table: str, of_app: str) -> int:
    """Return the number of rows of an app in a table.

    ``of_app`` is the condition for these rows, with one ``%s`` for the name of
    the app.
    """
    rows = sql.query(f"SELECT count(*) FROM {table} WHERE {of_app}", (name,))
    return int(rows[0][0])


def tables_of_others(sql: PooledStatements) -> list[Table]:
    """Return the tables of features of other distributions, as nodes have
    recorded them.

    Features that no node has now are included. Tables that an operator has
    dropped are left out.
    """
    rows = sql.query("SELECT feature, tables FROM feature_schema ORDER BY feature")
    connection = sql.connection
    tables: list[Table] = []
    for feature, record in rows:
        for table in tables_in(text_of(feature), bytes(record)):
            # An operator may have dropped the table.
            if connection.dialect.has_table(connection, table.name):
                tables.append(table)
    return tables


def delete_of_user(app: str, user: str, table: Table, sql: PooledStatements) -> None:
    """Delete the rows of a user in a table, and rows of other tables that
    depend on them."""
    user_value = form_of(table, user)
    if isinstance(table.erase_user, Reason) or not user_value:
        return

    for number, statement in enumerate(table.erase_user):
        rows = sql.execute(statement, (app, user_value))
        # The first statement deletes rows of the table itself.
        if number == 0:
            _warn_of_files(table.name, rows)


def form_of(table: Table, user: str) -> str | bytes | int:
    """Return the value that stands for a user in the rows of a table.

    It is a text, bytes, or the id of an account, depending on the table. ``""``
    or 0 means that the user cannot have rows there. The user is not an account,
    or the user id is not a valid name.
    """
    if table.user_as == "account":
        return id_of(user)
    if table.user_as == "bytes":
        return user.encode()
    if text_objection(user, MAX_USER_BYTES):
        return ""
    return user


def _warn_of_files(table: str, rows: int) -> None:
    """Warn operators that contents of files remain, because only their rows
    were deleted.

    Only the table ``upload`` has files.
    """
    if table == "upload" and rows:
        log.warning(
            "erased the rows of %d files: "
            "this node has no uploads, so their bytes are left",
            rows,
        )


def delete_some(
    name: str, spared: Set[str], tables: Sequence[Table], sql: PooledStatements
) -> int:
    """Delete some rows of a deleted app, and return their number.

    Call this again until the result is 0. Then only rows in the tables of
    ``spared`` are left, or the app was created anew. The heads of the logs and
    of the feed stay, so that a new app of this name does not give an id again.
    """
    if not is_deleted(name, sql, lock=True):
        return 0

    # The tables of other distributions come first, because they have few rows.
    tables = (*tables_of_others(sql), *tables)
    for table in tables:
        for statement in table.erase_app:
            sql.execute(statement, (name,))

    # Only rows of the first table that still has rows are deleted.
    for table in tables:
        if table.name in spared or isinstance(table.of_app, Reason):
            continue
        rows = _delete_part(name, table, table.of_app, sql)
        if rows:
            _warn_of_files(table.name, rows)
            return rows
    return 0


def _delete_part(name: str, table: Table, of_app: str, sql: PooledStatements) -> int:
    """Delete some rows of an app in one table, and return their number.

    ``of_app`` is the condition for the rows of an app.
    """
    # The keys are read first, because DELETE has no LIMIT on some engines.
    columns = ", ".join(table.key)
    keys = sql.query(
        f"SELECT {columns} FROM {table.name} WHERE {of_app} LIMIT {_PART_ROWS}",
        (name,),
    )
    if keys:
        _delete_by_key(table, keys, sql)
    return len(keys)


def _delete_by_key(table: Table, keys: Sequence[Row], sql: PooledStatements) -> None:
    """Delete the rows of a table that have these primary keys."""
    has_key = " AND ".join(f"{column} = %s" for column in table.key)
    statement = f"DELETE FROM {table.name} WHERE {has_key}"
    sql.execute_many(statement, [tuple(key) for key in keys])


# --- exports ------------------------------------------------------------------


class TablePage(Struct, frozen=True):
    """Some rows of one table, as an export reads them.

    ``columns`` has the names of the columns. Bytes that are valid UTF-8 are
    given as text. With ``position``, a later call continues after this page.
    """

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
    """Read the rows of a user, or of the whole app if ``user`` is None, in
    pages.

    ``position`` is the position of an earlier page, after which the pages
    begin; ``b""`` means from the beginning. A position has the table, the
    values of the scope, and the key of the last row, as MessagePack. Switches
    greenlets. Raises StorageUnavailable.
    """
    first_part, after = _read_position(position)
    for query in _queries(read, tables, app, user):
        _, scope_values = query.scope
        part = [query.table, scope_values]
        if first_part and first_part != part:
            continue  # the pages of this table were read before
        yield from _pages_of(read, query, after)
        # All later queries are read from the beginning.
        first_part = []
        after = ()


def _pages_of(read: ReadWork, query: RowQuery, after: Row) -> Iterator[TablePage]:
    """Read the pages of one query of an export.

    They begin after the row with the key ``after``; ``()`` means at the first
    row.
    """
    _, scope_values = query.scope
    names = tuple(column.strip('"') for column in query.columns)
    for rows, key in pages(read, query, after):
        plain_rows = [tuple(map(_plain, row)) for row in rows]
        end = msgpack.encode((query.table, scope_values, key))
        yield TablePage(query.table, names, plain_rows, end)


def _read_position(position: bytes) -> tuple[list[Any], Row]:
    """Return the table and scope of a position, and the key of the row there.

    Both are empty for ``b""``, which stands for the beginning.
    """
    if not position:
        return [], ()
    *part, key = msgpack.decode(position, type=tuple[str, Row, Row])
    return part, key


def _queries(
    read: ReadWork, tables: Sequence[Table], app: str, user: str | None
) -> Iterator[RowQuery]:
    """Make the queries of an export, table by table.

    It is the export of a user, or of the whole app if ``user`` is None. Tables
    that the export leaves out have no query. A table with many parts, such as
    the message logs of an app, has one query for each part.
    """
    for table in (*read(tables_of_others), *tables):
        if isinstance(table.columns, Reason) or not table.exported:
            continue
        if user is None:
            yield from _queries_of_app(read, table, app)
        else:
            yield from _queries_of_user(read, table, app, user)


def _queries_of_app(read: ReadWork, table: Table, app: str) -> Iterator[RowQuery]:
    """Make the queries for all exported rows of an app in a table."""
    scopes = _scopes
    if table.exported == Table.OF_ACCOUNTS:
        scopes = _accounts
    for scope in scopes(read, table.exported, app):
        yield _export_query(table, scope, of_user=ALL, must_scan=False)


def _queries_of_user(
    read: ReadWork, table: Table, app: str, user: str
) -> Iterator[RowQuery]:
    """Make the queries for the exported rows of a user in a table."""
    of_user = _condition_of_user(table, user)
    if of_user == ALL:
        return
    for scope in _scopes(read, table.exported, app):
        yield _export_query(table, scope, of_user, must_scan=table.scan)


def _export_query(
    table: Table, scope: Clause, of_user: Clause, must_scan: bool
) -> RowQuery:
    """Make the query for the exported rows of a table that meet two
    conditions."""
    assert not isinstance(table.columns, Reason)
    return RowQuery(
        table.name,
        order=_order_within_scope(table),
        columns=table.columns,
        scope=scope,
        of_user=of_user,
        indexed=True,
        scan=must_scan,
    )


def _order_within_scope(table: Table) -> tuple[str, ...]:
    """Return the columns of a table that give the order of the rows of a scope.

    All rows of a scope have the same value in the column for the app or the
    log, so the order does not need that column.
    """
    constant = {OF_APP: "app", OF_LOGS: "log"}.get(str(table.of_app))
    order = tuple(column for column in table.key if column != constant)
    return order or table.key


def _condition_of_user(table: Table, user: str) -> Clause:
    """Return the condition for the rows of a user in a table, and its value.

    Returns :data:`ALL` if a user has no rows in the table. Then the table gives
    a reason, or the user id cannot occur in the table.
    """
    if isinstance(table.of_app, Reason) or isinstance(table.of_user, Reason):
        return ALL
    user_value = form_of(table, user)
    if not user_value:
        return ALL
    return table.of_user, (user_value,)


def _scopes(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Make the conditions for the rows of an app: one for each log.

    A table without logs has a single condition. With one condition for several
    logs, some engines would sort all rows for each page.
    """
    if of_app != OF_LOGS:
        yield of_app, (app,)
        return

    def logs_of_app(sql: PooledStatements) -> list[Row]:
        return sql.query("SELECT number FROM log WHERE app = %s", (app,))

    for (number,) in read(logs_of_app):
        yield "log = %s", (number,)


def _accounts(read: ReadWork, of_app: str, app: str) -> Iterator[Clause]:
    """Make the conditions for the rows of an app, each for some hundred
    accounts.

    With one condition for all accounts, some engines would sort all rows for
    each page. ``of_app`` is :data:`Table.OF_ACCOUNTS`. A range of ids is
    inserted into its query: ``account IN (SELECT id FROM account WHERE app = %s
    AND id > %s AND id <= %s)``.
    """
    previous_id = 0
    ids = RowQuery("account", order=("id",), columns=(), scope=(OF_APP, (app,)))
    for _, (last_id,) in pages(read, ids, most=_PART_ACCOUNTS):
        before_bracket = of_app[:-1]
        condition = f"{before_bracket} AND id > %s AND id <= %s)"
        yield condition, (app, previous_id, last_id)
        previous_id = last_id


def _plain(value: Any) -> Any:
    """Return a value from a driver, with bytes as text if they are UTF-8.

    Drivers do not return the same columns as bytes.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return bytes(value)
    return value


def names_of(app: str, users: Sequence[str], sql: PooledStatements) -> dict[str, str]:
    """Return the names of those users who are accounts of an app and have a
    name.

    Each user maps to the display name, or else to the user name.
    """
    # A user without an account has no id.
    ids = [id for id in map(id_of, users) if id]
    rows = sql.query_in(
        "SELECT id, nickname, name FROM account WHERE app = %s AND id IN {}",
        (app,),
        ids,
    )

    names = {}
    for id, nickname, name in sorted(rows):
        display_name = nickname or name
        if display_name:
            names[str(id)] = text_of(display_name)
    return names
