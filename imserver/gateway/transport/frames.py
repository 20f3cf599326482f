"""WebSocket frames of the server (RFC 6455 section 5): the encoder, and what
reads small frames."""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

from imserver.gateway.errors import CloseCode


class Opcode(IntEnum):
    """What a frame is."""

    CONT = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


SMALL_BYTES = 125
EMPTY_BYTES = 6
"""Size of a client frame without payload."""
REST_BYTES = 4096
"""Largest frame whose beginning is stored unparsed. Each new piece is parsed
together with it."""
HEADS = 512
"""Frames below this size, which are nearly all, use a prepared head."""
_pack_medium = struct.Struct("!BBH").pack
_pack_large = struct.Struct("!BBQ").pack


def heads(opcode: int) -> tuple[bytes, ...]:
    """Heads of unmasked final frames, indexed by payload size, for common
    sizes."""
    return tuple(encode(bytes(size), opcode)[: -size or None] for size in range(HEADS))


def encode(payload: bytes, opcode: int = Opcode.TEXT, rsv1: bool = False) -> bytes:
    """Encode one unmasked final frame with ``payload``."""
    size = len(payload)
    head = 0x80 | (0x40 if rsv1 else 0) | opcode
    if size <= SMALL_BYTES:
        return bytes((head, size)) + payload
    if size < 65536:
        return _pack_medium(head, 126, size) + payload
    return _pack_large(head, 127, size) + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode a close frame. Code 1005 makes one without a body (RFC 6455
    section 7.4.1)."""
    if code == CloseCode.NO_CODE:
        return b"\x88\x00"
    # drop a character that is cut
    cut = reason.encode()[: SMALL_BYTES - 2].decode(errors="ignore")
    return encode(struct.pack("!H", code) + cut.encode(), Opcode.CLOSE)


def deflate(payload: bytes, window_bits: int) -> bytes:
    """Compress ``payload`` as an independent permessage-deflate message (RFC
    7692 section 7.2.1)."""
    # A compressor lives for one message, and 64 KiB are allocated faster than
    # the 256 of the usual level.
    compressor = zlib.compressobj(wbits=-window_bits, memLevel=5)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Violation(Exception):
    """The peer violated the protocol. ``code``: the close code to send."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameMessage(NamedTuple):
    """Output of the parser: a whole message (TEXT or BINARY) or one control
    frame."""

    opcode: int
    data: bytes


class Rest:
    """The unparsed beginning of a small frame."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def held_bytes(self) -> int:
        """Number of stored bytes."""
        return len(self.data)

    def close(self) -> None:
        """Nothing to release."""


def is_control(data: bytes) -> bool:
    """Whether ``data`` is one whole control frame. Nearly all frames of clients
    that only receive are pongs, and each connection ends with a close frame: a
    parser for each would cost forty times this."""
    # Final, no reserved bits, masked, at most 125 bytes, complete (RFC 6455
    # sections 5.2 and 5.5).
    size = len(data) - EMPTY_BYTES
    return (
        0x88 <= data[0] <= 0x8A and 0 <= size <= SMALL_BYTES and data[1] == 0x80 + size
    )


def read_close(data: bytes) -> int:
    """The code in the payload of a peer's close frame; 1005: none. Raises
    :class:`Violation` (RFC 6455 section 7.4)."""
    if not data:
        return CloseCode.NO_CODE
    if len(data) == 1:
        raise Violation(CloseCode.PROTOCOL_ERROR, "close frame too short")
    code = data[0] << 8 | data[1]
    if not ((1000 <= code <= 1014 and not 1004 <= code <= 1006) or 3000 <= code < 5000):
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid status code")
    try:
        data[2:].decode()
    except UnicodeDecodeError as exc:
        raise Violation(
            CloseCode.BAD_PAYLOAD, "invalid UTF-8 in the close reason"
        ) from exc
    return code


def begins_small(data: bytes, limit: int) -> bool:
    """Whether ``data`` is the beginning of a masked whole message of at most
    :data:`REST_BYTES`."""
    size = len(data)
    if not 0x81 <= data[0] <= 0x82 or size == 1:
        return 0x81 <= data[0] <= 0x82
    length = data[1] - 128
    if length == 126 and size >= 4:
        length = data[2] << 8 | data[3]
    return 0 <= length <= min(limit, REST_BYTES) and data[1] != 0xFF
