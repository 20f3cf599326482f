"""Rooms: unstored sets of connections that receive the same events.

:class:`Rooms` serves a node without a cluster; :mod:`imserver.services.rooms.cluster_rooms` extends it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from math import isfinite
from typing import Final

import gevent
from msgspec import Struct

from imserver.errors import ImserverError
from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub, Room, RoomMembership, rooms_of
from imserver.metrics import Metrics
from imserver.model import YIELD_TARGETS, Event, Outcome
from imserver.services.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection

MAX_NAME_BYTES: Final = 255
"""Longest name of a room, in bytes of UTF-8."""
MAX_ROOMS_OF_A_CONNECTION: Final = 1000

OnLeft = Callable[[Connection, tuple[str, ...]], None]


class RoomRefused(ImserverError):
    """A connection may not join: the name is empty or too long, or (``full``) there are too many rooms."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


def check_name(room: str) -> None:
    """Raise :class:`RoomRefused` if no room can have this name."""
    size = len(room.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_NAME_BYTES:
        raise RoomRefused(f"the name of a room has 1 to {MAX_NAME_BYTES} bytes, this one has {size}")


class Publication(Struct, frozen=True, gc=False):
    """What is told to a room: to all its members but the connections of ``except_users``, and but
    ``except_connection`` (an object of this node, or an id from anywhere).

    ``at_most``: nobody is told if there are more members than that (None: any number); those of other nodes
    are counted as of about a second ago. ``kept``: it is stored, and those who hear it from the log are not
    told here.
    """

    room: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: Connection | str | None = None
    at_most: int | None = None
    kept: bool = False


class RoomMember(Struct, frozen=True, array_like=True):
    """A connection in a room, as others see it: its id, whose it is, and since when, in Unix seconds."""

    connection: str
    user: str
    device: str
    dialect: str
    joined: float


class MemberPage(Struct, frozen=True):
    """Some members in the order of joining. ``total`` counts all; ``missing`` names silent nodes.

    ``next`` is the ``after`` of the next page, ``""`` if there is none.
    """

    total: int
    members: list[RoomMember]
    next: str = ""
    missing: tuple[str, ...] = ()


class RoomCount(Struct, frozen=True, array_like=True):
    """A room and how many connections are in it."""

    room: str
    members: int


class RoomPage(Struct, frozen=True):
    """Some rooms of an app in the order of names; ``more`` follow behind the last.

    ``total`` counts all rooms; one that has members on several nodes may count several times if there is more
    than this page. ``missing`` names silent nodes.
    """

    total: int
    rooms: list[RoomCount]
    more: bool = False
    missing: tuple[str, ...] = ()


log = logging.getLogger(__name__)

LEAVERS: Final = 16
"""Connections whose end is told to rooms at once."""


class MembersHere(Struct, frozen=True, array_like=True):
    """A node's share of a page of members: all that it has, and some of them with their joining times."""

    total: int
    members: list[RoomMember]
    birth: int
    """Of the process; with ``joined`` it puts members of all nodes in one order."""


class Rooms:
    """Rooms of a node without a cluster, and this node's part of the rooms of a cluster.

    Calls may switch, unless their docstring says otherwise. Connections are those of this node; for those of
    other nodes, see :class:`imserver.services.rooms.connections.Connections`. ``max_rooms``: how many rooms
    an app may have on a node (0: any number). Owner of the connections that have left.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        table: ConnectionTable,
        max_rooms: Callable[[str], int],
    ) -> None:
        self.membership = RoomMembership()
        self.on_left: list[OnLeft] = []
        """Called with a connection that has ended and the names of its rooms, in a greenlet that may switch.
        It is no member any more; ``app``, ``user`` and ``dialect_state`` are as they were. Append."""
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._connections = table
        self._birth = table.ids.birth
        self._max_rooms = max_rooms
        self._left: deque[tuple[Connection, tuple[str, ...]]] = deque()
        self._leavers = 0

    # --- members --------------------------------------------------------------------------------------------

    def join(self, app: str, room: str, connection: Connection) -> bool:
        """Put a connection into a room: who publishes there after this returns, on any node, reaches it.

        True: it is new there. False: it was in there before, or it is not in service in this app. Raises
        :class:`RoomRefused`, with a text for whoever asked.
        """
        known = self._hub.apps.get(app)
        if known is None:
            return False
        self._check(known, room, connection)
        return self.membership.join(known, room, connection)

    def _check(self, app: App, room: str, connection: Connection) -> None:
        check_name(room)
        held = rooms_of(connection)
        if len(held) >= MAX_ROOMS_OF_A_CONNECTION and room not in {r.name for r in held}:
            raise RoomRefused(f"the connection is in {MAX_ROOMS_OF_A_CONNECTION} rooms already", full=True)
        limit = self._max_rooms(app.name)
        if limit and room not in app.rooms and len(app.rooms) >= limit:
            raise RoomRefused(f"the app has {limit} rooms on this node, which is its limit", full=True)

    def leave(self, app: str, room: str, connection: Connection) -> bool:
        """Take a connection out of a room; whether it was in there. Never switches."""
        known = self._hub.apps.get(app)
        return known is not None and self.membership.leave(known, room, connection)

    def leave_all(self, connection: Connection) -> tuple[str, ...]:
        """Take a connection out of all its rooms, whose names are returned; nobody is told. Never
        switches."""
        return tuple([room.name for room in self.membership.leave_all(connection)])

    def rooms_of(self, connection: Connection) -> tuple[str, ...]:
        """The names of a connection's rooms in the order of joining. Never switches."""
        return tuple([room.name for room in rooms_of(connection)])

    def ended(self, connection: Connection) -> None:
        """A connection is over (``ConnectionContext.ended``). Never switches."""
        if connection.rooms is None:
            return
        rooms = self.leave_all(connection)
        if self.on_left:
            self._left.append((connection, rooms))
            if self._leavers < LEAVERS:
                self._leavers += 1
                gevent.spawn(self._tell_left)

    def _tell_left(self) -> None:
        """Greenlet: tell of connections that have ended until there are none left."""
        try:
            while self._left:
                connection, rooms = self._left.popleft()
                for tell in self.on_left:
                    try:
                        tell(connection, rooms)
                    except Exception:
                        log.exception("telling of an end failed", extra={"connection": connection.peer})
        finally:
            self._leavers -= 1

    # --- publishing -----------------------------------------------------------------------------------------

    def publish(
        self,
        app: str,
        room: str,
        event: Event,
        except_users: tuple[str, ...] = (),
        except_connection: Connection | str | None = None,
        at_most: int | None = None,
    ) -> Outcome:
        """Tell a room (:class:`Publication`). What one greenlet or many of a node publish to a room arrives
        in the order of the calls.

        NOT_SENT: nobody is there. PARTLY: a node with members is known not to have got it; FAILED: none has.
        """
        what = Publication(room, event, except_users, except_connection, at_most)
        return self.publish_each(app, (what,))[0]

    def publish_each(self, app: str, publications: Sequence[Publication]) -> list[Outcome]:
        """The same for many, in their order, at the cost of one question to the registry."""
        outcomes = []
        for number, each in enumerate(publications, 1):
            sent = self._is_within(app, each, {}) and self.deliver(app, each) > 0
            self._metrics.pushes += sent
            outcomes.append(Outcome.SENT if sent else Outcome.NOT_SENT)
            if not number % YIELD_TARGETS:
                gevent.sleep(0)
        return outcomes

    def _is_within(self, app: str, what: Publication, nodes: Mapping[int, int], own: int = 0) -> bool:
        """Whether the room has few enough members, by ``nodes`` those on others than ``own``."""
        if what.at_most is None:
            return True
        room = self._room(app, what.room)
        here = 0 if room is None else len(room.members)
        elsewhere = sum(members for epoch, members in nodes.items() if epoch != own)
        return here + elsewhere <= what.at_most

    def deliver(self, app: str, what: Publication) -> int:
        """Tell the members on this node; how many connections were reached. Never switches."""
        room = self._room(app, what.room)
        if room is None:
            return 0
        skipped = what.except_connection
        if isinstance(skipped, str):
            skipped = self._connections.find(app, skipped)
        if what.kept:
            others = [
                each
                for each in room.members
                if each is not skipped
                and each.user not in what.except_users
                and (each.dialect_state is None or not each.dialect_state.rooms_from_log)
            ]
            return self._fanout.to_some(room.app, others, what.event)
        return self._fanout.to_room(room, what.event, what.except_users, skipped)

    # --- being asked ----------------------------------------------------------------------------------------

    def members(self, app: str, room: str, after: str = "", limit: int = 1000) -> MemberPage:
        """Members in the order of joining, behind ``after`` (a page's ``next``)."""
        return page_of([self.members_here(app, room, after, limit + 1)], limit)

    def members_here(self, app: str, room: str, after: str, limit: int) -> MembersHere:
        """Up to ``limit`` members on this node, behind ``after``."""
        found = self._room(app, room)
        if found is None:
            return MembersHere(0, [], self._birth)
        mark = read_cursor(after)
        behind = (
            (connection, joined)
            for connection, joined in found.members.items()
            if (joined, self._birth) > mark
        )
        members = [
            RoomMember(
                self._connections.id_of(connection),
                connection.user or "",
                connection.device,
                connection.encoding.dialect.name,
                joined,
            )
            for connection, joined in islice(behind, limit)
        ]
        return MembersHere(len(found.members), members, self._birth)

    def count(self, app: str, room: str) -> int:
        """How many connections are in a room; those of other nodes as of about a second ago."""
        found = self._room(app, room)
        return 0 if found is None else len(found.members)

    def page(self, app: str, after: str = "", limit: int = 1000) -> RoomPage:
        """Rooms of an app in the order of names, behind the name ``after``."""
        total, rooms = self.page_here(app, after, limit + 1)
        return RoomPage(total, rooms[:limit], len(rooms) > limit)

    def page_here(self, app: str, after: str, limit: int) -> tuple[int, list[RoomCount]]:
        """How many rooms have members here, and up to ``limit`` of those behind ``after``, by name."""
        known = self._hub.apps.get(app)
        if known is None:
            return 0, []
        names = nsmallest(limit, (name for name in known.rooms if name > after))
        return len(known.rooms), [RoomCount(name, len(known.rooms[name].members)) for name in names]

    def _room(self, app: str, room: str) -> Room | None:
        known = self._hub.apps.get(app)
        return None if known is None else known.rooms.get(room)


def page_of(shares: Iterable[MembersHere], limit: int, missing: tuple[str, ...] = ()) -> MemberPage:
    """The page that the shares of all nodes make; each has at most ``limit`` + 1 members."""
    total, found = 0, []
    for share in shares:
        total += share.total
        found += [(member.joined, share.birth, member) for member in share.members]
    found.sort(key=lambda entry: entry[:2])
    more = len(found) > limit
    page = found[:limit]
    return MemberPage(
        total,
        [member for _, _, member in page],
        cursor(*page[-1][:2]) if more and page else "",
        missing,
    )


def cursor(joined: float, birth: int) -> str:
    """What stands for a member's place in the order of joining."""
    return f"{joined!r}-{birth:x}"


def read_cursor(text: str) -> tuple[float, int]:
    """The place that :func:`cursor` wrote; before all members if it is no such text."""
    joined, _, birth = text.partition("-")
    try:
        place = float(joined), int(birth, 16)
    except ValueError:
        return 0.0, 0
    return place if isfinite(place[0]) else (0.0, 0)
