"""The ``cmd`` dialect: JSON text frames ``{"seq","cmd","data"}`` on ``/acc``
(docs/reference/protocol.md).

Decoding has two paths. A frame with exactly the documented keys is decoded by
msgspec's typed decoder (0.2 µs). All other frames (keys in another letter case,
unknown keys, lone surrogates) are parsed by the standard library. It is ten
times slower, and accepts the same deviations as the original.
"""

from collections.abc import Sequence
from itertools import count
from time import time_ns
from typing import Any, Final, Self

import msgspec
from msgspec import Raw, Struct, UnsetType

from imserver.gateway import errors
from imserver.gateway.channels.client_commands import ChannelAnswers
from imserver.gateway.channels.members import ChannelMember, ChannelRefused, Reason
from imserver.gateway.channels.subscriptions import Subscribed
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import (
    AskHistory,
    AskPresence,
    BadFrame,
    ChannelPart,
    DialectState,
    Event,
    Heartbeat,
    Limit,
    Login,
    Ping,
    Publish,
    Reply,
    Request,
    Resume,
    Signal,
    Subscribe,
    Unsubscribe,
    encode_json,
)
from imserver.gateway.protocol.dialect import Dialect, Readers, StoredMessage
from imserver.gateway.protocol.forgiving import (
    BACKSLASH,
    Fields,
    Refused,
    has_nul,
    well_formed,
)
from imserver.gateway.protocol.publications import raw_or_none, stream_view
from imserver.gateway.transport.connection import Connection

_MAX_CHANNEL_BYTES: Final = Limit.CHANNEL_BYTES
_MAX_EPOCH_BYTES: Final = 64
_MAX_TOKEN_BYTES: Final = 8192
_MAX_POSITION_BYTES: Final = 128
"""Size of the longest position of a page in a list of subscribers."""
_MILLISECOND_NS: Final = 1_000_000


# --- channels -----------------------------------------------------------------


def _channel(fields: Fields) -> str:
    """Read the name of the channel of a command. Raises Refused."""
    channel = fields.short_text("channel", _MAX_CHANNEL_BYTES)
    if not channel:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return channel


def _position(fields: Fields) -> tuple[str, int] | None:
    """Read the epoch and the offset of a position in a channel's history.

    Returns None if the client names no position. Raises Refused.
    """
    if "epoch" not in fields.values:
        return None
    return fields.short_text("epoch", _MAX_EPOCH_BYTES), fields.id("offset")


def _subscribe(data: bytes) -> Subscribe:
    """Read ``{"channel":"news","token":"…","epoch":"x1","offset":7}``.

    With a position (``epoch`` and ``offset``), the client wants the
    publications after it. Raises Refused.
    """
    fields = Fields.of(data)
    since = _position(fields)
    epoch, offset = since or ("", 0)
    token = fields.short_text("token", _MAX_TOKEN_BYTES)
    return Subscribe(_channel(fields), token, since is not None, epoch, offset)


def _unsubscribe(data: bytes) -> Unsubscribe:
    """Read ``{"channel":"news"}``. Raises Refused."""
    return Unsubscribe(_channel(Fields.of(data)))


def _publish(data: bytes) -> Publish:
    """Read ``{"channel":"news","text":"hello"}``.

    A publication may have ``data``, any JSON, in place of ``text``. Raises
    Refused.
    """
    fields = Fields.verbatim(data)
    channel = _channel(fields)
    if "text" not in fields.values and "data" not in fields.values:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)

    kind, body = fields.content()
    if "data" in fields.values:
        return Publish(channel, body, type=kind)
    return Publish(channel, text=body.decode(), type=kind)


def _presence(data: bytes) -> AskPresence:
    """Read ``{"channel":"news","limit":10,"after":"…"}``."""
    fields = Fields.of(data)
    channel = _channel(fields)
    limit = fields.limit()
    after = fields.short_text("after", _MAX_POSITION_BYTES)
    return AskPresence(channel, limit, after)


def _channel_history(data: bytes) -> AskHistory:
    """Read ``{"channel":"news","limit":10,"epoch":"x1","offset":7,
    "reverse":true}``."""
    fields = Fields.of(data)
    channel = _channel(fields)
    limit = fields.limit()
    since = _position(fields)
    return AskHistory(channel, limit, since, fields.flag("reverse"))


