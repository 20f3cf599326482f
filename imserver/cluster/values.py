"""Values that nodes share for minutes, such as logins with a provider that are running.

Without Redis they are in the memory of the node. In a cluster
:class:`imserver.cluster.redis.registry.RedisRegistry` has them, so any node may go on with what another one
has begun.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

MAX_VALUES: Final = 100_000
"""Limit of the values in memory. Beyond it the oldest are dropped."""


class TemporaryValues(Protocol):
    """Values by key. All methods may switch, and raise StorageUnavailable if Redis does not answer."""

    def put_value(self, key: str, value: bytes, seconds: float) -> None:
        """Store a value for a time."""
        ...

    def value(self, key: str) -> bytes | None:
        """The value of a key; None if it has none any more."""
        ...

    def remove_value(self, key: str) -> bool:
        """Delete a value. Of several callers at once, one gets True."""
        ...


class LocalValues:
    """The values of a node without Redis."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        """Key → value and end, the oldest first."""

    def put_value(self, key: str, value: bytes, seconds: float) -> None:
        """See :class:`TemporaryValues`."""
        now = self._clock()
        self._values.pop(key, None)
        self._values[key] = value, now + seconds
        while self._values:
            oldest, (_, end) = next(iter(self._values.items()))
            if end > now and len(self._values) <= MAX_VALUES:
                break
            del self._values[oldest]

    def value(self, key: str) -> bytes | None:
        """See :class:`TemporaryValues`."""
        value, end = self._values.get(key, (None, 0.0))
        return value if end > self._clock() else None

    def remove_value(self, key: str) -> bool:
        """See :class:`TemporaryValues`."""
        _, end = self._values.pop(key, (b"", 0.0))
        return end > self._clock()
