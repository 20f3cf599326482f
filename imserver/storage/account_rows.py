"""SQL statements for accounts, devices and relations. Each function runs in its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from imserver.storage.contract import Account, Contact, Device, Imported, ListName, Taken
from imserver.storage.tables import account, account_device, relation

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


# --- who knows whom -----------------------------------------------------------------------------------------
#
# A change of what two accounts are to each other locks both first, ordered by id, so that two simultaneous
# requests run one after the other.

ASKED: Final = "asked"
FRIEND: Final = "friend"
BLOCKED: Final = "blocked"


def lock_both(connection: Connection, app: str, one: int, two: int) -> bool:
    """Lock two accounts of an app to the end of the transaction; False if they are not both there."""
    statement = (
        select(account.c.id)
        .where(account.c.id.in_((one, two)), account.c.app == app)
        .order_by(account.c.id)
        .with_for_update()
    )
    return len(connection.execute(statement).all()) == 2


def relations(connection: Connection, one: int, two: int) -> tuple[str, str]:
    """What the first is to the second, and the second to the first; ``""``: nothing."""
    rows = connection.execute(select(relation.c.account, relation.c.state).where(_between(one, two)))
    found = {row.account: row.state for row in rows}
    return found.get(one, ""), found.get(two, "")


def set_relation(connection: Connection, one: int, two: int, state: str) -> None:
    """From now on the first is this to the second; ``""``: nothing."""
    where = (relation.c.account == one, relation.c.other == two)
    now = int(time())
    if not state:
        connection.execute(delete(relation).where(*where))
    elif connection.execute(select(relation.c.state).where(*where)).first() is None:
        connection.execute(insert(relation).values(account=one, other=two, state=state, since=now))
    else:
        connection.execute(update(relation).where(*where).values(state=state, since=now))


def count_relations(connection: Connection, one: int) -> int:
    """How many others an account is something to: its friends, those it asked, those it keeps away."""
    statement = select(func.count()).select_from(relation).where(relation.c.account == one)
    return int(connection.execute(statement).scalar_one())


def contacts(connection: Connection, name: ListName, one: int, after: int, limit: int) -> list[Contact]:
    """A list of an account, in the order of the ids, behind one."""
    whose = relation.c.account if name == "incoming" else relation.c.other
    statement = (
        select(account.c.id, account.c.nickname, account.c.avatar, relation.c.since)
        .join(account, account.c.id == whose)
        .where(_listed(name, one), whose > after)
        .order_by(whose)
        .limit(limit)
    )
    return [Contact(*row) for row in connection.execute(statement)]


def count_contacts(connection: Connection, name: ListName, one: int) -> int:
    """How many there are on a list of an account."""
    statement: Select[Any] = select(func.count()).select_from(relation).where(_listed(name, one))
    return int(connection.execute(statement).scalar_one())


def blocked_by(connection: Connection, app: str, one: int, others: Sequence[int]) -> list[int]:
    """Those of ``others`` who have blocked an account."""
    statement = (
        select(relation.c.account)
        .join(account, account.c.id == relation.c.account)
        .where(account.c.app == app, relation.c.other == one, relation.c.state == BLOCKED)
        .where(relation.c.account.in_(others))
    )
    return list(connection.execute(statement).scalars())


def _listed(name: ListName, one: int) -> Any:
    if name != "incoming":
        state = {"friends": FRIEND, "outgoing": ASKED, "blocked": BLOCKED}[name]
        return and_(relation.c.account == one, relation.c.state == state)
    own = relation.alias()
    kept_away = exists().where(
        own.c.account == one, own.c.other == relation.c.account, own.c.state == BLOCKED
    )
    return and_(relation.c.other == one, relation.c.state == ASKED, ~kept_away)


def _between(one: int, two: int) -> Any:
    return or_(
        and_(relation.c.account == one, relation.c.other == two),
        and_(relation.c.account == two, relation.c.other == one),
    )