class _ChannelNotice(Struct, omit_defaults=True):
    """The data of ``join``, ``leave`` and ``unsubscribed``.

    ``info`` is JSON about the subscriber, and ``code`` says why a subscription
    ended.
    """

    channel: str
    info: Raw | None = None
    code: int = 0


MAX_DEVICE_BYTES = 32
"""Longest device name, in bytes of UTF-8; a longer one is ignored."""


class _Frame(Struct, forbid_unknown_fields=True):
    """A frame of a client: ``{"seq":"1","cmd":"login","data":{…}}``."""

    seq: str | None = None
    cmd: str | None = None
    data: Raw = Raw(b"null")


_decode_frame = msgspec.json.Decoder(_Frame).decode


class _Login(Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``login``, in the documented spelling."""

    user: str = msgspec.field(name="userID")
    app: int = msgspec.field(name="appID")
    token: str = msgspec.field(default="", name="serviceToken")


_decode_login: Final = msgspec.json.Decoder(_Login).decode


def _login(data: bytes) -> Login:
    """Read ``{"userID":"ann","appID":1,"serviceToken":"…"}``.

    A login with other keys, or with another spelling of these keys, is read by
    the slower function :func:`_login_with_anything`. Raises Refused.
    """
    try:
        usual = _decode_login(data)
    except (ValueError, RecursionError):
        return _login_with_anything(data)

    # The user id of a usual login is ASCII. Its characters are bytes, so the id
    # need not be encoded to count its bytes.
    user = usual.user
    if (
        user.isascii()
        and 0 < len(user) <= MAX_USER_BYTES
        and 0 <= usual.app <= Limit.NUMBER
    ):
        return Login(str(usual.app), user, usual.token)
    return _login_with_anything(data)


def _login_with_anything(data: bytes) -> Login:
    """Read a login with keys in any letter case, and with additional fields.

    The original server does not have the fields ``app``, ``device``, ``cursor``
    and ``acks``. Raises Refused.
    """
    fields = Fields.of(data)
    user = fields.text("userid")
    token = fields.text("servicetoken")
    app = str(fields.number("appid"))
    name = fields.values.get("app")
    if isinstance(name, str) and name:
        app = name
        # Apps of other dialects have such names. They are refused like any unknown
        # app.
        if ":" in name:
            # Apps of other dialects have such names. They are refused like any
            # unknown app.
            app = ""
    if not 0 < len(user.encode()) <= MAX_USER_BYTES:
        raise Refused(errors.ReplyCode.BAD_USER)

    device = _device(fields)
    # If the client gives a cursor, it asks for the stored messages after the
    # cursor.
    if "cursor" not in fields.values:
        return Login(app, user, token, device)
    cursor = fields.id("cursor")
    acks = fields.values.get("acks") is True
    return Resume(app, user, token, device, cursor, acks)


def _device(fields: Fields) -> str:
    """Read the device of a login.

    Returns ``""`` if the login names no device, or if the name is ignored
    because it is no text or too long.
    """
    device = fields.values.get("device", "")
    if not isinstance(device, str):
        return ""
    device = well_formed(device)
    if len(device.encode()) > MAX_DEVICE_BYTES:
        return ""
    return device


def _heartbeat(data: bytes) -> Heartbeat:
    """Read ``{"userID":"ann"}``. The field ``userID`` has no effect, but it
    must be a text."""
    if data != b"{}" and data != b"null":
        Fields.of(data).text("userid")
    return _HEARTBEAT


# A command without fields is made only once, because making it takes 46 ns.
_HEARTBEAT: Final = Heartbeat()
_PING: Final = Ping()


def _ping(_data: bytes) -> Ping:
    """Return the command ``ping``. Its data are ignored."""
    return _PING


COMMANDS: Final[Readers] = {
    "login": _login,
    "heartbeat": _heartbeat,
    "ping": _ping,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "channelPresence": _presence,
    "channelHistory": _channel_history,
}
"""The commands of the gateway. Features add more."""
PUSHED = frozenset({"enter", "exit", "msg"})
"""Kinds of events that the dialect can express."""

# The constant parts of frames, encoded once. A reply or a push joins a few
# parts.
_PUSH: Final = b'{"seq":"%d","cmd":%b,"response":{"code":200,"codeMsg":"Ok","data":%b}}'
_HEADS = {
    kind: b',"cmd":%b,"response":{"code":200,"codeMsg":"Ok","data":{"target":"","type":'
    % encode_json(kind)
    for kind in PUSHED
}
_HEADS_OF_TEXTS = {kind: head + b'"text","msg":' for kind, head in _HEADS.items()}


def _response(code: int) -> bytes:
    """Encode the beginning of a response, to which its data and ``}}`` are
    added."""
    text = encode_json(errors.reply_text(code))
    return b',"response":{"code":%d,"codeMsg":%b,"data":' % (code, text)


_REPLIES = {code: _response(code) for code in errors.REPLY_TEXT}


class CmdDialect(Dialect):
    """Reads and writes the frames of the ``cmd`` dialect."""

    name = "cmd"
    path = "/acc"
    readers: Readers = COMMANDS

    def __init__(self) -> None:
        """Prepare the numbers of pushes and the encoded names of commands."""
        self._numbers = count(time_ns() // _MILLISECOND_NS)
        """Makes the ``seq`` of each push. The numbers rise, also after a
        restart."""
        self._names = {name: encode_json(name) for name in COMMANDS}
        """Name of a command → the name as JSON."""

    def joined(self, readers: Readers) -> Self:
        """Return the codec with the commands of features added."""
        codec = super().joined(readers)
        codec._names = self._names | {name: encode_json(name) for name in readers}
        return codec

    def decode(self, payload: bytes) -> Request:
        """Decode one request, for example
        ``{"seq":"1","cmd":"ping","data":{}}``.

        A frame that is no request raises BadFrame. A command that is unknown or
        has wrong data gives a request with a reply code instead of a command.
        """
        if not payload:
            raise BadFrame(BadFrame.TEXT)
        try:
            frame = _decode_frame(payload)
            seq = frame.seq or ""
            name = frame.cmd or ""
            data = bytes(frame.data)
        except (ValueError, RecursionError):
            # The frame has another spelling than the documented one.
            try:
                seq, name, data = Fields.frame(payload, "cmd")
            except (ValueError, RecursionError):
                raise BadFrame(BadFrame.TEXT) from None

        read = self.readers.get(name)
        if read is None:
            return Request(seq, name, None, errors.ReplyCode.NO_ROUTE)
        try:
            # JSON can contain U+0000 only as an escape, and few texts have
            # escapes.
            if read is not _ping and BACKSLASH in data and has_nul(data):
                return Request(seq, name, None, errors.ReplyCode.BAD_PARAMETER)
            return Request(seq, name, read(data))
        except Refused as refused:
            return Request(seq, name, None, refused.code)

    def encode_reply(self, request: Request, reply: Reply) -> bytes:
        """Encode the answer to a request.

        It repeats ``seq`` and ``cmd``. For example, ``{"seq":"1","cmd":"ping",
        "response":{"code":200,"codeMsg":"Ok","data":"pong"}}``.
        """
        name = request.name
        # An empty ``seq`` and missing data are constants here. Every ping has
        # them, so the encoder is not called for them.
        seq = b'""'
        if request.seq:
            seq = encode_json(request.seq)
        end = b"null}}"
        if reply.data is not None:
            end = encode_json(reply.data) + b"}}"
        return b"".join(
            (
                b'{"seq":',
                seq,
                b',"cmd":',
                self._names.get(name) or encode_json(name),
                _REPLIES.get(reply.code) or _response(reply.code),
                end,
            )
        )

    def encode_event(self, event: Event) -> bytes | None:
        """Encode a pushed frame: ``enter``, ``exit``, ``msg`` or a signal.

        Returns None for an event that the dialect cannot express. For example,
        ``{"seq":"7","cmd":"msg","response":{"code":200,"codeMsg":"Ok",
        "data":{"target":"","type":"text","msg":"hello","from":"ann"}}}``.
        """
        kind = event.kind
        head = _HEADS_OF_TEXTS.get(kind)
        if head is None:
            if not isinstance(event, Signal):
                return None
            # A signal is an event of a feature. Its kind is its command.
            return _PUSH % (next(self._numbers), encode_json(kind), event.as_json())

        if event.type != "text":
            head = b'%b%b,"msg":' % (_HEADS[kind], encode_json(event.type))
        # As at the original server, a message without an id gets no number.
        # Other frames get a number.
        seq = event.id
        if not seq and kind != "msg":
            seq = str(next(self._numbers))
        text = event.text
        if event.data:
            text = event.data.decode()
        # The head opens three objects, which the last bytes close.
        return b"".join(
            (
                b'{"seq":',
                encode_json(seq),
                head,
                encode_json(text),
                b',"from":',
                encode_json(event.sender),
                b"}}}",
            )
        )

    def encode_message(self, message: StoredMessage) -> bytes:
        """Encode a pushed frame with a stored message."""
        return _PUSH % (message.id, b'"message"', encode_json(message.view()))


class CmdPublicationView(Struct, omit_defaults=True):
    """A publication as clients see it.

    ``info`` is JSON about the client that published it. ``stream`` is set if it
    is the end of this streamed message, which may be ``incomplete``.
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
    """Make the view of a publication for clients.

    JSON is in ``data``, and a text in ``text``.
    """
    part = event.channel or ChannelPart("")
    view = CmdPublicationView(
        part.name, part.offset, part.epoch, event.id, event.sender, event.type
    )
    # Empty parts are left out of the JSON.
    if part.info:
        view.info = Raw(part.info)
    if part.tags:
        view.tags = Raw(part.tags)
    if part.stream is not None:
        view.stream = part.stream.id
        view.incomplete = part.stream.incomplete
    if event.data:
        view.data = Raw(event.data)
    else:
        view.text = event.text
    return view


