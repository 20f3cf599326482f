"""What a node tells of itself: its state, its lease, and whether it can serve clients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from gevent import Greenlet
from msgspec import Struct
from msgspec.structs import asdict, replace

from imserver import __version__
from imserver.cluster.registry import Lease, Registry
from imserver.core.services import NetworkServices, NodeState
from imserver.hub.hub import Hub
from imserver.metrics import resident_bytes
from imserver.push.idempotency import Idempotency
from imserver.storage.store import Store
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.core.cluster import DatabaseCheck

_greenlets: WeakSet[Greenlet[..., Any]] = WeakSet()
"""All greenlets of this process that have not been freed."""
Greenlet.add_spawn_callback(_greenlets.add)


class NodeStatus:
    """Reads the state of the node off its services. ``counters``: of features. Never switches.

    ``database`` compares the databases of all nodes; None on a node alone.
    """

    def __init__(
        self,
        node: NodeState,
        network: NetworkServices,
        store: Store,
        registry: Registry,
        hub: Hub,
        idempotency: Idempotency,
        counters: Sequence[Struct],
        database: DatabaseCheck | None,
    ) -> None:
        self._node = node
        self._network = network
        self._store = store
        self._registry = registry
        self._hub = hub
        self._idempotency = idempotency
        self._counters = counters
        self._database = database

    def ready(self) -> bool:
        """Whether this node can serve clients."""
        return not self.unready()

    def unready(self) -> str:
        """Why this node cannot serve clients; ``""``: it can."""
        if not self._node.serving:
            return "it starts or stops"
        if self._node.paused:
            return "it is drained"
        if not self._registry.healthy():
            return "Redis is away, or the lease is lost"
        if not self._store.healthy():
            return "the database is away, or refuses writes"
        if self._database is not None and self._database.wrong:
            return "the database is not that of the cluster"
        return ""

    def lease(self) -> Lease:
        """The current lease of this node. On a single node only operators see it."""
        return replace(
            self._registry.lease,
            connections=len(self._network.context.connections),
            counts=self.counts(),
            draining=self._node.leaving,
        )

    def counts(self) -> dict[str, int]:
        """App → number of its users on this node, for registered apps with users."""
        return {app.name: len(app.users) for app in self._hub.registered() if app.users}

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """The content of ``/system/state``.

        ``debug``: with all peers and users. ``detail``: with fields that the original does not have.
        """
        network, connections = self._network, self._hub.connections()
        apps = {name: len(app.users) for name, app in self._hub.apps.items()}
        manager: dict[str, Any] = {
            "chanBroadcastLen": sum(isinstance(writer, Connection) for writer in network.flusher.dirty)
            + len(network.flusher.bulk),
            "chanLoginLen": 0,
            "chanRegisterLen": len(network.poller.ready),
            "chanUnregisterLen": len(network.context.closing),
            "clientsLen": len(connections),
            "usersLen": sum(apps.values()),
        }
        if debug:
            manager["clients"] = [connection.peer for connection in connections]
            manager["users"] = [f"{name}_{user}" for name in apps for user in self._hub.user_names(name)]
        state = {
            "managerInfo": manager,
            "numCPU": os.cpu_count() or 1,
            "numGoroutine": sum(not greenlet.dead for greenlet in _greenlets),
        }
        if not detail:
            return state
        of_features = {name: value for each in self._counters for name, value in asdict(each).items()}
        return {
            **state,
            "apps": apps,
            "version": __version__,
            "ready": self.ready(),
            "clustered": self._database is not None,
            "maxConnections": network.gate.limit,
            "uptimeSeconds": round(time() - self._node.started_at, 1),
            "cpuSeconds": round(sum(os.times()[:2]), 3),
            "memoryBytes": resident_bytes(),
            "metrics": {**self._node.metrics.snapshot(), **of_features},
            "msgIDs": {
                "kept": len(self._idempotency),
                "repeats": self._idempotency.repeats,
                "evicted": self._idempotency.evicted,
            },
        }
