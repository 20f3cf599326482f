"""The client's address behind trusted proxies (X-Forwarded-For, X-Forwarded-Host)."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

FORWARDING_HEADERS = ("x-forwarded-for", "forwarded", "x-forwarded-host", "x-real-ip", "via")
"""Headers that only proxies send."""


def address_of(host: str) -> IPv4Address | IPv6Address:
    """Parse an address. An IPv4-mapped IPv6 address becomes its IPv4 address."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(1024)
def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address, without port, brackets and scope."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class TrustedProxies:
    """The networks whose forwarding headers are trusted."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(network, strict=False) for network in networks
        )
        self.trusts = lru_cache(1024)(self._trusts)
        """``trusts(host)``: whether ``host`` is the address of a trusted proxy."""

    def _trusts(self, host: str) -> bool:
        try:
            address = address_of(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, host: str, forwarded_for: str) -> str:
        """The client's address: the last one in X-Forwarded-For that is not a trusted proxy.

        ``host``: the peer's own address. The header counts only if the peer is a trusted proxy. An invalid
        entry ends the search, and the address of the proxy that sent it counts.
        """
        if not forwarded_for or not self.trusts(host):
            return host
        hops = [_without_port(hop.strip()) for hop in forwarded_for.split(",")]
        for hop in reversed(hops):
            if not is_address(hop):
                break
            host = hop
            if not self.trusts(hop):
                break
        return host


def _without_port(hop: str) -> str:
    """The address of a hop without its port: some proxies write ``192.0.2.7:51234`` or
    ``[2001:db8::7]:51234``, with a port that varies."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def network_of(address: str) -> str:
    """Whom an address stands for, in every rate and limit by address: for IPv6 the network of its first 64
    bits, which belong to one customer."""
    if ":" not in address:
        return address
    try:
        parsed = address_of(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine's loopback network."""
    try:
        return address_of(host).is_loopback
    except ValueError:
        return False
