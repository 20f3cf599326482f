"""Builds the sockets of a node: who may connect, who reads and writes, and who closes the silent ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gevent.hub import get_hub

from imserver.config.settings import Config
from imserver.core.services import NetworkServices, NodeState, OnEnded
from imserver.hub.expiry import Sweep
from imserver.process import connection_limit, openable_files
from imserver.transport import poller
from imserver.transport.connection import Connection, ConnectionContext
from imserver.transport.dispatch import Dispatcher
from imserver.transport.gate import Gate, GatePolicy, Origins
from imserver.transport.outbox import Budget, Flusher
from imserver.transport.outgoing import Outgoing
from imserver.transport.proxies import TrustedProxies

log = logging.getLogger(__name__)


def gate_policy(config: Config, max_connections: int, demo: bool) -> GatePolicy:
    """Limits and origins of ``config``, which may be newer than at the start."""
    server, app = config.server, config.app
    addresses = (app.http_url, app.websocket_url, server.public_ws_url)
    # The address "::" needs brackets as a host name.
    extra = (*(row.host for row in server.extra_listen), *(row.host for row in server.extra_hosts))
    hosts = (server.host, *extra)
    return GatePolicy(
        max_connections,
        config.limits.max_connections_per_address,
        server.origin_policy == "any",
        server.origins,
        demo,
        (*addresses, *(f"[{host}]" if ":" in host else host for host in hosts)),
    )


def build_network(config: Config, node: NodeState) -> NetworkServices:
    """Build it, and set the limit of connections. Nobody hears yet of connections that end.

    Raises StartError if a limit is above what the process may open.
    """
    node.max_connections = connection_limit(config)
    log.info("this process may open %d files", openable_files())
    policy = gate_policy(config, node.max_connections, config.demo)
    proxies = TrustedProxies(config.server.trusted_proxies)
    origins = Origins(proxies, policy)
    gate = Gate(proxies, origins, config.websocket.deflate, policy)
    ended: list[OnEnded] = []
    loop, limits, websocket = get_hub().loop, config.limits, config.websocket
    readers = poller.make(loop, config.hub.readers)
    budget = Budget(limits.node_outbox_bytes)
    flusher = Flusher(
        loop, readers, config.hub.flush_connections, limits.outbox_bytes, limits.outbox_seconds, budget
    )
    context = ConnectionContext(readers, flusher, _end(gate, ended), websocket.close_seconds)
    sweep = Sweep(
        context,
        node.metrics,
        websocket.heartbeat_seconds,
        limits.login_seconds,
        websocket.ping_seconds,
        websocket.pong_seconds,
    )
    return NetworkServices(
        proxies=proxies,
        origins=origins,
        gate=gate,
        poller=readers,
        flusher=flusher,
        context=context,
        sweep=sweep,
        outgoing=Outgoing(),
        dispatcher=Dispatcher(node.metrics),
        opened={},
        ended=ended,
        forgotten=[],
    )


def _end(gate: Gate, listeners: list[OnEnded]) -> Callable[[Connection, int], None]:
    def end(connection: Connection, code: int) -> None:
        gate.left(connection.peer)
        if log.isEnabledFor(logging.DEBUG):
            who = f" of {connection.user} in {connection.app}" if connection.user is not None else ""
            log.debug("connection%s closed: code %d", who, code, extra={"connection": connection.peer})
        for ended in listeners:
            ended(connection, code)

    return end
