"""Attempts, counted by account and by network, against guessing of passwords.

The nodes of a cluster count together. While Redis does not answer, each node counts by itself. After too many
attempts a client must wait until the oldest ones expire.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_network
from time import monotonic
from typing import Final

from imserver.errors import ImserverError
from imserver.transport.proxies import address_of, is_loopback

MAX_COUNTS: Final = 100_000
"""Limit of the number of counts. Beyond it the oldest are dropped."""


class TooManyFailures(ImserverError):
    """Too many logins failed, or came from one address. ``seconds``: time until the next attempt is
    allowed.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many logins; the next one may be tried in {seconds} s")
        self.seconds = seconds


Shared = Callable[[str, float, float, float], float | None]
"""Counts for all nodes: :meth:`imserver.cluster.redis.registry.RedisRegistry.attempt`."""


class Attempts:
    """Owner of the counts of this node. Each count falls by one every ``seconds / most``: a leaky bucket.

    With ``shared`` the nodes of a cluster count together, under ``kind``. Then :meth:`take`, :meth:`forget`
    and :meth:`forgive` may switch.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        clock: Callable[[], float] = monotonic,
        kind: str = "",
        shared: Shared | None = None,
    ) -> None:
        self._kind = kind
        self._shared = shared
        self._most = most
        self._each = seconds / most
        self._clock = clock
        self._counts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def require(self, name: Hashable, weight: float = 1) -> None:
        """Raise TooManyFailures if ``name`` has too many failures for another one of this weight."""
        above = self._count(name) - (self._most - weight)
        if above > 0:
            raise TooManyFailures(max(1, math.ceil(above * self._each)))

    def failed(self, name: Hashable, weight: float = 1) -> None:
        """Count a failure of this weight."""
        self._counts[name] = (self._count(name) + weight, self._clock())
        self._counts.move_to_end(name)
        if len(self._counts) > MAX_COUNTS:
            self._counts.popitem(last=False)

    def take(self, name: Hashable) -> None:
        """Count an attempt, in one step with the check. Raises TooManyFailures."""
        seconds = self._count_shared(name, 1)
        if seconds is None:
            self.require(name)
        elif seconds:
            raise TooManyFailures(max(1, math.ceil(seconds)))
        self.failed(name)

    def _count_shared(self, name: Hashable, weight: float) -> float | None:
        if self._shared is None:
            return None
        return self._shared(f"{self._kind}:{name!r}", self._most, self._each, weight)

    def forget(self, name: Hashable) -> None:
        """Delete the failures of ``name`` after a success."""
        self._count_shared(name, -self._most)
        self._counts.pop(name, None)

    def forgive(self, name: Hashable) -> None:
        """Subtract one attempt that was not a failure."""
        self._count_shared(name, -1)
        count = self._count(name) - 1
        if count > 0:
            self._counts[name] = (count, self._clock())
        else:
            self._counts.pop(name, None)

    def _count(self, name: Hashable) -> float:
        found = self._counts.get(name)
        if found is None:
            return 0.0
        count, since = found
        return max(0.0, count - (self._clock() - since) / self._each)


class AddressRate:
    """Owner of the counts of requests per app and network, except the loopback network: at most ``most`` in
    ``seconds``; 0: no limit. What the users of one app do does not count for those of another behind the same
    address.
    """

    def __init__(self, most: int, seconds: float, kind: str = "", shared: Shared | None = None) -> None:
        self._attempts = Attempts(most, seconds, kind=kind, shared=shared) if most else None

    def charge(self, app: str, address: str) -> None:
        """Count a request of an address to an app; ``""``: to all apps. Raises TooManyFailures."""
        if self._attempts is None or not address or is_loopback(address):
            return
        self._attempts.take((app, network_of(address)))

    def charge_device(self, device: Hashable) -> None:
        """Count a request of a known device in place of its address, with the same limit. Raises
        TooManyFailures.
        """
        if self._attempts is not None:
            self._attempts.take(device)


def network_of(address: str) -> str:
    """The network of an address, for counting: for IPv6 the first 64 bits, which belong to one customer."""
    try:
        parsed = address_of(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
