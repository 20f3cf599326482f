"""The ``cmd`` dialect: JSON text frames ``{"seq","cmd","data"}`` on ``/acc`` (docs/reference/protocol.md).

Decoding has two paths. A frame with exactly the documented keys is decoded by msgspec's typed decoder (0.2
µs). All other frames (keys in another letter case, unknown keys, lone surrogates) are parsed by the standard
library, which is ten times slower and accepts the same deviations as the original.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from time import time_ns
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from imserver import errors
from imserver.config.settings import MAX_USER_BYTES
from imserver.message_view import entry_view, raw_or_none, stream_view
from imserver.model import (
    MAX_BUTTON_BYTES,
    NO_FILTER,
    Ack,
    AskHistory,
    AskMarks,
    AskPins,
    AskPresence,
    AskReceipts,
    BadFrame,
    ChannelPart,
    Command,
    Conversations,
    CountReceipts,
    Event,
    Heartbeat,
    Hide,
    History,
    Limit,
    Login,
    Message,
    Pin,
    Ping,
    Publish,
    React,
    Read,
    Received,
    Reply,
    Request,
    Resume,
    Search,
    SearchFilter,
    Send,
    Signal,
    Subscribe,
    Sync,
    Typing,
    Unsubscribe,
    buttons_objection,
    mentions_objection,
)
from imserver.protocol.dialect import Dialect, Reader, Readers
from imserver.protocol.forgiving import (
    BACKSLASH,
    Fields,
    Refused,
    has_nul,
    well_formed,
)

_MAX_NUMBER: Final = Limit.NUMBER
_encode = msgspec.json.Encoder().encode


def _body(fields: Fields) -> tuple[str, bytes]:
    """Type and bytes of the content: ``text``, or any JSON as ``data``."""
    if "data" not in fields.values:
        return fields.short_text("type", Limit.TYPE_BYTES) or "text", fields.text("text").encode()
    kind = fields.short_text("type", Limit.TYPE_BYTES) or "custom"
    if "text" in fields.values or kind == "text":
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return kind, _json(fields.values["data"])


def _content(fields: Fields) -> tuple[str, bytes]:
    """Type and bytes of a message, which is not empty."""
    kind, body = _body(fields)
    if not body or fields.values.get("data") == "":
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return kind, body


def _json(value: Any) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON's escapes can express
        return well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def _meta(fields: Fields) -> bytes:
    meta: dict[str, Any] = {}
    if fields.values.get("mentions"):
        meta["mentions"] = _mentions(fields.values["mentions"])
    if fields.values.get("buttons"):
        meta["buttons"] = _buttons(fields.values["buttons"])
    return _encode(meta) if meta else b""


def _mentions(mentions: Any) -> list[str]:
    if (
        not isinstance(mentions, list)
        or len(mentions) > Limit.MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    users = [well_formed(user) for user in mentions]
    if any(len(user.encode()) > MAX_USER_BYTES for user in users) or mentions_objection(users):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return users


def _buttons(rows: Any) -> list[list[dict[str, str]]]:
    """The rows of buttons of a message. Raises :class:`Refused` 1001."""
    try:
        found = msgspec.convert(rows, list[list[_Button]])
    except (ValueError, RecursionError):
        raise Refused(errors.ReplyCode.BAD_PARAMETER) from None
    buttons = [
        [{"text": well_formed(one.text), "value": well_formed(one.value)} for one in row] for row in found
    ]
    if buttons_objection(buttons):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return buttons


class _Button(msgspec.Struct, forbid_unknown_fields=True):
    """A button under a message."""

    text: str
    value: str


def _verbatim(data: bytes) -> Fields:
    """The fields with folded keys; the value of ``data`` is unchanged."""
    fields = Fields.of(data)
    if "data" in fields.values:
        whole: dict[str, Any] = json.loads(data)
        fields.values["data"] = next(
            value for key, value in reversed(whole.items()) if key.casefold() == "data" and value is not None
        )
    return fields


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_SHORT_ID: Final = Limit.CLIENT_MSG_ID_BYTES // 4
"""Characters that never have more bytes than a ``client_msg_id`` may have."""
_MAX_ID: Final = Limit.ID
_decode_text = msgspec.json.Decoder(_Text).decode


def _send_text(data: bytes) -> Send | None:
    """Decode a plain message. None: the general path must decode it."""
    try:
        request = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to, client_id = request.to, request.client_id
    plain = (
        bool(request.text)
        and bool(to) != bool(request.conversation)
        and len(to) <= MAX_USER_BYTES // 4
        and len(client_id) <= _SHORT_ID
        and 0 <= request.conversation <= _MAX_ID
        and "\0" not in to
        and "\0" not in client_id
    )
    return Send(to, request.conversation, body=request.text.encode(), id=client_id) if plain else None


def read_send(data: bytes) -> Send:
    """Read a message. Raises :class:`Refused`."""
    return _send_text(data) or _send_anything(data)


def _send_anything(data: bytes) -> Send:
    fields = _verbatim(data)
    to, conversation = fields.receiver()
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    if "forward" in fields.values:
        if not _CONTENT_FIELDS.isdisjoint(fields.values):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return Send(to, conversation, "forward", id=client_id, about=fields.needed_id("forward"))
    kind, body = _content(fields)
    about = fields.id("replyto")
    return Send(to, conversation, "message", kind, body, client_id, about, _meta(fields))


_CONTENT_FIELDS: Final = frozenset({"text", "data", "type", "replyto", "mentions", "buttons"})
"""Fields that a forwarded message cannot have: the server copies it."""


def _react(data: bytes) -> React:
    fields = Fields.of(data)
    emoji = fields.short_text("emoji", Limit.EMOJI_BYTES)
    return React(fields.needed_id("id"), emoji, fields.flag("remove"))


def _pin(data: bytes) -> Pin:
    fields = Fields.of(data)
    return Pin(fields.needed_id("id"), fields.flag("remove"))


def _press(data: bytes) -> Send:
    fields = Fields.of(data)
    value = fields.short_text("value", MAX_BUTTON_BYTES).encode()
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    return Send(kind="press", type="", body=value, id=client_id, about=fields.needed_id("id"))


def _recall(data: bytes) -> Send:
    fields = Fields.of(data)
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    return Send(kind="recall", id=client_id, about=fields.needed_id("id"))


def _edit(data: bytes) -> Send:
    fields = _verbatim(data)
    kind, body = _content(fields)
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    about = fields.needed_id("id")
    return Send(kind="edit", type=kind, body=body, id=client_id, about=about, meta=_meta(fields))


def _sync(data: bytes) -> Sync:
    fields = Fields.of(data)
    version = fields.id("version") if "version" in fields.values else -1
    return Sync(fields.id("cursor"), fields.limit(), version)


def _types(fields: Fields) -> tuple[str, ...]:
    """``types`` of content. Raises :class:`Refused` 1001."""
    types = fields.values.get("types", [])
    if not isinstance(types, list) or len(types) > Limit.TYPES:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    names = tuple([Fields({"type": each}).short_text("type", Limit.TYPE_BYTES) for each in types])
    if not all(names):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return names


def _history(fields: Fields) -> History:
    names = _types(fields)
    after = fields.id("after") if "after" in fields.values else -1
    if names and after >= 0:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    conversation, before = fields.needed_id("conversation"), fields.id("before")
    return History(conversation, before, fields.limit(), after, names)


def _conversations(fields: Fields) -> Conversations:
    return Conversations(fields.id("before"), fields.limit())


def _read(fields: Fields) -> Read:
    return Read(fields.needed_id("conversation"), fields.needed_id("id"))


def _ack(fields: Fields) -> Ack:
    return Ack(fields.needed_id("id"))


def _ids(fields: Fields, most: int) -> tuple[int, ...]:
    """``ids``, at least one. Raises :class:`Refused` 1001."""
    ids = fields.values.get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= most:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return tuple([Fields({"id": each}).needed_id("id") for each in ids])


def _hide(fields: Fields) -> Hide:
    return Hide(_ids(fields, Limit.HIDDEN))


def _received(fields: Fields) -> Received:
    return Received(fields.needed_id("conversation"), fields.needed_id("id"))


def _receipts(fields: Fields) -> AskReceipts:
    after = fields.short_text("after", MAX_USER_BYTES)
    message = fields.id("message")
    return AskReceipts(fields.needed_id("conversation"), after, fields.limit(), message)


def _count_receipts(data: bytes) -> CountReceipts:
    fields = Fields.of(data)
    return CountReceipts(fields.needed_id("conversation"), _ids(fields, Limit.PAGE))


def _search(fields: Fields) -> Search:
    text = fields.short_text("text", Limit.WORDS_BYTES)
    filter = SearchFilter(
        fields.short_text("from", MAX_USER_BYTES),
        _types(fields),
        fields.flag("link"),
        fields.id("since"),
        fields.id("until"),
    )
    if not text.strip() and (text or filter == NO_FILTER):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return Search(text, fields.id("conversation"), fields.id("before"), fields.limit(), filter)


FIELDS_OF_COMMANDS: Final[Mapping[str, Callable[[Fields], Command]]] = {
    "history": _history,
    "conversations": _conversations,
    "read": _read,
    "hide": _hide,
    "ack": _ack,
    "received": _received,
    "receipts": _receipts,
    "marks": lambda fields: AskMarks(fields.id("version")),
    "typing": lambda fields: Typing(*fields.receiver()),
    "search": _search,
}
"""The commands on stored messages that other codecs have, too: name → the function that makes one from its
fields, which raises :class:`Refused`."""


def _from_json(make: Callable[[Fields], Command]) -> Reader:
    return lambda data: make(Fields.of(data))


MESSAGE_COMMANDS: Final[Readers] = {
    "send": read_send,
    "recall": _recall,
    "edit": _edit,
    "press": _press,
    "sync": _sync,
    "react": _react,
    "pin": _pin,
    "pins": lambda data: AskPins(Fields.of(data).needed_id("conversation")),
    "receiptCounts": _count_receipts,
    **{name: _from_json(make) for name, make in FIELDS_OF_COMMANDS.items()},
}
"""The commands on stored messages."""


# --- channels -----------------------------------------------------------------------------------------------

MAX_CHANNEL_BYTES: Final = 255
MAX_EPOCH_BYTES: Final = 64
MAX_CHANNEL_TOKEN_BYTES: Final = 8192
_MAX_CURSOR_BYTES: Final = 128


def _channel(fields: Fields) -> str:
    channel = fields.short_text("channel", MAX_CHANNEL_BYTES)
    if not channel:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return channel


def _position(fields: Fields) -> tuple[str, int] | None:
    if "epoch" not in fields.values:
        return None
    return fields.short_text("epoch", MAX_EPOCH_BYTES), fields.id("offset")


def _subscribe(data: bytes) -> Subscribe:
    fields = Fields.of(data)
    since = _position(fields)
    epoch, offset = since or ("", 0)
    token = fields.short_text("token", MAX_CHANNEL_TOKEN_BYTES)
    return Subscribe(_channel(fields), token, since is not None, epoch, offset)


def _publish(data: bytes) -> Publish:
    fields = _verbatim(data)
    channel = _channel(fields)
    if "text" not in fields.values and "data" not in fields.values:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    kind, body = _body(fields)
    if "data" in fields.values:
        return Publish(channel, body, type=kind)
    return Publish(channel, text=body.decode(), type=kind)


def _presence(data: bytes) -> AskPresence:
    fields = Fields.of(data)
    return AskPresence(_channel(fields), fields.limit(), fields.short_text("after", _MAX_CURSOR_BYTES))


def _channel_history(data: bytes) -> AskHistory:
    fields = Fields.of(data)
    return AskHistory(_channel(fields), fields.limit(), _position(fields), fields.flag("reverse"))


CHANNEL_COMMANDS: Final[Readers] = {
    "subscribe": _subscribe,
    "unsubscribe": lambda data: Unsubscribe(_channel(Fields.of(data))),
    "publish": _publish,
    "channelPresence": _presence,
    "channelHistory": _channel_history,
}


class _ChannelNotice(Struct, omit_defaults=True):
    channel: str
    info: Raw | None = None
    code: int = 0


MAX_DEVICE_BYTES = 32
"""Longest device name, in bytes of UTF-8; a longer one is ignored."""
BAD_FRAME_REPLY = "数据不合法".encode()
"""Bare text frame that answers an unreadable request."""

_NULL = Raw(b"null")


class _Frame(Struct, forbid_unknown_fields=True):
    seq: str | None = None
    cmd: str | None = None
    data: Raw = _NULL


_decode_frame = msgspec.json.Decoder(_Frame).decode


class _Login(Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``login``, in the documented spelling."""

    user: str = msgspec.field(name="userID")
    app: int = msgspec.field(name="appID")
    token: str = msgspec.field(default="", name="serviceToken")


