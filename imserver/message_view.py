"""Stored messages, signals and publications as clients and back ends see them: JSON, in every dialect but
those of other servers' clients, in webhooks and in the HTTP API."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from imserver.model import EntryKind, Event, Message, Reaction, StreamPart

_LINE_END, _RETURN = b"\n\r"
_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")

_encode = msgspec.json.Encoder().encode

NESTED: Final = 400
"""JSON that is nested less deeply is shown as ``data``. Deeper JSON may be shown as text: Python clients read
at most 1,000 levels, those of the frame and of their own calls among them.
"""


class EntryView(msgspec.Struct, omit_defaults=True):
    """An entry as clients see it."""

    id: int
    conversation: int
    seq: int
    kind: EntryKind
    sender: str = msgspec.field(name="from")
    to: str = ""
    type: str = ""
    text: str | None = None
    data: Raw | None = None
    base64: bytes | None = None
    client_msg_id: str = msgspec.field(default="", name="clientMsgID")
    about: int = 0
    meta: Raw | None = None
    time: int = 0
    reactions: tuple[Reaction, ...] = ()

    def message(self) -> Message:
        """The entry from which it was made, for codecs that are not JSON."""
        body = self.base64 or b""
        if self.text is not None:
            body = self.text.encode()
        elif self.data is not None:
            body = bytes(self.data)
        return Message(
            self.id,
            self.conversation,
            self.seq,
            self.sender,
            (self.sender, self.to) if self.to else (),
            self.kind,
            self.type or "text",
            body,
            self.client_msg_id,
            self.time,
            self.about,
            bytes(self.meta) if isinstance(self.meta, Raw) else b"",
        )


def entry_view(message: Message) -> EntryView:
    """An entry for clients: a text body as ``text``, a JSON body as ``data``, others as ``base64``."""
    sender, members = message.sender, message.members
    # As Message.to, without two calls for each encoding of each message.
    to = "" if not members else members[0] if members[1] == sender else members[1]
    entry = EntryView(
        message.id,
        message.conversation,
        message.seq,
        message.kind,
        sender,
        to,
        client_msg_id=message.client_msg_id,
        about=message.about,
        time=message.time_ms,
    )
    if message.meta:
        entry.meta = Raw(message.meta)
    if message.kind in ("message", "edit"):
        entry.type = message.type
        if message.type == "text":
            _show_text(entry, message.body)
        else:
            _show_data(entry, message.body)
        if message.reactions:
            entry.reactions = message.reactions
    elif message.kind in ("reaction", "pin", "press"):
        entry.type = message.type
        if message.body:
            _show_text(entry, message.body)
    return entry


def _show_text(entry: EntryView, body: bytes) -> None:
    try:
        entry.text = body.decode()
    except UnicodeDecodeError:
        entry.base64 = body


def _show_data(entry: EntryView, body: bytes) -> None:
    try:
        if body.count(b"[") + body.count(b"{") > NESTED:
            msgspec.json.decode(b"[" * NESTED + body + b"]" * NESTED)
        else:
            msgspec.json.decode(body)
    except (ValueError, RecursionError):
        _show_text(entry, body)
    else:
        entry.data = Raw(body)


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
