"""The gate of both servers: which upgrade requests become WebSockets (RFC 6455 section 4.2), and which
origins may use the server (section 10.2).
"""

from __future__ import annotations

import _socket
import binascii
import logging
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha1
from time import monotonic
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from imserver import errors
from imserver.errors import HTTP_HOST_REFUSED, HTTP_ORIGIN_REFUSED, HttpProblem
from imserver.protocol.dialect import Dialect
from imserver.protocol.registry import BY_NAME
from imserver.transport.connection import OPEN, Connection, ConnectionContext, Encoding, Serve
from imserver.transport.proxies import FORWARDING_HEADERS, TrustedProxies, is_address, is_loopback

log = logging.getLogger(__name__)

OPAQUE: Final = "null"
"""The name of an origin that has none: of a file, of a sandbox, of what is no origin at all."""
_LONGEST_NAME: Final = 253
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
_LOG_SECONDS: Final = 60.0
"""Least time between two warnings about refused requests."""

_FORWARDING: Final = frozenset(FORWARDING_HEADERS)


def _is_public(path: str, headers: Mapping[str, str]) -> bool:
    return path.startswith("/sdk/") and path.endswith(".js") and "upgrade" not in headers


def host_name(value: str) -> str:
    """The host name in a Host header or an origin, without port, in lower case."""
    try:
        return (urlsplit(value if "//" in value else f"//{value}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Origins:
    """The node's own policy, and the origins that some app allows. Owner of both."""

    def __init__(self, proxies: TrustedProxies, any_origin: bool, origins: Collection[str]) -> None:
        self._proxies = proxies
        self._apps_any = False
        self._apps: frozenset[str] = frozenset()
        self._warned = False
        self._warn_at = 0.0
        self.set_policy(any_origin, origins)

    def set_policy(
        self, any_origin: bool, origins: Collection[str], demo: bool = False, hosts: Collection[str] = ()
    ) -> None:
        """Set the node's own policy.

        Args:
            any_origin: pages of all hosts may connect.
            origins: hosts whose pages may connect.
            demo: no API key exists; the servers have to ask :meth:`objection` about every request then.
            hosts: other names and addresses of this server. A wildcard address stands for all addresses.
        """
        self._any = any_origin
        self._own = frozenset(host_name(origin) for origin in origins)
        self.demo = demo
        self._hosts = self._own.union(map(host_name, hosts), ("localhost",)) - {""}
        self._any_address = not _WILDCARDS.isdisjoint(self._hosts)
        self._good_host: str | None = None
        self._good_origin: str | None = None

    def set_apps(self, origins: Collection[str], any_origin: bool) -> None:
        """Set the origins that some app allows. The login to another app still refuses them."""
        self._apps = frozenset(origins)
        self._apps_any = any_origin
        self._good_origin = None

    # --- demo mode ------------------------------------------------------------------------------------------

    def objection(self, headers: Mapping[str, str], path: str) -> HttpProblem | None:
        """Why demo mode refuses a request for ``path`` with these headers; None if it does not.

        Without API keys, any website could use a server on loopback through the browser of its visitor: by
        requests that need no permission, by WebSockets, or by a name that it has resolved to 127.0.0.1 (DNS
        rebinding). The headers of a proxy are not believed, for a page after rebinding can send them too.
        Ask while :attr:`demo`, before anything else is done with a request. Names are in lower case. Pages of
        every origin may import the SDK: its files are public.
        """
        host = headers.get("host", "")
        if host != self._good_host:
            if host and not self._is_own(host_name(host), self._any_address):
                return self._refused(HTTP_HOST_REFUSED, "for the host", host)
            self._good_host = host
        origin = headers.get("origin")
        if origin is not None and origin != self._good_origin and not _is_public(path, headers):
            name = host_name(origin)
            if not (self._any or self._apps_any or name in self._apps or self._is_own(name)):
                if not (self._any_address and name and name == host_name(host)):
                    return self._refused(HTTP_ORIGIN_REFUSED, "from a page of", origin)
            else:
                self._good_origin = origin
        if not self._warned and not _FORWARDING.isdisjoint(headers):
            self._warned = True
            log.warning(
                "DEMO MODE IS OPEN TO OTHERS: a request came through a proxy, and no API key exists, so "
                "anybody who can reach the proxy may log in as anyone and push to everyone. To close it, "
                "make a key: imserver key create --scope admin"
            )
        return None

    def _is_own(self, name: str, any_address: bool = False) -> bool:
        return name in self._hosts or is_loopback(name) or (any_address and is_address(name))

    def _refused(self, problem: HttpProblem, how: str, value: str) -> HttpProblem:
        now = monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _LOG_SECONDS
            log.warning(
                "demo mode: refused a request %s %r. To allow it, list the host in server.origins or make an "
                "API key (imserver key create)",
                how,
                value[:100],
            )
        return problem

    # --- logins ---------------------------------------------------------------------------------------------

    def stranger(self, host: str, headers: Mapping[str, str]) -> str:
        """The host of the page that a request comes from; ``""`` if it is this server's own, or no page.

        ``host`` is the address that the request came from: a trusted proxy's word counts.
        """
        origin = headers.get("origin")
        if origin is None:
            return ""
        name = host_name(origin)
        if name and name == host_name(headers.get("host", "")):
            return ""
        if self.demo and self._is_own(name):
            return ""
        forwarded = headers.get("x-forwarded-host", "") if self._proxies.trusts(host) else ""
        if name and forwarded and name == host_name(forwarded.split(",")[0].strip()):
            return ""
        # Interned: the connections of one page share the name.
        return sys.intern(name) if 0 < len(name) <= _LONGEST_NAME else OPAQUE

    def allows(self, origin: str, dialect: str) -> bool:
        """Whether pages of the host ``origin`` may connect, where no app has a say."""
        if not origin or self._any or origin in self._own:
            return True
        spoken = BY_NAME.get(dialect)
        return not self.demo and spoken is not None and spoken.any_origin

    def lists(self, origin: str) -> bool:
        """Whether the node's settings name pages of the host ``origin``."""
        return origin in self._own

    def passes(self, origin: str, any_origin: bool) -> bool:
        """Whether a handshake from there is worth while: the node or an app allows it.

        ``any_origin`` says that of the dialect.
        """
        return (
            (any_origin and not self.demo)
            or not origin
            or self._any
            or self._apps_any
            or origin in self._own
            or origin in self._apps
        )


_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WEBSOCKET_PATHS = frozenset({"/acc", "/ws"})
"""Paths that belong to WebSockets, also while no dialect answers on them."""


class Head(Struct, frozen=True):
    """What the gate needs of a request. Header names are in lower case.

    ``query`` is what follows the ``?``; ``bare`` the dialect that the listener speaks with clients whose
    query names none (``""``: none in particular).
    """

    method: str
    path: str
    version: str
    host: str
    port: int
    headers: Mapping[str, str]
    query: str = ""
    bare: str = ""

    def params(self) -> dict[str, str]:
        """The query's parameters, decoded; of several of one name the first."""
        found: dict[str, str] = {}
        try:
            for name, value in parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS):
                found.setdefault(name, value)
        except ValueError:  # too many of them
            return {}
        return found


MAX_PARAMETERS = 64
"""Parameters that a query may have; with more it counts as empty."""

Opened = Callable[[Connection, Head], None]
"""What a dialect does when a connection begins, before any of its messages is served. It may send and close,
and may switch to other greenlets."""


class Spoken(Struct, frozen=True):
    """What is spoken on a path: the dialect, what serves its messages, and their greatest size in bytes.

    ``outbox_bytes`` bounds an outbox where the node's own bound is not to hold (0: it holds).
    """

    dialect: Dialect
    serve: Serve
    message_bytes: int
    outbox_bytes: int = 0
    opened: Opened | None = None


Choose = Callable[[Head], Spoken | errors.HttpProblem | None]
"""Where several dialects share a path: which one a request means (None: none that is spoken here), or why it
is refused."""


class Refusal(Struct, frozen=True):
    """The HTTP answer to an upgrade request that cannot be served."""

    problem: errors.HttpProblem
    headers: tuple[tuple[str, str], ...] = ()


class Admission(Struct, frozen=True):
    """An upgrade to carry out. ``headers`` are those of the 101 besides the fixed ones.

    With a ``close_code`` the handshake is completed and the connection closed at once: a browser can read a
    close code, but not the status of a refused handshake.
    """

    accept: str
    encoding: Encoding
    peer: str
    extension: str = ""
    close_code: int = 0
    opened: Opened | None = None
    head: Head | None = None
    """The request, for :attr:`opened`."""
    origin: str = ""
    """The host of the page that the client is; ``""``: one of ours, or none."""


class Guest(Struct, frozen=True):
    """Who asks for a connection: their address, the host of their page (``""``: ours, or none), and the close
    code for those who may not stay (0: they may)."""

    peer: str
    origin: str
    close_code: int


def accept_token(key: str) -> str:
    """The value of Sec-WebSocket-Accept for a client's key."""
    return b64encode(sha1(key.encode() + _GUID).digest()).decode()


def host_of(peer: str) -> str:
    """The host in a connection's ``peer``, without the brackets of IPv6."""
    return peer.rpartition(":")[0].strip("[]")


def wants_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether a request asks to become a WebSocket."""
    return "websocket" in headers.get("upgrade", "").lower() and "upgrade" in [
        token.strip() for token in headers.get("connection", "").lower().split(",")
    ]


class Gate:
    """Decides on upgrade requests. Owner of the count of connections per address.

    ``paths`` maps a path to what is spoken there, or to what chooses; ``limit`` and ``limit_per_address``
    bound connections (0: not at all).
    """

    def __init__(
        self,
        paths: Mapping[str, Spoken | Choose],
        proxies: TrustedProxies,
        deflate: bool,
        limit: int,
        limit_per_address: int,
        any_origin: bool,
        origins: tuple[str, ...],
        demo: bool = False,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.proxies = proxies
        self.origins = Origins(proxies, any_origin, origins)
        self._paths = paths
        self._deflate = deflate
        self._encodings: dict[tuple[str, int], Encoding] = {}
        self._factory = ServerPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True
        )
        self.full = False
        """Set by the node while it drains."""
        self.per_address: Counter[str] = Counter()
        self.connections = 0
        self.set_policy(limit, limit_per_address, any_origin, origins, demo, hosts)

    def set_policy(
        self,
        limit: int,
        limit_per_address: int,
        any_origin: bool,
        origins: tuple[str, ...],
        demo: bool = False,
        hosts: tuple[str, ...] = (),
    ) -> None:
        """Change limits and origins while running (SIGHUP, the end of demo mode)."""
        self.limit = limit
        self._limit_per_address = limit_per_address
        self.origins.set_policy(any_origin, origins, demo, hosts)

    def recount(self, hosts: Iterable[str]) -> None:
        """Count the addresses anew: a limit for them begins to hold while connections stand."""
        self.per_address = Counter(hosts) if self._limit_per_address else Counter()

    def decide(self, head: Head, upgraded: bool = False) -> Admission | Refusal:
        """Whether, and how, an upgrade request is served.

        ``upgraded``: somebody else has answered it already, so no extension can be agreed on any more.
        """
        headers = head.headers
        found = self._paths.get(head.path)
        spoken = found if found is None or isinstance(found, Spoken) else found(head)
        if spoken is None:
            return Refusal(errors.HTTP_NOT_FOUND)
        if isinstance(spoken, errors.HttpProblem):
            return Refusal(spoken)
        if head.method != "GET" or _has_body(headers):
            return Refusal(errors.HTTP_BAD_REQUEST)
        if head.version != "1.1":
            return Refusal(errors.HTTP_BAD_REQUEST)
        if headers.get("sec-websocket-version") != "13":
            return Refusal(errors.HTTP_VERSION_REQUIRED, (("Sec-WebSocket-Version", "13"),))
        key = headers.get("sec-websocket-key", "")
        if not _is_key(key):
            return Refusal(errors.HTTP_BAD_REQUEST)
        guest = self.look_at(head, spoken.dialect)
        extension, bits = self._negotiate(headers) if self._deflate and not upgraded else ("", 0)
        return Admission(
            accept_token(key),
            self._encoding(spoken, bits),
            guest.peer,
            extension,
            guest.close_code,
            spoken.opened,
            head if spoken.opened is not None else None,
            guest.origin,
        )

    def look_at(self, head: Head, dialect: Dialect) -> Guest:
        """Who asks for a connection of this dialect, and whether they may stay."""
        host = self.proxies.client(head.host, head.headers.get("x-forwarded-for", ""))
        origin = self.origins.stranger(head.host, head.headers)
        peer = f"[{host}]:{head.port}" if ":" in host else f"{host}:{head.port}"
        return Guest(peer, origin, self._objection(dialect, origin, host))

    def _encoding(self, spoken: Spoken, deflate_bits: int) -> Encoding:
        key = (spoken.dialect.name, deflate_bits)
        encoding = self._encodings.get(key)
        if encoding is None:
            encoding = Encoding(
                spoken.dialect, spoken.serve, spoken.message_bytes, deflate_bits, spoken.outbox_bytes
            )
            self._encodings[key] = encoding
        return encoding

    def entered(self, host: str) -> None:
        """A connection from ``host`` is in service."""
        self.connections += 1
        if self._limit_per_address:
            self.per_address[host] += 1

    def left(self, host: str) -> None:
        """A connection from ``host`` is over."""
        self.connections -= 1
        if host in self.per_address:
            self.per_address[host] -= 1
            if self.per_address[host] <= 0:
                del self.per_address[host]

    def _objection(self, dialect: Dialect, origin: str, host: str) -> int:
        """The close code for a client that may not stay, 0 if it may."""
        if self.full:
            return errors.CLOSE_GOING_AWAY
        if self.limit and self.connections >= self.limit:
            return errors.CLOSE_NODE_FULL
        if (
            self._limit_per_address
            and self.per_address[host] >= self._limit_per_address
            and not is_loopback(host)
        ):
            return errors.CLOSE_NODE_FULL
        if not self.origins.passes(origin, dialect.any_origin):
            return errors.CLOSE_NOT_ALLOWED
        return 0

    def _negotiate(self, headers: Mapping[str, str]) -> tuple[str, int]:
        """Take the first acceptable permessage-deflate offer (RFC 7692): its answer and our window."""
        try:
            offers = parse_extension(headers.get("sec-websocket-extensions", ""))
        except InvalidHeader:
            return "", 0
        for name, params in offers:
            if name == self._factory.name:
                try:
                    answer, extension = self._factory.process_request_params(params, [])
                except NegotiationError:
                    continue
                return build_extension([(name, answer)]), extension.local_max_window_bits
        return "", 0


def _has_body(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def adopt(
    context: ConnectionContext, gate: Gate, sock: _socket.socket, admission: Admission, rest: bytes
) -> Connection:
    """Make a parked WebSocket of a socket whose 101 is on its way, and serve what was read behind it.

    Used by both servers. The socket must be non-blocking; the poller may know it already.
    """
    connection = Connection(context, sock, admission.peer, admission.encoding, monotonic())
    connection.origin = admission.origin
    gate.entered(host_of(admission.peer))
    context.poller.take(connection)
    if admission.close_code:
        connection.close(admission.close_code, errors.CLOSE[admission.close_code].name)
    elif rest or admission.opened is not None:
        connection.reading = True
        try:
            if admission.opened is not None:
                assert admission.head is not None
                admission.opened(connection, admission.head)
            if rest and connection.state == OPEN:
                connection.feed(rest)
        except Exception:
            log.exception("serving failed", extra={"connection": connection.peer})
            connection.lost()
        finally:
            connection.reading = False
            if connection.masked:
                context.poller.unmask(connection)
    return connection
