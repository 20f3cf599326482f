"""The ``protobuf`` dialect: binary frames on ``/ws``
(docs/reference/protobuf-dialect.md).

A client frame is one ``Input``; every server frame is one ``OutputBatch``.
Refused frames get no answer, because the clients know no errors. The payload of
a batch is its *outputs*, each preceded by its length. Therefore payloads can be
joined into one batch, and a push to many clients is encoded once.

Clients that log in with a cursor use the same frames with more fields and kinds
(:class:`FullProtobufDialect`). Clients of the original server, GoChat, never
receive these fields and kinds.

Commands of features have the kinds from :data:`FIRST_KIND_OF_FEATURES`. Their
data is JSON, and so are their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec
from msgspec import Struct

from imserver.plugin.errors import ReplyCode, reply_text
from imserver.plugin.messages import FIELDS_OF_COMMANDS, Message
from imserver.plugin.settings import ConfigError
from imserver.plugin.wire import (
    BadFrame,
    Command,
    Dialect,
    Event,
    Fields,
    Heartbeat,
    LateModule,
    Limit,
    Readers,
    Refused,
    Reply,
    Request,
    Signal,
    has_nul,
    id_of,
)

if TYPE_CHECKING:
    from google.protobuf import message as protobuf_message

    from imserver.dialects.protobuf import chat_pb2 as pb
else:
    # Imported on first use because they cost 4 MB, which a node without such
    # clients need not spend.
    protobuf_message = LateModule("google.protobuf.message")
    pb = LateModule("imserver.dialects.protobuf.chat_pb2")

NAME: Final = "protobuf"
APP: Final = "gochat"
"""The app of all clients of this dialect."""
CT_LOGIN, CT_HEARTBEAT, CT_MESSAGE, CT_ACK, CT_SYNC = range(1, 6)
"""Kinds of frames (``CmdType``)."""
ST_SINGLE = 1
ST_GROUP = 2
"""Kinds of receivers (``SessionType``)."""
AT_UP = 1
AT_PUSH = 2
AT_LOGIN = 3
"""Kinds of acknowledgements (``ACKType``)."""
MESSAGE_TYPES: Final = (
    "text",
    "picture",
    "voice",
    "video",
    "file",
    "location",
    "custom",
)
"""Types of messages, in the order of their numbers from 1 (``MessageType``).
The original knows three of them."""
MAX_DEVICE_BYTES: Final = 64
"""Longest name of a device, in bytes of UTF-8."""

_MAX_ID: Final = Limit.ID
_MAX_ID_DIGITS: Final = 19
_MAX_INT32: Final = 2**31 - 1
_INT32_CHARACTERS: Final = 11
"""Longest decimal form of a number of 32 bits, in characters with its sign."""
_SECOND_MS: Final = 1000
_ACCOUNTS: Final = 8192
"""The most users whose numbers are cached."""
_HEADS: Final = 1024
"""The most beginnings of batches that are cached."""
M = TypeVar("M", bound="protobuf_message.Message")

_OUTPUTS_TAG = b"\x0a"
_DATA_TAG = b"\x22"
_MSG_TAG = b"\x0a"
"""The tags of ``OutputBatch.outputs``, ``Output.data`` and ``PushMsg.msg``."""

# The encoding of protobuf. A tag is the number of a field, and in its lowest
# bits the type.
_TYPE_BITS: Final = 3
_TYPE_MASK: Final = 0x07
_VARINT: Final = 0
_BYTES: Final = 2
"""Types of fields: a number, and content that begins with its length."""
_FIXED_BYTES: Final = {1: 8, 5: 4}
"""Type of a field with a number of fixed size → the size in bytes."""
_VARINT_BITS: Final = 7
"""Number of bits of a number that each byte has."""
_VARINT_MASK: Final = 0x7F
_MORE_FOLLOWS: Final = 0x80
_NUMBER_BITS: Final = 64
"""Longest number of a field, in bits."""

_NUMBERS: Final = {name: number for number, name in enumerate(MESSAGE_TYPES, 1)}


def output(kind: int, data: bytes = b"", code: int = ReplyCode.OK) -> bytes:
    """Encode a batch with one output, which is one frame of the server.

    ``kind`` is a ``CmdType``, for example :data:`CT_ACK`, and ``code`` a reply
    code.
    """
    return _before_data(kind, code, len(data)) + data


@lru_cache(maxsize=_HEADS)
def _before_data(kind: int, code: int, size: int, tag: bytes = b"") -> bytes:
    """The bytes before the data of a batch with one output of ``size`` bytes.

    They depend only on few values, so they are cached. If ``tag`` is given, the
    data of the output is a message with one field. This field has the tag, and
    the ``size`` bytes are its content.
    """
    if tag:
        nested = tag + _length(size)
    else:
        nested = b""
    whole = len(nested) + size
    # This is the original's text for this code. In the cmd dialect the text
    # ends in "ID".
    if code == ReplyCode.BAD_USER:
        text = "非法的用户Id"
    else:
        text = reply_text(code)
    head: bytes = pb.Output(
        type=kind, code=code, CodeMsg=text.encode()
    ).SerializeToString()
    if whole:
        head += _DATA_TAG + _length(whole)
    return _OUTPUTS_TAG + _length(len(head) + whole) + head + nested


def _length(size: int) -> bytes:
    """Encode a length as protobuf does: in bytes of 7 bits, the lowest first.
    The eighth bit says that more bytes follow."""
    length = b""
    while size > _VARINT_MASK:
        length += b"%c" % (size & _VARINT_MASK | _MORE_FOLLOWS)
        size >>= _VARINT_BITS
    return b"%b%c" % (length, size)


def uplink_ack(chat_number: int, seq: int) -> bytes:
    """Encode the acknowledgement of a message from a client.

    ``chat_number`` is the sender's number for the message, and ``seq`` the id
    with which it is stored.
    """
    ack = _uplink_ack()
    ack.clientId = chat_number
    ack.seq = seq
    return output(CT_ACK, ack.SerializeToString())


@cache
def _uplink_ack() -> pb.ACKMsg:
    """The message that is filled anew for each acknowledgement. To make a new
    message each time would take twice as long."""
    return pb.ACKMsg(type=AT_UP)


def push(message: pb.Message) -> bytes:
    """Encode a batch that delivers one message."""
    data: bytes = message.SerializeToString()
    return _before_data(CT_MESSAGE, ReplyCode.OK, len(data), _MSG_TAG) + data


def as_message(stored: Message) -> pb.Message | None:
    """A stored entry as a ``Message`` of protobuf, for clients of the original.

    Returns None for changes of groups, edits and recalls, which the original
    does not have.
    """
    if stored.kind != "message":
        return None
    message = pb.Message()
    to = stored.to
    # A message without a receiver goes to a group.
    if to:
        message.session_type = ST_SINGLE
        message.receiver_id = account(to)
    else:
        message.session_type = ST_GROUP
        message.receiver_id = stored.conversation
    message.sender_id = account(stored.sender)
    message.message_type = type_number(stored.type)
    message.content = stored.body
    message.seq = stored.id
    message.send_time = stored.time_ms
    return message


def type_name(number: int) -> str:
    """The name of the type of a message: ``text`` for 1. The name of an unknown
    number is the number as text."""
    if 0 < number <= len(MESSAGE_TYPES):
        return MESSAGE_TYPES[number - 1]
    return str(number)


def type_number(name: str) -> int:
    """The number of the type of a message: 1 for ``text``.

    If the name is a number as text, the result is this number. All other
    unknown names count as ``custom``.
    """
    number_of_name = _NUMBERS.get(name)
    if number_of_name is not None:
        return number_of_name
    is_short = len(name) <= _INT32_CHARACTERS
    if is_short and name.removeprefix("-").isdecimal() and name.isascii():
        number = int(name)
        if -_MAX_INT32 - 1 <= number <= _MAX_INT32:
            return number
    return _NUMBERS["custom"]


def account_number(user: str) -> int:
    """The number of an account, which is its id; 0 for users without an
    account."""
    if user.isdecimal() and user.isascii() and len(user) <= _MAX_ID_DIGITS:
        number = int(user)
        if number <= _MAX_ID:
            return number
    return 0


account: Final = lru_cache(maxsize=_ACCOUNTS)(account_number)


# --- what clients send --------------------------------------------------------


class ChatLogin(Command, frozen=True, gc=False):
    """A login. Only the token names the user.

    ``cursor``: the client uses stored messages, and has all entries up to this
    id (-1: not given). ``acks``: whether the client acknowledges messages.
    """

    token: str
    device: str = ""
    cursor: int = -1
    acks: bool = False


class ChatMessage(Command, frozen=True, gc=False):
    """A message to an account or a group, to be stored.

    ``number`` counts the messages of one connection. ``kind``: 0, or a recall
    or an edit of the entry ``about``. Nobody has checked the fields yet: they
    are as the client has sent them.
    """

    number: int
    session_type: int
    receiver: int
    sender: int
    type: int
    content: bytes
    sent_ms: int
    client_msg_id: str = ""
    kind: int = 0
    about: int = 0
    meta: bytes = b""


class ChatSync(Command, frozen=True, gc=False):
    """Request the messages after the id ``after``, at most ``limit`` (0: the
    default number)."""

    after: int
    limit: int = 0


def _login(data: bytes) -> Command:
    """Decode a login. A login without a cursor (-1) comes from a client of the
    original. Raises ValueError or DecodeError."""
    login = _parse(pb.LoginMsg, data)
    cursor = -1
    if login.HasField("cursor"):
        cursor = min(login.cursor, _MAX_ID)
    return ChatLogin(
        token=login.token.decode("latin-1"),
        device=_text(login.device, MAX_DEVICE_BYTES),
        cursor=cursor,
        acks=login.acks,
    )


def _message(data: bytes) -> Command:
    """Decode a message of a client. Its fields are checked when it is stored.
    Raises ValueError or DecodeError."""
    up = _parse(pb.UpMsg, data)
    message = up.msg
    return ChatMessage(
        number=up.clientId,
        session_type=message.session_type,
        receiver=message.receiver_id,
        sender=message.sender_id,
        type=message.message_type,
        content=message.content,
        sent_ms=message.send_time,
        client_msg_id=_text(up.client_msg_id, Limit.CLIENT_MSG_ID_BYTES),
        kind=message.kind,
        about=min(message.about, _MAX_ID),
        meta=message.meta,
    )


def _text(data: bytes, longest: int) -> str:
    """Decode a text of at most ``longest`` bytes of UTF-8, without U+0000.
    Raises ValueError."""
    if len(data) > longest or b"\0" in data:
        raise ValueError("too long, or with a null character")
    return data.decode()


def _parse(kind: type[M], data: bytes) -> M:
    """Decode a message of protobuf. Raises ValueError or DecodeError.

    The library truncates numbers of more than 64 bits; the original refuses
    them. So this function refuses them, too.
    """
    message = kind.FromString(data)
    # Nine bytes in a row with the highest bit set can begin a long number, or
    # belong to a text that is not ASCII. The next tests decide which. They are
    # rarely needed.
    if _LONG in data.translate(_HIGH_BYTES):
        # If the library writes the same bytes again, it has truncated nothing.
        message.DiscardUnknownFields()
        if message.SerializeToString() != data and _has_long_number(
            data, kind is pb.UpMsg
        ):
            raise ValueError("a number of more than 64 bits")
    return message


_HIGH_BYTES: Final = bytes([each & 0x80 for each in range(256)])
_LONG: Final = b"\x80" * 9
"""The first bytes of a number of more than 64 bits, after the translation by
:data:`_HIGH_BYTES`."""


def _has_long_number(data: bytes, nested: bool = False) -> bool:
    """Whether a field of a message is a number of more than 64 bits.

    The library must have read ``data`` before: this function does not check the
    end of ``data`` and the length of numbers. ``nested``: whether field 1 is a
    message, too, which is then searched.
    """
    position = 0
    while position < len(data):
        # Each field begins with its number and its type.
        tag, position = _number(data, position)
        number = 0
        kind = tag & _TYPE_MASK
        if kind == _VARINT:
            number, position = _number(data, position)
        elif kind == _BYTES:
            size, position = _number(data, position)
            is_first_field = tag == 1 << _TYPE_BITS | _BYTES
            if (
                nested
                and is_first_field
                and _has_long_number(data[position : position + size])
            ):
                return True
            position += size
        else:
            position += _FIXED_BYTES.get(kind, 0)
        if number >> _NUMBER_BITS:
            return True
    return False


def _number(data: bytes, start: int) -> tuple[int, int]:
    """Decode the number that begins at ``start``. Returns the number and its
    end."""
    value = 0
    shift = 0
    end = start
    while data[end] > _VARINT_MASK:
        value |= (data[end] & _VARINT_MASK) << shift
        shift += _VARINT_BITS
        end += 1
    return value | data[end] << shift, end + 1


def _heartbeat(_data: bytes) -> Command:
    """Decode a heartbeat. Its data are ignored."""
    return Heartbeat()


def _sync(data: bytes) -> Command:
    """Decode a sync of the original's clients."""
    return ChatSync(_parse(pb.SyncInputMsg, data).seq)


