"""The ``centrifuge`` dialect: Centrifugo's client protocol, version 2
(docs/reference/centrifuge-dialect.md).

A client frame contains one command or several. As JSON they are separated by
newlines; as protobuf each is preceded by its length. A server frame contains
one reply or push. An empty reply is a ping, and an empty command is the answer
to a ping.

The classes of this module have the fields of the protocol.
:class:`CentrifugeDialect` reads and writes them as JSON.
:class:`CentrifugeProtobufDialect` reads and writes protobuf messages, which
have the same fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from imserver.dialects.centrifuge import codes
from imserver.plugin.errors import ClientError, CloseCode, ReplyCode, reply_text
from imserver.plugin.wire import (
    AskHistory,
    AskPresence,
    BadFrame,
    Command,
    Compressed,
    Dialect,
    DialectState,
    Event,
    LateModule,
    Publish,
    Readers,
    Refused,
    Reply,
    Request,
    Signal,
    Subscribe,
    Unsubscribe,
    has_nul,
    on_one_line,
    payload_of,
    without_nulls,
)

if TYPE_CHECKING:
    from google.protobuf import message as protobuf_message

    from imserver.dialects.centrifuge import centrifuge_pb2 as pb
    from imserver.plugin.messages import Message
else:
    # Imported on first use because they cost 4 MB, which a node without such
    # clients need not spend.
    protobuf_message = LateModule("google.protobuf.message")
    pb = LateModule("imserver.dialects.centrifuge.centrifuge_pb2")

Payload = bytes | Callable[[str, DialectState | None], bytes]
"""An encoded push: either bytes for all receivers, or a function that makes the
bytes for one receiver. The arguments of the function are a user and the state
of a client."""
Content = Struct | dict[str, Any]
"""The fields of a message, except fields with their default."""
MAX_OFFSET: Final = 2**63 - 1
MAX_COMMANDS: Final = 2000
"""The most commands in one frame. An SDK subscribes to all its channels in one
frame: at most 1,000."""
_REJECT_UNRECOVERED: Final = 2
"""A bit of ``flag`` in a subscription."""
_ID_MASK: Final = 0xFFFFFFFF
"""Ids of commands have 32 bits in protobuf."""
_COMMAND_DEPTH: Final = 4
"""Levels of objects in a command: ``connect``, ``subs`` and each
subscription."""
_BAD_REQUEST: Final = CloseCode.BAD_PAYLOAD
"""Our close code after bytes that are not a frame of this protocol."""

_CLOSES: Final = {
    # Clients of Centrifugo reconnect after 3000 to 3499 and 4000 to 4499, and
    # not after 3500 to 3999 and 4500 to 4999. 4504 means that the token of the
    # session has expired: the client reconnects with a new one. A login with a
    # wrong token is refused with 3500.
    CloseCode.GOING_AWAY: (3001, "shutdown"),
    CloseCode.UNSUPPORTED_DATA: (3501, "bad request"),
    CloseCode.BAD_PAYLOAD: (3501, "bad request"),
    CloseCode.INTERNAL_ERROR: (3004, "internal server error"),
    CloseCode.SLOW_READER: (3008, "slow"),
    CloseCode.HEARTBEAT_EXPIRED: (3012, "no pong"),
    CloseCode.LOGIN_TIMEOUT: (3502, "stale"),
    CloseCode.KICKED: (3503, "force disconnect"),
    CloseCode.TOKEN_INVALID: (3005, "connection expired"),
}
"""Our close code → Centrifugo's code, and its reason."""


def _encode(content: object) -> bytes:
    """Encode JSON on one line.

    Line ends separate frames, so line ends that a payload contains are removed.
    """
    return on_one_line(msgspec.json.encode(content))


# --- what clients send --------------------------------------------------------


class CentrifugeLogin(Command, frozen=True, gc=False):
    """A login. Only the token names the user; ``""`` begins a connection
    without a user.

    ``recover``: the channels in which the server had subscribed the client,
    each with epoch and offset of the last publication that the client has.
    ``channels``: the channels that a client names if it only receives, because
    such a client cannot subscribe later. The other fields are for the back end:
    ``data`` (JSON, or ``b""``), ``name`` and ``version`` of the client, and
    ``headers`` (a browser cannot set them on a WebSocket).
    """

    token: str
    recover: dict[str, tuple[str, int]] = field(default_factory=dict)
    data: bytes = b""
    name: str = ""
    version: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


