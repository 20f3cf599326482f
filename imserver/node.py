"""The node: its parts, and their life in one ordered list. The composition root of one process."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import gevent
from gevent.event import Event as Signal

from imserver import errors
from imserver.auth.tenants import Tenant
from imserver.clock import until_beat
from imserver.cluster.registry import Lease, node_name
from imserver.config.settings import Config
from imserver.errors import StartError
from imserver.exposure import refuse_open_demo
from imserver.hub.expiry import Pings
from imserver.logging import RequestLog
from imserver.parts import Parts, hosts_of
from imserver.servers import Application, bind_all
from imserver.transport.connection import OPEN
from imserver.transport.gate import host_of

log = logging.getLogger(__name__)

_GC_THRESHOLDS = (50_000, 20, 100)
_TICK_SECONDS = 1.0
_CLOSES_PER_TURN = 200
_WEBHOOK_SECONDS = 2.0
"""Time for the last webhook events to be sent."""
_KILL_SECONDS = 5.0
"""Time for the periodic work to end."""
_LAST_REQUESTS_SECONDS = 2.0
"""Time for requests that were under way when the drain began."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Stage:
    """What one part does in the life of its node.

    Parts are set up, then started, in the order of :meth:`Node._stages`; they drain, then stop, in the
    reverse order. ``setup`` reads what is stored and may raise :class:`StartError`, as ``start`` may;
    ``drain`` finishes what was begun and takes nothing new; all of them may switch.
    """

    name: str
    setup: Callable[[], object] = _nothing
    start: Callable[[], object] = _nothing
    drain: Callable[[], object] = _nothing
    stop: Callable[[], object] = _nothing