Row = tuple[str, Callable[[bytes], Command]]
"""The name of a command, and the function that decodes its data."""

COMMANDS: Final[dict[int, Row]] = {
    CT_LOGIN: ("login", _login),
    CT_HEARTBEAT: ("heartbeat", _heartbeat),
    CT_MESSAGE: ("message", _message),
    CT_SYNC: ("sync", _sync),
}
"""``CmdType`` → the command, for every command of the original's clients."""
FIRST_KIND_OF_FEATURES: Final = 64


def _row_of_feature(name: str, read: Callable[[bytes], Command]) -> tuple[int, Row]:
    """The kind and the row of a command of a feature.

    ``name`` is the number of the kind, and ``read`` decodes JSON. Raises
    ConfigError if the number belongs to the dialect itself.
    """
    kind = id_of(name)
    if not FIRST_KIND_OF_FEATURES <= kind <= _MAX_INT32:
        raise ConfigError(
            f"the dialect {NAME}: {name!r} is no number of a kind, which is at least {FIRST_KIND_OF_FEATURES}"
        )

    def read_json(data: bytes) -> Command:
        """Decode the JSON of the command. Raises Refused."""
        if has_nul(data):
            raise Refused(ReplyCode.BAD_PARAMETER)
        return read(data or b"{}")

    return kind, (name, read_json)


