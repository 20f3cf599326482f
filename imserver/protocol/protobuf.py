"""The ``protobuf`` dialect: binary frames on ``/ws`` (docs/reference/protobuf-dialect.md).

A client frame is one ``Input``; every server frame is one ``OutputBatch``. What is refused is not answered:
the clients know no error. The payload of a batch is the row of its *outputs*, each with its length before it,
so payloads that follow each other are one batch, and what many are told is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from imserver import errors
from imserver.model import (
    BadFrame,
    ChatLogin,
    ChatMessage,
    ChatSync,
    Command,
    Event,
    Heartbeat,
    Message,
    Reply,
    Request,
)
from imserver.protocol.varints import Broken, Fields, lengthy, read_fields, signed32, signed64, varint

APP: Final = "gochat"
"""The app of all its clients."""
CT_LOGIN, CT_HEARTBEAT, CT_MESSAGE, CT_ACK, CT_SYNC = range(1, 6)
"""Kinds of frames (``CmdType``)."""
ST_SINGLE, ST_GROUP = 1, 2
"""Whom a message is for (``SessionType``)."""
AT_UP, AT_PUSH, AT_LOGIN = 1, 2, 3
"""What is acknowledged (``ACKType``)."""
MESSAGE_TYPES: Final = ("text", "picture", "voice", "video", "file", "location", "custom")
"""Types of messages in the order of their numbers from 1 (``MessageType``; the original knows three)."""
MAX_DEVICE_BYTES: Final = 64
"""Longest name of a device, in bytes of UTF-8."""
MAX_MESSAGE_ID_BYTES: Final = 64
"""Longest ``client_msg_id``, in bytes of UTF-8."""
MAX_ID: Final = 2**63 - 1
"""The greatest id and number that can be kept."""

_NUMBERS: Final = {name: number for number, name in enumerate(MESSAGE_TYPES, 1)}
_OK: Final = b"\x10\xc8\x01\x1a\x07Success"
_LOGIN_ACKED: Final = b"\x08\x03"
_BAD_USER: Final = "非法的用户Id"
"""The original's text, which in the cmd dialect ends in two capitals."""


def number(tag: int, value: int) -> bytes:
    """A field that is a number; none where it is 0."""
    return b"%c%b" % (tag, varint(value)) if value else b""


def output(kind: int, data: bytes, code: int = errors.REPLY_OK) -> bytes:
    """One output of a batch, or a batch of one: ``kind`` is a ``CmdType``, ``code`` a reply code."""
    result = _OK if code == errors.REPLY_OK else _refused(code)
    body = b"\x08%c%b" % (kind, result)
    return lengthy(0x0A, body + lengthy(0x22, data) if data else body)


def _refused(code: int) -> bytes:
    text = _BAD_USER if code == errors.REPLY_BAD_USER else errors.reply_text(code)
    return number(0x10, code) + lengthy(0x1A, text.encode())


LOGIN_ACK: Final = output(CT_ACK, _LOGIN_ACKED)
"""The answer to a login."""


def uplink_ack(chat_number: int, seq: int) -> bytes:
    """The message that its sender has numbered ``chat_number`` is stored as ``seq``."""
    return output(CT_ACK, b"\x08\x01%b%b" % (number(0x10, chat_number), number(0x18, seq)))


def push(message: bytes) -> bytes:
    """A message, told to whom it is for."""
    return output(CT_MESSAGE, lengthy(0x0A, message))


def page(messages: Iterable[bytes], more: bool) -> bytes:
    """The answer to a sync: ``messages`` in order, and whether there are ``more`` behind them."""
    data = b"".join([lengthy(0x0A, message) for message in messages])
    return output(CT_SYNC, data + b"\x10\x01" if more else data)


def message(
    session_type: int, receiver: int, sender: int, type_number: int, content: bytes, seq: int, sent_ms: int
) -> bytes:
    """One ``Message``: whom it is for and from whom, what it is, its place, when it was sent (Unix ms)."""
    return b"".join(
        (
            number(0x08, session_type),
            number(0x10, receiver),
            number(0x18, sender),
            number(0x20, type_number),
            lengthy(0x2A, content) if content else b"",
            number(0x30, seq),
            number(0x38, sent_ms),
        )
    )


def as_message(stored: Message) -> bytes | None:
    """Something stored, as a ``Message``; None for what the clients have no word for: changes of a group, and
    what is said about earlier messages."""
    if stored.kind != "message":
        return None
    return message(
        ST_SINGLE if stored.to else ST_GROUP,
        account(stored.to) if stored.to else stored.conversation,
        account(stored.sender),
        type_number(stored.type),
        stored.body,
        stored.id,
        stored.time_ms,
    )


def type_name(number: int) -> str:
    """What the type of this number is called; unknown numbers are their own names."""
    return MESSAGE_TYPES[number - 1] if 0 < number <= len(MESSAGE_TYPES) else str(number)


def type_number(name: str) -> int:
    """The number of a type; words that have none are ``custom``."""
    known = _NUMBERS.get(name)
    if known is not None:
        return known
    if len(name) <= 11 and name.removeprefix("-").isdecimal() and name.isascii():
        return signed32(int(name))
    return _NUMBERS["custom"]