class PeriodicWork:
    """Greenlets that run from the start of a node to its end. Owner of them."""

    def __init__(self, *runs: Callable[[], None]) -> None:
        self._runs = runs
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Start all of them."""
        self._greenlets = [gevent.spawn(run) for run in self._runs]

    def stop(self) -> None:
        """End all of them, within :data:`_KILL_SECONDS`.

        A greenlet that is killed inside a database driver may see that as a failure of its connection, and go
        on. So it is killed again.
        """
        deadline = monotonic() + _KILL_SECONDS
        while self._greenlets and monotonic() < deadline:
            gevent.killall(self._greenlets, block=False)
            gevent.joinall(self._greenlets, timeout=0.2)
            self._greenlets = [each for each in self._greenlets if not each.dead]


class Node:
    """One process: its parts, and their life from the first listener to the end of the drain.

    ``create_application`` makes the WSGI application of this node (pages, and the routes that the front
    server does not answer itself). ``listeners`` are sockets that listen already, ``"http"`` and
    ``"websocket"``, where somebody else has made them; the node closes them at its end. Without them it binds
    its own.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        create_application: Callable[[Parts], Application],
        listeners: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.parts = Parts(config, request_log)
        self._reread = config
        """The configuration as it was read last."""
        self._create_application = create_application
        self._listeners = listeners
        self._sockets: Mapping[str, socket.socket] = {}
        self._stages: tuple[Stage, ...] = ()
        self._stopped = Signal()

    def _make_stages(self) -> tuple[Stage, ...]:
        """The parts that have a life of their own, in the order in which they start."""
        parts, cluster = self.parts, self.parts.cluster
        return (
            Stage("data folder", stop=parts.data.stop),
            Stage("store", setup=parts.store.start, stop=parts.store.close),
            Stage("uploads", stop=parts.uploads.close),
            Stage("accounts", stop=parts.accounts.close),
            Stage("request log", stop=parts.request_log.flush),
            Stage("connections", drain=self._close_clients, stop=parts.poller.close),
            Stage(
                "registry", start=self._join, stop=parts.registry.stop if cluster is None else cluster.stop
            ),
            Stage("servers", start=self._listen, drain=self._drain_servers, stop=parts.servers.close),
            self._periodic_work(),
            self._garbage_collector(),
            Stage("webhooks", stop=lambda: parts.webhooks.stop(_WEBHOOK_SECONDS)),
        )

    def _periodic_work(self) -> Stage:
        parts = self.parts
        settings = parts.config.websocket
        pings = Pings(
            parts.context, parts.metrics, settings.client_ping_seconds, settings.client_silent_seconds
        )
        work = PeriodicWork(
            lambda: parts.sweep.run_sweeps(settings.sweep_seconds),
            *([parts.sweep.run_pings] if settings.ping_seconds else []),
            pings.run,
            self._tick,
            parts.store.run,
            parts.pending.run,
            parts.messaging.follower.run,
            parts.messaging.catch_up.run_acks,
            parts.retention.run,
        )
        return Stage("periodic work", start=work.start, stop=work.stop)

    def _garbage_collector(self) -> Stage:
        """Everything that was built lives long: keep the collector off it."""
        unwatch: list[Callable[[], None]] = []

        def start() -> None:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            # Nobody asks which greenlet has spawned which; to note it takes two thirds of a greenlet's cost.
            gevent.config.track_greenlet_tree = False
            unwatch.append(self.parts.metrics.watch_collector())

        return Stage("garbage collector", start=start, stop=lambda: [call() for call in unwatch])

    # --- starting -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Build everything, listen and serve. Raises :class:`StartError` with one clear line."""
        self._sockets = self._listeners or bind_all(self.parts.config)
        try:
            self._set_up()
            refuse_open_demo(self.parts.config, self.parts.keys.closed)
            self.parts.announce(self._sockets)
            self._start_stages()
        except StartError:
            for sock in self._sockets.values():
                sock.close()
            self.parts.store.close()
            self.parts.data.stop()
            raise

    def start_without_listeners(self) -> None:
        """The same under a foreign server, which listens itself. Raises :class:`StartError`."""
        self._set_up()
        self._start_stages()

    def _set_up(self) -> None:
        """Build all parts and read what is stored. Raises StartError."""
        parts = self.parts
        parts.build(self._create_application)

        def secrets_end_demo(tenant: Tenant) -> None:
            if tenant.jwt and tenant.stored:
                parts.keys.close()

        def demo_ended() -> None:
            log.info("demo mode is over: requests need a key")
            self._keep_limits()

        parts.store.on_changes.append(parts.keys.learn)
        parts.tenants.on_change.append(secrets_end_demo)
        parts.keys.on_closed.append(demo_ended)
        self._stages = self._make_stages()
        for stage in self._stages:
            stage.setup()

    def _start_stages(self) -> None:
        for stage in self._stages:
            stage.start()
        self.parts.serving = True

    def _join(self) -> None:
        """Take a lease, in a cluster one that the other nodes see; before anybody can connect."""
        parts, config = self.parts, self.parts.config
        if parts.cluster is not None:
            parts.cluster.start(config.server.public_ws_url, parts.http_port)
            return
        parts.registry.start(
            Lease(
                node_name(config.cluster.advertise, config.app.rpc_port),
                started_at=parts.started_at,
                host=socket.gethostname(),
                public_ws_url=config.server.public_ws_url,
                birth=parts.ids.birth,
            )
        )

    def _listen(self) -> None:
        self.parts.servers.open(self._sockets)

    def serve_forever(self) -> None:
        """Return when :meth:`stop` is done."""
        self._stopped.wait()

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the servers, for people."""
        return self.parts.servers.addresses

    # --- each second ----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Greenlet: once a second, look at what has a deadline, and at how late the loop is."""
        parts = self.parts
        while True:
            pause = until_beat(_TICK_SECONDS)
            expected = monotonic() + pause
            gevent.sleep(pause)
            now = monotonic()
            parts.hub.now = int(time())
            parts.metrics.lagged(max(now - expected, 0.0))
            self._report()
            if parts.cluster is not None:
                parts.cluster.sessions.count_elsewhere()
                parts.cluster.database.check()
            parts.flusher.expire()
            parts.context.expire()
            parts.logins.expire()
            parts.servers.expire()
            parts.metrics.slow_readers = parts.flusher.slow_readers
            parts.metrics.outbox_bytes_now = parts.flusher.budget.total

    def _report(self) -> None:
        """Report the state of this node to the registry."""
        parts = self.parts
        unsettled = parts.cluster is not None and parts.cluster.rooms.registrar.unsettled()
        parts.registry.report(len(parts.context.connections), parts.counts(), parts.draining, unsettled)

    # --- stopping -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain: take nothing new, finish what was begun, close clients with 1001, paced; then end."""
        parts = self.parts
        if parts.draining:
            return
        parts.draining = True
        parts.serving = False
        self._report()
        gevent.sleep(parts.config.drain.delay_seconds)
        for stage in reversed(self._stages):
            stage.drain()
        for stage in reversed(self._stages):
            stage.stop()
        self._stopped.set()

    def _drain_servers(self) -> None:
        self.parts.gate.full = True
        self.parts.servers.drain()
        _wait_while(lambda: self.parts.servers.busy, _LAST_REQUESTS_SECONDS)

    def _close_clients(self) -> None:
        """Close all clients with 1001, spread over time so that they do not come back all at once."""
        connections, config = self.parts.context.connections, self.parts.config
        clients = [c for c in connections if c.state == OPEN]
        turns = -(-len(clients) // _CLOSES_PER_TURN)
        pause = max(config.drain.close_seconds / turns if turns > 1 else 0.0, 0.001)
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
            connection.close(errors.CLOSE_GOING_AWAY, errors.CLOSE[errors.CLOSE_GOING_AWAY].name)
        _wait_while(lambda: bool(connections), config.websocket.close_seconds + 1)
        for connection in tuple(connections):
            connection.lost()

    # --- new settings ---------------------------------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Take over keys, apps, origins, limits (SIGHUP); everything else needs a restart. Drops nobody."""
        parts = self.parts
        self._reread = config
        parts.tenants.reload(config)
        parts.keys.reload(config)
        parts.page_tokens.reload(config)
        parts.allowed.learn(parts.tenants.all())
        parts.logins.reload()
        self._keep_limits()
        parts.store.look_again()
        # Those that are closing have been counted out.
        parts.gate.recount(host_of(c.peer) for c in parts.context.connections if c.state == OPEN)

    def _keep_limits(self) -> None:
        parts, config = self.parts, self._reread
        parts.api.reload(config)
        parts.gate.set_policy(
            config.limits.max_connections or parts.max_connections,
            config.limits.max_connections_per_address,
            config.server.origin_policy == "any",
            config.server.origins,
            parts.keys.demo,
            hosts_of(config),
        )


def _wait_while(condition: Callable[[], Any], seconds: float) -> None:
    """Return when ``condition`` has ended, or after ``seconds``."""
    deadline = monotonic() + seconds
    while condition() and monotonic() < deadline:
        gevent.sleep(0.01)
