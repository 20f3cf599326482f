"""The ``cmd`` dialect: JSON text frames ``{"seq","cmd","data"}`` on ``/acc`` (docs/reference/protocol.md).

Decoding has two ways. A frame with exactly the documented keys takes msgspec's typed decoder (0.2 µs); any
other spelling (keys in another letter case, unknown keys, lone surrogates) takes the standard library's
parser, which is ten times slower and forgiving in the same places as the original.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from imserver import errors
from imserver.model import (
    Ack,
    AskMarks,
    AskReceipts,
    BadFrame,
    Command,
    Conversations,
    Event,
    Heartbeat,
    Hide,
    History,
    Login,
    Message,
    Ping,
    Read,
    Received,
    Reply,
    Request,
    Resume,
    Search,
    Send,
    Signal,
    Sync,
    Typing,
)
from imserver.protocol.dialect import Dialect
from imserver.protocol.forgiving import (
    Refused,
    fields_of,
    has_nul,
    number_in,
    parse_frame,
    text_in,
    well_formed,
)

_encode = msgspec.json.Encoder().encode

MAX_ID: Final = 2**63 - 1
MAX_CLIENT_MSG_ID_BYTES: Final = 64
MAX_TYPE_BYTES: Final = 32
MAX_RECEIVER_BYTES: Final = 255
MAX_PAGE: Final = 200
"""Most entries of a page."""
_PAGE: Final = 50
MAX_MENTIONS: Final = 100
MAX_HIDDEN: Final = 1000
"""Most ids that are hidden at once."""


def id_in(fields: dict[str, Any], key: str) -> int:
    """The id in a field, 0 if it is missing. Raises :class:`Refused` 1001."""
    value = fields.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value


def needed_id(fields: dict[str, Any], key: str) -> int:
    """The id in a field. Raises :class:`Refused` 1001, also if it is missing."""
    value = id_in(fields, key)
    if not value:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value


def short_text(fields: dict[str, Any], key: str, most_bytes: int) -> str:
    """The text in a field, ``""`` if it is missing. Raises :class:`Refused` 1001."""
    text = text_in(fields, key)
    if len(text.encode()) > most_bytes or "\0" in text:  # `text` of a search is no message content
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return text


def limit_in(fields: dict[str, Any]) -> int:
    """How many entries a page may have. Raises :class:`Refused` 1001."""
    return min(id_in(fields, "limit") or _PAGE, MAX_PAGE)


def _body(fields: dict[str, Any]) -> tuple[str, bytes]:
    """Type and bytes of what is to be stored: ``text``, or any JSON as ``data``."""
    if "data" not in fields:
        return short_text(fields, "type", MAX_TYPE_BYTES) or "text", text_in(fields, "text").encode()
    kind = short_text(fields, "type", MAX_TYPE_BYTES) or "custom"
    if "text" in fields or kind == "text":
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return kind, _json(fields["data"])


def _json(value: Any) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:  # half a character, which JSON's escapes can write
        return well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def _meta(fields: dict[str, Any]) -> bytes:
    mentions = fields.get("mentions", [])
    if not mentions:
        return b""
    if (
        not isinstance(mentions, list)
        or len(mentions) > MAX_MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    users = [well_formed(user) for user in mentions]
    if any(len(user.encode()) > MAX_RECEIVER_BYTES for user in users):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return _encode({"mentions": users})


def _verbatim(data: bytes) -> dict[str, Any]:
    """The fields with folded keys; what stands in ``data`` is kept as it was written."""
    fields = fields_of(data)
    if "data" in fields:
        whole: dict[str, Any] = json.loads(data)
        fields["data"] = next(
            value for key, value in reversed(whole.items()) if key.casefold() == "data" and value is not None
        )
    return fields


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_decode_text = msgspec.json.Decoder(_Text).decode


def _send_text(data: bytes) -> Send | None:
    """What a plain message says; None for anything that has to be looked at closer."""
    try:
        said = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to, client_id = said.to, said.client_id
    plain = (
        bool(to) != bool(said.conversation)
        and len(to) <= MAX_RECEIVER_BYTES // 4
        and len(client_id) <= MAX_CLIENT_MSG_ID_BYTES // 4
        and 0 <= said.conversation <= MAX_ID
        and "\0" not in to
        and "\0" not in client_id
    )
    return Send(to, said.conversation, body=said.text.encode(), id=client_id) if plain else None


def _send(data: bytes) -> Send:
    return _send_text(data) or _send_anything(data)


def _send_anything(data: bytes) -> Send:
    fields = _verbatim(data)
    to, conversation = short_text(fields, "to", MAX_RECEIVER_BYTES), id_in(fields, "conversation")
    if bool(to) == bool(conversation):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    kind, body = _body(fields)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    about = id_in(fields, "replyto")
    return Send(to, conversation, "message", kind, body, client_id, about, _meta(fields))


def _recall(data: bytes) -> Send:
    fields = fields_of(data)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    return Send(kind="recall", id=client_id, about=needed_id(fields, "id"))


def _edit(data: bytes) -> Send:
    fields = _verbatim(data)
    kind, body = _body(fields)
    client_id = short_text(fields, "clientmsgid", MAX_CLIENT_MSG_ID_BYTES)
    about = needed_id(fields, "id")
    return Send(kind="edit", type=kind, body=body, id=client_id, about=about, meta=_meta(fields))


def _sync(data: bytes) -> Sync:
    fields = fields_of(data)
    version = id_in(fields, "version") if "version" in fields else -1
    return Sync(id_in(fields, "cursor"), limit_in(fields), version)


def _history(data: bytes) -> History:
    fields = fields_of(data)
    return History(needed_id(fields, "conversation"), id_in(fields, "before"), limit_in(fields))


def _conversations(data: bytes) -> Conversations:
    fields = fields_of(data)
    return Conversations(id_in(fields, "before"), limit_in(fields))


def _read(data: bytes) -> Read:
    fields = fields_of(data)
    return Read(needed_id(fields, "conversation"), needed_id(fields, "id"))


def _ack(data: bytes) -> Ack:
    return Ack(needed_id(fields_of(data), "id"))


def _hide(data: bytes) -> Hide:
    ids = fields_of(data).get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= MAX_HIDDEN:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Hide(tuple([needed_id({"id": each}, "id") for each in ids]))


STORED_COMMANDS: Final[dict[str, Callable[[bytes], Command]]] = {
    "send": _send,
    "recall": _recall,
    "edit": _edit,
    "sync": _sync,
    "history": _history,
    "conversations": _conversations,
    "read": _read,
    "hide": _hide,
    "ack": _ack,
}


class EntryView(msgspec.Struct, omit_defaults=True):
    """An entry as clients see it."""

    id: int
    conversation: int
    seq: int
    kind: str
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


def entry_view(message: Message) -> EntryView:
    """What clients are shown: a body that is text as ``text``, JSON as ``data``, else as ``base64``."""
    entry = EntryView(
        message.id,
        message.conversation,
        message.seq,
        message.kind,
        message.sender,
        message.to,
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
    return entry


def _show_text(entry: EntryView, body: bytes) -> None:
    try:
        entry.text = body.decode()
    except UnicodeDecodeError:
        entry.base64 = body


def _show_data(entry: EntryView, body: bytes) -> None:
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        _show_text(entry, body)
    else:
        entry.data = Raw(body)


MAX_WORDS_BYTES: Final = 256
"""Longest text of a search, in bytes of UTF-8."""


def _received(data: bytes) -> Received:
    fields = fields_of(data)
    return Received(needed_id(fields, "conversation"), needed_id(fields, "id"))


def _receipts(data: bytes) -> AskReceipts:
    fields = fields_of(data)
    after = short_text(fields, "after", MAX_RECEIVER_BYTES)
    return AskReceipts(needed_id(fields, "conversation"), after, limit_in(fields))


def _marks(data: bytes) -> AskMarks:
    return AskMarks(id_in(fields_of(data), "version"))


def _typing(data: bytes) -> Typing:
    fields = fields_of(data)
    to, conversation = short_text(fields, "to", MAX_RECEIVER_BYTES), id_in(fields, "conversation")
    if bool(to) == bool(conversation):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Typing(to, conversation)


def _search(data: bytes) -> Search:
    fields = fields_of(data)
    text = short_text(fields, "text", MAX_WORDS_BYTES)
    if not text.strip():
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Search(text, id_in(fields, "conversation"), id_in(fields, "before"), limit_in(fields))


SIGNAL_COMMANDS: Final[dict[str, Callable[[bytes], Command]]] = {
    "received": _received,
    "receipts": _receipts,
    "marks": _marks,
    "typing": _typing,
    "search": _search,
}


def signal_data(signal: Signal) -> bytes:
    """The ``data`` of a signal's frame, as JSON; empty fields are left out."""
    if signal.kind == "hidden":
        return _encode({"ids": signal.ids})
    data: dict[str, Any] = {"from": signal.sender}
    for key in ("to", "conversation", "read", "received"):
        if value := getattr(signal, key):
            data[key] = value
    return _encode(data)


