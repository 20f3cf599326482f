"""The ``protobuf`` dialect: binary frames on ``/ws`` (docs/reference/protobuf-dialect.md).

A client frame is one ``Input``; every server frame is one ``OutputBatch``. What is refused is not answered:
the clients know no error. The payload of a batch is the row of its *outputs*, each with its length before it,
so payloads that follow each other are one batch, and what many are told is encoded once.

Clients that log in with a cursor speak the same frames with further fields and kinds
(:class:`FullProtobufDialect`); clients of the original never receive those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Raw, Struct

from imserver import errors
from imserver.model import (
    Ack,
    AskMarks,
    AskReceipts,
    BadFrame,
    ChatLogin,
    ChatMessage,
    ChatSync,
    Command,
    Conversations,
    Event,
    Heartbeat,
    Hide,
    History,
    Message,
    Read,
    Received,
    Reply,
    Request,
    Search,
    Signal,
    Typing,
)
from imserver.protocol.cmd import MAX_HIDDEN, MAX_PAGE, MAX_RECEIVER_BYTES, MAX_WORDS_BYTES, EntryView
from imserver.protocol.dialect import Dialect
from imserver.protocol.varints import (
    Broken,
    Fields,
    lengthy,
    read_fields,
    read_numbers,
    signed32,
    signed64,
    varint,
)

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


class ProtobufDialect(Dialect):
    """Codec of the ``protobuf`` dialect, for the original's clients."""

    name = "protobuf"
    path = "/ws"
    text = False
    batches = True
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
        """The request for a command whose data cannot be read: these are dropped. Raises BadFrame."""
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
        """A push of a stored message."""
        made = self.encode_entry(message)
        return None if made is None else push(made)

    # --- beyond the contract --------------------------------------------------------------------------------

    def encode_entry(self, stored: Message) -> bytes | None:
        """An entry as a ``Message``; None if these clients have no form for it."""
        return as_message(stored)

    def page(self, messages: Iterable[bytes], more: bool, begin_anew: bool) -> bytes:
        """The answer to a sync: ``messages`` in order, and whether ``more`` follow. ``begin_anew`` cannot be
        expressed."""
        return page(messages, more)

    def encode_refusal(self, code: int, chat_number: int) -> bytes | None:
        """The output that refuses a message; None: these clients know none."""
        return None


(
    CT_READ,
    CT_RECEIVED,
    CT_TYPING,
    CT_HIDE,
    CT_HISTORY,
    CT_CONVERSATIONS,
    CT_RECEIPTS,
    CT_MARKS,
    CT_SEARCH,
    CT_SIGNAL,
) = range(6, 16)
"""Kinds of frames that the original does not know."""
_PAGE: Final = 50


def _id(fields: Fields, tag: int) -> int:
    return min(int_in(fields, tag), MAX_ID)


def _needed(fields: Fields, tag: int) -> int:
    found = _id(fields, tag)
    if not found:
        raise Broken
    return found


def _limit(fields: Fields, tag: int) -> int:
    return min(int_in(fields, tag) or _PAGE, MAX_PAGE)


def _read_ack(data: bytes) -> Command:
    fields = read_fields(data)
    if int_in(fields, 0x08) != AT_PUSH:
        raise Broken
    return Ack(_id(fields, 0x18))


def _read_sync(data: bytes) -> Command:
    fields = read_fields(data)
    return ChatSync(int_in(fields, 0x08), _limit(fields, 0x10))


def _read_read(data: bytes) -> Command:
    fields = read_fields(data)
    return Read(_needed(fields, 0x08), _needed(fields, 0x10))


def _read_received(data: bytes) -> Command:
    fields = read_fields(data)
    return Received(_needed(fields, 0x08), _needed(fields, 0x10))


def _read_typing(data: bytes) -> Command:
    fields = read_fields(data)
    to, conversation = int_in(fields, 0x08), _id(fields, 0x10)
    if bool(to) == bool(conversation) or to > MAX_ID:
        raise Broken
    return Typing(str(to) if to else "", conversation)


def _read_hide(data: bytes) -> Command:
    ids = read_numbers(bytes_in(read_fields(data), 0x0A), MAX_HIDDEN)
    if not ids or not all(0 < each <= MAX_ID for each in ids):
        raise Broken
    return Hide(ids)


def _read_history(data: bytes) -> Command:
    fields = read_fields(data)
    return History(_needed(fields, 0x08), _id(fields, 0x10), _limit(fields, 0x18))


def _read_conversations(data: bytes) -> Command:
    fields = read_fields(data)
    return Conversations(_id(fields, 0x08), _limit(fields, 0x10))


