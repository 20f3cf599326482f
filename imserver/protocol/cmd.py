"""The ``cmd`` dialect: JSON text frames ``{"seq","cmd","data"}`` on ``/acc`` (docs/protocol.md).

Decoding has two ways. A frame with exactly the documented keys takes msgspec's typed decoder (0.2 µs); any
other spelling (keys in another letter case, unknown keys, lone surrogates) takes the standard library's
parser, which is ten times slower and forgiving in the same places as the original.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from imserver import errors
from imserver.model import BadFrame, Command, Event, Heartbeat, Login, Ping, Reply, Request

MAX_USER_BYTES = 19
"""Longest user id, in bytes of UTF-8."""
MAX_DEVICE_BYTES = 32
"""Longest device name, in bytes of UTF-8; a longer one is ignored."""
MAX_APP_ID = 2**32 - 1
BAD_FRAME_REPLY = "数据不合法".encode()
"""Bare text frame that answers what is no request."""

_NULL = Raw(b"null")
_encode = msgspec.json.Encoder().encode


class _Frame(Struct, forbid_unknown_fields=True):
    seq: str | None = None
    cmd: str | None = None
    data: Raw = _NULL


_decode_frame = msgspec.json.Decoder(_Frame).decode


class Refused(Exception):
    """The data of a command cannot be taken; ``code`` is the reply code."""

    def __init__(self, code: int) -> None:
        super().__init__(errors.reply_text(code))
        self.code = code


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys' letter case folded; null counts as missing, the last of equals wins."""
    return {key.casefold(): value for key, value in pairs if value is not None}


def _parse(payload: bytes) -> Any:
    """Parse JSON text the forgiving way. Raises ValueError or RecursionError."""
    return json.loads(payload.decode(), object_pairs_hook=_fold, parse_constant=_refuse_constant)


def _well_formed(text: str) -> str:
    """``text`` with lone surrogates replaced by U+FFFD, so that it can be encoded again."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _fields(data: bytes) -> dict[str, Any]:
    """The object in a command's ``data`` with folded keys. Raises :class:`Refused` 1001 if it is no
    object."""
    try:
        fields = _parse(data)
    except (ValueError, RecursionError):
        raise Refused(errors.REPLY_BAD_PARAMETER) from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return fields


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return value if value.isascii() else _well_formed(value)


def _login(data: bytes) -> Login:
    fields = _fields(data)
    user, token = _text(fields, "userid"), _text(fields, "servicetoken")
    app = fields.get("appid", 0)
    if type(app) is not int or not 0 <= app <= MAX_APP_ID:
        raise Refused(errors.REPLY_BAD_PARAMETER)
    if not 0 < len(user.encode()) <= MAX_USER_BYTES:
        raise Refused(errors.REPLY_BAD_USER)
    device = fields.get("device", "")
    if not isinstance(device, str) or len(_well_formed(device).encode()) > MAX_DEVICE_BYTES:
        device = ""
    return Login(str(app), user, token, _well_formed(device) if device else "")


def _heartbeat(data: bytes) -> Heartbeat:
    if data != b"{}" and data != b"null":
        _text(_fields(data), "userid")
    return _HEARTBEAT


def _ping(_data: bytes) -> Ping:
    return _PING


_HEARTBEAT = Heartbeat()
_PING = Ping()

COMMANDS: dict[str, Callable[[bytes], Command]] = {
    "login": _login,
    "heartbeat": _heartbeat,
    "ping": _ping,
}
"""Every command of the dialect: its name on the wire and what reads its ``data``."""


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
            return Request(seq, name, row(data))
        except Refused as refused:
            return Request(seq, name, None, refused.code)

    def _decode_slowly(self, payload: bytes) -> tuple[str, str, bytes]:
        try:
            frame = _parse(payload)
        except (ValueError, RecursionError):
            raise BadFrame(BAD_FRAME_REPLY) from None
        if not isinstance(frame, dict):
            raise BadFrame(BAD_FRAME_REPLY)
        seq, name = frame.get("seq", ""), frame.get("cmd", "")
        if not isinstance(seq, str) or not isinstance(name, str):
            raise BadFrame(BAD_FRAME_REPLY)
        data = json.dumps(frame.get("data")).encode()
        return _well_formed(seq), _well_formed(name), data

    def encode_reply(self, request: Request, reply: Reply) -> bytes:
        """The answer to ``request``: its ``seq`` and ``cmd``, the code with its text, and data."""
        return b'{"seq":%b,"cmd":%b,"response":{"code":%d,"codeMsg":%b,"data":%b}}' % (
            _encode(request.seq),
            _encode(request.name),
            reply.code,
            _encode(errors.reply_text(reply.code)),
            b"null" if reply.data is None else _encode(reply.data),
        )

    def encode_event(self, event: Event) -> bytes:
        """A pushed frame: ``enter``, ``exit`` or ``msg``."""
        return (
            b'{"seq":%b,"cmd":%b,"response":{"code":200,"codeMsg":"Ok",'
            b'"data":{"target":"","type":%b,"msg":%b,"from":%b}}}'
        ) % (
            _encode(event.id or str(next(self._digits))),
            _encode(event.kind),
            _encode(event.type),
            _encode(event.data.decode() if event.data else event.text),
            _encode(event.sender),
        )

    def encode_for(self, event: Event) -> None:
        """Frames of this dialect do not name their receiver."""