class RefreshLogin(Command, frozen=True, gc=False):
    """Renew the token of the session."""

    token: str


class RefreshSubscription(Command, frozen=True, gc=False):
    """Renew the token of a subscription."""

    channel: str
    token: str


class AskPresenceStats(Command, frozen=True, gc=False):
    """Request how many subscribers and users a channel has."""

    channel: str


class CallMethod(Command, frozen=True, gc=False):
    """Call a method of the app's back end, or of this server if the app has no
    back end for methods. ``data``: JSON, or ``b""`` if the command has no
    data."""

    method: str
    data: bytes = b""


class _Subscribe(Struct):
    """The content of a command ``subscribe``, as clients send it.

    ``recover``: whether the client wants the publications after ``epoch`` and
    ``offset``. ``recoverable``, ``positioned``: whether the client wants to
    know its position. ``flag`` is a sum of bits.
    """

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    recoverable: bool = False
    delta: str = ""
    data: Raw = Raw()
    flag: int = 0
    type: int = 0
    """0: a stream. This server knows no other type."""
    tf: Raw = Raw()
    """A filter by tags. This server has no such filters."""


class _Connect(Struct):
    """The content of a command ``connect``. ``subs``: the channels to which the
    server had subscribed the client before."""

    token: str = ""
    subs: dict[str, _Subscribe] | None = None
    data: Raw = Raw()
    name: str = ""
    version: str = ""
    headers: dict[str, str] | None = None


_decode_connect = msgspec.json.Decoder(_Connect).decode


class _ChannelToken(Struct):
    """The content of several commands: a channel, a token, or both."""

    channel: str = ""
    token: str = ""


class _Publish(Struct):
    channel: str = ""
    data: Raw = Raw()


class Since(Struct):
    """A position in a channel."""

    offset: int = 0
    epoch: str = ""


class _History(Struct):
    """The content of a command ``history``. ``limit``: -1 means all
    publications, and 0 only the position."""

    channel: str = ""
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class _Rpc(Struct):
    method: str = ""
    data: Raw = Raw()


class _Ignored(Struct):
    """The content of a command that means nothing to this server."""


class _Command(TypedDict, total=False):
    """One command: ``id`` and one of the other fields. A field that is None
    counts as missing."""

    id: int
    connect: _Connect | None
    subscribe: _Subscribe | None
    unsubscribe: _ChannelToken | None
    publish: _Publish | None
    presence: _ChannelToken | None
    presence_stats: _ChannelToken | None
    history: _History | None
    ping: _Ignored | None
    send: _Ignored | None
    rpc: _Rpc | None
    refresh: _ChannelToken | None
    sub_refresh: _ChannelToken | None


def _offset(number: int) -> int:
    """Return the offset if it is in the range that a channel can have.
    Otherwise raises Refused."""
    if not 0 <= number <= MAX_OFFSET:
        raise Refused(codes.BAD_DATA)
    return number


def json_in(data: Raw) -> bytes:
    """The bytes of a payload, which must be JSON. Raises Refused otherwise."""
    content = bytes(data)
    try:
        msgspec.json.decode(content)
    except (ValueError, RecursionError):
        raise Refused(codes.BAD_DATA) from None
    return content


def _json_or_none(data: Raw) -> bytes:
    """The bytes of a payload; ``b""`` if the payload is missing. Raises Refused
    if the payload is not JSON."""
    if data and bytes(data) != b"null":
        return json_in(data)
    return b""


def read_login(payload: bytes) -> CentrifugeLogin:
    """Decode the login of a client that only receives, for example
    ``{"token":"…","subs":{"news":{}}}``.

    The names in ``subs`` are the channels that the client wants. Raises
    ValueError, RecursionError and Refused.
    """
    try:
        request = _decode_connect(payload)
    except msgspec.ValidationError:
        # Some SDKs write null for fields that other SDKs leave out.
        request = _decode_connect(without_nulls(payload, _COMMAND_DEPTH - 1))
    return replace(_login(request), channels=tuple(request.subs or ()))


