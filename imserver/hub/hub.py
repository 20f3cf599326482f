"""The hub: live users of this node by app, and the rules by which a user's sessions count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import time
from typing import Final

from imserver.model import SYSTEM_PREFIX, Event
from imserver.transport.connection import OPEN, Connection

POLICIES = ("newest", "multi", "single", "refuse")
"""Login policies (docs/reference/protocol.md). Only ``newest`` addresses one session of a user at a time."""


class App:
    """One tenant's live users. Owner: the hub.

    ``users`` maps a user to the session that is addressed, or to a list where several are: nearly all users
    have one, and a list each would cost 64 bytes. Both hold sessions that are in service only.
    """

    __slots__ = (
        "elsewhere",
        "guest",
        "name",
        "newcomers",
        "notices",
        "policy",
        "quiet",
        "rooms",
        "several",
        "users",
    )

    def __init__(self, name: str, policy: str, guest: bool = False) -> None:
        self.name = name
        self.policy = policy
        self.guest = guest
        """Nobody has registered it: it is there while anybody is connected."""
        self.quiet = name.startswith(SYSTEM_PREFIX)
        """No notices of who enters and leaves: its users are connections, which have no word for them."""
        self.users: dict[str, Connection | list[Connection]] = {}
        self.elsewhere = 0
        """Users on other nodes, as of the last time somebody counted."""
        self.several = 0
        """Users with a list."""
        self.notices: list[Event] = []
        """Enter and exit notices of this turn, not yet handed to outboxes."""
        self.newcomers: dict[Connection, int] = {}
        """Sessions that began while notices wait, and how many of those they are spared."""
        self.rooms: dict[str, Room] = {}
        """Rooms with members here (:mod:`imserver.hub.hub`)."""

    def sessions_of(self, user: str) -> tuple[Connection, ...]:
        """The addressed sessions of ``user``, the oldest first."""
        entry = self.users.get(user)
        if entry is None:
            return ()
        return tuple(entry) if type(entry) is list else (entry,)  # type: ignore[return-value]


class Hub:
    """All apps of this node. Owner of every session field of a connection (app, user, device).

    ``on_forgotten`` is called with a session that is no longer addressed but lives on. It must not switch.
    """

    def __init__(
        self,
        policies: Mapping[str, str],
        connections: set[Connection],
        on_forgotten: Callable[[Connection], object],
    ) -> None:
        self.apps = {name: App(name, policy) for name, policy in policies.items()}
        """Live users by app. Apps may come and go; only the hub changes this."""
        self._connections = connections
        self._on_forgotten = on_forgotten
        self.now = int(time())
        """Unix seconds, one object for all who log in within a second; kept by the node."""

    def open(self, name: str, policy: str, guest: bool = False) -> App:
        """The app of this name, made if there is none yet. Its policy stays what it was.

        ``guest``: nobody has registered it, so that it goes with its last user, unless somebody opens it
        otherwise meanwhile.
        """
        app = self.apps.get(name)
        if app is None:
            app = self.apps[name] = App(name, policy, guest)
        elif not guest:
            app.guest = False
        return app

    def set_policy(self, name: str, policy: str) -> None:
        """Let logins from now on count by this policy."""
        self.apps[name].policy = policy

    def close_guest(self, name: str) -> None:
        """Forget an app that nobody has registered if its last user has gone."""
        app = self.apps.get(name)
        if app is not None and app.guest and not app.users and not app.rooms:
            del self.apps[name]

    def registered(self) -> Iterator[App]:
        """The apps but those of guests. Do not switch meanwhile."""
        return (app for app in self.apps.values() if not app.guest)

    def connections(self) -> set[Connection]:
        """All connections of this node, logged in or not. Do not change it; copy it before you switch."""
        return self._connections

    def sessions(self) -> Iterator[Connection]:
        """All addressed sessions of all apps."""
        for app in self.apps.values():
            for user in app.users:
                yield from app.sessions_of(user)

    def user_names(self, app: str) -> list[str]:
        """The users of an app who are online here; empty for an unknown app."""
        known = self.apps.get(app)
        return list(known.users) if known is not None else []

    def user_count(self, app: str) -> int:
        """How many users of an app are online here."""
        known = self.apps.get(app)
        return len(known.users) if known is not None else 0

    def is_online(self, app: str, user: str) -> bool:
        """Whether a session of ``user`` lives here."""
        known = self.apps.get(app)
        return known is not None and user in known.users

    def attach(self, app: App, connection: Connection, user: str, device: str) -> None:
        """Let ``connection`` be answered as ``user``'s without addressing it: a later login is."""
        connection.app, connection.user, connection.device = app.name, user, device
        connection.since = self.now

    def forget(self, connection: Connection) -> None:
        """Address a session no longer; it is still answered. Its end takes nobody offline."""
        self.leave(connection)
        self._on_forgotten(connection)

    def detach(self, connection: Connection) -> bool:
        """Make a session a connection that has not logged in. True if that takes its user offline."""
        gone = self.leave(connection)
        self._on_forgotten(connection)
        connection.app = connection.user = None
        connection.device, connection.since = "", 0
        return gone

    def join(self, app: App, connection: Connection, user: str, device: str) -> None:
        """Make ``connection`` an addressed session of ``user``; under ``newest`` the only one."""
        self.attach(app, connection, user, device)
        if app.notices:
            app.newcomers[connection] = len(app.notices)
        entry = app.users.get(user)
        if entry is None:
            app.users[user] = connection
        elif app.policy == "newest":
            app.users[user] = connection
            app.several -= isinstance(entry, list)
            for older in entry if isinstance(entry, list) else (entry,):
                if older is not connection:
                    self._on_forgotten(older)
        elif isinstance(entry, list):
            entry.append(connection)
        else:
            app.users[user] = [entry, connection]
            app.several += 1

    def leave(self, connection: Connection) -> bool:
        """A session is over. True if that takes its user offline."""
        if connection.app is None or connection.user is None:
            return False
        app, user = self.apps.get(connection.app), connection.user
        if app is None:
            return False
        app.newcomers.pop(connection, None)
        entry = app.users.get(user)
        if entry is connection:
            del app.users[user]
            return True
        if isinstance(entry, list) and connection in entry:
            entry.remove(connection)
            if len(entry) == 1:
                app.users[user] = entry[0]
                app.several -= 1
        return False