def account(user: str) -> int:
    """The number of an account; 0 for users that are none."""
    if 0 < len(user) <= 19 and user.isascii() and user.isdecimal():
        number = int(user)
        return number if number <= MAX_ID else 0
    return 0


# --- what clients send --------------------------------------------------------------------------------------


def _login(data: bytes) -> Command:
    fields = read_fields(data)
    return ChatLogin(
        bytes_in(fields, 0x0A).decode("latin-1"),
        text_in(fields, 0x12, MAX_DEVICE_BYTES),
        min(int_in(fields, 0x18), MAX_ID) if 0x18 in fields else -1,
        int_in(fields, 0x20) != 0,
    )


def _heartbeat(_data: bytes) -> Command:
    return _HEARTBEAT


def _message(data: bytes) -> Command:
    up = read_fields(data, merged=0x0A)
    fields = read_fields(bytes_in(up, 0x0A))
    return ChatMessage(
        number=int_in(up, 0x10),
        session_type=signed32(int_in(fields, 0x08)),
        receiver=int_in(fields, 0x10),
        sender=int_in(fields, 0x18),
        type=signed32(int_in(fields, 0x20)),
        content=bytes_in(fields, 0x2A),
        sent_ms=signed64(int_in(fields, 0x38)),
        client_msg_id=text_in(up, 0x1A, MAX_MESSAGE_ID_BYTES),
        kind=signed32(int_in(fields, 0x40)),
        about=min(int_in(fields, 0x48), MAX_ID),
        meta=bytes_in(fields, 0x6A),
    )


def _sync(data: bytes) -> Command:
    return ChatSync(int_in(read_fields(data), 0x08))


def int_in(fields: Fields, tag: int) -> int:
    """The number in a field, 0 if it is missing."""
    found = fields.get(tag, 0)
    assert isinstance(found, int)
    return found


def bytes_in(fields: Fields, tag: int) -> bytes:
    """The bytes in a field, none if it is missing."""
    found = fields.get(tag, b"")
    assert isinstance(found, bytes)
    return found


def text_in(fields: Fields, tag: int, longest: int) -> str:
    """The text in a field, at most so many bytes of UTF-8, without U+0000. Raises Broken and
    UnicodeDecodeError."""
    found = bytes_in(fields, tag)
    if len(found) > longest or b"\0" in found:
        raise Broken
    return found.decode()


_HEARTBEAT = Heartbeat()

Row = tuple[str, Callable[[bytes], Command]]
"""What a command is called here, and what reads its data."""

COMMANDS: Final[dict[int, Row]] = {
    CT_LOGIN: ("login", _login),
    CT_HEARTBEAT: ("heartbeat", _heartbeat),
    CT_MESSAGE: ("message", _message),
    CT_SYNC: ("sync", _sync),
}
"""Every command of the original's clients by its ``CmdType``."""


class ProtobufDialect:
    """Codec of the ``protobuf`` dialect; see :class:`imserver.protocol.dialect.Dialect`."""

    name = "protobuf"
    path = "/ws"
    text = False
    any_origin = False
    message_bytes = 0
    pinged = False
    personal = False
    commands: Mapping[int, Row] = COMMANDS

    def decode(self, payload: bytes) -> Request:
        """Read one ``Input``; acks, and whatever is no command, are not answered."""
        try:
            fields = read_fields(payload)
        except Broken:
            raise BadFrame(None) from None
        row = self.commands.get(int_in(fields, 0x08))
        if row is None:
            raise BadFrame(None)
        try:
            return Request("", row[0], row[1](bytes_in(fields, 0x12)))
        except (Broken, UnicodeDecodeError):
            return self.unreadable(row[0])

    def unreadable(self, name: str) -> Request:
        """What becomes of a command that cannot be read: it is dropped. Raises BadFrame."""
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """The ack of a login. Nothing else has an answer that could be made of a reply."""
        return LOGIN_ACK if request.name == "login" and reply.code == errors.REPLY_OK else None

    def encode_event(self, event: Event) -> bytes | None:
        """A push that is not kept: a message without a place (``seq`` 0) and without a receiver."""
        if event.kind != "msg":
            return None
        content = event.data or event.text.encode()
        number = type_number(event.type)
        return push(message(ST_SINGLE, 0, account(event.sender), number, content, 0, event.time * 1000))

    def encode_message(self, message: Message) -> bytes | None:
        """A push of something that is stored."""
        made = self.shown(message)
        return None if made is None else push(made)

    def encode_messages(self, messages: Sequence[Message]) -> bytes | None:
        """Pushes of several things that are stored, in one batch; None if there are words for none."""
        return b"".join([push(made) for each in messages if (made := self.shown(each)) is not None]) or None

    def encode_for(self, event: Event) -> tuple[bytes, bytes] | None:
        """Frames of this dialect are the same for all."""

    # --- what these clients can be told ---------------------------------------------------------------------

    def shown(self, stored: Message) -> bytes | None:
        """Something stored as a ``Message``; None for what there is no word for."""
        return as_message(stored)

    def page(self, messages: Iterable[bytes], more: bool, begin_anew: bool) -> bytes:
        """The answer to a sync: ``messages`` in order, and whether there are ``more`` behind them. That what
        the client has may be void has no word."""
        return page(messages, more)

    def refused(self, code: int, chat_number: int) -> bytes | None:
        """What is said of a message that is refused: nothing."""
