"""WebSocket frames of the server (RFC 6455 section 5): the encoder, and a parser for the rare cases.

``transport.connection`` reads small whole frames, which are nearly all, without any object. Everything else
(fragments, large, split or broken frames, control frames) goes through :class:`MessageParser`, which exists
only while a frame or message is unfinished.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from imserver import errors

SMALL_BYTES = 125
EMPTY_BYTES = 6
"""Size of a client frame without payload."""
REST_BYTES = 4096
"""Largest frame whose beginning is stored unparsed. Each new piece is parsed together with it."""
HEADS = 512
"""Frames below this size, which are nearly all, use a prepared head."""
_pack_medium = struct.Struct("!BBH").pack
_pack_large = struct.Struct("!BBQ").pack


def heads(opcode: int) -> tuple[bytes, ...]:
    """Heads of unmasked final frames, indexed by payload size, for common sizes."""
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
    """Encode a close frame. Code 1005 makes one without a body (RFC 6455 section 7.4.1)."""
    if code == errors.CloseCode.NO_CODE:
        return b"\x88\x00"
    cut = reason.encode()[: SMALL_BYTES - 2].decode(errors="ignore")  # drop a character that is cut
    return encode(struct.pack("!H", code) + cut.encode(), Opcode.CLOSE)


def deflate(payload: bytes, window_bits: int) -> bytes:
    """Compress ``payload`` as an independent permessage-deflate message (RFC 7692 section 7.2.1)."""
    # A compressor lives for one message, and 64 KiB are allocated faster than the 256 of the usual level.
    compressor = zlib.compressobj(wbits=-window_bits, memLevel=5)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Violation(Exception):
    """The peer violated the protocol. ``code``: the close code to send."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameMessage(NamedTuple):
    """Output of the parser: a whole message (TEXT or BINARY) or one control frame."""

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


def is_pong(data: bytes) -> bool:
    """Whether ``data`` is exactly one whole pong of a client.

    Nearly all frames of clients that only receive are pongs. A parser for each would cost forty times this.
    """
    # Final, no reserved bits, masked, at most 125 bytes, complete (RFC 6455 sections 5.2 and 5.5).
    size = len(data) - EMPTY_BYTES
    return data[0] == 0x8A and 0 <= size <= SMALL_BYTES and data[1] == 0x80 + size


def begins_small(data: bytes, limit: int) -> bool:
    """Whether ``data`` is the beginning of a masked whole message of at most :data:`REST_BYTES`."""
    size = len(data)
    if not 0x81 <= data[0] <= 0x82 or size == 1:
        return 0x81 <= data[0] <= 0x82
    length = data[1] - 128
    if length == 126 and size >= 4:
        length = data[2] << 8 | data[3]
    return 0 <= length <= min(limit, REST_BYTES) and data[1] != 0xFF


class MessageParser:
    """Parses the bytes of one connection into messages and control frames. No I/O.

    ``limit``: largest message in bytes, after inflation. UTF-8 of text is checked as it arrives. Owner: the
    connection, which drops the parser when :attr:`idle` is True.
    """

    __slots__ = ("_extensions", "_fragments", "_limit", "_reader", "_run", "_slack", "_utf8", "between")

    def __init__(self, limit: int, deflated: bool) -> None:
        self._limit = limit
        # Incompressible data grows by 5 bytes per block and a few at the end.
        self._slack = limit // 1000 + 16 if deflated else 0
        # Without context takeover. A window of 15 bits can read data of any smaller window.
        self._extensions = [PerMessageDeflate(True, True, 15, 15)] if deflated else []
        self._reader = StreamReader()
        self._fragments: bytearray | None = None
        self._utf8: codecs.IncrementalDecoder | None = None
        self.between = True
        self._run = self._parse()
        next(self._run)

    def close(self) -> None:
        """Drop unfinished data. The parser and its generator reference each other, so otherwise only a
        garbage collection would free them."""
        self._run.close()

    @property
    def idle(self) -> bool:
        """True if no frame and no fragmented message is unfinished."""
        return self.between and self._fragments is None

    @property
    def held_bytes(self) -> int:
        """Number of bytes held for unfinished data."""
        return len(self._reader.buffer) + self._size()

    def _size(self) -> int:
        return 0 if self._fragments is None else len(self._fragments)

    def feed(self, data: bytes) -> Iterator[FrameMessage]:
        """Parse bytes and yield what they complete.

        Raises :class:`Violation` at the first error. The parser cannot be used after that.
        """
        self._reader.feed_data(data)
        while True:
            try:
                message = self._run.send(None)
            except PayloadTooBig as exc:
                raise Violation(errors.CloseCode.TOO_BIG, "message too big") from exc
            except ProtocolError as exc:
                raise Violation(errors.CloseCode.PROTOCOL_ERROR, str(exc)) from exc
            if message is None:
                return
            yield message

    def _parse(self) -> Generator[FrameMessage | None, None, None]:
        reader = self._reader
        yield None
        while True:
            while not reader.buffer:
                self.between = True
                yield None
            self.between = False
            # Control frames have their own limit. The size of messages is checked in _take.
            most = max(self._limit - self._size() + self._slack, SMALL_BYTES)
            steps = Frame.parse(reader.read_exact, mask=True, max_size=most, extensions=self._extensions)
            frame = None
            while frame is None:
                try:
                    next(steps)
                except StopIteration as done:
                    frame = done.value
                else:
                    yield None
            message = self._take(frame)
            if message is not None:
                self.between = not reader.buffer
                yield message

    def _take(self, frame: Frame) -> FrameMessage | None:
        """Add a frame to the current message. Returns the message if it is complete."""
        opcode, data = frame.opcode, bytes(frame.data)
        if opcode >= Opcode.CLOSE:
            return FrameMessage(opcode, data)
        if opcode is Opcode.CONT:
            if self._fragments is None:
                raise Violation(errors.CloseCode.PROTOCOL_ERROR, "unexpected continuation frame")
        elif self._fragments is not None:
            raise Violation(errors.CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
        else:
            self._utf8 = codecs.getincrementaldecoder("utf-8")() if opcode is Opcode.TEXT else None
        if self._size() + len(data) > self._limit:
            raise Violation(errors.CloseCode.TOO_BIG, "message too big")
        if self._utf8 is not None:
            try:
                self._utf8.decode(data, frame.fin)
            except UnicodeDecodeError as exc:
                raise Violation(errors.CloseCode.BAD_PAYLOAD, "invalid UTF-8") from exc
        if self._fragments is None:
            if frame.fin:
                return FrameMessage(opcode, data)
            self._fragments = bytearray()
        # One buffer instead of a list: empty fragments must not use memory.
        self._fragments += data
        if not frame.fin:
            return None
        message = FrameMessage(Opcode.BINARY if self._utf8 is None else Opcode.TEXT, bytes(self._fragments))
        self._fragments = None
        return message


def read_close(data: bytes) -> int:
    """The code of a peer's close frame; 1005 if it has none.

    Raises :class:`Violation` for a payload, code or reason that RFC 6455 section 7.4 forbids.
    """
    try:
        code: int = Close.parse(data).code
    except ProtocolError as exc:
        raise Violation(errors.CloseCode.PROTOCOL_ERROR, str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise Violation(errors.CloseCode.BAD_PAYLOAD, "invalid UTF-8 in the close reason") from exc
    return code
