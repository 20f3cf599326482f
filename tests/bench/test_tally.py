"""Counting messages: no loss, no double and no change of order stays unseen, however the stream is cut."""

import random
from collections.abc import Iterator, Sequence

import pytest

from bench.connections import BUFFER_BYTES, Connection, ConnectionSet
from bench.frames import PING, server_frame
from bench.latency import stamp_us
from bench.tally import Tally

TAG = "tag123"
NOTICE = server_frame(b'{"seq":"9","cmd":"enter","response":{"code":200,"codeMsg":"Ok","data":null}}')


class FakeSocket:
    """Stands for the socket of a peer that is fed by hand."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return self.number

    def recv_into(self, view: memoryview) -> int:
        raise AssertionError("nobody reads here")

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)


class FakeConnections(ConnectionSet):
    """A swarm whose peers are fed by hand."""

    def __init__(self, conns: int) -> None:
        self.by_fd = {number: Connection(FakeSocket(number), number) for number in range(conns)}  # type: ignore[arg-type]
        self.lost, self.pings, self.closes = 0, 0, {}
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.take = self.skim

    def feed(self, conn: Connection, data: bytes) -> None:
        """Do as ``ready`` does with received bytes."""
        whole = conn.rest + data
        self.buffer[: len(whole)] = whole
        self.take(conn, len(whole))


def message(number: int) -> bytes:
    text = '{"seq":"%s%07d","cmd":"msg","response":{"code":200,"data":{"msg":"%010d....","from":"b"}}}'
    return server_frame((text % (TAG, number, stamp_us())).encode())


def pieces(stream: bytes, seed: int) -> Iterator[bytes]:
    """Cut a stream at random places."""
    dice = random.Random(seed)
    at = 0
    while at < len(stream):
        end = at + dice.choice((1, 3, 50, 110, 500, 5000))
        yield stream[at:end]
        at = end


def counted(streams: Sequence[Sequence[bytes]], *, every: bool = False) -> Tally:
    connections = FakeConnections(len(streams))
    tally = Tally(connections, TAG, every=every)
    for conn, stream in zip(connections.by_fd.values(), streams, strict=True):
        for piece in pieces(b"".join(stream), conn.number):
            connections.feed(conn, piece)
    return tally


MESSAGES = [message(number) for number in range(300)]
ALL = set(range(300))


def test_every_message_at_every_receiver_is_counted() -> None:
    tally = counted([MESSAGES] * 5)
    verdict = tally.verdict(ALL)
    assert (verdict.expected, verdict.received) == (1500, 1500)
    assert (verdict.lost, verdict.doubled, verdict.other_order) == (0, 0, 0)
    assert tally.latency.count > 0


LESS = MESSAGES[:150] + MESSAGES[151:]
MORE = [*MESSAGES[:150], MESSAGES[149], *MESSAGES[150:]]
OTHER = [*MESSAGES[:150], MESSAGES[149], *MESSAGES[151:]]
SWAPPED = [MESSAGES[1], MESSAGES[0], *MESSAGES[2:]]


@pytest.mark.parametrize(
    ("streams", "refused", "wrong"),
    [
        ([LESS, *[MESSAGES] * 4], set(), (1, 0, 4)),  # others than the witness are compared with it
        ([MESSAGES, LESS, *[MESSAGES] * 3], set(), (1, 0, 0)),
        ([MESSAGES[:-1]] * 5, set(), (5, 0, 0)),
        ([MESSAGES[:-1]] * 5, {299}, (0, 0, 0)),
        ([MORE, *[MESSAGES] * 4], set(), (0, 1, 4)),
        ([MESSAGES, MORE, *[MESSAGES] * 3], set(), (0, 1, 0)),
        ([OTHER] * 2, set(), (2, 2, 0)),
        ([MESSAGES, SWAPPED], set(), (0, 0, 1)),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_is_found_at_the_witness_and_at_any_other(
    streams: list[list[bytes]], refused: set[int], wrong: tuple[int, int, int]
) -> None:
    verdict = counted(streams).verdict(ALL - refused)
    assert (verdict.lost, verdict.doubled, verdict.other_order) == wrong


def test_other_frames_in_between_are_not_messages_and_pings_are_answered() -> None:
    stream = [*MESSAGES[:9], NOTICE, *MESSAGES[9:40], server_frame(b"hi", PING), *MESSAGES[40:]]
    tally = counted([stream, MESSAGES])
    verdict = tally.verdict(ALL)
    assert (verdict.lost, verdict.doubled, verdict.other_order) == (0, 0, 0)
    assert tally.others == 1
    assert [len(conn.sock.sent) for conn in tally.receivers] == [1, 0]  # type: ignore[attr-defined]


def test_messages_to_single_users_are_summed_up_one_by_one() -> None:
    tally = counted([MESSAGES[0::2], MESSAGES[1::2]], every=True)
    assert [conn.frames for conn in tally.receivers] == [150, 150]
    assert [conn.checksum for conn in tally.receivers] == [sum(range(0, 300, 2)), sum(range(1, 300, 2))]
    assert tally.latency.count == 300
