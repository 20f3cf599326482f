"""Rooms in a cluster: the registry knows which nodes have members, the nodes know the members.

The :class:`Registrar` tells the registry in which rooms this node has members.

- A room's first member on a node waits until the registry knows; later ones do not. So whoever publishes
  after a join was answered finds this node.
- That a room has more members, fewer or none is told about once a second. A node that has none any more
  gets what is published in between, for nobody.
- A node that has to say everything again (a flush, a lost lease) is *unsettled* until it has, and its lease
  says so; one that could not tell of a room says so to its peers. Either gets whatever is published.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event as Signal
from msgspec import Struct

from imserver.cluster.registry import Lease, RoomMembers
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub, rooms_of
from imserver.metrics import Metrics
from imserver.model import YIELD_TARGETS, Outcome
from imserver.services.nodes.messages import NodeMessages, RoomsUnsettled, ToRoom
from imserver.services.nodes.queries import NodeQueries, OtherNodes, read
from imserver.services.rooms.rooms import (
    MemberPage,
    MembersHere,
    Publication,
    RoomCount,
    RoomPage,
    Rooms,
    page_of,
)
from imserver.services.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry


log = logging.getLogger(__name__)

TELL_SECONDS: Final = 1.0
"""How old what the registry says of the number of members may be."""
TOLD_ROOMS: Final = 500
"""Rooms that the registry is told of together."""
_PAUSE_SECONDS: Final = 0.01
_HERD_SECONDS: Final = 0.05
_HERD_LIMIT_SECONDS: Final = 3.0

_Key = tuple[str, str]


class RoomMembersQuery(Struct, frozen=True, array_like=True):
    """Who is in this room on your node? At most ``limit``, behind the place ``after``."""

    app: str
    room: str
    after: str
    limit: int


class RoomNamesQuery(Struct, frozen=True, array_like=True):
    """Which rooms of this app have members on your node? At most ``limit``, behind the name ``after``."""

    app: str
    after: str
    limit: int


class RoomNamesAnswer(Struct, frozen=True, array_like=True):
    """``total`` rooms have members there; ``rooms`` are those that were asked for."""

    total: int
    rooms: list[RoomCount]


class Registrar:
    """Owner of what the registry has been told and is to be told. ``count`` counts a room's members here."""

    def __init__(
        self, registry: RedisRegistry, node_messages: NodeMessages, hub: Hub, count: Callable[[str, str], int]
    ) -> None:
        self._registry = registry
        self._node_messages = node_messages
        self._hub = hub
        self._count = count
        self._told: set[_Key] = set()
        """Rooms that the registry knows to have members here, as long as the registry lives ``_life``."""
        self._changed: dict[_Key, None] = {}
        """Rooms of which the registry is to be told."""
        self._life = 0
        """The life of the registry in which it was told of all rooms."""
        self._entering: dict[_Key, Signal] = {}
        """Rooms whose first members wait for the registry."""
        self._wake = Signal()
        self._teller: gevent.Greenlet[..., None] | None = None

    def is_told(self, app: str, room: str) -> bool:
        """Whether the registry knows that the room has members here. Never switches."""
        return (app, room) in self._told and self._life == self._registry.generation()

    def changed(self, app: str, room: str) -> None:
        """The room has more members or fewer, or none any more. Never switches."""
        self._changed[app, room] = None

    def joined(self, app: str, room: str, new: bool) -> None:
        """Somebody has joined: return when the registry knows that the room has members here, or does not
        answer. ``new``: they were not in there."""
        if not self.is_told(app, room):
            self._enter((app, room))
        elif new:
            self.changed(app, room)

    def _enter(self, key: _Key) -> None:
        under_way = self._entering.get(key)
        if under_way is not None:
            under_way.wait()
            return
        done = self._entering[key] = Signal()
        life = self._registry.generation()
        try:
            if self._registry.report_rooms([RoomMembers(*key, 1)]) and life == self._registry.generation():
                self._told.add(key)
            else:
                self._node_messages.broadcast(RoomsUnsettled(self._node_messages.own_epoch))
        finally:
            self._changed[key] = None
            del self._entering[key]
            done.set()

    def unsettled(self) -> bool:
        """Whether the registry does not know of all rooms here yet. Never switches."""
        return not self._life or self._life != self._registry.generation()

    def start(self) -> None:
        """Begin to tell the registry."""
        self._life = self._registry.generation()
        self._teller = gevent.spawn(self._run)

    def stop(self, seconds: float) -> bool:
        """End, and tell what is left to tell; whether all of it is told. Takes about ``seconds`` at most."""
        teller, self._teller = self._teller, None
        if teller is not None:
            self._wake.set()
            teller.join(seconds)
            teller.kill()
        return self._tell_changes()

    def wake(self) -> None:
        """Everything may have to be said again. Never switches."""
        self._wake.set()

    def _run(self) -> None:
        """Greenlet: tell the registry once a second what has changed, or everything when it has to be."""
        while self._teller is not None:
            self._wake.wait(TELL_SECONDS)
            self._wake.clear()
            try:
                if self.unsettled():
                    self._tell_everything()
                else:
                    self._tell_changes()
            except Exception:
                log.exception("telling the registry of rooms failed")

    def _tell_changes(self) -> bool:
        """Tell of the rooms that have changed; False if the registry does not answer. Switches."""
        while self._changed:
            # Who is being entered is told of in the next round.
            keys = list(islice((key for key in self._changed if key not in self._entering), TOLD_ROOMS))
            for key in keys:
                del self._changed[key]
            if not keys:
                break
            if not self._tell(keys):
                self._changed.update(dict.fromkeys(keys))
                return False
        return True

    def _tell(self, keys: Iterable[_Key]) -> bool:
        """Tell of these rooms; False: it is not known whether the registry has heard it."""
        life = self._registry.generation()
        counted = self._count
        entries = [RoomMembers(*key, counted(*key)) for key in keys if key not in self._entering]
        for entry in entries:
            if not entry.members:
                # Before it is told: who joins meanwhile has to say so behind that.
                self._told.discard((entry.app, entry.room))
        if not self._registry.report_rooms(entries) or life != self._registry.generation():
            return False
        self._told.update((entry.app, entry.room) for entry in entries if entry.members)
        return True

    def _tell_everything(self) -> None:
        """Say again which rooms have members here. Paced: other nodes do so, too."""
        nodes = len(self._registry.leases())
        if nodes > 1:
            gevent.sleep(random.uniform(0, min(nodes * _HERD_SECONDS, _HERD_LIMIT_SECONDS)))
        life = self._registry.generation()
        self._told.clear()
        keys = [(name, room) for name, app in self._hub.apps.items() for room in app.rooms]
        for first in range(0, len(keys), TOLD_ROOMS):
            began = monotonic()
            if not self._tell(keys[first : first + TOLD_ROOMS]):
                return
            gevent.sleep(_PAUSE_SECONDS + 2 * (monotonic() - began))
        self._life = life


