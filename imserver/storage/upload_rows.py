"""The statements about uploaded files: each function does one thing in the transaction of its connection."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from imserver.storage.upload_contract import Upload, Usage
from imserver.storage.upload_tables import upload, upload_usage

_COLUMNS: Final = tuple(Upload.__struct_fields__)


def add(connection: Connection, row: Upload, quota_bytes: int) -> bool:
    """Keep a row; False if its owner would keep more than ``quota_bytes`` (0: no limit) with it."""
    if not _charge(connection, row, quota_bytes):
        return False
    connection.execute(insert(upload).values(msgspec.structs.asdict(row)))
    return True


def _charge(connection: Connection, row: Upload, quota_bytes: int) -> bool:
    """Count a file to its owner. One statement looks and counts, so two at once cannot both be the last."""
    size, mine = row.stored_bytes, _owned_by(row.app, row.user)
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
    """What a user keeps."""
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
    freed = update(upload_usage).where(_owned_by(row.app, row.user))
    connection.execute(
        freed.values(bytes=upload_usage.c.bytes - row.stored_bytes, files=upload_usage.c.files - 1)
    )
    connection.execute(delete(upload_usage).where(_owned_by(row.app, row.user), upload_usage.c.files == 0))
    return row


def _owned_by(app: str, user: str) -> Any:
    return and_(upload_usage.c.app == app, upload_usage.c.user == user)


def _upload(row: RowMapping) -> Upload:
    return Upload(**{name: row[name] for name in _COLUMNS})