MAX_USER_BYTES = 19
"""Longest user id, in bytes of UTF-8."""
MAX_DEVICE_BYTES = 32
"""Longest device name, in bytes of UTF-8; a longer one is ignored."""
BAD_FRAME_REPLY = "数据不合法".encode()
"""Bare text frame that answers what is no request."""

_NULL = Raw(b"null")


class _Frame(Struct, forbid_unknown_fields=True):
    seq: str | None = None
    cmd: str | None = None
    data: Raw = _NULL


_decode_frame = msgspec.json.Decoder(_Frame).decode


def _login(data: bytes) -> Login:
    fields = fields_of(data)
    user, token = text_in(fields, "userid"), text_in(fields, "servicetoken")
    app = _app(fields)
    if not 0 < len(user.encode()) <= MAX_USER_BYTES:
        raise Refused(errors.REPLY_BAD_USER)
    device = fields.get("device", "")
    if not isinstance(device, str) or len(well_formed(device).encode()) > MAX_DEVICE_BYTES:
        device = ""
    device = well_formed(device) if device else ""
    if "cursor" in fields:
        return Resume(app, user, token, device, id_in(fields, "cursor"), fields.get("acks") is True)
    return Login(app, user, token, device)


def _app(fields: dict[str, Any]) -> str:
    """The app: its number, or, for one whose name is none, the name. Those of other dialects (``system:…``)
    are no app that this one can name; ``""`` is refused as any unknown app."""
    number, name = number_in(fields, "appid"), fields.get("app")
    if not isinstance(name, str) or not name:
        return str(number)
    return name if ":" not in name else ""


