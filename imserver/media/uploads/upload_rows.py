"""The rows of uploaded files. Each function runs in its caller's
transaction."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from imserver.media.uploads.contract import FILE_BYTES, Upload, Usage
from imserver.plugin.storage import PooledStatements, RowsOf, Store, marks_of

TOTAL: Final = ""
"""Stands for a user: the total of the app."""
_ROWS: Final = RowsOf(Upload, "upload", user='"user"', store_name="place")
_INSERT: Final = f"INSERT INTO upload ({_ROWS.columns}) VALUES {marks_of(len(Upload.__struct_fields__))}"
_USAGE: Final = 'SELECT bytes, files FROM upload_usage WHERE app = %s AND "user" = %s'
_FREE: Final = 'UPDATE upload_usage SET bytes = bytes - %s, files = files - 1 WHERE app = %s AND "user" = %s'
"""Subtracts a file from the usage of a user, or of the app."""
_USAGE_OF_ALL: Final = "SELECT coalesce(sum(bytes), 0), coalesce(sum(files), 0) FROM upload_usage WHERE app = %s"
"""Selects the sums over the users of an app, with which its total begins."""


def add(
    sql: PooledStatements, row: Upload, quota_bytes: int, app_quota_bytes: int = 0
) -> bool:
    """Store the row of a file, and count the file for its owner and for the
    app.

    Returns False, and stores nothing, if the file exceeds the quota of its
    owner or of the app (0: no quota).
    """
    _begin_total(sql, row.app)
    if not _charge(sql, row, TOTAL, app_quota_bytes):
        return False
    if not _charge(sql, row, row.user, quota_bytes):
        # The app was charged above.
        sql.execute(_FREE, (row.stored_bytes, row.app, TOTAL))
        return False
    sql.execute(_INSERT, _ROWS.values(row))
    return True


def _begin_total(sql: PooledStatements, app: str) -> None:
    """Store the usage of an app, unless it is stored already.

    The total of an app is counted from its first new file on.
    """
    if not sql.query(_USAGE, (app, TOTAL)):
        size, files = sql.query(_USAGE_OF_ALL, (app,))[0]
        _begin_usage(sql, app, TOTAL, int(size), int(files))


def _begin_usage(
    sql: PooledStatements, app: str, user: str, size: int, files: int
) -> bool:
    """Create the row with the usage of a user.

    Returns False if another transaction has created it. The caller's
    transaction goes on in both cases.
    """
    from sqlalchemy.exc import IntegrityError

    with suppress(IntegrityError), sql.connection.begin_nested():
        sql.execute(
            'INSERT INTO upload_usage (app, "user", bytes, files) VALUES (%s, %s, %s, %s)',
            (app, user, size, files),
        )
        return True
    return False


def _charge(sql: PooledStatements, row: Upload, user: str, quota_bytes: int) -> bool:
    """Count a file for ``user``, who is its owner or :data:`TOTAL`.

    Returns False, and counts nothing, if the file exceeds the quota (0: no
    quota). One statement checks and counts, so concurrent uploads cannot
    exceed the quota together.
    """
    size = row.stored_bytes
    most_before = quota_bytes - size - FILE_BYTES
    if quota_bytes and most_before < 0:
        return False
    count = (
        "UPDATE upload_usage SET bytes = bytes + %s, files = files + 1 "
        'WHERE app = %s AND "user" = %s'
    )
    values: Sequence[Any] = (size, row.app, user)
    if quota_bytes:
        count = f"{count} AND bytes + files * {FILE_BYTES} <= %s"
        values = (*values, most_before)
    if sql.execute(count, values):
        return True
    # Either the quota is exceeded, or this is the first file of the user.
    if sql.query(_USAGE, (row.app, user)):
        return False
    if _begin_usage(sql, row.app, user, size, files=1):
        return True
    # A concurrent upload has created the row.
    return bool(sql.execute(count, values))


def find(sql: PooledStatements, name: str) -> Upload | None:
    """The file with this id. Returns None if it does not exist."""
    return _ROWS.first(sql.query, "WHERE id = %s", name)


def usage(sql: PooledStatements, app: str, user: str) -> Usage:
    """The number and bytes of a user's files; :data:`TOTAL` as user: of the
    app."""
    rows = sql.query(_USAGE, (app, user))
    if not rows:
        return Usage()
    return Usage(*rows[0])


def page(
    sql: PooledStatements, app: str, user: str, before: tuple[int, str], limit: int
) -> list[Upload]:
    """A page of the files of a user, the newest first.

    ``before``: creation time and id of the last file of the previous page;
    ``(0, "")``: the first page.
    """
    created, name = before
    condition = ""
    values: tuple[int | str, ...] = ()
    if created:
        # Files of one millisecond are in the order of their ids.
        condition = "AND created <= %s AND (created < %s OR id < %s) "
        values = (created, created, name)
    clauses = (
        f'WHERE app = %s AND "user" = %s {condition}'
        "ORDER BY created DESC, id DESC LIMIT %s"
    )
    return _ROWS.find(sql.query, clauses, app, user, *values, limit)


def rows_of(store: Store, app: str = "", user: str = "") -> Iterator[Upload]:
    """Yield the files of a user of an app, in the order of their ids.

    ``app`` is ``""`` for all apps, and ``user`` for all users. The files are
    read page by page, so this may switch greenlets.
    """
    conditions = []
    values = []
    if app:
        conditions.append("app = %s")
        values.append(app)
    if user:
        conditions.append('"user" = %s')
        values.append(user)
    # Without conditions, all files of the server.
    where = " AND ".join(conditions)
    for rows in store.pages("upload", "id", _ROWS.columns, where, tuple(values)):
        yield from map(_ROWS.read, rows)


def some_of_app(app: str, limit: int, sql: PooledStatements) -> list[Upload]:
    """Up to ``limit`` files of an app, in no order."""
    return _ROWS.find(sql.query, "WHERE app = %s LIMIT %s", app, limit)


def move(sql: PooledStatements, row: Upload, store_name: str) -> bool:
    """Note that the bytes of a file are in another store now.

    Returns False if the file was deleted or moved meanwhile. The column
    ``place`` has the name of the store.
    """
    statement = "UPDATE upload SET place = %s WHERE id = %s AND place = %s"
    return bool(sql.execute(statement, (store_name, row.id, row.store_name)))


def remove(sql: PooledStatements, name: str) -> Upload | None:
    """Delete the row of a file, and give its bytes back to the quota.

    Returns the row, or None if it does not exist.
    """
    row = find(sql, name)
    if row is None or not sql.execute("DELETE FROM upload WHERE id = %s", (name,)):
        return None
    for user in (TOTAL, row.user):
        sql.execute(_FREE, (row.stored_bytes, row.app, user))
    sql.execute(
        'DELETE FROM upload_usage WHERE app = %s AND "user" = %s AND files = 0',
        (row.app, row.user),
    )
    return row
