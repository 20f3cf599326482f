"""The registry of a node without Redis."""

import gevent

from imserver.gateway.cluster.registry import EPOCH, Lease, SoloRegistry


def test_the_node_is_the_only_live_one() -> None:
    registry = SoloRegistry(Lease("127.0.0.1:9001"))
    assert registry.lease.epoch == EPOCH
    assert registry.healthy()
    assert registry.leases() == {EPOCH: registry.lease}


def test_the_lease_shows_what_was_reported() -> None:
    registry = SoloRegistry(Lease("127.0.0.1:9001"))
    registry.report(7, {"101": 3}, draining=True)
    seen = registry.leases()[EPOCH]
    assert (seen.node, seen.connections, seen.counts, seen.draining) == (
        "127.0.0.1:9001",
        7,
        {"101": 3},
        True,
    )


def test_a_stopped_node_is_not_live() -> None:
    registry = SoloRegistry(Lease("127.0.0.1:9001"))
    registry.stop()
    assert not registry.healthy()
    assert registry.leases() == {}


def test_no_call_switches() -> None:
    registry = SoloRegistry(Lease("127.0.0.1:9001"))
    ran: list[int] = []
    gevent.spawn(ran.append, 1)
    registry.report(1, {})
    registry.leases()
    registry.stop()
    assert ran == []
    gevent.sleep(0)
    assert ran == [1]
