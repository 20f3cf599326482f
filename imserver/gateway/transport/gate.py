"""Admission of WebSocket upgrade requests (RFC 6455 section 4.2), and allowed
origins (section 10.2)."""

import _socket
import binascii
import logging
import re
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha1
from time import monotonic
from typing import Final
from urllib.parse import parse_qsl

from msgspec import Struct

from imserver.gateway.clock import serve_others
from imserver.gateway.errors import CloseCode, HttpProblem, Problems
from imserver.gateway.logging import OncePerMinute, RateLimitedLog
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.transport.connection import (
    SMALL_RECEIVE_BYTES,
    Connection,
    ConnectionContext,
    Encoding,
    Serve,
)
from imserver.gateway.transport.http1 import pattern_of
from imserver.gateway.transport.proxies import (
    FORWARDING_HEADERS,
    HOST_CHARACTERS,
    TrustedProxies,
    is_address,
    is_loopback,
    network_of,
)

log = logging.getLogger(__name__)

OPAQUE: Final = "null"
"""Name of an opaque or invalid origin, for example of a file or a sandboxed
page."""
_LOGGED_CHARACTERS: Final = 100
"""How many characters of a header's value a log message repeats."""
_REMEMBERED_PAGES: Final = 100
"""How many refused pages are remembered, so that each is logged once a
minute."""
_NONCE_BYTES: Final = 16
"""Size of a client's key in a handshake (RFC 6455 section 4.1)."""
_HOST: Final = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::[0-9]*)?"
).fullmatch


def host_name(value: str) -> str:
    """Return the host name in a Host header or an origin.

    It is without port, in lower case. Returns ``""`` if the value is not valid.
    Only ``[scheme://]host[:port]`` is valid (RFC 9110 section 7.2, RFC 6454
    section 6.2). In anything else, such as ``evil.example\\@127.0.0.1``, a
    browser and this server could read different hosts.
    """
    match = _HOST(value)
    if match:
        return (match[1] or match[2]).removesuffix(".").lower()
    return ""


def listed_host(address: str) -> str:
    """Return the host name of an address in the settings, where a path may
    follow."""
    return host_name(re.sub("(?<![:/])/.*", "", address))


class GatePolicy(Struct, frozen=True):
    """Limits and allowed origins. The settings can change while the node runs.

    ``limit`` and ``limit_per_address`` limit the connections of the node and of
    each address (0: no limit). ``any_origin``: pages of all hosts may connect.
    ``origins``: pages of these hosts may connect. ``demo``: whether the node is
    in demo mode; then the servers must check every request with
    :meth:`Origins.objection`. ``hosts``: other names and addresses of this
    server; a wildcard address means all addresses.
    """

    limit: int = 0
    limit_per_address: int = 0
    any_origin: bool = False
    origins: tuple[str, ...] = ()
    demo: bool = False
    hosts: tuple[str, ...] = ()