class ChannelCmdDialect(CmdDialect):
    """The frames for connections that have subscribed to a channel themselves.

    On such a connection, a publication is a frame of its own kind. It has the
    name and the position of the publication's channel.
    """

    def encode_event(self, event: Event) -> bytes | None:
        """Encode an event of a channel, or any other event.

        An event of a channel is a ``publication``, ``stream``, ``join``,
        ``leave`` or ``unsubscribed``. Other events are encoded as
        :class:`CmdDialect` does.
        """
        part = event.channel
        kind = event.kind
        if part is None or isinstance(event, Signal):
            return super().encode_event(event)

        data: Struct
        if kind == "msg":
            kind = "publication"
            data = publication_view(event)
        # A piece of a streamed message.
        elif part.stream is not None:
            data = stream_view(event, part.stream, part.name)
        elif kind in ("join", "leave", "unsubscribed"):
            data = _ChannelNotice(part.name, raw_or_none(part.info), event.code)
        else:
            return super().encode_event(event)
        return _PUSH % (next(self._numbers), encode_json(kind), encode_json(data))


CODE_OF: Final[dict[Reason, int]] = {
    "name": errors.ReplyCode.BAD_PARAMETER,
    "limit": errors.ReplyCode.BAD_PARAMETER,
    "denied": errors.ReplyCode.UNAUTHORIZED,
    "expired": errors.ReplyCode.UNAUTHORIZED,
    "unknown": errors.ReplyCode.NO_DATA,
    "unrecoverable": errors.ReplyCode.NO_DATA,
    "unavailable": errors.ReplyCode.NOT_STORED,
    "rate": errors.ReplyCode.NOT_STORED,
    "full": errors.ReplyCode.FAILED,
    "exists": errors.ReplyCode.FAILED,
    "ended": errors.ReplyCode.FAILED,
    "not_available": errors.ReplyCode.FAILED,
}
"""Reason of a refusal → reply code."""


