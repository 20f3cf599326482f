"""Requests to URLs that users give: https only, and only to addresses of the public internet.

Each connection resolves its host, checks every address and connects to one of those it has checked, so a name
that resolves differently a moment later gains nothing. TLS verifies the name. Redirects are not followed.
"""

from __future__ import annotations

import _socket
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final

from imserver.errors import ImserverError
from imserver.transport.outgoing import Outgoing, Unreachable
from imserver.transport.proxies import is_loopback

if TYPE_CHECKING:
    import socket

    from urllib3 import PoolManager

URL_CHARACTERS: Final = 1000
_HOSTS: Final = 64
_CONNECTIONS: Final = 4

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(:(?P<port>[0-9]{1,5}))?([/?][!-~]*)?"
)
_NOT_PUBLIC_V4: Final = tuple(
    map(
        IPv4Network,
        (
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
        ),
    )
)
"""Private, shared, loopback, link-local, documentation, benchmark, multicast and reserved networks."""
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
"""The networks in 2000::/3 that are not public: of protocols (also Teredo), and documentation."""
_NAT64: Final = IPv6Network("64:ff9b::/96")

Resolve = Callable[[str, int], Sequence[str]]


class BadUrl(ImserverError):
    """The text says in one line what is wrong with a URL."""


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet. Raises ValueError for what is none.

    An IPv4 address in an IPv6 one (mapped, NAT64, 6to4) decides for it.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None:
            return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
        address = inner
    return not any(address in network for network in _NOT_PUBLIC_V4)


def check_url(url: str, allow_loopback: bool) -> None:
    """Check what can be seen of a URL without a look-up. Raises :class:`BadUrl`.

    ``allow_loopback``: addresses of this machine are allowed, also with http.
    """
    found = _URL.fullmatch(url) if len(url) <= URL_CHARACTERS else None
    if found is None or not 0 < int(found["port"] or 443) < 65536:
        raise BadUrl(f"expected an https:// URL of up to {URL_CHARACTERS} ASCII characters")
    if found["scheme"] != "https" and not allow_loopback:
        raise BadUrl("expected an https:// URL")
    host = found["v6"] or found["host"]
    try:
        ip_address(host)
    except ValueError:
        if found["v6"]:
            raise BadUrl("the IPv6 address is not valid") from None
        return
    _check_addresses([host], found["scheme"], allow_loopback)


def _check_addresses(addresses: Sequence[str], scheme: str, allow_loopback: bool) -> None:
    """Raises :class:`BadUrl`."""
    for address in addresses:
        if allow_loopback and is_loopback(address):
            continue
        if scheme != "https":
            raise BadUrl("http:// is allowed to this machine only")
        if not is_public(address):
            raise BadUrl("the address is not public")


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host. Switches. Raises OSError.

    It uses no thread, so a name server that hangs delays nobody else. Each look-up reads the system's name
    servers anew, because they may change while the server runs.
    """
    from gevent.resolver.ares import Resolver

    resolver = Resolver()
    try:
        found = resolver.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters
        raise OSError(str(error)) from None
    finally:
        resolver.close()
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class PublicRequests(Outgoing):
    """Owner of the connections to URLs of users. One per node.

    ``allow_loopback``: see :func:`check_url`. ``resolve`` stands for the look-up of names in tests.
    ``connections``: idle connections to one host.
    """

    def __init__(
        self, allow_loopback: bool, resolve: Resolve = look_up, connections: int = _CONNECTIONS
    ) -> None:
        super().__init__()
        self._connections_per_host = connections
        self._allow_loopback = allow_loopback
        self._resolve = resolve

    def check(self, url: str) -> None:
        """See :func:`check_url`."""
        check_url(url, self._allow_loopback)

    def _request(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], answer_bytes: int
    ) -> tuple[int, bytes, Mapping[str, str]]:
        try:
            self.check(url)
            return super()._request(method, url, body, headers, answer_bytes)
        except BadUrl as problem:
            raise Unreachable(str(problem)) from None

    def _connect(self, scheme: str, host: str, port: int, options: Mapping[str, Any]) -> socket.socket:
        """Connect to a checked address of a host. Raises :class:`BadUrl` and OSError."""
        from urllib3.util.connection import create_connection

        addresses = self._resolve(host, port)
        _check_addresses(addresses, scheme, self._allow_loopback)
        problem = OSError("the host has no address")
        for address in addresses:
            try:
                return create_connection((address, port), **options)
            except OSError as error:
                problem = error
        raise problem

    def _manager(self) -> PoolManager:
        from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
        from urllib3.connection import HTTPConnection, HTTPSConnection

        connect = self._connect

        class Https(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                options = {"timeout": self.timeout, "socket_options": self.socket_options}
                return connect("https", self.host, self.port, options)

        class Http(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                options = {"timeout": self.timeout, "socket_options": self.socket_options}
                return connect("http", self.host, self.port, options)

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        manager = PoolManager(_HOSTS, maxsize=self._connections_per_host, retries=False)
        manager.pool_classes_by_scheme = {"https": HttpsPool, "http": HttpPool}
        return manager