class Origins:
    """Decides which web pages may connect, by the hosts of the pages.

    It owns the node's policy about origins, and the origins that apps allow. An
    *origin* is the scheme and host of the web page that makes a request.
    """

    def __init__(self, proxies: TrustedProxies, policy: GatePolicy) -> None:
        """Begin with the node's policy.

        The apps are set later, because they are in the database.
        """
        self._proxies = proxies
        self.open_dialects: set[str] = set()
        """Names of the dialects to which pages of all hosts may connect."""
        self._apps_any = False
        """Whether an app allows pages of all hosts."""
        self._apps: frozenset[str] = frozenset()
        """The hosts whose pages an app allows."""
        self._warned = False
        """Whether the warning about a proxy in demo mode was logged."""
        # Strangers can cause these lines, so they are rare.
        self._objected = RateLimitedLog(
            log,
            "demo mode: refused a request %s %r. To allow it, list the host in server.origins or make an API "
            "key (imserver key create push)",
        )
        self._pages = OncePerMinute(_REMEMBERED_PAGES)
        self._on_refused: list[Callable[[str, str, str], object]] = []
        self.set_policy(policy)

    def report_to(self, refused: Callable[[str, str, str], object]) -> None:
        """Call a function for each connection that is refused from now on.

        Its arguments are the name of the setting that refuses the connection,
        the ``peer``, and the host of the page.
        """
        self._on_refused.append(refused)

    def set_policy(self, policy: GatePolicy) -> None:
        """Set the node's policy, and forget what the old policy has accepted.

        Demo mode remembers the last good headers and marks good heads. The new
        policy may refuse them.
        """
        self._any = policy.any_origin
        self._own = frozenset(map(listed_host, policy.origins))
        self.demo = policy.demo
        # In demo mode only pages of the server itself may make requests.
        own_hosts = self._own.union(map(listed_host, policy.hosts), ("localhost",))
        self._hosts = own_hosts - {""}  # "" stands for an invalid setting
        self._any_address = not self._hosts.isdisjoint(("0.0.0.0", "::"))
        self._good_host: str | None = None
        """The Host header that demo mode has accepted last. None means that
        demo mode has accepted no header yet."""
        self._good_origin: str | None = None
        """The Origin header that demo mode has accepted last. None means that
        demo mode has accepted no header yet."""
        self.accepted = object()
        """The mark of heads that demo mode has accepted. Another policy has
        another mark, so that the heads are checked again."""

    def set_apps(self, origins: Collection[str], any_origin: bool) -> None:
        """Set the origins that at least one app allows.

        ``any_origin`` says whether an app allows pages of all hosts. The login
        to an app that does not allow an origin still refuses it.
        """
        self._apps = frozenset(origins)
        self._apps_any = any_origin
        self._good_origin = None
        self.accepted = object()

    # --- demo mode ------------------------------------------------------------

    def objection(self, headers: Mapping[str, str], path: str) -> HttpProblem | None:
        """Return the error with which demo mode refuses a request, or None.

        Without API keys, any website could use a server on loopback through the
        browser of its visitor. It could send requests that need no permission,
        open WebSockets, or use a name that resolves to 127.0.0.1 (DNS
        rebinding). Proxy headers are not trusted here, because a page can send
        them after rebinding.

        Call this while :attr:`demo` is True, before anything else. Header names
        are in lower case. Pages of every origin may import the SDK, because its
        files are public.
        """
        host = headers.get("host", "")
        # Most requests have the same two headers, so only new values are
        # checked.
        if host != self._good_host:
            if host and not self._is_own(host_name(host), self._any_address):
                self._objected("for the host", host[:_LOGGED_CHARACTERS])
                return Problems.HOST_REFUSED
            self._good_host = host

        origin = headers.get("origin")
        if origin is not None and origin != self._good_origin:
            imports_sdk = _imports_sdk(headers, path)
            if not imports_sdk and not self._accepts_page(origin, host):
                self._objected("from a page of", origin[:_LOGGED_CHARACTERS])
                return Problems.ORIGIN_REFUSED

        if not self._warned and not FORWARDING_HEADERS.isdisjoint(headers):
            self._warn_of_proxy()
        return None

    def _warn_of_proxy(self) -> None:
        """Log, once, that a proxy may make the server public. Demo mode is not
        for public servers."""
        self._warned = True
        log.warning(
            "DEMO MODE IS OPEN TO OTHERS: a request came through a proxy, and no API key exists, so "
            "anybody who can reach the proxy may log in as anyone and push to everyone. To close it, "
            "make a key: imserver key create admin"
        )

    def _accepts_page(self, origin: str, host: str) -> bool:
        """Tell whether demo mode accepts a request of a page.

        ``origin`` and ``host`` are the headers of these names.
        """
        name = host_name(origin)
        if self._any or self._apps_any or name in self._apps or self._is_own(name):
            self._good_origin = origin
            return True
        # The page may be a page of this server, at any of its addresses. Then
        # the origin is not remembered as good, because the next request may
        # name another host.
        return self._any_address and bool(name) and name == host_name(host)

    def _is_own(self, name: str, any_address: bool = False) -> bool:
        """Tell whether a host name means this server.

        With ``any_address``, every IP address counts as an address of this
        server.
        """
        return (
            name in self._hosts
            or is_loopback(name)
            or (any_address and is_address(name))
        )

    # --- logins ---------------------------------------------------------------

    def page_host(self, host: str, headers: Mapping[str, str]) -> str:
        """Return the host of the page that sent a request.

        Returns ``""`` for a page of this server, and for a request that no page
        has sent. Returns :data:`OPAQUE` if the page has no valid host, or if a
        page of another site has embedded the address, for example as an image.
        An embedded address matters, because the browser sends the cookies of
        the visitor, and a GET that opens a stream has effects.

        ``host`` is the address that the request came from. If it is a trusted
        proxy, its headers are evaluated.
        """
        origin = headers.get("origin")
        # Browsers name no origin where a page embeds or links to a resource
        # that it cannot read.
        if origin is None:
            site = headers.get("sec-fetch-site", "none")
            # "none": the user has entered the address.
            if "upgrade" in headers or site in ("same-origin", "none"):
                return ""
            return OPAQUE

        name = host_name(origin)
        if name and name == host_name(headers.get("host", "")):
            return ""
        if self.demo and self._is_own(name):
            return ""
        if self._proxies.trusts(host):
            forwarded = headers.get("x-forwarded-host", "")
        else:
            forwarded = ""
        if name and forwarded:
            first_host = forwarded.split(",")[0].strip()
            if name == host_name(first_host):
                return ""

        # Interned: all connections of one page share the string.
        if 0 < len(name) <= HOST_CHARACTERS:
            return sys.intern(name)
        return OPAQUE

    def allows(self, origin: str, dialect: str) -> bool:
        """Tell whether pages of a host may connect by a dialect.

        Callers ask this for requests without an app. ``origin`` is the host.
        ``""`` means a page of this server, or no page.
        """
        if not origin or self._any or origin in self._own:
            return True
        return not self.demo and dialect in self.open_dialects

    def lists(self, origin: str) -> bool:
        """Tell whether the node's settings list a host."""
        return origin in self._own

    def passes(self, origin: str, any_origin: bool) -> bool:
        """Tell whether to complete the handshake of a page of the host
        ``origin``.

        The node, an app or the dialect must allow the page. The app is known
        only at the login, so it is enough here if any app allows the page.
        ``any_origin`` says whether the dialect allows pages of all hosts.
        """
        return (
            (any_origin and not self.demo)
            or not origin
            or self._any
            or self._apps_any
            or origin in self._own
            or origin in self._apps
        )

    def report_refused(self, limit: str, peer: str, origin: str = "") -> None:
        """Report that a setting has refused a connection
        (:meth:`report_to`)."""
        for listener in self._on_refused:
            listener(limit, peer, origin)

    def log_refused(self, what: str, origin: str, setting: str, peer: str) -> None:
        """Log that a page was refused, because its host is not allowed.

        The same refusal is logged at most once a minute.

        - ``what``: the refused action, such as a login.
        - ``origin``: the host of the page.
        - ``setting``: the setting that lists the allowed hosts.
        - ``peer``: the address of the client.
        """
        if not self._pages.is_new(what, origin):
            return
        if origin == OPAQUE:
            page = (
                "the page has no host (a file, a sandbox, or embedded by another site); it cannot be "
                "allowed safely"
            )
        else:
            page = (
                f"the page is of host {origin}; to allow it, add the host to {setting}"
            )
        log.info("%s refused: %s", what, page, extra={"connection": peer})