class ProtobufDialect(Dialect):
    """The codec of the ``protobuf`` dialect, for the original's clients.

    These clients know few kinds of entries and no errors.
    """

    name = NAME
    path = "/ws"
    text = False
    batches = True
    commands: Mapping[int, Row] = COMMANDS
    readers: Mapping[str, Callable[[bytes], Command]] = {}
    """The commands of features only. Their names are the numbers of their
    kinds."""

    def joined(self, readers: Readers) -> Self:
        """A copy of the codec that also decodes the commands of features."""
        joined_codec = super().joined(readers)
        rows = dict(map(_row_of_feature, readers, readers.values()))
        joined_codec.commands = {**self.commands, **rows}
        return joined_codec

    def decode(self, payload: bytes) -> Request:
        """Read one ``Input``, which is one command.

        Acks and unknown commands get no answer. For them, raises a BadFrame
        that contains no answer. The method :meth:`unreadable` handles data that
        cannot be read.
        """
        try:
            message = pb.Input.FromString(payload)
        except protobuf_message.DecodeError:
            raise BadFrame(None) from None
        data = message.data
        row = self.commands.get(message.type)
        if row is None:
            raise BadFrame(None)
        # Look for a number of more than 64 bits in the frame around the data.
        if len(payload) - len(data) > len(_LONG) and _has_long_number(payload):
            raise BadFrame(None)
        name, read = row
        try:
            return Request("", name, read(data))
        except (protobuf_message.DecodeError, ValueError):
            return self.unreadable(name)
        except Refused as refused:
            return self.unreadable(name, refused.code)

    def unreadable(self, name: str, code: int = ReplyCode.BAD_PARAMETER) -> Request:
        """Handle a command whose data is unreadable: drop it, because these
        clients know no errors. Raises BadFrame."""
        raise BadFrame(None)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Encode the ack of a login. Returns None for all other replies, which
        these clients do not know."""
        if request.name == "login" and reply.code == ReplyCode.OK:
            return _login_ack()
        return None

    def encode_event(self, event: Event) -> bytes | None:
        """Encode a push that is not stored, as a message without a receiver and
        without a position (``seq`` 0)."""
        if event.kind != "msg":
            return None
        return push(
            pb.Message(
                session_type=ST_SINGLE,
                sender_id=account(event.sender),
                message_type=type_number(event.type),
                content=event.data or event.text.encode(),
                send_time=event.time * _SECOND_MS,
            )
        )

    def encode_message(self, message: Message) -> bytes | None:
        """Encode the push of a stored message. Returns None for an entry that
        these clients cannot read."""
        frame = self.encode_entry(message)
        if frame is None:
            return None
        return push(frame)

    # --- beyond the contract --------------------------------------------------

    encode_entry: Callable[[Message], pb.Message | None] = staticmethod(as_message)
    """A function that makes a ``Message`` of an entry, or None if these clients
    have no form for it."""

    def page(
        self, messages: Iterable[pb.Message], more: bool, begin_anew: bool
    ) -> bytes:
        """Encode the answer to a sync: some entries, and whether there are
        ``more``.

        The original does not know ``begin_anew``, so it is not sent here.
        """
        page = pb.SyncOutputMsg(messages=messages, has_more=more)
        return output(CT_SYNC, page.SerializeToString())

    def encode_refusal(self, code: int, chat_number: int) -> bytes | None:
        """Encode the refusal of a message. Returns None, because these clients
        know no refusals."""
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
"""Kinds of frames that only the full dialect has."""


def _id(number: int) -> int:
    """The number as an id. A number that is too large becomes the largest id,
    which no entry has."""
    return min(number, _MAX_ID)


def _read_ack(data: bytes) -> Command:
    """Decode the acknowledgement of a push. Raises ValueError for other kinds
    of acknowledgements."""
    ack = _parse(pb.ACKMsg, data)
    if ack.type != AT_PUSH:
        raise ValueError("not the ack of a push")
    return FIELDS_OF_COMMANDS["ack"](Fields({"id": _id(ack.seq)}))


def _read_sync(data: bytes) -> Command:
    """Decode a sync of the full dialect, which may have a limit."""
    sync = _parse(pb.SyncInputMsg, data)
    return ChatSync(sync.seq, Fields({"limit": sync.limit}).limit())


def _read_typing(data: bytes) -> Command:
    """Decode the notice that a user is typing, for a user or a conversation."""
    typing = _parse(pb.TypingMsg, data)
    to = typing.receiver_id
    if to > _MAX_ID:
        raise ValueError("not the id of an account")
    user = str(to) if to else ""
    fields = {"to": user, "conversation": _id(typing.conversation)}
    return FIELDS_OF_COMMANDS["typing"](Fields(fields))


def _row(name: str, kind: str, **fields: str) -> Row:
    """The row of a command whose data is one message of protobuf.

    ``kind``: the name of this message, such as ``HideMsg``. ``fields``: the
    name of a field of the command → its name in the message. For example,
    ``_row("hide", "HideMsg", ids="seqs")`` reads the field ``ids`` of the
    command from ``seqs``.
    """
    make = FIELDS_OF_COMMANDS[name]

    def read(data: bytes) -> Command:
        """Decode the data of the command."""
        message = _parse(getattr(pb, kind), data)
        values = {
            field: _plain(getattr(message, source)) for field, source in fields.items()
        }
        return make(Fields(values))

    return name, read


def _plain(value: Any) -> object:
    """A field of a protobuf message in the form that it has in JSON: bytes as
    text, ids as numbers, and lists."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int):
        return _id(value)
    return list(value)


