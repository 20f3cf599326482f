"""The cmd dialect as a client speaks it: frames in and out, without any I/O (docs/reference/protocol.md)."""

from __future__ import annotations

import json
from itertools import count
from random import getrandbits
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.client.entries import SIGNALS, Entry, Signal

MAX_USER_BYTES: Final = 19
"""Longest user id that the dialect takes, in bytes of UTF-8."""
HEARTBEAT_SECONDS: Final = 30.0
"""How often a client says that it is alive; the server waits for six minutes."""
LASTING_REFUSALS: Final = frozenset(
    {errors.REPLY_BAD_PARAMETER, errors.REPLY_BAD_USER, errors.REPLY_UNAUTHORIZED}
)
"""A login that is refused with one of these stays refused, however often it is tried."""


class Push(Struct, frozen=True):
    """What the server tells a client unasked.

    ``kind`` is ``"msg"``, ``"enter"`` or ``"exit"``; ``sender`` who wrote, came or left; ``id`` the id that
    the back end gave its message. ``type`` says what ``text`` is: words (``"text"``), or whatever back end
    and client have agreed on; see :meth:`json`.
    """

    kind: str
    sender: str
    text: str
    id: str = ""
    type: str = "text"

    def json(self) -> Any:
        """The payload of a push with ``data``, decoded. Raises ValueError if it is no JSON."""
        return json.loads(self.text)


class Reply(Struct, frozen=True):
    """The answer to one request: ``code`` 200, or a reply code with its ``text``; ``data`` of the command."""

    seq: str
    cmd: str
    code: int
    text: str = ""
    data: Any = None

    @property
    def ok(self) -> bool:
        """Whether the command was carried out."""
        return self.code == errors.REPLY_OK


class _Response(Struct):
    code: int = 0
    codeMsg: str = ""
    data: Any = None


class _Frame(Struct):
    seq: str = ""
    cmd: str = ""
    response: _Response = msgspec.field(default_factory=_Response)


_PUSHES: Final = frozenset({"msg", "enter", "exit"})
_decode = msgspec.json.Decoder(_Frame).decode
_encode = msgspec.json.Encoder().encode


class Wire:
    """Makes requests and reads frames. Owner of the request numbers."""

    def __init__(self) -> None:
        self._prefix = f"{getrandbits(32):08x}"
        self._numbers = count(1)

    def request(self, cmd: str, data: Any = None) -> tuple[str, str]:
        """A request: its ``seq``, by which the answer is known, and the text frame to send."""
        seq = f"{self._prefix}-{next(self._numbers)}"
        return seq, _encode({"seq": seq, "cmd": cmd, "data": {} if data is None else data}).decode()

    def login(
        self, app: str, user: str, token: str = "", device: str = "", more: dict[str, Any] | None = None
    ) -> tuple[str, str]:
        """The login of ``user`` in ``app``, with ``more`` fields. Raises ValueError if it can be no login."""
        if not app or ":" in app:
            raise ValueError(f"{app!r} is no app of the cmd dialect")
        if not 0 < len(user.encode()) <= MAX_USER_BYTES:
            raise ValueError(f"a user id has 1 to {MAX_USER_BYTES} bytes")
        where = {"appID": int(app)} if app.isdecimal() else {"app": app}
        data = {"userID": user, **where, "serviceToken": token, **(more or {})}
        return self.request("login", {**data, "device": device} if device else data)

    def read(self, frame: str | bytes) -> Push | Entry | Signal | Reply | None:
        """What a frame of the server says; None if it is neither told nor an answer."""
        try:
            read = _decode(frame)
        except msgspec.DecodeError:
            return None
        response = read.response
        if read.cmd in _PUSHES and isinstance(response.data, dict):
            told = response.data
            return Push(
                read.cmd,
                str(told.get("from", "")),
                str(told.get("msg", "")),
                read.seq,
                str(told.get("type", "text")),
            )
        if read.cmd == "message":
            return Entry.of(response.data)
        if read.cmd in SIGNALS and response.data is not None:  # typing is a command, too: its answer has none
            return Signal.of(read.cmd, response.data)
        return Reply(read.seq, read.cmd, response.code, response.codeMsg, response.data)
