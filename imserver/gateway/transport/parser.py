"""Reads unusual WebSocket frames and offers to compress, by the library
``websockets``.

``transport.connection`` reads small whole frames, which are nearly all, without
any object. Everything else (fragments, large, split or broken frames) goes
through :class:`MessageParser`, which exists only while a frame or message is
unfinished. Loaded at its first use: with the library it takes 1.5 MB.
"""

import codecs
from collections.abc import Generator, Iterator
from typing import Final

from websockets.exceptions import (
    InvalidHeader,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
)
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame
from websockets.headers import build_extension, parse_extension
from websockets.streams import StreamReader

from imserver.gateway.errors import CloseCode
from imserver.gateway.transport.frames import (
    SMALL_BYTES,
    FrameMessage,
    Opcode,
    Violation,
)

_WINDOW_BITS: Final = 15
"""The largest window. With it, data of any smaller window can be read."""
_GROWTH_BYTES: Final = 1000
"""Incompressible data grows by less than one byte for so many bytes: it grows
by 5 bytes in each block of many thousand bytes."""
_END_BYTES: Final = 16
"""Incompressible data also grows by up to this many bytes at its end."""
_FACTORY: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True
)


def negotiate(header: str) -> tuple[str, int]:
    """Accept a client's offer to compress messages (permessage-deflate, RFC
    7692).

    ``header`` is the client's ``Sec-WebSocket-Extensions``. The first usable
    offer in it is accepted. Returns the value of the header in the response,
    and the bits of our window. Returns ``""`` and 0 if no offer is usable.
    """
    try:
        offers = parse_extension(header)
    except InvalidHeader:
        return "", 0
    for name, params in offers:
        if name != _FACTORY.name:
            continue
        try:
            answer, extension = _FACTORY.process_request_params(params, [])
        except NegotiationError:
            continue
        return build_extension([(name, answer)]), extension.local_max_window_bits
    return "", 0


class MessageParser:
    """Parses the bytes of one connection into messages and control frames.

    It does no I/O. ``limit`` is the largest message in bytes, after
    decompression. ``deflated`` says whether messages may be compressed.
    ``between`` tells whether the last frame is complete. The UTF-8 of text is
    checked as it arrives. The connection owns the parser, and drops it when
    :attr:`idle` is True.
    """

    __slots__ = (
        "_extensions",
        "_fragments",
        "_limit",
        "_reader",
        "_run",
        "_slack",
        "_utf8",
        "between",
    )

    def __init__(self, limit: int, deflated: bool) -> None:
        """Begin between two messages.

        ``limit`` is the largest message in bytes, and ``deflated`` says whether
        messages may be compressed.
        """
        self._limit = limit
        self._slack = 0
        """How many bytes a frame may have beyond the limit, because compression
        can make it longer."""
        self._extensions: list[PerMessageDeflate] = []
        if deflated:
            self._slack = limit // _GROWTH_BYTES + _END_BYTES
            # The server never keeps the state of the compression between two
            # messages: it would take much memory for each connection.
            inflate = PerMessageDeflate(
                remote_no_context_takeover=True,
                local_no_context_takeover=True,
                remote_max_window_bits=_WINDOW_BITS,
                local_max_window_bits=_WINDOW_BITS,
            )
            self._extensions.append(inflate)
        self._reader = StreamReader()
        self._fragments: bytearray | None = None
        """The fragments of the current message, or None between messages."""
        self._utf8: codecs.IncrementalDecoder | None = None
        """Checks the text of the current message. It is None for a binary
        message."""
        self.between = True
        self._run = self._parse()
        next(self._run)  # to its first yield

    def close(self) -> None:
        """Drop unfinished data.

        The parser and its generator reference each other, so otherwise only a
        garbage collection would free them.
        """
        self._run.close()

    @property
    def idle(self) -> bool:
        """Whether no frame and no fragmented message is unfinished."""
        return self.between and self._fragments is None

    @property
    def held_bytes(self) -> int:
        """The number of bytes of unfinished data."""
        return len(self._reader.buffer) + self._size()

    def _size(self) -> int:
        """Return the bytes of the fragments of the current message."""
        if self._fragments is None:
            return 0
        return len(self._fragments)

    def feed(self, data: bytes) -> Iterator[FrameMessage]:
        """Parse bytes, and yield the messages that they complete.

        Raises :class:`Violation`. After that the parser must not be used.
        """
        self._reader.feed_data(data)
        while True:
            try:
                message = self._run.send(None)
            except PayloadTooBig as exc:
                raise Violation(CloseCode.TOO_BIG, "message too big") from exc
            except ProtocolError as exc:
                raise Violation(CloseCode.PROTOCOL_ERROR, str(exc)) from exc
            if message is None:
                return
            yield message

    def _parse(self) -> Generator[FrameMessage | None, None, None]:
        """Yield each message that is complete, and None when more bytes are
        needed.

        :meth:`feed` resumes it with new bytes. It never ends by itself.
        """
        reader = self._reader
        yield None
        while True:
            while not reader.buffer:
                self.between = True
                yield None
            self.between = False
            # Control frames have a limit of their own. _add_frame() checks the
            # exact size of messages.
            most_bytes = max(self._limit - self._size() + self._slack, SMALL_BYTES)
            steps = Frame.parse(
                reader.read_exact,
                mask=True,
                max_size=most_bytes,
                extensions=self._extensions,
            )
            # The library parses a frame as a generator, too, which stops for
            # more bytes.
            frame = None
            while frame is None:
                try:
                    next(steps)
                except StopIteration as end:
                    frame = end.value
                else:
                    yield None
            message = self._add_frame(frame)
            if message is not None:
                self.between = not reader.buffer
                yield message

    def _add_frame(self, frame: Frame) -> FrameMessage | None:
        """Add a frame to the current message.

        Returns the message if it is complete now, else None. A control frame is
        returned as it is. Raises :class:`Violation`.
        """
        opcode = int(frame.opcode)
        data = bytes(frame.data)
        if opcode >= Opcode.CLOSE:
            return FrameMessage(opcode, data)
        if opcode == Opcode.CONT:
            if self._fragments is None:
                raise Violation(
                    CloseCode.PROTOCOL_ERROR, "unexpected continuation frame"
                )
        elif self._fragments is not None:
            raise Violation(CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
        else:
            # Only the first frame of a message says what it is.
            if opcode == Opcode.TEXT:
                self._utf8 = codecs.getincrementaldecoder("utf-8")()
            else:
                self._utf8 = None

        if self._size() + len(data) > self._limit:
            raise Violation(CloseCode.TOO_BIG, "message too big")
        if self._utf8 is not None:
            try:
                self._utf8.decode(data, frame.fin)
            except UnicodeDecodeError as exc:
                raise Violation(CloseCode.BAD_PAYLOAD, "invalid UTF-8") from exc

        if self._fragments is None:
            if frame.fin:
                return FrameMessage(opcode, data)
            self._fragments = bytearray()
        # The fragments are not a list, because very many empty fragments in a
        # list would take memory.
        self._fragments += data
        if not frame.fin:
            return None

        fragments = bytes(self._fragments)
        self._fragments = None
        if self._utf8 is None:
            return FrameMessage(Opcode.BINARY, fragments)
        return FrameMessage(Opcode.TEXT, fragments)