_TICK_SECONDS: Final = 0.000_002
"""Two joins of a node are told apart by at least so much."""


class Room:
    """The members on this node. Owner: :class:`RoomMembership`.

    ``members`` maps a connection to the Unix time at which it joined; they stand in that order, and no two of
    a node joined at the same time.
    """

    __slots__ = ("app", "members", "name")

    def __init__(self, app: App, name: str) -> None:
        self.app = app
        self.name = name
        self.members: dict[Connection, float] = {}


class RoomMembership:
    """Who is in which room. Owner of ``App.rooms`` and ``Connection.rooms``; never switches.

    Nearly all connections are in no room or in one, so a connection holds nothing, its room, or a dict of its
    rooms by name.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self.rooms = 0
        """How many there are, over all apps."""
        self.members = 0
        """How many memberships there are."""
        self._clock = clock
        self._last = 0.0

    def join(self, app: App, name: str, connection: Connection) -> bool:
        """Put a connection into a room. False: it is in there already, or not in service in the app."""
        if connection.state != OPEN or connection.app != app.name:
            return False
        room = app.rooms.get(name)
        if room is None:
            room = app.rooms[name] = Room(app, name)
            self.rooms += 1
        elif connection in room.members:
            return False
        self._last = room.members[connection] = max(self._clock(), self._last + _TICK_SECONDS)
        self.members += 1
        held: Room | dict[str, Room] | None = connection.rooms
        if held is None:
            connection.rooms = room
        elif isinstance(held, Room):
            connection.rooms = {held.name: held, name: room}
        else:
            held[name] = room
        return True

    def leave(self, app: App, name: str, connection: Connection) -> bool:
        """Take a connection out of a room. False: it was not in there."""
        room = app.rooms.get(name)
        if room is None or connection not in room.members:
            return False
        held: Room | dict[str, Room] | None = connection.rooms
        if held is room:
            connection.rooms = None
        else:
            assert isinstance(held, dict)
            del held[name]
            if not held:
                connection.rooms = None
        self._take_out(room, connection)
        return True

    def leave_all(self, connection: Connection) -> tuple[Room, ...]:
        """Take a connection out of all its rooms, which are returned in the order of joining."""
        rooms = rooms_of(connection)
        connection.rooms = None
        for room in rooms:
            self._take_out(room, connection)
        return rooms

    def _take_out(self, room: Room, connection: Connection) -> None:
        del room.members[connection]
        self.members -= 1
        if not room.members:
            del room.app.rooms[room.name]
            self.rooms -= 1


def rooms_of(connection: Connection) -> tuple[Room, ...]:
    """The rooms of a connection in the order of joining."""
    held: Room | dict[str, Room] | None = connection.rooms
    if held is None:
        return ()
    return (held,) if isinstance(held, Room) else tuple(held.values())
