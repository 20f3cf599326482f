"""The other nodes, as one argument: who needs the registry, the courier or the RPC mostly needs all three."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imserver.cluster.contract import Lease, Registry
from imserver.cluster.rpc import Rpc
from imserver.services.nodes.courier import Courier
from imserver.services.nodes.questions import encode


@dataclass(frozen=True, slots=True)
class Others:
    """What a service asks about other nodes (``registry``), sends them (``courier``) and asks them (``rpc``).

    ``seconds``: how long an answer may take.
    """

    registry: Registry
    courier: Courier
    rpc: Rpc
    seconds: float

    def ask(
        self, kind: str, asked: object, leases: Iterable[Lease] | None = None
    ) -> tuple[dict[str, bytes], list[str]]:
        """Ask all live nodes, or those of ``leases``, at once: answers by node, and nodes without one."""
        peers = self.courier.peers() if leases is None else list(leases)
        return self.rpc.ask_all(peers, kind, encode(asked), self.seconds) if peers else ({}, [])
