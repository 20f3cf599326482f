"""Whoever has the cluster's key may still send anything: both ports stay alive, and so does who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.wire import MESSAGE_BYTES, PARTS
from tests.gateway.cluster.rpc_harness import KEYS, Node, Nodes, attempt, lease, stranger, until

pack = msgspec.msgpack.encode
HEAD = {"message_id": b"an id", "v": 3}
DEEP = 200_000

# What is no event of zerorpc at all, whichever port it comes to.
NO_EVENTS: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xc1\xc1\xc1",
    "random": bytes(range(256)),
    "a number": pack(7),
    "four parts": pack([HEAD, "batch", [], []]),
    "trailing bytes": pack([HEAD, "batch", []]) + b"\x00",
    "cut off": pack([HEAD, "ask", [1, 1, "kind", b"body"]])[:-3],
    "header is a list": pack([[1, 2], "batch", []]),
    "header with integers as keys": pack([{1: 2}, "ask", []]),
    "id is a list": pack([{"message_id": [1], "v": 3}, "ask", [1, 1, "kind", b""]]),
    "id is too long": pack([{"message_id": bytes(65), "v": 3}, "ask", [1, 1, "kind", b""]]),
    "version is text": pack([{"message_id": b"x", "v": "3"}, "ask", [1, 1, "kind", b""]]),
    "version is huge": b"\x93\x82\xaamessage_id\xc4\x01x\xa1v\xcf" + b"\xff" * 8 + pack("ask") + pack([]),
    "response_to is a list": pack([{**HEAD, "response_to": [1]}, "ask", [1, 1, "kind", b""]]),
    "name is a list": pack([HEAD, ["ask"], [1, 1, "kind", b""]]),
    "name is no UTF-8": b"\x93\x80\xa2\xff\xfe\x90",
    "an unknown name": pack([HEAD, "launch", [1, 1, "kind", b""]]),
    "introspection": pack([HEAD, "_zerorpc_inspect", []]),
    "a stream's window": pack([HEAD, "_zpc_more", ["x"]]),
    "a heartbeat": pack([HEAD, "_zpc_hb", [0]]),
    "arguments are nil": pack([HEAD, "ask", None]),
    "a list of 4 billion": b"\x93\x80\xa5batch\xdd\xff\xff\xff\xff",
    "bytes of 4 billion": b"\x93\x80\xa3ask\x94\x01\x01\xa1k\xc6\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "deep lists": b"\x91" * DEEP + b"\x90",
    "deep lists in the header": b"\x93\x81\xa1z" + b"\x91" * DEEP + b"\x90\xa5batch\x90",
    "deep maps in the header": b"\x93\x81\xa1z" + b"\x81\xa1a" * DEEP + b"\x90\xa3ask\x90",
    "an extension": b"\xc7\x03\x05abc",
}
BATCHES = [
    pack([HEAD, "batch", arguments])
    for arguments in (
        [1, 9, 1, 1],  # too short
        [1, 9, 1, 1, [b"x"], 0],  # too long
        ["1", 9, 1, 1, [b"x"]],
        [1, -9, 1, 1, [b"x"]],
        [1, 9.5, 1, 1, [b"x"]],
        [1, 9, 1, 0, [b"x"]],  # numbers begin at one
        [1, 9, 1, 1, []],
        [1, 9, 1, 1, b"xyz"],
        [1, 9, 1, 1, [b"x", "y"]],
        [1, 9, 1, 1, [None]],
        [7, 9, 1, 1, [b"x"]],  # unknown versions
        [-1, 9, 1, 1, [b"x"]],
    )
]
ARGUMENTS = [1, 1, "kind", b""]
QUESTION = pack([HEAD, "ask", ARGUMENTS])
QUESTIONS = [
    *(
        pack([HEAD, "ask", arguments])
        for arguments in (
            [1, 1, "kind"],
            [1, 1, "kind", b"", b""],
            [1, None, "kind", b""],
            [1, -1, "kind", b""],
            [1, 1, b"kind", b""],
            [1, 1, "k" * 65, b""],
            [1, 1, "kind", "body"],
            [1, 1, "kind", [b""]],
        )
    ),
    *(
        pack([head, "ask", ARGUMENTS])  # a question needs a header of today's zerorpc
        for head in (
            {},
            {"v": 3},
            {"message_id": b"", "v": 3},
            {"message_id": b"x"},
            {**HEAD, "v": 1},
            {**HEAD, "response_to": b"x"},
        )
    ),
]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    nodes = Nodes()
    yield nodes.pair()
    nodes.end()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.end()


def check(a: Node, b: Node) -> None:
    """``a`` is well: it answers and receives what its peer ``b`` has to say."""
    assert b.rpc.query(a.lease, "still", b"there") == b"still:there"
    count = len(a.items)
    assert b.rpc.send(a.lease, b"item")
    until(lambda: len(a.items) == count + 1)
    assert a.counters.restarts == 0


def malformed(a: Node, b: Node, kind: int, address: str, *parts: bytes) -> None:
    before, taken = a.counters.malformed, len(a.items)
    with stranger(kind, address) as one:
        one.send(*parts)
        until(lambda: a.counters.malformed == before + 1)
    assert len(a.items) == taken
    check(a, b)


@pytest.mark.parametrize("payload", [*NO_EVENTS.values(), *BATCHES])
def test_on_the_data_port_what_is_no_batch_is_dropped(pair: tuple[Node, Node], payload: bytes) -> None:
    malformed(*pair, zmq.PUSH, pair[0].rpc.data_address, payload)


@pytest.mark.parametrize("parts", [*([b"", one] for one in (*NO_EVENTS.values(), *QUESTIONS)), [QUESTION]])
def test_on_the_control_port_what_is_no_question_is_dropped(
    pair: tuple[Node, Node], parts: list[bytes]
) -> None:
    malformed(*pair, zmq.DEALER, pair[0].rpc.control_address, *parts)


@pytest.mark.parametrize("count", [2, PARTS, PARTS + 1, 5000])
def test_messages_of_many_parts_are_dropped_whole(pair: tuple[Node, Node], count: int) -> None:
    good = pack([HEAD, "batch", [1, 9, 1, 1, [b"x"]]])
    malformed(*pair, zmq.PUSH, pair[0].rpc.data_address, *[good] * count)
    malformed(*pair, zmq.DEALER, pair[0].rpc.control_address, *[b""] * (count + 1))


@pytest.mark.parametrize("channel", ["data_address", "control_address"])
def test_a_message_above_the_limit_ends_its_connection_only(pair: tuple[Node, Node], channel: str) -> None:
    a, b = pair
    kind = zmq.PUSH if channel == "data_address" else zmq.DEALER
    with stranger(kind, getattr(a.rpc, channel)) as one:
        one.send(bytes(MESSAGE_BYTES + 1000))
        until(lambda: not one.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT, what="the end of the connection")
    malformed(a, b, kind, getattr(a.rpc, channel), b"x")


def test_two_questions_under_one_id_get_one_answer(nodes: Nodes) -> None:
    a, b = nodes.pair()
    go_on = gevent.event.Event()
    a.answer = lambda kind, body: b"%d" % go_on.wait()
    with stranger(zmq.DEALER, a.rpc.control_address) as one:
        one.send(b"", QUESTION)
        until(lambda: a.counters.answered == 1)
        with stranger(zmq.DEALER, a.rpc.control_address) as other:
            other.send(b"", QUESTION)
            until(lambda: a.counters.malformed == 1)
        go_on.set()
        header, name, arguments = msgspec.msgpack.decode(one.receive()[1])
    assert (header["response_to"], name, arguments) == (b"an id", "OK", [[0, b"1"]])
    a.answer = lambda kind, body: kind.encode() + b":" + body
    check(a, b)


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.binary(max_size=20)
        | st.text(max_size=9)
        | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12) | st.integers(0, 9), inner)
        ),
        max_leaves=20,
    ),
    st.sampled_from(["batch", "ask", "_zpc_more", "OK", ""]),
)
def test_no_event_of_any_shape_is_taken_for_another(pair: tuple[Node, Node], value: Any, name: str) -> None:
    a, _ = pair
    counters = a.counters
    taken, answered = len(a.items), counters.answered
    messages = [pack(value), pack([HEAD, name, value]), pack([value, name, [1, 1, "kind", b""]])]
    for channel, kind, envelope in (
        (a.rpc.data_address, zmq.PUSH, []),
        (a.rpc.control_address, zmq.DEALER, [b""]),
    ):
        # One of them may be a question by chance.
        due = counters.malformed + counters.answered + len(messages)
        with stranger(kind, channel) as one:
            for message in messages:
                one.send(*envelope, message)
            until(lambda due=due: counters.malformed + counters.answered == due)
    assert len(a.items) == taken
    assert counters.answered <= answered + 1


# --- a hostile peer is asked --------------------------------------------------------------------------------


class HostileServer:
    """A node's control port that answers each question with what it is told."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.CURVE_SERVER, 1)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, KEYS.server_secret)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind("tcp://127.0.0.1:0")
        address = self.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self.lease = lease(66, address, address)

    def question(self) -> tuple[bytes, bytes]:
        """Wait for a question; who asks, and its id."""
        until(lambda: self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
        identity, _, payload = self.socket.recv_multipart(zmq.NOBLOCK)
        return identity, msgspec.msgpack.decode(payload)[0]["message_id"]

    def say(self, identity: bytes, payload: bytes) -> None:
        self.socket.send_multipart([identity, b"", payload], zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    server = HostileServer()
    yield server
    server.close()


def good_answer(message_id: bytes, body: bytes) -> bytes:
    return pack([{"v": 3, "message_id": b"other", "response_to": message_id}, "OK", [[0, body]]])


def bad_answers(message_id: bytes) -> list[bytes]:
    head = {"v": 3, "message_id": b"other", "response_to": message_id}
    return [
        *NO_EVENTS.values(),
        pack([{**head, "response_to": [message_id]}, "OK", [[0, b""]]]),
        pack([{**head, "response_to": {"a": 1}}, "OK", [[0, b""]]]),
        pack([head, "OK", []]),
        pack([head, "OK", [0]]),
        pack([head, "OK", [[0, "text"]]]),
        pack([head, "OK", [["0", b""]]]),
        pack([head, "OK", [[0, b"", b""]]]),
        pack([head, "OK", [[0, b""], 1]]),
    ]


def test_bad_repeated_late_and_unasked_answers_do_not_stop_who_asks(
    nodes: Nodes, hostile: HostileServer
) -> None:
    a = nodes(1)
    for turn in range(3):
        asking = attempt(a, hostile.lease)
        identity, message_id = hostile.question()
        for answer in bad_answers(message_id):
            hostile.say(identity, answer)
        for _ in range(300):
            hostile.say(identity, good_answer(message_id, b"%d" % turn))
            hostile.say(identity, good_answer(b"nobody's", b"x"))
        assert asking.get(timeout=60) == b"%d" % turn
        assert a.counters.malformed > 20 * (turn + 1)


@pytest.mark.parametrize(
    "answer",
    [
        *([name, ["Name", "text", "a traceback"]] for name in ("ERR", "STREAM", "_zpc_more", "anything")),
        *(["OK", [[code, b""]]] for code in (-1, 99)),
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_an_error(nodes: Nodes, hostile: HostileServer, answer: list[Any]) -> None:
    asking = attempt(nodes(1), hostile.lease)
    identity, message_id = hostile.question()
    hostile.say(identity, pack([{"v": 3, "response_to": message_id}, *answer]))
    error = asking.get(timeout=60)
    assert isinstance(error, PeerUnavailable)
    assert "traceback" not in str(error)


def test_an_answer_above_the_limit_is_no_answer(nodes: Nodes, hostile: HostileServer) -> None:
    a = nodes(1)
    asking = attempt(a, hostile.lease, seconds=1)
    identity, message_id = hostile.question()
    hostile.say(identity, good_answer(message_id, bytes(MESSAGE_BYTES)))
    assert isinstance(asking.get(timeout=60), PeerUnavailable)
    # ZeroMQ does not dial again after that by itself.
    a.rpc.peers.all()[0].control.disconnect()
    asking = attempt(a, hostile.lease)
    identity, message_id = hostile.question()
    hostile.say(identity, good_answer(message_id, b"small"))
    assert asking.get(timeout=60) == b"small"
