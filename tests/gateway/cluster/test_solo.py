"""The registry of a node without Redis."""

from imserver.gateway.cluster.registry import EPOCH, Lease, SoloRegistry


def test_a_lone_node_lives_and_shows_what_it_reported_until_it_stops() -> None:
    registry = SoloRegistry(Lease("127.0.0.1:9001"))
    assert registry.healthy()
    registry.report(7, {"101": 3}, draining=True)
    seen = registry.leases()[EPOCH]
    assert registry.leases() == {EPOCH: registry.lease}
    assert (seen.node, seen.connections, seen.counts, seen.draining) == (
        "127.0.0.1:9001",
        7,
        {"101": 3},
        True,
    )
    registry.stop()
    assert not registry.healthy()
    assert registry.leases() == {}
