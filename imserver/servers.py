"""The servers of a node: its listeners, and the HTTP server behind each of them."""

from __future__ import annotations

import _socket
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gevent.hub import get_hub
from msgspec.structs import replace

from imserver.api.call import Api
from imserver.api.routes import fast_routes, routes_at, unread_body_limit
from imserver.api.v1.uploads import STREAMED
from imserver.config.settings import Config, ListenSettings
from imserver.errors import StartError
from imserver.logging import RequestLog
from imserver.metrics import Metrics
from imserver.transport.connection import ConnectionContext
from imserver.transport.gate import Admission, Gate, adopt
from imserver.transport.handover import HandOver
from imserver.transport.http import FrontServer
from imserver.transport.listener import Listener, bind, text_of
from imserver.transport.stream import Streams

log = logging.getLogger(__name__)

Application = Callable[..., Any]


class LateApplication:
    """An application that is made when the first request comes that the front does not answer itself.

    Flask with all that it brings is a quarter of a node's memory, and many a node never serves a page. That
    first request holds the loop for about 0.15 s, unless a parent has loaded it before it forked. Making it
    must not switch. What it raises becomes the answer to the request, and the next one tries again.
    """

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._made: Application | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made(environ, start_response)


LISTENER_KEY = "imserver.listener"
"""Key of the WSGI environment that names a request's listener, see :func:`listeners_of`."""


def listeners_of(config: Config) -> dict[str, ListenSettings]:
    """Where a node of these settings listens: ``"http"``, ``"websocket"``, and ``"extra 1"`` and on, which
    serve all that the first two do."""
    server, app = config.server, config.app
    extra = {f"extra {number}": row for number, row in enumerate(server.extra_listen, 1)}
    listeners = {
        "http": ListenSettings(app.http_port),
        "websocket": ListenSettings(app.websocket_port),
        **extra,
    }
    return {name: replace(row, host=row.host or server.host) for name, row in listeners.items()}


def bind_all(config: Config) -> dict[str, socket.socket]:
    """The listening sockets of a node by the name of their listener.

    Raises :class:`StartError` with one clear line if one cannot be had; none is left open then.
    """
    server = config.server
    sockets: dict[str, socket.socket] = {}
    try:
        for name, row in listeners_of(config).items():
            sockets[name] = bind(row.host, row.port, server.backlog, server.reuse_port)
    except StartError:
        for sock in sockets.values():
            sock.close()
        raise
    return sockets


def addresses_of(listeners: Mapping[str, Any]) -> dict[str, str]:
    """What a banner says of the listening sockets, by the name of their listener."""
    where = {name: text_of(sock.getsockname()) for name, sock in listeners.items()}
    http = where.pop("http")
    return {
        "http": f"http://{http}",
        "chat page": f"http://{http}/home/index",
        "websocket": f"ws://{where.pop('websocket')}/acc",
        **{name: f"http://{address}, ws://{address}/ws" for name, address in where.items()},
    }


class Servers:
    """Owner of the listeners and of the servers behind them: the front server, or pywsgi's."""

    def __init__(
        self,
        config: Config,
        context: ConnectionContext,
        gate: Gate,
        metrics: Metrics,
        api: Api,
        application: Application,
        request_log: RequestLog,
        streams: Streams,
    ) -> None:
        self._config = config
        self._context = context
        self._gate = gate
        self._metrics = metrics
        self._api = api
        self._application = application
        self._request_log = request_log
        self._streams = streams
        self._ws_dialects = {name: row.ws_dialect for name, row in listeners_of(config).items()}
        self._listeners: list[Listener] = []
        self._fronts: list[FrontServer] = []
        self._wsgi_servers: list[Any] = []
        self.addresses: dict[str, str] = {}
        """For people: what is reached where."""
        self.ports: dict[str, int] = {}
        """The ports really listened on, by listener."""

    def announce(self, sockets: Mapping[str, socket.socket]) -> None:
        """Learn ports and addresses; nothing is accepted yet."""
        self.ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        self.addresses = addresses_of(sockets)

    def open(self, sockets: Mapping[str, socket.socket]) -> None:
        """Accept from now on."""
        for name, sock in sockets.items():
            if self._config.server.http == "front":
                self._open_front(name, sock)
            else:
                self._open_wsgi_server(name, sock)

    def _open_front(self, name: str, sock: socket.socket) -> None:
        limits = self._config.limits
        environ = {LISTENER_KEY: name}
        front = FrontServer(
            self._context,
            self._gate,
            routes_at(self._api, everywhere=name == "websocket"),
            fast_routes(self._api, everywhere=name == "websocket"),
            partial(unread_body_limit, self._api),
            HandOver(self._application, limits.http_requests, self.ports[name], environ),
            self._metrics,
            limits.header_bytes,
            limits.body_bytes,
            limits.handshake_seconds,
            limits.keepalive_seconds,
            self._request_log.add if self._config.log.requests else None,
            self.admit,
            self._ws_dialects[name],
            self._streams_at(name),
            frozenset() if name == "websocket" else STREAMED,
        )
        self._fronts.append(front)
        loop = get_hub().loop
        self._listeners.append(Listener(sock, self._context.poller, loop, self._metrics, front.accept))

    def _open_wsgi_server(self, name: str, sock: socket.socket) -> None:
        # Only this server needs gevent-websocket.
        from imserver.transport.wsgi import WS_DIALECT_KEY, WsgiServer

        limits = self._config.limits
        server = WsgiServer(
            sock,
            self._application,
            {LISTENER_KEY: name, WS_DIALECT_KEY: self._ws_dialects[name]},
            self._gate,
            self.admit,
            self._refused,
            routes_at(self._api, everywhere=name == "websocket"),
            partial(unread_body_limit, self._api),
            limits.header_bytes,
            limits.body_bytes,
            limits.handshake_seconds,
            limits.keepalive_seconds,
            self._streams_at(name),
            frozenset() if name == "websocket" else STREAMED,
        )
        server.start()
        self._wsgi_servers.append(server)

    def _streams_at(self, name: str) -> Streams | None:
        """The WebSocket port serves what belongs to dialects, and nothing else."""
        return None if name == "websocket" else self._streams

    def admit(self, sock: _socket.socket, admission: Admission, rest: bytes) -> None:
        """Put an upgraded socket of either server into service."""
        self._metrics.handshakes += 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connected", extra={"connection": admission.peer})
        adopt(self._context, self._gate, sock, admission, rest)

    def _refused(self) -> None:
        self._metrics.handshakes_refused += 1

    def expire(self) -> None:
        """Close HTTP connections that have waited too long. Called once a second."""
        for front in self._fronts:
            front.expire()

    @property
    def running(self) -> int:
        """Requests that the application works on at the moment."""
        return sum(len(front.hand_over.running) for front in self._fronts)

    @property
    def busy(self) -> bool:
        """True while a request is under way."""
        return any(front.busy for front in self._fronts)

    def drain(self) -> None:
        """Accept what waits in the queues, then nothing more; serve what has arrived."""
        for listener in self._listeners:
            listener.close()
        for server in self._wsgi_servers:
            server.stop_accepting()
        for front in self._fronts:
            front.drain()

    def close(self) -> None:
        """End what is left."""
        for front in self._fronts:
            for parked in tuple(front.parked):
                parked.lost()
        for server in self._wsgi_servers:
            server.stop(timeout=1)
