"""Messages that are stored together: they share frames, and their senders are acknowledged in between."""

from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event as Signal

from imserver.messenger.messages import deliverer
from tests.dialects.protobuf.test_service import APP, Harness, ProtobufClient
from tests.gateway.transport.harness import until


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as found:
        yield found


def members(harness: Harness, *lives: int) -> tuple[int, list[ProtobufClient]]:
    """A group of these accounts, who are here."""
    first, *others = [str(each) for each in lives]
    return harness.group(first, *others), [harness.live(each) for each in lives]


def together(harness: Harness, begin: ProtobufClient, group: int) -> Signal:
    """Have what is sent from now on share a transaction: the one before does not end until this is set."""
    harness.gates.committing = gate = Signal()
    begin.group(1, group, "before")
    until(lambda: harness.uplink.queues)
    return gate


def test_what_is_stored_together_is_one_frame_and_its_senders_are_acknowledged_in_their_order(
    harness: Harness,
) -> None:
    group, (ann, bob, eve, dan) = members(harness, 1, 2, 3, 4)
    gate = together(harness, dan, group)
    for each, text in ((ann, "a"), (bob, "b"), (eve, "c")):
        each.group(1, group, text)
        each.settle()
    gate.set()
    until(lambda: len(dan.outputs()) >= 4)
    for each in (ann, bob, eve, dan):
        until(lambda each=each: len(each.stream()) >= 4)  # type: ignore[misc]
        assert each.stream() == [2, 3, 4, 5]
    assert harness.appends == [1, 3]
    assert [each.content for each in dan.pushes()] == [b"a", b"b", b"c"]
    assert [each.content for each in bob.pushes()] == [b"before", b"a", b"c"]
    assert bob.acks() == [(1, 4)]
    frames = {name: len(each.client.payloads()) for name, each in zip("aed", (ann, eve, dan), strict=True)}
    assert frames == {"a": 3, "e": 3, "d": 2}
    assert (harness.metrics.batch_messages.total, sum(harness.metrics.batch_seconds.counts)) == (4, 2)


def test_a_run_ends_where_it_is_enough_for_a_frame(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in (("MAX_RUN", 4), ("MAX_RUN_BYTES", 100)):
        monkeypatch.setattr(deliverer, limit, most)
    group, (ann, bob, dan) = members(harness, 1, 2, 3)
    gate = together(harness, dan, group)
    for number in range(1, 7):
        ann.group(number, group, "short")
    for number in range(1, 4):
        bob.group(number, group, "x" * 60)
    ann.settle()
    bob.settle()
    gate.set()
    until(lambda: len(dan.stream()) >= 10)
    assert dan.stream() == list(range(2, 12))
    sizes = [payload.count(b"short") + payload.count(b"x" * 60) for payload in dan.client.payloads()]
    assert max(sizes) <= 4
    assert all(payload.count(b"x" * 60) <= 1 for payload in dan.client.payloads())
    assert len(sizes) < 10


def test_a_member_who_joins_in_a_batch_receives_the_entries_after_it(harness: Harness) -> None:
    group, (ann, bob) = members(harness, 1, 2)
    eve = harness.live(3)
    gate = together(harness, bob, group)
    ann.group(1, group, "a")
    ann.settle()
    joining = gevent.spawn(harness.log.groups.join, APP, group, ["3"])
    gate.set()
    joining.join()
    ann.group(2, group, "b")
    until(lambda: len(eve.pushes()) == 2)
    assert [each.content for each in eve.pushes()] == [b"a", b"b"]
