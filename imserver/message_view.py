"""Publications as clients see them: JSON, in every dialect but those of other servers' clients."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from imserver.model import Event, StreamPart

_LINE_END, _RETURN = b"\n\r"
_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode


class StreamView(Struct, omit_defaults=True):
    """An event of a streamed message as clients see it (:class:`imserver.model.StreamPart`).

    ``channel`` is empty where the dialect names it elsewhere. ``sender``, ``type`` and ``tags`` are with the
    whole text only.
    """

    stream: str
    piece: int
    text: str
    whole: bool = False
    done: bool = False
    incomplete: bool = False
    channel: str = ""
    sender: str = msgspec.field(default="", name="from")
    type: str = ""
    tags: Raw | None = None


def stream_view(event: Event, stream: StreamPart, channel: str = "") -> StreamView:
    """An event of a streamed message for clients."""
    view = StreamView(
        stream.id, stream.piece, event.text, stream.whole, stream.done, stream.incomplete, channel
    )
    if stream.whole and event.channel is not None:
        view.sender, view.type, view.tags = event.sender, event.type, raw_or_none(event.channel.tags)
    return view


def payload_of(event: Event) -> bytes:
    """The payload of a publication as one JSON document. A streamed message has its :class:`StreamView`."""
    part = event.channel
    if part is not None and part.stream is not None:
        return _encode(stream_view(event, part.stream))
    return event.data or _encode(event.text)


def on_one_line(line: bytes) -> bytes:
    """The same JSON without line ends, which would end an event or a frame."""
    if _LINE_END in line or _RETURN in line:  # 8 times as fast as b"\n" in line
        return line.translate(_BLANKS)
    return line


def raw_or_none(document: bytes) -> Raw | None:
    """JSON to be put into a frame; None for ``b""``."""
    return Raw(document) if document else None
