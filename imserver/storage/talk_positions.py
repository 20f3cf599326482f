"""Where users of the action dialect stand in the log: their clients cannot say it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from imserver.storage.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

Row = tuple[str, str, str, int]
"""(app, user, room, id); room ``""``: all but what was said in rooms."""

ROOMS_PER_USER: Final = 1000
"""Rooms in which a user of an app has a position; beyond it the oldest positions are deleted."""
POSITIONS_PER_APP: Final = 1_000_000
"""Positions of an app that :meth:`TalkPositions.expire` leaves, of either kind."""
_AT_ONCE: Final = 200
"""Rows in one statement."""
_OF_MYSQL: Final = "ON DUPLICATE KEY UPDATE id = GREATEST(id, VALUES(id))"


class TalkPositions:
    """The positions in a store. All methods switch, and raise StorageUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written: set[str] = set()
        """Apps of which this node has stored positions."""

    def get(self, app: str, user: str, rooms: Collection[str] = ()) -> dict[str, int]:
        """Up to which ids a user has everything: under ``""`` but for rooms (0 for one of whom nothing is
        known), and of these rooms, as far as they were ever logged in there."""
        if not self._store.keeps:
            return {"": 0}
        return self._store.read(lambda connection: _get(connection, app, user, list(rooms)))

    def raise_to(self, rows: Sequence[Row]) -> None:
        """Remember where that is more than was known; of no two rows the first three may be the same."""
        self.written.update(row[0] for row in rows)

        def work(connection: Connection) -> None:
            # In one order, so that two nodes never wait for each other.
            talks = sorted((app, user, id) for app, user, room, id in rows if not room)
            rooms = sorted(row for row in rows if row[2])
            _raise(connection, "talk_position", ("app", "member"), talks)
            _raise(connection, "room_position", ("app", "member", "room"), rooms)

        self._store.write(work)

    def begin(self, app: str, user: str, room: str, id: int, most: int = ROOMS_PER_USER) -> None:
        """Store the first position of a user in a room. Beyond ``most`` rooms the oldest are deleted."""
        self.written.add(app)

        def work(connection: Connection) -> None:
            from imserver.storage.log.statements import ask, change

            _raise(connection, "room_position", ("app", "member", "room"), [(app, user, room, id)])
            of_user = "FROM room_position WHERE app = %s AND member = %s"
            beyond = int(ask(connection, f"SELECT COUNT(*) {of_user}", (app, user))[0][0]) - most
            if beyond > 0:
                oldest = f"SELECT room {of_user} AND room <> %s ORDER BY id, room LIMIT %s"
                for (name,) in ask(connection, oldest, (app, user, room, beyond)):
                    change(connection, f"DELETE {of_user} AND room = %s", (app, user, name))

        self._store.write(work)

    def expire(self, app: str, floor: int, most: int = POSITIONS_PER_APP) -> int:
        """Delete positions of an app behind which entries have expired, and the oldest beyond ``most``.

        ``floor``: what has an id up to this one has expired. Returns the number of deleted positions.
        """

        def work(connection: Connection) -> int:
            from imserver.storage.log.statements import ask, change

            deleted = 0
            for table in ("talk_position", "room_position"):
                of_app = f"FROM {table} WHERE app = %s"
                deleted += change(connection, f"DELETE {of_app} AND id < %s", (app, floor))
                beyond = int(ask(connection, f"SELECT COUNT(*) {of_app}", (app,))[0][0]) - most
                if beyond > 0:
                    last = ask(
                        connection, f"SELECT id {of_app} ORDER BY id LIMIT 1 OFFSET %s", (app, beyond - 1)
                    )
                    deleted += change(connection, f"DELETE {of_app} AND id <= %s", (app, last[0][0]))
            return deleted

        return self._store.write(work)

    def forget(self, app: str, user: str) -> None:
        """Know nothing of a user any more: who comes back under that id comes for the first time."""
        if not self._store.keeps:
            return
        from imserver.storage.log.statements import change

        def work(connection: Connection) -> None:
            for table in ("talk_position", "room_position"):
                change(connection, f"DELETE FROM {table} WHERE app = %s AND member = %s", (app, user))

        self._store.write(work)


def _get(connection: Connection, app: str, user: str, rooms: Sequence[str]) -> dict[str, int]:
    from imserver.storage.log.statements import ask, chunks, marks_of, padded, text_of

    talks = ask(connection, "SELECT id FROM talk_position WHERE app = %s AND member = %s", (app, user))
    found = {"": int(talks[0][0]) if talks else 0}
    for some in chunks(rooms):
        some = padded(some)
        statement = "SELECT room, id FROM room_position WHERE app = %s AND member = %s AND room IN "
        rows = ask(connection, statement + marks_of(len(some)), (app, user, *some))
        found |= {text_of(room): int(id) for room, id in rows}
    return found


def _raise(
    connection: Connection, table: str, key: Sequence[str], rows: Sequence[Sequence[str | int]]
) -> None:
    from imserver.storage.log.statements import change, chunks, marks_of

    if connection.dialect.name in ("sqlite", "postgresql"):
        clause = (
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET id = excluded.id WHERE {table}.id < excluded.id"
        )
    else:
        clause = _OF_MYSQL
    for some in chunks(rows, _AT_ONCE):
        values = ", ".join([marks_of(len(key) + 1)] * len(some))
        statement = f"INSERT INTO {table} ({', '.join(key)}, id) VALUES {values} {clause}"
        change(connection, statement, [value for row in some for value in row])
