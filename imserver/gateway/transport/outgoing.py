"""HTTP requests to the outside: signed requests to back ends, documents of
issuers and providers, and requests to URLs that users give.

Requests to URLs of users go only to addresses of the public internet, and only
over https, except to pages. Each connection resolves its host, checks every
address and connects to a checked address. So an attacker gains nothing by a
name that resolves differently a moment later. TLS verifies the name. Redirects
are not followed.
"""

from __future__ import annotations

import _socket
import hashlib
import hmac
import re
import socket
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

import gevent
from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser
from msgspec import field

from imserver import __version__
from imserver.gateway.errors import ImserverError
from imserver.gateway.model import Service
from imserver.gateway.transport.proxies import HOST_CHARACTERS, is_loopback

if TYPE_CHECKING:
    import ssl

    from urllib3 import PoolManager

ANSWER_BYTES: Final = 65536
"""Longest answer that is read; a longer one counts as no answer."""
_HEAD_BYTES: Final = 65536
"""Longest head of an answer to :class:`PublicRequests`."""
_RECEIVE_BYTES: Final = 16384
_IDLE_HOSTS: Final = 64
_IDLE_PER_HOST: Final = 64
"""How many connections without a request :class:`Outgoing` keeps to a host."""
USER_AGENT: Final = f"imserver/{__version__}"
NO_HEADERS: Final[Mapping[str, str]] = {}
_LONG_HOST: Final = re.compile("[^/]*//[^/?#]{321}")
"""Matches a URL whose host is too long for any name with a user and a port.
URLs also come from issuers and providers."""


class Unreachable(ImserverError):
    """A request has had no complete answer in time. The text says why.

    ``is_refused`` is set if no program listens at the address.
    """

    def __init__(self, text: str, is_refused: bool = False) -> None:
        """Take the reason, for the log of the caller."""
        super().__init__(text)
        self.is_refused = is_refused


def signature(secret: bytes, body: bytes, timestamp: int) -> str:
    """Make the header ``Imserver-Signature`` of a body, as
    ``t=1735689600,v1=5f2c…``.

    With this header the receiver can check who wrote the body, and in which
    Unix second. ``v1`` is the HMAC-SHA256 of ``<timestamp>.<body>``.
    """
    signed = hmac.digest(secret, b"%d.%b" % (timestamp, body), hashlib.sha256)
    return f"t={timestamp},v1={signed.hex()}"


