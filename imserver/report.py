"""What a node says of itself: to the other nodes (its lease) and to operators (its state)."""

from __future__ import annotations

import os
from time import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from imserver import __version__
from imserver.cluster.registry import Lease
from imserver.metrics import resident_bytes
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.parts import Parts


class Report:
    """Reads the node's parts; owns nothing."""

    def __init__(self, node: Parts) -> None:
        self._node = node

    def lease(self) -> Lease:
        """What this node says of itself, as of now; one that is alone tells it nobody but operators."""
        node = self._node
        return replace(
            node.registry.lease,
            connections=len(node.carrier.connections),
            counts=self.counts(),
            draining=node.draining,
        )

    def counts(self) -> dict[str, int]:
        """Users here by app, of those registered apps that have any."""
        return {app.name: len(app.users) for app in self._node.hub.registered() if app.users}

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """What ``/system/state`` tells of this node.

        With ``debug`` also peers and users, one by one; with ``detail`` also what the original does not have.
        """
        node = self._node
        connections = node.hub.connections()
        apps = {name: len(app.users) for name, app in node.hub.apps.items()}
        manager: dict[str, Any] = {
            "chanBroadcastLen": sum(isinstance(writer, Connection) for writer in node.flusher.dirty)
            + len(node.flusher.bulk),
            "chanLoginLen": 0,
            "chanRegisterLen": len(node.poller.ready),
            "chanUnregisterLen": len(node.carrier.closing),
            "clientsLen": len(connections),
            "usersLen": sum(apps.values()),
        }
        if debug:
            manager["clients"] = [connection.peer for connection in connections]
            manager["users"] = [f"{name}_{user}" for name in apps for user in node.hub.user_names(name)]
        state = {
            "managerInfo": manager,
            "numCPU": os.cpu_count() or 1,
            "numGoroutine": node.poller.count + node.doors.running,
        }
        if not detail:
            return state
        return {
            **state,
            "apps": apps,
            "version": __version__,
            "ready": node.ready(),
            "clustered": node.cluster is not None,
            "maxConnections": node.gate.limit,
            "uptimeSeconds": round(time() - node.started_at, 1),
            "cpuSeconds": round(sum(os.times()[:2]), 3),
            "memoryBytes": resident_bytes(),
            "metrics": node.metrics.snapshot(),
            "msgIDs": {
                "kept": len(node.dedupe),
                "repeats": node.dedupe.repeats,
                "evicted": node.dedupe.evicted,
            },
        }