class CmdState(DialectState, gc=False):
    """The channels to which a client has subscribed its connection itself."""

    channels: tuple[str, ...] = ()

    def resubscribes(self, channel: str) -> bool:
        """Tell whether the client subscribes to a channel again after a
        reconnect.

        The client does so for channels to which it has subscribed itself, but
        not for channels to which a back end has subscribed the client.
        """
        return channel in self.channels


class SubscribedView(Struct, omit_defaults=True):
    """The answer to ``subscribe``.

    ``epoch`` and ``offset`` are the position of a channel with history.
    ``recovered`` says whether no publication is missing; it is None if the
    client has named no position.
    """

    channel: str
    epoch: str = ""
    offset: int | None = None
    recovered: bool | None = None
    publications: list[CmdPublicationView] = []


class SubscriberView(Struct, omit_defaults=True):
    """A subscriber of a channel."""

    connection: str
    user: str
    info: Raw | None = None
    channel_info: Raw | None = msgspec.field(default=None, name="channelInfo")


class PresenceView(Struct, omit_defaults=True):
    """The answer to ``channelPresence``. ``next``: the ``after`` of the next
    page."""

    channel: str
    total: int = -1
    subscribers: list[SubscriberView] | None = None
    next: str = ""


class CmdAnswers(ChannelAnswers):
    """Makes the answers to commands about channels.

    This class owns the :class:`CmdState` of connections. ``codec`` encodes the
    events of connections that subscribe.
    """

    dialect = CmdDialect.name

    def __init__(self, codec: ChannelCmdDialect) -> None:
        """Take the codec for connections that subscribe."""
        self._codec = codec

    def state_of(self, connection: Connection) -> CmdState:
        """Return the state of a connection.

        The state is made when the connection first subscribes.
        """
        state = connection.dialect_state
        if not isinstance(state, CmdState):
            state = CmdState()
            connection.dialect_state = state
        return state

    def refused(self, refused: ChannelRefused) -> Reply:
        """Make the answer to a refused command.

        The answer has a reply code and the name of the reason. If the back end
        has given an error, the answer has that error, too.
        """
        data: dict[str, Any] = {"refused": refused.reason}
        if refused.error is not None:
            data["error"] = {
                "code": refused.error.code,
                "message": refused.error.message,
            }
        return Reply(CODE_OF[refused.reason], data, refused.reason)

    def subscribed(
        self,
        connection: Connection,
        command: Subscribe,
        found: Subscribed,
        _data: Raw | UnsetType,
        _end: int,
    ) -> Reply:
        """Make the answer to a subscription, and remember the subscription.

        From now on the connection receives publications with the names of their
        channels. The client may have asked for missed publications. If no
        publication is lost, the answer has all missed publications.
        """
        state = self.state_of(connection)
        # A second subscription to a channel changes nothing.
        if command.channel not in state.channels:
            state.channels += (found.local.name,)
        connection.encoding = connection.encoding.with_dialect(self._codec)

        view = SubscribedView(command.channel)
        if found.position is not None:
            view.epoch = found.position.epoch
            view.offset = found.position.offset
        if command.recover:
            view.recovered = found.recovered
            if found.recovered:
                view.publications = [
                    publication_view(event) for event in found.publications
                ]
        return Reply(errors.ReplyCode.OK, view)

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """Forget a subscription.

        The client does not subscribe again by itself.
        """
        state = connection.dialect_state
        if isinstance(state, CmdState):
            state.channels = tuple([each for each in state.channels if each != channel])

    def presence(
        self,
        dialect: Dialect,
        command: AskPresence,
        members: Sequence[ChannelMember],
        total: int,
        after: str,
    ) -> Reply:
        """Make the answer with a page of the subscribers of a channel.

        ``total`` is the number of all subscribers, and ``after`` the position
        of the next page.
        """
        subscribers = [
            SubscriberView(
                member.connection,
                member.user,
                raw_or_none(member.info.encode()),
                raw_or_none(member.channel_info.encode()),
            )
            for member in members
        ]
        page = PresenceView(command.channel, total, subscribers, next=after)
        return Reply(errors.ReplyCode.OK, page)

    def history(
        self,
        _dialect: Dialect,
        command: AskHistory,
        publications: Sequence[Event],
        position: Position,
    ) -> Raw:
        """Encode the answer with publications of a channel.

        ``position`` is the position of the channel's newest publication. The
        page may end before that publication.
        """
        page = {
            "channel": command.channel,
            "epoch": position.epoch,
            "offset": position.offset,
            "publications": [publication_view(event) for event in publications],
        }
        return Raw(msgspec.json.encode(page))
