"""The statements about accounts: each function gets a connection in a transaction, and does one thing."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, RowMapping, Select, delete, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from imserver.storage.account_contract import Account, Device, Imported, Taken
from imserver.storage.account_tables import account, account_device, relation

_SHOWN: Final = (
    account.c.id,
    account.c.app,
    account.c.phone,
    account.c.nickname,
    account.c.avatar,
    account.c.version,
    account.c.created,
)


def add(connection: Connection, new: Account, password: str) -> Account:
    """Store an account; its id is a new one. Raises Taken."""
    made = replace(new, created=int(time()))
    values = {
        "app": made.app,
        "phone": made.phone,
        "nickname": made.nickname,
        "avatar": made.avatar,
        "password": password,
        "version": made.version,
        "created": made.created,
    }
    try:
        key = connection.execute(insert(account).values(values)).inserted_primary_key
    except IntegrityError:
        raise Taken(new.phone) from None
    assert key is not None
    return replace(made, id=key[0])


def by_phone(connection: Connection, app: str, phone: str) -> tuple[Account, str] | None:
    """The account with this phone number, and the hash of its password."""
    statement = select(*_SHOWN, account.c.password).where(account.c.app == app, account.c.phone == phone)
    row = connection.execute(statement).mappings().first()
    return None if row is None else (_account(row), row["password"])


def by_id(connection: Connection, app: str | None, id: int) -> tuple[Account, str] | None:
    """The account with this id, and the hash of its password. ``app`` None: of any app."""
    statement = select(*_SHOWN, account.c.password).where(account.c.id == id)
    if app is not None:
        statement = statement.where(account.c.app == app)
    row = connection.execute(statement).mappings().first()
    return None if row is None else (_account(row), row["password"])


def by_ids(connection: Connection, app: str, ids: Sequence[int]) -> list[Account]:
    """Those of these accounts that exist, by their ids."""
    statement = _of_app(app).where(account.c.id.in_(ids)).order_by(account.c.id)
    return [_account(row) for row in connection.execute(statement).mappings()]


def page(connection: Connection, app: str, after: int, limit: int) -> list[Account]:
    """Accounts of an app in the order of their ids, behind one."""
    statement = _of_app(app).where(account.c.id > after).order_by(account.c.id).limit(limit)
    return [_account(row) for row in connection.execute(statement).mappings()]


def change(connection: Connection, app: str, id: int, fields: dict[str, Any]) -> Account | None:
    """Change what an account shows of itself; None if there is none."""
    if fields:
        connection.execute(update(account).where(account.c.id == id, account.c.app == app).values(fields))
    row = connection.execute(_of_app(app).where(account.c.id == id)).mappings().first()
    return None if row is None else _account(row)


def set_password(connection: Connection, id: int, before: str, password: str, ends_sessions: bool) -> bool:
    """Put another hash in the place of ``before``; False if that is not there any more."""
    version = account.c.version + 1 if ends_sessions else account.c.version
    changed = connection.execute(
        update(account)
        .where(account.c.id == id, account.c.password == before)
        .values(password=password, version=version)
    )
    if changed.rowcount == 1 and ends_sessions:
        _forget_devices(connection, id)
    return changed.rowcount == 1


def end_sessions(connection: Connection, app: str, id: int) -> bool:
    """Make all tokens of an account void; False if there is no such account."""
    where = (account.c.id == id, account.c.app == app)
    ended = connection.execute(update(account).where(*where).values(version=account.c.version + 1))
    if ended.rowcount == 1:
        _forget_devices(connection, id)
    return ended.rowcount == 1


def remove(connection: Connection, app: str, id: int) -> bool:
    """Delete an account, and whom it knows; False if there is none."""
    if connection.execute(delete(account).where(account.c.id == id, account.c.app == app)).rowcount != 1:
        return False
    connection.execute(delete(relation).where(or_(relation.c.account == id, relation.c.other == id)))
    _forget_devices(connection, id)
    return True


# --- devices ------------------------------------------------------------------------------------------------


def add_device(connection: Connection, account_id: int, version: int, new: Device, most: int) -> bool:
    """Remember a login of a version of an account, and forget those that have ended, and the oldest of more
    than ``most``; False if the account has another version by now, or is gone."""
    own = select(account.c.version).where(account.c.id == account_id).with_for_update()
    if connection.execute(own).scalar() != version:
        return False
    of = account_device.c.account == account_id
    connection.execute(delete(account_device).where(of, account_device.c.expires_at <= new.since))
    kept = [row[0] for row in connection.execute(_newest(account_id).offset(max(most - 1, 0)))]
    if kept:
        connection.execute(delete(account_device).where(of, account_device.c.id.in_(kept)))
    values = {
        "account": account_id,
        "id": new.id,
        "name": new.name,
        "since": new.since,
        "expires_at": new.expires_at,
    }
    connection.execute(insert(account_device).values(values))
    return True


def devices(connection: Connection, account_id: int, now: int) -> list[Device]:
    """The logins of an account that have not ended, the newest first."""
    statement = (
        select(account_device)
        .where(account_device.c.account == account_id, account_device.c.expires_at > now)
        .order_by(account_device.c.since.desc(), account_device.c.id)
    )
    return [_device(row) for row in connection.execute(statement).mappings()]


def device(connection: Connection, account_id: int, id: int) -> Device | None:
    """One login."""
    statement = select(account_device).where(
        account_device.c.account == account_id, account_device.c.id == id
    )
    row = connection.execute(statement).mappings().first()
    return None if row is None else _device(row)


def remove_device(connection: Connection, account_id: int, id: int) -> Device | None:
    """End a login; which it was, None if there is none."""
    found = device(connection, account_id, id)
    connection.execute(
        delete(account_device).where(account_device.c.account == account_id, account_device.c.id == id)
    )
    return found


def _newest(account_id: int) -> Select[Any]:
    return (
        select(account_device.c.id)
        .where(account_device.c.account == account_id)
        .order_by(account_device.c.since.desc(), account_device.c.id)
    )


def _forget_devices(connection: Connection, account_id: int) -> None:
    connection.execute(delete(account_device).where(account_device.c.account == account_id))


def _device(row: RowMapping) -> Device:
    return Device(row["id"], row["name"], row["since"], row["expires_at"])


# --- accounts from elsewhere --------------------------------------------------------------------------------


def there(connection: Connection, app: str, rows: Sequence[Imported]) -> list[Account]:
    """The accounts that have the id, or in the app the phone number, of one of these."""
    ids = [row.account.id for row in rows]
    phones = [row.account.phone for row in rows]
    same = or_(account.c.id.in_(ids), (account.c.app == app) & account.c.phone.in_(phones))
    return [_account(row) for row in connection.execute(select(*_SHOWN).where(same)).mappings()]


def put(connection: Connection, rows: Sequence[Imported]) -> None:
    """Store accounts under the ids that they have; numbers that are given later are above those.

    Raises Taken if one has an id or a phone number that is there.
    """
    values = [
        {
            "id": row.account.id,
            "app": row.account.app,
            "phone": row.account.phone,
            "nickname": row.account.nickname,
            "avatar": row.account.avatar,
            "password": row.password,
            "version": row.account.version,
            "created": row.account.created,
        }
        for row in rows
    ]
    try:
        connection.execute(insert(account), values)
    except IntegrityError:
        raise Taken(rows[0].account.phone) from None
    if connection.dialect.name == "postgresql":
        # The other engines count on from the greatest id by themselves.
        connection.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('account', 'id'), "
                "GREATEST((SELECT max(id) FROM account), nextval(pg_get_serial_sequence('account', 'id'))))"
            )
        )


def _of_app(app: str) -> Select[Any]:
    return select(*_SHOWN).where(account.c.app == app)


def _account(row: RowMapping) -> Account:
    return Account(
        row["id"],
        row["app"],
        row["phone"],
        row["nickname"],
        row["avatar"],
        row["version"],
        row["created"],
    )
