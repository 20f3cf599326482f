"""Whoever has the cluster's key may still send anything: both ports stay alive,
and so does who asks."""

from collections.abc import Iterator
from typing import Any

import gevent
import msgspec
import pytest
import zmq

from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.wire import MESSAGE_BYTES, PARTS
from tests.gateway.cluster.rpc_harness import (
    KEYS,
    Node,
    Nodes,
    attempt,
    lease,
    stranger,
    until,
)

pack = msgspec.msgpack.encode
HEAD = {"message_id": b"an id", "v": 3}

NO_EVENTS = (
    b"",
    b"\xc1\xc1\xc1",
    pack([HEAD, "ask", [1, 1, "kind", b"body"]])[:-3],
    pack([{"message_id": bytes(65), "v": 3}, "ask", [1, 1, "kind", b""]]),
    pack([{**HEAD, "response_to": [1]}, "ask", [1, 1, "kind", b""]]),
    pack([HEAD, "launch", [1, 1, "kind", b""]]),
    pack([HEAD, "_zerorpc_inspect", []]),
    b"\x93\x80\xa5batch\xdd\xff\xff\xff\xff",
    b"\x93\x81\xa1z" + b"\x81\xa1a" * 200_000 + b"\x90\xa3ask\x90",
)
BATCHES = [
    pack([HEAD, "batch", arguments])
    for arguments in (
        [1, -9, 1, 1, [b"x"]],
        [1, 9, 1, 0, [b"x"]],  # numbers begin at one
        [1, 9, 1, 1, []],
        [7, 9, 1, 1, [b"x"]],  # unknown versions
        [-1, 9, 1, 1, [b"x"]],
    )
]
ARGUMENTS = [1, 1, "kind", b""]
QUESTION = pack([HEAD, "ask", ARGUMENTS])
BATCH = pack([HEAD, "batch", [1, 9, 1, 1, [b"x"]]])
QUESTIONS = [
    *(
        pack([HEAD, "ask", arguments])
        for arguments in ([1, -1, "kind", b""], [1, 1, "k" * 65, b""])
    ),
    *(
        pack([head, "ask", ARGUMENTS])  # a question needs a header of today's zerorpc
        for head in (
            {"v": 3},
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


@pytest.mark.parametrize(
    ("port", "parts"),
    [
        *(("data_address", [each]) for each in (*NO_EVENTS, *BATCHES)),
        *(("control_address", [b"", each]) for each in (*NO_EVENTS, *QUESTIONS)),
        ("control_address", [QUESTION]),
        *(("data_address", [BATCH] * count) for count in (2, PARTS, PARTS + 1, 5000)),
        *(("control_address", [b""] * count) for count in (3, PARTS + 1, 5001)),
    ],
)
def test_what_is_no_batch_or_question_is_dropped_whole_and_costs_nobody_else_anything(
    pair: tuple[Node, Node], port: str, parts: list[bytes]
) -> None:
    a, b = pair
    before = a.counters.malformed
    taken = len(a.items)
    with stranger(
        zmq.PUSH if port == "data_address" else zmq.DEALER, getattr(a.rpc, port)
    ) as one:
        one.send(*parts)
        until(lambda: a.counters.malformed == before + 1)
    assert len(a.items) == taken
    assert b.rpc.query(a.lease, "still", b"there") == b"still:there"
    assert b.rpc.send(a.lease, b"item")
    until(lambda: len(a.items) == taken + 1)
    assert a.counters.restarts == 0


@pytest.mark.parametrize(
    ("kind", "port"), [(zmq.PUSH, "data_address"), (zmq.DEALER, "control_address")]
)
def test_a_message_above_the_limit_ends_its_connection(
    pair: tuple[Node, Node], kind: int, port: str
) -> None:
    a, b = pair
    with stranger(kind, getattr(a.rpc, port)) as one:
        one.send(bytes(MESSAGE_BYTES + 1000))
        until(
            lambda: not one.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT,
            what="the end of the connection",
        )
    assert b.rpc.query(a.lease, "still", b"there") == b"still:there"


def test_two_questions_under_one_id_get_one_answer(peers: Nodes) -> None:
    a = peers(1)
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


class HostileServer:
    """A node's control port that answers each question with what it is told."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.socket = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_SECRETKEY, KEYS.server_secret),
        ):
            self.socket.setsockopt(option, value)
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


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    context: zmq.Context[Any] = zmq.Context()
    server = HostileServer(context)
    yield server
    server.socket.close(0)
    context.term()


def good_answer(message_id: bytes, body: bytes) -> bytes:
    return pack(
        [{"v": 3, "message_id": b"other", "response_to": message_id}, "OK", [[0, body]]]
    )


def bad_answers(message_id: bytes) -> list[bytes]:
    head = {"v": 3, "message_id": b"other", "response_to": message_id}
    broken = [[], [0], [[0, "text"]], [["0", b""]], [[0, b"", b""]], [[0, b""], 1]]
    return [
        *NO_EVENTS,
        pack([{**head, "response_to": [message_id]}, "OK", [[0, b""]]]),
        *(pack([head, "OK", each]) for each in broken),
    ]


def test_bad_repeated_late_and_unasked_answers_stop_nobody(
    peers: Nodes, hostile: HostileServer
) -> None:
    a = peers(1)
    for turn in range(3):
        asking = attempt(a, hostile.lease)
        identity, message_id = hostile.question()
        for answer in bad_answers(message_id):
            hostile.say(identity, answer)
        for _ in range(300):
            hostile.say(identity, good_answer(message_id, b"%d" % turn))
            hostile.say(identity, good_answer(b"nobody's", b"x"))
        assert asking.get(timeout=60) == b"%d" % turn
        assert a.counters.malformed > 10 * (turn + 1)


@pytest.mark.parametrize(
    "answer",
    [
        *(
            [name, ["Name", "text", "a traceback"]]
            for name in ("ERR", "STREAM", "_zpc_more", "anything")
        ),
        *(["OK", [[code, b""]]] for code in (-1, 99)),
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_an_error(
    peers: Nodes, hostile: HostileServer, answer: list[Any]
) -> None:
    asking = attempt(peers(1), hostile.lease)
    identity, message_id = hostile.question()
    hostile.say(identity, pack([{"v": 3, "response_to": message_id}, *answer]))
    error = asking.get(timeout=60)
    assert isinstance(error, PeerUnavailable)
    assert "traceback" not in str(error)


def test_an_answer_above_the_limit_is_no_answer(
    peers: Nodes, hostile: HostileServer
) -> None:
    a = peers(1)
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
