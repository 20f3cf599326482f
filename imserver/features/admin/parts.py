"""The parts of the admin page on one node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import time
from types import NoneType
from typing import Any, Final

import gevent
from msgspec import Struct
from msgspec.msgpack import Decoder

from imserver.features.admin.finder import Finder, LiveConnections
from imserver.plugin import FeatureParts
from imserver.plugin.services import Core


class NodeFacts(Struct, frozen=True):
    """What a node tells of itself. ``reason``: why it is not ready; ``""``: it is. ``since``: since when, in
    Unix seconds.

    ``lag``: how late its loop was last, in seconds. ``cpu``: seconds of processor time since the start.
    """

    version: str
    started: int
    reason: str
    drained: bool
    connections: int
    users: int
    memory: int
    cpu: float
    cpus: int
    lag: float
    most: int
    since: int = 0


SILENT: Final = NodeFacts("", 0, "", False, 0, 0, 0, 0.0, 0, 0.0, 0)
"""Of a node that does not answer."""


class Drain(Struct, frozen=True, array_like=True):
    """Drain the queried node, or let it serve clients again."""

    drained: bool


class NodeView(Struct, frozen=True):
    """A live node. ``facts``: None if it does not answer."""

    node: str
    host: str
    url: str
    own: bool
    draining: bool
    connections: int
    facts: NodeFacts | None


class Nodes:
    """All live nodes. Other nodes are asked. Calls switch."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.cluster.queries.add("admin.facts", NoneType, lambda _: self._facts())
        core.cluster.queries.add("admin.drain", Drain, self._drain_here)

    def all(self) -> list[NodeView]:
        """Every live node, ordered by name."""
        core = self._core
        leases = core.overview.leases()
        own = next(iter(leases))
        answers: Mapping[str, bytes] = {}
        if core.cluster.others is not None:
            answers, _ = core.cluster.others.query("admin.facts", None)
        facts: dict[str, NodeFacts] = {own: self._facts()}
        for node, data in answers.items():
            try:
                facts[node] = _decode(data)
            except (ValueError, RecursionError):
                continue  # a node of another version
        return [
            NodeView(
                node=node,
                host=lease.host,
                url=lease.public_ws_url,
                own=node == own,
                draining=lease.draining,
                connections=lease.connections,
                facts=facts.get(node),
            )
            for node, lease in sorted(leases.items())
        ]

    def drain(self, node: str, drained: bool) -> bool:
        """Drain a node, or let it serve again. False: there is no such node, or it does not answer."""
        core = self._core
        leases = core.overview.leases()
        if node not in leases:
            return False
        if node == next(iter(leases)):
            return self._drain_here(Drain(drained))
        if core.cluster.others is None:
            return False
        answers, _ = core.cluster.others.query("admin.drain", Drain(drained), [leases[node]])
        return node in answers

    def _drain_here(self, query: Drain) -> bool:
        draining = self._core.draining
        if query.drained:
            gevent.spawn(draining.drain)
        else:
            draining.undrain()
        return True

    def _facts(self) -> NodeFacts:
        core = self._core
        state: Mapping[str, Any] = core.status.state(False, detail=True)
        unready = core.status.unready()
        return NodeFacts(
            version=state["version"],
            started=int(time() - state["uptimeSeconds"]),
            reason="" if unready is None else unready.reason,
            drained=core.node.drained,
            connections=state["managerInfo"]["clientsLen"],
            users=state["managerInfo"]["usersLen"],
            memory=state["memoryBytes"],
            cpu=state["cpuSeconds"],
            cpus=os.cpu_count() or 1,
            lag=state["metrics"]["loop_lag_seconds"],
            most=state["maxConnections"],
            since=0 if unready is None else unready.since,
        )


_decode = Decoder(NodeFacts).decode


class AdminParts(Struct, frozen=True):
    """What the routes of the admin page use."""

    finder: Finder
    live: LiveConnections
    nodes: Nodes


def build(core: Core) -> FeatureParts:
    """Build them."""
    live = LiveConnections(core)
    return FeatureParts(AdminParts(Finder(core, live), live, Nodes(core)))
