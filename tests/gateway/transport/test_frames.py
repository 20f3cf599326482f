"""Frames: what is written, and a parser that must read the same however its
bytes are cut."""

import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest

from imserver.gateway.transport import frames
from imserver.gateway.transport.frames import Violation
from imserver.gateway.transport.parser import MessageParser
from tests.integration.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    frame,
)

LIMIT = 1000

Read = list[tuple[int, bytes]]


def deflated(payload: bytes, bits: int = 15) -> bytes:
    """A message as a client with permessage-deflate sends it."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(wbits=-bits).decompress(payload + b"\x00\x00\xff\xff")


def fragments(
    opcode: int, payload: bytes, cuts: Iterable[int], rsv: int = 0
) -> list[bytes]:
    """A message cut at these places, a frame each."""
    cuts_and_ends = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    pieces = [payload[a:b] for a, b in pairwise(cuts_and_ends)]
    last = len(pieces) - 1
    return [
        frame(CONTINUATION if i else opcode, piece, fin=i == last, rsv=0 if i else rsv)
        for i, piece in enumerate(pieces)
    ]


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    cuts_and_ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(cuts_and_ends)]


def read(
    stream: Iterable[bytes], limit: int = LIMIT, deflate: bool = False
) -> tuple[Read, int]:
    """What the parser makes of a stream: messages, and the close code of its
    violation (0: none)."""
    parser = MessageParser(limit, deflate)
    found: Read = []
    try:
        for data in stream:
            for message in parser.feed(data):
                found.append((int(message.opcode), message.data))
    except Violation as violation:
        return found, violation.code
    return found, 0


def code_of(*stream: bytes, limit: int = LIMIT, deflate: bool = False) -> int:
    return read(stream, limit, deflate)[1]


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_has_the_shortest_head_that_holds_its_size(
    size: int, head: bytes
) -> None:
    payload = b"x" * size
    assert frames.encode(payload) == head + payload
    assert frames.encode(payload, BINARY) == b"\x82" + head[1:] + payload
    assert frames.encode(payload, rsv1=True) == b"\xc1" + head[1:] + payload


def test_a_close_frame_has_a_code_and_a_reason_or_neither() -> None:
    assert frames.encode_close(1000) == b"\x88\x02\x03\xe8"
    assert frames.encode_close(4000, "slow") == b"\x88\x06\x0f\xa0slow"
    assert frames.encode_close(1005, "never sent") == b"\x88\x00"


@pytest.mark.parametrize(
    "reason", ["x" * 200, "慢" * 60, "é" + "慢" * 60, "xx" + "😀" * 40]
)
def test_the_reason_of_a_close_is_cut_to_fit_between_two_characters(
    reason: str,
) -> None:
    data = frames.encode_close(4000, reason)
    assert len(data) - 2 == data[1] <= 125
    assert reason.startswith(data[4:].decode())
    assert len(data) > 120


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize(
    "payload", [b"", b"a", b"hello " * 5000, random.Random(1).randbytes(70_000)]
)
def test_a_deflated_message_is_alone_in_its_window(bits: int, payload: bytes) -> None:
    assert inflated(frames.deflate(payload, bits), bits) == payload


@pytest.mark.parametrize(
    ("payload", "read_as", "violation"),
    [
        (b"", 1005, 0),
        *(
            (struct.pack("!H", code) + "再见".encode(), code, 0)
            for code in (1000, 1001, 1014, 3000, 4999)
        ),
        *(
            (struct.pack("!H", code), 0, 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016)
        ),
        *(
            (struct.pack("!H", code), 0, 1002)
            for code in (1100, 2000, 2999, 5000, 65535)
        ),
        (b"\x03", 0, 1002),
        (b"\x03\xe8\xff", 0, 1007),
    ],
)
def test_a_close_has_a_code_that_may_be_sent_or_none(
    payload: bytes, read_as: int, violation: int
) -> None:
    found = 0
    code = 0
    try:
        found = frames.read_close(payload)
    except Violation as caught:
        code = caught.code
    assert (found, code) == (read_as, violation)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x80",
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xe5\x93",
        b"x" * 200 + b"\xff",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    ],
)
def test_what_only_looks_like_utf_8_is_no_text(payload: bytes) -> None:
    for cuts in ([], [1], range(len(payload))):
        assert read(fragments(TEXT, payload, cuts)) == ([], 1007)
        assert read(fragments(BINARY, payload, cuts)) == ([(BINARY, payload)], 0)
    assert (
        code_of(
            frame(TEXT, payload[:1], fin=False),
            frame(PING),
            frame(CONTINUATION, payload[1:]),
        )
        == 1007
    )
    assert code_of(frame(TEXT, deflated(payload), rsv=4), deflate=True) == 1007


@pytest.mark.parametrize("form", [16, 64])
def test_a_length_need_not_be_minimal(form: int) -> None:
    """RFC 6455 section 5.2 demands minimal lengths of the sender and says
    nothing of the receiver."""
    assert read([frame(TEXT, b"x", form=form)]) == ([(TEXT, b"x")], 0)


def test_a_deflated_block_may_be_marked_final() -> None:
    """RFC 7692 section 7.2.3.4."""
    one = zlib.compressobj(wbits=-15)
    data = one.compress(b"final") + one.flush(zlib.Z_FINISH) + b"\x00"
    assert read([frame(TEXT, data, rsv=4)], deflate=True) == ([(TEXT, b"final")], 0)


@pytest.mark.parametrize(
    "bad",
    [
        *(
            frame(opcode, b"", mask=None)
            for opcode in (TEXT, BINARY, PING, PONG, CLOSE)
        ),
        *(
            frame(opcode, b"hi", rsv=rsv)
            for opcode in (TEXT, BINARY, PING)
            for rsv in range(1, 8)
        ),
        *(frame(opcode, b"") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        *(frame(opcode, b"\x03\xe8" + b"x" * 124) for opcode in (PING, PONG, CLOSE)),
        *(frame(opcode, b"", fin=False) for opcode in (PING, PONG, CLOSE)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        frame(CONTINUATION, b"x"),
        frame(CONTINUATION, b"", fin=False),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False),
        frame(TEXT, b"a", fin=False)
        + frame(CONTINUATION, b"b")
        + frame(CONTINUATION, b"c"),
    ],
)
def test_a_breach_of_the_protocol_is_1002_and_what_came_before_it_counts(
    bad: bytes,
) -> None:
    found, code = read([frame(TEXT, b"before") + frame(PING, b"p") + bad])
    assert code == 1002
    assert found[:2] == [(TEXT, b"before"), (PING, b"p")]


BROKEN = (
    frame(TEXT, b"no deflate", rsv=4),
    frame(TEXT, b"\xff\xff\xff", rsv=4),
    fragments(TEXT, deflated(b"hello" * 20), [5], rsv=4)[0]
    + frame(CONTINUATION, b"x", rsv=4),
    frame(PING, b"x", rsv=4),
)
LENGTHS = (
    *(
        (BINARY, declared, (1009,))
        for declared in (LIMIT + 1, 1 << 16, 1 << 32, (1 << 63) - 1)
    ),
    *((BINARY, declared, (1002, 1009)) for declared in (1 << 63, (1 << 64) - 1)),
    (PING, 1 << 20, (1002, 1009)),
)


@pytest.mark.parametrize(
    ("bad", "codes"),
    [
        *((bad, (1002,)) for bad in BROKEN),
        *(
            (frame(opcode, b"", declared=size, form=64), codes)
            for opcode, size, codes in LENGTHS
        ),
    ],
)
def test_broken_compression_and_too_large_sizes_are_refused_at_once(
    bad: bytes, codes: tuple[int, ...]
) -> None:
    assert code_of(bad, deflate=bad in BROKEN) in codes


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1, 10, 124, 125, 126, 1000, 65536])
def test_a_message_may_be_as_large_as_the_limit_and_no_byte_larger(
    opcode: int, limit: int
) -> None:
    fits = b"x" * limit
    over = b"x" * (limit + 1)
    for cuts in ([], [0], [1], [limit // 2], [limit], [0, 0, limit, limit]):
        assert read(fragments(opcode, fits, cuts), limit) == ([(opcode, fits)], 0), cuts
        assert read(fragments(opcode, over, cuts), limit) == ([], 1009), cuts


@pytest.mark.parametrize("limit", [1, 100, 1000, 65536])
def test_the_limit_counts_inflated_bytes(limit: int) -> None:
    fits = b"x" * limit
    over = b"x" * (limit + 1)
    for cuts in ([], [1], [2, 3]):
        assert read(fragments(TEXT, deflated(fits), cuts, rsv=4), limit, True) == (
            [(TEXT, fits)],
            0,
        ), cuts
        assert read(fragments(TEXT, deflated(over), cuts, rsv=4), limit, True) == (
            [],
            1009,
        ), cuts


@pytest.mark.parametrize("limit", [1000, 65536])
def test_what_cannot_be_compressed_may_take_a_few_bytes_more_on_its_way(
    limit: int,
) -> None:
    noise = random.Random(1).randbytes(limit)
    packed = deflated(noise)
    assert len(packed) > limit
    for cuts in ([], [limit // 2]):
        assert read(fragments(BINARY, packed, cuts, rsv=4), limit, True) == (
            [(BINARY, noise)],
            0,
        )
        assert read(fragments(BINARY, packed, cuts, rsv=4), limit - 1, True) == (
            [],
            1009,
        )


@pytest.mark.parametrize("size", [0, 1, 900, 999, 1000])
def test_control_frames_between_fragments_do_not_count_against_the_limit(
    size: int,
) -> None:
    start = frame(BINARY, b"x" * size, fin=False)
    assert read([start, frame(PING, b"p" * 125), close(1000)]) == (
        [(PING, b"p" * 125), (CLOSE, b"\x03\xe8")],
        0,
    )


@pytest.mark.parametrize("whole", [True, False])
def test_a_bomb_is_never_inflated_beyond_the_limit(whole: bool) -> None:
    bomb = deflated(bytes(64 << 20))
    limit = 1 << 20
    stream = fragments(BINARY, bomb, [] if whole else range(0, len(bomb), 1000), rsv=4)
    tracemalloc.start()
    try:
        assert code_of(*stream, limit=limit, deflate=True) == 1009
        assert tracemalloc.get_traced_memory()[1] < 5 * limit
    finally:
        tracemalloc.stop()


def test_a_parser_holds_nothing_when_nothing_is_unfinished() -> None:
    parser = MessageParser(LIMIT, False)
    assert parser.idle

    def after(data: bytes) -> tuple[bool, int]:
        list(parser.feed(data))
        return parser.idle, parser.held_bytes

    whole = frame(TEXT, b"hello")
    assert after(whole) == (True, 0)
    assert after(whole + whole[:1]) == (False, 1)
    assert after(whole[1:8])[0] is False
    assert after(whole[8:]) == (True, 0)
    assert after(frame(TEXT, b"hel", fin=False)) == (False, 3)
    assert after(frame(PING, b"p")) == (False, 3)
    assert after(frame(CONTINUATION, b"lo")) == (True, 0)
    assert after(frame(PING, b"p") + frame(PONG)) == (True, 0)
    assert after(b"") == (True, 0)
    parser = MessageParser(LIMIT, False)
    list(parser.feed(frame(TEXT, b"", fin=False)))
    row = frame(CONTINUATION, b"", fin=False) * 1000
    list(parser.feed(row))
    tracemalloc.start()
    try:
        for _ in range(10):
            assert list(parser.feed(row)) == []
        assert parser.held_bytes == 0
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert [message.data for message in parser.feed(frame(CONTINUATION, b"end"))] == [
        b"end"
    ]