def _read_receipts(data: bytes) -> Command:
    fields = read_fields(data)
    return AskReceipts(_needed(fields, 0x08), text_in(fields, 0x12, MAX_RECEIVER_BYTES), _limit(fields, 0x18))


def _read_marks(data: bytes) -> Command:
    return AskMarks(_id(read_fields(data), 0x08))


def _read_search(data: bytes) -> Command:
    fields = read_fields(data)
    text = text_in(fields, 0x0A, MAX_WORDS_BYTES)
    if not text.strip():
        raise Broken
    return Search(text, _id(fields, 0x10), _id(fields, 0x18), _limit(fields, 0x20))


FULL_COMMANDS: Final[dict[int, Row]] = {
    **COMMANDS,
    CT_ACK: ("ack", _read_ack),
    CT_SYNC: ("sync", _read_sync),
    CT_READ: ("read", _read_read),
    CT_RECEIVED: ("received", _read_received),
    CT_TYPING: ("typing", _read_typing),
    CT_HIDE: ("hide", _read_hide),
    CT_HISTORY: ("history", _read_history),
    CT_CONVERSATIONS: ("conversations", _read_conversations),
    CT_RECEIPTS: ("receipts", _read_receipts),
    CT_MARKS: ("marks", _read_marks),
    CT_SEARCH: ("search", _read_search),
}
"""Every command of these clients."""


AT_REFUSED: Final = 4
"""What is said instead of an ack."""
KINDS: Final = ("message", "recall", "edit", "group", "join", "leave")
"""Kinds of entries in the order of their numbers from 0."""
SIGNALS: Final = ("typing", "receipt", "hidden")
"""Kinds of signals in the order of their numbers from 1."""


class Recovered(Struct, frozen=True):
    """What a login with a cursor is told: all that was missed comes right behind, or has to be asked for,
    from the cursor on or from the beginning."""

    recovered: bool
    begin_anew: bool = False


# --- what the server says -----------------------------------------------------------------------------------


def refusal(code: int, request: int, chat_number: int = 0) -> bytes:
    """The output that refuses a login or a message (by its kind, and its client's number for it)."""
    data = b"\x08%c%b%b" % (AT_REFUSED, number(0x10, chat_number), number(0x30, request))
    return output(CT_ACK, data, code)


def as_full_message(stored: Message) -> bytes:
    """Something stored, of whatever kind, as a ``Message`` with all that is known of it."""
    sender, to = account(stored.sender), account(stored.to)
    spoken = stored.kind in ("message", "edit")
    return b"".join(
        (
            message(
                ST_SINGLE if stored.to else ST_GROUP,
                to if stored.to else stored.conversation,
                sender,
                type_number(stored.type) if spoken else 0,
                stored.body,
                stored.id,
                stored.time_ms,
            ),
            number(0x40, KINDS.index(stored.kind)),
            number(0x48, stored.about),
            number(0x50, stored.conversation),
            number(0x58, stored.seq),
            _text(0x62, stored.client_msg_id),
            _bytes(0x6A, stored.meta),
            _text(0x72, "" if sender else stored.sender),
            _text(0x7A, "" if to else stored.to),
        )
    )


def full_page(messages: Iterable[bytes], more: bool, begin_anew: bool, kind: int = CT_SYNC) -> bytes:
    """Messages in order, whether there are more, and whether those that the client has are void."""
    data = b"".join([lengthy(0x0A, each) for each in messages])
    return output(kind, data + _flag(0x10, more) + _flag(0x18, begin_anew))


def _text(tag: int, text: str) -> bytes:
    return lengthy(tag, text.encode()) if text else b""


def _bytes(tag: int, data: bytes) -> bytes:
    return lengthy(tag, data) if data else b""


def _flag(tag: int, value: bool) -> bytes:
    return b"%c\x01" % tag if value else b""


def _numbers(tag: int, values: Iterable[int]) -> bytes:
    return _bytes(tag, b"".join(map(varint, values)))


def _user(tag: int, text_tag: int, user: str) -> bytes:
    """A user: the number of an account, or whatever else it is as text."""
    return number(tag, account(user)) or _text(text_tag, user)


def _signal(event: Signal) -> bytes:
    return output(
        CT_SIGNAL,
        b"".join(
            (
                number(0x08, SIGNALS.index(event.kind) + 1),
                _user(0x10, 0x42, event.sender),
                _user(0x18, 0x4A, event.to),
                number(0x20, event.conversation),
                number(0x28, event.read),
                number(0x30, event.received),
                _numbers(0x3A, event.ids),
            )
        ),
    )


# --- answers, made of what the services answer --------------------------------------------------------------


