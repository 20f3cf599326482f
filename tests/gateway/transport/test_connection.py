"""One connection: what it serves, how it ends, and that it is nothing while it
is idle."""

import _socket
import gc
import logging
import struct
from collections.abc import Callable, Iterator

import pytest
from gevent.event import Event as Flag
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.clock import is_long_turn
from imserver.gateway.node.http_servers import echo
from imserver.gateway.protocol.dialect import EchoDialect
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import serve_each
from imserver.gateway.transport.frames import Rest
from imserver.gateway.transport.outbox import Backlog
from imserver.gateway.transport.parser import MessageParser
from imserver.gateway.transport.states import CLOSED, CLOSING, DRAINING
from tests.gateway.transport.harness import Client, SocketHarness, look, turn, until
from tests.gateway.transport.test_frames import deflated, fragments, pieces
from tests.integration.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    frame,
    text,
)

LIMIT = 300


@pytest.fixture
def harness() -> Iterator[SocketHarness]:
    with SocketHarness() as one:
        yield one


class Log:
    def __init__(self) -> None:
        self.served: list[tuple[bytes, bool]] = []

    def __call__(self, _connection: Connection, payload: bytes, is_text: bool) -> None:
        self.served.append((payload, is_text))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for payload, _ in self.served]


def assert_idle(connection: Connection) -> None:
    """Nothing but the poller and the context knows it."""
    context = connection.context
    assert (connection.outbox, connection.parser, connection.held_bytes()) == (
        None,
        None,
        0,
    )
    assert not hasattr(connection, "__dict__")
    assert context.connections == {connection}
    budget = context.flusher.budget
    assert not any(
        map(
            len,
            (
                context.closing,
                context.flusher.stalled,
                context.flusher.dirty,
                budget.sizes,
            ),
        )
    )
    assert not context.poller.ready


def test_an_idle_connection_owns_no_outbox_no_parser_and_no_dict(
    harness: SocketHarness,
) -> None:
    connection, client = harness.connect(harness.encoding(echo))
    assert_idle(connection)
    client.send(text("small") + frame(BINARY, b"x" * 5000) + text("a" * 400)[:50])
    client.expect(2)
    assert connection.parser is not None
    client.send(text("a" * 400)[50:])
    assert [found.opcode for found in client.expect(3)] == [TEXT, BINARY, TEXT]
    for cut in range(1, 8):
        connection.feed(frame(PONG, b"x")[:cut])
        connection.feed(frame(PONG, b"x")[cut:] + frame(PONG))
        assert connection.parser is None
    client.probe()
    turn()
    assert_idle(connection)


@st.composite
def streams(draw: st.DrawFn, limit: int) -> bytes:
    """Frames as clients send them, some of them as no client should."""
    stream = b""
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.integers(0, 11))
        size = draw(
            st.sampled_from([0, 1, 5, 124, 125, 126, 127, 200, limit, limit + 1])
        )
        mask = draw(
            st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x37\xfa\x21\x3d"])
        )
        payload = (draw(st.text(min_size=1, max_size=4)).encode() * 400)[:size]
        if kind < 4:
            stream += frame(TEXT, payload, mask=mask)
        elif kind < 7:
            stream += frame(BINARY, payload, mask=mask)
        elif kind == 7:
            stream += b"".join(
                fragments(
                    TEXT, payload, draw(st.lists(st.integers(0, size), max_size=3))
                )
            )
        elif kind == 8:
            stream += frame(
                draw(st.sampled_from([PING, PONG])), payload[:125], mask=mask
            )
        elif kind == 9:
            stream += frame(
                TEXT, payload, mask=mask, form=draw(st.sampled_from([16, 64]))
            )
        elif kind == 10:
            stream += close(draw(st.sampled_from([None, 1000, 1001, 999, 3000])))
        else:
            stream += frame(
                draw(st.integers(0, 15)),
                payload,
                mask=draw(st.sampled_from([mask, None])),
            )
    return stream


def outcome(
    parts: list[bytes], deflate: int = 0, limit: int = LIMIT
) -> tuple[list[tuple[bytes, bool]], list[Frame], int]:
    """What a connection serves, says and becomes when these parts of a stream
    are read one by one."""
    with SocketHarness() as harness:
        log = Log()
        connection, client = harness.connect(harness.encoding(log, limit, deflate))
        harness.poller.remove(connection)
        for part in parts:
            if connection.is_open:
                connection.feed(part)
        state = connection.state
        turn()
        frames = client.read()
        codes = [one.close_code or 1005 for one in frames if one.opcode == CLOSE]
        assert [code for _, code in harness.ended] == codes
        return log.served, frames, state


