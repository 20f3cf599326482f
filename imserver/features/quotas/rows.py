"""What apps have used, in the database. Each method is one transaction, may switch, and raises
StorageUnavailable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from imserver.plugin.storage import PooledStatements, Row, Store, text_of

STORED_DAYS: Final = 35


class Used(Struct, frozen=True):
    """Pushes and stored messages of a day. ``day``: days since 1970 in UTC."""

    day: int
    pushes: int = 0
    messages: int = 0


class UsageRows:
    """The rows in a store: one for each app and day."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @Store.writing
    def add(self, sql: PooledStatements, day: int, more: Mapping[str, Used]) -> None:
        """Add what this node has counted on a day (app → what)."""
        for app, used in sorted(more.items()):
            sql.insert_new("app_usage", "app, day, pushes, messages", [(app, day, 0, 0)])
            sql.execute(
                "UPDATE app_usage SET pushes = pushes + %s, messages = messages + %s "
                "WHERE app = %s AND day = %s",
                (used.pushes, used.messages, app, day),
            )
            sql.execute("DELETE FROM app_usage WHERE app = %s AND day < %s", (app, day - STORED_DAYS))

    def read(self, day: int, apps: Sequence[str]) -> dict[str, Used]:
        """What all nodes have counted on a day (app → what)."""
        statement = "SELECT app, day, pushes, messages FROM app_usage WHERE day = %s AND app IN {}"
        rows = self._store.read_or(list[Row](), lambda sql: sql.query_in(statement, (day,), apps))
        return {text_of(row[0]): Used(*row[1:]) for row in rows}

    def days(self, app: str, since: int) -> list[Used]:
        """What an app has used since a day, the last day first."""
        rows = self._store.rows(
            "SELECT day, pushes, messages FROM app_usage WHERE app = %s AND day >= %s ORDER BY day DESC",
            (app, since),
        )
        return [Used(*row) for row in rows]