def _login(request: _Connect) -> CentrifugeLogin:
    """The command for a content of ``connect``. ``recover`` of the command has
    only the channels whose missed publications the client wants. Raises
    Refused."""
    recover: dict[str, tuple[str, int]] = {}
    if request.subs is not None:
        for name, subscription in request.subs.items():
            if subscription.recover:
                recover[name] = (subscription.epoch, _offset(subscription.offset))
    data = _json_or_none(request.data)
    headers = dict(request.headers or {})
    return CentrifugeLogin(
        request.token, recover, data, request.name, request.version, headers
    )


def _subscribe(request: _Subscribe) -> Command:
    """The command for a content of ``subscribe``.

    Raises Refused for features of Centrifugo that this server does not have:
    another ``type`` than a stream of publications, and filters by tags
    (``tf``).
    """
    if request.type != 0:
        raise Refused(codes.NOT_AVAILABLE)
    if bytes(request.tf) not in (b"", b"null"):
        # Centrifugo has the same answer if the namespace does not allow
        # filters.
        raise Refused(codes.BAD_DATA)
    return Subscribe(
        request.channel,
        request.token,
        request.recover,
        request.epoch,
        _offset(request.offset),
        positioned=request.positioned,
        recoverable=request.recoverable,
        delta=request.delta == "fossil",
        data=_json_or_none(request.data),
        reject_unrecovered=request.flag & _REJECT_UNRECOVERED > 0,
    )


def _unsubscribe(request: _ChannelToken) -> Command:
    return Unsubscribe(request.channel)


def _publish(request: _Publish) -> Command:
    return Publish(request.channel, json_in(request.data))


def _presence(request: _ChannelToken) -> Command:
    return AskPresence(request.channel)


def _presence_stats(request: _ChannelToken) -> Command:
    return AskPresenceStats(request.channel)


def _refresh(request: _ChannelToken) -> Command:
    return RefreshLogin(request.token)


def _sub_refresh(request: _ChannelToken) -> Command:
    return RefreshSubscription(request.channel, request.token)


def _history(request: _History | pb.HistoryRequest) -> Command:
    """The command for a content of ``history``, decoded from JSON or protobuf.

    Without ``since`` the publications begin with the oldest one. Raises
    Refused.
    """
    # A field that is left out is None if the request was JSON. In protobuf such
    # a field is an empty message, and only HasField() tells that it was left
    # out.
    if isinstance(request, _History) or request.HasField("since"):
        since = request.since
    else:
        since = None
    if since is None:
        position = None
    else:
        position = (since.epoch, _offset(since.offset))
    return AskHistory(
        request.channel, max(request.limit, -1), position, request.reverse
    )


OWN: Final = "imserver:"
"""Prefix of the methods of ``rpc`` that this server always answers itself, even
if the app has a back end for ``rpc``."""


def _method(request: _Rpc, readers: Readers) -> Command:
    """The command for a content of ``rpc``, which calls a method.

    The prefix :data:`OWN` names a method of this server, as in
    ``imserver:send``; any other method belongs to the back end. Raises Refused.
    """
    method = request.method
    data = _json_or_none(request.data)
    if not method.startswith(OWN):
        return CallMethod(method, data)
    command = own_method(readers, method.removeprefix(OWN), data)
    if command is None:
        raise Refused(codes.METHOD_NOT_FOUND)
    return command


def own_method(readers: Readers, method: str, data: bytes) -> Command | None:
    """The command for a method of this server, or None if no such method
    exists. Raises Refused."""
    read = readers.get(method)
    if read is None:
        return None
    # Some databases cannot store U+0000.
    if has_nul(data):
        raise Refused(codes.BAD_DATA)
    return read(data or b"{}")


_READERS: Final[dict[str, Callable[[Any], Command]]] = {
    "connect": _login,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "refresh": _refresh,
    "sub_refresh": _sub_refresh,
}
"""Every command except ``rpc``: its name on the wire → the function that makes
it."""


