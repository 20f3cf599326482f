"""Counting messages: no loss, no double and no change of order stays unseen,
however the stream is cut."""

import os
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from bench.chat import ChatTally
from bench.connections import (
    BUFFER_BYTES,
    MOST_REFUSED,
    OPENERS,
    Connection,
    ConnectionSet,
    Target,
)
from bench.frames import PING, server_frame
from bench.http_client import split_answer
from bench.latency import stamp_us
from bench.loop import BenchError, Loop
from bench.protobuf import BINARY
from bench.push import Tally
from imserver.dialects.protobuf import wire as protobuf
from imserver.messenger.log.model import Message
from tests.support import Server

TAG = "tag123"
NOTICE = server_frame(
    b'{"seq":"9","cmd":"enter","response":{"code":200,"codeMsg":"Ok","data":null}}'
)


class FakeSocket:
    """Stands for the socket of a peer that is fed by hand."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return self.number

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)


class FakeConnections(ConnectionSet):
    """A swarm whose peers are fed by hand."""

    def __init__(self, conns: int) -> None:
        self.by_fd = {
            number: Connection(FakeSocket(number), number) for number in range(conns)
        }  # type: ignore[arg-type]
        self.lost = self.pings = 0
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)

    def feed(self, streams: Sequence[Sequence[bytes]]) -> None:
        """Give each connection its stream, cut at random places, as ``ready``
        does."""
        for conn, stream in zip(self.by_fd.values(), streams, strict=True):
            for piece in pieces(b"".join(stream), conn.number):
                whole = conn.rest + piece
                self.buffer[: len(whole)] = whole
                self.take(conn, len(whole))


def pieces(stream: bytes, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    at = 0
    while at < len(stream):
        end = at + dice.choice((1, 3, 50, 110, 500, 5000))
        yield stream[at:end]
        at = end


def message(number: int) -> bytes:
    text = '{"seq":"%s%07d","cmd":"msg","response":{"code":200,"data":{"msg":"%010d....","from":"b"}}}'
    return server_frame((text % (TAG, number, stamp_us())).encode())


def counted(streams: Sequence[Sequence[bytes]], *, every: bool = False) -> Tally:
    connections = FakeConnections(len(streams))
    tally = Tally(connections, TAG, every=every)
    connections.feed(streams)
    return tally


MESSAGES = [message(number) for number in range(300)]
ALL = set(range(300))
LESS = MESSAGES[:150] + MESSAGES[151:]
MORE = [*MESSAGES[:150], MESSAGES[149], *MESSAGES[150:]]
OTHER = [*MESSAGES[:150], MESSAGES[149], *MESSAGES[151:]]


@pytest.mark.parametrize(
    ("streams", "refused", "wrong"),
    [
        ([MESSAGES] * 5, set(), (0, 0, 0)),
        # others than the witness are compared with it
        ([LESS, *[MESSAGES] * 4], set(), (1, 0, 4)),
        ([MESSAGES, LESS, *[MESSAGES] * 3], set(), (1, 0, 0)),
        ([MESSAGES[:-1]] * 5, set(), (5, 0, 0)),
        ([MESSAGES[:-1]] * 5, {299}, (0, 0, 0)),
        ([MORE, *[MESSAGES] * 4], set(), (0, 1, 4)),
        ([MESSAGES, MORE, *[MESSAGES] * 3], set(), (0, 1, 0)),
        ([OTHER] * 2, set(), (2, 2, 0)),
        ([MESSAGES, [MESSAGES[1], MESSAGES[0], *MESSAGES[2:]]], set(), (0, 0, 1)),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_is_found_at_the_witness_and_at_any_other(
    streams: list[list[bytes]], refused: set[int], wrong: tuple[int, int, int]
) -> None:
    tally = counted(streams)
    assert tally.verdict(ALL - refused)[2:] == wrong
    assert tally.received == sum(map(len, streams))
    assert tally.latency.count > 0


def test_other_frames_in_between_are_not_messages_and_pings_are_answered() -> None:
    stream = [
        *MESSAGES[:9],
        NOTICE,
        *MESSAGES[9:40],
        server_frame(b"hi", PING),
        *MESSAGES[40:],
    ]
    tally = counted([stream, MESSAGES])
    assert tally.verdict(ALL)[2:] == (0, 0, 0)
    assert tally.others == 1
    assert [len(conn.sock.sent) for conn in tally.receivers] == [1, 0]  # type: ignore[attr-defined]


def test_messages_to_single_users_are_summed_up_one_by_one() -> None:
    tally = counted([MESSAGES[0::2], MESSAGES[1::2]], every=True)
    sums = sum(range(0, 300, 2)), sum(range(1, 300, 2))
    assert tally.compare([(150, each) for each in sums])[1:] == (300, 0, 0, 0)
    assert tally.compare([(151, sums[0]), (150, sums[0])])[2:4] == (1, 1), (
        "one lost, one for another"
    )
    assert tally.latency.count == 300


# --- a chat -------------------------------------------------------------------

MEMBERS = 4


def push(number: int, position: int) -> bytes:
    """The frame of a push, by the server's own codec."""
    content = b"%b%07d%010d..." % (TAG.encode(), number, stamp_us())
    stored = Message(position, 300, 0, "1", body=content, time_ms=1_700_000_000_000)
    return server_frame(
        protobuf.ProtobufDialect().encode_message(stored) or b"", BINARY
    )


