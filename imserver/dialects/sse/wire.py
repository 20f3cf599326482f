"""The codec of event streams: events as ``text/event-stream`` (the HTML standard, section 9.2).

A push or a notice is one event without a name, for a page's ``onmessage``. Its data is one line of JSON
(:func:`to_json`). A stored message has the same form and an ``id``: a client that
reconnects sends the last id, and receives what it missed. The stream's own events have the names ``ready``
and ``end``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from imserver import errors
from imserver.model import Event, Signal
from imserver.protocol.dialect import Dialect
from imserver.protocol.publications import on_one_line, stream_view

if TYPE_CHECKING:
    from imserver.plugin.messages import Message

NAME: Final = "sse"
COMMENT: Final = b":\n\n"
"""A comment, which prevents that the connection is idle."""

_encode = msgspec.json.Encoder().encode


class SseDialect(Dialect):
    """Codec of the event streams of one app, whose name each event carries."""

    name = NAME
    logs_in = False
    pinged = True
    ping = COMMENT

    def __init__(self, app: str) -> None:
        self.app = app

    def encode_event(self, event: Event) -> bytes | None:
        """Encode an event for the stream."""
        return b"data: %b\n\n" % on_one_line(to_json(self.app, event))

    def encode_message(self, message: Message) -> bytes:
        """Encode a stored entry for the stream. A client that reconnects sends its id."""
        view = message.view()
        own = b""
        if view.client_msg_id:  # named as in /api/v1
            own, view.client_msg_id = b'"client_msg_id":%b,' % _encode(view.client_msg_id), ""
        line = b'{"event":"message","app":%b,%b%b' % (_encode(self.app), own, _encode(view)[1:])
        return b"id: %d\ndata: %b\n\n" % (message.id, on_one_line(line))

    def encode_close(self, code: int, reason: str) -> bytes:
        """Encode the last event: the reason as a WebSocket close code, and whether to reconnect."""
        row = errors.CLOSE.get(code)
        data = {"code": code, "reason": reason, "reconnect": row is None or row.reconnect}
        return b"event: end\ndata: %b\n\n" % _encode(data)


def ready(about: dict[str, Any], retry_milliseconds: int, cursor: int | None = None) -> bytes:
    """Encode the first event: the client can be reached now. ``about`` is its data.

    ``cursor``: stored entries after this id are delivered; None: no stored entries.
    """
    position = b"" if cursor is None else b"id: %d\n" % cursor
    return b"retry: %d\n%bevent: ready\ndata: %b\n\n" % (retry_milliseconds, position, _encode(about))


def to_json(app: str, event: Event) -> bytes:
    """Encode an event as one JSON object on one line. Its name is in ``event``.

    A push has ``id``, ``sender``, ``type``, and ``text`` or ``data``. An enter or exit notice has ``user``.
    Signals and other notices have their payload in ``data``. Empty ``code``, ``note`` and ``time`` are left
    out.
    """
    if event.kind == "msg":
        what = b'"id":%b,"sender":%b,"type":%b,%b' % (
            _encode(event.id),
            _encode(event.sender),
            _encode(event.type),
            b'"data":%b' % event.data if event.data else b'"text":%b' % _encode(event.text),
        )
    elif isinstance(event, Signal):
        what = b'"data":%b' % event.as_json()
    elif event.channel is not None and event.channel.stream is not None:
        what = b'"data":%b' % _encode(stream_view(event, event.channel.stream, event.channel.name))
    elif event.data:
        what = b'"data":%b' % event.data
    else:
        what = b'"user":%b' % _encode(event.sender)
    more = b',"code":%d' % event.code if event.code else b""
    if event.note:
        more += b',"note":%b' % _encode(event.note)
    if event.time:
        more += b',"time":%d' % event.time
    return b'{"event":%b,"app":%b,%b%b}' % (_encode(event.kind), _encode(app), what, more)