class Outgoing:
    """Sends requests to other servers, over connections that are reused.

    A node has one such object, which owns the connections.
    """

    def __init__(self) -> None:
        """Begin without connections."""
        self._connections: PoolManager | None = None
        self.request: Callable[..., tuple[int, bytes, Mapping[str, str]]] = (
            self._request
        )
        """The function with which :meth:`exchange` sends. May be wrapped."""

    def post(
        self,
        url: str,
        secret: bytes,
        body: bytes,
        timestamp: int,
        delivery: str,
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> tuple[int, bytes]:
        """Send signed JSON, and return the status and the body of the answer.

        ``delivery`` is the id of the delivery, for the receiver. Redirects are
        not followed. Switches greenlets. Raises :class:`Unreachable` if there
        is no complete answer within ``seconds``, or if the answer has more than
        ``answer_bytes``.
        """
        signed_headers = {
            **headers,
            "Imserver-Signature": signature(secret, body, timestamp),
            "Imserver-Delivery": delivery,
        }
        return self.send(url, signed_headers, body, seconds, answer_bytes)

    def send(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
    ) -> tuple[int, bytes]:
        """Send JSON with these headers. Waits and raises like :meth:`post`."""
        headers = {"Content-Type": "application/json", **headers}
        status, content, _ = self.exchange(
            "POST", url, body, headers, seconds, answer_bytes
        )
        return status, content

    def get(
        self, url: str, seconds: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> tuple[int, bytes]:
        """Read a JSON document. Returns the status and the body of the answer.

        Waits and raises like :meth:`post`.
        """
        headers = {"Accept": "application/json", **headers}
        status, content, _ = self.exchange("GET", url, None, headers, seconds)
        return status, content

    def exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request, and return status, body and headers of the answer.

        The names of the headers are in lower case. Waits and raises like
        :meth:`post`.
        """
        if _LONG_HOST.match(url):
            raise Unreachable("the name of the host is too long")
        all_headers = {"User-Agent": USER_AGENT, **headers}
        timeout = gevent.Timeout(seconds)
        try:
            with timeout:
                return self.request(method, url, body, all_headers, answer_bytes)
        except gevent.Timeout as expired:
            # The caller may have set a timeout of its own.
            if expired is not timeout:
                raise
            raise Unreachable(f"no answer within {seconds:g} s") from None

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        answer_bytes: int,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request and read its answer, without a time limit.

        Raises :class:`Unreachable`.
        """
        # Loaded here to save memory in nodes that send no requests.
        from urllib3 import PoolManager
        from urllib3.exceptions import HTTPError

        if self._connections is None:
            self._connections = PoolManager(
                _IDLE_HOSTS, maxsize=_IDLE_PER_HOST, retries=False
            )
        try:
            answer = self._connections.urlopen(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                # One byte more is read, to notice an answer that is too long.
                content = answer.read(answer_bytes + 1, decode_content=False)
                if len(content) > answer_bytes:
                    raise Unreachable(f"the answer has more than {answer_bytes} bytes")
            except BaseException:
                # The connection is closed even after a timeout, because the
                # rest of the answer may still come.
                answer.close()
                raise
            answer.release_conn()  # for the next request
        except (HTTPError, OSError, ValueError) as error:
            is_refused = isinstance(error.__cause__, ConnectionRefusedError)
            raise Unreachable(f"{type(error).__name__}: {error}", is_refused) from None
        return answer.status, content, answer.headers

    def close(self) -> None:
        """End the idle connections."""
        if self._connections is not None:
            self._connections.clear()


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MOST_PORT: Final = 65_535
_LABEL_CHARACTERS: Final = 63
"""The longest part of a host's name between dots (RFC 1035 section 2.3.4)."""
_DOTS: Final = "[.\u3002\uff0e\uff61]"
"""The characters that IDNA reads as dots."""
_IPV4_BITS: Final = 0xFFFF_FFFF
"""The part of an IPv6 address of NAT64 that is the IPv4 address."""

_URL: Final = re.compile(
    r"(?P<origin>(?P<scheme>https?)://(?P<address>"
    r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]{1,253}))(:(?P<port>[0-9]{1,5}))?))(?P<target>[/?][!-~]*)?"
)
_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
"""Private, shared, loopback, link-local, documentation, benchmark, multicast
and reserved networks."""
_NOT_PUBLIC_V6: Final = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20"))
)
"""The networks in 2000::/3 that are not public: networks of protocols, such as
Teredo, and networks for documentation."""


class BadUrl(ImserverError):
    """A URL is refused. The text is the reason in one line."""


