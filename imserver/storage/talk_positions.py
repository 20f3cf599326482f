"""Where users of the action dialect stand in the log: their clients cannot say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from imserver.storage.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

_RAISE: Final = "INSERT INTO talk_position (app, member, id) VALUES (%s, %s, %s) "
_USUAL: Final = (
    "ON CONFLICT (app, member) DO UPDATE SET id = excluded.id WHERE talk_position.id < excluded.id"
)
_OF_MYSQL: Final = "ON DUPLICATE KEY UPDATE id = GREATEST(id, VALUES(id))"


class TalkPositions:
    """The positions in a store. Both methods switch, and raise StorageUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, app: str, user: str) -> int:
        """Up to which id a user has everything; 0 for one of whom nothing is known."""
        if not self._store.keeps:
            return 0
        from imserver.storage.log_read import ask

        statement = "SELECT id FROM talk_position WHERE app = %s AND member = %s"
        rows = self._store.read(lambda connection: ask(connection, statement, (app, user)))
        return int(rows[0][0]) if rows else 0

    def raise_to(self, rows: Sequence[tuple[str, str, int]]) -> None:
        """Remember (app, user, id) where that is more than was known."""
        from imserver.storage.log_read import change_many

        def work(connection: Connection) -> None:
            clause = _USUAL if connection.dialect.name in ("sqlite", "postgresql") else _OF_MYSQL
            change_many(connection, _RAISE + clause, sorted(rows))

        self._store.write(work)
