"""Frames as RFC 6455 sections 5 to 8 have them, on the echo path and on /acc, through both HTTP servers.

Here is what only a socket shows. The rules of frames are proved in tests/gateway/transport/test_frames.py,
what a connection makes of them in test_connection.py, and by Autobahn.
"""

import os
import time
from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import NOT_VALID, command, pairs, reply
from .raw import (
    BINARY,
    CONTINUATION,
    PATIENCE_SECONDS,
    PING,
    PONG,
    TEXT,
    Frame,
    Raw,
    close,
    frame,
    open_socket,
    text,
)
from .setting import ECHO_PATH, Launch, growth_of

MESSAGE_BYTES = 65536


@pytest.fixture
def echo(server: Server) -> Iterator[Raw]:
    """A connection to the echo path."""
    with open_socket(server.ws, ECHO_PATH) as raw:
        yield raw


@pytest.fixture
def acc(server: Server) -> Iterator[Raw]:
    """A connection to /acc, with its limit of 64 KiB a message."""
    with open_socket(server.ws) as raw:
        yield raw


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1_000_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_length_comes_back_whole(echo: Raw, opcode: int, size: int) -> None:
    payload = b"*" * size if opcode == TEXT else os.urandom(size)
    echo.send(frame(opcode, payload))
    found = echo.message()
    assert (found.opcode, found.rsv) == (opcode, 0)
    assert found.payload == payload


def test_a_conversation_that_comes_byte_by_byte_is_understood(echo: Raw) -> None:
    echo.dribble(
        frame(TEXT, "a", fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, "b" * 130)
        + frame(BINARY, b"\0")
    )
    assert echo.frame() == Frame(PONG, b"p")
    assert echo.message().text == "a" + "b" * 130
    assert echo.message() == Frame(BINARY, b"\0")


def test_many_frames_in_one_packet_are_answered_in_order(echo: Raw) -> None:
    echo.send(*(text(f"{number}") + frame(PING, b"%d" % number) for number in range(1000)))
    found = [(echo.frame(), echo.frame()) for _ in range(1000)]
    assert [(one.text, pong.payload) for one, pong in found] == [
        (f"{number}", b"%d" % number) for number in range(1000)
    ]


def test_whole_and_broken_up_frames_in_one_packet_are_answered_in_order(echo: Raw) -> None:
    pieces = [text("a"), frame(PING, b"1"), text("b"), frame(TEXT, "c", fin=False), frame(PING, b"2")]
    pieces += [frame(CONTINUATION, "d"), text("e" * 200), frame(BINARY, b"f"), text("g" * 70000), text("h")]
    echo.send(*pieces)
    found = [echo.frame() for _ in range(9)]
    assert [(one.opcode, one.payload[:1], len(one.payload)) for one in found] == [
        (TEXT, b"a", 1),
        (PONG, b"1", 1),
        (TEXT, b"b", 1),
        (PONG, b"2", 1),
        (TEXT, b"c", 2),
        (TEXT, b"e", 200),
        (BINARY, b"f", 1),
        (TEXT, b"g", 70000),
        (TEXT, b"h", 1),
    ]


def test_a_binary_message_of_broken_utf8_on_acc_is_answered_as_no_request(acc: Raw) -> None:
    acc.send(frame(BINARY, b"\xff\xfe"))
    assert acc.message() == Frame(TEXT, NOT_VALID.encode())
    acc.quiet()


# --- what breaks the rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"bad", mask=None), 1002),
        (frame(3, b""), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (close(1005), 1002),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1002),
        (text(b"\xff"), 1007),
        (frame(TEXT, b"\xe5\x93", fin=False) + frame(CONTINUATION, b"x"), 1007),
        (close(1000, b"\xff\xfe"), 1007),
        (frame(TEXT, b"", declared=MESSAGE_BYTES + 1), 1009),
        (frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"x" * 100, fin=False) * 656, 1009),
    ],
)
def test_a_breach_is_refused_with_its_code_behind_the_answers_before_it(
    acc: Raw, data: bytes, code: int
) -> None:
    """TCP ends though the client never answers the close."""
    acc.send(command("ping", None, "1"), data)
    assert acc.message().json["seq"] == "1"
    acc.closed(code)
    acc.ended()


def test_a_request_at_the_limit_is_served(acc: Raw) -> None:
    data = command("ping", "", "1")
    room = MESSAGE_BYTES - (len(data) - 6)
    for _ in range(2):  # each message has the limit for itself
        acc.send(command("ping", "x" * room, "1"))
        assert pairs(acc.message().payload) == reply(200, "Success", "ping", "1", "pong")


def test_an_oversized_frame_whose_payload_keeps_coming_still_gets_its_close_frame(acc: Raw) -> None:
    """The close must not be destroyed by a reset that unread bytes provoke."""
    acc.send(frame(TEXT, b"x" * 1_000_000))
    acc.closed(1009)
    acc.ended()


def test_a_declared_length_reserves_nothing(server: Server) -> None:
    """The echo path takes 32 MiB a message: who only claims so must not make the server hold it."""
    grown = growth_of(server.pid)
    raws = [open_socket(server.ws, ECHO_PATH) for _ in range(50)]
    opened = [raw.__enter__() for raw in raws]
    for raw in opened:
        raw.send(frame(BINARY, b"x", declared=32 << 20))
        raw.send(b"y" * 100)
    for raw in opened[:1]:
        raw.send(b"z")
    with open_socket(server.ws) as probe:
        probe.quiet()
    assert grown() < 8 << 20
    for one in raws:
        one.__exit__(None, None, None)


# --- the close handshake ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "再见"), (3000, "x" * 123), (4999, "bye")])
def test_a_close_is_echoed_with_its_code_and_tcp_ends(acc: Raw, code: int, reason: str) -> None:
    acc.send(close(code, reason))
    acc.closed(code)
    acc.ended()


def test_a_close_without_a_code_is_echoed_without_one_or_with_1000(acc: Raw) -> None:
    acc.send(close(None))
    acc.closed(None, 1000)
    acc.ended()


def test_what_comes_before_a_close_is_answered_and_what_comes_after_it_ignored(acc: Raw) -> None:
    acc.send(command("ping", None, "1"), frame(PING, b"2"), close(1000))
    acc.send(text("late"), frame(PING, b"late"), close(1001), b"\xff" * 100)
    assert acc.message().json["seq"] == "1"
    assert acc.frame() == Frame(PONG, b"2")
    acc.closed(1000)
    acc.ended()


def test_the_server_ends_tcp_though_the_client_sends_on_after_its_close(acc: Raw) -> None:
    """A peer that never stops cannot keep a closed connection: close_seconds is 1 here."""
    acc.send(frame(3, b""))
    acc.closed(1002)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            acc.send(text("x" * 1000))
            time.sleep(0.005)  # a pace, not a wait: loopback would fill buffers otherwise
    except ConnectionError:
        return
    pytest.fail("the server still reads")


def test_a_client_that_answers_the_close_ends_tcp_at_once(launch: Launch, http_server: str) -> None:
    """Otherwise the server waits close_seconds, here longer than the test does."""
    server = launch(http_server, websocket={"close_seconds": 2 * PATIENCE_SECONDS})
    with open_socket(server.ws) as acc:
        acc.send(frame(3, b""))
        acc.closed(1002)
        acc.send(close(1002))
        acc.ended()


def test_a_half_closed_client_is_gone(server: Server) -> None:
    with open_socket(server.ws) as raw:
        raw.send(b"\x81\x85\x00")
        raw.sock.shutdown(1)
        raw.ended()