def _heartbeat(data: bytes) -> Heartbeat:
    if data != b"{}" and data != b"null":
        text_in(fields_of(data), "userid")
    return _HEARTBEAT


def _ping(_data: bytes) -> Ping:
    return _PING


_HEARTBEAT = Heartbeat()
_PING = Ping()

COMMANDS: dict[str, Callable[[bytes], Command]] = {
    "login": _login,
    "heartbeat": _heartbeat,
    "ping": _ping,
    **STORED_COMMANDS,
    **SIGNAL_COMMANDS,
}
"""Every command of the dialect: its name on the wire and what reads its ``data``."""
PUSHED = frozenset({"enter", "exit", "msg"})
"""Kinds of events that it has a word for."""

# What stands between the parts that differ, made once: a reply or a push is a few pieces that are joined.
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
        row = COMMANDS.get(name)
        if row is None:
            return Request(seq, name, None, errors.REPLY_NO_ROUTE)
        try:
            if row is not _ping and has_nul(data):
                return Request(seq, name, None, errors.REPLY_BAD_PARAMETER)
            return Request(seq, name, row(data))
        except Refused as refused:
            return Request(seq, name, None, refused.code)

    def _decode_slowly(self, payload: bytes) -> tuple[str, str, bytes]:
        try:
            return parse_frame(payload, "cmd")
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
        """A pushed frame: ``enter``, ``exit`` or ``msg``; ``typing``, ``receipt`` or ``hidden``."""
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
        return frame % (next(self._digits), _encode(signal.kind), signal_data(signal))

    def encode_message(self, message: Message) -> bytes:
        """A pushed frame: something that is stored."""
        return b'{"seq":"%d","cmd":"message","response":{"code":200,"codeMsg":"Ok","data":%b}}' % (
            message.id,
            _encode(entry_view(message)),
        )
