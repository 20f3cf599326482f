"""An event as JSON, for event streams, webhooks and our own clients (docs/guides/event-streams.md)."""

from __future__ import annotations

import msgspec

from imserver.model import Event

_encode = msgspec.json.Encoder().encode


def to_json(app: str, event: Event) -> bytes:
    """The event as one JSON object on one line, its name in ``event``.

    A push has ``id``, ``sender``, ``type``, and ``text`` or ``data``; whoever came or went is ``user``; a
    notice of another kind has its payload in ``data``. ``code``, ``note`` and ``time`` are left out where
    there is none.
    """
    if event.kind == "msg":
        what = b'"id":%b,"sender":%b,"type":%b,%b' % (
            _encode(event.id),
            _encode(event.sender),
            _encode(event.type),
            b'"data":%b' % event.data if event.data else b'"text":%b' % _encode(event.text),
        )
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
