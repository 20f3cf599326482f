"""What operators want to know of all nodes at once: this node asks the others, and says who is silent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any

import msgspec

from imserver.cluster.registry import Lease, Registry
from imserver.services.nodes.queries import NodeQueries, StateQuery, encode, read

if TYPE_CHECKING:
    from imserver.cluster.rpc.server import Rpc

LeasesByNode = dict[str, Lease]


class Overview:
    """Answers for this node and asks the others. Stateless.

    ``own_state`` and ``own_metrics`` tell of this node, ``lease`` is what it says of itself; a node that is
    alone has no ``rpc``.
    """

    def __init__(
        self,
        own_state: Callable[[StateQuery], Mapping[str, Any]],
        own_metrics: Callable[[], str],
        lease: Callable[[], Lease],
        registry: Registry,
        rpc: Rpc | None = None,
        seconds: float = 1.0,
    ) -> None:
        self._own_state = own_state
        self._own_metrics = own_metrics
        self._own_lease = lease
        self._registry = registry
        self._rpc = rpc
        self._seconds = seconds

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        queries.add("state", StateQuery, self._own_state)
        queries.add("metrics", NoneType, lambda _: self._own_metrics())

    def leases(self) -> LeasesByNode:
        """What every live node says of itself, this one first. Of two lives of a node the later counts."""
        own = self._own_lease()
        found = {own.node: own}
        for _, lease in sorted(self._registry.leases().items()):
            if lease.node != own.node:
                found[lease.node] = lease
        return found

    def states(self, debug: bool, detail: bool) -> tuple[dict[str, Any], list[str]]:
        """The state of every node with its lease, and the names of those that did not answer.

        Of one that did not answer there is the lease alone.
        """
        leases = self.leases()
        asked = StateQuery(debug, detail)
        answers, missing = self._ask(leases.values(), "state", encode(asked))
        states = read(answers, dict[str, Any])
        own = next(iter(leases))
        states[own] = dict(self._own_state(asked))
        return {
            node: {**states.get(node, {}), "lease": describe(lease)} for node, lease in leases.items()
        }, missing

    def metrics(self) -> tuple[list[str], list[str]]:
        """The metrics of every node of this machine as text, and the names of those that did not answer."""
        leases = self.leases()
        own = next(iter(leases.values()))
        here = [lease for lease in leases.values() if lease.host == own.host]
        answers, missing = self._ask(here, "metrics", encode(None))
        return [self._own_metrics(), *read(answers, str).values()], missing

    def _ask(self, leases: Collection[Lease], kind: str, body: bytes) -> tuple[dict[str, bytes], list[str]]:
        """Ask all of these nodes but this one."""
        own = self._own_lease()
        others = [lease for lease in leases if lease.node != own.node]
        if self._rpc is None or not others:
            return {}, []
        return self._rpc.query_all(others, kind, body, self._seconds)


class LeaseShown(msgspec.Struct, frozen=True, rename="camel"):
    """A lease as operators see it."""

    node: str
    epoch: int
    host: str
    started_at: float
    connections: int
    counts: dict[str, int]
    draining: bool
    public_ws_url: str
    version: int


def describe(lease: Lease) -> dict[str, Any]:
    """A lease with the keys of JSON; without what only nodes need."""
    shown = msgspec.convert(lease, LeaseShown, from_attributes=True)
    found: dict[str, Any] = msgspec.to_builtins(shown)
    return found