# --- what the server sends ----------------------------------------------------


class ClientView(Struct, omit_defaults=True):
    """A client, as others see it. ``conn_info``: JSON about the client.
    ``chan_info``: JSON about the client in a channel."""

    user: str = ""
    client: str = ""
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class PublicationView(Struct, omit_defaults=True):
    """A publication, as clients see it.

    ``info``: the client that has published it (None: a back end). ``offset``:
    its position in the channel. ``data`` is JSON. For subscribers that read
    deltas, ``data`` is text, which becomes a string in JSON. ``delta``: whether
    this text is a delta to the publication before.
    """

    data: Raw | str
    info: ClientView | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    delta: bool = False


class SubscribeResult(Struct, omit_defaults=True):
    """The state of a new subscription, as clients see it.

    ``recoverable``: whether the client can recover later from ``epoch`` and
    ``offset``. ``was_recovering``: whether it has asked for missed
    publications. ``recovered``: whether ``publications`` has all publications
    that the client has missed. ``expires``: whether the client must renew its
    token, within ``ttl`` seconds.
    """

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[PublicationView] | None = None
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(Struct, omit_defaults=True):
    """The reply to a login.

    ``subs``: channels to which the server has subscribed the client. ``ping``:
    seconds between pings to the client. ``pong``: whether the client must
    answer pings. ``session``: the secret with which the client of a stream
    sends commands.
    """

    client: str
    version: str = ""
    expires: bool = False
    ttl: int = 0
    subs: dict[str, SubscribeResult] | None = None
    ping: int = 0
    pong: bool = False
    session: str = ""
    data: Raw | UnsetType = UNSET


class RefreshResult(Struct, omit_defaults=True):
    """The answer to a renewed token of a session."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, omit_defaults=True):
    """The answer to a renewed token of a subscription."""

    expires: bool = False
    ttl: int = 0


class PresenceResult(Struct):
    """The subscribers of a channel by the ids of their connections."""

    presence: dict[str, ClientView]


class PresenceStatsResult(Struct, omit_defaults=True):
    """The numbers of subscribers and of users of a channel."""

    num_clients: int
    num_users: int


class HistoryResult(Struct, omit_defaults=True):
    """Publications of a channel, and the position of the channel."""

    publications: list[PublicationView] | None = None
    epoch: str = ""
    offset: int = 0


PERSONAL: Final = 1
"""Mark of a client: see :attr:`OwnChannel.personal`."""
BY_ALIAS: Final = 2
"""Mark of a client: see :attr:`OwnChannel.by_alias`."""


class OwnChannel(DialectState, gc=False):
    """How a client uses the channel of its user.

    ``marks``: a sum of :data:`PERSONAL`, :data:`BY_ALIAS`, and marks of the
    service. Separate fields would take 16 more bytes for each connection.
    """

    marks: int = 0

    @property
    def personal(self) -> bool:
        """Whether the client gets all pushes to its user, under the channel
        name ``#<user>``."""
        return self.marks & PERSONAL != 0

    @property
    def by_alias(self) -> bool:
        """Whether the client has subscribed to ``user:<id>`` under the name
        ``#<id>``."""
        return self.marks & BY_ALIAS != 0

    def mark(self, mark: int, on: bool) -> None:
        """Set one of the marks if ``on`` is true, and otherwise remove the
        mark."""
        if on:
            self.marks |= mark
        else:
            self.marks &= ~mark


USER_CHANNEL: Final = "user:"
ALIAS: Final = "#"
"""Prefix under which clients of Centrifugo know the channel ``user:<id>`` of
their user: ``#<id>``."""
_read_info = msgspec.json.Decoder(ClientView).decode
_read_tags = msgspec.json.Decoder(dict[str, str]).decode


def publication_of(event: Event) -> PublicationView:
    """The publication of an event, as clients see it.

    A :class:`Compressed` event is for subscribers that read deltas, and its
    data are text.
    """
    data: Raw | str
    if isinstance(event, Compressed):
        data = event.data.decode("utf-8", "replace")
        delta = event.delta
    else:
        data = Raw(payload_of(event))
        delta = False
    part = event.channel
    # An event without a channel is for the user, and only has data.
    if part is None:
        return PublicationView(data)
    info = _read_info(part.info) if part.info else None
    tags = _read_tags(part.tags) if part.tags else None
    return PublicationView(data, info, part.offset, tags, delta)


