"""The node: its parts, run. The composition root of one process."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Mapping
from time import monotonic, time

import gevent
from gevent.event import Event as Signal

from imserver import errors
from imserver.auth.tenants import Tenant
from imserver.clock import until_beat
from imserver.cluster.registry import Lease, node_name
from imserver.config import Config
from imserver.doors import Application, Doors, bind_all
from imserver.errors import StartError
from imserver.exposure import refuse_open_demo
from imserver.hub.expiry import Pings
from imserver.logs import RequestLog
from imserver.parts import Parts, hosts_of
from imserver.transport.connection import OPEN
from imserver.transport.gate import host_of

log = logging.getLogger(__name__)

_GC_THRESHOLDS = (50_000, 20, 100)
_TICK_SECONDS = 1.0
_CLOSES_PER_TURN = 200
_WEBHOOK_SECONDS = 2.0
"""Time for back ends to be told of the last events."""
_KILL_SECONDS = 5.0
"""Time for the periodic work to end."""
_LAST_REQUESTS_SECONDS = 2.0
"""Time for requests that were under way when the drain began."""


class Node(Parts):
    """One process: its parts, and their life from the first listener to the end of the drain.

    ``create_application`` makes the WSGI application of this node (pages and the routes that the front does
    not answer itself). ``listeners`` are sockets that listen already, ``"http"`` and ``"websocket"``, where
    somebody else has made them; the node closes them at its end. Without them it binds its own.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        create_application: Callable[[Node], Application],
        listeners: Mapping[str, socket.socket] | None = None,
    ) -> None:
        super().__init__(config, request_log)
        self._reread = config
        """The configuration as it was read last."""
        self._create_application = create_application
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._listeners = listeners
        self._stopped = Signal()
        self._unwatch_collector: Callable[[], None] = lambda: None
        self._ready = False

    def prepare(self) -> None:
        """Build all parts but the listeners: what an application under a foreign server needs.

        Raises :class:`StartError` with one clear line if that is impossible.
        """
        self.build()
        self.application = self._create_application(self)
        self.doors = Doors(
            self.config,
            self.carrier,
            self.gate,
            self.metrics,
            self.api,
            self.application,
            self.request_log,
            self.streams,
        )
        self._open_store()

    def _open_store(self) -> None:
        """Learn what is kept: apps, and keys. Raises StartError."""

        def secrets_end_demo(tenant: Tenant) -> None:
            if tenant.jwt and tenant.stored:
                self.keys.close()

        def demo_ended() -> None:
            log.info("demo mode is over: requests need a key")
            self._keep_limits()

        self.store.on_changes.append(self.keys.learn)
        self.tenants.on_change.append(secrets_end_demo)
        self.keys.on_closed.append(demo_ended)
        self.store.start()

    # --- running --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Build everything, listen and serve. Raises :class:`StartError` with one clear line."""
        sockets = self._listeners or bind_all(self.config)
        try:
            self.prepare()
            refuse_open_demo(self.config, self.keys.closed)
            self.doors.announce(sockets)
            self.http_port, self.ws_port = self.doors.ports["http"], self.doors.ports["websocket"]
            self.join()
        except StartError:
            for sock in sockets.values():
                sock.close()
            self.store.close()
            self.data.stop()
            raise
        self.doors.open(sockets)
        self.run()

    def join(self) -> None:
        """Become one of many, if this node is to be; before anybody can connect. Raises StartError."""
        config = self.config
        if self.cluster is not None:
            self.cluster.start(config.server.public_ws_url, self.http_port)
            return
        self.registry.start(
            Lease(
                node_name(config.cluster.advertise, config.app.rpc_port),
                started_at=self.started_at,
                host=socket.gethostname(),
                public_ws_url=config.server.public_ws_url,
                birth=self.ids.birth,
            )
        )

    def run(self) -> None:
        """Start the periodic work. Everything that was built lives long: keep the collector off it."""
        sweep, config = self.sweep, self.config
        self._greenlets.append(gevent.spawn(sweep.run_sweeps, config.websocket.sweep_seconds))
        if config.websocket.ping_seconds:
            self._greenlets.append(gevent.spawn(sweep.run_pings))
        pings = Pings(
            self.carrier,
            self.metrics,
            config.websocket.client_ping_seconds,
            config.websocket.client_silent_seconds,
        )
        self._greenlets.append(gevent.spawn(pings.run))
        self._greenlets.append(gevent.spawn(self._tick))
        self._greenlets.append(gevent.spawn(self.store.run))
        self._greenlets.append(gevent.spawn(self.pending.run))
        self._greenlets.append(gevent.spawn(self.messaging.follower.run))
        self._greenlets.append(gevent.spawn(self.messaging.catch_up.run_acks))
        self._greenlets.append(gevent.spawn(self.retention.run))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        # Who has spawned whom nobody asks; to note it takes two thirds of what a greenlet costs.
        gevent.config.track_greenlet_tree = False
        self._unwatch_collector = self.metrics.watch_collector()
        self._ready = True

    def serve_forever(self) -> None:
        """Return when :meth:`stop` is done."""
        self._stopped.wait()

    def _tick(self) -> None:
        """Greenlet: what is looked at once a second, and how late the second came (the loop's lag)."""
        while True:
            pause = until_beat(_TICK_SECONDS)
            expected = monotonic() + pause
            gevent.sleep(pause)
            now = monotonic()
            self.hub.now = int(time())
            self.metrics.lagged(max(now - expected, 0.0))
            self._report()
            if self.cluster is not None:
                self.cluster.sessions.count_elsewhere()
                self.cluster.database.check()
            self.flusher.expire()
            self.carrier.expire()
            self.logins.expire()
            self.doors.expire()
            self.metrics.slow_readers = self.flusher.slow_readers
            self.metrics.outbox_bytes_now = self.flusher.budget.total

    def _report(self) -> None:
        """Tell the registry how this node is."""
        unsettled = self.cluster is not None and self.cluster.rooms.registrar.unsettled()
        connections, counts = len(self.carrier.connections), self.report.counts()
        self.registry.report(connections, counts, self.draining, unsettled)

    # --- stopping -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain: take nothing new, finish what was begun, close clients with 1001, paced; then end."""
        if self.draining:
            return
        self.draining = True
        self._ready = False
        self._report()
        drain = self.config.drain
        gevent.sleep(drain.delay_seconds)
        self.gate.full = True
        self.doors.drain()
        self._wait_while(lambda: self.doors.busy, _LAST_REQUESTS_SECONDS)
        self._close_clients(drain.close_seconds)
        self._wait_while(lambda: bool(self.carrier.connections), self.config.websocket.close_seconds + 1)
        for connection in tuple(self.carrier.connections):
            connection.lost()
        self.webhooks.stop(_WEBHOOK_SECONDS)
        self.doors.close()
        if self.cluster is not None:
            self.cluster.stop()
        else:
            self.registry.stop()
        self._end_greenlets()
        self._unwatch_collector()
        self.poller.close()
        self.request_log.flush()
        self.accounts.close()
        self.uploads.close()
        self.store.close()
        self.data.stop()
        self._stopped.set()

    def _end_greenlets(self) -> None:
        """End the periodic work. One that is killed inside a driver of a database may see its end turned into
        a failure of the connection, and go on: it is killed again."""
        deadline = monotonic() + _KILL_SECONDS
        while self._greenlets and monotonic() < deadline:
            gevent.killall(self._greenlets, block=False)
            gevent.joinall(self._greenlets, timeout=0.2)
            self._greenlets = [each for each in self._greenlets if not each.dead]

    def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when ``condition`` has ended, or after ``seconds``."""
        deadline = monotonic() + seconds
        while condition() and monotonic() < deadline:
            gevent.sleep(0.01)

    def _close_clients(self, seconds: float) -> None:
        """Close everybody with 1001, spread over ``seconds`` so that they do not come back all at once."""
        clients = [c for c in self.carrier.connections if c.state == OPEN]
        turns = -(-len(clients) // _CLOSES_PER_TURN)
        pause = max(seconds / turns if turns > 1 else 0.0, 0.001)
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
            connection.close(errors.CLOSE_GOING_AWAY, errors.CLOSE[errors.CLOSE_GOING_AWAY].name)

    @property
    def addresses(self) -> dict[str, str]:
        """What is reached where, for people."""
        return self.doors.addresses

    # --- being asked ----------------------------------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Take over keys, apps, origins, limits (SIGHUP); everything else needs a restart. Drops nobody."""
        self._reread = config
        self.tenants.reload(config)
        self.keys.reload(config)
        self.page_tokens.reload(config)
        self.allowed.learn(self.tenants.all())
        self.logins.reload()
        self._keep_limits()
        self.store.look_again()
        # Those that are closing have been counted out.
        self.gate.recount(host_of(c.peer) for c in self.carrier.connections if c.state == OPEN)

    def _keep_limits(self) -> None:
        config = self._reread
        self.api.reload(config)
        self.gate.set_policy(
            config.limits.max_connections or self.max_connections,
            config.limits.max_connections_per_address,
            config.server.origin_policy == "any",
            config.server.origins,
            self.keys.demo,
            hosts_of(config),
        )

    def ready(self) -> bool:
        """Whether this node can do its work."""
        one = self.cluster is None or not self.cluster.database.wrong
        return self._ready and self.registry.healthy() and self.store.healthy() and one
