"""Both channels between real sockets: keys, who is let in to the ports, and
peers that cannot be reached."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import gevent
import msgspec
import pytest
import zmq
from gevent import monkey
from gevent import socket as green
from msgspec.structs import replace

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc import peer as rpc_peer
from imserver.gateway.cluster.rpc import wire
from imserver.gateway.cluster.rpc.counters import PeerBusy, PeerUnavailable
from imserver.gateway.cluster.rpc.curve import CurveKeys
from imserver.gateway.cluster.rpc.peer import (
    ITEM_BYTES,
    SLOW_CALLS_IN_FLIGHT,
    RpcSeconds,
)
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.errors import StartError
from imserver.gateway.process import Secret
from tests.gateway.cluster.rpc_harness import (
    FOREIGN,
    FOREIGN_KEYS,
    KEYS,
    SECRET,
    Node,
    Nodes,
    attempt,
    greenlets,
    lease,
    lease_of_nobody,
    stranger,
    until,
)

SECONDS: Final = RpcSeconds(stall=60.0, silence=60.0)
"""A busy machine is no fault."""
HASTY: Final = RpcSeconds(stall=0.1, connect=0.1, silence=0.2, watch=0.02, probe=0.5)
"""Faults are noticed within tenths of a second."""


def receive(node: Node, count: int) -> None:
    until(lambda: len(node.items) >= count)


# --- events -------------------------------------------------------------------


def test_events_arrive_in_order_those_of_a_turn_in_one_batch_and_too_large_ones_do_not(
    peers: Nodes,
) -> None:
    a, b = peers.pair()
    items = [b"", *(b"%d" % number for number in range(99))]
    assert all(a.rpc.send(b.lease, item) for item in items)
    until(lambda: len(b.items) == 100)
    assert b.items == items
    assert b.batches == [(1, 100)]
    size = sum(map(len, items))
    sent = a.counters
    received = b.counters
    assert (sent.sent, sent.batches_sent, sent.bytes_sent) == (100, 1, size)
    assert (received.received, received.batches_received, received.bytes_received) == (
        100,
        1,
        size,
    )
    largest = os.urandom(ITEM_BYTES)
    assert not a.rpc.send(b.lease, largest + b"x")
    assert a.rpc.send(b.lease, largest)
    until(lambda: b.items[100:] == [largest])
    assert a.counters.overflows == 1


def test_others_have_their_turn_while_much_is_received(peers: Nodes) -> None:
    a, b = peers.pair()
    turns = 0

    def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    for _ in range(20_000):
        assert a.rpc.send(b.lease, b"x")
    ticking = gevent.spawn(tick)
    receive(b, 20_000)
    ticking.kill()
    assert turns >= 20_000 / rpc_peer.BATCH_ITEMS / 2


def test_a_slow_receiver_slows_the_sender_down_and_loses_nothing(peers: Nodes) -> None:
    a, b = peers.pair()
    b.receive = lambda sender, items: gevent.sleep(0.002) or b.received(sender, items)
    count = 0
    while not a.rpc.peers.all() or not a.rpc.peers.all()[0].blocked_since:
        assert a.rpc.send(b.lease, b"%07d" % count + bytes(10_000))
        count += 1
        if count % 20 == 0:
            gevent.sleep(0)
    until(lambda: len(b.items) == count)
    assert [item[:7] for item in b.items] == [
        b"%07d" % number for number in range(count)
    ]
    assert a.rpc.peers.all()[0].link.admits_calls


def test_what_was_meant_for_an_earlier_life_is_dropped(peers: Nodes) -> None:
    a, b = peers.pair()
    assert a.rpc.send(b.lease, b"to the first life")
    until(lambda: b.items)
    second = peers.add(b.reborn(3))
    with pytest.raises(PeerUnavailable, match="another epoch"):
        a.rpc.query(b.lease, "kick", b"1")
    assert second.counters.answered == 0
    # What is sent before the end of the connection is noticed is lost with it.
    until(
        lambda: (
            a.rpc.send(b.lease, b"still to the first life") and second.counters.stale
        )
    )
    assert a.rpc.send(second.lease, b"to the second life")
    until(lambda: second.items == [b"to the second life"])
    assert second.counters.gaps == 0


def test_a_process_with_a_new_epoch_takes_all_that_was_sent_to_it_before_in_order(
    peers: Nodes,
) -> None:
    a, b = peers.pair()
    first = replace(b.lease, birth=7)
    second = replace(b.lease, birth=7, epoch=5)
    for number in range(3):
        assert a.rpc.send(first, b"%d" % number)
    receive(b, 3)
    b.rpc.epoch = 5
    assert a.rpc.send(first, b"to the epoch before")
    assert a.rpc.query(first, "kind", b"") == b"kind:"
    assert a.rpc.send(first, b"queued")
    a.rpc.update({5: second})  # as soon as its new lease is known
    assert a.rpc.send(second, b"new")
    receive(b, 6)
    assert b.items[3:] == [b"to the epoch before", b"queued", b"new"]
    assert (b.counters.gaps, b.counters.late, b.counters.stale, a.counters.dropped) == (
        0,
        0,
        0,
        0,
    )
    assert len(a.rpc.peers.all()) == 1


@pytest.mark.parametrize("why", ["unused", "its lease was missing for a moment"])
def test_a_peer_that_was_hung_up_is_dialled_again_without_a_loss(
    peers: Nodes, why: str
) -> None:
    a, b = peers.pair(seconds=replace(SECONDS, idle_linger=60.0))
    for number in range(3):
        assert a.rpc.send(b.lease, b"%d" % number)
        assert a.rpc.query(b.lease, "kind", b"")
        (peer,) = a.rpc.peers.all()
        until(lambda peer=peer: not peer.waits)
        assert peer.active
        if why == "unused":
            for minutes in (1, 3):
                peer.needs_probe(monotonic() + 60 * minutes)
        else:
            receive(b, number + 1)
            a.rpc.update({})
        assert not peer.active
    receive(b, 3)
    assert b.items == [b"0", b"1", b"2"]
    assert (b.counters.gaps, b.counters.lost, a.counters.dropped) == (0, 0, 0)


# --- bounds and the circuit ---------------------------------------------------


def test_a_full_queue_refuses_and_is_dropped_with_its_peer_when_that_has_no_lease(
    peers: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    a = peers(1, queue_items=10)
    nobody = lease_of_nobody(2)
    assert [a.rpc.send(nobody, b"x") for _ in range(12)] == [True] * 10 + [False] * 2
    assert a.counters.overflows == 2
    assert caplog.text.count("send queue full") == 1
    assert (a.rpc.queued_items, a.rpc.queued_bytes) == (10, 10)
    asking = attempt(a, nobody, seconds=30)
    gevent.sleep(0)
    a.rpc.update({1: a.lease})
    assert a.counters.dropped == 10
    assert isinstance(asking.get(timeout=60), PeerUnavailable)
    assert a.rpc.peers.all() == []


def test_nothing_is_queued_for_a_peer_that_does_not_answer_until_it_is_back(
    peers: Nodes,
) -> None:
    a = peers(1, seconds=HASTY)
    absent = lease_of_nobody(2)
    assert a.rpc.send(absent, b"before")
    until(lambda: not a.rpc.send(absent, b"while it is away"))
    assert a.counters.refused
    assert a.counters.breaker_opens
    started = monotonic()
    with pytest.raises(PeerUnavailable, match="its circuit is open"):
        a.rpc.query(absent, "kind", b"", 50)
    assert monotonic() - started < 30, "nobody waited for it"
    ports = [
        int(address.rpartition(":")[2]) for address in (absent.control, absent.data)
    ]
    b = peers(2, control_port=ports[0], data_port=ports[1])
    until(lambda: a.rpc.send(absent, b"after"))
    until(lambda: b.items[-1:] == [b"after"])
    # What had been taken before the circuit opened came first, and nothing of
    # it is missing.
    assert b.items[0] == b"before"
    assert (b.counters.gaps, b.counters.late) == (0, 0)
    assert a.rpc.query(absent, "are you", b"there") == b"are you:there"


def test_a_new_connection_may_take_longer_than_a_queue_may_stand(peers: Nodes) -> None:
    a = peers(1, seconds=replace(HASTY, connect=60.0))
    coming = lease_of_nobody(2)
    assert a.rpc.send(coming, b"early")
    (peer,) = a.rpc.peers.all()
    until(
        lambda: (
            peer.blocked_since and monotonic() - peer.blocked_since > 10 * HASTY.stall
        )
    )
    assert a.rpc.send(coming, b"not refused")
    ports = [
        int(address.rpartition(":")[2]) for address in (coming.control, coming.data)
    ]
    b = peers(2, control_port=ports[0], data_port=ports[1])
    until(lambda: b.items == [b"early", b"not refused"])
    assert (a.counters.refused, a.counters.breaker_opens) == (0, 0)


def test_a_late_loop_takes_no_peer_for_dead_and_a_probe_follows_one_that_fails(
    peers: Nodes,
) -> None:
    peer = peers(1).rpc.peers.get(lease_of_nobody(2))
    for _ in range(3):
        gevent.spawn(monkey.get_original("time", "sleep"), 3 * rpc_peer.LATE_SECONDS)
        assert not peer.probe(0.01)
    assert peer.link.admits_calls, "its answers may have come"
    until(lambda: peer.probe(0.01) or not peer.link.admits_calls)
    until(peer.link.allows)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        peer.probe(60.0)
    until(peer.link.allows)


def test_a_queue_that_moves_again_has_not_stalled(peers: Nodes) -> None:
    a, b = peers.pair(seconds=replace(SECONDS, connect=0.0))
    assert a.rpc.send(b.lease, b"1")
    until(lambda: b.items == [b"1"])
    (peer,) = a.rpc.peers.all()
    # As if ZeroMQ had accepted nothing for long, and this loop was late.
    peer.blocked_since = monotonic() - 1000
    assert not peer.needs_probe(monotonic())
    assert peer.link.admits_calls
    assert a.rpc.send(b.lease, b"2")
    until(lambda: b.items == [b"1", b"2"])


def test_after_three_questions_without_an_answer_the_next_one_fails_at_once(
    peers: Nodes,
) -> None:
    a, b = peers.pair()
    b.answer = lambda kind, body: gevent.sleep(30) or b""
    peer = a.rpc.peers.get(b.lease)
    breaker = peer.control.breaker
    # the time to the next attempt, which may be none
    breaker.uniform = lambda low, high: 3600.0
    for _ in range(3):
        with pytest.raises(PeerUnavailable, match="in time"):
            a.rpc.query(b.lease, "slow", b"", 0.05)
    with pytest.raises(PeerUnavailable, match="control circuit is open"):
        a.rpc.query(b.lease, "slow", b"", 5)
    assert a.counters.call_failures == 4
    assert a.counters.breaker_opens == 1
    # It is slow, not gone: events go on.
    assert a.rpc.send(b.lease, b"event")
    until(lambda: b.items == [b"event"])


# --- questions ----------------------------------------------------------------


def test_an_answer_that_fails_or_is_too_large_is_an_error_at_once_and_gives_the_asker_no_reason(
    peers: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = peers.pair()

    def fail(kind: str, body: bytes) -> bytes:
        raise LookupError("the private reason")

    b.answer = fail
    for _ in range(6):  # it answered, if only by an error: its circuit stays closed
        with pytest.raises(PeerUnavailable, match="failed") as raised:
            a.rpc.query(b.lease, "kind", b"")
    assert "private" not in str(raised.value)
    assert raised.value.node == b.lease.node
    assert "the private reason" in caplog.text
    b.answer = lambda kind, body: bytes(int(body))
    largest = wire.MESSAGE_BYTES - 64 * 1024
    assert len(a.rpc.query(b.lease, "kind", b"%d" % largest)) == largest
    for body in (b"%d" % (largest + 1), bytes(ITEM_BYTES + 1)):
        with pytest.raises(PeerUnavailable, match="too large"):
            a.rpc.query(b.lease, "kind", body)


def test_of_many_questions_at_most_64_are_answered_at_a_time_and_a_ping_has_its_turn(
    peers: Nodes,
) -> None:
    a, b = peers.pair()
    go_on = gevent.event.Event()
    in_work = set[bytes]()
    most = 0

    def answer(kind: str, body: bytes) -> bytes:
        nonlocal most
        in_work.add(body)
        most = max(most, len(in_work))
        go_on.wait()
        gevent.sleep(0.001)
        in_work.remove(body)
        return body

    b.answer = answer
    asking = [attempt(a, b.lease, b"%d" % number) for number in range(300)]
    until(lambda: b.counters.answered == 64)
    (peer,) = a.rpc.peers.all()
    assert peer.probe(20.0)
    go_on.set()
    gevent.joinall(asking)
    assert [one.value for one in asking] == [b"%d" % number for number in range(300)]
    assert (b.counters.answered, sum(a.counters.call_seconds.counts)) == (300, 300)
    assert most == 64


def test_questions_that_wait_for_clients_delay_no_others_and_open_no_circuit(
    peers: Nodes,
) -> None:
    a, b = peers.pair()
    go_on = gevent.event.Event()
    b.answer = lambda kind, body: b"%d" % go_on.wait() if kind == "slow" else body

    def ask(seconds: float) -> bytes:
        return a.rpc.query(b.lease, "slow", b"", seconds, slow=True)

    slow = [gevent.spawn(ask, 60.0) for _ in range(SLOW_CALLS_IN_FLIGHT)]
    until(lambda: b.counters.answered == SLOW_CALLS_IN_FLIGHT)
    with pytest.raises(PeerBusy, match="too many"):
        ask(0.01)
    assert a.rpc.query(b.lease, "kind", b"other") == b"other"
    go_on.set()
    assert [one.get() for one in slow] == [b"1"] * SLOW_CALLS_IN_FLIGHT
    go_on.clear()
    for _ in range(10):
        with pytest.raises(PeerUnavailable, match="no answer in time"):
            ask(0.01)
    assert a.rpc.query(b.lease, "kind", b"other") == b"other"
    assert a.counters.breaker_opens == 0
    go_on.set()


def test_a_node_with_too_many_questions_says_that_it_is_busy(peers: Nodes) -> None:
    a, b = peers.pair()
    go_on = gevent.event.Event()
    b.answer = lambda kind, body: b"%d" % go_on.wait()
    with stranger(zmq.DEALER, b.rpc.control_address) as many:
        for number in range(wire.CALLS_AT_ONCE):
            head = {"message_id": b"%d" % number, "v": 3}
            many.send(b"", msgspec.msgpack.encode([head, "ask", [1, 2, "kind", b""]]))
        until(lambda: b.counters.answered == wire.CALLS_AT_ONCE)
        with pytest.raises(PeerUnavailable, match="busy"):
            a.rpc.query(b.lease, "kind", b"")
        assert b.counters.busy == 1
        go_on.set()
        until(lambda: attempt(a, b.lease).get() == b"1")


@pytest.mark.full("faults")
@pytest.mark.parametrize("end", [Rpc.stop, Rpc.kill])
def test_nothing_is_left_of_questions_and_of_an_ended_node(
    peers: Nodes, end: Callable[[Rpc], None]
) -> None:
    others = peers.pair()  # what the first ones of a process open stays open
    assert others[0].rpc.query(others[1].lease, "kind", b"") == b"kind:"
    files = len(os.listdir("/proc/self/fd"))
    before = greenlets()
    a, b = peers.pair()
    b.answer = lambda kind, body: gevent.sleep(float(body)) or b""
    assert a.rpc.send(b.lease, b"x")
    assert a.rpc.query(b.lease, "kind", b"0") == b""
    alive = greenlets()
    with pytest.raises(PeerUnavailable, match="in time"):
        a.rpc.query(b.lease, "kind", b"0.2", 0.01)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        a.rpc.query(b.lease, "kind", b"0.2", 10)
    killed = attempt(a, b.lease, b"0.2")
    gevent.sleep(0.01)
    killed.kill()
    assert a.rpc.query(b.lease, "kind", b"0") == b""
    until(lambda: greenlets() <= alive)
    assert a.counters.malformed == 0
    if end is Rpc.kill:
        answered = b.counters.answered
        asking = attempt(a, b.lease, b"30", seconds=8)
        until(lambda: b.counters.answered > answered)
        a.rpc.kill()
        b.rpc.kill()
        assert not asking.ready(), "nobody waits for the question, which has 8 s"
        assert isinstance(asking.get(timeout=60), PeerUnavailable)
    a.rpc.stop()
    b.rpc.stop()
    until(lambda: greenlets() <= before)
    until(lambda: len(os.listdir("/proc/self/fd")) == files)


def test_asking_all_names_who_did_not_answer_and_waits_for_nobody_longer_than_asked(
    peers: Nodes,
) -> None:
    a = peers(1)
    others = [peers(epoch) for epoch in (2, 3, 4)]
    for other in others:
        a.rpc.query(other.lease, "kind", b"")  # connected: an answer takes no time
    others[1].answer = lambda kind, body: gevent.sleep(30) or b""
    nobody = lease_of_nobody(5)
    started = monotonic()
    answers, missing = a.rpc.query_all(
        [*(other.lease for other in others), nobody], "kind", b"", 2
    )
    assert monotonic() - started < 25
    assert answers == {others[0].lease.node: b"kind:", others[2].lease.node: b"kind:"}
    assert missing == sorted([others[1].lease.node, nobody.node])
    assert a.rpc.query_all([], "kind", b"") == ({}, [])


def test_a_node_speaks_with_the_version_before_its_own_and_leaves_an_older_one_alone(
    peers: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    old, before, new = (peers(epoch, version=epoch + 1) for epoch in (1, 2, 3))
    for a, b in ((before, new), (new, before)):
        assert a.rpc.query(b.lease, "kind", b"x") == b"kind:x"
        assert a.rpc.send(b.lease, b"item")
        receive(b, 1)
    for a, b in ((old, new), (new, old)):
        assert not a.rpc.send(b.lease, b"item")
        with pytest.raises(PeerUnavailable):
            a.rpc.query(b.lease, "kind", b"")
    assert "RPC version 4 is not compatible with 2" in caplog.text
    mistaken = lease(1, old.lease.control, old.lease.data, version=4)
    assert new.rpc.send(mistaken, b"item")
    until(lambda: old.counters.malformed == 1)
    with pytest.raises(PeerUnavailable, match="version"):
        new.rpc.query(mistaken, "kind", b"")
    assert old.items == []


# --- life ---------------------------------------------------------------------


def test_what_waits_is_sent_before_a_node_ends(peers: Nodes) -> None:
    a, b = peers.pair(seconds=replace(SECONDS, stop=60.0, stop_linger=60.0))
    for number in range(5000):
        assert a.rpc.send(b.lease, b"%d" % number)
    a.rpc.stop()
    until(lambda: len(b.items) == 5000)
    assert a.counters.dropped == 0


def test_stopping_waits_for_a_silent_peer_only_a_little(peers: Nodes) -> None:
    a = peers(1)
    assert a.rpc.send(lease_of_nobody(2), b"x")
    started = monotonic()
    a.rpc.stop()
    assert monotonic() - started < 20
    assert a.counters.dropped == 1
    a.rpc.stop()
    b = peers(3)
    assert not a.rpc.send(b.lease, b"x")
    for one, other in ((a, b), (b, a)):
        with pytest.raises(PeerUnavailable):
            one.rpc.query(other.lease, "kind", b"", 0.2)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "*", "224.0.0.1", "no.such.host.invalid"]
)
def test_the_ports_are_private(host: str) -> None:
    rpc = Rpc(Secret(SECRET), lambda kind, body: b"", lambda sender, items: None)
    with pytest.raises(StartError, match=r"cluster\.bind"):
        rpc.start(host, 0, 0)


def test_a_taken_port_is_one_clear_error_and_leaves_nothing_behind(
    peers: Nodes,
) -> None:
    node = peers(1)
    before = greenlets()
    for ports in (node.ports, {**node.ports, "control_port": 0}):
        rpc = Rpc(Secret(SECRET), lambda kind, body: b"", lambda sender, items: None)
        with pytest.raises(StartError, match=r"the RPC cannot listen on 127\.0\.0\.1:"):
            rpc.start("127.0.0.1", *ports.values())
    until(lambda: greenlets() <= before)


def test_ipv6_works_where_the_machine_has_it(peers: Nodes) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on this machine")
    a = peers(1)
    six = Rpc(Secret(SECRET), lambda kind, body: b"six", lambda sender, items: None)
    six.start("::1", 0, 0)
    six.epoch = 6
    assert six.control_address.startswith("tcp://[::1]:")
    assert (
        a.rpc.query(lease(6, six.control_address, six.data_address), "kind", b"")
        == b"six"
    )
    six.stop()


@pytest.mark.parametrize("part", ["_acceptor", "_channel_dispatcher", "_receiver", ""])
def test_a_receiver_that_ended_is_started_again_and_one_that_fails_gets_the_next_batch(
    peers: Nodes, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = greenlets()
    b = peers(2)
    victims = [one for one in greenlets() - before if part and f"{part} of" in str(one)]
    a = peers(1)

    def fail(sender: int, items: list[bytes]) -> None:
        b.receive = b.received
        raise LookupError("on purpose")

    assert a.rpc.query(b.lease, "kind", b"") == b"kind:"
    if part:
        (victim,) = victims
        victim.kill()
        until(lambda: b.counters.restarts == 1)
    else:
        b.receive = fail
        assert a.rpc.send(b.lease, b"first")
        until(lambda: "handling 1 items of another node failed" in caplog.text)
    assert a.rpc.query(b.lease, "kind", b"") == b"kind:"
    assert a.rpc.send(b.lease, b"item")
    until(lambda: b.items == [b"item"])
    assert b.counters.gaps == 0


# --- processes ----------------------------------------------------------------


CHANNELS = pytest.mark.parametrize(
    ("channel", "kind"), [("control_address", zmq.DEALER), ("data_address", zmq.PUSH)]
)


def test_a_node_of_another_cluster_cannot_ask_or_send(peers: Nodes) -> None:
    node = peers(1)
    foreign = peers(2, secret=FOREIGN)
    assert foreign.rpc.send(node.lease, b"item")
    with pytest.raises(PeerUnavailable):
        foreign.rpc.query(node.lease, "kind", b"", 0.3)
    until(lambda: node.counters.refused_peers)
    assert node.items == []
    assert node.counters.answered == 0


def test_nodes_reach_each_other_while_the_secret_changes(peers: Nodes) -> None:
    before = peers(1, second=FOREIGN)
    after = peers(2, secret=FOREIGN, second=SECRET)
    for one, other in ((before, after), (after, before)):
        assert one.rpc.query(other.lease, "kind", b"") == b"kind:"
        assert one.rpc.send(other.lease, b"item")
        until(lambda other=other: other.items == [b"item"])
    stranger_node = peers(3)  # it knows the old secret only
    with pytest.raises(PeerUnavailable):
        stranger_node.rpc.query(after.lease, "kind", b"", 0.3)


@CHANNELS
@pytest.mark.parametrize(
    "keys", [FOREIGN_KEYS._replace(server_public=KEYS.server_public), None]
)
def test_who_knows_the_servers_public_key_still_needs_the_clusters_own_and_encryption(
    peers: Nodes,
    channel: str,
    kind: int,
    keys: CurveKeys | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = peers(1)
    with (
        caplog.at_level(logging.WARNING),
        stranger(kind, getattr(node.rpc, channel), keys) as one,
    ):
        until(lambda: node.counters.refused_peers)
        assert not one.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT
    assert ("refused 127.0.0.1, its key is not the cluster's" in caplog.text) == (
        keys is not None
    )


@pytest.mark.parametrize("channel", ["control_address", "data_address"])
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00" * 100,
        b"\xff" * 1000,
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + b"\x00" * 48,
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE"
        + b"\x00" * 47
        + b"\x04\xc8\x05HELLO"
        + b"x" * 194,
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE"
        + b"\x00" * 47
        + b"\x06"
        + b"\xff" * 8,
        b"",
    ],
    ids=["http", "zeros", "ones", "null", "hello", "announces too much", "nothing"],
)
def test_garbage_for_a_handshake_is_counted_and_harms_nobody(
    peers: Nodes, channel: str, garbage: bytes
) -> None:
    node, peer = peers.pair()
    host, _, port = getattr(node.rpc, channel).removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(garbage)
        gevent.sleep(0)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        until(lambda: node.counters.refused_peers == 1)
    assert peer.rpc.query(node.lease, "still", b"there") == b"still:there"
    assert peer.rpc.send(node.lease, b"item")
    until(lambda: node.items == [b"item"])


def test_without_the_authenticator_nobody_gets_in(peers: Nodes) -> None:
    node, peer = peers.pair()
    node.rpc._authenticator.close()
    with pytest.raises(PeerUnavailable):
        peer.rpc.query(node.lease, "kind", b"", 0.3)
    assert node.counters.answered == 0


SOON: Final = replace(HASTY, stall=0.2, connect=0.2, watch=0.05)


def send_until_refused(node: Node, lease: Lease, first: int) -> int:
    """Send numbered items at a steady pace until one is refused; returns the
    next number."""
    number = first

    def refused() -> bool:
        nonlocal number
        if not node.rpc.send(lease, b"%08d" % number):
            return True
        number += 1
        return False

    until(refused, what="a refusal")
    return number


class Network:
    """Copies bytes between two ports, until it is told to swallow them, or to
    cut all connections."""

    def __init__(self, address: str) -> None:
        self.swallows: tuple[str, ...] = ()
        """What disappears: ``requests`` to the port, ``answers`` from it."""
        self.seen = bytearray()
        self.pairs: list[tuple[green.socket, green.socket]] = []
        """The two ends of each connection."""
        self._to = tuple(address.removeprefix("tcp://").rsplit(":", 1))
        self._listener = green.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._greenlets = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            outer = green.create_connection(self._to)
            self.pairs.append((inner, outer))
            self._greenlets += [
                gevent.spawn(self._copy, "requests", inner, outer),
                gevent.spawn(self._copy, "answers", outer, inner),
            ]

    def _copy(self, what: str, source: green.socket, target: green.socket) -> None:
        try:
            while data := source.recv(65536):
                self.seen += data
                if what not in self.swallows:
                    target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            sock.close()

    def cut(self) -> None:
        """End all connections; new ones are possible."""
        for pair in self.pairs:
            for sock in pair:
                with suppress(OSError):  # a node has ended it already
                    sock.shutdown(green.SHUT_RDWR)
        self.pairs.clear()

    def close(self) -> None:
        gevent.killall(self._greenlets)
        for sock in (self._listener, *(sock for pair in self.pairs for sock in pair)):
            sock.close()


class Between:
    """A network between a node and whoever uses ``lease``."""

    def __init__(self, node: Node) -> None:
        self.control, self.data = Network(node.lease.control), Network(node.lease.data)
        self.lease = Lease(
            node.lease.node,
            epoch=node.lease.epoch,
            control=self.control.address,
            data=self.data.address,
        )
        self.networks = (self.control, self.data)

    def close(self) -> None:
        for network in self.networks:
            network.close()


@pytest.mark.parametrize(
    "what", [("requests", "answers"), ("requests",), ("answers",)], ids="-".join
)
def test_a_partition_is_noticed_and_what_it_swallowed_is_counted(
    peers: Nodes, what: tuple[str, ...]
) -> None:
    """Of one direction, too: then b does not receive, or its answers get
    lost."""
    a, b = peers.pair(seconds=SOON)
    between = Between(b)
    assert a.rpc.send(between.lease, b"%08d" % 0)
    until(lambda: len(b.items) == 1)
    for network in between.networks:
        network.swallows = what
    sent = send_until_refused(a, between.lease, 1)
    received = 1 if "requests" in what else sent  # the last ones are still under way
    until(lambda: len(b.items) >= received)
    assert len(b.items) == received
    for network in between.networks:
        network.swallows = ()
        network.cut()
    until(lambda: a.rpc.send(between.lease, b"%08d" % sent), what="the peer to be back")
    until(lambda: b.items[-1] == b"%08d" % sent)
    assert b.items == sorted(set(b.items))
    assert b.counters.lost == sent + 1 - len(b.items)
    assert b.counters.gaps == (b.counters.lost > 0)
    between.close()


def test_order_is_kept_and_losses_are_counted_when_connections_break_under_load(
    peers: Nodes,
) -> None:
    a, b = peers.pair(seconds=SOON)
    between = Between(b)
    number = 0
    for _ in range(5):
        for _ in range(300):
            number += a.rpc.send(between.lease, b"%08d" % number)
            gevent.sleep(0)
        between.data.cut()
    until(lambda: a.rpc.send(between.lease, b"%08d" % number))
    until(lambda: b.items[-1:] == [b"%08d" % number])
    assert b.items == sorted(set(b.items))
    assert b.counters.lost + len(b.items) == number + 1
    between.close()


def test_bytes_are_encrypted_and_those_damaged_on_the_way_cost_a_connection_not_the_peer(
    peers: Nodes,
) -> None:
    a, b = peers.pair(seconds=replace(SOON, reconnect=1.0))
    between = Between(b)
    secret = b"in the clear" * 10
    assert a.rpc.send(between.lease, b"%08d" % 0)
    until(lambda: attempt(a, between.lease, secret).get() == b"kind:" + secret)
    until(lambda: len(b.items) == 1)
    assert len(between.control.seen) > 500
    assert b"in the clear" not in between.control.seen
    for network in between.networks:
        inner, _ = network.pairs[-1]
        inner.sendall(b"\x04\xc8damaged" + bytes(200))
    until(
        lambda: a.rpc.send(between.lease, b"%08d" % 1) and len(b.items) > 1,
        what="an event to arrive",
    )
    until(
        lambda: attempt(a, between.lease, seconds=2).get() == b"kind:", what="an answer"
    )
    between.close()