def _content_of(event: Event) -> tuple[str, Content] | None:
    """The kind of the push for an event, and its content.

    For example, an event ``leave`` gives ``("leave", {"info": …})``. None means
    that this dialect cannot express the event.
    """
    part = event.channel
    if event.kind in ("msg", "stream"):
        return "pub", publication_of(event)
    if part is None:
        return None
    # A member of another dialect has no info, only the id of its user.
    if event.kind in ("join", "leave"):
        info = _read_info(part.info) if part.info else ClientView(event.sender)
        return event.kind, {"info": info}
    if event.kind == "subscribed":
        result = msgspec.json.decode(event.data or b"{}", type=SubscribeResult)
        return "subscribe", result
    if event.kind == "unsubscribed":
        facts = {"code": event.code, "reason": event.text}
        return "unsubscribe", {name: value for name, value in facts.items() if value}
    return None


class CentrifugeDialect(Dialect):
    """The codec of the dialect, with frames of JSON.

    Each line of a frame is one command, reply or push, for example
    ``{"id":1,"subscribe":{"channel":"news"}}``. ``streamed``: whether the codec
    is for a stream, which ends with a push and not with a close frame.
    """

    name = "centrifuge"
    path = "/connection/websocket"
    app_path = "/connection/*/websocket"
    subprotocol = "centrifuge-json"
    readers: Mapping[str, Callable[[bytes], Command]] = {}
    """Methods of ``rpc`` that features add."""
    bare_tokens = True
    several = True
    close_codes_of_back_ends = True
    pinged = True
    ping = b"{}"
    close_codes: Mapping[int, int] = {ours: code for ours, (code, _) in _CLOSES.items()}
    close_reasons: Mapping[int, str] = {
        ours: reason for ours, (_, reason) in _CLOSES.items()
    }

    def __init__(self, streamed: bool = False) -> None:
        self._streamed = streamed

    def split(self, payload: bytes) -> Sequence[bytes]:
        """The commands in a frame: one on each line. Raises BadFrame if the
        frame has too many commands."""
        commands = [*filter(bytes.strip, payload.split(b"\n"))]
        if len(commands) > MAX_COMMANDS:
            raise BadFrame(None, _BAD_REQUEST)
        return commands

    def decode(self, payload: bytes) -> Request:
        """Read one command: ``{"id":1,"subscribe":{"channel":"news"}}``, for
        example.

        Pings, pongs and messages without an answer mean nothing to this server.
        They raise BadFrame without a close code, so they are only answered or
        ignored. Bytes that are not a command raise BadFrame with a close code,
        as in Centrifugo.
        """
        try:
            fields = self._read(payload)
        except (ValueError, RecursionError):
            raise BadFrame(None, _BAD_REQUEST) from None

        number = fields.pop("id", 0)
        if None in fields.values():
            # A field that is null counts as missing.
            fields = {
                name: content for name, content in fields.items() if content is not None
            }
        if not (fields or number):
            raise BadFrame(None)  # an empty command is a pong, which needs no answer
        if len(fields) != 1 or not (number or "send" in fields):
            raise BadFrame(None, _BAD_REQUEST)

        name, content = fields.popitem()
        if name == "send":
            raise BadFrame(None)
        if name == "ping":
            raise BadFrame(self._write_reply(number, "ping", {}))
        try:
            if name == "rpc":
                return Request(str(number), name, _method(content, self.readers))
            return Request(str(number), name, _READERS[name](content))
        except Refused as refused:
            # The command has a name and an id, so its client gets an error
            # reply.
            return Request(str(number), name, None, refused.code)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Encode the reply to a command, for example ``{"id":1,"publish":{}}``.

        The field has the name of the command, or ``error``. Returns None for a
        command that has no reply.
        """
        name = request.name
        content = reply.data
        if reply.code != ReplyCode.OK:
            name = "error"
            # The content is the error that a back end has chosen, if there is
            # one.
            if not isinstance(content, ClientError):
                content = codes.ERRORS.get(reply.code)
                content = content or ClientError(reply.code, reply_text(reply.code))
        elif name == "rpc":
            if content is UNSET:
                content = {}
            else:
                data = {} if content is None else content
                content = {"data": Raw(_encode(data))}
        elif name not in _READERS:
            return None
        elif not isinstance(content, Struct | Raw):
            # Centrifugo answers such commands with an empty result.
            content = {}
        number = int(request.seq) if request.seq.isdecimal() else 0
        return self._write_reply(number, name, content)

    def encode_event(self, event: Event) -> Payload | None:
        """Encode the push of an event.

        An event without a channel goes to the own channel of the receiver, such
        as ``#alice``. Such a push is a function, because its bytes differ for
        each receiver. Returns None if this dialect cannot express the event.
        """
        if isinstance(event, Signal):
            return self._to_user(
                PublicationView(Raw(event.as_json()), tags={"kind": event.kind})
            )
        content = _content_of(event)
        if content is None:
            return None
        if event.channel is None:
            return self._to_user(content[1])
        if event.channel.name.startswith(USER_CHANNEL):
            # The owner of the channel may know it as "#alice". Other users know
            # it as "user:alice".
            return partial(self._write_of_user, event.channel.name, *content)
        return self._write_push(event.channel.name, *content)

    def encode_message(self, message: Message) -> Payload | None:
        """Encode the push of a stored entry to the own channel of its receiver.

        Returns a function that makes the bytes for each receiver. The offset of
        the push is the position of the entry in the log. A client that is a
        member of its own channel gets no offset, because there offsets mean
        positions in the channel.
        """
        # The entry is encoded only once, before the receivers are known.
        entry = Raw(_encode(message.view()))
        contents_by_membership: dict[bool, bytes] = {}
        publication = PublicationView(
            entry, offset=message.id, tags={"kind": "message"}
        )

        def write(user: str, state: DialectState | None) -> bytes:
            """Encode the push for one receiver. The content is encoded once for
            members of the channel, and once for all others."""
            is_member = isinstance(state, OwnChannel) and state.by_alias
            content = contents_by_membership.get(is_member)
            if content is None:
                if is_member:
                    view = replace(publication, offset=0)
                else:
                    view = publication
                content = self._write_content(view)
                contents_by_membership[is_member] = content
            return self._write_to_user(content, user, state)

        return write

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Encode the last push of a stream. Returns None for a WebSocket, which
        has its close frame instead."""
        if not self._streamed:
            return None
        return self._write_push("", "disconnect", {"code": code, "reason": reason})

    def encode_history(self, result: HistoryResult) -> Raw:
        """Encode the result of a ``history`` command once, so that several
        replies can contain it."""
        return Raw(self._write_content(result))

    def encode_clients(self, clients: dict[str, ClientView]) -> bytes:
        """Encode some subscribers of a channel, as a part for
        :meth:`join_clients`."""
        # Without the braces, so that parts can be joined.
        return _encode(clients)[1:-1]

    def join_clients(self, parts: Sequence[bytes]) -> Raw:
        """An encoded :class:`PresenceResult` with all these subscribers."""
        return Raw(b'{"presence":{%b}}' % b",".join(parts))

    def _to_user(self, content: Content) -> Payload:
        """A push to the own channel of each receiver, whose content is encoded
        once."""
        return partial(self._write_to_user, self._write_content(content))

    def _write_to_user(
        self, content: bytes, user: str, state: DialectState | None
    ) -> bytes:
        """Encode a publication for a user; ``b""`` if the client does not
        receive the channel of its user."""
        receives_own_channel = not isinstance(state, OwnChannel) or state.personal
        if receives_own_channel:
            return self._write_personal(content, user)
        return b""

    def _write_of_user(
        self,
        channel: str,
        kind: str,
        content: Content,
        user: str,
        state: DialectState | None,
    ) -> bytes:
        """Encode a push of the channel of a user.

        The push has the name that the client uses: ``#alice`` if it has
        subscribed under this alias, and otherwise ``user:alice``.
        """
        if isinstance(state, OwnChannel) and state.by_alias:
            channel = f"{ALIAS}{user}"
        return self._write_push(channel, kind, content)

    # --- the wire -------------------------------------------------------------

    def _read(self, payload: bytes) -> dict[str, Any]:
        """Decode a command into its fields, for example ``{"id": 1, "ping":
        …}``. Raises ValueError or RecursionError."""
        try:
            return _decode_command(payload)
        except msgspec.ValidationError:
            # A few SDKs write null for fields that other SDKs leave out. So the
            # nulls are removed only if the first try has failed.
            return _decode_command(without_nulls(payload, _COMMAND_DEPTH))

    def _write_reply(self, number: int, name: str, content: Content | Raw) -> bytes:
        """Encode a reply: the id of its command, and the field ``name``. A
        content that is Raw is encoded already."""
        return _encode({"id": number, name: content})

    def _write_push(self, channel: str, kind: str, content: Content) -> bytes:
        """Encode a push: ``{"push":{"channel":"news","join":{…}}}`` for a
        ``kind`` of ``join``."""
        return _encode({"push": {"channel": channel, kind: content}})

    def _write_content(self, content: Content) -> bytes:
        """Encode a publication without its channel, or a result without its
        command."""
        return _encode(content)

    def _write_personal(self, content: bytes, user: str) -> bytes:
        """Encode the push of a publication to the own channel of a user."""
        return b'{"push":{"channel":%b,"pub":%b}}' % (
            _encode(f"{ALIAS}{user}"),
            content,
        )


