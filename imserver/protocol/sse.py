"""The codec of event streams: events as ``text/event-stream`` (the HTML standard, section 9.2).

A push or a notice is one event without a name, which a page's ``onmessage`` gets, its data one line of JSON
(:mod:`imserver.protocol.event_json`). What the stream says of itself are events named ``ready`` and ``end``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from imserver import errors
from imserver.model import BadFrame, Event, Reply, Request
from imserver.protocol.event_json import to_json

NAME: Final = "sse"
COMMENT: Final = b":\n\n"
"""Says nothing, and keeps the connection from being idle."""

_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode


class SseDialect:
    """The streams of one app, whose name each event carries; see
    :class:`imserver.protocol.dialect.Dialect`."""

    name = NAME
    path = ""
    text = True
    any_origin = False
    message_bytes = 0
    pinged = True
    personal = False

    def __init__(self, app: str) -> None:
        self.app = app

    def decode(self, payload: bytes) -> Request:
        """Nothing is asked on a stream."""
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Nothing is answered."""

    def encode_event(self, event: Event) -> bytes | None:
        """The event as it stands in the stream."""
        line = to_json(self.app, event)
        if b"\n" in line or b"\r" in line:
            # A payload as it was given, laid out for people: a line's end would end the event.
            line = line.translate(_BLANKS)
        return b"data: %b\n\n" % line

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """Never asked: no event names its receiver."""


def ready(about: dict[str, Any], retry_milliseconds: int) -> bytes:
    """The first event: from now on the client is reachable. ``about`` is its data."""
    return b"retry: %d\nevent: ready\ndata: %b\n\n" % (retry_milliseconds, _encode(about))


def end(code: int, reason: str) -> bytes:
    """The last event: why the stream ends, by the close code of a WebSocket, and whether to come back."""
    row = errors.CLOSE.get(code)
    data = {"code": code, "reason": reason, "reconnect": row is None or row.reconnect}
    return b"event: end\ndata: %b\n\n" % _encode(data)
