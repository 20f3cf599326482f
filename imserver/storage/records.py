"""The statements: each function gets a connection in a transaction, and does one thing in it."""

from __future__ import annotations

from time import time
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, Select, insert, select, update

from imserver.storage.contract import AppRow, Changes, KeyRow
from imserver.storage.tables import api_key, app, directory

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def read_id(connection: Connection) -> str:
    """The id of this database."""
    return str(connection.execute(select(directory.c.id)).scalar_one())


def read_changes(connection: Connection, known: int) -> Changes:
    """What is newer than version ``known`` (-1: everything)."""
    version = int(connection.execute(select(directory.c.version)).scalar_one())
    if version == known:
        return Changes(version)
    apps = connection.execute(_newer(select(app), app.c.version, known, version)).mappings()
    keys = connection.execute(_newer(select(api_key), api_key.c.version, known, version)).mappings()
    return Changes(version, tuple(map(_app_row, apps)), tuple(map(_key_row, keys)))


def _newer(statement: Select[Any], column: Any, known: int, version: int) -> Select[Any]:
    # Up to the version that was read, not beyond: what has come since is for the next look.
    return statement.where(column > known, column <= version)


def read_keys(connection: Connection) -> tuple[KeyRow, ...]:
    """All keys, revoked ones too, the oldest first."""
    rows = connection.execute(select(api_key).order_by(api_key.c.created, api_key.c.id)).mappings()
    return tuple(map(_key_row, rows))


def add_app(connection: Connection, row: AppRow) -> bool:
    """Store an app; False if one of this name exists."""
    version = _next_version(connection)
    if connection.execute(select(app.c.name).where(app.c.name == row.name)).first() is not None:
        return False
    values = {"name": row.name, "settings": _text(row.settings), "version": version, "created": _now()}
    connection.execute(insert(app).values(values))
    _raise_to(connection, version)
    return True


def change_app(
    connection: Connection, name: str, fields: dict[str, Any], unset: tuple[str, ...]
) -> AppRow | None:
    """Change settings of a stored app: those given, and without those in ``unset``; None if there is none."""
    version = _next_version(connection)
    found = connection.execute(select(app).where(app.c.name == name)).mappings().first()
    if found is None:
        return None
    before = _app_row(found)
    settings = {key: value for key, value in {**before.settings, **fields}.items() if key not in unset}
    connection.execute(
        update(app).where(app.c.name == name).values(settings=_text(settings), version=version)
    )
    _raise_to(connection, version)
    return AppRow(name, settings, before.created)


def add_key(connection: Connection, row: KeyRow) -> KeyRow:
    """Store a key; the row as it stands there."""
    row = msgspec.structs.replace(row, created=_now())
    version = _next_version(connection)
    connection.execute(
        insert(api_key).values(
            id=row.id,
            digest=row.digest,
            scopes=_text(row.scopes),
            apps=_text(row.apps),
            note=row.note,
            version=version,
            created=row.created,
            revoked=0,
        )
    )
    _raise_to(connection, version)
    return row


def revoke_key(connection: Connection, key: str) -> bool | None:
    """Put a key out of force. False: it was already; None: there is none of this id."""
    version = _next_version(connection)
    revoked = connection.execute(select(api_key.c.revoked).where(api_key.c.id == key)).scalar_one_or_none()
    if revoked is None or revoked:
        return None if revoked is None else False
    connection.execute(update(api_key).where(api_key.c.id == key).values(revoked=_now(), version=version))
    _raise_to(connection, version)
    return True


def _next_version(connection: Connection) -> int:
    """The version of a change that begins; others wait until this transaction has ended."""
    return int(connection.execute(select(directory.c.version).with_for_update()).scalar_one()) + 1


def _raise_to(connection: Connection, version: int) -> None:
    connection.execute(update(directory).values(version=version))


def _text(value: Any) -> str:
    return _encode(value).decode()


def _now() -> int:
    return int(time())


def _app_row(row: RowMapping) -> AppRow:
    return AppRow(row["name"], _decode(row["settings"]), row["created"])


def _key_row(row: RowMapping) -> KeyRow:
    return KeyRow(
        row["id"],
        row["digest"],
        tuple(_decode(row["scopes"])),
        tuple(_decode(row["apps"])),
        row["note"],
        row["created"],
        row["revoked"],
    )