_decode_command: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder[Any](
    _Command
).decode


# --- protobuf -----------------------------------------------------------------


class CentrifugeProtobufDialect(CentrifugeDialect):
    """The codec of the dialect, with frames of protobuf.

    Commands, replies and pushes begin with their length, so a frame can have
    several of them.
    """

    subprotocol = "centrifuge-protobuf"
    text = False
    ping = b"\0"

    def split(self, payload: bytes) -> Sequence[bytes]:
        """The commands in a frame. Each begins with its length. Raises
        BadFrame."""
        commands: list[bytes] = []
        end = 0
        while end < len(payload):
            try:
                size, start = _read_varint(payload, end)
            except IndexError:
                raise BadFrame(None, _BAD_REQUEST) from None
            end = start + size
            # The length may be greater than the number of bytes that follow it.
            if end > len(payload) or len(commands) == MAX_COMMANDS:
                raise BadFrame(None, _BAD_REQUEST)
            commands.append(payload[start:end])
        return commands

    def _read(self, payload: bytes) -> dict[str, Any]:
        """Decode a command into its fields. Raises ValueError."""
        try:
            command = pb.Command.FromString(payload)
        except protobuf_message.DecodeError as error:
            raise ValueError("no command") from error
        return {each.name: content for each, content in command.ListFields()}

    def encode_clients(self, clients: dict[str, ClientView]) -> bytes:
        """Encode some subscribers of a channel, as a part for
        :meth:`join_clients`."""
        return self._write_content(PresenceResult(clients))

    def join_clients(self, parts: Sequence[bytes]) -> Raw:
        """An encoded :class:`PresenceResult` with all these subscribers."""
        # In protobuf, several encoded messages in a row are one message with
        # the fields of all of them.
        return Raw(b"".join(parts))

    def _write_reply(self, number: int, name: str, content: Content | Raw) -> bytes:
        """Encode a reply: the id of its command, and the field ``name``.

        A content that is Raw is encoded already. It is appended, with its tag
        and length, to a reply without this field.
        """
        # Ids of commands have 32 bits in protobuf.
        reply = pb.Reply(id=number & _ID_MASK)
        if isinstance(content, Raw):
            field_number = pb.Reply.DESCRIPTOR.fields_by_name[name].number
            tag = field_number << _TYPE_BITS | _WITH_LENGTH
            return _after_length(
                reply.SerializeToString(), _varint(tag), _after_length(bytes(content))
            )
        _fill(getattr(reply, name), content)
        return _after_length(reply.SerializeToString())

    def _write_push(self, channel: str, kind: str, content: Content) -> bytes:
        """Encode a push: its channel, and the field ``kind``."""
        reply = pb.Reply()
        reply.push.channel = channel
        _fill(getattr(reply.push, kind), content)
        return _after_length(reply.SerializeToString())

    def _write_content(self, content: Content) -> bytes:
        """Encode a publication without its channel, or a result without its
        command."""
        name = type(content).__name__
        # The other classes have the same names as their messages in protobuf.
        if name == PublicationView.__name__:
            message = pb.Publication()
        else:
            message = getattr(pb, name)()
        _fill(message, content)
        encoded: bytes = message.SerializeToString()
        return encoded

    def _write_personal(self, content: bytes, user: str) -> bytes:
        """Encode the push of a publication to the own channel of a user."""
        reply = pb.Reply()
        reply.push.channel = f"{ALIAS}{user}"
        reply.push.pub.MergeFromString(content)
        return _after_length(reply.SerializeToString())


