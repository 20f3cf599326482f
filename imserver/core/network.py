"""The sockets of a node: who reads and writes them, and who closes the silent ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gevent.hub import get_hub
from msgspec import Struct

from imserver.config.settings import Config
from imserver.hub.expiry import Sweep
from imserver.metrics import Metrics
from imserver.process import connection_limit, openable_files
from imserver.transport import poller
from imserver.transport.connection import Connection, ConnectionContext
from imserver.transport.outbox import Budget, Flusher
from imserver.transport.poller import Poller

log = logging.getLogger(__name__)


class Network(Struct, frozen=True):
    """``max_connections``: as many as this process may open files for."""

    max_connections: int
    poller: Poller
    flusher: Flusher
    context: ConnectionContext
    sweep: Sweep


def build_network(
    config: Config,
    metrics: Metrics,
    ended: Callable[[Connection, int], None],
    ponged: Callable[[Connection, bytes], None],
) -> Network:
    """Build it. ``ended`` hears of each connection that has ended, ``ponged`` of each pong.

    Raises StartError if a limit is above what the process may open.
    """
    max_connections = connection_limit(config)
    log.info("this process may open %d files", openable_files())
    loop, limits, websocket = get_hub().loop, config.limits, config.websocket
    readers = poller.make(loop, config.hub.readers)
    budget = Budget(limits.node_outbox_bytes)
    flusher = Flusher(loop, config.hub.flush_connections, limits.outbox_bytes, limits.outbox_seconds, budget)
    context = ConnectionContext(readers, flusher, ended, websocket.close_seconds, ponged)
    sweep = Sweep(
        context,
        metrics,
        websocket.heartbeat_seconds,
        limits.login_seconds,
        websocket.ping_seconds,
        websocket.pong_seconds,
    )
    return Network(max_connections, readers, flusher, context, sweep)
