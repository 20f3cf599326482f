"""Address lists: back ends that need no key, because of where they call from (``api_allow_from``)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from imserver.transport.proxies import address_of

if TYPE_CHECKING:
    from imserver.services.logins.tenants import Tenant

_Networks = tuple[IPv4Network | IPv6Network, ...]


class AllowLists:
    """Owner of the networks of the apps that have any. Nothing here switches.

    ``apps_of(host)`` are the apps whose list has the address ``host``.
    """

    def __init__(self) -> None:
        self._networks: dict[str, _Networks] = {}
        self.apps_of = lru_cache(1024)(self._apps_of)

    def learn(self, tenants: Iterable[Tenant]) -> None:
        """Take the lists of these apps in place of all that were known."""
        self._networks = {}
        for tenant in tenants:
            self.changed(tenant)
        self.apps_of.cache_clear()

    def changed(self, tenant: Tenant) -> None:
        """An app is new, or not what it was."""
        if tenant.api_allow_from:
            networks = tuple(ip_network(each, strict=False) for each in tenant.api_allow_from)
            if self._networks.get(tenant.name) != networks:
                self._networks[tenant.name] = networks
                self.apps_of.cache_clear()
        elif self._networks.pop(tenant.name, None) is not None:
            self.apps_of.cache_clear()

    def allows(self, app: str, host: str) -> bool:
        """Whether the list of ``app`` has the address ``host``."""
        return app in self._networks and app in self.apps_of(host)

    def _apps_of(self, host: str) -> frozenset[str]:
        if not self._networks:
            return frozenset()
        try:
            address = address_of(host)
        except ValueError:
            return frozenset()
        return frozenset(
            app for app, networks in self._networks.items() if any(address in network for network in networks)
        )
