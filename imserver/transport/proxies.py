"""Who the client is when trusted proxies stand in between (X-Forwarded-For, X-Forwarded-Host)."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network


class TrustedProxies:
    """The networks whose forwarding headers are believed."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(network, strict=False) for network in networks
        )
        self.trusts = lru_cache(1024)(self._trusts)
        """``trusts(host)``: whether the address ``host`` is a trusted proxy's."""

    def _trusts(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def client(self, host: str, forwarded_for: str) -> str:
        """The client's address: the last one in X-Forwarded-For that is no trusted proxy's.

        ``host`` is the peer's own address; the header counts only if that is a trusted proxy.
        """
        if not forwarded_for or not self.trusts(host):
            return host
        hops = [hop.strip().strip("[]") for hop in forwarded_for.split(",")]
        for hop in reversed(hops):
            if not hop:
                break
            host = hop
            if not self.trusts(hop):
                break
        return host


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine's loopback network."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
