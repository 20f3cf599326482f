"""Connections by their ids in a cluster: an id tells the process that has the connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import gevent
import msgspec
from msgspec import Struct

from imserver.cluster.registry import Lease
from imserver.cluster.rpc.queues import PeerUnavailable
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event, Outcome
from imserver.services.nodes.messages import ToConnection
from imserver.services.nodes.queries import NodeQueries, OtherNodes, encode
from imserver.services.rooms.connections import ConnectionInfo, Connections, Joined, Left
from imserver.services.rooms.rooms import Rooms, check_name
from imserver.services.sessions.connection_ids import ConnectionTable

T = TypeVar("T")

ASKED_TOGETHER: Final = 100
"""Connections of one node that are asked about in one question."""


class JoinRoom(Struct, frozen=True, array_like=True):
    """Let connections of yours join a room; answered with what became of each."""

    app: str
    connections: Sequence[str]
    room: str
    about: bytes = b""


class LeaveRoom(Struct, frozen=True, array_like=True):
    """Take connections of yours out of a room; answered with what became of each."""

    app: str
    connections: Sequence[str]
    room: str


class ConnectionsQuery(Struct, frozen=True, array_like=True):
    """What is known of these connections of yours? Answered in their order."""

    app: str
    connections: Sequence[str]


class FencedQuery(Struct, frozen=True, array_like=True):
    """Answer another question, behind what the life ``origin`` has sent you before this ``fence``."""

    origin: int
    fence: int
    kind: str
    body: bytes


class ClusterConnections(Connections):
    """See :class:`imserver.services.rooms.connections.Connections`. Owner of the births of live nodes."""

    def __init__(
        self,
        table: ConnectionTable,
        rooms: Rooms,
        hub: Hub,
        fanout: Fanout,
        queries: NodeQueries,
        node: Callable[[], str],
        others: OtherNodes,
    ) -> None:
        super().__init__(table, rooms, hub, fanout, queries, node)
        self._others = others
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._births: dict[int, Lease] = {}
        self._leases: Mapping[int, Lease] | None = None
        """Those of which ``_births`` were made."""
        self.unreached = 0
        """Pushes that came for connections that had ended."""

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        join, leave, about = super().join_each, super().leave_each, super().about
        queries.add("join", JoinRoom, lambda a: join(a.app, a.connections, a.room, a.about))
        queries.add("leave", LeaveRoom, lambda a: leave(a.app, a.connections, a.room))
        queries.add("about", ConnectionsQuery, lambda a: about(a.app, a.connections))
        queries.add("behind", FencedQuery, self._answer_behind)

    def received(self, item: ToConnection) -> None:
        """Another node has something for a connection of ours. Never switches."""
        if item.event is None:
            self.close_here(item.app, item.connection, item.code)
        elif not self.tell(item.app, item.connection, item.event):
            self.unreached += 1

    def node_of(self, connection_id: str) -> Lease | None:
        """The live node, but this one, that has the connection of this id, or had it. Never switches."""
        address = self.ids.read(connection_id)
        if address is None or address.birth == self.ids.birth:
            return None
        leases = self._registry.leases()
        if leases is not self._leases:
            self._leases = leases
            # Of two lives of a process the later one counts.
            self._births = {lease.birth: lease for _, lease in sorted(leases.items())}
        return self._births.get(address.birth)

    # --- telling --------------------------------------------------------------------------------------------

    def push_each(self, app: str, connection_ids: Sequence[str], event: Event) -> list[Outcome]:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        return [self._push(app, connection_id, event) for connection_id in connection_ids]

    def _push(self, app: str, connection_id: str, event: Event) -> Outcome:
        if self.tell(app, connection_id, event):
            return Outcome.SENT
        return self._send(connection_id, ToConnection(app, connection_id, event))

    def close(self, app: str, connection_id: str, code: int) -> Outcome:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        if self.close_here(app, connection_id, code):
            return Outcome.SENT
        return self._send(connection_id, ToConnection(app, connection_id, None, code))

    def _send(self, connection_id: str, item: ToConnection) -> Outcome:
        lease = self.node_of(connection_id)
        if lease is None:
            return Outcome.NOT_SENT
        return Outcome.SENT if self._node_messages.send(lease.epoch, item) else Outcome.FAILED

    # --- asking ---------------------------------------------------------------------------------------------

    def join_each(
        self, app: str, connection_ids: Sequence[str], room: str, about: bytes = b""
    ) -> list[Joined]:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        check_name(room)
        return self._of_each(
            connection_ids,
            lambda connection_id: self.join_here(app, connection_id, room, about),
            "join",
            lambda ids: JoinRoom(app, ids, room, about),
            Joined,
            Joined.FAILED,
        )

    def leave_each(self, app: str, connection_ids: Sequence[str], room: str) -> list[Left]:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        return self._of_each(
            connection_ids,
            lambda connection_id: self.leave_here(app, connection_id, room),
            "leave",
            lambda ids: LeaveRoom(app, ids, room),
            Left,
            Left.FAILED,
        )

    def about(self, app: str, connection_ids: Sequence[str]) -> list[ConnectionInfo | None]:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        return self._of_each(
            connection_ids,
            lambda connection_id: self.about_here(app, connection_id),
            "about",
            lambda ids: ConnectionsQuery(app, ids),
            ConnectionInfo | None,
            None,
        )

    def _of_each(
        self,
        connection_ids: Sequence[str],
        here: Callable[[str], T],
        kind: str,
        question: Callable[[Sequence[str]], Any],
        answer: Any,
        silent: T,
    ) -> list[T]:
        """What became of each connection, in their order: those of this node by ``here``, those of others by
        ``question``, :data:`ASKED_TOGETHER` at a time, all nodes at once; ``silent`` where a node is."""
        found: dict[str, T] = {}
        elsewhere: dict[int, list[str]] = {}
        leases: dict[int, Lease] = {}
        for connection_id in dict.fromkeys(connection_ids):
            lease = self.node_of(connection_id)
            if lease is not None:
                leases[lease.epoch] = lease
                elsewhere.setdefault(lease.epoch, []).append(connection_id)

        def ask(lease: Lease, ids: list[str]) -> None:
            for first in range(0, len(ids), ASKED_TOGETHER):
                part = ids[first : first + ASKED_TOGETHER]
                answers = self._ask_node(lease, kind, question(part), list[answer], [])
                found.update(zip(part, answers, strict=False))

        asking = [gevent.spawn(ask, leases[epoch], ids) for epoch, ids in elsewhere.items()]
        away = {connection_id for ids in elsewhere.values() for connection_id in ids}
        for connection_id in connection_ids:
            if connection_id not in away and connection_id not in found:
                found[connection_id] = here(connection_id)
        gevent.joinall(asking)
        return [found.get(connection_id, silent) for connection_id in connection_ids]

    def ask(self, connection_id: str, kind: str, asked: Any, answer: Any) -> Any:
        """See :class:`imserver.services.rooms.connections.Connections`."""
        lease = self.node_of(connection_id)
        if lease is None:
            return super().ask(connection_id, kind, asked, answer)
        return self._ask_node(lease, kind, asked, answer, None)

    def _ask_node(self, lease: Lease, kind: str, asked: Any, answer: Any, silent: Any) -> Any:
        """Ask a node, behind all that it was sent before.

        ``silent`` if it does not answer in time, or not what is expected.
        """
        fence = self._node_messages.fence(lease.epoch)
        behind = FencedQuery(self._node_messages.own_epoch, fence, kind, encode(asked))
        try:
            body = self._others.rpc.query(lease, "behind", encode(behind), self._others.seconds)
            return msgspec.msgpack.decode(msgspec.msgpack.decode(body, type=bytes), type=answer)
        except (PeerUnavailable, ValueError):
            return silent

    def _answer_behind(self, asked: FencedQuery) -> bytes:
        self._node_messages.wait_for(asked.origin, asked.fence)
        return self._queries.answer(asked.kind, asked.body)
