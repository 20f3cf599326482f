"""Connections by their ids in a cluster: an id tells the process that has the connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from imserver.cluster.contract import Lease, Registry
from imserver.cluster.forward import PeerUnavailable
from imserver.cluster.rpc import Rpc
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event
from imserver.services.connection_ids import ConnectionIds
from imserver.services.connections import ConnectionInfo, Joined, Left, LocalConnections
from imserver.services.courier import Courier, ToConnection
from imserver.services.pushing import Outcome
from imserver.services.questions import Questions, encode
from imserver.services.room_questions import About, JoinRoom, LeaveRoom
from imserver.services.rooms import check_name


class ClusterConnections(LocalConnections):
    """See :class:`imserver.services.connections.Connections`. Owner of the births of live nodes."""

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        ids: ConnectionIds,
        questions: Questions,
        node: Callable[[], str],
        registry: Registry,
        courier: Courier,
        rpc: Rpc,
        rpc_seconds: float,
    ) -> None:
        super().__init__(hub, fanout, ids, questions, node)
        self._registry = registry
        self._courier = courier
        self._rpc = rpc
        self._rpc_seconds = rpc_seconds
        self._births: dict[int, Lease] = {}
        self._leases: Mapping[int, Lease] | None = None
        """Those of which ``_births`` were made."""
        self.unreached = 0
        """Pushes that came for connections that had ended."""

    def add_to(self, questions: Questions) -> None:
        """Answer what other nodes ask."""
        join, leave, about = super().join, super().leave, super().about
        questions.add("join", JoinRoom, lambda a: join(a.app, a.connection, a.room, a.about))
        questions.add("leave", LeaveRoom, lambda a: leave(a.app, a.connection, a.room))
        questions.add("about", About, lambda a: about(a.app, a.connections))

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
        """See :class:`imserver.services.connections.Connections`."""
        return [self._push(app, connection_id, event) for connection_id in connection_ids]

    def _push(self, app: str, connection_id: str, event: Event) -> Outcome:
        if self.tell(app, connection_id, event):
            return Outcome.SENT
        return self._send(connection_id, ToConnection(app, connection_id, event))

    def close(self, app: str, connection_id: str, code: int) -> Outcome:
        """See :class:`imserver.services.connections.Connections`."""
        if self.close_here(app, connection_id, code):
            return Outcome.SENT
        return self._send(connection_id, ToConnection(app, connection_id, None, code))

    def _send(self, connection_id: str, item: ToConnection) -> Outcome:
        lease = self.node_of(connection_id)
        if lease is None:
            return Outcome.NOT_SENT
        return Outcome.SENT if self._courier.to_life(lease.epoch, item) else Outcome.FAILED

    # --- asking ---------------------------------------------------------------------------------------------

    def join(self, app: str, connection_id: str, room: str, about: bytes = b"") -> Joined:
        """See :class:`imserver.services.connections.Connections`."""
        check_name(room)
        lease = self.node_of(connection_id)
        if lease is None:
            return super().join(app, connection_id, room, about)
        asked = JoinRoom(app, connection_id, room, about)
        return self._ask_node(lease, "join", asked, Joined, Joined.FAILED)  # type: ignore[no-any-return]

    def leave(self, app: str, connection_id: str, room: str) -> Left:
        """See :class:`imserver.services.connections.Connections`."""
        lease = self.node_of(connection_id)
        if lease is None:
            return super().leave(app, connection_id, room)
        asked = LeaveRoom(app, connection_id, room)
        return self._ask_node(lease, "leave", asked, Left, Left.FAILED)  # type: ignore[no-any-return]

    def about(self, app: str, connection_ids: Sequence[str]) -> list[ConnectionInfo | None]:
        """See :class:`imserver.services.connections.Connections`."""
        found: dict[str, ConnectionInfo | None] = {}
        elsewhere: dict[str, list[str]] = {}
        leases: dict[str, Lease] = {}
        for connection_id in dict.fromkeys(connection_ids):
            lease = self.node_of(connection_id)
            if lease is None:
                found[connection_id] = self.about_here(app, connection_id)
            else:
                leases[lease.node] = lease
                elsewhere.setdefault(lease.node, []).append(connection_id)
        for node, asked in elsewhere.items():
            answer = self._ask_node(leases[node], "about", About(app, asked), list[ConnectionInfo | None], [])
            found |= zip(asked, answer, strict=False)
        return [found.get(connection_id) for connection_id in connection_ids]

    def ask(self, connection_id: str, kind: str, asked: Any, answer: Any) -> Any:
        """See :class:`imserver.services.connections.Connections`."""
        lease = self.node_of(connection_id)
        if lease is None:
            return super().ask(connection_id, kind, asked, answer)
        return self._ask_node(lease, kind, asked, answer, None)

    def _ask_node(self, lease: Lease, kind: str, asked: Any, answer: Any, silent: Any) -> Any:
        """Ask a node; ``silent`` if it does not answer in time, or not what is expected."""
        try:
            body = self._rpc.ask(lease, kind, encode(asked), self._rpc_seconds)
            return msgspec.msgpack.decode(body, type=answer)
        except (PeerUnavailable, ValueError):
            return silent