_MARK: Final = {"conversation": "conversation", "id": "seq"}
_PAGE: Final = {"conversation": "conversation", "before": "before", "limit": "limit"}

FULL_COMMANDS: Final[dict[int, Row]] = {
    **COMMANDS,
    CT_ACK: ("ack", _read_ack),
    CT_SYNC: ("sync", _read_sync),
    CT_READ: _row("read", "PlaceMsg", **_MARK),
    CT_RECEIVED: _row("received", "PlaceMsg", **_MARK),
    CT_TYPING: ("typing", _read_typing),
    CT_HIDE: _row("hide", "HideMsg", ids="seqs"),
    CT_HISTORY: _row("history", "HistoryMsg", **_PAGE),
    CT_CONVERSATIONS: _row(
        "conversations", "ConversationsMsg", before="before", limit="limit"
    ),
    CT_RECEIPTS: _row(
        "receipts",
        "ReceiptsMsg",
        conversation="conversation",
        after="after",
        limit="limit",
    ),
    CT_MARKS: _row("marks", "MarksMsg", version="version"),
    CT_SEARCH: _row("search", "SearchMsg", text="text", **_PAGE),
}
"""Kind → the command, for every command of these clients."""


AT_REFUSED: Final = 4
"""Reply codes that are sent in place of an ack."""
KINDS: Final = (
    "message",
    "recall",
    "edit",
    "group",
    "join",
    "leave",
    "reaction",
    "pin",
    "press",
)
"""Kinds of entries in the order of their numbers from 0."""
SIGNALS: Final = ("typing", "receipt", "hidden", "contact", "piece")
"""Kinds of signals in the order of their numbers from 1."""


