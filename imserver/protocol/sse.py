"""The codec of event streams: events as ``text/event-stream`` (the HTML standard, section 9.2).

A push or a notice is one event without a name, which a page's ``onmessage`` gets, its data one line of JSON
(:mod:`imserver.protocol.event_json`). What is stored comes alike, and with an ``id``: a client that comes
back says the last one, and is told what it missed. What the stream says of itself are events named ``ready``
and ``end``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from imserver import errors
from imserver.model import Event, Message
from imserver.protocol.cmd import entry_view
from imserver.protocol.dialect import Dialect
from imserver.protocol.event_json import to_json

NAME: Final = "sse"
COMMENT: Final = b":\n\n"
"""Says nothing, and keeps the connection from being idle."""

_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode


class SseDialect(Dialect):
    """Codec of the event streams of one app, whose name each event carries."""

    name = NAME
    pinged = True

    def __init__(self, app: str) -> None:
        self.app = app

    def encode_event(self, event: Event) -> bytes | None:
        """The event as it stands in the stream."""
        return b"data: %b\n\n" % _on_one_line(to_json(self.app, event))

    def encode_message(self, message: Message) -> bytes:
        """Something that is stored, as it stands in the stream: its id is what a client comes back with."""
        entry = _encode(entry_view(message))
        line = b'{"event":"message","app":%b,%b' % (_encode(self.app), entry[1:])
        return b"id: %d\ndata: %b\n\n" % (message.id, _on_one_line(line))


def _on_one_line(line: bytes) -> bytes:
    if b"\n" in line or b"\r" in line:
        # A payload as it was given, laid out for people: a line's end would end the event.
        return line.translate(_BLANKS)
    return line


def ready(about: dict[str, Any], retry_milliseconds: int, cursor: int | None = None) -> bytes:
    """The first event: from now on the client is reachable. ``about`` is its data.

    ``cursor``: what is stored behind this id is told; None: nothing of what is stored.
    """
    position = b"" if cursor is None else b"id: %d\n" % cursor
    return b"retry: %d\n%bevent: ready\ndata: %b\n\n" % (retry_milliseconds, position, _encode(about))


def end(code: int, reason: str) -> bytes:
    """The last event: why the stream ends, by the close code of a WebSocket, and whether to come back."""
    row = errors.CLOSE.get(code)
    data = {"code": code, "reason": reason, "reconnect": row is None or row.reconnect}
    return b"event: end\ndata: %b\n\n" % _encode(data)
