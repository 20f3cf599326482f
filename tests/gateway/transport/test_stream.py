"""Event streams in this process: what a stream does with its socket, without
anybody to log in."""

import _socket
import json
from typing import Any

import pytest

from imserver.gateway import errors
from imserver.gateway.dialects.sse.api import SseDialect
from imserver.gateway.hub.expiry import SLOTS, Pings
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import DialectState, Event
from imserver.gateway.transport.gate import Gate, GatePolicy, Head, Origins
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.gateway.transport.stream import (
    Stream,
    StreamEncoding,
    StreamPath,
    Streams,
)
from tests.gateway.transport.harness import (
    Caller,
    SocketHarness,
    look,
    tcp_pair,
    turn,
    until,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
EVENTS_HEAD = Head("GET", "/events", "1.1", "127.0.0.1", 5000, {"host": "127.0.0.1"})


class StreamHarness(SocketHarness):
    """Streams at ``/events``, which :attr:`opener` opens."""

    def __init__(self, **options: Any) -> None:
        limit = options.pop("limit", 0)
        super().__init__(**options)
        self.metrics = Metrics()
        proxies = TrustedProxies(())
        policy = GatePolicy(limit=limit, any_origin=True)
        self.gate = Gate(proxies, Origins(proxies, policy), False, policy)
        self.encoding_of = StreamEncoding(SseDialect("101"))
        self.opener = lambda stream, _head: stream.begin(self.encoding_of, HEAD)
        self.streams = Streams(
            self.context,
            self.gate,
            self.metrics,
            {
                "/events": StreamPath(
                    "GET",
                    lambda stream, head: self.opener(stream, head),
                    lambda _head, _host, code: b"refused %d" % code,
                )
            },
            75.0,
            StreamEncoding(SseDialect("")),
        )

    def open(self, before: bytes = b"", buffer_bytes: int = 0) -> tuple[Stream, Caller]:
        far, near = tcp_pair()
        if buffer_bytes:
            far.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, buffer_bytes)
            near.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, buffer_bytes)
        far.setblocking(False)
        caller = Caller(near)
        self.clients.append(caller)
        known = set(self.context.connections)
        self.streams.adopt(far, EVENTS_HEAD, before)
        (stream,) = {*self.context.connections} - known
        assert isinstance(stream, Stream)
        return stream, caller


def came(caller: Caller, end: bytes) -> bytes:
    """Everything so far, which is awaited to end so."""
    return caller.wait_for(lambda: caller.waiting.endswith(end))


def test_events_come_behind_the_head_and_what_was_waiting_before_it() -> None:
    with StreamHarness() as harness:
        stream, caller = harness.open(
            before=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        )
        payload = stream.encoding.dialect.encode_event(
            Event("msg", "ann", "hello", id="1")
        )
        stream.send(payload)
        stream.ping()
        assert came(caller, b":\n\n") == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            + HEAD
            + b'data: {"event":"msg","app":"101","id":"1",'
            b'"sender":"ann","type":"text","text":"hello"}\n\n:\n\n'
        )
        assert stream.pinged_at == 0, "nobody has to answer"
        assert harness.metrics.streams == 1
        assert harness.gate.connections == 1
        # the kernel gives up who has vanished
        if option := getattr(_socket, "TCP_USER_TIMEOUT", None):
            assert stream.sock.getsockopt(_socket.IPPROTO_TCP, option) == 75_000


class NamedPings(SseDialect):
    """A codec whose pings need the state of a client."""

    ping = b""

    def encode_ping(self, state: DialectState | None) -> bytes:
        return b"" if state is None else b"ping\n"


def test_a_stream_is_pinged_only_after_its_head_by_its_dialect() -> None:
    """What precedes the head of a response is no HTTP, and a proxy drops the
    whole stream."""
    with StreamHarness() as harness:
        pings = Pings(
            harness.context, harness.metrics, ping_seconds=50, silent_seconds=150
        )
        harness.encoding_of = StreamEncoding(NamedPings(""))
        harness.opener = lambda _stream, _head: None  # its login waits
        stream, caller = harness.open()
        pings.step(stream.fd % SLOTS)
        turn()
        stream.begin(harness.encoding_of, HEAD)
        pings.step(stream.fd % SLOTS)
        stream.dialect_state = DialectState()
        pings.step(stream.fd % SLOTS)
        assert came(caller, b"ping\n") == HEAD + b"ping\n"


def fail(_stream: Stream, _head: Head) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("opener", "answer", "code"),
    [
        (lambda stream, _: stream.close(4503, "banned"), b"refused 4503", 4503),
        (
            lambda stream, _: stream.refuse(b"HTTP/1.1 400 Bad Request\r\n\r\n", 1008),
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            1008,
        ),
        (fail, b"refused 1011", 1011),
    ],
)
def test_whoever_ends_it_before_it_has_begun_refuses_the_request(
    opener: Any, answer: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with StreamHarness(limit=2) as harness:
        _, quiet = harness.open()
        harness.opener = opener
        _, caller = harness.open()
        assert caller.until_ended() == answer
        assert [code for _, code in harness.ended] == [code]
        assert came(quiet, HEAD) == HEAD
    assert ("opening a stream failed" in caplog.text) is (opener is fail)


def test_a_full_node_does_not_even_ask_who_it_is() -> None:
    with StreamHarness(limit=1) as harness:
        harness.open()
        harness.opener = lambda _stream, _head: pytest.fail("asked")
        _, caller = harness.open()
        assert caller.until_ended() == b"refused %d" % errors.CloseCode.NODE_FULL
        assert harness.metrics.streams == 1


def test_a_close_writes_what_waits_then_the_reason_then_ends() -> None:
    with StreamHarness() as harness:
        stream, caller = harness.open()
        stream.send(b"data: 1\n\n")
        stream.close(4502, "kicked")
        stream.close(1001, "never said")
        rest = caller.until_ended()
        assert rest.endswith(
            b'data: 1\n\nevent: end\ndata: {"code":4502,"reason":"kicked","reconnect":false}\n\n'
        )
        assert harness.ended == [(stream, 4502)]
        stream.send(b"data: 2\n\n")
        caller.sock.close()
        until(lambda: not harness.context.connections)


def test_what_the_client_sends_is_dropped_and_its_end_noticed() -> None:
    with StreamHarness() as harness:
        stream, caller = harness.open()
        came(caller, HEAD)
        for _ in range(100):
            caller.send(b"x" * 1000)
            look()
        assert stream.is_open
        caller.sock.close()
        until(lambda: harness.ended)
        assert harness.ended == [(stream, errors.CloseCode.LOST)]
        assert not harness.context.connections


def test_one_that_does_not_read_is_cut_at_the_end_of_an_event() -> None:
    with StreamHarness(outbox_bytes=200_000, close_seconds=5) as harness:
        stream, caller = harness.open(buffer_bytes=4096)
        event = b"data: %b\n\n" % (b"x" * 10_000)
        for _ in range(60):
            stream.send(event)
            turn()
        until(lambda: harness.ended)
        assert harness.ended == [(stream, errors.CloseCode.SLOW_READER)]
        assert harness.flusher.slow_readers == 1
        blocks = caller.until_ended().removeprefix(HEAD).split(b"\n\n")
        assert blocks[-1] == b""
        assert set(blocks[:-2]) == {event[:-2]}
        assert json.loads(blocks[-2].removeprefix(b"event: end\ndata: ")) == {
            "code": 4000,
            "reason": "slow reader",
            "reconnect": True,
        }
        assert harness.budget.total == 0