class Recovered(Struct, frozen=True):
    """Whether missed entries follow the reply to a login.

    If they do not follow, the client must request them. With ``begin_anew`` it
    requests all entries from the beginning, and otherwise the entries after its
    cursor.
    """

    recovered: bool
    begin_anew: bool = False


# --- what the server says -----------------------------------------------------


def _login_ack(recovered: bool = False, begin_anew: bool = False) -> bytes:
    """Encode the reply to a login that has succeeded."""
    ack = pb.ACKMsg(type=AT_LOGIN, recovered=recovered, begin_anew=begin_anew)
    return output(CT_ACK, ack.SerializeToString())


def refusal(code: int, request: int, chat_number: int = 0) -> bytes:
    """Encode the refusal of a login or a message.

    ``request``: the kind of the refused frame, for example :data:`CT_LOGIN`.
    ``chat_number``: the number that the client has given a message.
    """
    ack = pb.ACKMsg(type=AT_REFUSED, clientId=chat_number, request=request)
    return output(CT_ACK, ack.SerializeToString(), code)


def as_full_message(stored: Message) -> pb.Message:
    """A stored entry of any kind as a ``Message`` of protobuf with all its
    fields."""
    sender_id, sender = _number_or_name(stored.sender)
    # An entry without a receiver belongs to a group.
    if stored.to:
        session_type = ST_SINGLE
        receiver_id, receiver = _number_or_name(stored.to)
    else:
        session_type = ST_GROUP
        receiver_id = stored.conversation
        receiver = b""

    return pb.Message(
        session_type=session_type,
        receiver_id=receiver_id,
        sender_id=sender_id,
        message_type=_type_of(stored),
        content=stored.body,
        seq=stored.id,
        send_time=stored.time_ms,
        kind=KINDS.index(stored.kind),
        about=stored.about,
        conversation=stored.conversation,
        conversation_seq=stored.seq,
        client_msg_id=stored.client_msg_id.encode(),
        meta=stored.meta,
        sender=sender,
        receiver=receiver,
    )


