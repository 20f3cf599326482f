"""Rooms of a node among others: the registry knows which nodes have members, the nodes know the members."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Final

import gevent

from imserver.cluster.registry import Lease
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.hub.rooms import rooms_of
from imserver.metrics import Metrics
from imserver.services.nodes.messages import ToRoom
from imserver.services.nodes.queries import NodeQueries, OtherNodes, read
from imserver.services.pushes.pushing import YIELD_TARGETS, Outcome
from imserver.services.rooms.local_rooms import Here, KnowsIds, LocalRooms, page_of
from imserver.services.rooms.registrar import Registrar
from imserver.services.rooms.room_questions import Hall, Halls, HallsAnswer
from imserver.services.rooms.rooms import MemberPage, Publication, RoomCount, RoomPage
from imserver.transport.connection import Connection

UNSETTLED_SECONDS: Final = 10.0
"""How long a node that could not tell the registry of a room gets everything."""
_TURN_SECONDS: Final = 0.001

_Key = tuple[str, str]


class ClusterRooms(LocalRooms):
    """See :class:`imserver.services.rooms.rooms.Rooms`. Owner of the turns of those who publish.

    While the registry does not answer, and for a while after, what is published goes to all live nodes.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        connections: KnowsIds,
        birth: int,
        max_rooms: Callable[[str], int],
        others: OtherNodes,
    ) -> None:
        super().__init__(hub, fanout, metrics, connections, birth, max_rooms)
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
        queries.add("hall", Hall, lambda a: self.members_here(a.app, a.room, a.after, a.limit))
        queries.add("halls", Halls, lambda a: HallsAnswer(*self.page_here(a.app, a.after, a.limit)))

    def members(self, app: str, room: str, after: str = "", limit: int = 1000) -> MemberPage:
        """See :class:`imserver.services.rooms.rooms.Rooms`."""
        own = self.members_here(app, room, after, limit + 1)
        asked = Hall(app, room, after, limit + 1)
        answers, missing = self._others.query("hall", asked, self._nodes_with(app, room))
        return page_of([own, *read(answers, Here).values()], limit, tuple(missing))

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
        answers, missing = self._others.query("halls", Halls(app, after, limit + 1))
        members: dict[str, int] = {each.room: each.members for each in own}
        for answer in read(answers, HallsAnswer).values():
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