_decode_login = msgspec.json.Decoder(_Login).decode


def _login(data: bytes) -> Login:
    try:
        usual = _decode_login(data)
    except (ValueError, RecursionError):
        return _login_with_anything(data)
    user = usual.user
    if user.isascii() and 0 < len(user) <= MAX_USER_BYTES and 0 <= usual.app <= _MAX_NUMBER:
        return Login(str(usual.app), user, usual.token)
    return _login_with_anything(data)


def _login_with_anything(data: bytes) -> Login:
    fields = Fields.of(data)
    user, token = fields.text("userid"), fields.text("servicetoken")
    app = _app(fields)
    if not 0 < len(user.encode()) <= MAX_USER_BYTES:
        raise Refused(errors.ReplyCode.BAD_USER)
    device = fields.values.get("device", "")
    if not isinstance(device, str) or len(well_formed(device).encode()) > MAX_DEVICE_BYTES:
        device = ""
    device = well_formed(device) if device else ""
    if "cursor" in fields.values:
        return Resume(app, user, token, device, fields.id("cursor"), fields.values.get("acks") is True)
    return Login(app, user, token, device)


def _app(fields: Fields) -> str:
    """The app: its number, or its name if the name is not a number. The names of other dialects' apps
    (``system:…``) cannot be used here; ``""`` is refused like any unknown app.
    """
    number, name = fields.number("appid"), fields.values.get("app")
    if not isinstance(name, str) or not name:
        return str(number)
    return name if ":" not in name else ""