def _type_of(stored: Message) -> int:
    """The field ``message_type`` of an entry.

    For a message with content, the result is the number of its type. For a
    reaction or a pin, it is 1 if the reaction or pin was added, and 2 if it was
    removed. Other kinds have 0.
    """
    if stored.kind in ("message", "edit"):
        return type_number(stored.type)
    if stored.kind in ("reaction", "pin"):
        return {"add": 1, "remove": 2}.get(stored.type, 0)
    return 0


def _number_or_name(user: str) -> tuple[int, bytes]:
    """The two fields that name a user.

    For a user with an account, the fields are the number of the account and
    ``b""``. For a user without an account, they are 0 and the id of the user.
    """
    number = account(user)
    if number:
        return number, b""
    return 0, user.encode()


def _signal(event: Signal) -> bytes:
    """Encode a signal, which is a short notice that is not stored: ``typing``,
    a receipt, or a piece of a streamed message."""
    sender_id, sender = _number_or_name(event.sender)
    receiver_id, receiver = _number_or_name(event.to)
    signal = pb.SignalMsg(
        kind=SIGNALS.index(event.kind) + 1,
        sender_id=sender_id,
        receiver_id=receiver_id,
        conversation=event.conversation,
        read=event.read,
        received=event.received,
        hidden=event.ids,
        sender=sender,
        receiver=receiver,
    )

    # The event is a piece of a message that is still being written.
    if event.channel is not None and event.channel.stream is not None:
        stream = event.channel.stream
        signal.stream = stream.id.encode()
        signal.piece = stream.piece
        signal.content = event.text.encode()
        signal.whole = stream.whole
        signal.done = stream.done
    return output(CT_SIGNAL, signal.SerializeToString())