def ack(number: int, position: int) -> bytes:
    return server_frame(protobuf.uplink_ack(number, position), BINARY)


def streams() -> list[list[bytes]]:
    """What four members get when each has sent ten messages."""
    frames: list[list[bytes]] = [[] for _ in range(MEMBERS)]
    for number in range(10 * MEMBERS):
        for member in range(MEMBERS):
            own = number % MEMBERS == member
            position = 100 + 5 * number
            frames[member].append(
                ack(number // MEMBERS + 1, position) if own else push(number, position)
            )
    return frames


def chatted(frames: list[list[bytes]]) -> ChatTally:
    connections = FakeConnections(MEMBERS)
    tally = ChatTally(connections, TAG, shared=True)
    for number in range(10 * MEMBERS):
        tally.senders[number % MEMBERS].waiting.append((number, tally.last_ns))
    connections.feed(frames)
    return tally


@pytest.mark.parametrize(
    ("order", "faults"),
    [
        pytest.param([0, 1, 2, 3, 4, 5], (0, 0, 0), id="all"),
        pytest.param([0, 1, 2, 3, 4], (1, 0, 0), id="one less"),
        pytest.param([0, 1, 2, 3, 4, 5, 5], (0, 1, 1), id="one twice"),
        pytest.param([0, 1, 2, 3, 4, 4], (1, 1, 1), id="one in place of another"),
        pytest.param([0, 1, 2, 3, 5, 4], (0, 0, 1), id="pushes in another order"),
        pytest.param(
            [0, 1, 2, 3, 4, 6, 5], (0, 0, 1), id="an acknowledgement too early"
        ),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_in_a_chat_is_found(
    order: list[int], faults: tuple[int, int, int]
) -> None:
    frames = streams()
    frames[2] = [
        *(frames[2][at] for at in order),
        *frames[2][max(6, len(set(order))) :],
    ]
    tally = chatted(frames)
    assert (tally.acked, tally.unexpected, tally.ack_latency.count) == (40, 0, 40)
    assert tally.verdict({})[0] == 120
    assert tally.verdict({})[2:] == faults


def test_a_position_other_than_was_acknowledged_is_found() -> None:
    frames = streams()
    frames[2][5] = push(5, 126)
    assert chatted(frames).verdict({})[2:4] == (1, 1)


def test_an_acknowledgement_that_is_not_due_is_unexpected() -> None:
    frames = streams()
    frames[2].append(ack(3, 1000))
    frames[3].append(ack(11, 1000))
    tally = chatted(frames)
    assert (tally.acked, tally.unexpected) == (40, 2)


@pytest.mark.linux
def test_a_server_that_admits_nobody_is_not_asked_for_ever(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(config={"apps": {"101": {"dialects": ["sse"]}}})
    read_end, write_end = os.pipe()
    connections = ConnectionSet(Loop(read_end), Target(server.ws.host, server.ws.port))
    opening = connections.open(range(1000), OPENERS["cmd"], seconds=3600, retry=True)
    os.close(read_end)
    os.close(write_end)
    assert opening.opened == 0
    assert opening.refused >= MOST_REFUSED
    assert next(iter(opening.errors)).startswith("login refused")


# --- answers of HTTP ----------------------------------------------------------

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello"


def test_an_answer_is_whole_only_with_its_last_byte() -> None:
    for end in range(len(PLAIN)):
        assert split_answer(PLAIN[:end], 0) is None
    assert split_answer(PLAIN, 0) == (200, b"hello", len(PLAIN))


def test_an_answer_without_a_length_is_an_error() -> None:
    with pytest.raises(BenchError, match="no length"):
        split_answer(b"HTTP/1.1 200 OK\r\n\r\n", 0)
