"""Plain data shared by all layers: commands (requests of clients) and events
(messages from the server).

A dialect decodes bytes into a :class:`Request` with one of the commands, and
encodes an :class:`Event` or :class:`Reply` into bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from imserver.gateway.errors import ReplyCode

SYSTEM_PREFIX: Final = "system:"
"""Prefix of the apps that serve systems of the client dialect."""
ACTION_PREFIX: Final = "action:"
"""Prefix of the apps of the action dialect, before an ``appId``."""

ERASED: Final = "deleted:"
"""The beginning of the name that replaces the id of an erased user. Nobody can
log in under such a name."""


encode_json: Final = msgspec.json.Encoder().encode
"""Encodes as JSON. For hot paths: 88 ns for a short text.
``msgspec.json.encode`` takes 132 ns, since it makes an encoder for each
call."""


class Service(Struct, eq=False):
    """The base of services that are Structs. Services are equal only if they
    are the same object.

    If a log names a service, as for a failed greenlet, it does not show the
    fields: they have secrets of settings and sets of connections.
    """

    __repr__ = object.__repr__


class Limit:
    """The limits of the requests of clients and back ends."""

    ID: Final = 2**63 - 1
    """The greatest id or number that can be stored."""
    NUMBER: Final = 2**32 - 1
    """The greatest number in a frame that counts no entries."""
    MIN_TIME_MS: Final = -62_135_596_800_000
    """The beginning of the year 1, in Unix milliseconds: an earlier time cannot
    be shown everywhere."""
    TIME_MS: Final = 253_402_300_799_999
    """The end of the year 9999, in Unix milliseconds: a later time cannot be
    shown everywhere."""
    CLIENT_MSG_ID_BYTES: Final = 64
    """The ``client_msg_id`` of a message, in bytes of UTF-8."""
    TYPE_BYTES: Final = 32
    """The type of a message, in bytes of UTF-8."""
    EMOJI_BYTES: Final = 32
    """The emoji of a reaction, in bytes of UTF-8."""
    ROOM_BYTES: Final = 255
    """The name of a room, in bytes of UTF-8."""
    PAGE: Final = 200
    """The entries of a page."""
    MENTIONS: Final = 100
    """The users that a message mentions."""
    TYPES: Final = 20
    """The types in a request for messages of some types."""
    HIDDEN: Final = 1000
    """The ids that one command hides."""
    WORDS_BYTES: Final = 256
    """The text of a search, in bytes of UTF-8."""
    CHANNEL_BYTES: Final = 255
    """The name of a channel, in bytes of UTF-8."""
    PRESENCE: Final = 10_000
    """The subscribers in an answer. Up to this number, their users are counted
    exactly."""
    BUTTON: Final = 64
    """The characters of the text of a button or an option of a question, and
    the bytes of its value."""
    OPTIONS: Final = 8
    """The options of a question."""
    ANSWERS: Final = 20
    """The users whose answers a question needs. Each entry about the question
    has all of them."""
    QUESTION_SECONDS: Final = 30 * 86_400
    """The time until the deadline of a question."""
    ANSWER_CHARACTERS: Final = 1000
    """A free text that answers a question."""
    ANSWERERS: Final = 100
    """The users who may answer a question, where they are named."""


_ID_DIGITS: Final = len(str(Limit.ID))


def is_of_device(device: str, name: str) -> bool:
    """Tell whether the device of a session is a device, or a part of it.

    A part is named ``NAME/PART``, where ``NAME`` is the device. A device
    without a name has no parts.
    """
    if device == name:
        return True
    return name != "" and device.rpartition("/")[0] == name


def id_of(text: str) -> int:
    """Return the id that a text of decimal digits is.

    It is 0 if the text is no id: it has other characters or leading zeros, or
    is too great.
    """
    if not (text.isascii() and text.isdecimal()):
        return 0
    if len(text) > _ID_DIGITS or text[0] == "0":
        return 0
    id = int(text)
    if id > Limit.ID:
        return 0
    return id


class Command(Struct, frozen=True, gc=False):
    """A command of a client.

    The service that runs it has the row of its class.
    """


class Login(Command, frozen=True, gc=False):
    """Log in as ``user`` of ``app`` on a ``device`` (``""`` is a valid
    name)."""

    app: str
    user: str
    token: str = ""
    device: str = ""


class Heartbeat(Command, frozen=True, gc=False):
    """A sign of life of the client, which renews the expiry of the session."""


class Ping(Command, frozen=True, gc=False):
    """Request for a ``pong``. It is allowed before login, and renews
    nothing."""


class Resume(Login, frozen=True, gc=False):
    """A login of a client that uses stored messages.

    ``cursor`` is the greatest id of an entry that the client has. 0 means that
    the client has no entry. ``acks`` says whether the client acknowledges
    messages.
    """

    cursor: int = 0
    acks: bool = False


class Subscribe(Command, frozen=True, gc=False):
    """Subscribe to a channel.

    ``token`` is a subscription token. ``""`` means that there is no token. If
    ``recover`` is set, the client has all publications up to ``offset`` of the
    history epoch ``epoch``, and wants the later publications. ``positioned``
    and ``recoverable`` say whether the client wants to know the position of the
    channel. ``delta`` says whether the client can read deltas. ``data`` is JSON
    for the back end. ``b""`` means that there is no JSON. If
    ``reject_unrecovered`` is set, the subscription is refused if some of the
    later publications are lost.
    """

    channel: str
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    recoverable: bool = False
    delta: bool = False
    data: bytes = b""
    reject_unrecovered: bool = False


class Unsubscribe(Command, frozen=True, gc=False):
    """End a subscription."""

    channel: str


class Publish(Command, frozen=True, gc=False):
    """Publish to a channel.

    The content is the JSON ``data``, or ``text`` if ``data`` is ``b""``.
    """

    channel: str
    data: bytes = b""
    text: str = ""
    type: str = "custom"


class AskPresence(Command, frozen=True, gc=False):
    """Request the subscribers of a channel.

    ``limit`` is the largest number of subscribers. 0 means as many as an answer
    may have. ``after`` is the cursor of an earlier answer, after which the
    subscribers begin. ``""`` means from the beginning.
    """

    channel: str
    limit: int = 0
    after: str = ""


class AskHistory(Command, frozen=True, gc=False):
    """Request publications of a channel.

    ``limit``: the largest number of publications. -1 means all of them, and 0
    means only the position of the channel. ``since``: the history epoch and
    offset after which the publications begin. None means from the beginning.
    ``reverse``: the newest publication comes first. The publications then begin
    before ``since``, or with the newest one.
    """

    channel: str
    limit: int = 0
    since: tuple[str, int] | None = None
    reverse: bool = False


class Request(Struct, gc=False):
    """One decoded client frame.

    ``seq`` is the id of the request, and ``name`` the name of the command. The
    reply repeats both. ``command`` is None if the dialect refuses the request.
    Then ``code`` is the reply code (:class:`ReplyCode`).
    """

    seq: str
    name: str
    command: Command | None
    code: int = 0


class Reply(Struct, gc=False):
    """The answer to one request: a reply code (:class:`ReplyCode`) and data.

    If the data are None, the answer has no data. ``why`` is the reason of a
    refusal, if several reasons have the same code. ``""`` means that the code
    says enough. Only operators see the reason.
    """

    code: int
    data: Any = None
    why: str = ""
    OK: ClassVar[Reply]
    """Done: no data."""


Reply.OK = Reply(ReplyCode.OK)
Answer = Callable[[Reply], None]
"""Sends the answer to a request, at once or later."""


class StreamPart(Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """The part of an event that is about its streamed message.

    ``id`` is the id of the streamed message. ``piece`` is the number of the
    last piece that the text of the event contains. 0 means that it contains no
    piece yet. ``whole`` says whether the text is the whole message so far.
    Otherwise the text is only this piece. ``done`` says whether the message is
    over. ``incomplete`` says whether the publisher did not finish the message.
    ``stopped`` is the reader who has stopped the message. ``""`` means that
    nobody has stopped it.
    """

    id: str
    piece: int
    whole: bool = False
    done: bool = False
    incomplete: bool = False
    stopped: str = ""


class ChannelPart(Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """The part of an event that is about its channel.

    ``name`` is the name of the channel. ``offset`` is the number of a
    publication in the history of its channel. 0 means that the channel has no
    history. ``epoch`` is the epoch of that history. ``info`` is JSON about the
    client that published, joined or left. ``b""`` means that the back end did
    so. ``tags`` is a JSON object of strings. ``stream`` is the part about a
    streamed message. None means that the event has no such part. If a streamed
    answer is a reply in a thread, ``thread`` is the id of the message that the
    thread is about. Otherwise ``thread`` is 0.
    """

    name: str
    offset: int = 0
    epoch: str = ""
    info: bytes = b""
    tags: bytes = b""
    stream: StreamPart | None = None
    thread: int = 0


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """A message from the server to a client that is not a reply.

    ``sender`` is the author of the message, and ``text`` its text. ``id`` is
    the message id that the caller of a push gave. ``""`` means that the dialect
    makes an id. ``kind`` is one of:

    - ``"msg"``: a message.
    - ``"enter"``, ``"exit"``: somebody has entered or left an app.
    - ``"left"``: somebody has left a room.
    - ``"online"``, ``"offline"``: a group of the client dialect is online or
      offline.
    - ``"join"``, ``"leave"``: somebody has joined or left a channel.
    - ``"stream"``: a part of a streamed message. Its end is a ``"msg"`` with
      the whole text.
    - ``"subscribed"``, ``"unsubscribed"``: the server has subscribed this
      connection, or ended its subscription for the reason ``code``.
    """

    kind: str
    sender: str
    text: str
    id: str = ""
    type: str = "text"
    """Type of the payload: ``text``, ``image``, … or a type of the back end's
    own."""
    data: bytes = b""
    """The payload as JSON, if the payload is not a string. Otherwise ``data``
    is ``b""``, and ``text`` is the payload."""
    code: int = 0
    """Number of a push in the client dialect."""
    note: str = ""
    """Field ``msg`` of the client dialect."""
    time: int = 0
    """Time of the event in Unix seconds; 0 if it is not used."""
    channel: ChannelPart | None = None
    """Set in all events of a channel."""
    notify: bytes = b""
    """The field ``notify`` of a push (:mod:`imserver.gateway.notify`), as JSON.
    ``b""`` means that the push has no such field."""


class Compressed(Event, frozen=True, gc=False, omit_defaults=True):
    """A publication for a subscriber that reads deltas.

    ``data`` is the whole payload. If ``delta`` is True, ``data`` is the
    difference from the payload of the previous publication.
    """

    delta: bool = False


class Signal(Event, frozen=True, gc=False, omit_defaults=True):
    """An event for the followers of a conversation, or of a user, that is not
    stored. ``kind`` is one of:

    - ``typing``: ``sender`` is typing to the user ``to``, or in
      ``conversation``.
    - ``receipt``: ``sender`` has read ``conversation`` up to the id ``read``,
      or received it up to the id ``received``.
    - ``hidden``: ``sender`` has hidden the messages ``ids``.
    - ``contact``: the relation of ``sender`` and ``to`` has changed.
    - ``piece``: a piece of a streamed message of ``sender``, with ``text``;
      ``channel`` has the stream. In all other kinds ``text`` is empty.

    A signal of another kind has its content as JSON in ``data``. Empty fields
    are not used.
    """

    to: str = ""
    conversation: int = 0
    read: int = 0
    received: int = 0
    ids: tuple[int, ...] = ()

    def as_json(self) -> bytes:
        """Encode the JSON that clients get.

        The JSON has neither the kind nor empty fields. A signal of a streamed
        message also has the piece.
        """
        if self.kind == "hidden":
            return encode_json({"ids": self.ids})
        # A signal of a feature has its whole content in ``data``.
        if self.data:
            return self.data
        data: dict[str, Any] = {"from": self.sender}
        for key in ("to", "conversation", "read", "received"):
            value = getattr(self, key)
            if value:
                data[key] = value
        channel = self.channel
        if channel is None or channel.stream is None:
            return encode_json(data)

        stream = channel.stream
        data |= {"stream": stream.id, "piece": stream.piece, "text": self.text}
        if self.type != "text":
            data["type"] = self.type
        if channel.thread:
            data["thread"] = channel.thread
        for flag in ("whole", "done"):
            if getattr(stream, flag):
                data[flag] = True
        return encode_json(data)


Backlog = list[Any] | tuple[Callable[[], None], ...]
"""The backlog of a log subscription: stored messages that wait, and functions
that acknowledge messages of its own client. See :class:`LogSubscription`."""


class LogSubscription(Struct, gc=False):
    """The subscription of a connection to the log of its user.

    ``backlog`` is None while the subscription is live: entries are delivered
    when they are stored. Before the subscription is live, the client has not
    requested all earlier entries, and no new entry may overtake them. During
    this time ``backlog`` is a tuple of waiting acknowledgements, or a list that
    also collects new messages, in order.
    """

    backlog: Backlog | None = ()
    groups: tuple[int, ...] = ()
    """Conversations whose followers contain the connection."""
    has_cursor: ClassVar[bool] = True
    """The client tracks a cursor. Its acknowledgements wait until it has caught
    up."""

    @property
    def live(self) -> bool:
        """Whether new entries are delivered at once."""
        return self.backlog is None


class ClientFacts(Struct, gc=False):
    """The facts about a client for a back end that decides for it.

    ``transport`` is ``websocket``, ``http_stream`` or ``sse``. ``headers`` are
    the headers that the back end gets. They come from the client's first
    request and from its ``connect``. ``meta`` is JSON about the client for the
    back end only. ``b""`` means that there is no such JSON.
    """

    transport: str
    headers: dict[str, str]
    meta: bytes = b""


class DialectState(Struct, gc=False):
    """The state of a connection that its dialect owns.

    Each dialect with state has a subclass. ``channels_from_log`` says whether
    the connection receives stored messages of its rooms from the log. ``info``
    is JSON about the connection for others in its channels. ``b""`` means that
    there is no such JSON. ``channel_infos`` is channel → JSON about the
    connection for others in this channel. None means that no channel has such
    JSON. ``facts`` are facts for the back end that decides for the client. None
    means that no back end does so.
    """

    channels_from_log: bool = False
    info: bytes = b""
    channel_infos: dict[str, bytes] | None = None
    facts: ClientFacts | None = None

    def set_facts(self, transport: str, headers: dict[str, str]) -> None:
        """Set the facts about the client, for the back end that decides for
        it."""
        self.facts = ClientFacts(transport, headers)

    def set_info(self, channel: str, info: bytes) -> bytes:
        """Set the data about the client that others in a channel see.

        Returns the previous data. ``b""`` means no data.
        """
        # Most connections have no such data, and so no dict.
        if not (info or self.channel_infos):
            return b""
        infos = self.channel_infos or {}
        self.channel_infos = infos
        before = infos.pop(channel, b"")
        if info:
            infos[channel] = info
        return before

    def resubscribes(self, channel: str) -> bool:
        """Tell whether the client subscribes to a channel again by itself.

        The server asks this when it ends the subscription, or the connection
        (:meth:`reconnects`).
        """
        return False

    def reconnects(self, channel: str) -> bool:
        """Tell whether the client gets a subscription again only by
        reconnecting.

        It is so if the server has subscribed the client.
        """
        return False

    def receives_own_joins(self) -> bool:
        """Tell whether the client gets the notice that it has joined a channel
        itself."""
        return False


class BadFrame(Exception):
    """A frame that is no request of its dialect.

    ``reply`` is the payload of the answer. None means that there is no answer.
    ``close`` is the code with which the connection is closed. 0 means that the
    connection stays open.
    """

    TEXT: Final = "数据不合法".encode()
    """The plain text with which the original servers answer an undecodable
    frame."""

    def __init__(self, reply: bytes | None, close: int = 0) -> None:
        """Take the answer to the frame, and the close code."""
        super().__init__("not a request of this dialect")
        self.reply = reply
        self.close = close


class Outcome(IntEnum):
    """The result of a push to one target."""

    NOT_SENT = 0
    """No receiver is online. The message id may be used again."""
    SENT = 1
    """A receiver has got the push."""
    REPEATED = 2
    """The message id was accepted before. Nothing was delivered again."""
    FAILED = 3
    """The user is on another node, which has not received it. The message id
    may be used again."""
    PARTLY = 4
    """For an app or a room: some nodes have received the push, but at least one
    node has not."""
    PENDING = 5
    """No receiver is online. The push is delivered if the user logs in within
    the time limit."""
    STORED = 6
    """The push is in the message log. Sessions that use stored messages receive
    it from the log."""
    REFUSED = 7
    """The push can never be accepted: it is too long for its channel, for
    example."""
    UNKNOWN = 8
    """The user is not on this node. The registry does not say whether the user
    is on another node. The message id may be used again."""


ACCEPTED: Final = frozenset(
    {Outcome.SENT, Outcome.PARTLY, Outcome.PENDING, Outcome.STORED}
)
"""Outcomes after which the message id must not be used again."""

YIELD_TARGETS: Final = 256
"""Number of targets of a large push after which the event loop runs."""
