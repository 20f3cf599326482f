"""Builds the network services of a node: admission, reading and writing, and
the closing of silent connections. It also drains a node: at its end, or while
an operator wants no clients there."""

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from msgspec import field

from imserver.gateway.config.settings import Config
from imserver.gateway.core.services import NetworkServices, NodeState, OnEnded, Services
from imserver.gateway.errors import CloseCode
from imserver.gateway.hub.expiry import Sweep
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Service
from imserver.gateway.process import connection_limit, openable_files
from imserver.gateway.push.routing import RETURN_SECONDS
from imserver.gateway.transport import poller
from imserver.gateway.transport.connection import Connection, ConnectionContext
from imserver.gateway.transport.gate import Gate, GatePolicy, Origins
from imserver.gateway.transport.outbox import Budget, Flusher
from imserver.gateway.transport.proxies import TrustedProxies

log = logging.getLogger(__name__)


def gate_policy(config: Config, max_connections: int, demo: bool) -> GatePolicy:
    """Make the rules of the gate, which decides whom to let in, from settings.

    ``config`` may be newer than at the start. ``max_connections`` is the limit
    of this node. ``demo`` says whether the server is in demo mode.
    """
    server = config.server
    return GatePolicy(
        limit=max_connections,
        limit_per_address=config.limits.max_connections_per_address,
        any_origin=server.origin_policy == "any",
        origins=server.origins,
        demo=demo,
        hosts=_own_addresses(config),
    )


def _own_addresses(config: Config) -> tuple[str, ...]:
    """List the addresses and hosts of the server.

    Pages of these hosts may always connect.
    """
    server = config.server
    hosts = [server.host]
    hosts += [row.host for row in server.extra_listen]
    hosts += [row.host for row in server.extra_hosts]
    addresses = [config.app.http_url, config.app.websocket_url, server.public_ws_url]
    for host in hosts:
        if ":" in host:
            # An address such as "::" needs brackets as a host name.
            addresses.append(f"[{host}]")
        else:
            addresses.append(host)
    return tuple(addresses)


def build_network(
    config: Config, node: NodeState, metrics: Metrics, proxies: TrustedProxies
) -> NetworkServices:
    """Build the sockets of a node, and set the limit of connections.

    Ends of connections are reported to nobody until the list ``ended`` gets
    functions. Raises StartError if a limit exceeds the number of files that the
    process may open.
    """
    # Who may connect: the gate counts, and checks the pages of browsers.
    node.max_connections = connection_limit(config)
    log.info("this process may open %d files", openable_files())
    websocket = config.websocket
    policy = gate_policy(config, node.max_connections, config.demo)
    origins = Origins(proxies, policy)
    gate = Gate(proxies, origins, websocket.deflate, policy)
    ended: list[OnEnded] = []
    end = _make_end(gate, ended)

    # Who reads and writes: a connection has no greenlet of its own.
    readers = poller.make(get_hub().loop, config.hub.readers)
    flusher = _make_flusher(config, readers)
    context = ConnectionContext(readers, flusher, end, websocket.close_seconds)
    sweep = _make_sweep(config, context, metrics)
    return NetworkServices(
        origins=origins,
        gate=gate,
        poller=readers,
        flusher=flusher,
        context=context,
        sweep=sweep,
        opened={},
        ended=ended,
    )


def _make_end(gate: Gate, listeners: Iterable[OnEnded]) -> OnEnded:
    """Make the function that is called when a connection has ended.

    ``listeners`` may get more functions later.
    """

    def end(connection: Connection, code: int) -> None:
        """Report the end of a connection to the gate, the log and the
        listeners.

        ``code`` is its close code. Never switches greenlets.
        """
        gate.left(connection.peer)
        if log.isEnabledFor(logging.DEBUG):
            _log_end(connection, code)
        for listener in listeners:
            listener(connection, code)

    return end


def _make_flusher(config: Config, readers: poller.Poller) -> Flusher:
    """Make the object that writes the frames that wait in outboxes."""
    limits = config.limits
    return Flusher(
        loop=get_hub().loop,
        poller=readers,
        most=config.hub.flush_connections,
        outbox_bytes=limits.outbox_bytes,
        outbox_seconds=limits.outbox_seconds,
        budget=Budget(limits.node_outbox_bytes),
    )


