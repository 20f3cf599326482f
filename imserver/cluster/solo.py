"""The registry of a node without Redis: it is the only live node. No I/O, no switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from imserver.cluster.registry import Lease

EPOCH: Final = 1
"""The only epoch: there is no other node that could remember an earlier one."""


class SoloRegistry:
    """See :class:`imserver.cluster.registry.Registry`. Owner of the lease."""

    def __init__(self) -> None:
        self.lease = Lease("")
        self._leases: dict[int, Lease] = {}

    def start(self, lease: Lease) -> Lease:
        """Take ``lease`` as that of this node; returns it with the epoch."""
        self._set(replace(lease, epoch=EPOCH))
        return self.lease

    def stop(self) -> None:
        """See :class:`imserver.cluster.registry.Registry`."""
        self._leases = {}

    def healthy(self) -> bool:
        """See :class:`imserver.cluster.registry.Registry`."""
        return bool(self._leases)

    def leases(self) -> Mapping[int, Lease]:
        """See :class:`imserver.cluster.registry.Registry`."""
        return self._leases

    def report(
        self, connections: int, counts: Mapping[str, int], draining: bool = False, unsettled: bool = False
    ) -> None:
        """See :class:`imserver.cluster.registry.Registry`."""
        self._set(
            replace(
                self.lease,
                connections=connections,
                counts=dict(counts),
                draining=draining,
                unsettled=unsettled,
            )
        )

    def _set(self, lease: Lease) -> None:
        self.lease = lease
        self._leases = {EPOCH: lease}
