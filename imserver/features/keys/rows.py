"""What keys did, in the database. Each function is one transaction, may switch, and raises
StorageUnavailable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.storage import Row, Statements, Store, text_of

_AT_ONCE: Final = 1000
"""Rows that one transaction deletes."""
_COLUMNS: Final = "minute, node, number, key_id, route, app, address, answered, refused"


class UseRow(Struct, frozen=True):
    """What a key did in a minute, on all nodes. ``time``: when the minute began, in Unix seconds. ``route``:
    method and pattern of the path. ``app``: ``""`` if no request named one that exists."""

    time: int
    route: str
    app: str
    address: str
    answered: int
    refused: int


def add_uses(store: Store, rows: Sequence[Row]) -> None:
    """Store rows of one node. They may be stored already."""
    store.write_or(None, lambda sql: sql.insert_new("key_use", _COLUMNS, rows))


def uses_of(store: Store, key: str, since: int, until: int, skip: int, limit: int) -> Sequence[UseRow]:
    """What a key did from the minute ``since`` to ``until`` (Unix minutes), the newest first, without the
    first ``skip`` rows."""
    statement = (
        "SELECT minute, route, app, address, sum(answered), sum(refused) FROM key_use "
        "WHERE key_id = %s AND minute >= %s AND minute <= %s GROUP BY minute, route, app, address "
        "ORDER BY minute DESC, route, app, address LIMIT %s"
    )
    rows = store.rows(statement, (key, since, until, skip + limit))
    return [
        UseRow(minute * 60, text_of(route), text_of(app), text_of(address), int(answered), int(refused))
        for minute, route, app, address, answered, refused in rows[skip:]
    ]


def delete_before(store: Store, minute: int) -> None:
    """Delete what is older than this minute."""

    def work(sql: Statements) -> int:
        rows = sql.query(
            f"SELECT minute, node, number FROM key_use WHERE minute < %s LIMIT {_AT_ONCE}", (minute,)
        )
        if rows:
            keys = [tuple(row) for row in rows]
            sql.execute_many("DELETE FROM key_use WHERE minute = %s AND node = %s AND number = %s", keys)
        return len(rows)

    while store.write_or(0, work) == _AT_ONCE:
        pass
