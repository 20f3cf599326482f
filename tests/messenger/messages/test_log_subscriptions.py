"""Readings of memberships that are under way while memberships change."""

import gevent
from gevent.event import Event as Signal

from imserver.messenger.messages.log.contract import Membership
from imserver.messenger.messages.log_subscriptions import LogSubscriptions
from tests.gateway.transport.harness import until


def test_of_two_devices_that_come_at_once_the_slower_one_learns_of_a_change_too() -> None:
    subscriptions = LogSubscriptions()
    gates = [Signal(), Signal()]
    reads = [0, 0]

    def memberships(device: int) -> list[Membership]:
        reads[device] += 1
        gates[device].wait()
        return []

    slow, quick = (
        gevent.spawn(
            subscriptions.read_memberships, lambda *_, device=device: memberships(device), "app", "bob"
        )
        for device in (0, 1)
    )
    until(lambda: reads == [1, 1])
    gates[1].set()
    quick.get(timeout=60)
    subscriptions.memberships_changed("app", "bob")
    gates[0].set()
    slow.get(timeout=60)
    assert reads == [2, 1]
    assert not subscriptions.reads
