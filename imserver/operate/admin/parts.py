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
    """The state of a node, as the node reports it."""

    version: str
    started: Annotated[int, about("When the node started, in Unix seconds.")]
    reason: Annotated[
        str,
        about(
            "Why the node cannot serve clients; empty: it can, or it does not answer."
        ),
    ]
    drained: Annotated[bool, about("Whether an operator has drained the node.")]
    connections: int
    users: Annotated[int, about("The number of users who are online on the node.")]
    memory: Annotated[int, about("The memory of the process, in bytes.")]
    cpu: Annotated[
        float, about("The processor time of the process since its start, in seconds.")
    ]
    cpus: Annotated[int, about("The number of processors of the machine.")]
    lag: Annotated[
        float, about("The last measured delay of the event loop, in seconds.")
    ]
    most: Annotated[
        int, about("The maximum number of connections of the node; 0: no limit.")
    ]
    since: Annotated[
        int,
        about(
            "Since when the node cannot serve clients, in Unix seconds; 0: it can, "
            "or it does not answer."
        ),
    ] = 0
    messages_in: Annotated[
        int,
        about(
            "The number of messages that the node has read from clients since its "
            "start."
        ),
    ] = 0
    deliveries: Annotated[
        int,
        about(
            "The number of pushes and notices that the node has sent to connections "
            "since its start, in frames."
        ),
    ] = 0
    disk: Annotated[
        int, about("The size of the disk with the data folder, in bytes.")
    ] = 0
    disk_free: Annotated[int, about("The free space of this disk, in bytes.")] = 0
    last_backup: Annotated[
        int | None,
        about(
            "When the newest proven backup began, in Unix seconds; 0: no such backup; "
            "null: no backup is scheduled."
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
    host: Annotated[str, about("The machine of the node.")]
    url: Annotated[
        str,
        about("The node's own public WebSocket address; empty: it has none."),
    ]
    own: Annotated[bool, about("Whether this node answers the request.")]
    answers: Annotated[
        bool, about("Whether the node answers. If not, its figures are 0.")
    ]
    ready: Annotated[bool, about("Whether the node can serve clients.")]
    draining: Annotated[bool, about("Whether the node is drained or stops.")]


class Drain(Struct, frozen=True, array_like=True):
    """Drain the queried node, or let it serve clients again."""

    drained: bool


class Nodes:
    """All live nodes, with their facts.

    Methods ask the nodes, so they switch greenlets.
    """

    def __init__(self, core: Core) -> None:
        """Answer queries of other nodes for the facts of this node, and drain
        it for them."""
        self._core = core
        core.queries.add("admin.facts", NoneType, self._facts)
        core.queries.add("admin.drain", Drain, self._drain_here)

    def all(self) -> list[NodeShown]:
        """Every live node, ordered by name.

        A node that does not answer is shown, too: the registry has its *lease*,
        with which each node proves every few seconds that it lives. The lease
        has its host, its address and the number of its connections.
        """
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
            # A node that does not answer is shown with the number in its lease.
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
        """Drain a node, or let it serve again.

        Returns False if the node does not exist or does not answer.
        """
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
        """Drain this node, or let it serve again.

        Returns True, which is the answer to a query of another node. Draining
        takes long, so a separate greenlet drains the node.
        """
        draining = self._core.draining
        if query.drained:
            gevent.spawn(draining.drain)
        else:
            draining.undrain()
        return True

    def _facts(self, _query: None = None) -> NodeFacts:
        """The facts of this node, also as the answer to a query of another
        node."""
        core = self._core
        state: Mapping[str, Any] = core.status.state(debug=False, detail=True)
        metrics: Mapping[str, Any] = state["metrics"]
        disk_bytes, free_bytes = _disk_of(core.config.server.data_dir)
        clients = state["managerInfo"]
        reason = ""
        since = 0
        unready = core.status.unready()  # None: the node can serve clients
        if unready is not None:
            reason = unready.reason
            since = unready.since
        return NodeFacts(
            version=state["version"],
            started=int(time() - state["uptimeSeconds"]),
            reason=reason,
            drained=core.node.drained,
            connections=clients["clientsLen"],
            users=clients["usersLen"],
            memory=state["memoryBytes"],
            cpu=state["cpuSeconds"],
            cpus=os.cpu_count() or 1,
            lag=metrics["loop_lag_seconds"],
            most=state["maxConnections"],
            since=since,
            messages_in=metrics["messages_in"],
            deliveries=metrics["deliveries"],
            disk=disk_bytes,
            disk_free=free_bytes,
            last_backup=metrics.get("last_backup"),
        )


def _disk_of(folder: str) -> tuple[int, int]:
    """The size of the disk with a folder, and its free space, in bytes."""
    from shutil import disk_usage  # on first use: it loads compressors, 0.2 MB

    # A node without stored data may run without its folder.
    if not os.path.isdir(folder):
        folder = "."
    disk = disk_usage(folder)
    return disk.total, disk.free


class AdminParts(Struct, frozen=True):
    """The services that the routes of the admin page use."""

    finder: Finder
    live: LiveConnections
    nodes: Nodes


def build(core: Core) -> Parts:
    """Build the services of the admin page on a node."""
    live = LiveConnections(core)
    return Parts((AdminParts(Finder(core, live), live, Nodes(core)),))
