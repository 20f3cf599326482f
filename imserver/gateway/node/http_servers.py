"""The servers of a node: its listeners, the HTTP server of each, and the
WebSocket paths."""

from __future__ import annotations

import _socket
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from gevent.hub import get_hub
from msgspec.structs import replace

from imserver.gateway.api.v1.publisher import Publisher
from imserver.gateway.api.v1.table import (
    commands_of,
    document_of,
    operations_of,
    routes_at,
    routes_of,
    unread_body_limit,
)
from imserver.gateway.auth.quotas import limited
from imserver.gateway.config.settings import Config, ListenSettings, ServerSettings
from imserver.gateway.config.values import Declarations
from imserver.gateway.core.core import Core
from imserver.gateway.dialects.sse.api import SseDialect
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow
from imserver.gateway.http.call import Api, Route
from imserver.gateway.http.operation import Operation
from imserver.gateway.model import Service
from imserver.gateway.process import cannot_listen
from imserver.gateway.protocol.dialect import Dialect, EchoDialect
from imserver.gateway.storage.address import database_address
from imserver.gateway.transport.connection import Connection, Serve
from imserver.gateway.transport.dispatch import serve_each
from imserver.gateway.transport.gate import (
    Admission,
    Choose,
    DialectPath,
    Head,
    Opened,
    adopt,
)
from imserver.gateway.transport.handover import HandOver, ListenerContext
from imserver.gateway.transport.http import FrontServer
from imserver.gateway.transport.http1 import KnownHeads
from imserver.gateway.transport.listener import (
    Listener,
    bind_raw,
    bind_unix,
    port_of,
    refuse_taken,
    text_of,
)
from imserver.gateway.transport.stream import StreamEncoding, StreamPath, Streams

if TYPE_CHECKING:
    from imserver.gateway.transport.wsgi import WsgiServer

log = logging.getLogger(__name__)

Application = Callable[..., Any]


class LateApplication(Service):
    """A WSGI application that is made at its first request.

    Flask takes a quarter of a node's memory, and many nodes never need it. The
    first request blocks the loop for about 0.15 s, unless the supervisor loaded
    Flask before the fork. Making the application must not switch greenlets. An
    error becomes the answer to the request, and the next request tries again.
    """

    make: Callable[[], Application]
    _application: Application | None = None

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Any:
        """Answer a request, as WSGI applications do."""
        if self._application is None:
            self._application = self.make()
        return self._application(environ, start_response)


_STREAMED = ("PATCH", "POST")
"""The methods of requests whose body a view may read itself."""
_TEXT: Final = 1
"""The opcode of a WebSocket frame with text."""
_BINARY: Final = 2
LISTENER_KEY = "imserver.listener"
"""WSGI environment key of a request's listener, see :func:`listeners_of`."""


def listeners_of(config: Config) -> dict[str, ListenSettings]:
    """Return the listeners of a node by their names.

    A listener is an address at which clients connect. ``"http"`` and
    ``"websocket"`` are always there. ``"extra 1"`` and on serve everything.
    """
    server = config.server
    app = config.app
    listeners = {
        "http": ListenSettings(app.http_port),
        "websocket": ListenSettings(app.websocket_port),
    }
    for number, row in enumerate(server.extra_listen, 1):
        listeners[f"extra {number}"] = row
    # A row without a host uses the host of the server.
    return {
        name: replace(row, host=row.host or server.host)
        for name, row in listeners.items()
    }


def check_listeners(config: Config) -> None:
    """Raise StartError if another process listens on an address of these
    settings."""
    for name, row in listeners_of(config).items():
        try:
            if row.socket:
                refuse_taken(row.socket)
            elif row.port and not config.server.reuse_port:
                bind_raw(row.host, row.port, reuse_port=False).close()
        except OSError as error:
            refusal = cannot_listen(row.host, row.port, error)
            # The settings files of some originals do not name these ports, so
            # the error names the setting.
            if name in ("http", "websocket"):
                refusal = StartError(
                    f"{refusal}. To use another port, set app.{name}_port"
                )
            raise refusal from None


