"""The parts of the admin page on one node."""

import os
from collections.abc import Mapping
from time import time
from types import NoneType
from typing import Annotated, Any, Final

import gevent
from msgspec import Struct

from imserver.operate.admin.finder import Finder, LiveConnections
from imserver.plugin import Parts
from imserver.plugin.http import about, view
from imserver.plugin.services import Core

NodeName = Annotated[str, about("The name of the node.", min_length=1, max_length=255)]


class NodeFacts(Struct, frozen=True):
    """What a node tells of itself."""

    version: str
    started: Annotated[int, about("When it started, in Unix seconds.")]
    reason: Annotated[str, about("Why it cannot; empty: it can, or does not answer.")]
    drained: Annotated[bool, about("Whether somebody has drained it.")]
    connections: int
    users: Annotated[int, about("Users who are online there.")]
    memory: Annotated[int, about("Its memory, in bytes.")]
    cpu: Annotated[float, about("The processor time since its start, in seconds.")]
    cpus: Annotated[int, about("The processors of its machine.")]
    lag: Annotated[float, about("How late its event loop was last, in seconds.")]
    most: Annotated[int, about("The most connections that it accepts; 0: no limit.")]
    since: Annotated[
        int,
        about("Since when it cannot, in Unix seconds; 0: it can, or does not answer."),
    ] = 0
    messages_in: Annotated[
        int, about("Messages that it has read from clients since its start.")
    ] = 0
    deliveries: Annotated[
        int,
        about(
            "Frames of pushes and notices that it has given to connections since its start."
        ),
    ] = 0
    disk: Annotated[int, about("Bytes of the disk of its data folder.")] = 0
    disk_free: Annotated[int, about("Bytes of it that are free.")] = 0
    last_backup: Annotated[
        int | None,
        about(
            "When the newest proven backup was begun, in Unix seconds; 0: none; null: none is scheduled."
        ),
    ] = None


_SILENT: Final = NodeFacts(
    version="",
    started=0,
    reason="",
    drained=False,
    connections=0,
    users=0,
    memory=0,
    cpu=0.0,
    cpus=0,
    lag=0.0,
    most=0,
)
"""The facts of a node that does not answer."""


class NodeShown(NodeFacts, frozen=True, kw_only=True):
    """A node."""

    node: NodeName
    host: Annotated[str, about("Its machine.")]
    url: Annotated[
        str,
        about("The public address of its WebSocket; empty: it has none of its own."),
    ]
    own: Annotated[bool, about("Whether it is the node that answers.")]
    answers: Annotated[bool, about("Whether it answers. If not, its figures are 0.")]
    ready: Annotated[bool, about("Whether it can serve clients.")]
    draining: Annotated[bool, about("Whether it is drained, or stops.")]


class Drain(Struct, frozen=True, array_like=True):
    """Drain the queried node, or let it serve clients again."""

    drained: bool


class Nodes:
    """All live nodes. Queries other nodes. Methods switch greenlets."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.queries.add("admin.facts", NoneType, self._facts)
        core.queries.add("admin.drain", Drain, self._drain_here)

    def all(self) -> list[NodeShown]:
        """Every live node, ordered by name. The lease of a node tells something
        about it even if it does not answer."""
        core = self._core
        leases = core.overview.leases()
        own_node = next(iter(leases))  # the lease of this node comes first
        own_facts = self._facts()
        others, _ = core.ask_others("admin.facts", None, NodeFacts)
        facts_by_node = {own_node: own_facts, **others}
        nodes = []
        for node, lease in sorted(leases.items()):
            answers = node in facts_by_node
            facts = facts_by_node.get(node, _SILENT)
            connections = facts.connections
            if not answers:
                connections = lease.connections
            shown = view(
                NodeShown,
                facts,
                node=node,
                host=lease.host,
                url=lease.public_ws_url,
                own=node == own_node,
                answers=answers,
                ready=answers and not facts.reason,
                draining=lease.draining or facts.drained,
                connections=connections,
            )
            nodes.append(shown)
        return nodes

    def drain(self, node: str, drained: bool) -> bool:
        """Drain a node, or let it serve again. Returns False if the node does
        not exist or does not answer."""
        leases = self._core.overview.leases()
        others = self._core.others
        own_node = next(iter(leases))  # the lease of this node comes first
        if node == own_node:
            return self._drain_here(Drain(drained))
        if node not in leases or others is None:
            return False
        answers, _ = others.query("admin.drain", Drain(drained), [leases[node]])
        return node in answers

    def _drain_here(self, query: Drain) -> bool:
        draining = self._core.draining
        if query.drained:
            gevent.spawn(draining.drain)
        else:
            draining.undrain()
        return True

    def _facts(self, _query: None = None) -> NodeFacts:
        """The facts of this node, also as the answer to a query of another
        node."""
        from shutil import disk_usage  # on first use: it loads compressors, 0.2 MB

        core = self._core
        state: Mapping[str, Any] = core.status.state(debug=False, detail=True)
        metrics: Mapping[str, Any] = state["metrics"]
        server = core.config.server
        folder = "."
        if os.path.isdir(server.data_dir):
            folder = server.data_dir
        disk = disk_usage(folder)
        reason = ""
        since = 0
        unready = core.status.unready()
        if unready is not None:
            reason = unready.reason
            since = unready.since
        return NodeFacts(
            version=state["version"],
            started=int(time() - state["uptimeSeconds"]),
            reason=reason,
            drained=core.node.drained,
            connections=state["managerInfo"]["clientsLen"],
            users=state["managerInfo"]["usersLen"],
            memory=state["memoryBytes"],
            cpu=state["cpuSeconds"],
            cpus=os.cpu_count() or 1,
            lag=metrics["loop_lag_seconds"],
            most=state["maxConnections"],
            since=since,
            messages_in=metrics["messages_in"],
            deliveries=metrics["deliveries"],
            disk=disk.total,
            disk_free=disk.free,
            last_backup=metrics.get("last_backup"),
        )


class AdminParts(Struct, frozen=True):
    """The services that the routes of the admin page use."""

    finder: Finder
    live: LiveConnections
    nodes: Nodes


def build(core: Core) -> Parts:
    """Build the services of the admin page on a node."""
    live = LiveConnections(core)
    return Parts((AdminParts(Finder(core, live), live, Nodes(core)),))
