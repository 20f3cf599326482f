"""Failed logins, counted: by account and by address, so that passwords cannot be guessed.

Counts are this node's own. Whoever has failed too often waits until the oldest failures are forgotten, the
right password in hand or not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address, ip_network
from time import monotonic
from typing import Final

from imserver.errors import ImserverError

MAX_COUNTS: Final = 100_000
"""Accounts and addresses that are remembered; beyond it those that failed longest ago are forgotten."""


class TooManyFailures(ImserverError):
    """Too many logins failed, or came from one address; ``seconds`` until one may be tried again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many logins; the next one may be tried in {seconds} s")
        self.seconds = seconds


class Attempts:
    """Owner of the counts. Each of them falls by one every ``seconds / most``: a bucket that leaks."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._each = seconds / most
        self._clock = clock
        self._counts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def require(self, name: Hashable, weight: float = 1) -> None:
        """Raise TooManyFailures if ``name`` has failed too often for another failure of this weight."""
        above = self._count(name) - (self._most - weight)
        if above > 0:
            raise TooManyFailures(max(1, math.ceil(above * self._each)))

    def failed(self, name: Hashable, weight: float = 1) -> None:
        """Count a failure, or something else that comes in amounts."""
        self._counts[name] = (self._count(name) + weight, self._clock())
        self._counts.move_to_end(name)
        if len(self._counts) > MAX_COUNTS:
            self._counts.popitem(last=False)

    def forget(self, name: Hashable) -> None:
        """It succeeded: its failures are forgiven."""
        self._counts.pop(name, None)

    def forgive(self, name: Hashable) -> None:
        """It was no failure after all: one is taken back."""
        count = self._count(name) - 1
        if count > 0:
            self._counts[name] = (count, self._clock())
        else:
            self.forget(name)

    def _count(self, name: Hashable) -> float:
        found = self._counts.get(name)
        if found is None:
            return 0.0
        count, since = found
        return max(0.0, count - (self._clock() - since) / self._each)


class AddressRate:
    """Owner of what each network but this machine's own has asked for: at most ``most`` in ``seconds``, 0: as
    much as it likes."""

    def __init__(self, most: int, seconds: float) -> None:
        self._attempts = Attempts(most, seconds) if most else None

    def charge(self, address: str) -> None:
        """Count a request of an address. Raises TooManyFailures."""
        if self._attempts is None or not address or _is_own(address):
            return
        network = network_of(address)
        self._attempts.require(network)
        self._attempts.failed(network)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, of which anybody has one to themselves."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped or ip_network((parsed, 64), strict=False).network_address)


def _is_own(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
