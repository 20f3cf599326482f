"""The statements about accounts: each function gets a connection in a transaction, and does one thing."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, RowMapping, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from imserver.storage.account_contract import Account, Taken
from imserver.storage.account_tables import account, relation

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


def by_id(connection: Connection, app: str, id: int) -> tuple[Account, str] | None:
    """The account with this id, and the hash of its password."""
    statement = select(*_SHOWN, account.c.password).where(account.c.id == id, account.c.app == app)
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
    return changed.rowcount == 1


def end_sessions(connection: Connection, app: str, id: int) -> bool:
    """Make all tokens of an account void; False if there is no such account."""
    where = (account.c.id == id, account.c.app == app)
    return (
        connection.execute(update(account).where(*where).values(version=account.c.version + 1)).rowcount == 1
    )


def remove(connection: Connection, app: str, id: int) -> bool:
    """Delete an account, and whom it knows; False if there is none."""
    if connection.execute(delete(account).where(account.c.id == id, account.c.app == app)).rowcount != 1:
        return False
    connection.execute(delete(relation).where(or_(relation.c.account == id, relation.c.other == id)))
    return True


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