def _imports_sdk(headers: Mapping[str, str], path: str) -> bool:
    """Tell whether a page imports a file of the SDK, which is public."""
    is_script = path.startswith("/sdk/") and path.endswith(".js")
    return is_script and "upgrade" not in headers


class Head(Struct, frozen=True):
    """The parts of a request that the gate needs. Header names are in lower
    case.

    ``version``: of HTTP, such as ``1.1``. ``host`` and ``port``: the address
    from which the request came. ``query``: the text after the ``?``. ``bare``:
    the dialect that the listener has for clients whose query names no dialect;
    ``""``: such clients have no dialect. ``body``: the body of a request for a
    stream.
    """

    method: str
    path: str
    version: str
    host: str
    port: int
    headers: Mapping[str, str]
    query: str = ""
    bare: str = ""
    body: bytes = b""

    def params(self) -> dict[str, str]:
        """Decode the parameters of the query.

        If a name occurs several times, the first value counts. The result is
        empty if there are too many parameters.
        """
        params: dict[str, str] = {}
        try:
            for name, value in parse_qsl(
                self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS
            ):
                params.setdefault(name, value)
        except ValueError:  # too many parameters
            return {}
        return params


MAX_PARAMETERS = 64
"""Limit of query parameters. A query with more counts as empty."""

