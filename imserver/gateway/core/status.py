"""The status of a node: its state, its lease, and whether it can serve
clients."""

from __future__ import annotations

import os
from time import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from gevent import Greenlet
from msgspec import Struct, to_builtins
from msgspec.structs import asdict, replace

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.core.services import Services
from imserver.gateway.metrics import resident_bytes
from imserver.gateway.model import Service
from imserver.gateway.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.gateway.core.cluster import DatabaseCheck

_greenlets: WeakSet[Greenlet[..., Any]] = WeakSet()
"""All greenlets of this process that have not been freed."""
Greenlet.add_spawn_callback(_greenlets.add)


class Unready(Struct, frozen=True, omit_defaults=True):
    """Why a node cannot serve clients.

    ``reason`` says why, in words. ``dependency`` is the service that does not
    answer, ``redis`` or ``database``; ``""`` if all answer. ``stage`` is the
    part of the node that starts or ends now; ``""`` if the node serves.
    ``since`` is the Unix second at which the node noticed the reason, at most a
    second late.
    """

    reason: str
    dependency: str = ""
    stage: str = ""
    since: int = 0


class NodeStatus(Service):
    """Reads the state of the node from its services. Never switches greenlets.

    ``database`` compares the databases of all nodes; None on a node alone.
    ``_reason`` says why the node was not ready at the last check. ``""`` means
    that the node was ready. ``_since`` is the Unix second since which the node
    has been not ready for that reason.
    """

    core: Services
    database: DatabaseCheck | None
    _reason: str = ""
    _since: int = 0

    def ready(self) -> bool:
        """Tell whether this node can serve clients."""
        return self.unready() is None

    def unready(self) -> Unready | None:
        """Return why this node cannot serve clients, or None if it can.

        The node also calls this method once a second, so that the time
        ``since`` is right.
        """
        objection = self._objection()
        if objection is None:
            self._reason = ""
            return None
        if objection.reason != self._reason:
            self._reason = objection.reason
            self._since = int(time())
        return replace(objection, since=self._since)

    def _objection(self) -> Unready | None:
        """Find out why this node cannot serve clients, without the time.

        If several reasons hold at once, the first one is returned. The result
        is None if the node can serve clients.
        """
        node = self.core.node
        # Here ``life`` is "starts" or "stops". So the reason is "it starts" or
        # "it stops".
        if node.life != "serves":
            return Unready(f"it {node.life}", stage=node.stage)
        if node.drained:
            return Unready("it is drained")
        if not self.core.registry.healthy():
            return Unready("Redis is away, or the lease is lost", "redis")
        if not self.core.store.healthy():
            return self._unready_database()
        if self.database is not None and self.database.wrong:
            return Unready("the database is not that of the cluster", "database")
        return None

    def _unready_database(self) -> Unready:
        """Say whether the database does not answer, or only refuses writes."""
        state = "is away"
        if self.core.store.answers():
            state = "takes no writes: its disk is full or fails, or it is read-only"
        return Unready(f"the database {state}", "database")

    def lease(self) -> Lease:
        """Return the current lease of this node, with its load.

        On a single node only operators see it.
        """
        return replace(
            self.core.registry.lease,
            connections=len(self.core.network.context.connections),
            counts=self.counts(),
            draining=self.core.node.draining,
        )

    def counts(self) -> dict[str, int]:
        """Count the users of each registered app on this node.

        Apps without users are left out.
        """
        apps = self.core.hub.registered()
        return {app.name: len(app.users) for app in apps if app.users}

    def _manager_state(self, apps: dict[str, int]) -> dict[str, Any]:
        """Count clients, under the names of the original server.

        ``apps`` is app → number of its users. The queues of the original are
        not here, so the lengths of similar queues stand for them.
        """
        network = self.core.network
        flusher = network.flusher
        # Connections whose outbox is written at the end of this turn.
        written = sum(isinstance(writer, Connection) for writer in flusher.dirty)
        return {
            "chanBroadcastLen": written + len(flusher.bulk),
            "chanLoginLen": 0,
            "chanRegisterLen": len(network.poller.ready),
            "chanUnregisterLen": len(network.context.closing),
            "clientsLen": len(self.core.hub.connections()),
            "usersLen": sum(apps.values()),
        }

    def _clients_and_users(self) -> dict[str, Any]:
        """List the addresses of all clients, and all users as ``APP_USER``."""
        hub = self.core.hub
        users: list[str] = []
        for name in hub.apps:
            users += [f"{name}_{user}" for user in hub.user_names(name)]
        clients = [connection.peer for connection in hub.connections()]
        return {"clients": clients, "users": users}

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """Return the content of ``/system/state``.

        With ``debug``, it has all peers and users. With ``detail``, it has
        fields that the original server does not have.
        """
        apps = {name: len(app.users) for name, app in self.core.hub.apps.items()}
        # The original server shows these three fields, with Go's word for
        # greenlets.
        manager = self._manager_state(apps)
        if debug:
            manager |= self._clients_and_users()
        state: dict[str, Any] = {
            "managerInfo": manager,
            "numCPU": os.cpu_count() or 1,
            "numGoroutine": sum(not greenlet.dead for greenlet in _greenlets),
        }
        if detail:
            state |= self._details(apps)
        return state

    def _details(self, apps: dict[str, int]) -> dict[str, Any]:
        """Return the fields of the state that the original server does not
        have.

        ``apps`` is app → number of its users.
        """
        node = self.core.node
        times = os.times()
        return {
            "apps": apps,
            "version": node.version,
            **self._readiness(),
            "clustered": self.database is not None,
            "maxConnections": self.core.network.gate.limit,
            "uptimeSeconds": round(time() - node.started_at, 1),
            "cpuSeconds": round(times.user + times.system, 3),
            "memoryBytes": resident_bytes(),
            "metrics": self._counters(),
            "msgIDs": self._message_ids(),
        }

    def _readiness(self) -> dict[str, Any]:
        """Say whether this node can serve clients, and if not, why."""
        unready = self.unready()
        if unready is None:
            return {"ready": True}
        return {"ready": False, "unready": to_builtins(unready)}

    def _message_ids(self) -> dict[str, int]:
        """Count the ids of messages that this node remembers."""
        ids = self.core.idempotency
        return {"kept": len(ids), "repeats": ids.repeats, "evicted": ids.evicted}

    def _counters(self) -> dict[str, Any]:
        """Return the counters of the core, then the counters of features."""
        numbers = self.core.metrics.snapshot()
        for counters in self.core.node.counters:
            numbers |= asdict(counters)
        return numbers