Listeners = dict[str, _socket.socket]
"""The raw listening sockets of one process, by listener (:func:`listeners_of`).

The processes of a supervisor share the ports with SO_REUSEPORT. A Unix socket
cannot be shared in this way, so all processes accept from one queue. The
supervisor creates and keeps the sockets, and each child inherits its own:
connections in the accept queue of a killed child wait for its successor. The
sockets are raw because a gevent socket would start a loop in the supervisor.
"""


def listen(config: Config, count: int = 1) -> list[Listeners]:
    """Listen on all ports for ``count`` processes. Returns the sockets of each.

    Port 0 takes a free port, the same one for all processes. Raises
    :class:`StartError` with a message of one line if an address is not
    available, or if another process listens there with SO_REUSEPORT and would
    lose clients. Then no socket stays open.
    """
    by_process: list[Listeners] = [{} for _ in range(count)]
    server = config.server
    for name, row in listeners_of(config).items():
        try:
            sockets = _listen_at(row, server, count)
        except StartError as error:
            _close_by_process(by_process)
            # This error already has a text for people.
            raise error from None
        except OSError as error:
            _close_by_process(by_process)
            raise cannot_listen(row.host, row.port, error) from None
        for listeners, sock in zip(by_process, sockets, strict=True):
            listeners[name] = sock
    return by_process


def _listen_at(
    row: ListenSettings, server: ServerSettings, count: int
) -> list[_socket.socket]:
    """Listen at the path or the port of a listener for ``count`` processes."""
    if row.socket:
        return _listen_at_path(row, server.backlog, count)
    return _listen_at_port(row, server, count)


def _listen_at_path(
    row: ListenSettings, backlog: int, count: int
) -> list[_socket.socket]:
    """Listen at a Unix socket for ``count`` processes.

    All processes share one socket. Each process gets its own descriptor of this
    socket. Raises StartError and OSError.
    """
    sock = bind_unix(row.socket, row.mode, backlog)
    copies = [
        _socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        for _ in range(count)
    ]
    sock.close()
    return copies


def _listen_at_port(
    row: ListenSettings, server: ServerSettings, count: int
) -> list[_socket.socket]:
    """Listen at a port for ``count`` processes, each by a socket of its own.

    Raises StartError. Then no socket stays open.
    """
    port = row.port
    shares_port = count > 1 or server.reuse_port
    sockets: list[_socket.socket] = []
    try:
        _refuse_unnoticed_sharing(row, server, count)
        for _ in range(count):
            sock = bind_raw(row.host, port, shares_port)
            sockets.append(sock)
            sock.listen(server.backlog)
            # If the port was 0, the other processes take the free port that the
            # first one got.
            port = sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise cannot_listen(row.host, port, error) from None
    return sockets


def _refuse_unnoticed_sharing(
    row: ListenSettings, server: ServerSettings, count: int
) -> None:
    """Raise OSError if another server has the port that processes will share.

    With SO_REUSEPORT, the other server could share the port without being
    noticed.
    """
    if row.port and count > 1 and not server.reuse_port:
        bind_raw(row.host, row.port, reuse_port=False).close()


def _close_by_process(by_process: Iterable[Listeners]) -> None:
    """Close the sockets of all processes."""
    for listeners in by_process:
        close_all(listeners)


def close_all(listeners: Mapping[str, _socket.socket]) -> None:
    """Close the sockets of one process in the current process."""
    for sock in listeners.values():
        sock.close()


def addresses_of(config: Config, listeners: Mapping[str, Any]) -> dict[str, str]:
    """Return the addresses of the listening sockets for the banner, by
    listener.

    For example ``ws://127.0.0.1:8081/acc`` for the listener ``websocket``.
    """
    bound = {name: text_of(sock.getsockname()) for name, sock in listeners.items()}
    addresses = {
        "http": f"http://{bound.pop('http')}",
        "websocket": f"ws://{bound.pop('websocket')}/acc",
    }
    # The remaining listeners are the extra listeners.
    rows = listeners_of(config)
    for name, address in bound.items():
        addresses[name] = _extra_address(rows[name].path, address)
    return addresses