@settings(deadline=None)
@given(data=st.data())
def test_the_fast_path_and_the_parser_agree_however_a_stream_is_cut(
    data: st.DataObject,
) -> None:
    limit = data.draw(st.sampled_from([1, 50, 125, 126, LIMIT]))
    stream = data.draw(streams(limit))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    whole = outcome([stream], limit=limit)
    assert (
        outcome([part for part in pieces(stream, cuts) if part], limit=limit) == whole
    )
    assert all(len(payload) <= limit for payload, _ in whole[0])


LONG = ["é".encode() * 70, b"x" * LIMIT]
FIRST, LAST = fragments(TEXT, b"hello", [2])
PACKED_TEXT = frame(TEXT, deflated(b"packed " * 10), rsv=4)
BREACHES = (
    (frame(TEXT, b"x", mask=None), 1002),
    (frame(5, b"x"), 1002),
    (frame(PONG, b"x" * 126), 1002),
    *(
        (frame(PONG, b"x", **wrong), 1002)
        for wrong in ({"mask": None}, {"fin": False}, {"rsv": 4})
    ),
    *((close(forbidden), 1002) for forbidden in (999, 1005)),
    (PACKED_TEXT, 1002),
    (text(b"\xff"), 1007),
    (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    (text("x" * (LIMIT + 1)), 1009),
    (frame(TEXT, b"", declared=1 << 40, form=64), 1009),
)


@pytest.mark.parametrize(
    ("stream", "deflate", "payloads", "answers"),
    [
        (
            FIRST + frame(PING, b"\0" * 125) + LAST + frame(PING),
            0,
            [b"hello"],
            [(PONG, b"\0" * 125), (PONG, b"")],
        ),
        (FIRST + close(1000) + LAST, 0, [], [1000]),
        (
            text("é" * 70) + frame(PONG, b"x" * 125) + text("x" * LIMIT) + frame(PONG),
            0,
            LONG,
            [],
        ),
        (
            text("plain") + PACKED_TEXT + text("again"),
            15,
            [b"plain", b"packed " * 10, b"again"],
            [],
        ),
        *(
            (text("before") + breach + text("after"), 0, [b"before"], [code])
            for breach, code in BREACHES
        ),
    ],
)
def test_a_stream_however_it_is_cut_is_served_and_answered_up_to_its_end_or_a_breach(
    stream: bytes, deflate: int, payloads: list[bytes], answers: list[object]
) -> None:
    served, frames, _ = whole = outcome([stream], deflate)
    assert outcome([bytes([byte]) for byte in stream], deflate) == whole
    for cut in range(1, len(stream), 3):
        assert outcome([stream[:cut], stream[cut:]], deflate) == whole, cut
    assert [payload for payload, _ in served] == payloads
    assert [
        one.close_code if one.opcode == CLOSE else (one.opcode, one.payload)
        for one in frames
    ] == answers


def test_a_later_ping_gives_no_more_time_to_answer_an_earlier_one(
    harness: SocketHarness,
) -> None:
    connection, _ = harness.connect()
    connection.ping()
    first = connection.pinged_at
    connection.ping()
    assert connection.pinged_at == first


# --- closing ------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
def test_a_close_is_answered_with_its_code_and_tcp_ends(
    harness: SocketHarness, code: int | None
) -> None:
    connection, client = harness.connect()
    client.send(close(code))
    client.until_ended()
    assert [found.close_code for found in client.frames] == [code]
    assert connection.state == DRAINING, "the peer still has to end its half"
    client.hang_up()
    until(lambda: connection.state == CLOSED)
    assert harness.ended == [(connection, code or 1005)]


def test_our_close_leaves_behind_what_was_sent_before_it_and_nothing_follows(
    harness: SocketHarness,
) -> None:
    log = Log()
    connection, client = harness.connect(harness.encoding(log))
    connection.send(b"one")
    connection.send(b"two")
    connection.close(4000, "slow reader")
    connection.send(b"too late")
    connection.close(4001)
    assert connection.state == CLOSING
    assert harness.ended == [(connection, 4000)]
    client.until_ended()
    assert client.payloads() == [b"one", b"two"]
    assert client.frames[-1] == Frame(CLOSE, struct.pack("!H", 4000) + b"slow reader")
    client.send(text("still talking") + frame(PING))
    client.send(close(4000))
    client.hang_up()
    until(lambda: connection.state == CLOSED)
    assert not log.served
    assert len(harness.ended) == 1


def test_a_peer_that_never_ends_its_half_is_cut_off_after_a_time() -> None:
    with SocketHarness(close_seconds=600.0) as harness:
        connection, client = harness.connect()
        other, _ = harness.connect()
        connection.close(1001)
        client.until_ended()
        harness.context.expire()
        assert connection.state == DRAINING, "not yet"
        harness.context.closing[connection] = 0.0
        harness.context.expire()
        assert connection.state == CLOSED
        assert connection.sock.fileno() == -1
        assert harness.context.connections == {other}
        assert not harness.context.closing


@pytest.mark.parametrize("end", [Client.hang_up, Client.reset], ids=["FIN", "RST"])
def test_a_peer_that_vanishes_is_counted_once(
    harness: SocketHarness, end: Callable[[Client], None]
) -> None:
    connection, client = harness.connect(tcp=True)
    end(client)
    until(lambda: connection.state == CLOSED)
    assert harness.ended == [(connection, 1006)]
    assert not harness.context.connections
    connection.lost()
    connection.close(1000)
    connection.abandon(4000)
    connection.send(b"x")
    connection.send_frame(b"x")
    connection.ping()
    turn()
    assert len(harness.ended) == 1
    assert (connection.outbox, harness.flusher.dirty) == (None, [])


def test_a_write_that_fails_ends_the_connection(harness: SocketHarness) -> None:
    connection, client = harness.connect(tcp=True)
    harness.poller.remove(connection)
    client.reset()
    until(lambda: connection.send(b"one") or connection.state == CLOSED)
    assert harness.ended == [(connection, 1006)]


def test_answers_to_a_client_that_ended_its_half_still_reach_it(
    harness: SocketHarness,
) -> None:
    _, client = harness.connect(harness.encoding(echo))
    client.send(text("1") + text("2"))
    client.sock.shutdown(_socket.SHUT_WR)
    client.until_ended()
    assert client.payloads() == [b"1", b"2"]


def stall(
    harness: SocketHarness, connection: Connection, payload: bytes = b"x" * 1000
) -> None:
    until(
        lambda: connection.send(payload) or turn() or type(connection.outbox) is Backlog
    )


def test_an_abandoned_connection_whose_peer_never_reads_is_gone_after_close_seconds() -> (
    None
):
    with SocketHarness(close_seconds=0.02) as harness:
        connection, _ = harness.connect(buffer_bytes=4096)
        stall(harness, connection)
        connection.abandon(4000)
        connection.abandon(4000)
        until(lambda: harness.context.expire() or connection.state == CLOSED)
        assert harness.ended == [(connection, 4000)]
        assert harness.budget.total == 0
        assert not harness.flusher.stalled


# --- serving ------------------------------------------------------------------


def test_a_serve_that_raises_is_logged_and_ends_its_own_connection_only(
    harness: SocketHarness, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_connection: Connection, _payload: bytes, _text: bool) -> None:
        raise RuntimeError("a defect")

    bad, client = harness.connect(harness.encoding(fail))
    _, other = harness.connect(harness.encoding(echo))
    with caplog.at_level(logging.ERROR):
        client.send(text("x"))
        until(lambda: bad.state == CLOSED)
    assert [record.connection for record in caplog.records] == [bad.peer]  # type: ignore[attr-defined]
    assert "a defect" in caplog.text
    other.send(text("alive"))
    assert other.expect(1)[0].payload == b"alive"


@pytest.mark.parametrize("way", ["whole frames", "fragments"])
def test_messages_of_one_connection_wait_for_the_one_before(
    harness: SocketHarness, way: str
) -> None:
    order: list[str] = []
    go = Flag()

    def slow(_connection: Connection, payload: bytes, _text: bool) -> None:
        order.append(f"begin {payload.decode()}")
        if payload == b"1":
            go.wait()
        order.append(f"end {payload.decode()}")

    def message(word: str) -> bytes:
        return (
            text(word)
            if way == "whole frames"
            else b"".join(fragments(TEXT, word.encode(), [0]))
        )

    _, client = harness.connect(harness.encoding(slow))
    _, other = harness.connect(harness.encoding(echo))
    client.send(message("1") + message("2"))
    until(lambda: order)
    client.send(message("3"))
    other.send(text("x"))
    other.expect(1)
    look()
    assert order == ["begin 1"]
    go.set()
    until(lambda: len(order) == 6)
    assert order == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


def in_whole_frames(commands: list[bytes]) -> bytes:
    return b"".join(map(text, commands))


def in_fragments(commands: list[bytes]) -> bytes:
    return b"".join(b"".join(fragments(TEXT, command, [1])) for command in commands)


def in_one_message(commands: list[bytes]) -> bytes:
    return text(b"\n".join(commands))


PACKED = in_whole_frames, in_fragments, in_one_message
"""How many commands can come with one read."""


class LineDialect(EchoDialect):
    def split(self, payload: bytes) -> list[bytes]:
        return payload.split(b"\n")


@pytest.mark.parametrize("pack", PACKED)
def test_others_are_served_between_long_commands_that_came_together(
    harness: SocketHarness, pack: Callable[[list[bytes]], bytes]
) -> None:
    served: list[bytes] = []
    seen: list[int] = []

    def serve(_connection: Connection, payload: bytes, _is_text: bool) -> None:
        while not is_long_turn():
            pass
        served.append(payload)

    def note(_connection: Connection, _payload: bytes, _is_text: bool) -> None:
        seen.append(len(served))

    commands = [b"%03d" % number for number in range(5)]
    _, stranger = harness.connect(harness.encoding(note))
    _, client = harness.connect(
        harness.encoding(serve_each(serve), dialect=LineDialect("/lines"))
    )
    client.send(pack(commands))
    until(lambda: bool(served))
    stranger.send(text("now"))
    until(lambda: bool(seen))
    assert seen[0] < len(commands)
    until(lambda: len(served) == len(commands))
    assert served == commands


@pytest.mark.parametrize("pack", PACKED)
def test_commands_that_came_together_fill_no_more_than_an_outbox(
    pack: Callable[[list[bytes]], bytes],
) -> None:
    limit = 50_000
    answer = b"a" * 10_000
    commands = 100
    most = 0

    def serve(connection: Connection, _payload: bytes, _is_text: bool) -> None:
        nonlocal most
        connection.send(answer)
        outbox = connection.outbox
        size = (
            outbox.size if isinstance(outbox, Backlog) else sum(map(len, outbox or ()))
        )
        most = max(most, size)

    with SocketHarness(outbox_bytes=limit) as harness:
        encoding = harness.encoding(serve_each(serve), dialect=LineDialect("/lines"))
        connection, client = harness.connect(encoding, buffer_bytes=4096)
        client.send(pack([b"x"] * commands))
        until(lambda: not connection.is_open)
        assert harness.flusher.slow_readers == 1
        assert limit < most <= limit + 2 * len(answer)


@pytest.mark.parametrize("end", ["closed", "lost"])
def test_a_connection_that_ends_in_a_command_serves_no_more(
    harness: SocketHarness, end: str
) -> None:
    served: list[bytes] = []
    go = Flag()

    def slow(connection: Connection, payload: bytes, _text: bool) -> None:
        served.append(payload)
        go.wait()
        connection.send(b"answer")

    connection, client = harness.connect(harness.encoding(slow))
    client.send(b"".join(fragments(TEXT, b"1", [0])) + text("2") + text("3")[:3])
    until(lambda: served)
    if end == "lost":
        connection.lost()
    else:
        connection.close(4502)
    go.set()
    client.until_ended()
    assert [found.close_code for found in client.frames] == [4502] * (end == "closed")
    assert (served, connection.parser, harness.budget.total) == ([b"1"], None, 0)


# --- unfinished frames and the node's budget ----------------------------------


def test_an_unfinished_frame_counts_in_the_nodes_budget_until_it_is_whole(
    harness: SocketHarness,
) -> None:
    connection, client = harness.connect(harness.encoding(echo))
    data = text("x" * 10_000)
    client.send(data[:6000])
    until(lambda: harness.budget.total > 5000)
    client.send(data[6000:])
    client.expect(1)
    turn()
    assert harness.budget.total == 0
    client.send(data[:6000])
    until(lambda: harness.budget.total > 5000)
    client.hang_up()
    until(lambda: connection.state == CLOSED)
    assert harness.budget.total == 0
    assert not harness.budget.sizes


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [10, 125, 126, 300, 4000])
@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7, 9, -1])
def test_a_small_frame_begins_without_a_parser(
    harness: SocketHarness, opcode: int, size: int, cut: int
) -> None:
    log = Log()
    connection, _client = harness.connect(harness.encoding(log, 5000))
    whole = frame(opcode, b"a" * size)
    connection.feed(whole + whole[:cut])
    assert type(connection.parser) is Rest
    assert harness.budget.total == connection.held_bytes() == len(whole[:cut])
    connection.feed(whole[cut:] + whole)
    assert log.payloads == [b"a" * size] * 3
    assert_idle(connection)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """As in a node, where a collection is rare. What is there already is not
    counted."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def parsers() -> int:
    """How many parsers were made since, reachable or not."""
    return sum(type(one) is MessageParser for one in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["finished", "breach", "lost", "closed"])
def test_a_parser_is_freed_without_a_garbage_collection(
    harness: SocketHarness, end: str
) -> None:
    before = parsers()
    connection, client = harness.connect(
        harness.encoding(
            lambda one, payload, _: one.close(1000) if payload == b"closed" else None
        )
    )
    client.send(frame(TEXT, end[:3], fin=False))
    until(lambda: connection.parser is not None)
    assert parsers() == before + 1
    if end == "lost":
        client.hang_up()
        until(lambda: connection.state == CLOSED)
    else:
        client.send(
            frame(7)
            if end == "breach"
            else frame(CONTINUATION, end[3:]) + text("x")[:3]
        )
        if end == "finished":
            client.send(text("x")[3:])
            client.probe()
        else:
            client.until_ended()
    until(lambda: not connection.reading)
    assert (connection.parser, parsers()) == (None, before)
