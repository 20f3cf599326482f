"""The statements about uploaded files: each function does one thing in the transaction of its connection."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from imserver.storage.contract import Upload, Usage
from imserver.storage.tables import upload, upload_usage

TOTAL: Final = ""
"""In place of a user: all of the app."""
_COLUMNS: Final = tuple(Upload.__struct_fields__)


def add(connection: Connection, row: Upload, quota_bytes: int, app_quota_bytes: int = 0) -> bool:
    """Store a row; False if its owner would have more than ``quota_bytes`` with it, or all users of the app
    together more than ``app_quota_bytes`` (0: no limit)."""
    _begin_total(connection, row.app)
    if not _charge(connection, row, app_quota_bytes, total=True):
        return False
    if not _charge(connection, row, quota_bytes):
        connection.execute(_freed(row, TOTAL))
        return False
    connection.execute(insert(upload).values(msgspec.structs.asdict(row)))
    return True


def _begin_total(connection: Connection, app: str) -> None:
    """Make the row with what all users of an app have, if there is none."""
    if connection.execute(select(upload_usage.c.bytes).where(_owned_by(app, TOTAL))).first() is not None:
        return
    sums = select(
        func.coalesce(func.sum(upload_usage.c.bytes), 0), func.coalesce(func.sum(upload_usage.c.files), 0)
    )
    size, files = connection.execute(sums.where(upload_usage.c.app == app)).one()
    with suppress(IntegrityError), connection.begin_nested():  # another one may be quicker
        connection.execute(
            insert(upload_usage).values(app=app, user=TOTAL, bytes=int(size), files=int(files))
        )


def _charge(connection: Connection, row: Upload, quota_bytes: int, total: bool = False) -> bool:
    """Count a file to its owner, or to the total of its app. One statement looks and counts, so two at once
    cannot both be the last."""
    size, mine = row.stored_bytes, _owned_by(row.app, TOTAL if total else row.user)
    if quota_bytes and size > quota_bytes:
        return False
    counted = update(upload_usage).where(mine)
    if quota_bytes:
        counted = counted.where(upload_usage.c.bytes <= quota_bytes - size)
    counted = counted.values(bytes=upload_usage.c.bytes + size, files=upload_usage.c.files + 1)
    if connection.execute(counted).rowcount:
        return True
    if connection.execute(select(upload_usage.c.bytes).where(mine)).first() is not None:
        return False
    try:
        with connection.begin_nested():
            first = {"app": row.app, "user": row.user, "bytes": size, "files": 1}
            connection.execute(insert(upload_usage).values(first))
    except IntegrityError:  # two at once were the user's first, and the other was quicker
        return bool(connection.execute(counted).rowcount)
    return True


def find(connection: Connection, name: str) -> Upload | None:
    """The file of this id."""
    row = connection.execute(select(upload).where(upload.c.id == name)).mappings().first()
    return None if row is None else _upload(row)


def usage(connection: Connection, app: str, user: str) -> Usage:
    """What a user has stored; :data:`TOTAL`: all users of the app together."""
    found = select(upload_usage.c.bytes, upload_usage.c.files).where(_owned_by(app, user))
    row = connection.execute(found).first()
    return Usage() if row is None else Usage(row[0], row[1])


def page(connection: Connection, app: str, user: str, before: tuple[int, str], limit: int) -> list[Upload]:
    """A user's files, the newest first: those that stand behind ``before``, a file's time and id."""
    created, name = before
    wanted = select(upload).where(upload.c.app == app, upload.c.user == user)
    if created:
        older = or_(upload.c.created < created, and_(upload.c.created == created, upload.c.id < name))
        wanted = wanted.where(upload.c.created <= created, older)
    wanted = wanted.order_by(upload.c.created.desc(), upload.c.id.desc()).limit(limit)
    return [_upload(row) for row in connection.execute(wanted).mappings()]


def remove(connection: Connection, name: str) -> Upload | None:
    """Forget a file and give its bytes back to its owner's quota; what it was, None if there is none."""
    row = find(connection, name)
    if row is None or not connection.execute(delete(upload).where(upload.c.id == name)).rowcount:
        return None
    for user in (TOTAL, row.user):
        connection.execute(_freed(row, user))
    connection.execute(delete(upload_usage).where(_owned_by(row.app, row.user), upload_usage.c.files == 0))
    return row


def _freed(row: Upload, user: str) -> Any:
    """The statement that takes a file off what a user, or :data:`TOTAL`, has."""
    return (
        update(upload_usage)
        .where(_owned_by(row.app, user))
        .values(bytes=upload_usage.c.bytes - row.stored_bytes, files=upload_usage.c.files - 1)
    )


def _owned_by(app: str, user: str) -> Any:
    return and_(upload_usage.c.app == app, upload_usage.c.user == user)


def _upload(row: RowMapping) -> Upload:
    return Upload(**{name: row[name] for name in _COLUMNS})
