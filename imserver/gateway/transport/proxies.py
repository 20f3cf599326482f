"""The client's address behind trusted proxies (X-Forwarded-For,
X-Forwarded-Host, the PROXY protocol)."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from struct import Struct
from typing import Final

HOST_CHARACTERS: Final = 253
"""The longest name of a host (RFC 1035 section 2.3.4)."""
_REMEMBERED_ADDRESSES: Final = 1024
_CUSTOMER_BITS: Final = 64
"""The first bits of an IPv6 address, which belong to one customer."""
_MOST_PORT: Final = 65_535
FORWARDING_HEADERS = frozenset(
    {"x-forwarded-for", "forwarded", "x-forwarded-host", "x-real-ip", "via"}
)
"""Headers that only proxies send."""


def address_of(host: str) -> IPv4Address | IPv6Address:
    """Parse an address, without its scope (the part after ``%``).

    An IPv4-mapped IPv6 address becomes its IPv4 address. Raises ValueError.
    """
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


@lru_cache(_REMEMBERED_ADDRESSES)
def is_address(text: str) -> bool:
    """Tell whether a text is an IP address, without port, brackets and
    scope."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class TrustedProxies:
    """The networks of proxies whose headers about clients are trusted."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        """Parse networks such as ``10.0.0.0/8``."""
        self._networks = [ip_network(network, strict=False) for network in networks]
        self.trusts = lru_cache(_REMEMBERED_ADDRESSES)(self._trusts)
        """``trusts(host)``: whether ``host`` is the address of a trusted
        proxy."""

    def _trusts(self, host: str) -> bool:
        """Tell whether a host is the address of a trusted proxy."""
        try:
            address = address_of(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, host: str, forwarded_for: str) -> str:
        """Return the address of the client behind trusted proxies.

        The result is the last address in X-Forwarded-For that is not a trusted
        proxy. ``host`` is the address of the peer itself. ``forwarded_for`` is
        the value of the header, or ``""`` if it is missing. The header counts
        only if the peer is a trusted proxy. If an entry is not an address, the
        result is the address of the proxy that sent it.
        """
        if not forwarded_for or not self.trusts(host):
            return host
        hops = [_without_port(hop.strip()) for hop in forwarded_for.split(",")]
        # Each proxy appends the address of its peer, so the nearest comes last.
        for hop in reversed(hops):
            if not is_address(hop):
                break
            host = hop
            if not self.trusts(hop):
                break
        return host


def _without_port(hop: str) -> str:
    """Remove the port that some proxies write.

    For example, from ``192.0.2.7:51234`` or ``[2001:db8::7]:51234``.
    """
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    if hop.count(":") == 1:
        return hop.partition(":")[0]
    return hop


PROXY_HEADER_BYTES: Final = 4096
"""The longest PROXY header that is accepted. Without extensions it has at most
216 bytes."""
_LINE_BYTES: Final = 107
"""The longest header of version 1, with its CRLF."""
_HEAD: Final = Struct("!12sBBH")
"""The head of version 2: signature, version and command, family and transport,
bytes that follow."""
_LOCAL = 0x20
"""The command of a proxy that speaks for itself, for example to check whether
the server lives."""
_PROXY = 0x21
"""The command of a proxy that speaks for a client."""
_UNSPECIFIED = 0x00
_TCP_OVER_IPV4 = 0x11
_TCP_OVER_IPV6 = 0x21
_UNIX_STREAM = 0x31
_ADDRESS_BYTES: Final = {_TCP_OVER_IPV4: 4, _TCP_OVER_IPV6: 16}
_PORT_BYTES: Final = 2
_LINE_VERSIONS: Final = {"TCP4": 4, "TCP6": 6}
"""Transport in a header of version 1 → version of its two addresses."""


def read_proxy_header(data: bytes) -> tuple[int, tuple[str, int] | None] | None:
    """Read the PROXY header, by which a proxy names the client of a connection.

    ``data`` begins with the header, of version 1 or 2. Returns the size of the
    header, and the address and port of the client. These are None if the proxy
    speaks for itself, or names no client. Returns None while the header is
    incomplete. Raises ValueError if the data has no valid header. Extensions
    are skipped. https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
    """
    # The data may be shorter than a signature, so only as much is compared.
    if data.startswith(b"\r\n\r\n\0\r\nQUIT\n"[: len(data)]):
        return _read_binary(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return _read_line(data)
    raise ValueError("no PROXY header")


def _read_binary(data: bytes) -> tuple[int, tuple[str, int] | None] | None:
    """Read a header of version 2, which is binary.

    Returns None while the header is incomplete, and (size, None) if it names no
    client. Raises the same errors as :func:`read_proxy_header`.
    """
    if len(data) < _HEAD.size:
        return None
    _, command, family, length = _HEAD.unpack_from(data)
    size = _HEAD.size + length
    if command not in (_LOCAL, _PROXY) or size > PROXY_HEADER_BYTES:
        raise ValueError("an invalid PROXY header")
    if len(data) < size:
        return None
    if command == _LOCAL or family in (_UNSPECIFIED, _UNIX_STREAM):
        return size, None

    # Two addresses follow, then their two ports. The client is the first.
    width = _ADDRESS_BYTES.get(family, 0)
    if not width or length < 2 * width + 2 * _PORT_BYTES:
        raise ValueError("an invalid PROXY header")
    start = _HEAD.size
    ports = start + 2 * width
    host = ip_address(data[start : start + width])
    port = int.from_bytes(data[ports : ports + _PORT_BYTES])
    return size, (str(host), port)


def _read_line(data: bytes) -> tuple[int, tuple[str, int] | None] | None:
    """Read a header of version 1: ``PROXY TCP4 192.0.2.7 192.0.2.1 51234 443``.

    Returns None while the header is incomplete, and (size, None) if it names no
    client. Raises the same errors as :func:`read_proxy_header`.
    """
    end = data.find(b"\r\n", 0, _LINE_BYTES)
    if end < 0:
        if len(data) >= _LINE_BYTES:
            raise ValueError("an invalid PROXY header")
        return None
    size = end + 2  # with its CRLF
    words = data[:end].decode("ascii").split(" ")
    if words[1] == "UNKNOWN":
        return size, None

    # A line with too few words raises ValueError here.
    _, transport, source, target, *ports = words
    versions = {ip_address(source).version, ip_address(target).version}
    if versions != {_LINE_VERSIONS.get(transport)} or len(ports) != 2:
        raise ValueError("an invalid PROXY header")
    if not all(port.isdecimal() and int(port) <= _MOST_PORT for port in ports):
        raise ValueError("an invalid PROXY header")
    source_port, _target_port = ports
    return size, (source, int(source_port))


def network_of(address: str) -> str:
    """Return the text that stands for one customer in limits by address.

    For an IPv4 address, the text is the address itself. For an IPv6 address, it
    is the network of its first 64 bits, which belong to one customer.
    """
    if ":" not in address:
        return address
    try:
        parsed = address_of(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        network = ip_network((parsed, _CUSTOMER_BITS), strict=False)
        return str(network.network_address)
    return str(parsed)


def is_here(host: str) -> bool:
    """Tell whether a host is this machine.

    This machine is ``localhost``, or an address of the loopback network. No
    names are looked up.
    """
    return host == "localhost" or is_loopback(host.strip("[]"))


def is_loopback(host: str) -> bool:
    """Tell whether a host is an address of this machine's loopback network."""
    try:
        return address_of(host).is_loopback
    except ValueError:
        return False