def is_public(text: str) -> bool:
    """Tell whether an address is of the public internet.

    If an IPv6 address contains an IPv4 address (mapped, NAT64, 6to4), only the
    IPv4 address counts. Raises ValueError if the text is no address.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        # The request would reach the inner address.
        inner = address.ipv4_mapped or address.sixtofour
        if address in IPv6Network("64:ff9b::/96"):  # NAT64
            inner = IPv4Address(int(address) & _IPV4_BITS)
        if inner is None:
            is_assigned = address in IPv6Network("2000::/3")
            return is_assigned and not any(
                address in network for network in _NOT_PUBLIC_V6
            )
        address = inner
    return not any(address in network for network in _NOT_PUBLIC_V4)


def check_url(url: str, allow_loopback: bool, pages: bool = False) -> re.Match[str]:
    """Check a URL that a user has given, without a look-up of its host.

    With ``allow_loopback``, addresses of this machine are allowed, even with
    http. With ``pages``, http is allowed, but only the usual port of the
    scheme, because public pages have this port. Returns the match of
    :data:`_URL` with the parts of the URL. Raises :class:`BadUrl`.
    """
    match = _match_of(url)
    scheme = match["scheme"]
    if not allow_loopback:
        _check_scheme_and_port(match, pages)

    host = match["v6"] or match["host"]
    try:
        ip_address(host)
    except ValueError:
        if match["v6"]:
            raise BadUrl("the IPv6 address is not valid") from None
        # The host is a name. Its addresses are checked after the look-up.
        return match
    _check_addresses([host], scheme, allow_loopback, pages)
    return match


def _match_of(url: str) -> re.Match[str]:
    """Return the match of :data:`_URL` with the parts of a URL.

    Raises :class:`BadUrl` for another text, or for a port that does not exist.
    """
    match = None
    if len(url) <= PublicRequests.URL_CHARACTERS:
        match = _URL.fullmatch(url)
    if match is None or not 0 < _port_of(match) <= _MOST_PORT:
        raise BadUrl(
            f"expected an https:// URL of up to {PublicRequests.URL_CHARACTERS} ASCII characters"
        )
    return match


def _check_scheme_and_port(match: re.Match[str], pages: bool) -> None:
    """Check that a URL is https. With ``pages``, check instead that its port is
    the usual port of the scheme.

    Raises :class:`BadUrl`.
    """
    scheme = match["scheme"]
    if pages:
        if _port_of(match) != _DEFAULT_PORTS[scheme]:
            raise BadUrl("the port is not that of pages")
    elif scheme != "https":
        raise BadUrl("expected an https:// URL")


def _port_of(parts: re.Match[str]) -> int:
    """Return the port of a URL: the given one, or the usual port of its
    scheme."""
    return int(parts["port"] or _DEFAULT_PORTS[parts["scheme"]])


def _check_addresses(
    addresses: Sequence[str], scheme: str, allow_loopback: bool, pages: bool
) -> None:
    """Raise :class:`BadUrl` if a request may not go to one of these addresses.

    :func:`check_url` has the rules.
    """
    for address in addresses:
        if allow_loopback and is_loopback(address):
            continue
        if scheme != "https" and not pages:
            raise BadUrl("http:// is allowed to this machine only")
        if not is_public(address):
            raise BadUrl("the address is not public")


def look_up(host: str, port: int) -> list[str]:
    """Look up the addresses of a host. Switches greenlets. Raises OSError.

    The look-up uses no thread. So a name server that hangs delays nobody else.
    """
    from gevent.resolver.ares import Resolver

    # A new resolver reads the name servers of this machine again, which may
    # have changed.
    resolver = Resolver()
    try:
        addresses = resolver.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters
        raise OSError(str(error)) from None
    finally:
        resolver.close()
    hosts = [str(socket_address[0]) for *_, socket_address in addresses]
    return list(dict.fromkeys(hosts))


class AnswerReader(Service):
    """Collects one answer, whose parts a parser passes to its callbacks.

    At most ``limit`` bytes of the body are read. With ``cut``, a longer answer
    counts as complete with these bytes, and ``is_cut`` is set. Without ``cut``,
    a longer answer raises :class:`Unreachable`.
    """

    limit: int
    cut: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """The headers, by name in lower case."""
    body: bytearray = field(default_factory=bytearray)
    """The part of the body that has arrived."""
    has_head: bool = False
    is_complete: bool = False
    is_cut: bool = False

    def on_message_begin(self) -> None:
        """Begin an answer."""
        # An answer with a status 1xx may have come before this answer.
        self.headers = {}
        self.has_head = False
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        """Add bytes of the body. Raises :class:`Unreachable`."""
        self.body += piece
        if len(self.body) <= self.limit:
            return
        if not self.cut:
            raise Unreachable(f"the answer has more than {self.limit} bytes")
        del self.body[self.limit :]
        self.is_cut = True
        self.is_complete = True

    def on_message_complete(self) -> None:
        """Note that the whole answer has arrived."""
        self.is_complete = True


class PublicRequests(Outgoing):
    """Sends requests to URLs that users give, which must be of the public
    internet.

    Each object owns its connections. ``allow_loopback`` and ``pages`` are
    explained at :func:`check_url`. With ``pages``, only the beginning of a long
    answer is read, which is enough for a page or a file. ``resolve`` replaces
    the look-up of names in tests. ``connections`` is the limit of idle
    connections to one host.

    docs/dependencies.md says why this class does not use urllib3.
    """

    URL_CHARACTERS = 1000
    """The most characters of a URL."""
    HOSTS = 64
    """The most hosts with idle connections."""

    def __init__(
        self,
        allow_loopback: bool,
        resolve: Callable[[str, int], Sequence[str]] = look_up,
        connections: int = 4,
        pages: bool = False,
    ) -> None:
        """Begin without connections. The class explains the arguments."""
        super().__init__()
        self._pages = pages
        self._allow_loopback = allow_loopback
        self._resolve = resolve
        self._most_idle = connections
        self._idle: dict[str, list[socket.socket]] = {}
        """Origin → the idle connections to it. The origin that was used most
        recently comes last."""

    @staticmethod
    def ascii_host(name: str) -> str:
        """Convert the name of a host to ASCII, as IDNA encodes it.

        For example, ``bücher.de`` gives ``xn--bcher-kva.de``. Raises
        :class:`BadUrl`.
        """
        # The length is checked before IDNA, which takes seconds for a long
        # label. The normalization may make 18 letters of one, so the length is
        # checked both before and after it.
        letters = unicodedata.normalize("NFKC", name[: HOST_CHARACTERS + 1])
        longest_label = max(map(len, re.split(_DOTS, letters)))
        is_too_long = max(len(letters), len(name)) > HOST_CHARACTERS
        if is_too_long or longest_label > _LABEL_CHARACTERS:
            raise BadUrl("the name of the host is too long")
        try:
            return letters.encode("idna").decode()
        except UnicodeError:
            raise BadUrl("the name of the host is not valid") from None

    def check(self, url: str) -> None:
        """Raise :class:`BadUrl` if requests to a URL are refused
        (:func:`check_url`)."""
        check_url(url, self._allow_loopback, self._pages)

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        answer_bytes: int,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request to a URL that is checked first.

        An idle connection is used if there is one. There is no time limit.
        Raises :class:`Unreachable`.
        """
        try:
            parts = check_url(url, self._allow_loopback, self._pages)
            request = _request_of(method, parts, headers, body)
            origin = parts["origin"]
            idle = self._idle.get(origin)
            if idle:
                # The other server may have closed the connection while it was
                # idle. Then the request is sent over a new one.
                with suppress(ConnectionResetError, BrokenPipeError):
                    return self._ask(origin, idle.pop(), request, answer_bytes)
            return self._ask(origin, self._open(parts), request, answer_bytes)
        except BadUrl as problem:
            raise Unreachable(str(problem)) from None
        except (OSError, ValueError) as error:
            is_refused = isinstance(error, ConnectionRefusedError)
            raise Unreachable(f"{type(error).__name__}: {error}", is_refused) from None

    def _ask(
        self, origin: str, sock: socket.socket, request: bytes, answer_bytes: int
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request over a connection and read the answer.

        Then the connection becomes idle, or is closed. Raises
        :class:`Unreachable` and OSError, and ConnectionResetError if no byte of
        an answer has come.
        """
        is_reusable = False
        try:
            sock.sendall(request)
            answer = AnswerReader(answer_bytes, self._pages)
            most_bytes = _HEAD_BYTES + answer_bytes
            is_reusable, status = read_answer(sock, answer, most_bytes)
        finally:
            if is_reusable:
                self._add_idle(origin, sock)
            else:
                sock.close()
        return status, bytes(answer.body), answer.headers

    def _add_idle(self, origin: str, sock: socket.socket) -> None:
        """Keep a connection for the next request to its origin.

        If there are too many connections or origins, some are closed.
        """
        # The entry is removed and added again, so that the origin comes last.
        idle = self._idle.pop(origin, [])
        self._idle[origin] = idle
        if len(idle) < self._most_idle:
            idle.append(sock)
        else:
            sock.close()
        if len(self._idle) > self.HOSTS:
            unused_origin = next(iter(self._idle))
            for connection in self._idle.pop(unused_origin):
                connection.close()

    def _open(self, parts: re.Match[str]) -> socket.socket:
        """Connect to a checked address of a host, with TLS for https.

        Raises :class:`BadUrl` and OSError.
        """
        scheme = parts["scheme"]
        host = parts["v6"] or parts["host"]
        sock = self._connect(scheme, host, _port_of(parts))
        if scheme == "http":
            return sock
        try:
            return self._tls.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    def _connect(self, scheme: str, host: str, port: int) -> socket.socket:
        """Look up a host, check its addresses, and connect to the first that
        answers.

        Raises :class:`BadUrl` and OSError.
        """
        addresses = self._resolve(host, port)
        # All addresses are checked before the first address is used. There is
        # no second look-up, which could give other addresses.
        _check_addresses(addresses, scheme, self._allow_loopback, self._pages)
        problem = OSError("the host has no address")
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family)
            try:
                _connect_or_close(sock, address, port)
            except OSError as error:
                problem = error
            else:
                return sock
        raise problem

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The rules for TLS: the certificate must be valid for the host."""
        # Loaded here to save memory in nodes that send no requests.
        import ssl

        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    def close(self) -> None:
        """End the idle connections."""
        idle = self._idle
        self._idle = {}
        for connections in idle.values():
            for connection in connections:
                connection.close()


def _connect_or_close(sock: socket.socket, address: str, port: int) -> None:
    """Connect a socket to an address. An error closes it. Raises OSError."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise


def _request_of(
    method: str,
    parts: re.Match[str],
    headers: Mapping[str, str],
    body: bytes | None,
) -> bytes:
    """Make the bytes of a request to a checked URL.

    Raises UnicodeError for a header that is not latin-1.
    """
    target = (parts["target"] or "/").partition("#")[0]
    if not target.startswith("/"):  # the URL has a query, but no path
        target = f"/{target}"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts['address']}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    # The last text gives the empty line that ends the head.
    head = "\r\n".join([*lines, "\r\n"])
    return head.encode("latin-1") + (body or b"")


_LENGTH_HEADERS: Final = ("content-length", "transfer-encoding")
_INTERIM_STATUSES: Final = range(100, 200)
"""After an answer with such a status, another answer follows."""


def read_answer(
    sock: socket.socket, answer: AnswerReader, limit: int
) -> tuple[bool, int]:
    """Read an answer of at most ``limit`` bytes into ``answer``.

    Returns whether another request may be sent over the connection, and the
    status. Raises :class:`Unreachable` and OSError, and ConnectionResetError if
    no byte of an answer has come.
    """
    parser = HttpResponseParser(answer)
    size = 0
    while not answer.is_complete:
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            if not size:
                raise ConnectionResetError("the connection was closed")
            _require_end(answer)
            return False, parser.get_status_code()

        size += len(data)
        if size > limit:
            raise Unreachable("the answer is too long")
        try:
            parser.feed_data(data)
        except HttpParserCallbackError as error:
            # The library hides what the callbacks of ``answer`` raise.
            raise error.__context__ or error from None
        except HttpParserError as error:
            raise Unreachable(f"the answer is no HTTP: {error}") from None
        # After an answer such as "100 Continue", the real answer follows.
        if answer.is_complete and parser.get_status_code() in _INTERIM_STATUSES:
            answer.is_complete = False
            answer.has_head = False

    options = answer.headers.get("connection", "").lower()
    stays_open = parser.get_http_version() == "1.1" and "close" not in options
    # If an answer was cut, its rest would come next over this connection.
    is_reusable = stays_open and not answer.is_cut
    return is_reusable, parser.get_status_code()


def _require_end(answer: AnswerReader) -> None:
    """Raise :class:`Unreachable` if an answer may not end here.

    The connection of the answer has ended. Only an answer without a length may
    end together with its connection.
    """
    has_length = not answer.headers.keys().isdisjoint(_LENGTH_HEADERS)
    if not answer.has_head or has_length:
        raise Unreachable("the answer has no end")
