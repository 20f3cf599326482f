"""Log positions of users of the action dialect, whose clients have no cursor.

A position is an id of the log. It is proved when the client has acknowledged
everything up to this id. Once a second, the node stores all new proved
positions together. Until then, logins on this node use the positions that are
not stored yet.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Final

import gevent
from gevent.event import Event as Flag

from imserver.gateway.clock import until_beat
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.statements import Statements, chunks, marks_of, text_of
from imserver.gateway.storage.store import Store

log = logging.getLogger(__name__)

Positions = dict[str, int]
"""Room → the position up to which a user has everything in it; the room ``""``
stands for everything outside rooms."""
_ROWS_PER_STATEMENT: Final = 200
_USER_KEY: Final = ("app", "member")
_ROOM_KEY: Final = ("app", "member", "room")
Row = tuple[str, str, str, int]
"""A position: (app, user, room, id); the room ``""`` stands for everything
outside rooms."""

ROOMS_PER_USER: Final = 1000
"""The most rooms in which a user of an app has a position. Beyond this the
oldest positions are deleted."""
POSITIONS_PER_APP: Final = 1_000_000
"""The most positions of an app that :meth:`ActionPositions.expire` keeps in
each of the two tables."""


class ActionPositions(Store.Rows):
    """The positions of users of the action dialect, up to which they have all
    messages.

    Clients of this dialect have no cursor, so the server stores their
    positions: one outside rooms, and one for each room. A position is *proved*
    when the client has answered a ping. Proved positions wait here for at most
    about a second until they are stored.

    Methods switch greenlets and may raise StorageUnavailable, unless their
    docstrings say otherwise.
    """

    def __init__(self, store: Store) -> None:
        """Begin without proved positions. Nothing is read."""
        super().__init__(store)
        self.written: set[str] = set()
        """Apps for which this node has stored positions."""
        self._proved: dict[tuple[str, str, str], int] = {}
        """(app, user, room) → a proved position that is not stored yet."""
        self._filled = Flag()
        """Set while there are positions that are not stored."""

    def get(self, app: str, user: str, rooms: Collection[str] = ()) -> Positions:
        """Return room → the id up to which a user has everything in it.

        The position may be stored, or only proved. The key ``""`` stands for
        everything outside rooms; its value is 0 for an unknown user. Rooms are
        missing if the user was never there.
        """
        # The proved positions are looked up before the query. Otherwise the
        # method would miss a position that is stored meanwhile.
        proved: Positions = {}
        for room in ("", *rooms):
            if (app, user, room) in self._proved:
                proved[room] = self._proved[app, user, room]
        positions = self.stored(app, user, rooms)
        for room, id in proved.items():
            positions[room] = max(id, positions.get(room, 0))
        return positions

    def stored(self, app: str, user: str, rooms: Collection[str]) -> Positions:
        """Return the stored positions of a user, outside rooms and in these
        rooms."""

        def read(sql: Statements) -> Positions:
            return _read_positions(sql, app, user, list(rooms))

        return self._store.read_or({"": 0}, read)

    def prove(self, app: str, user: str, rooms: Iterable[str], id: int) -> None:
        """Note that a user has everything up to an id in these rooms.

        The positions are stored within about a second. Never switches
        greenlets.
        """
        for room in rooms:
            key = app, user, room
            self._proved[key] = max(id, self._proved.get(key, 0))
        self._filled.set()

    def run(self) -> None:
        """Store the proved positions once a second, while there are any.

        Runs in a greenlet of its own, forever.
        """
        while True:
            self._filled.wait()
            gevent.sleep(until_beat())
            try:
                self.store_proved()
            except Exception:
                log.exception("positions of the action dialect could not be stored")

    def store_proved(self) -> None:
        """Store the proved positions.

        If the database does not answer, the positions stay, and are stored a
        second later. Never raises StorageUnavailable.
        """
        rows = [(*key, id) for key, id in self._proved.items()]
        try:
            if rows:
                self.raise_to(rows)
        except StorageUnavailable as error:
            log.debug("positions of the action dialect could not be stored: %s", error)
            return
        # The positions are deleted only now, so that logins during the write
        # see them. Positions that were raised meanwhile stay.
        for app, user, room, id in rows:
            if self._proved.get((app, user, room)) == id:
                del self._proved[app, user, room]
        if not self._proved:
            self._filled.clear()

    def raise_to(self, rows: Sequence[Row]) -> None:
        """Raise stored positions to these ids. A stored position never gets
        smaller.

        Each (app, user, room) must occur only once.
        """
        self.written.update(app for app, _, _, _ in rows)

        def raise_all(sql: Statements) -> None:
            """Raise the positions in the two tables: outside rooms, and in
            rooms."""
            # The rows are sorted, so that the transactions of two nodes never
            # deadlock.
            outside_rooms = sorted(
                (app, user, id) for app, user, room, id in rows if not room
            )
            in_rooms = sorted(
                (app, user, room, id) for app, user, room, id in rows if room
            )
            _raise_positions(sql, "talk_position", _USER_KEY, outside_rooms)
            _raise_positions(sql, "room_position", _ROOM_KEY, in_rooms)

        self._store.write(raise_all)

    def begin(
        self, app: str, user: str, room: str, id: int, most: int = ROOMS_PER_USER
    ) -> None:
        """Store the first position of a user in a room.

        If the user then has positions in more than ``most`` rooms, the oldest
        positions in other rooms are deleted.
        """
        self.written.add(app)

        def store_first(sql: Statements) -> None:
            """Store the position, and delete others if there are too many."""
            _raise_positions(sql, "room_position", _ROOM_KEY, [(app, user, room, id)])
            _delete_oldest(sql, app, user, room, most)

        self._store.write(store_first)

    @Store.writing
    def expire(
        self, sql: Statements, app: str, floor: int, most: int = POSITIONS_PER_APP
    ) -> int:
        """Delete old positions of an app, and return their number.

        Entries up to the id ``floor`` have expired. All positions below
        ``floor`` are deleted. In each table, at most ``most`` positions of the
        app stay, and the oldest are deleted.
        """
        deleted = 0
        for table in ("talk_position", "room_position"):
            of_app = f"FROM {table} WHERE app = %s"
            deleted += sql.execute(f"DELETE {of_app} AND id < %s", (app, floor))
            deleted += _delete_beyond(sql, of_app, app, most)
        return deleted

    def forget(self, app: str, user: str) -> None:
        """Delete all positions of a user.

        A later user with the same id starts without positions.
        """
        # Positions that are not stored yet must not be stored later.
        for key in [key for key in self._proved if key[:2] == (app, user)]:
            del self._proved[key]

        def delete(sql: Statements) -> None:
            for table in ("talk_position", "room_position"):
                sql.execute(
                    f"DELETE FROM {table} WHERE app = %s AND member = %s", (app, user)
                )

        self._store.write_or(None, delete)


def _read_positions(
    sql: Statements, app: str, user: str, rooms: Sequence[str]
) -> Positions:
    """Read the positions of a user outside rooms, and in these rooms."""
    # An unknown user has received nothing.
    positions = {"": 0}
    outside_rooms = sql.query(
        "SELECT id FROM talk_position WHERE app = %s AND member = %s", (app, user)
    )
    if outside_rooms:
        positions[""] = int(outside_rooms[0][0])
    statement = (
        "SELECT room, id FROM room_position WHERE app = %s AND member = %s "
        "AND room IN {}"
    )
    for room, id in sql.query_in(statement, (app, user), rooms):
        positions[text_of(room)] = int(id)
    return positions


def _delete_beyond(sql: Statements, of_app: str, app: str, most: int) -> int:
    """Delete the oldest positions of an app in a table beyond ``most``.

    ``of_app`` is the part of a statement that names the table and the app.
    Returns the number of deleted positions.
    """
    ((count,),) = sql.query(f"SELECT COUNT(*) {of_app}", (app,))
    beyond = int(count) - most
    if beyond <= 0:
        return 0
    # Find the last position to delete, so that one statement deletes all
    # positions up to it.
    nth_oldest = f"SELECT id {of_app} ORDER BY id LIMIT 1 OFFSET %s"
    ((last,),) = sql.query(nth_oldest, (app, beyond - 1))
    return sql.execute(f"DELETE {of_app} AND id <= %s", (app, last))


def _delete_oldest(sql: Statements, app: str, user: str, room: str, most: int) -> None:
    """Delete the oldest positions of a user beyond ``most`` rooms.

    The position in ``room`` stays, because it is new.
    """
    of_user = "FROM room_position WHERE app = %s AND member = %s"
    ((count,),) = sql.query(f"SELECT COUNT(*) {of_user}", (app, user))
    beyond = int(count) - most
    if beyond <= 0:
        return
    oldest = f"SELECT room {of_user} AND room <> %s ORDER BY id, room LIMIT %s"
    for (name,) in sql.query(oldest, (app, user, room, beyond)):
        sql.execute(f"DELETE {of_user} AND room = %s", (app, user, name))


def _raise_positions(
    sql: Statements, table: str, key: Sequence[str], rows: Sequence[Sequence[str | int]]
) -> None:
    """Insert positions into a table, or raise stored positions.

    Stored positions are never lowered. ``key`` names the columns of the primary
    key. ``rows`` have the values of these columns, then the id.
    """
    clause = _unless_smaller(sql, table, key)
    for chunk in chunks(rows, _ROWS_PER_STATEMENT):
        values = ", ".join([marks_of(len(key) + 1)] * len(chunk))
        statement = (
            f"INSERT INTO {table} ({', '.join(key)}, id) VALUES {values} {clause}"
        )
        sql.execute(statement, list(chain.from_iterable(chunk)))


def _unless_smaller(sql: Statements, table: str, key: Sequence[str]) -> str:
    """Return the end of an INSERT that raises the id of an existing row.

    A smaller id leaves the stored row as it is. ``key`` names the columns of
    the primary key.
    """
    if sql.engine == "mysql":
        return "ON DUPLICATE KEY UPDATE id = GREATEST(id, VALUES(id))"
    return (
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET id = excluded.id "
        f"WHERE {table}.id < excluded.id"
    )
