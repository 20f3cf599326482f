"""The statements about who knows whom: each function gets a connection in a transaction of its own.

Whoever changes what two accounts are to each other locks both first, in the order of their ids, so that two
who ask each other at the same moment do it one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, delete, exists, func, insert, or_, select, update

from imserver.storage.account_contract import Contact, ListName
from imserver.storage.account_tables import account, relation

ASKED: Final = "asked"
FRIEND: Final = "friend"
BLOCKED: Final = "blocked"


def lock(connection: Connection, app: str, one: int, two: int) -> bool:
    """Lock two accounts of an app to the end of the transaction; False if they are not both there."""
    statement = (
        select(account.c.id)
        .where(account.c.id.in_((one, two)), account.c.app == app)
        .order_by(account.c.id)
        .with_for_update()
    )
    return len(connection.execute(statement).all()) == 2


def states(connection: Connection, one: int, two: int) -> tuple[str, str]:
    """What the first is to the second, and the second to the first; ``""``: nothing."""
    rows = connection.execute(select(relation.c.account, relation.c.state).where(_between(one, two)))
    found = {row.account: row.state for row in rows}
    return found.get(one, ""), found.get(two, "")


def put(connection: Connection, one: int, two: int, state: str) -> None:
    """From now on the first is this to the second; ``""``: nothing."""
    where = (relation.c.account == one, relation.c.other == two)
    now = int(time())
    if not state:
        connection.execute(delete(relation).where(*where))
    elif connection.execute(select(relation.c.state).where(*where)).first() is None:
        connection.execute(insert(relation).values(account=one, other=two, state=state, since=now))
    else:
        connection.execute(update(relation).where(*where).values(state=state, since=now))


def count(connection: Connection, one: int) -> int:
    """How many others an account is something to: its friends, those it asked, those it keeps away."""
    statement = select(func.count()).select_from(relation).where(relation.c.account == one)
    return int(connection.execute(statement).scalar_one())


def page(connection: Connection, name: ListName, one: int, after: int, limit: int) -> list[Contact]:
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


def total(connection: Connection, name: ListName, one: int) -> int:
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
