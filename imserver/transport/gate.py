"""The gate: which upgrade requests become WebSockets (RFC 6455 section 4.2), the same for both doors."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha1
from urllib.parse import parse_qsl

from msgspec import Struct
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from imserver import errors
from imserver.protocol.dialect import Dialect
from imserver.transport.carrier import Encoding, Serve
from imserver.transport.connection import Connection
from imserver.transport.origins import Origins
from imserver.transport.proxies import TrustedProxies, is_loopback

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
