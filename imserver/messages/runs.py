"""Stored messages as frames, encoded once for all connections with the same encoding."""

from __future__ import annotations

from collections.abc import Sequence

from imserver.hub.fanout import FrameSource, frame_for, framed, named
from imserver.messages.model import Message
from imserver.transport.connection import Encoding


class MessageRun:
    """Messages that are delivered together. Each is encoded once."""

    __slots__ = ("_each", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._each: dict[Encoding, list[FrameSource | None]] = {}
        """Payloads if the dialect puts several into one frame, else frames. None: not encoded yet."""

    def pick(self, encoding: Encoding, indexes: Sequence[int]) -> FrameSource:
        """The messages at these places, as one frame if the dialect supports it."""
        batches = encoding.dialect.batches
        each = self._each.get(encoding)
        if each is None:
            each = self._each[encoding] = [None] * len(self.messages)
        some: list[FrameSource] = []
        for index in indexes:
            source = each[index]
            if source is None:
                source = each[index] = self._encode(encoding, self.messages[index], batches)
            some.append(source)
        if batches or all(type(one) is bytes for one in some):
            joined = b"".join(some)  # type: ignore[arg-type]
            return encoding.frame(joined) if batches and joined else joined
        return lambda connection: b"".join([frame_for(one, connection) for one in some])

    def _encode(self, encoding: Encoding, message: Message, batches: bool) -> FrameSource:
        if batches:
            return encoding.dialect.encode_message(message) or b""  # type: ignore[return-value]  # bytes
        if encoding.dialect.personal:
            return _for_each(encoding, message)
        return framed(encoding, encoding.dialect.encode_message(message))


def _for_each(encoding: Encoding, message: Message) -> FrameSource:
    """Encode a message for a dialect whose frames contain the receiver.

    Other connections of the sender do not receive it, except in rooms.
    """
    halves = encoding.dialect.encode_message_for(message)
    if halves is None:
        return b""
    named_frame, sender = named(encoding, message, *halves), message.sender
    if message.room:
        return named_frame
    return lambda connection: b"" if connection.user == sender else named_frame(connection)