# --- answers, made of what the services answer --------------------------------


def _messages(page: Any) -> Iterable[pb.Message]:
    """The entries of a page. The page was prepared for clients with JSON, so
    each of its rows contains its entry."""
    return (as_full_message(each.message()) for each in page.messages)


def _conversation(row: Any) -> pb.Conversation:
    """A row of a list of conversations, with its last entry.

    ``place``: the position of the row in the list. A row without a position has
    the id of its last entry instead. The next page begins after this place.
    """
    peer_id, peer = _number_or_name(row.peer)
    last = None
    place = row.position
    # A conversation may have no entry that the user can read.
    if row.last is not None:
        last = as_full_message(row.last.message())
        place = place or row.last.id
    return pb.Conversation(
        id=row.id,
        session_type=ST_SINGLE if row.kind == "user" else ST_GROUP,
        unread=max(row.unread, 0),
        read=max(row.read, 0),
        role=row.role.encode(),
        peer_id=peer_id,
        name=row.name.encode(),
        last=last,
        peer=peer,
        place=place,
    )


def _receipt(row: Any, conversation: int = 0) -> pb.Receipt:
    """The positions up to which a user has received and read. ``conversation``
    is 0 in a list that is about one conversation."""
    user_id, user = _number_or_name(row.user)
    return pb.Receipt(
        user_id=user_id,
        read=row.read,
        received=row.received,
        conversation=conversation,
        user=user,
    )


def _no_data(_data: Any) -> pb.HeartbeatMsg:
    """The answer to a command that has no data in its reply."""
    return pb.HeartbeatMsg()


def _history_answer(data: Any) -> pb.HistoryOutputMsg:
    """The answer to a request for earlier entries."""
    return pb.HistoryOutputMsg(messages=_messages(data), has_more=data.more)


def _conversations_answer(data: Any) -> pb.ConversationsOutputMsg:
    """The answer to a request for the conversations of the user."""
    return pb.ConversationsOutputMsg(
        conversations=map(_conversation, data.conversations), has_more=data.more
    )


