"""WebSocket frames of the server (RFC 6455 section 5): the encoder, and the
reader of small frames."""

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple

from imserver.gateway.errors import CloseCode


class Opcode(IntEnum):
    """The kind of a frame."""

    CONT = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


FINAL: Final = 0x80
"""Bit of the first byte: the last frame of its message."""
_RSV1: Final = 0x40
"""Bit of the first byte: the message is compressed (RFC 7692 section 6)."""
OPCODE_BITS: Final = 0x0F
"""The opcode in the first byte."""
_FINAL_TEXT: Final = FINAL | Opcode.TEXT
_FINAL_BINARY: Final = FINAL | Opcode.BINARY
_FINAL_CLOSE: Final = FINAL | Opcode.CLOSE
FINAL_PONG: Final = FINAL | Opcode.PONG
_MASKED: Final = 0x80
"""Bit of the second byte: the payload is masked, as each payload of a client
must be."""
SMALL_BYTES = 125
"""The largest payload whose length is in the second byte, and the largest of a
control frame."""
_MEDIUM: Final = 126
"""The value of the second byte before a length of two bytes."""
_LARGE: Final = 127
"""The value of the second byte before a length of eight bytes."""
_MEDIUM_BYTES: Final = 0xFFFF
"""The largest payload whose length has two bytes."""
HEAD_BYTES: Final = 2
"""Size of the head of a small frame, without a mask."""
_MEDIUM_HEAD_BYTES: Final = 4
"""Size of the head of a medium frame, without a mask."""
EMPTY_BYTES = 6
"""Size of a client frame without payload: a head and a mask."""
REST_BYTES = 4096
"""Largest frame whose beginning is stored unparsed. Each new piece is parsed
together with it."""
HEADS = 512
"""Frames below this size, which are nearly all, use a prepared head."""
_pack_medium = struct.Struct("!BBH").pack
_pack_large = struct.Struct("!BBQ").pack

_MEMORY_LEVEL: Final = 5
"""Memory of a compressor: 64 KiB. It lives for one message, and the 256 KiB of
zlib's usual level take longer to allocate."""
_FLUSH_TAIL_BYTES: Final = 4
"""Each message ends with an empty block of this size, which is not sent (RFC
7692 section 7.2.1)."""


def heads(opcode: int) -> tuple[bytes, ...]:
    """Make the heads of small frames with this opcode, indexed by payload size.

    The heads are for unmasked final frames, and for sizes below :data:`HEADS`.
    """
    # A slice to -0 would be empty, so it ends with None for the size 0.
    return tuple(encode(bytes(size), opcode)[: -size or None] for size in range(HEADS))


def encode(payload: bytes, opcode: int = Opcode.TEXT, rsv1: bool = False) -> bytes:
    """Encode one unmasked final frame with a payload.

    ``rsv1`` says that the payload is compressed. The text ``hi`` becomes ``81
    02 68 69``.
    """
    size = len(payload)
    head = FINAL | opcode
    if rsv1:
        head |= _RSV1

    if size <= SMALL_BYTES:
        return bytes((head, size)) + payload
    if size <= _MEDIUM_BYTES:
        return _pack_medium(head, _MEDIUM, size) + payload
    return _pack_large(head, _LARGE, size) + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode a close frame. A reason that is too long is cut.

    Code 1005 makes a frame without a body (RFC 6455 section 7.4.1).
    """
    if code == CloseCode.NO_CODE:
        return b"\x88\x00"
    # If a character was cut in the middle, the decoder ignores its rest.
    fitting = reason.encode()[: SMALL_BYTES - 2].decode(errors="ignore")
    return encode(struct.pack("!H", code) + fitting.encode(), Opcode.CLOSE)


def deflate(payload: bytes, window_bits: int) -> bytes:
    """Compress a message independently of all others (RFC 7692 section 7.2.1).

    ``window_bits`` is the window that the client can read.
    """
    compressor = zlib.compressobj(wbits=-window_bits, memLevel=_MEMORY_LEVEL)
    compressed = compressor.compress(payload)
    compressed += compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed[:-_FLUSH_TAIL_BYTES]


class Violation(Exception):
    """The peer has violated the protocol. ``code`` is the close code to
    send."""

    def __init__(self, code: int, reason: str) -> None:
        """Remember the close code and the reason that the peer gets."""
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameMessage(NamedTuple):
    """A whole message (TEXT or BINARY), or one control frame."""

    opcode: int
    data: bytes


class Rest:
    """The unparsed beginning of a small frame."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        """Keep the bytes until more of the frame arrives."""
        self.data = data

    @property
    def held_bytes(self) -> int:
        """Number of bytes in memory."""
        return len(self.data)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def is_control(data: bytes) -> bool:
    """Tell whether ``data`` is exactly one whole control frame of a client.

    Nearly all frames of clients that only receive are pongs, and each
    connection ends with a close frame. Creating a parser for each frame would
    take forty times as long.
    """
    # The frame is final, has no reserved bits, is masked, has at most 125 bytes
    # and is complete (RFC 6455 sections 5.2 and 5.5).
    size = len(data) - EMPTY_BYTES
    return (
        _FINAL_CLOSE <= data[0] <= FINAL_PONG
        and 0 <= size <= SMALL_BYTES
        and data[1] == _MASKED + size
    )


_FIRST_CODE: Final = 1000
_LAST_CODE: Final = 1014
"""The close codes of the protocol lie between these."""
_UNSENT_CODES: Final = frozenset({1004, 1005, 1006})
"""Close codes of the protocol that no peer may send."""
_FIRST_OTHER_CODE: Final = 3000
_LAST_OTHER_CODE: Final = 4999
"""Close codes of libraries and applications lie between these."""


def _is_close_code(code: int) -> bool:
    """Tell whether a peer may send this close code (RFC 6455 section 7.4)."""
    if _FIRST_CODE <= code <= _LAST_CODE:
        return code not in _UNSENT_CODES
    return _FIRST_OTHER_CODE <= code <= _LAST_OTHER_CODE


def read_close(data: bytes) -> int:
    """Read the code in the payload of a peer's close frame.

    Returns 1005 if the payload is empty. Raises :class:`Violation` (RFC 6455
    section 7.4).
    """
    if not data:
        return CloseCode.NO_CODE
    if len(data) == 1:
        raise Violation(CloseCode.PROTOCOL_ERROR, "close frame too short")
    code = int.from_bytes(data[:2])
    if not _is_close_code(code):
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid status code")
    try:
        data[2:].decode()
    except UnicodeDecodeError as exc:
        raise Violation(
            CloseCode.BAD_PAYLOAD, "invalid UTF-8 in the close reason"
        ) from exc
    return code


def begins_small(data: bytes, limit: int) -> bool:
    """Tell whether ``data`` can be the beginning of a small frame.

    A small frame has a whole message, of at most :data:`REST_BYTES` and at most
    ``limit`` bytes.
    """
    if not _FINAL_TEXT <= data[0] <= _FINAL_BINARY:
        return False
    if len(data) < HEAD_BYTES:
        return True

    # Without the mask, the length is negative, and the frame is invalid.
    length = data[1] - _MASKED
    if length == _LARGE:
        return False
    if length == _MEDIUM and len(data) >= _MEDIUM_HEAD_BYTES:
        length = int.from_bytes(data[HEAD_BYTES:_MEDIUM_HEAD_BYTES])
    return 0 <= length <= min(limit, REST_BYTES)