def _extra_address(path: str, address: str) -> str:
    """Return the address of an extra listener, as the banner shows it.

    A listener with a ``path`` serves only this path.
    """
    if path:
        note = f"only {path}"
    else:
        note = f"{_scheme('ws', address)}/ws"
    return f"{_scheme('http', address)}, {note}"


def _scheme(scheme: str, address: str) -> str:
    """Return an address as a URL. The address of a Unix socket stays as it is."""
    if address.startswith("unix:"):
        return address
    return f"{scheme}://{address}"


class Servers:
    """The HTTP API of a node, and its servers.

    The front server answers most requests by itself, and hands the others over
    to a WSGI application, which ``create_application`` makes. With
    ``server.http: wsgi``, a WSGI server answers all requests. Owner of the
    listeners.
    """

    def __init__(
        self,
        core: Core,
        features: tuple[FeatureRow, ...],
        create_application: Callable[[Servers], Application],
    ) -> None:
        """Build the API and the paths for WebSockets. Nothing is served before
        :meth:`open`.

        Raises StartError.
        """
        self.core = core
        config = core.config
        self._config = config
        self._metrics = core.metrics
        self.features = features
        self._streamed_paths = _streamed_paths_of(features)
        self._listeners: list[Listener] = []
        self._servers: list[FrontServer | WsgiServer] = []
        self.addresses: dict[str, str] = {}
        """Listener → address, for display."""
        self._ports: dict[str, int] = {}
        """Listener → port."""

        self.api = Api(core, *api_table_of(features, core.declared))
        publisher = Publisher(self.api)
        self.websocket_paths = self._open_gate(publisher)
        """Paths that serve only WebSockets. ``*`` stands for any second
        segment."""
        self.streams = self._make_streams()
        # The application uses the attributes above, so it is made last.
        self.application = create_application(self)

    def _open_gate(self, publisher: Publisher) -> frozenset[str]:
        """Let the gate take WebSocket handshakes, and return the paths that
        serve only handshakes."""
        gate_paths = self.core.network.gate.paths
        paths = self._websocket_routes()
        gate_paths.update(paths)
        # This path is not among the returned paths. A route of /api/v1 answers
        # requests to this path that are not handshakes.
        gate_paths[publisher.path] = publisher.choose
        return frozenset(paths)

    def _websocket_routes(self) -> dict[str, DialectPath | Choose]:
        """Return the WebSocket paths of the dialects of all features."""
        core = self.core
        all_dialects = chain.from_iterable(
            feature.dialects for feature in self.features
        )
        dialects = [core.codec(dialect) for dialect in all_dialects]
        serve = core.dispatcher.serve
        return ws_routes(self._config, serve, core.network.opened, dialects)

    def _make_streams(self) -> Streams:
        """Make the server of event streams, on the paths of all features."""
        core = self.core
        config = self._config
        serve = serve_each(within_limit(config, core.dispatcher.serve))
        paths: dict[str, StreamPath] = {}
        for parts in core.features.values():
            paths |= parts.streams(serve)
        return Streams(
            context=core.network.context,
            gate=core.network.gate,
            metrics=self._metrics,
            paths=paths,
            silent_seconds=config.websocket.client_silent_seconds,
            waiting=StreamEncoding(SseDialect("")),
        )

    def is_streamed(self, method: str, path: str) -> bool:
        """Whether a view reads the body of a request with this method and path
        itself.

        The body of other requests is read before their view is called.
        """
        if method not in _STREAMED:
            return False
        for streamed_path in self._streamed_paths:
            if path == streamed_path:
                return True
            # The end of this path is a parameter.
            if streamed_path.endswith("/") and path.startswith(streamed_path):
                return True
        return False

    def announce(self, sockets: Mapping[str, socket.socket]) -> None:
        """Record ports and addresses, before the listeners accept."""
        self._ports = {name: port_of(sock) for name, sock in sockets.items()}
        # If the port in the settings is 0, the socket has the real port.
        self.core.node.http_port = self._ports["http"]
        self.core.node.ws_port = self._ports["websocket"]
        self.addresses = addresses_of(self._config, sockets)

    def open(self, sockets: Mapping[str, socket.socket]) -> None:
        """Start accepting connections on these sockets, by listener."""
        for name, sock in sockets.items():
            if self._config.server.http == "front":
                self._open_front(name, sock)
                continue
            # Imported here: only this server needs gevent-websocket.
            from imserver.gateway.transport.wsgi import WsgiServer

            context = self._listener_context(name)
            server = WsgiServer(
                listener=sock,
                application=self.application,
                environ={LISTENER_KEY: name},
                context=context,
                metrics=self._metrics,
            )
            server.start()
            self._servers.append(server)

    def _open_front(self, name: str, sock: socket.socket) -> None:
        """Serve one listener by the front server."""
        front = self._make_front(name)
        self._servers.append(front)

        # Behind a proxy, a connection begins with the address of the client.
        accept = front.accept
        if listeners_of(self._config)[name].proxy_protocol:
            accept = front.accept_proxied
        listener = Listener(
            sock=sock,
            poller=self.core.network.poller,
            loop=get_hub().loop,
            metrics=self._metrics,
            accepted=accept,
        )
        self._listeners.append(listener)

    def _make_front(self, name: str) -> FrontServer:
        """Make the front server of a listener.

        It answers frequent requests itself. It hands the others over to the WSGI
        application.
        """
        context = self._listener_context(name)
        dialects_only = name == "websocket"
        routes = routes_at(self.api, everywhere=dialects_only, hot=True)
        hand_over = HandOver(
            application=self.application,
            limit=self._config.limits.http_requests,
            port=self._ports[name],
            environ={LISTENER_KEY: name},
            metrics=self._metrics,
        )
        return FrontServer(
            context=self.core.network.context,
            listener=context,
            fast=routes,
            hand_over=hand_over,
            metrics=self._metrics,
            request_log=self.core.node.request_log.add,
            heads=KnownHeads(context.mounts),
        )

    def _listener_context(self, name: str) -> ListenerContext:
        """Return the settings and functions with which a listener serves.

        The listener ``websocket`` serves only the routes of dialects.
        """
        dialects_only = name == "websocket"
        row = listeners_of(self._config)[name]
        # None means that the listener has no event streams.
        streams = None
        streamed = None
        if not dialects_only:
            streams = self.streams
            streamed = self.is_streamed
        return ListenerContext(
            gate=self.core.network.gate,
            routes=routes_at(self.api, everywhere=dialects_only),
            body_limit=partial(unread_body_limit, self.api),
            limits=self._config.limits,
            admitted=self.admit,
            ws_dialect=row.ws_dialect,
            streams=streams,
            streamed=streamed,
            mounts=self._mounts_of(row.path),
        )

    def _mounts_of(self, path: str) -> dict[str, str]:
        """Map each host name to the path that its clients do not write.

        ``path`` is the path of the listener. It applies to all host names, and
        the result has the one name ``""``, which stands for all names. If
        ``path`` is ``""``, the settings name the hosts and their paths.
        """
        if path:
            return {"": path}
        hosts = self._config.server.extra_hosts
        return {host.host.lower(): host.path for host in hosts}

    def admit(self, sock: _socket.socket, admission: Admission, rest: bytes) -> None:
        """Put the socket of a connection that was upgraded to a WebSocket into
        service.

        ``rest`` has the bytes that the client has already sent after the
        handshake.
        """
        self._metrics.handshakes += 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connected", extra={"connection": admission.peer})
        adopt(self.core.network.context, self.core.network.gate, sock, admission, rest)

    def expire(self) -> None:
        """Close HTTP connections that have timed out. Called once per
        second."""
        for server in self._servers:
            server.expire()

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return any(server.busy for server in self._servers)

    @property
    def connected(self) -> bool:
        """Whether any client has a connection for requests."""
        return any(server.connected for server in self._servers)

    def drain(self) -> None:
        """Accept the waiting connections, then stop listening.

        Answers from now on say that their connections end.
        """
        for listener in self._listeners:
            listener.close()
        for server in self._servers:
            server.drain()

    def end_idle(self) -> None:
        """Serve requests that have arrived, and end connections that wait for a
        next request."""
        for server in self._servers:
            server.end_idle()

    def close(self) -> None:
        """Close all remaining connections and sockets."""
        for server in self._servers:
            server.close()