UNSETTLED_SECONDS: Final = 10.0
"""How long a node that could not tell the registry of a room gets everything."""
_TURN_SECONDS: Final = 0.001


class ClusterRooms(Rooms):
    """See :class:`imserver.services.rooms.rooms.Rooms`. Owner of the turns of those who publish.

    While the registry does not answer, and for a while after, what is published goes to all live nodes.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        table: ConnectionTable,
        max_rooms: Callable[[str], int],
        others: OtherNodes,
    ) -> None:
        super().__init__(hub, fanout, metrics, table, max_rooms)
        self._others = others
        self._registry = others.registry
        self._node_messages = others.node_messages
        self.registrar = Registrar(others.registry, others.node_messages, hub, super().count)
        self._turns: dict[_Key, deque[object]] = {}
        """Who publishes to a room and has asked the registry where it is, in their order."""
        self._unsettled: dict[int, float] = {}
        """Lives of nodes that could not tell the registry of a room, and until when that counts."""

    # --- members --------------------------------------------------------------------------------------------

    def join(self, app: str, room: str, connection: Connection) -> bool:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        new = super().join(app, room, connection)
        if self._room(app, room) is not None:
            self.registrar.joined(app, room, new)
        return new

    def leave(self, app: str, room: str, connection: Connection) -> bool:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        left = super().leave(app, room, connection)
        if left:
            self.registrar.changed(app, room)
        return left

    def leave_all(self, connection: Connection) -> tuple[str, ...]:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        for room in rooms_of(connection):
            self.registrar.changed(room.app.name, room.name)
        return super().leave_all(connection)

    # --- publishing -----------------------------------------------------------------------------------------

    def publish_each(self, app: str, publications: Sequence[Publication]) -> list[Outcome]:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        rooms = dict.fromkeys([each.room for each in publications])
        if len(self._registry.leases()) <= 1 and not any((app, room) in self._turns for room in rooms):
            return super().publish_each(app, publications)
        ticket = object()
        for room in rooms:
            self._turns.setdefault((app, room), deque()).append(ticket)
        try:
            found = self._registry.find_rooms(app, list(rooms))
            where: dict[str, dict[int, int] | None] = dict.fromkeys(rooms)
            where.update(zip(rooms, found or (), strict=False))
            for room in rooms:
                while self._turns[app, room][0] is not ticket:
                    gevent.sleep(_TURN_SECONDS)
            return self._send_each(app, publications, where)
        finally:
            for room in rooms:
                turns = self._turns[app, room]
                turns.remove(ticket)
                if not turns:
                    del self._turns[app, room]

    def _send_each(
        self, app: str, publications: Sequence[Publication], where: dict[str, dict[int, int] | None]
    ) -> list[Outcome]:
        outcomes = []
        for number, each in enumerate(publications, 1):
            outcome = self._send(app, each, where[each.room])
            self._metrics.pushes += outcome in (Outcome.SENT, Outcome.PARTLY)
            outcomes.append(outcome)
            if not number % YIELD_TARGETS:
                gevent.sleep(0)
        return outcomes

    def _send(self, app: str, what: Publication, nodes: dict[int, int] | None) -> Outcome:
        """Deliver here and send to ``nodes``; None: to all. Never switches."""
        own = self._node_messages.own_epoch
        if not self._is_within(app, what, nodes or {}, own):
            return Outcome.NOT_SENT
        reached = self.deliver(app, what)
        if nodes is not None and own not in nodes and reached and self.registrar.is_told(app, what.room):
            nodes = None  # The registry has forgotten us: others, too, perhaps.
        leases = self._registry.leases()
        if nodes is None:
            epochs = {epoch for epoch, lease in leases.items() if lease.birth}
        elif self._unsettled:
            epochs = {*nodes, *self._still_unsettled()} & leases.keys()
        else:
            epochs = {*nodes}
        others = epochs - {own}
        sent = 0
        if others:
            skipped = what.except_connection
            if isinstance(skipped, Connection):
                skipped = ""
            item = ToRoom(app, what.room, what.event, what.except_users, skipped or "", what.kept)
            sent = self._node_messages.send_each(others, item)
        if sent < len(others):
            return Outcome.PARTLY if reached or sent else Outcome.FAILED
        return Outcome.SENT if reached or sent else Outcome.NOT_SENT

    def _still_unsettled(self) -> Iterable[int]:
        """Nodes that have said of themselves, a moment ago, that the registry does not know of all their
        rooms."""
        now = monotonic()
        self._unsettled = {epoch: until for epoch, until in self._unsettled.items() if until > now}
        return self._unsettled

    def heard_unsettled(self, epoch: int) -> None:
        """Another node could not tell the registry of a room. Never switches."""
        self._unsettled[epoch] = monotonic() + UNSETTLED_SECONDS

    def received(self, item: ToRoom) -> None:
        """Another node has published. Never switches."""
        skipped = item.except_connection or None
        what = Publication(item.room, item.event, item.except_users, skipped, kept=item.kept)
        self.deliver(item.app, what)

    # --- being asked ----------------------------------------------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        queries.add("hall", RoomMembersQuery, lambda a: self.members_here(a.app, a.room, a.after, a.limit))
        queries.add(
            "halls", RoomNamesQuery, lambda a: RoomNamesAnswer(*self.page_here(a.app, a.after, a.limit))
        )

    def members(self, app: str, room: str, after: str = "", limit: int = 1000) -> MemberPage:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        own = self.members_here(app, room, after, limit + 1)
        asked = RoomMembersQuery(app, room, after, limit + 1)
        answers, missing = self._others.query("hall", asked, self._nodes_with(app, room))
        return page_of([own, *read(answers, MembersHere).values()], limit, tuple(missing))

    def _nodes_with(self, app: str, room: str) -> list[Lease]:
        """The other nodes that have, or may have, members of a room."""
        peers = self._node_messages.peers()
        found = self._registry.find_rooms(app, [room]) if peers else None
        return peers if found is None else [lease for lease in peers if lease.epoch in found[0]]

    def count(self, app: str, room: str) -> int:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        here = super().count(app, room)
        found = self._registry.find_rooms(app, [room]) if self._node_messages.peers() else None
        own = self._node_messages.own_epoch
        return here + sum(members for epoch, members in (found or [{}])[0].items() if epoch != own)

    def page(self, app: str, after: str = "", limit: int = 1000) -> RoomPage:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        total, own = self.page_here(app, after, limit + 1)
        answers, missing = self._others.query("halls", RoomNamesQuery(app, after, limit + 1))
        members: dict[str, int] = {each.room: each.members for each in own}
        for answer in read(answers, RoomNamesAnswer).values():
            total += answer.total
            for each in answer.rooms:
                members[each.room] = members.get(each.room, 0) + each.members
        rooms = sorted(members)
        more = len(rooms) > limit
        if not after and not more:
            total = len(rooms)
        return RoomPage(
            total, [RoomCount(room, members[room]) for room in rooms[:limit]], more, tuple(missing)
        )
