"""Frames as RFC 6455 sections 5 to 8 have them, on the echo path and on /acc, through both HTTP servers."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import NOT_VALID, command, pairs, reply
from .raw import (
    BINARY,
    CLOSE,
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


def refused(raw: Raw, code: int, *data: bytes) -> Frame:
    """Send what breaks a rule: the close has the code, and TCP ends though the client never closes."""
    raw.send(*data)
    found = raw.closed(code)
    raw.ended()
    return found


# Messages.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1_000_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_length_comes_back_whole(echo: Raw, opcode: int, size: int) -> None:
    payload = b"*" * size if opcode == TEXT else os.urandom(size)
    echo.send(frame(opcode, payload))
    found = echo.message()
    assert (found.opcode, found.rsv) == (opcode, 0)
    assert found.payload == payload


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 300, 65535])
@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"])
def test_any_mask_is_undone(echo: Raw, mask: bytes, size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    echo.send(frame(BINARY, payload, mask=mask))
    assert echo.message().payload == payload


def test_a_message_split_at_every_byte_comes_back_whole(echo: Raw) -> None:
    payload = "哈喽~ " + "x" * 130
    data = frame(TEXT, payload)
    for cut in range(1, len(data)):
        echo.send(data[:cut])
        echo.send(data[cut:])
    for _ in range(1, len(data)):
        assert echo.message().text == payload


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
    echo.send(*(text(f"{number}") for number in range(1000)))
    assert [echo.message().text for _ in range(1000)] == [f"{number}" for number in range(1000)]


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


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_are_put_together(echo: Raw, opcode: int) -> None:
    echo.send(
        frame(opcode, b"one ", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b"two")
    )
    assert echo.message() == Frame(opcode, b"one two")
    echo.send(frame(opcode, b"", fin=False), frame(CONTINUATION, b""))
    assert echo.message() == Frame(opcode, b"")


def test_a_character_may_be_split_between_fragments(echo: Raw) -> None:
    payload = "κόσμε 😀 哈喽~".encode()
    pieces = [
        frame(TEXT if not at else CONTINUATION, payload[at : at + 1], fin=False) for at in range(len(payload))
    ]
    echo.send(*pieces, frame(CONTINUATION, b""))
    assert echo.message().payload == payload


@pytest.mark.parametrize("form", [16, 64])
def test_a_length_that_is_not_minimal_is_tolerated_or_refused(echo: Raw, form: int) -> None:
    """RFC 6455 section 5.2 demands minimal lengths of the sender and says nothing of the receiver."""
    echo.send(frame(TEXT, "x", form=form))
    found = echo.frame()
    assert found == Frame(TEXT, b"x") or found.close_code == 1002


def test_a_64_bit_length_with_the_highest_bit_is_refused(echo: Raw) -> None:
    echo.send(frame(BINARY, b"", form=64, declared=1 << 63))
    echo.closed(1002, 1009)
    echo.ended()


# Pings and pongs.


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff\xfe", b"p" * 125])
def test_a_ping_is_answered_by_a_pong_with_its_payload(acc: Raw, payload: bytes) -> None:
    acc.send(frame(PING, payload))
    assert acc.frame() == Frame(PONG, payload)


def test_pings_between_fragments_are_answered_at_once(echo: Raw) -> None:
    echo.send(frame(TEXT, "a", fin=False), frame(PING, b"1"))
    assert echo.frame() == Frame(PONG, b"1")
    echo.send(frame(CONTINUATION, "b", fin=False), frame(PING, b"2"), frame(PONG, b"unasked"))
    assert echo.frame() == Frame(PONG, b"2")
    echo.send(frame(CONTINUATION, "c"))
    assert echo.message().text == "abc"


def test_an_unasked_pong_is_ignored(acc: Raw) -> None:
    acc.send(frame(PONG), frame(PONG, b"x" * 125))
    acc.quiet()


def test_a_thousand_pings_get_a_thousand_pongs_in_order(acc: Raw) -> None:
    acc.send(*(frame(PING, b"%d" % number) for number in range(1000)))
    assert [acc.frame().payload for _ in range(1000)] == [b"%d" % number for number in range(1000)]


# What breaks the rules: 1002.


@pytest.mark.parametrize("path", ["/acc", ECHO_PATH])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_an_unmasked_frame_is_refused_with_1002(server: Server, path: str, opcode: int) -> None:
    with open_socket(server.ws, path) as raw:
        refused(raw, 1002, frame(opcode, b"", mask=None))


def test_an_unmasked_frame_behind_good_ones_is_refused_after_they_are_answered(echo: Raw) -> None:
    echo.send(text("good"), frame(TEXT, "bad", mask=None))
    assert echo.message().text == "good"
    echo.closed(1002)
    echo.ended()


@pytest.mark.parametrize("rsv", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
def test_reserved_bits_without_an_extension_are_refused_with_1002(acc: Raw, opcode: int, rsv: int) -> None:
    refused(acc, 1002, frame(opcode, b"x", rsv=rsv))


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcodes_are_refused_with_1002(acc: Raw, opcode: int) -> None:
    refused(acc, 1002, frame(opcode, b"x"))


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frames_are_refused_with_1002(acc: Raw, opcode: int) -> None:
    refused(acc, 1002, frame(opcode, b"", fin=False))


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
@pytest.mark.parametrize("size", [126, 1000])
def test_control_frames_above_125_bytes_are_refused_with_1002(acc: Raw, opcode: int, size: int) -> None:
    refused(acc, 1002, frame(opcode, b"\x03\xe8" + b"x" * (size - 2)))


def test_a_control_frame_with_a_64_bit_length_is_refused_at_its_header(acc: Raw) -> None:
    acc.send(frame(PING, b"", form=64, declared=1 << 20))
    acc.closed(1002, 1009)
    acc.ended()


@pytest.mark.parametrize("fin", [True, False])
def test_a_continuation_of_nothing_is_refused_with_1002(acc: Raw, fin: bool) -> None:
    refused(acc, 1002, frame(CONTINUATION, b"x", fin=fin))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_new_message_before_the_last_fragment_is_refused_with_1002(acc: Raw, opcode: int) -> None:
    refused(acc, 1002, frame(TEXT, "a", fin=False), frame(opcode, b"b"))


def test_a_continuation_after_the_last_fragment_is_refused_with_1002(echo: Raw) -> None:
    echo.send(frame(TEXT, "a", fin=False), frame(CONTINUATION, "b"), frame(CONTINUATION, "c"))
    assert echo.message().text == "ab"
    echo.closed(1002)
    echo.ended()


def test_http_after_the_upgrade_is_refused_with_1002(acc: Raw) -> None:
    refused(acc, 1002, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


# Text: 1007.

BROKEN_UTF8 = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xe5\x93",
    b"x" * 200 + b"\xff",
]


@pytest.mark.parametrize("payload", BROKEN_UTF8)
@pytest.mark.parametrize("path", ["/acc", ECHO_PATH])
def test_text_that_is_not_utf8_is_refused_with_1007(server: Server, path: str, payload: bytes) -> None:
    with open_socket(server.ws, path) as raw:
        refused(raw, 1007, text(payload))


def test_broken_text_across_fragments_is_refused_with_1007(acc: Raw) -> None:
    refused(acc, 1007, frame(TEXT, b"\xe5\x93", fin=False), frame(CONTINUATION, b"x"))


def test_text_that_ends_inside_a_character_is_refused_with_1007(acc: Raw) -> None:
    refused(
        acc,
        1007,
        frame(TEXT, b"\xe5", fin=False),
        frame(CONTINUATION, b"\x93", fin=False),
        frame(CONTINUATION, b""),
    )


def test_a_ping_between_broken_fragments_does_not_heal_them(acc: Raw) -> None:
    acc.send(frame(TEXT, b"\xe5", fin=False), frame(PING, b"x"), frame(CONTINUATION, b"\xe5"))
    assert acc.frame() == Frame(PONG, b"x")
    acc.closed(1007)
    acc.ended()


def test_binary_frames_may_hold_any_bytes(echo: Raw) -> None:
    for payload in BROKEN_UTF8:
        echo.send(frame(BINARY, payload))
        assert echo.message() == Frame(BINARY, payload)


def test_a_binary_message_of_broken_utf8_on_acc_is_answered_as_no_request(acc: Raw) -> None:
    acc.send(frame(BINARY, b"\xff\xfe"))
    assert acc.message() == Frame(TEXT, NOT_VALID.encode())
    acc.quiet()


# Sizes: 1009.


def test_a_message_at_the_limit_is_taken(acc: Raw) -> None:
    acc.send(text(b"x" * MESSAGE_BYTES))
    assert acc.message().text == NOT_VALID
    acc.quiet()


def test_a_request_at_the_limit_is_served(acc: Raw) -> None:
    data = command("ping", "", "1")
    room = MESSAGE_BYTES - (len(data) - 6)
    acc.send(command("ping", "x" * room, "1"))
    assert pairs(acc.message().payload) == reply(200, "Success", "ping", "1", "pong")


@pytest.mark.parametrize("declared", [MESSAGE_BYTES + 1, 1 << 20, 1 << 40])
def test_a_frame_above_the_limit_is_refused_with_1009_when_its_header_is_read(
    acc: Raw, declared: int
) -> None:
    refused(acc, 1009, frame(TEXT, b"", declared=declared))


def test_fragments_that_grow_above_the_limit_are_refused_with_1009_at_a_header(acc: Raw) -> None:
    acc.send(frame(TEXT, b"x" * 40000, fin=False))
    refused(acc, 1009, frame(CONTINUATION, b"", declared=40000))


def test_small_fragments_that_grow_above_the_limit_are_refused_with_1009(acc: Raw) -> None:
    piece = frame(CONTINUATION, b"x" * 100, fin=False)
    refused(acc, 1009, frame(BINARY, b"", fin=False), piece * (MESSAGE_BYTES // 100 + 1))


def test_the_limit_counts_one_message_not_the_sum_of_several(acc: Raw) -> None:
    for _ in range(3):
        acc.send(frame(TEXT, b"x" * 40000, fin=False), frame(CONTINUATION, b"y" * 20000))
        assert acc.message().text == NOT_VALID
    acc.quiet()


def test_an_oversized_frame_whose_payload_keeps_coming_still_gets_its_close_frame(acc: Raw) -> None:
    """The close must not be destroyed by a reset that unread bytes provoke."""
    acc.send(frame(TEXT, b"x" * 1_000_000))
    acc.closed(1009)
    acc.ended()


@pytest.mark.full
def test_an_endless_row_of_empty_fragments_takes_no_memory(server: Server) -> None:
    """It costs nothing; the row here is half a million long."""
    with open_socket(server.ws) as raw:
        raw.send(frame(TEXT, b"x", fin=False))
        grown = growth_of(server.pid)
        row = frame(CONTINUATION, b"", fin=False) * 20000
        for _ in range(25):
            raw.send(row)
        raw.send(frame(PING, b"end"))
        assert raw.frame() == Frame(PONG, b"end")
        assert grown() < 2 << 20


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


# The close handshake.


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
def test_a_close_is_echoed_with_its_code_and_tcp_ends(acc: Raw, code: int) -> None:
    acc.send(close(code, "bye"))
    acc.closed(code)
    acc.ended()


def test_a_close_without_a_code_is_echoed_without_one_or_with_1000(acc: Raw) -> None:
    acc.send(close(None))
    acc.closed(None, 1000)
    acc.ended()


@pytest.mark.parametrize("reason", ["", "再见", "x" * 123])
def test_a_close_with_any_reason_is_echoed(acc: Raw, reason: str) -> None:
    acc.send(close(1000, reason))
    acc.closed(1000)
    acc.ended()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_may_not_be_sent_is_refused_with_1002(acc: Raw, code: int) -> None:
    refused(acc, 1002, close(code))


def test_a_close_of_one_byte_is_refused_with_1002(acc: Raw) -> None:
    refused(acc, 1002, frame(CLOSE, b"\x03"))


def test_a_close_reason_that_is_not_utf8_is_refused_with_1007(acc: Raw) -> None:
    refused(acc, 1007, close(1000, b"\xff\xfe"))


def test_a_close_between_fragments_is_echoed(acc: Raw) -> None:
    acc.send(frame(TEXT, "a", fin=False), close(1000), frame(CONTINUATION, "b"))
    acc.closed(1000)
    acc.ended()


def test_what_comes_before_a_close_in_the_same_packet_is_answered(acc: Raw) -> None:
    acc.send(command("ping", None, "1"), frame(PING, b"2"), close(1000))
    assert acc.message().json["seq"] == "1"
    assert acc.frame() == Frame(PONG, b"2")
    acc.closed(1000)
    acc.ended()


def test_what_comes_after_a_close_is_ignored(echo: Raw) -> None:
    echo.send(close(1000), text("late"), frame(PING, b"late"), close(1001), b"\xff" * 100)
    echo.closed(1000)
    echo.ended()


def test_the_server_ends_tcp_though_the_client_never_answers_its_close(acc: Raw) -> None:
    acc.send(frame(TEXT, b"\xff"))
    acc.closed(1007)
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


def test_a_close_in_the_middle_of_another_frame_is_payload(echo: Raw) -> None:
    payload = close(1000)
    echo.send(frame(BINARY, payload))
    assert echo.message().payload == payload


def test_a_half_closed_client_is_gone(server: Server) -> None:
    with open_socket(server.ws) as raw:
        raw.send(b"\x81\x85\x00")
        raw.sock.shutdown(1)
        raw.ended()
