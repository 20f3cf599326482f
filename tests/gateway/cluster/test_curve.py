"""Keys from the secret, and who is let in to the RPC ports."""

import contextlib
import logging
import socket
from collections.abc import Iterator

import gevent
import pytest
import zmq

from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.curve import CurveKeys
from tests.gateway.cluster.rpc_harness import FOREIGN, FOREIGN_KEYS, KEYS, SECRET, Nodes, stranger, until

CHANNELS = pytest.mark.parametrize(
    ("channel", "kind"), [("control_address", zmq.DEALER), ("data_address", zmq.PUSH)]
)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.end()


def test_a_node_of_another_cluster_cannot_ask_or_send(nodes: Nodes) -> None:
    node, foreign = nodes(1), nodes(2, secret=FOREIGN)
    assert foreign.rpc.send(node.lease, b"item")
    with pytest.raises(PeerUnavailable):
        foreign.rpc.query(node.lease, "kind", b"", 0.3)
    until(lambda: node.counters.refused_peers)
    assert node.items == []
    assert node.counters.answered == 0


def test_nodes_reach_each_other_while_the_secret_changes(nodes: Nodes) -> None:
    before, after = nodes(1, second=FOREIGN), nodes(2, secret=FOREIGN, second=SECRET)
    for one, other in ((before, after), (after, before)):
        assert one.rpc.query(other.lease, "kind", b"") == b"kind:"
        assert one.rpc.send(other.lease, b"item")
        until(lambda other=other: other.items == [b"item"])
    stranger_node = nodes(3)  # it knows the old secret only
    with pytest.raises(PeerUnavailable):
        stranger_node.rpc.query(after.lease, "kind", b"", 0.3)


@CHANNELS
@pytest.mark.parametrize("keys", [FOREIGN_KEYS._replace(server_public=KEYS.server_public), None])
def test_who_knows_the_servers_public_key_still_needs_the_clusters_own_and_encryption(
    nodes: Nodes, channel: str, kind: int, keys: CurveKeys | None, caplog: pytest.LogCaptureFixture
) -> None:
    node = nodes(1)
    with caplog.at_level(logging.WARNING), stranger(kind, getattr(node.rpc, channel), keys) as one:
        until(lambda: node.counters.refused_peers)
        assert not one.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT
    assert ("refused 127.0.0.1, its key is not the cluster's" in caplog.text) == (keys is not None)


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
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE" + b"\x00" * 47 + b"\x06" + b"\xff" * 8,
        b"",
    ],
    ids=["http", "zeros", "ones", "null", "hello", "announces too much", "nothing"],
)
def test_garbage_instead_of_a_handshake_is_counted_and_harms_nobody(
    nodes: Nodes, channel: str, garbage: bytes
) -> None:
    node, peer = nodes.pair()
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


def test_without_the_authenticator_nobody_gets_in(nodes: Nodes) -> None:
    node, peer = nodes.pair()
    node.rpc._authenticator.close()
    with pytest.raises(PeerUnavailable):
        peer.rpc.query(node.lease, "kind", b"", 0.3)
    assert node.counters.answered == 0


def test_members_that_come_and_go_are_not_counted_as_refused(nodes: Nodes) -> None:
    node = nodes(1)
    for epoch in range(2, 6):
        member = nodes(epoch)
        assert member.rpc.query(node.lease, "hello", b"")
        assert member.rpc.send(node.lease, b"%d" % epoch)
        until(lambda count=epoch - 1: len(node.items) == count)
        member.rpc.stop()
    # A refusal after all of them is the first one that counts.
    with stranger(zmq.PUSH, node.rpc.data_address, None):
        until(lambda: node.counters.refused_peers)
    assert node.counters.refused_peers == 1