def _streamed_paths_of(features: Iterable[FeatureRow]) -> tuple[str, ...]:
    """Return the paths of requests whose body a view reads itself.

    A path with a parameter is cut before it, and ends in a slash.
    """
    paths = []
    for feature in features:
        for operation in feature.operations:
            has_view = operation.function is None
            if has_view and operation.method in _STREAMED:
                path, _, _ = operation.path.partition("{")
                paths.append(path)
    return tuple(paths)


@cache
def api_table_of(
    features: tuple[FeatureRow, ...], declared: Declarations
) -> tuple[tuple[Route, ...], Mapping[str, Route], Callable[[int, bool, str], bytes]]:
    """Make the table of the HTTP API of a node with these features.

    It has three parts: all routes, the routes that a batch may contain by their
    names, and the function that returns the document of the API
    (:func:`document_of`). Forked nodes share the table of their supervisor.
    Raises StartError.
    """
    operations = [*operations_of(declared)]
    refuse_shared(features, operations)
    for feature in features:
        operations += feature.operations
    api_routes = routes_of(operations)

    # The rows of a feature include its operations, which were added above.
    routes = [*api_routes]
    for feature in features:
        routes += [row for row in feature.routes if isinstance(row, Route)]
    return tuple(routes), commands_of(api_routes), document_of(operations)