def _receipts_answer(data: Any) -> pb.ReceiptsOutputMsg:
    """The answer to a request for the receipts of a conversation."""
    return pb.ReceiptsOutputMsg(
        receipts=map(_receipt, data.receipts), has_more=data.has_more
    )


def _marks_answer(data: Any) -> pb.MarksOutputMsg:
    """The answer to a request for changes since a version.

    The answer has the positions up to which the user has read, hidden entries,
    and receipts.
    """
    read = [
        pb.PlaceMsg(conversation=each.conversation, seq=each.id) for each in data.read
    ]
    return pb.MarksOutputMsg(
        version=data.version,
        read=read,
        hidden=data.hidden,
        receipts=[_receipt(each, each.conversation) for each in data.receipts],
    )


def _search_answer(data: Any) -> pb.SearchOutputMsg:
    """The answer to a search in messages."""
    return pb.SearchOutputMsg(
        messages=_messages(data), has_more=data.has_more, before=data.before
    )


_ANSWERS: Final[dict[int, Callable[[Any], protobuf_message.Message]]] = {
    CT_READ: _no_data,
    CT_RECEIVED: _no_data,
    CT_TYPING: _no_data,
    CT_HIDE: _no_data,
    CT_HISTORY: _history_answer,
    CT_CONVERSATIONS: _conversations_answer,
    CT_RECEIPTS: _receipts_answer,
    CT_MARKS: _marks_answer,
    CT_SEARCH: _search_answer,
}
"""Kind of answer → function that encodes its data."""
_KIND_OF: Final = {name: kind for kind, (name, _) in FULL_COMMANDS.items()}


class FullProtobufDialect(ProtobufDialect):
    """The codec for clients that log in with a cursor. It can encode every
    entry, and errors."""

    commands = FULL_COMMANDS

    def unreadable(self, name: str, code: int = ReplyCode.BAD_PARAMETER) -> Request:
        """Handle a command whose data is unreadable: the client gets the error
        ``code``."""
        return Request("", name, None, code)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Encode a reply, with the kind of its request.

        A login is acknowledged or refused. Returns None for commands without a
        reply.
        """
        kind = _KIND_OF.get(request.name, 0)
        if kind in _ANSWERS:
            if reply.data is None:
                body = b""
            else:
                body = _ANSWERS[kind](reply.data).SerializeToString()
            return output(kind, body, reply.code)
        # A command of a feature has its number as name, and JSON as data.
        if request.name.isdecimal():
            body = b"" if reply.data is None else msgspec.json.encode(reply.data)
            return output(int(request.name), body, reply.code)

        if request.name != "login":
            return None
        if reply.code != ReplyCode.OK:
            return refusal(reply.code, kind)
        about = reply.data
        if isinstance(about, Recovered):
            return _login_ack(about.recovered, about.begin_anew)
        return _login_ack()

    def encode_event(self, event: Event) -> bytes | None:
        """Encode a push that is not stored, or a signal. Returns None for a
        signal that these clients do not know."""
        if isinstance(event, Signal):
            if event.kind in SIGNALS:
                return _signal(event)
            return None
        return super().encode_event(event)

    encode_entry = staticmethod(as_full_message)

    def page(
        self, messages: Iterable[pb.Message], more: bool, begin_anew: bool
    ) -> bytes:
        """Encode the answer to a sync: some entries, whether there are
        ``more``, and whether the client must begin anew."""
        page = pb.SyncOutputMsg(messages=messages, has_more=more, begin_anew=begin_anew)
        return output(CT_SYNC, page.SerializeToString())

    def encode_refusal(self, code: int, chat_number: int) -> bytes:
        """Encode the refusal of a message. The client must not use its number
        again."""
        return refusal(code, CT_MESSAGE, chat_number)


PLAIN: Final = ProtobufDialect()
"""The codec of all connections, until a login with a cursor."""
FULL: Final = FullProtobufDialect()
"""The codec of a connection after a login with a cursor."""