Opened = Callable[[Connection, Head], None]
"""A function that is called when a connection of a dialect begins, before its
messages are served. The function may send, close the connection and switch
greenlets."""


class DialectPath(Struct, frozen=True):
    """A dialect on a path.

    ``serve`` is the function that serves the messages of the dialect.
    ``message_bytes`` is the size of the largest message. ``outbox_bytes`` is
    the limit of an outbox. 0 means the limit of the node. ``opened`` is called
    when a connection begins. ``subprotocol`` is the subprotocol that the 101
    response confirms. ``""`` means that the response confirms no subprotocol.
    """

    dialect: Dialect
    serve: Serve
    message_bytes: int
    outbox_bytes: int = 0
    opened: Opened | None = None
    subprotocol: str = ""


Choose = Callable[[Head], DialectPath | HttpProblem | None]
"""Selects the dialect on a shared path. Returns None if the request matches no
dialect, or an error that refuses the request."""


class Refusal(Struct, frozen=True):
    """The HTTP answer to a refused upgrade request."""

    problem: HttpProblem
    headers: tuple[tuple[str, str], ...] = ()


class Admission(Struct, frozen=True):
    """An upgrade to a WebSocket that the gate has accepted.

    ``accept`` is the value of Sec-WebSocket-Accept. The 101 response confirms
    ``extension`` and ``subprotocol``, unless they are ``""``.

    If ``close_code`` is not 0, the connection is closed with this code right
    after the handshake. A browser can read a close code, but not the status of
    a refused handshake.
    """

    accept: str
    encoding: Encoding
    peer: str
    head: Head
    extension: str = ""
    close_code: int = 0
    opened: Opened | None = None
    origin: str = ""
    """Host of the page that opens the connection. ``""`` means a page of this
    server, or no page."""
    subprotocol: str = ""


def accept_token(key: str) -> str:
    """Compute the value of Sec-WebSocket-Accept for a client's key."""
    digest = sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return b64encode(digest).decode()


