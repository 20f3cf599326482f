"""Rows that the log reads and the house of people writes."""

from itertools import count

from imserver.gateway.storage.store import Store

_phones = count()


def insert(store: Store, table: str, **columns: object) -> int:
    """Store a row; returns its id."""
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
    return store.write(lambda sql: sql.insert(statement, tuple(columns.values())))


def add_account(store: Store, app: str, **columns: object) -> str:
    """Store an account with these columns; returns its user id."""
    texts = dict.fromkeys(("nickname", "avatar", "password"), "")
    row = {
        "app": app,
        "phone": f"{next(_phones)}",
        **texts,
        "version": 0,
        "created": 0,
        **columns,
    }
    return f"{insert(store, 'account', **row)}"


def block(store: Store, by: str, other: str) -> None:
    """Have one account block another."""
    statement = "INSERT INTO relation (account, other, state, since) VALUES (%s, %s, 'blocked', 0)"
    store.execute(statement, (int(by), int(other)))
