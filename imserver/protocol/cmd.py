"""The ``cmd`` dialect: JSON text frames ``{"seq","cmd","data"}`` on ``/acc`` (docs/reference/protocol.md).

Decoding has two ways. A frame with exactly the documented keys takes msgspec's typed decoder (0.2 µs); any
other spelling (keys in another letter case, unknown keys, lone surrogates) takes the standard library's
parser, which is ten times slower and forgiving in the same places as the original.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Any

import msgspec
from msgspec import Raw, Struct

from imserver import errors
from imserver.model import (
    BadFrame,
    Command,
    Event,
    Heartbeat,
    Login,
    Message,
    Ping,
    Reply,
    Request,
    Resume,
    Signal,
)
from imserver.protocol.cmd_signals import SIGNAL_COMMANDS, told
from imserver.protocol.cmd_stored import STORED_COMMANDS, id_in, shown
from imserver.protocol.forgiving import (
    Refused,
    fields_of,
    has_nul,
    number_in,
    parse_frame,
    text_in,
    well_formed,
)

MAX_USER_BYTES = 19
"""Longest user id, in bytes of UTF-8."""
MAX_DEVICE_BYTES = 32
"""Longest device name, in bytes of UTF-8; a longer one is ignored."""
BAD_FRAME_REPLY = "数据不合法".encode()
"""Bare text frame that answers what is no request."""

_NULL = Raw(b"null")
_encode = msgspec.json.Encoder().encode


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


class CmdDialect:
    """Codec of the ``cmd`` dialect; see :class:`imserver.protocol.dialect.Dialect`."""

    name = "cmd"
    path = "/acc"
    text = True
    any_origin = False
    message_bytes = 0
    pinged = False
    personal = False

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
        return frame % (next(self._digits), _encode(signal.kind), told(signal))

    def encode_message(self, message: Message) -> bytes:
        """A pushed frame: something that is stored."""
        return b'{"seq":"%d","cmd":"message","response":{"code":200,"codeMsg":"Ok","data":%b}}' % (
            message.id,
            _encode(shown(message)),
        )

    def encode_for(self, event: Event) -> None:
        """Frames of this dialect do not name their receiver."""