def _refusal_of(head: Head) -> Refusal | None:
    """Refuse an upgrade request that is not valid (RFC 6455 section 4.2.1).

    Returns None if the request is valid.
    """
    # A body after an upgrade would look like frames.
    headers = head.headers
    has_body = (
        "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    )
    if head.method != "GET" or has_body or head.version != "1.1":
        return Refusal(Problems.BAD_REQUEST)
    if headers.get("sec-websocket-version") != "13":
        return Refusal(Problems.VERSION_REQUIRED, (("Sec-WebSocket-Version", "13"),))
    try:
        nonce = binascii.a2b_base64(
            headers.get("sec-websocket-key", ""), strict_mode=True
        )
    except ValueError:
        nonce = b""
    if len(nonce) != _NONCE_BYTES:
        return Refusal(Problems.BAD_REQUEST)
    return None


def host_of(peer: str) -> str:
    """Return the host in a ``peer``, which is ``address:port``.

    The brackets of IPv6 are removed. The peer of a request may have no port.
    """
    if peer[:1] == "[" or peer.count(":") == 1:
        return peer.rpartition(":")[0].strip("[]")
    return peer


class Gate:
    """Decides which clients may connect by WebSocket.

    The gate owns the counts of connections per address.
    """

    def __init__(
        self,
        proxies: TrustedProxies,
        origins: Origins,
        deflate: bool,
        policy: GatePolicy,
    ) -> None:
        """Begin without paths, which the servers add.

        With ``deflate``, clients may compress their messages.
        """
        self.proxies = proxies
        self.origins = origins
        self.paths: dict[str, DialectPath | Choose] = {}
        """Path, or pattern of a path (:func:`pattern_of`) → the dialect on it,
        or the function that selects the dialect. The servers fill this mapping
        before they listen."""
        self._deflate = deflate
        self._encodings: dict[tuple[Dialect, int], Encoding] = {}
        """(dialect, deflate window of the client) → the encoding that all such
        connections share."""
        self.full = False
        """True while the node drains. Then all clients are refused."""
        self.per_address: Counter[str] = Counter()
        """Network of an address (:func:`network_of`) → the number of
        connections from it."""
        # Each connection counts from entered() to left().
        self.connections = 0
        self.limit = policy.limit
        self._limit_per_address = policy.limit_per_address

    def set_policy(self, policy: GatePolicy) -> None:
        """Change limits and origins while the node runs.

        The node does so at SIGHUP, and at the end of demo mode.
        """
        self.limit = policy.limit
        self._limit_per_address = policy.limit_per_address
        self.origins.set_policy(policy)

    def recount(self, hosts: Iterable[str]) -> None:
        """Count the connections per address again, after the limit was
        changed."""
        if self._limit_per_address:
            self.per_address = Counter(map(network_of, hosts))
        else:
            self.per_address = Counter()

    def decide(self, head: Head, upgraded: bool = False) -> Admission | Refusal:
        """Decide on an upgrade request.

        A request that is not valid is refused. A client that the limits or the
        allowed origins refuse is admitted with a close code, because the client
        can read that code. ``upgraded`` says whether another server has already
        answered the request, without extensions.
        """
        headers = head.headers
        path = self._path_of(head)
        if isinstance(path, HttpProblem):
            return Refusal(path)
        refusal = _refusal_of(head)
        if refusal is not None:
            return refusal

        peer, origin, close_code = self.check_client(head, path.dialect)
        extension = ""
        bits = 0  # no compression
        if self._deflate and not upgraded:
            offers = headers.get("sec-websocket-extensions")
            if offers:
                # Imported here because the module takes 1.5 MB, and few nodes
                # need it.
                from imserver.gateway.transport.parser import negotiate

                extension, bits = negotiate(offers)
        encoding = self._encodings.get((path.dialect, bits))
        if encoding is None:
            encoding = Encoding(
                path.dialect, path.serve, path.message_bytes, bits, path.outbox_bytes
            )
            self._encodings[path.dialect, bits] = encoding
        return Admission(
            accept=accept_token(headers["sec-websocket-key"]),
            encoding=encoding,
            peer=peer,
            head=head,
            extension=extension,
            close_code=close_code,
            opened=path.opened,
            origin=origin,
            subprotocol=path.subprotocol,
        )

    def _path_of(self, head: Head) -> DialectPath | HttpProblem:
        """Find the dialect on the path of a request.

        Several dialects may share a path. Then a function chooses a dialect by
        the query, or refuses the request. The result of a refusal is an error.
        """
        path = self.paths.get(head.path) or self.paths.get(pattern_of(head.path))
        if path is None:
            return Problems.NOT_FOUND
        if isinstance(path, DialectPath):
            return path
        chosen = path(head)
        if chosen is None:
            return Problems.NOT_FOUND
        return chosen

    def check_client(self, head: Head, dialect: Dialect) -> tuple[str, str, int]:
        """Check the client that requests a connection with this dialect.

        Returns the ``peer`` of the client, the host of its page, and the close
        code that refuses the client. The host is ``""`` for a page of this
        server, or if there is no page. The code is 0 if the client is accepted.
        """
        # Behind a proxy, a header has the address of the client.
        host = self.proxies.client(head.host, head.headers.get("x-forwarded-for", ""))
        origin = self.origins.page_host(head.host, head.headers)
        if ":" in host:
            peer = f"[{host}]:{head.port}"
        else:
            peer = f"{host}:{head.port}"
        return peer, origin, self._objection(dialect, origin, host, peer)

    def entered(self, peer: str) -> None:
        """Count a new connection from ``peer`` (``"address:port"``)."""
        self.connections += 1
        if self._limit_per_address:
            self.per_address[network_of(host_of(peer))] += 1

    def left(self, peer: str) -> None:
        """Stop counting a connection from ``peer``."""
        self.connections -= 1
        if not self.per_address:
            return
        network = network_of(host_of(peer))
        if network in self.per_address:
            self.per_address[network] -= 1
            if self.per_address[network] <= 0:
                del self.per_address[network]

    def _objection(self, dialect: Dialect, origin: str, host: str, peer: str) -> int:
        """Return the close code that refuses a client, or 0 if the client is
        accepted.

        The limits are checked before the origin, because a full node refuses
        everybody. A refusal is reported to observers.
        """
        if self.full:
            return CloseCode.GOING_AWAY
        if self.limit and self.connections >= self.limit:
            return self._full("limits.max_connections", peer)
        # Programs of this machine share one address, so it has no limit.
        if (
            self._limit_per_address
            and self.per_address[network_of(host)] >= self._limit_per_address
            and not is_loopback(host)
        ):
            return self._full("limits.max_connections_per_address", peer)
        if not self.origins.passes(origin, dialect.any_origin):
            setting = "server.origins, or to origins of an app"
            self.origins.log_refused("connection", origin, setting, peer)
            self.origins.report_refused("server.origins", peer, origin)
            return CloseCode.NOT_ALLOWED
        return 0

    def _full(self, limit: str, peer: str) -> int:
        """Report the setting that refuses a client, and return the close
        code."""
        self.origins.report_refused(limit, peer)
        return CloseCode.NODE_FULL


def adopt(
    context: ConnectionContext,
    gate: Gate,
    sock: _socket.socket,
    admission: Admission,
    rest: bytes,
) -> Connection:
    """Make a parked WebSocket of a socket, after the handshake.

    Both servers call this function. The 101 response was sent, and the socket
    is non-blocking. The poller may already watch the socket. ``rest`` are the
    bytes that came after the head, and are served here. Other greenlets run
    between pieces of ``rest``, because 64 KB of tiny frames would block the
    loop for 60 ms.
    """
    connection = Connection(
        context, sock, admission.peer, admission.encoding, monotonic()
    )
    connection.origin = admission.origin
    gate.entered(admission.peer)
    context.poller.take(connection)
    if admission.close_code:
        connection.close(admission.close_code)
    elif rest or admission.opened is not None:
        # No reader may serve the connection until the end of this function.
        connection.reading = True
        try:
            if admission.opened is not None:
                admission.opened(connection, admission.head)
            for start in range(0, len(rest), SMALL_RECEIVE_BYTES):
                if start:
                    serve_others()
                # A piece may have closed the connection.
                if connection.is_open:
                    connection.feed(rest[start : start + SMALL_RECEIVE_BYTES])
        except Exception:
            log.exception("serving failed", extra={"connection": connection.peer})
            connection.lost()
        finally:
            context.poller.release(connection)
    return connection