def _heartbeat(data: bytes) -> Heartbeat:
    if data != b"{}" and data != b"null":
        Fields.of(data).text("userid")
    return _HEARTBEAT


def _ping(_data: bytes) -> Ping:
    return _PING


_HEARTBEAT = Heartbeat()
_PING = Ping()

COMMANDS: Final[Readers] = {
    "login": _login,
    "heartbeat": _heartbeat,
    "ping": _ping,
    **MESSAGE_COMMANDS,
    **CHANNEL_COMMANDS,
}
"""The commands of the core. Features bring more."""
PUSHED = frozenset({"enter", "exit", "msg"})
"""Kinds of events that the dialect can express."""

# The constant parts of frames, encoded once. A reply or push joins a few parts.
_NAMES = {name: _encode(name) for name in COMMANDS}
_PUSHES = {
    kind: b',"cmd":%b,"response":{"code":200,"codeMsg":"Ok","data":{"target":"","type":' % _encode(kind)
    for kind in PUSHED
}
_TEXTS = {kind: head + b'"text","msg":' for kind, head in _PUSHES.items()}


def _response(code: int) -> bytes:
    return b',"response":{"code":%d,"codeMsg":%b,"data":' % (code, _encode(errors.reply_text(code)))


_REPLIES = {code: _response(code) for code in errors.REPLY_TEXT}


