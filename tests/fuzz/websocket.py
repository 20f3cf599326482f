"""WebSocket frames, with and without permessage-deflate."""

from __future__ import annotations

from imserver.gateway.transport.frames import Violation, begins_small, deflate, is_pong
from imserver.gateway.transport.parser import MessageParser, read_close
from tests.integration.raw import BINARY, CLOSE, CONTINUATION, TEXT, frame

from .http import pieces
from .target import Target

LIMIT = 4096


def _read(parts: list[bytes], deflated: bool) -> tuple[list[tuple[int, bytes]], int]:
    """The messages, and the code with which the connection ends (0: it goes on)."""
    parser = MessageParser(LIMIT, deflated)
    found: list[tuple[int, bytes]] = []
    try:
        for part in parts:
            for message in parser.feed(part):
                assert len(message.data) <= LIMIT
                found.append((message.opcode, message.data))
            assert parser.held_bytes <= 2 * LIMIT + len(part)
    except Violation as violation:
        return found, violation.code
    finally:
        parser.close()
    return found, 0


def _code(payload: bytes) -> int:
    """What a frame that closes says, or with what it is answered."""
    try:
        return read_close(payload)
    except Violation as violation:
        return violation.code


def check_frames(data: bytes) -> None:
    """A stream means the same in any pieces, and its messages do when they are sent again. The first byte
    says whether it is compressed."""
    deflated, stream = data[:1] == b"\1", data[1:]
    found, code = _read([stream], deflated)
    assert (found, code) == _read(pieces(stream), deflated), "it depends on the pieces"
    assert code in (0, 1002, 1007, 1009)
    if len(stream) < 200:
        assert (found, code) == _read([stream[at : at + 1] for at in range(len(stream))], deflated)
    assert _read([frame(opcode, payload) for opcode, payload in found], False) == (found, 0), "no round trip"
    packed = [frame(opcode, deflate(payload, 15), rsv=4) for opcode, payload in found if opcode <= BINARY]
    assert _read(packed, True)[0] == [each for each in found if each[0] <= BINARY], "no round trip deflated"
    for opcode, payload in found:
        if opcode == CLOSE:
            assert 1000 <= _code(payload) < 5000
    if stream:
        is_pong(stream)
        begins_small(stream, LIMIT)


def _seeds() -> list[bytes]:
    packed = deflate(b"hello" * 30, 15)
    return [
        b"\0" + frame(TEXT, "hello 马") + frame(9, b"p") + frame(CLOSE, b"\x03\xe8bye"),
        b"\0" + frame(TEXT, b"\xe5", fin=False) + frame(10, b"") + frame(CONTINUATION, b"\x93\x88"),
        b"\0" + frame(BINARY, b"z" * 200) + frame(BINARY, b"y", form=64),
        b"\1" + frame(TEXT, packed, rsv=4) + frame(BINARY, b"plain"),
        b"\1" + frame(TEXT, packed[:5], fin=False, rsv=4) + frame(CONTINUATION, packed[5:]),
    ]


TARGETS = (Target("frames", check_frames, _seeds, 16384),)