def refuse_shared(
    features: Iterable[FeatureRow], operations: Iterable[Operation]
) -> None:
    """Raise StartError if two features have the same path, dialect or command.

    The core counts as the first feature. ``operations`` are its operations.
    """
    owners = dict.fromkeys(_answered_paths((), operations), "the core")
    for feature in features:
        paths = _answered_paths(feature.dialects, feature.routes)
        for subject in chain(paths, sorted(_commands_of(feature))):
            if subject in owners:
                raise StartError(
                    f"the feature {feature.name!r}: {owners[subject]} has "
                    f"{subject} already"
                )
            # Features after this one must not have the same path, dialect or
            # command.
            owners[subject] = feature.name


def _commands_of(feature: FeatureRow) -> set[str]:
    """Return texts for the commands of a feature.

    For example ``the command login of the dialect cmd``.
    """
    commands_by_dialect: list[tuple[str, Iterable[str]]] = [*feature.wire.items()]
    for dialect in feature.dialects:
        commands_by_dialect.append((dialect.name, dialect.readers or ()))
    commands = set[str]()
    for dialect_name, names in commands_by_dialect:
        commands.update(
            f"the command {name} of the dialect {dialect_name}" for name in names
        )
    return commands


def _answered_paths(
    dialects: Iterable[Dialect], rows: Iterable[Route | Operation]
) -> Iterator[str]:
    """Make texts for the paths and dialects that one feature serves.

    For example ``GET /api/v1/users`` and ``the dialect cmd``.
    """
    for row in rows:
        yield f"{row.method} {row.path}"
    for dialect in dialects:
        # Several dialects can share a path if a parameter or a subprotocol
        # chooses between them.
        chosen = ""
        if dialect.chosen_by:
            chosen = f" with the parameter {dialect.chosen_by}"
        codec = ""
        if dialect.subprotocol:
            codec = f" with the subprotocol {dialect.subprotocol}"
        yield f"the dialect {dialect.name}{codec}"
        if dialect.path:
            yield f"the WebSocket path {dialect.path}{chosen}{codec}"