class CmdDialect(Dialect):
    """Codec of the ``cmd`` dialect."""

    name = "cmd"
    path = "/acc"
    readers: Readers = COMMANDS

    def __init__(self) -> None:
        self._digits = count(time_ns() // 1_000_000)

    def decode(self, payload: bytes) -> Request:
        """Read one request; see the contract."""
        if not payload:
            raise BadFrame(BAD_FRAME_REPLY)
        try:
            frame = _decode_frame(payload)
            seq, name, data = frame.seq or "", frame.cmd or "", bytes(frame.data)
        except (ValueError, RecursionError):
            seq, name, data = self._decode_slowly(payload)
        row = COMMANDS.get(name) or self.readers.get(name)  # the other way round takes a ping 0.04 µs more
        if row is None:
            return Request(seq, name, None, errors.ReplyCode.NO_ROUTE)
        try:
            if row is not _ping and BACKSLASH in data and has_nul(data):
                return Request(seq, name, None, errors.ReplyCode.BAD_PARAMETER)
            return Request(seq, name, row(data))
        except Refused as refused:
            return Request(seq, name, None, refused.code)

    def _decode_slowly(self, payload: bytes) -> tuple[str, str, bytes]:
        try:
            return Fields.frame(payload, "cmd")
        except (ValueError, RecursionError):
            raise BadFrame(BAD_FRAME_REPLY) from None

    def encode_reply(self, request: Request, reply: Reply) -> bytes:
        """The answer to ``request``: its ``seq`` and ``cmd``, the code with its text, and data."""
        seq, name, data = request.seq, request.name, reply.data
        return b"".join(
            (
                b'{"seq":',
                _encode(seq) if seq else b'""',
                b',"cmd":',
                _NAMES.get(name) or _encode(name),
                _REPLIES.get(reply.code) or _response(reply.code),
                b"null}}" if data is None else _encode(data) + b"}}",
            )
        )

    def encode_event(self, event: Event) -> bytes | None:
        """Encode a pushed frame: ``enter``, ``exit`` or ``msg``, or a signal, which has the name of its
        kind."""
        kind, name, data = event.kind, event.type, event.data
        before = _TEXTS.get(kind)
        if before is None:
            return self._encode_signal(event) if isinstance(event, Signal) else None
        if name != "text":
            before = b'%b%b,"msg":' % (_PUSHES[kind], _encode(name))
        return b"".join(
            (
                b'{"seq":',
                _encode(event.id if event.id or kind == "msg" else str(next(self._digits))),
                before,
                _encode(data.decode() if data else event.text),
                b',"from":',
                _encode(event.sender),
                b"}}}",
            )
        )

    def _encode_signal(self, signal: Signal) -> bytes:
        frame = b'{"seq":"%d","cmd":%b,"response":{"code":200,"codeMsg":"Ok","data":%b}}'
        return frame % (next(self._digits), _encode(signal.kind), signal.as_json())

    def encode_message(self, message: Message) -> bytes:
        """Encode a pushed frame with a stored entry."""
        return b'{"seq":"%d","cmd":"message","response":{"code":200,"codeMsg":"Ok","data":%b}}' % (
            message.id,
            _encode(entry_view(message)),
        )


class CmdPublicationView(Struct, omit_defaults=True):
    """A publication as clients see it. ``info`` is about the client that published it.

    ``stream``: it is the end of this streamed message, which may be ``incomplete``.
    """

    channel: str = ""
    offset: int = 0
    epoch: str = ""
    id: str = ""
    sender: str = msgspec.field(default="", name="from")
    type: str = ""
    text: str | None = None
    data: Raw | None = None
    info: Raw | None = None
    tags: Raw | None = None
    stream: str = ""
    incomplete: bool = False


def publication_view(event: Event) -> CmdPublicationView:
    """A publication for clients: JSON as ``data``, else ``text``."""
    part = event.channel or ChannelPart("")
    view = CmdPublicationView(part.name, part.offset, part.epoch, event.id, event.sender, event.type)
    if part.info:
        view.info = Raw(part.info)
    if part.tags:
        view.tags = Raw(part.tags)
    if part.stream is not None:
        view.stream, view.incomplete = part.stream.id, part.stream.incomplete
    if event.data:
        view.data = Raw(event.data)
    else:
        view.text = event.text
    return view


class ChannelCmdDialect(CmdDialect):
    """Codec of the ``cmd`` dialect for connections that have subscribed to a channel themselves.

    Publications are frames of their own, with the name of their channel and their position.
    """

    def encode_event(self, event: Event) -> bytes | None:
        """Encode ``publication``, ``stream``, ``join``, ``leave`` or ``unsubscribed``, and all events of
        other codecs."""
        part, kind = event.channel, event.kind
        if part is None or isinstance(event, Signal):
            return super().encode_event(event)
        data: Struct
        if kind == "msg":
            kind, data = "publication", publication_view(event)
        elif part.stream is not None:
            data = stream_view(event, part.stream, part.name)
        elif kind in ("join", "leave", "unsubscribed"):
            data = _ChannelNotice(part.name, raw_or_none(part.info), event.code)
        else:
            return super().encode_event(event)
        return b'{"seq":"%d","cmd":%b,"response":{"code":200,"codeMsg":"Ok","data":%b}}' % (
            next(self._digits),
            _encode(kind),
            _encode(data),
        )