def read_emulation(body: bytes) -> tuple[str, bytes]:
    """Decode the body of an emulation request: its session, and the commands.
    Raises ValueError."""
    try:
        request = pb.EmulationRequest.FromString(body)
    except protobuf_message.DecodeError as error:
        raise ValueError("no emulation request") from error
    return request.session, request.data


_TYPE_BITS: Final = 3
"""Number of bits for the type in a tag of protobuf. The number of the field is
in the bits above."""
_WITH_LENGTH: Final = 2
"""The type of a field that begins with its length."""
_VARINT_BITS: Final = 7
"""Number of bits of a number that each byte has."""
_VARINT_MASK: Final = 0x7F
_MORE_FOLLOWS: Final = 0x80
_VARINT_SHIFTS: Final = tuple(range(0, 5 * _VARINT_BITS, _VARINT_BITS))


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Decode the number that begins at ``start``. Returns the number and its
    end.

    Protobuf writes numbers in bytes of 7 bits, the lowest first. The eighth bit
    says that more bytes follow. Raises IndexError if the data end within the
    number, or if the number has more than five bytes. Five bytes are enough for
    the length of any frame. A limit is needed because the time to decode a
    number grows with the square of its length.
    """
    value = 0
    end = start
    for shift in _VARINT_SHIFTS:
        byte = data[end]
        value |= (byte & _VARINT_MASK) << shift
        end += 1
        if byte < _MORE_FOLLOWS:
            return value, end
    raise IndexError


def _after_length(*parts: bytes) -> bytes:
    """Join the parts, and write their length before them."""
    return b"".join((_varint(sum(map(len, parts))), *parts))


def _varint(number: int) -> bytes:
    """Encode a number as protobuf does: in bytes of 7 bits, the lowest first.
    The eighth bit says that more bytes follow."""
    encoded = bytearray()
    while number > _VARINT_MASK:
        encoded.append(number & _VARINT_MASK | _MORE_FOLLOWS)
        number >>= _VARINT_BITS
    encoded.append(number)
    return bytes(encoded)


def _fill(message: Any, content: Content) -> None:
    """Copy ``content`` into a protobuf message with fields of the same names.

    Fields that are empty or left out stay unset. Objects and lists in the
    content become messages of their own.
    """
    # Without this, an empty message would count as left out.
    message.SetInParent()
    if isinstance(content, dict):
        names: Iterable[str] = content
    else:
        names = content.__struct_fields__

    for name in names:
        if isinstance(content, dict):
            value = content[name]
        else:
            value = getattr(content, name)
        if isinstance(value, Raw):
            setattr(message, name, bytes(value))
        elif isinstance(value, Struct):
            _fill(getattr(message, name), value)
        elif isinstance(value, list):
            for item in value:
                _fill(getattr(message, name).add(), item)
        elif isinstance(value, dict):
            target = getattr(message, name)
            for key, item in value.items():
                if isinstance(item, Struct):
                    _fill(target[key], item)
                else:
                    target[key] = item
        elif name == "data" and isinstance(value, str):
            message.data = value.encode()
        elif value and value is not UNSET:
            setattr(message, name, value)
