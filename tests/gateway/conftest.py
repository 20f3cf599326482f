"""What is between the sockets and the HTTP API of a node, or of three, and time
for its rates."""

from collections.abc import Iterator

import pytest

from imserver.gateway.auth import rates
from tests.gateway.core.cluster_harness import Several, Topology
from tests.gateway.hub.harness import Harness
from tests.support import Clock


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as one:
        yield one


@pytest.fixture
def nodes() -> Iterator[Several]:
    with Several(3) as several:
        yield several


@pytest.fixture(params=["node", "cluster"])
def topology(request: pytest.FixtureRequest) -> Iterator[Topology]:
    """One rig for rules that hold on a node and in a cluster."""
    if request.param == "node":
        with Harness() as harness:
            yield Topology(harness, harness)
    else:
        with Several(2) as nodes:
            yield Topology(nodes[1], nodes[2], nodes)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(rates, "monotonic_ns", one.nanoseconds)
    return one
