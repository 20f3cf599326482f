"""Frames as RFC 6455 sections 5 to 8 have them, on the echo path and on /acc, through both HTTP servers.

Here is what only a socket shows. The rules of frames are proved in tests/gateway/transport/test_frames.py,
what a connection makes of them in test_connection.py, and by Autobahn.
"""

import os
import time
from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import command
from .raw import BINARY, CONTINUATION, PATIENCE_SECONDS, TEXT, Raw, close, frame, open_socket, text
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