def _encode_view(entry: EntryView) -> bytes:
    """An entry that was made ready for clients of JSON."""
    body = entry.base64 or b""
    if entry.text is not None:
        body = entry.text.encode()
    elif entry.data is not None:
        body = bytes(entry.data)
    return as_full_message(
        Message(
            entry.id,
            entry.conversation,
            entry.seq,
            entry.sender,
            entry.to,
            entry.kind,
            entry.type or "text",
            body,
            entry.client_msg_id,
            entry.time,
            entry.about,
            bytes(entry.meta) if isinstance(entry.meta, Raw) else b"",
        )
    )


def _entries(messages: Iterable[EntryView], more: bool) -> bytes:
    return b"".join([lengthy(0x0A, _encode_view(each)) for each in messages]) + _flag(0x10, more)


def _history(data: Any) -> bytes:
    return _entries(data.messages, data.more)


def _search(data: Any) -> bytes:
    return _entries(data.messages, data.has_more) + number(0x18, data.before)


def _conversation(found: Any) -> bytes:
    return b"".join(
        (
            number(0x08, found.id),
            number(0x10, ST_SINGLE if found.kind == "user" else ST_GROUP),
            number(0x18, max(found.unread, 0)),
            number(0x20, max(found.read, 0)),
            _text(0x2A, found.role),
            _user(0x30, 0x4A, found.peer),
            _text(0x3A, found.name),
            b"" if found.last is None else lengthy(0x42, _encode_view(found.last)),
            number(0x50, found.place or (found.last.id if found.last else 0)),
        )
    )


def _conversations(data: Any) -> bytes:
    return b"".join([lengthy(0x0A, _conversation(each)) for each in data.conversations]) + _flag(
        0x10, data.more
    )


def _receipt(found: Any, conversation: int = 0) -> bytes:
    return b"".join(
        (
            _user(0x08, 0x2A, found.user),
            number(0x10, found.read),
            number(0x18, found.received),
            number(0x20, conversation),
        )
    )


def _receipts(data: Any) -> bytes:
    return b"".join([lengthy(0x0A, _receipt(each)) for each in data.receipts]) + _flag(0x10, data.has_more)


def _marks(data: Any) -> bytes:
    reads = [lengthy(0x12, number(0x08, each.conversation) + number(0x10, each.id)) for each in data.read]
    peers = [lengthy(0x22, _receipt(each, each.conversation)) for each in data.receipts]
    return b"".join((number(0x08, data.version), *reads, _numbers(0x1A, data.hidden), *peers))


_ANSWERS: Final[dict[int, Callable[[Any], bytes]]] = {
    CT_READ: lambda _: b"",
    CT_RECEIVED: lambda _: b"",
    CT_TYPING: lambda _: b"",
    CT_HIDE: lambda _: b"",
    CT_HISTORY: _history,
    CT_CONVERSATIONS: _conversations,
    CT_RECEIPTS: _receipts,
    CT_MARKS: _marks,
    CT_SEARCH: _search,
}
"""What makes the data of an answer of what was answered, by kind."""
_KIND_OF: Final = {name: kind for kind, (name, _) in FULL_COMMANDS.items()}


class FullProtobufDialect(ProtobufDialect):
    """Codec for clients that log in with a cursor: it can express every entry."""

    commands = FULL_COMMANDS

    def unreadable(self, name: str) -> Request:
        """The request for a command whose data cannot be read: it is refused."""
        return Request("", name, None, errors.REPLY_BAD_PARAMETER)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """An answer has the kind of its request; a login is acknowledged, or refused."""
        kind = _KIND_OF.get(request.name, 0)
        if kind in _ANSWERS:
            said = b"" if reply.data is None else _ANSWERS[kind](reply.data)
            return output(kind, said, reply.code)
        if request.name != "login":
            return None
        if reply.code != errors.REPLY_OK:
            return refusal(reply.code, kind)
        found = reply.data
        if not isinstance(found, Recovered):
            return LOGIN_ACK
        data = b"\x08\x03" + _flag(0x20, found.recovered) + _flag(0x28, found.begin_anew)
        return output(CT_ACK, data)

    def encode_event(self, event: Event) -> bytes | None:
        """A push that is not kept, or a signal."""
        return _signal(event) if isinstance(event, Signal) else super().encode_event(event)

    def encode_entry(self, stored: Message) -> bytes:
        """An entry as a ``Message``, of whatever kind."""
        return as_full_message(stored)

    def page(self, messages: Iterable[bytes], more: bool, begin_anew: bool) -> bytes:
        """The answer to a sync."""
        return full_page(messages, more, begin_anew)

    def encode_refusal(self, code: int, chat_number: int) -> bytes:
        """The output that refuses a message: its number is used up."""
        return refusal(code, CT_MESSAGE, chat_number)
