"""The cmd dialect, without I/O (docs/reference/protocol.md): frames, and
commands on stored messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from random import getrandbits
from secrets import token_hex
from types import NoneType
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from imserver_client.errors import (
    REPLY_NOT_LOGGED_IN,
    REPLY_NOT_STORED,
    REPLY_OK,
    ClientError,
    CommandRefused,
)
from imserver_client.messages import (
    SIGNALS,
    Annotation,
    Answered,
    AppendedPieces,
    Arrangement,
    ArrangementPage,
    BotCommandPage,
    Button,
    ClosedAnswer,
    ConversationPage,
    ConversationWish,
    Entry,
    Folder,
    FolderList,
    Marks,
    MessagePage,
    OpenedAnswer,
    PinPage,
    ReceiptCounts,
    ReceiptPage,
    Reported,
    Sent,
    Signal,
    StoppedAnswer,
    Thread,
    ThreadList,
    ThreadMark,
    ThreadPage,
    UnsentText,
)


class Push(Struct, frozen=True):
    """A push that the server sends.

    ``kind`` is ``"msg"``, ``"enter"`` or ``"exit"``. ``sender`` is the user who
    wrote, came or left. ``id`` is the id that the back end gave to its push.
    ``type`` names the format of ``text``: ``"text"``, or a name on which back
    end and client have agreed; see :meth:`json`.
    """

    kind: str
    sender: str
    text: str
    id: str = ""
    type: str = "text"

    def json(self) -> Any:
        """Decode the payload of a push with ``data``. Raises ValueError if it
        is not JSON."""
        return json.loads(self.text)


class Position(Struct, frozen=True):
    """The position of a publication in the history of its channel: ``offset``
    in the life ``epoch``."""

    epoch: str
    offset: int


class Publication(Struct, frozen=True):
    """A publication to a channel to which the session has subscribed: ``text``,
    or JSON as ``data``.

    ``epoch`` and ``offset`` are its position (``""`` and 0: the channel has no
    history). ``info`` is about the client that published it, if a client did.
    ``sender`` is the user of this client, or the name that the back end has
    given. ``stream``: it is the end of this streamed message, which its
    publisher may not have finished (``incomplete``).
    """

    channel: str
    text: str | None = None
    data: Any = None
    type: str = ""
    epoch: str = ""
    offset: int = 0
    id: str = ""
    sender: str = msgspec.field(default="", name="from")
    info: dict[str, Any] | None = None
    tags: dict[str, str] = {}
    stream: str = ""
    incomplete: bool = False

    @property
    def position(self) -> Position | None:
        """Its position in the history. Save it, and pass it as ``since`` at the
        next start."""
        if self.offset:
            return Position(self.epoch, self.offset)
        return None


class ChannelNotice(Struct, frozen=True):
    """News of a channel.

    ``kind``: ``"join"`` and ``"leave"``: ``info`` is about the client.
    ``"reload"``: publications may be missing, so load the state again.
    ``"ended"``: the server has ended the subscription, for the reason ``code``.
    ``refused`` is the reason why the server refuses to begin it again.
    """

    kind: str
    channel: str
    info: dict[str, Any] | None = None
    code: int = 0
    refused: str | None = None


class StreamUpdate(Struct, frozen=True):
    """The whole text so far of a streamed message.

    ``done``: the text is final, but ``incomplete`` if its publisher did not
    finish it. Then a :class:`Publication` follows, if the message has any text.
    """

    channel: str
    stream: str
    text: str
    done: bool = False
    incomplete: bool = False
    type: str = ""
    sender: str = ""
    tags: dict[str, str] = {}


class StreamFrame(Struct, frozen=True):
    """A frame of a streamed message: the piece number ``piece``, or the
    ``whole`` text up to it."""

    channel: str
    stream: str
    piece: int
    text: str
    whole: bool = False
    done: bool = False
    incomplete: bool = False
    type: str = ""
    sender: str = msgspec.field(default="", name="from")
    tags: dict[str, str] = {}


class ChannelHistory(Struct, frozen=True):
    """Publications of a channel, and the position of the newest one."""

    epoch: str
    offset: int
    publications: tuple[Publication, ...]


class Subscriber(Struct, frozen=True):
    """A client in a channel. ``info``, ``channel_info``: claims of its tokens
    about it."""

    connection: str
    user: str
    info: Any = None
    channel_info: Any = msgspec.field(default=None, name="channelInfo")


class SubscriberPage(Struct, frozen=True):
    """Subscribers of a channel; ``total`` counts all, ``next`` is the ``after``
    of the next page."""

    total: int
    subscribers: tuple[Subscriber, ...]
    next: str = ""


class Reply(Struct, frozen=True):
    """The answer to one command.

    ``code``: 200, or a reply code. ``text``: as the server has sent it.
    ``data``: the result of the command.
    """

    seq: str
    cmd: str
    code: int
    text: str = ""
    data: Any = None

    @property
    def ok(self) -> bool:
        """Whether the command was carried out."""
        return self.code == REPLY_OK

    @property
    def reason(self) -> str | None:
        """The reason why the back end of the app has rejected the message; None
        if it has not."""
        return self._text("reason")

    @property
    def refused(self) -> str | None:
        """The reason why the server refuses the command, such as ``denied`` or
        ``not_bot``; None if it gives no reason."""
        return self._text("refused")

    def _text(self, field: str) -> str | None:
        """A text in the data of a refusal, or None."""
        if self.ok or not isinstance(self.data, dict):
            return None
        text = self.data.get(field)
        if isinstance(text, str):
            return text
        return None


ChannelEvent = Publication | ChannelNotice | StreamUpdate
ChannelFrame = Publication | ChannelNotice | StreamFrame
AccountFrame = Arrangement | FolderList | ConversationWish | ThreadMark
"""A change that another device of the user has made."""
ServerFrame = Push | Entry | Signal | AccountFrame | ChannelFrame | Reply


class _Response(Struct):
    code: int = 0
    codeMsg: str = ""
    data: Any = None


class _Frame(Struct):
    seq: str = ""
    cmd: str = ""
    response: _Response = msgspec.field(default_factory=_Response)


_PREFIX_BITS: Final = 32
"""Number of random bits with which the numbers of a session's commands
begin."""
_PUSHES: Final = frozenset({"msg", "enter", "exit"})
_CHANNEL_FRAMES: Final[dict[str, type[Publication | StreamFrame]]] = {
    "publication": Publication,
    "stream": StreamFrame,
}
_NOTICES: Final = {"join": "join", "leave": "leave", "unsubscribed": "ended"}
_decode = msgspec.json.Decoder(_Frame).decode
_encode = msgspec.json.Encoder().encode


class CmdCodec:
    """Encodes commands and decodes frames.

    It numbers the commands of a session. Threads may share it.
    """

    def __init__(self) -> None:
        self._prefix = f"{getrandbits(_PREFIX_BITS):08x}"
        self._numbers = count(1)

    def command(self, cmd: str, data: Any = None) -> tuple[str, str]:
        """Encode a command. Returns its ``seq``, by which its answer is
        recognised, and the text frame:
        ``{"seq":"5f1c0a2b-7","cmd":"ping","data":{}}``."""
        seq = f"{self._prefix}-{next(self._numbers)}"
        if data is None:
            data = {}
        return seq, _encode({"seq": seq, "cmd": cmd, "data": data}).decode()

    def login(
        self,
        app: str,
        user: str,
        token: str = "",
        device: str = "",
        more: dict[str, Any] | None = None,
    ) -> tuple[str, str]:
        """Encode the login of ``user`` in ``app``, with ``more`` fields.
        Returns ``seq`` and frame."""
        data: dict[str, Any] = {"userID": user}
        # A name that is a number has a field of its own in the cmd dialect.
        if app.isdecimal():
            data["appID"] = int(app)
        else:
            data["app"] = app
        data["serviceToken"] = token
        data |= more or {}
        if device:
            data["device"] = device
        return self.command("login", data)

    def read(self, frame: str | bytes) -> ServerFrame | None:
        """Decode a frame of the server. Returns None if it is malformed.

        Its ``cmd`` is the kind of a push, an entry or a notice. Otherwise the
        frame is the answer to the command of this name.
        """
        try:
            read = _decode(frame)
        # RecursionError: a sender may nest data too deeply.
        except (ValueError, RecursionError):
            return None

        response = read.response
        if read.cmd in _PUSHES and isinstance(response.data, dict):
            return _push_of(read, response.data)
        if read.cmd == "message":
            return Entry.of(response.data)
        if read.cmd in _CHANNEL_FRAMES or read.cmd in _NOTICES:
            return _channel_frame(read.cmd, response.data)
        # A frame ``typing`` without data is the answer to the command typing.
        if read.cmd in SIGNALS and response.data is not None:
            return Signal.of(read.cmd, response.data)
        if read.cmd == "arrangement":
            return Arrangement.of(response.data)
        if read.cmd == "folders":
            return FolderList.of(response.data)
        if read.cmd == "threadMark":
            return ThreadMark.of(response.data)
        if read.cmd == "wish":
            return ConversationWish.of(response.data)
        return Reply(read.seq, read.cmd, response.code, response.codeMsg, response.data)


def _push_of(frame: _Frame, data: dict[str, Any]) -> Push:
    """The push in a frame with these data. The id of a push is the ``seq`` of
    its frame."""
    return Push(
        kind=frame.cmd,
        sender=str(data.get("from", "")),
        text=str(data.get("msg", "")),
        id=frame.seq,
        type=str(data.get("type", "text")),
    )


def _channel_frame(cmd: str, data: Any) -> ChannelFrame | None:
    """Decode the data of a frame about a channel: a publication, a piece of a
    streamed message, or a notice. Returns None if it is malformed."""
    try:
        if cmd in _CHANNEL_FRAMES:
            return msgspec.convert(data, _CHANNEL_FRAMES[cmd])
        return msgspec.convert({**data, "kind": _NOTICES[cmd]}, ChannelNotice)
    except (msgspec.ValidationError, TypeError):
        return None


# --- Commands on stored messages ----------------------------------------------

COMMAND_SECONDS: Final = 30.0
"""Time limit of a command, over any number of connections."""
_ID_BYTES: Final = 12
"""Bytes of a message id that the client makes."""
STORING: Final = frozenset({"send", "edit", "recall", "press"})
"""Commands whose answers have the id of a stored entry."""
_TRY_AGAIN: Final = frozenset({REPLY_NOT_LOGGED_IN, REPLY_NOT_STORED})

A = TypeVar("A")


@dataclass(frozen=True)
class Command(Generic[A]):
    """A command with its data, the type of its answer, and the time limit for
    it."""

    cmd: str
    data: dict[str, Any]
    answer: type[A]
    timeout_seconds: float = COMMAND_SECONDS

    def read(self, reply: Reply) -> A:
        """Decode the answer to this command.

        Raises :class:`CommandRefused` if the server has refused it, and
        :class:`ClientError` if the answer is malformed.
        """
        if not reply.ok:
            raise CommandRefused(
                reply.cmd, reply.code, reply.text, reply.reason, reply.refused
            )
        try:
            return msgspec.convert(reply.data, self.answer)
        except msgspec.ValidationError as error:
            raise ClientError(f"{reply.cmd}: malformed answer: {error}") from error


def is_final(reply: Reply) -> bool:
    """Return whether the same command would get the same answer again.

    It would not if the database did not answer, or if the login is not
    finished.
    """
    return reply.code not in _TRY_AGAIN


def send(
    to: str = "",
    text: str | None = None,
    *,
    conversation: int = 0,
    data: Any = None,
    type: str = "",
    client_msg_id: str = "",
    reply_to: int = 0,
    mentions: Sequence[str] = (),
    buttons: Sequence[Sequence[Button]] = (),
    thread: int = 0,
    also: bool = False,
    timeout_seconds: float = COMMAND_SECONDS,
) -> Command[Sent]:
    """Send ``text``, or JSON as ``data``, to a user or to a ``conversation``.
    Returns where it is stored.

    ``buttons``: rows of buttons under the message of a bot. ``thread``: a
    message of the conversation; this message is a reply in its thread.
    ``also``: the conversation shows the reply, too.

    Raises :class:`CommandRefused`, with a ``reason`` if the back end rejected
    the message. Raises :class:`Closed` with the code 1009 if the message is
    larger than the server allows. Raises :class:`NotConnected` after
    ``timeout_seconds``: the message may be stored or not, so send it again with
    the same ``client_msg_id`` (the client makes one unless you give it). Raises
    ValueError for both or none of ``to`` and ``conversation``, or of ``text``
    and ``data``.
    """
    fields = _receiver(to, conversation) | _content(text, data, type)
    fields["clientMsgID"] = client_msg_id or token_hex(_ID_BYTES)
    if reply_to:
        fields["replyTo"] = reply_to
    if mentions:
        fields["mentions"] = list(mentions)
    if thread:
        fields |= {"thread": thread, "also": also}
    fields |= _buttons(buttons)
    return Command("send", fields, Sent, timeout_seconds)


def _buttons(rows: Sequence[Sequence[Button]]) -> dict[str, Any]:
    """The field ``buttons`` of a command; empty if there are no buttons."""
    encoded: list[list[dict[str, str]]] = []
    for row in rows:
        encoded.append([{"text": each.text, "value": each.value} for each in row])
    if not encoded:
        return {}
    return {"buttons": encoded}


def edit(
    id: int,
    text: str | None = None,
    *,
    data: Any = None,
    type: str = "",
    buttons: Sequence[Sequence[Button]] = (),
) -> Command[Sent]:
    """Replace the content of one of your messages, and its buttons."""
    fields: dict[str, Any] = {"id": id, "clientMsgID": token_hex(_ID_BYTES)}
    fields |= _content(text, data, type)
    fields |= _buttons(buttons)
    return Command("edit", fields, Sent)


def press(id: int, value: str) -> Command[Sent]:
    """Press a button under a message of a bot."""
    fields = {"id": id, "value": value, "clientMsgID": token_hex(_ID_BYTES)}
    return Command("press", fields, Sent)


def answer(
    id: int, value: str = "", *, text: str = "", choices: Sequence[int] | None = None
) -> Command[Answered]:
    """Answer a question with the value of one of its options, or with free
    text.

    In a poll, vote for ``choices``: options by their index. They replace your
    earlier vote; an empty list withdraws it. Raises CommandRefused with
    ``answered`` if others were first, or if the poll is closed.
    """
    fields: dict[str, Any] = {"id": id}
    if choices is not None:
        fields["choices"] = list(choices)
    elif value:
        fields["value"] = value
    else:
        fields["text"] = text
    return Command("answer", fields, Answered)


def bot_commands(conversation: int) -> Command[BotCommandPage]:
    """Get the slash commands of the bots in a conversation."""
    return Command("botCommands", {"conversation": conversation}, BotCommandPage)


def stream_open(
    to: str = "",
    *,
    conversation: int = 0,
    text: str = "",
    type: str = "",
    thread: int = 0,
    stoppers: Sequence[str] | None = None,
) -> Command[OpenedAnswer]:
    """Begin a streamed message to a user or a ``conversation``, or a reply in a
    ``thread`` of it; for bots.

    ``stoppers``: the users who may stop it; None: all readers. The command is
    sent once, so that no second stream is opened. Raises :class:`NotConnected`
    without an answer.
    """
    fields = _receiver(to, conversation)
    fields["text"] = text
    if type:
        fields["type"] = type
    if thread:
        fields["thread"] = thread
    if stoppers is not None:
        fields["stoppers"] = list(stoppers)
    return Command("streamOpen", fields, OpenedAnswer)


def stream_append(pieces: Sequence[tuple[str, int, str]]) -> Command[AppendedPieces]:
    """Append pieces, (stream, number, text), to streamed messages. The pieces
    of a stream have the numbers 1, 2, 3 and so on. The server ignores repeated
    pieces."""
    encoded = [
        {"stream": stream, "piece": piece, "text": text}
        for stream, piece, text in pieces
    ]
    return Command("streamAppend", {"pieces": encoded}, AppendedPieces)


def stream_close(stream: str, *, incomplete: bool = False) -> Command[ClosedAnswer]:
    """End a streamed message, which is then stored. ``incomplete``: its text is
    not finished."""
    return Command(
        "streamClose", {"stream": stream, "incomplete": incomplete}, ClosedAnswer
    )


def stream_stop(stream: str) -> Command[StoppedAnswer]:
    """Stop a streamed message that you read. Its text so far is stored, with
    you as ``stopped`` in ``meta``."""
    return Command("streamStop", {"stream": stream}, StoppedAnswer)


def recall(id: int) -> Command[Sent]:
    """Take one of your messages back."""
    return Command("recall", {"id": id, "clientMsgID": token_hex(_ID_BYTES)}, Sent)


def forward(id: int, to: str = "", *, conversation: int = 0) -> Command[Sent]:
    """Send the content of a message that you can read to a user or to a
    ``conversation``."""
    fields = _receiver(to, conversation)
    fields["forward"] = id
    fields["clientMsgID"] = token_hex(_ID_BYTES)
    return Command("send", fields, Sent)


def react(id: int, emoji: str, *, remove: bool = False) -> Command[Annotation]:
    """React to a message with an emoji, or remove your reaction. Its entry is
    also sent to you."""
    return Command("react", {"id": id, "emoji": emoji, "remove": remove}, Annotation)


def pin(id: int, *, remove: bool = False) -> Command[Annotation]:
    """Pin a message in its conversation, or remove the pin. Its entry is also
    sent to you."""
    return Command("pin", {"id": id, "remove": remove}, Annotation)


def pins(conversation: int, *, before: int = 0) -> Command[PinPage]:
    """Get the pinned messages of a conversation; the one that was pinned last
    comes first. ``before``: from the page before."""
    return Command("pins", {"conversation": conversation, "before": before}, PinPage)


def typing(to: str = "", *, conversation: int = 0) -> Command[None]:
    """Show that you are writing. It is sent once, and only while there is a
    connection."""
    return Command("typing", _receiver(to, conversation), NoneType)


def read(conversation: int, id: int) -> Command[None]:
    """Mark a conversation as read up to this entry; the senders get a
    receipt."""
    return Command("read", {"conversation": conversation, "id": id}, NoneType)


def received(conversation: int, id: int) -> Command[None]:
    """Mark a conversation as received up to this entry; the senders get a
    receipt."""
    return Command("received", {"conversation": conversation, "id": id}, NoneType)


def hide(ids: Sequence[int]) -> Command[None]:
    """Hide entries from yourself, on all your devices."""
    return Command("hide", {"ids": list(ids)}, NoneType)


def threads(before: int = 0, limit: int = 50) -> Command[ThreadList]:
    """Get the threads that you follow; the ones with the newest replies come
    first."""
    return Command("threads", {"before": before, "limit": limit}, ThreadList)


def thread(thread: int, before: int = 0, limit: int = 50) -> Command[ThreadPage]:
    """Get the last replies in the thread of a message."""
    return Command(
        "thread", {"thread": thread, "before": before, "limit": limit}, ThreadPage
    )


def follow_thread(thread: int, *, remove: bool = False) -> Command[Thread]:
    """Follow the thread of a message, or mute it (``remove``)."""
    return Command("followThread", {"thread": thread, "remove": remove}, Thread)


def read_thread(thread: int, id: int) -> Command[Thread]:
    """Store the id of the reply up to which you have read a thread that you
    follow."""
    return Command("readThread", {"thread": thread, "id": id}, Thread)


def arrange(
    conversation: int,
    *,
    pinned: int | None = None,
    archived: int | None = None,
    marked: int | None = None,
    draft: UnsentText | None = None,
    folders: Sequence[int] | None = None,
) -> Command[Arrangement]:
    """Change your own settings of a conversation, on all your devices.

    None means no change. 0 ends each of the settings that are numbers, and
    ``UnsentText()`` removes the draft. ``folders``: ids of folders of
    :func:`set_folders`.
    """
    given = {
        "pinned": pinned,
        "archived": archived,
        "marked": marked,
        "draft": draft,
        "folders": folders,
    }
    fields = {
        name: msgspec.to_builtins(value)
        for name, value in given.items()
        if value is not None
    }
    return Command("arrange", {"conversation": conversation} | fields, Arrangement)


def set_folders(folders: Sequence[Folder]) -> Command[FolderList]:
    """Make, name, order and remove your folders, on all your devices.
    ``folders`` are all your folders, at most 20."""
    return Command(
        "setFolders", {"folders": msgspec.to_builtins(list(folders))}, FolderList
    )


def arrangements(version: int = 0, limit: int = 50) -> Command[ArrangementPage]:
    """Get the changes since a version that you have made with :func:`arrange`,
    on any device."""
    return Command(
        "arrangements", {"version": version, "limit": limit}, ArrangementPage
    )


def report(
    id: int = 0, *, user: str = "", reason: str, text: str = ""
) -> Command[Reported]:
    """Report a message of somebody else, or a user, to the moderators of the
    app.

    ``reason``: one of ``safety.reasons`` of the app. ``text``: further facts
    for the moderators.
    """
    given = {"id": id, "user": user, "reason": reason, "text": text}
    fields = {name: value for name, value in given.items() if value}
    return Command("report", fields, Reported)


def marks(version: int = 0) -> Command[Marks]:
    """Get the bookmarks that you have made since a version."""
    return Command("marks", {"version": version}, Marks)


def receipts(
    conversation: int, after: str = "", limit: int = 50, message: int = 0
) -> Command[ReceiptPage]:
    """Get how far the other members have read and received a conversation.

    The members come in the order of their ids, from the first one greater than
    ``after``. ``message``: only members who have read this message.
    """
    fields = {
        "conversation": conversation,
        "after": after,
        "limit": limit,
        "message": message,
    }
    return Command("receipts", fields, ReceiptPage)


def receipt_counts(conversation: int, ids: Iterable[int]) -> Command[ReceiptCounts]:
    """Get how many other members have received and read messages."""
    return Command(
        "receiptCounts", {"conversation": conversation, "ids": list(ids)}, ReceiptCounts
    )


def conversations(before: int = 0, limit: int = 50) -> Command[ConversationPage]:
    """Get your conversations, the latest first. For the next page pass
    ``before`` of the last one."""
    return Command(
        "conversations", {"before": before, "limit": limit}, ConversationPage
    )


def history(
    conversation: int,
    before: int = 0,
    limit: int = 50,
    *,
    after: int | None = None,
    types: Sequence[str] = (),
) -> Command[MessagePage]:
    """Get entries of a conversation: the latest ones, those before an id, or
    the first ones ``after`` an id.

    ``types``: only messages of these types. Then pass ``before`` of the page to
    get the next one.
    """
    fields: dict[str, Any] = {
        "conversation": conversation,
        "before": before,
        "limit": limit,
    }
    if after is not None:
        fields["after"] = after
    if types:
        fields["types"] = list(types)
    return Command("history", fields, MessagePage)


def search(
    text: str,
    conversation: int = 0,
    before: int = 0,
    limit: int = 50,
    *,
    sender: str = "",
    types: Sequence[str] = (),
    link: bool = False,
    since: int = 0,
    until: int = 0,
) -> Command[MessagePage]:
    """Get the messages that have all words of ``text``, in one conversation or
    in all of yours.

    The last word may be unfinished, and a phrase stands in double quotes.
    Filters are the ``sender`` of messages; their ``types`` (default: ``text``
    if ``text`` or ``link`` is given, else all); and only messages with a
    ``link``. ``since`` and ``until`` are Unix milliseconds; a message sent at
    ``until`` is left out. With a filter ``text`` may be empty.
    """
    fields: dict[str, Any] = {
        "text": text,
        "conversation": conversation,
        "before": before,
        "limit": limit,
    }
    filters = {
        "from": sender,
        "types": list(types),
        "link": link,
        "since": since,
        "until": until,
    }
    fields |= {name: value for name, value in filters.items() if value}
    return Command("search", fields, MessagePage)


def _receiver(to: str, conversation: int) -> dict[str, Any]:
    """The field that names the receiver of a command. Raises ValueError unless
    exactly one of the two is given."""
    if bool(to) == bool(conversation):
        raise ValueError("pass either a user or a conversation")
    if to:
        return {"to": to}
    return {"conversation": conversation}


def _content(text: str | None, data: Any, type: str) -> dict[str, Any]:
    """The fields with the content of a command.

    ``type`` is ``""`` for the usual type. Raises ValueError unless exactly one
    of ``text`` and ``data`` is given.
    """
    if (text is None) == (data is None):
        raise ValueError("pass either text or data")
    content: dict[str, Any] = {}
    if data is None:
        content["text"] = text
    else:
        content["data"] = data
    if type:
        content["type"] = type
    return content


# --- Commands on channels -----------------------------------------------------


def publish(
    channel: str, text: str | None = None, *, data: Any = None, type: str = ""
) -> Command[None]:
    """Publish ``text``, or JSON as ``data``, to a channel to which you have
    subscribed."""
    return Command(
        "publish", {"channel": channel} | _content(text, data, type), NoneType
    )


def channel_history(
    channel: str,
    since: Position | None = None,
    limit: int = 50,
    *,
    reverse: bool = False,
) -> Command[ChannelHistory]:
    """Get publications of a channel after a position. With ``reverse``, get
    those before it, the newest first."""
    if since is None:
        position = {}
    else:
        position = {"epoch": since.epoch, "offset": since.offset}
    fields = {"channel": channel, "limit": limit, "reverse": reverse, **position}
    return Command("channelHistory", fields, ChannelHistory)


def subscribers(
    channel: str, after: str = "", limit: int = 50
) -> Command[SubscriberPage]:
    """Get the subscribers of a channel, in the order in which they came."""
    fields = {"channel": channel, "after": after, "limit": limit}
    return Command("channelPresence", fields, SubscriberPage)
