"""Takes an erased user out of the events that back ends have not received yet, or may receive again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import msgspec

from imserver.plugin.settings import Config
from imserver.plugin.storage import Erasure, Statements, Store, text_of

_AT_ONCE: Final = 500
_ORDER: Final = (("event", "id"), ("event_retry", "number"))
"""The tables, and what their rows are numbered by."""
_encode: Final = msgspec.json.Encoder().encode


def erase_user(store: Store, app: str, user: str, name: str) -> None:
    """Delete the events of a user, and those that name them, but the one that their account was removed.

    Without a ``name`` in their place what they wrote stays, and so do its events. Switches. Raises
    StorageUnavailable.
    """
    if not name:
        return
    names = {_encode(user), json.dumps(user).encode()}
    for table, number in _ORDER:
        after = 0
        while (
            last := store.write_or(0, partial(_erase_some, app, user, names, table, number, after))
        ) > after:
            after = last


@contextmanager
def erasing(_config: Config, store: Store) -> Iterator[Erasure]:
    """The same in a command."""
    yield Erasure(frozenset(), partial(erase_user, store), lambda _: None)


def _erase_some(
    app: str, user: str, names: set[bytes], table: str, number: str, after: int, sql: Statements
) -> int:
    """Look through some events. Returns the number of the last one; 0: there is none."""
    order = f"AND {number} > %s ORDER BY {number} LIMIT %s"
    statement = f"SELECT {number}, member, body FROM {table} WHERE app = %s {order}"
    rows = sql.query(statement, (app, after, _AT_ONCE))
    gone = [
        (app, each)
        for each, member, body in rows
        if (text_of(member) == user or any(name in bytes(body) for name in names))
        and b'"change":"removed"' not in bytes(body)
    ]
    sql.execute_many(f"DELETE FROM {table} WHERE app = %s AND {number} = %s", gone)
    return int(rows[-1][0]) if rows else 0