def refuse_open_demo(
    config: Config, closed: bool | None = None, *, listeners: bool = True
) -> None:
    """Raise StartError if other machines could reach a server in demo mode.

    ``closed`` tells whether a stored key or secret has ended demo mode. None
    means that the database was not read yet. Then nothing is refused if a
    database may exist. ``listeners`` tells whether the server itself opens the
    ports for clients.
    """
    if not config.demo or config.server.insecure:
        return
    if closed is None:
        address = database_address(config.storage, config.server.data_dir)
        closed = address.configured or address.exists
    if closed:
        return

    hosts = _cluster_hosts(config)
    if listeners:
        hosts = {**_client_hosts(config), **hosts}
    for name, host in _reachable(hosts):
        raise StartError(
            f"{name} {host} is not a loopback address and no API key exists, so "
            "strangers could push: make one (imserver key create push), set "
            "api.keys, or start with --insecure"
        )


def _cluster_hosts(config: Config) -> dict[str, str]:
    """Return the host of the ports for other nodes, by the name of its setting.

    The result is empty without a cluster. If the setting is empty, these ports
    listen on loopback.
    """
    cluster = config.cluster
    if not config.clustered:
        return {}
    if cluster.bind:
        return {"cluster.bind": cluster.bind}
    return {"cluster.advertise": cluster.advertise}


def demo_note(config: Config) -> str:
    """Return the note about demo mode for the banner: it says who may do
    everything."""
    reachable = _reachable(_client_hosts(config))
    is_reachable = next(reachable, None) is not None
    if is_reachable:
        who = "everybody who reaches these ports"
    else:
        who = "every local program"
    return f"demo mode: no API key exists, so {who} may do everything"


def _client_hosts(config: Config) -> dict[str, str]:
    """Return the addresses on which clients are served, by their settings."""
    hosts = {"server.host": config.server.host}
    for number, row in enumerate(config.server.extra_listen):
        if not row.socket:
            hosts[f"server.extra_listen[{number}].host"] = row.host
    return hosts


