"""Rooms of a node that is alone, and this node's share of the rooms of many."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from math import isfinite
from typing import Final, Protocol

import gevent
from msgspec import Struct

from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub
from imserver.hub.rooms import Membership, Room, rooms_of
from imserver.metrics import Metrics
from imserver.model import Event
from imserver.services.pushes.pushing import YIELD_TARGETS, Outcome
from imserver.services.rooms.rooms import (
    MAX_ROOMS_OF_A_CONNECTION,
    Member,
    MemberPage,
    OnLeft,
    Publication,
    RoomCount,
    RoomPage,
    RoomRefused,
    check_name,
)
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)

LEAVERS: Final = 16
"""Connections whose end is told to rooms at once."""


class KnowsIds(Protocol):
    """Who knows connections by their ids.

    :class:`imserver.services.rooms.connections.LocalConnections` does.
    """

    def id_of(self, connection: Connection) -> str:
        """The id of a connection of this node."""

    def find(self, app: str, connection_id: str) -> Connection | None:
        """The connection of this node with this id."""


class Here(Struct, frozen=True, array_like=True):
    """A node's share of a page of members: all that it has, and some of them with their joining times."""

    total: int
    members: list[Member]
    birth: int
    """Of the process; with ``joined`` it puts members of all nodes in one order."""


class LocalRooms:
    """Rooms of a node that is alone, and this node's share of the cluster's. Owner of who has left.

    ``max_rooms`` tells how many rooms an app may have on a node (0: any number).
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        connections: KnowsIds,
        birth: int,
        max_rooms: Callable[[str], int] = lambda app: 0,
    ) -> None:
        self.membership = Membership()
        self.on_left: list[OnLeft] = []
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._connections = connections
        self._birth = birth
        self._max_rooms = max_rooms
        self.hears_log: Callable[[Connection], bool] = lambda connection: False
        """Whether a connection is told from the log what is said in its rooms and kept."""
        self._left: deque[tuple[Connection, tuple[str, ...]]] = deque()
        self._leavers = 0

    # --- members --------------------------------------------------------------------------------------------

    def join(self, app: str, room: str, connection: Connection) -> bool:
        """See :class:`Rooms`."""
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
        """See :class:`Rooms`."""
        known = self._hub.apps.get(app)
        return known is not None and self.membership.leave(known, room, connection)

    def leave_all(self, connection: Connection) -> tuple[str, ...]:
        """See :class:`Rooms`."""
        return tuple([room.name for room in self.membership.leave_all(connection)])

    def rooms_of(self, connection: Connection) -> tuple[str, ...]:
        """See :class:`Rooms`."""
        return tuple([room.name for room in rooms_of(connection)])

    def ended(self, connection: Connection) -> None:
        """See :class:`Rooms`."""
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
        """See :class:`Rooms`."""
        what = Publication(room, event, except_users, except_connection, at_most)
        return self.publish_each(app, (what,))[0]

    def publish_each(self, app: str, publications: Sequence[Publication]) -> list[Outcome]:
        """See :class:`Rooms`."""
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
                if each is not skipped and each.user not in what.except_users and not self.hears_log(each)
            ]
            return self._fanout.to_some(room.app, others, what.event)
        return self._fanout.to_room(room, what.event, what.except_users, skipped)

    # --- being asked ----------------------------------------------------------------------------------------

    def members(self, app: str, room: str, after: str = "", limit: int = 1000) -> MemberPage:
        """See :class:`Rooms`."""
        return page_of([self.members_here(app, room, after, limit + 1)], limit)

    def members_here(self, app: str, room: str, after: str, limit: int) -> Here:
        """Up to ``limit`` members on this node, behind ``after``."""
        found = self._room(app, room)
        if found is None:
            return Here(0, [], self._birth)
        mark = read_cursor(after)
        behind = (
            (connection, joined)
            for connection, joined in found.members.items()
            if (joined, self._birth) > mark
        )
        members = [
            Member(
                self._connections.id_of(connection),
                connection.user or "",
                connection.device,
                connection.encoding.dialect.name,
                joined,
            )
            for connection, joined in islice(behind, limit)
        ]
        return Here(len(found.members), members, self._birth)

    def count(self, app: str, room: str) -> int:
        """See :class:`Rooms`."""
        found = self._room(app, room)
        return 0 if found is None else len(found.members)

    def page(self, app: str, after: str = "", limit: int = 1000) -> RoomPage:
        """See :class:`Rooms`."""
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


def page_of(shares: Iterable[Here], limit: int, missing: tuple[str, ...] = ()) -> MemberPage:
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