def _make_sweep(config: Config, context: ConnectionContext, metrics: Metrics) -> Sweep:
    """Make the object that closes connections on which nobody answers."""
    websocket = config.websocket
    return Sweep(
        context=context,
        metrics=metrics,
        heartbeat_seconds=websocket.heartbeat_seconds,
        login_seconds=config.limits.login_seconds,
        ping_seconds=websocket.ping_seconds,
        pong_seconds=websocket.pong_seconds,
    )


def _log_end(connection: Connection, code: int) -> None:
    """Log the end of a connection, with its user if somebody was logged
    in."""
    who = ""
    if connection.user is not None:
        who = f" of {connection.user} in {connection.app}"
    log.debug(
        "connection%s closed: code %d",
        who,
        code,
        extra={"connection": connection.peer},
    )


_CLOSES_PER_TURN: Final = 200
"""Limit of the clients that are closed before the loop serves others."""
_LEAST_PAUSE_SECONDS: Final = 0.001
_WAIT_PAUSE_SECONDS: Final = 0.01
"""Time between two checks of a condition."""


class Draining(Service):
    """Closes the clients of this node, which then go to other nodes.

    The node does so at its end, or when an operator drains it. This class owns
    :attr:`NodeState.drained`.
    """

    core: Services
    _on_drained: list[Callable[[], object]] = field(default_factory=list)

    def report_to(self, drained: Callable[[], object]) -> None:
        """Add a function that is called before the connections of clients end.

        The servers have finished their requests by then.
        """
        self._on_drained.append(drained)

    def end_work(self) -> None:
        """Let features end their work for clients. Switches greenlets."""
        for end_work_of_feature in self._on_drained:
            end_work_of_feature()

    def close_clients(self) -> None:
        """Close all clients at the end of the node. Switches greenlets.

        The close code is 1001. The closes are spread over time, so that the
        clients do not all reconnect at once. Pushes that these clients have not
        received yet follow them to their next node.
        """
        connections = self.core.network.context.connections
        rerouting = self.core.rerouting
        self._set_return_seconds(RETURN_SECONDS)
        self._close_all_clients(lambda: True)
        # This is a second longer than a client has for its own close frame.
        close_seconds = self.core.config.websocket.close_seconds
        wait_while(lambda: bool(connections), close_seconds + 1)
        # The remaining clients have not answered.
        for connection in tuple(connections):
            connection.lost()
        if rerouting is not None:
            wait_while(lambda: rerouting.waiting, RETURN_SECONDS)

    def drain(self) -> None:
        """Refuse new clients, and close the others, for an operator.

        The node continues, and answers requests. Switches greenlets.
        """
        node = self.core.node
        if node.drained:
            return
        node.drained = True
        # A load balancer has this time to notice that the node is not ready.
        gevent.sleep(self.core.config.drain.delay_seconds)
        # An operator may have called undrain() while this greenlet slept.
        if not node.drained:
            return
        self.core.network.gate.full = True
        self.end_work()
        self._set_return_seconds(RETURN_SECONDS)
        self._close_all_clients(lambda: node.drained)
        if node.drained:
            self.core.pending.pass_on()

    def undrain(self) -> None:
        """Serve clients again. Never switches greenlets."""
        self.core.node.drained = False
        self._set_return_seconds(0.0)  # pushes no longer wait
        self.core.network.gate.full = self.core.node.life == "stops"

    def _set_return_seconds(self, seconds: float) -> None:
        """Set how long pushes wait for clients that were closed here.

        Within this time such a client is expected on any node.
        """
        if self.core.rerouting is not None:
            self.core.rerouting.patience = seconds

    def _close_all_clients(self, is_wanted: Callable[[], bool]) -> None:
        """Begin to close all clients, in turns with pauses.

        Ends early when ``is_wanted`` returns False. Switches greenlets.
        """
        connections = self.core.network.context.connections
        clients = [connection for connection in connections if connection.is_open]
        pause = self._pause_between_turns(len(clients))
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
                if not is_wanted():
                    return
            connection.close(CloseCode.GOING_AWAY)

    def _pause_between_turns(self, clients: int) -> float:
        """Return the seconds between two turns, so that all turns together take
        the time that the setting allows."""
        turns = -(-clients // _CLOSES_PER_TURN)  # rounded up
        if turns <= 1:
            return _LEAST_PAUSE_SECONDS
        return max(self.core.config.drain.close_seconds / turns, _LEAST_PAUSE_SECONDS)


def wait_while(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until ``condition`` is false, at most ``seconds``.

    Switches greenlets.
    """
    deadline = monotonic() + seconds
    while condition() and monotonic() < deadline:
        gevent.sleep(_WAIT_PAUSE_SECONDS)