def _reachable(hosts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """List the settings with an address that other machines may reach, each
    with its address."""
    for name, host in hosts.items():
        if host and not _is_loopback(name, host):
            yield name, host


def _is_loopback(name: str, host: str) -> bool:
    """Whether only this machine reaches the address of a setting.

    A host name is resolved. Raises StartError if that fails.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass  # a host name
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(
            f"{name} {host} cannot be resolved: {error.strerror}"
        ) from None
    # If other machines reach one of the addresses, they reach the server.
    for *_, address in addresses:
        ip, _, _ = str(address[0]).partition(
            "%"
        )  # after "%" comes the scope of an IPv6 address
        if not ipaddress.ip_address(ip).is_loopback:
            return False
    return True


def echo(connection: Connection, payload: bytes, text: bool) -> None:
    """Send a message back. It serves the debug echo path."""
    if text:
        opcode = _TEXT
    else:
        opcode = _BINARY
    connection.send_frame(connection.encoding.frame(payload, opcode))


def within_limit(config: Config, serve: Serve) -> Serve:
    """Return ``serve`` with the limit of messages of one connection."""
    per_second = config.limits.messages_per_second
    if per_second:
        return limited(serve, per_second)
    return serve


def _chosen_by_parameter(
    rows: Sequence[DialectPath], by_name: Mapping[str, DialectPath]
) -> DialectPath | Choose:
    """Return a function that selects one of several dialects on a path.

    The parameters of the query select it, or else the listener. ``by_name`` has
    the dialects that a listener may choose. If there is only one dialect, it is
    returned itself.
    """
    if len(rows) == 1 and not rows[0].dialect.chosen_by:
        return rows[0]
    by_parameter = {row.dialect.chosen_by: row for row in rows}

    def select(head: Head) -> DialectPath | None:
        """Return the dialect for an opening request, or None if no dialect
        fits."""
        params = head.params()
        for name, row in by_parameter.items():
            if name and name in params:
                return row
        # Without such a parameter, the listener decides, or the dialect that
        # needs no parameter.
        return by_name.get(head.bare) or by_parameter.get("")

    return select


def _chosen_by_subprotocol(rows: Sequence[DialectPath]) -> Choose:
    """Return a function that selects one of the codecs of a dialect.

    A client offers WebSocket subprotocols. If the dialect has no codec for an
    offered subprotocol, the first codec is selected.
    """
    by_subprotocol = {row.subprotocol: row for row in rows}
    # The answer must not name a subprotocol that the client has not offered.
    first = replace(rows[0], subprotocol="")

    def select(head: Head) -> DialectPath:
        """Return the codec for an opening request."""
        header = head.headers.get("sec-websocket-protocol", "")
        for entry in header.split(","):
            row = by_subprotocol.get(entry.strip())
            if row is not None:
                return row
        return first

    return select


def ws_routes(
    config: Config,
    serve: Serve,
    opened: Mapping[str, Opened],
    dialects: Sequence[Dialect],
) -> dict[str, DialectPath | Choose]:
    """Return the WebSocket paths of a node.

    A path maps to the dialect there, or to the function that chooses one of
    several dialects. ``serve`` serves messages of all dialects. ``opened`` maps
    the name of a dialect to its function for new connections. ``dialects`` are
    the dialects of the node.
    """
    rows_by_path = _rows_by_path(config, serve, opened, dialects)
    # A listener may name one of the dialects on /ws.
    by_name = {row.dialect.name: row for row in rows_by_path["/ws"]}
    paths: dict[str, DialectPath | Choose] = {}
    for path, rows in rows_by_path.items():
        paths[path] = _served_at(rows, by_name)
    if config.debug.echo_path:
        paths[config.debug.echo_path] = _echo_row(config)
    return paths


def _served_at(
    rows: Sequence[DialectPath], by_name: Mapping[str, DialectPath]
) -> DialectPath | Choose:
    """Return the dialect of a path, or the function that chooses one.

    ``rows`` are the dialects on the path.
    """
    if rows and rows[0].subprotocol:
        return _chosen_by_subprotocol(rows)
    return _chosen_by_parameter(rows, by_name)


def _rows_by_path(
    config: Config,
    serve: Serve,
    opened: Mapping[str, Opened],
    dialects: Sequence[Dialect],
) -> dict[str, list[DialectPath]]:
    """Return the dialects of each path. See :func:`ws_routes` for the
    arguments."""
    serve = within_limit(config, serve)
    # On /ws a parameter of the query, or the listener, chooses the dialect.
    rows_by_path: dict[str, list[DialectPath]] = {"/ws": []}
    for dialect in dialects:
        row = _row_of(dialect, serve, config.limits.message_bytes, opened)
        for path in filter(None, (dialect.path, dialect.app_path)):
            rows_by_path.setdefault(path, []).append(row)
    return rows_by_path


def _echo_row(config: Config) -> DialectPath:
    """Describe the path that sends each message back, to measure the server."""
    debug = config.debug
    # The outbox has room for a whole message besides its usual size.
    outbox_bytes = debug.echo_bytes + config.limits.outbox_bytes
    return DialectPath(
        EchoDialect(debug.echo_path), echo, debug.echo_bytes, outbox_bytes
    )


def _row_of(
    dialect: Dialect, serve: Serve, message_bytes: int, opened: Mapping[str, Opened]
) -> DialectPath:
    """Describe how a dialect is served on its paths.

    ``message_bytes`` is the limit of a message; a dialect may have a lower one.
    """
    if dialect.several:
        # A frame of this dialect may have several messages.
        serve = serve_each(serve)
    limit_bytes = message_bytes
    if dialect.message_bytes:
        limit_bytes = min(dialect.message_bytes, limit_bytes)
    return DialectPath(
        dialect,
        serve,
        limit_bytes,
        opened=opened.get(dialect.name),
        subprotocol=dialect.subprotocol,
    )
