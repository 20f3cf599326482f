"""The routes of Centrifugo's server API for its unchanged clients: ``POST
/api/<method>`` with ``X-API-Key``.

A key for one app acts in it, any other key in the app of ``centrifuge.app``.
Every method answers with status 200 and ``{"result": …}`` or ``{"error":
{"code", "message"}}``. With the header ``X-Centrifugo-Error-Mode: transport``,
an error is the whole body and has its own status. If the principal is refused
or the body is unreadable, the answer has the status of that problem. Older
clients send ``{"method", "params"}`` to ``POST /api``.
"""

import logging
import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import partial
from time import time
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.json import encode

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.declared import CentrifugeSettings
from imserver.dialects.centrifuge.service import (
    NAME,
    REFUSALS,
    RefreshConnection,
    SubscriptionAbout,
    bytes_of,
    history_view,
    infos_of_members,
)
from imserver.dialects.centrifuge.wire import (
    ALIAS,
    MAX_OFFSET,
    USER_CHANNEL,
    ClientView,
    HistoryResult,
    PresenceStatsResult,
    Since,
)
from imserver.plugin.errors import CloseCode, ImserverError, Unavailable
from imserver.plugin.http import (
    PROBLEM,
    Api,
    ApiProblem,
    BadBody,
    BatchAnswers,
    Call,
    HttpResponse,
    Route,
)
from imserver.plugin.identity import Need, Needs, token_end
from imserver.plugin.runtime import is_long_turn, serve_others
from imserver.plugin.services import ChannelRefused, Left, Position
from imserver.plugin.settings import ChannelSettings, settings_of
from imserver.plugin.wire import (
    ChannelPart,
    Event,
    Limit,
    Partial,
    Refused,
    without_nulls,
)

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_CHANNELS: Final = 1000
"""The most channels of one broadcast, and also the most commands of one
batch."""
MOST_VALUES_OF_LINES: Final = 800_000
"""The most commas, colons and brackets in the commands of ``POST /api``."""
MOST_VALUES_OF_COMMAND: Final = 200_000
"""The most commas, colons and brackets in one command of a batch. The command
becomes a dict."""
MAX_ALTERNATIVES: Final = 64
"""The most patterns without ``{a,b}`` that one pattern may stand for."""
MAX_LISTED: Final = 100_000
"""The most channels in a list."""
_PAGE: Final = 1000
_PRESENCE_PAGES: Final = 8
"""The most pages of subscribers in an answer: 4 MB."""
_MIN_CODE: Final = 3000
_MAX_CODE: Final = 4999


class MethodFailed(Exception):
    """Ends a method of this API with an error.

    ``code`` is one of ``codes.ERRORS``, for example 107 for bad data.
    ``detail`` is the reason, which the message of the error ends with.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


# --- requests -----------------------------------------------------------------


class _Request(Partial, frozen=True):
    """A request of this API.

    Its fields are checked only by its method (``late``), and not when the body
    is read. So a wrong field becomes an error of this API with a code, as in
    Centrifugo, and not a problem of HTTP.
    """

    late: ClassVar[bool] = True


class _Message(_Request, frozen=True):
    data: Raw = Raw()
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    version: Raw | UnsetType = UNSET
    version_epoch: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("version", "version_epoch")
    in_base64: ClassVar[tuple[str, ...]] = ("data",)


class _Publish(_Message, frozen=True):
    channel: str = ""


class _Broadcast(_Message, frozen=True):
    channels: list[str] = field(default_factory=list)


class _OfUser(_Request, frozen=True):
    user: str = ""
    client: str = ""
    session: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("session",)


class _Subscribe(_OfUser, frozen=True):
    channel: str = ""
    info: Raw | UnsetType = UNSET
    b64info: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    expire_at: int = 0
    recover_since: Since | None = None
    override: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("session", "override")
    in_base64: ClassVar[tuple[str, ...]] = ("info", "data")


class _Unsubscribe(_OfUser, frozen=True):
    channel: str = ""


class _CloseCode(Struct):
    code: int = 0
    reason: str = ""


class _Disconnect(_OfUser, frozen=True):
    whitelist: list[str] = field(default_factory=list)
    disconnect: _CloseCode | None = None


class _Refresh(_OfUser, frozen=True):
    expired: bool = False
    expire_at: int = 0
    info: Raw | UnsetType = UNSET
    b64info: str = ""

    in_base64: ClassVar[tuple[str, ...]] = ("info",)


class _OfChannel(_Request, frozen=True):
    channel: str = ""


class _History(_OfChannel, frozen=True):
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class _Channels(_Request, frozen=True):
    pattern: str = ""


class CommandBatch(Struct):
    """The request of a batch. Each command becomes an object when its length is
    known."""

    commands: list[Raw] | None = None


class NamedCommand(Struct):
    """A command of ``POST /api``. ``id``: an id that the reply repeats."""

    id: int | None = None
    method: str | None = None
    params: Raw = Raw(b"{}")


# --- methods ------------------------------------------------------------------


def publish(api: Api, app: str, request: _Publish) -> dict[str, Any]:
    """Publish to one channel.

    A channel named ``#alice`` stands for a push to the user ``alice``. May
    switch greenlets. Raises :class:`MethodFailed`.
    """
    (result,) = _publish_each(api, app, request, [request.channel])
    if "error" in result:
        error = result["error"]
        # The message is "<text of the code>: <detail>".
        raise MethodFailed(error["code"], error["message"].partition(": ")[2])
    published: dict[str, Any] = result["result"]
    return published


def broadcast(api: Api, app: str, request: _Broadcast) -> dict[str, Any]:
    """Publish the same content to several channels. May switch greenlets."""
    if not request.channels:
        raise MethodFailed(codes.BAD_DATA)
    if len(request.channels) > MAX_CHANNELS:
        raise MethodFailed(
            codes.LIMIT_EXCEEDED, f"a broadcast has at most {MAX_CHANNELS} channels"
        )
    return {"responses": _publish_each(api, app, request, request.channels)}


def _publish_each(
    api: Api, app: str, request: _Message, channels: list[str]
) -> list[dict[str, Any]]:
    """Publish the same content to each channel.

    Returns one dict for each channel, in order: ``{"result": …}`` or
    ``{"error": …}``. Requests with the same idempotency key publish once. May
    switch greenlets. Raises :class:`MethodFailed` if nothing can be published.
    """
    data = bytes(request.data)
    try:
        Call.check_json(data)
    except (ValueError, RecursionError):
        raise MethodFailed(codes.BAD_DATA) from None
    # The sender and the receiver stay empty: the channel decides who gets the
    # event.
    event = Event("msg", "", "", type="custom", data=data)

    # The app may have used up the number of pushes that it may send.
    quota = api.core.metrics.pushes.spent(app)
    if quota is not None:
        raise MethodFailed(codes.TOO_MANY_REQUESTS, str(quota))
    try:
        published = api.core.publishing.to_channels(
            app,
            [_channel_of(name) for name in channels],
            event,
            tags=request.tags,
            with_history=not request.skip_history,
            key=request.idempotency_key,
        )
    except ChannelRefused as refused:
        raise MethodFailed(codes.LIMIT_EXCEEDED, str(refused)) from None

    return [
        _publish_answer(publication.refusal, publication.position)
        for publication in published
    ]


def _publish_answer(
    refusal: ImserverError | None, position: Position | None
) -> dict[str, Any]:
    """The result of one publication, or its error.

    ``position`` is None if the channel has no history.
    """
    if isinstance(refusal, ChannelRefused):
        return _refused(refusal)
    if refusal is not None:
        # another request has used this idempotency key
        return _error(codes.BAD_DATA)
    if position is None:
        return {"result": {}}
    return {"result": {"offset": position.offset, "epoch": position.epoch}}


def _channel_of(name: str) -> str:
    """The channel that back ends of Centrifugo call ``name``.

    ``#alice`` is the channel of the user ``alice``, and means ``user:alice``.
    All other names mean themselves.
    """
    if name.startswith(ALIAS) and len(name) > 1:
        return f"{USER_CHANNEL}{name[1:]}"
    return name


def _name_for_back_end(channel: str) -> str:
    """The name by which back ends know a channel: ``#alice`` for
    ``user:alice``."""
    if channel.startswith(USER_CHANNEL):
        return f"{ALIAS}{channel.removeprefix(USER_CHANNEL)}"
    return channel


def _refused(refused: ChannelRefused) -> dict[str, Any]:
    """The error for a refusal, with the limit that was exceeded if there is
    one."""
    text = str(refused)
    code = REFUSALS[refused.reason].code
    # In these cases, the text says no more than the code, or is about internals
    # of the server.
    if text == refused.reason or code == codes.INTERNAL:
        return _error(code)
    return _error(code, text)


def _connections_of(api: Api, app: str, request: _OfUser) -> list[str]:
    """The connections on which a method acts, as their ids.

    These are all connections of the user in this dialect. If the request names
    a connection (``client``), the list has only this connection. The list is
    empty if this connection is unknown or belongs to another user. May switch
    greenlets. Raises MethodFailed if the request names neither a user nor a
    connection.
    """
    if request.client:
        (row,) = api.core.connections.about(app, [request.client])
        # A back end must not reach the connection of another user by mistake.
        if row is None or row.user != request.user or row.dialect != NAME:
            return []
        return [request.client]
    if not request.user:
        raise MethodFailed(codes.BAD_DATA)
    (sessions,) = api.core.presence.sessions(app, [request.user]).sessions
    return [session.connection for session in sessions if session.dialect == NAME]


def subscribe(api: Api, app: str, request: _Subscribe) -> dict[str, Any]:
    """Subscribe the connections of a user to a channel.

    ``info`` of the request is shown to other subscribers, and ``data`` to the
    client itself. May switch greenlets. Raises MethodFailed and ChannelRefused.
    """
    about = SubscriptionAbout(
        info=bytes_of(request.info),
        data=bytes_of(request.data),
        expires_at=token_end(0, request.expire_at),
    )
    if request.channel.startswith(ALIAS):
        text = "#… is the channel of a user, who is subscribed to it"
        raise MethodFailed(codes.BAD_DATA, text)
    # Refuses a channel of a namespace that does not exist.
    api.channels.options.known(app, request.channel)

    ids = _connections_of(api, app, request)
    position = _position_of(request)
    encoded = msgspec.msgpack.encode(about)
    api.core.connections.join_each(app, ids, request.channel, encoded, position)
    return {}


def _position_of(request: _Subscribe) -> Position | None:
    """The position from which clients recover; None if they do not recover."""
    since = request.recover_since
    if since is None:
        return None
    return Position(since.epoch, _bounded(since.offset))


def unsubscribe(api: Api, app: str, request: _Unsubscribe) -> dict[str, Any]:
    """End the subscriptions of a user to a channel, or to all channels.

    ``""`` as channel means all. Each client that has really left a channel gets
    a notice. May switch greenlets. Raises MethodFailed and ChannelRefused.
    """
    if request.channel and not request.channel.startswith(ALIAS):
        api.channels.options.known(app, request.channel)
    ids = _connections_of(api, app, request)
    if request.channel:
        channels = [_channel_of(request.channel)]
    else:
        channels = _channels_of(api, app, ids)

    for channel in channels:
        _end_each(api, app, ids, channel)
    return {}


def _end_each(api: Api, app: str, ids: list[str], channel: str) -> None:
    """End the subscriptions of these connections to a channel, and tell the
    subscribers among them. May switch greenlets."""
    connections = api.core.connections
    event = _end_of_subscription(channel)
    answers = connections.leave_each(app, ids, channel)
    for connection, left in zip(ids, answers, strict=True):
        # A client that was not subscribed must not be told of an end.
        if left is Left.LEFT:
            connections.push(app, connection, event)


def _end_of_subscription(channel: str) -> Event:
    """The notice to a client that its subscription has ended."""
    return Event(
        kind="unsubscribed",
        sender="",
        text="server unsubscribe",
        code=codes.UNSUBSCRIBED_BY_SERVER,
        channel=ChannelPart(channel),
    )


def _channels_of(api: Api, app: str, ids: list[str]) -> list[str]:
    """The channels of these connections, each once. May switch greenlets."""
    # A dict and not a set, because it keeps the order in which events are sent.
    channels: dict[str, None] = {}
    for row in api.core.connections.about(app, ids):
        if row is not None:
            channels |= dict.fromkeys(row.channels)
    return list(channels)


def disconnect(api: Api, app: str, request: _Disconnect) -> dict[str, Any]:
    """Close connections of a user.

    If the request names a connection, a whitelist or a close code, only
    connections of this dialect are closed. Otherwise the user loses the
    connections of every dialect. May switch greenlets. Raises MethodFailed.
    """
    given = request.disconnect
    if given is None and not (request.client or request.whitelist):
        _disconnect_user(api, app, request.user)
        return {}

    wanted = given or _CloseCode()
    # A code that the back end has chosen is sent as it is.
    has_own_code = wanted.code != 0
    if has_own_code and not _MIN_CODE <= wanted.code <= _MAX_CODE:
        raise MethodFailed(codes.BAD_DATA)
    code = wanted.code or CloseCode.KICKED
    for connection in _connections_of(api, app, request):
        if connection not in request.whitelist:
            api.core.connections.close(
                app, connection, code, wanted.reason, as_given=has_own_code
            )
    return {}


def _disconnect_user(api: Api, app: str, user: str) -> None:
    """Close the connections of a user in every dialect. Raises MethodFailed
    without a user."""
    if not user:
        raise MethodFailed(codes.BAD_DATA)
    api.core.sessions.close(app, [user])


def refresh(api: Api, app: str, request: _Refresh) -> dict[str, Any]:
    """Change the end of a user's sessions, or end the sessions now.

    The request may also replace what other subscribers see of the user
    (``info``). A connection may belong to another node. Then this node sends a
    query to that node, which makes the change. May switch greenlets. Raises
    MethodFailed.
    """
    connections = api.core.connections
    for connection in _connections_of(api, app, request):
        if request.expired:
            connections.close(app, connection, CloseCode.TOKEN_INVALID)
        else:
            end = token_end(0, request.expire_at)
            info = bytes_of(request.info)
            # The connection may be on another node, which sets the end.
            query = RefreshConnection(app, connection, end, info)
            connections.query(connection, "refresh", query, bool)
    return {}


def _bounded(offset: int) -> int:
    """The nearest offset that a channel can have. Clients send any number."""
    return min(max(offset, 0), MAX_OFFSET)


def _find_with_option(
    api: Api, app: str, name: str, has_option: Callable[[ChannelSettings], bool]
) -> str:
    """The channel that a back end calls ``name``, if its options allow a
    method.

    ``has_option`` tells by the options of the channel, for example whether it
    has a history. Raises :class:`ChannelRefused` if not, or if the name is
    empty or too long.
    """
    if not 0 < len(name.encode("utf-8", "surrogatepass")) <= Limit.CHANNEL_BYTES:
        raise ChannelRefused("name")
    channel = _channel_of(name)
    # A "#" alone names no user.
    if channel.startswith(ALIAS):
        raise ChannelRefused("not_available")
    if not has_option(api.channels.options.known(app, channel)):
        raise ChannelRefused("not_available")
    return channel


def presence(
    api: Api, app: str, request: _OfChannel
) -> dict[str, dict[str, ClientView]]:
    """The reply with the subscribers of a channel, by ids of connections.

    It has at most ``Limit.PRESENCE`` subscribers, and at most as many pages as
    make an answer of 4 MB. May switch greenlets. Raises ChannelRefused.
    """
    channel = _find_with_option(
        api, app, request.channel, lambda options: options.presence
    )
    clients: dict[str, ClientView] = {}
    next_page = ""
    for _ in range(_PRESENCE_PAGES):
        # ``page.next`` is where the next page begins; "" after the last one.
        limit = Limit.PRESENCE - len(clients)
        page = api.channels.members.page(app, channel, next_page, limit)
        clients |= infos_of_members(page.members)
        next_page = page.next
        if not next_page or len(clients) >= Limit.PRESENCE:
            break
    return {"presence": clients}


def count_presence(api: Api, app: str, request: _OfChannel) -> Struct:
    """The numbers of subscribers and of users of a channel. May switch
    greenlets."""
    channel = _find_with_option(
        api, app, request.channel, lambda options: options.presence
    )
    counts = api.channels.members.count_users(app, channel, Limit.PRESENCE)
    return PresenceStatsResult(*counts)


def history(api: Api, app: str, request: _History) -> HistoryResult:
    """The reply with the publications of a channel, and its newest position.

    ``since`` of the request is the position after which they begin. Without it
    they begin with the oldest one. May switch greenlets. Raises ChannelRefused.
    """
    channel = _find_with_option(
        api, app, request.channel, lambda options: options.has_history
    )
    if request.since is None:
        since = None
    else:
        since = (request.since.epoch, _bounded(request.since.offset))
    # As in Centrifugo, -1 means all publications, and 0 only the position.
    page = api.channels.histories.read_since(
        app, channel, since, max(request.limit, -1), request.reverse
    )
    return history_view(page.publications, page.position)


def remove_history(api: Api, app: str, request: _OfChannel) -> dict[str, Any]:
    """Remove the publications of a channel. May switch greenlets."""
    channel = _find_with_option(
        api, app, request.channel, lambda options: options.has_history
    )
    api.channels.histories.remove(app, channel)
    return {}


def list_channels(api: Api, app: str, request: _Channels) -> dict[str, Any]:
    """The reply with the channels that have subscribers.

    With a pattern such as ``news:*``, it has only channels whose names match.
    An app may have very many, so other greenlets are served meanwhile. May
    switch greenlets. Raises MethodFailed.
    """
    _check_pattern(request.pattern)
    matches = _matcher_of(request.pattern)
    channels: dict[str, dict[str, int]] = {}
    last_name = ""
    while len(channels) < MAX_LISTED:
        page = api.channels.members.channels(app, last_name, _PAGE)
        for row in page.channels:
            # An app may have a hundred thousand channels.
            if is_long_turn():
                serve_others()
            # Patterns are about the names that back ends know.
            name = _name_for_back_end(row.channel)
            if not request.pattern or matches(name):
                channels[name] = {"num_clients": row.members}
        if not page.more:
            break
        last_name = page.channels[-1].channel
    return {"channels": channels}


def _check_pattern(pattern: str) -> None:
    """Raise MethodFailed if a pattern is longer than any name of a channel."""
    if len(pattern.encode()) > Limit.CHANNEL_BYTES:
        raise MethodFailed(
            codes.BAD_DATA, f"a pattern has at most {Limit.CHANNEL_BYTES} bytes"
        )


def _matcher_of(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a name matches a pattern.

    It takes milliseconds to compile 255 wildcards, and a pattern may stand for
    64 others. So this may switch greenlets. Raises :class:`MethodFailed`.
    """
    matchers = []
    for alternative in alternatives_of(pattern):
        matchers.append(re.compile(translate(alternative)).match)
        if is_long_turn():
            serve_others()

    def matches_any(name: str) -> bool:
        return any(match(name) for match in matchers)

    return matches_any


def alternatives_of(pattern: str) -> list[str]:
    """The patterns without braces that together match the same names.

    For example, ``{a,b}:x`` gives ``b:x`` and ``a:x``. Raises
    :class:`MethodFailed` if they are more than :data:`MAX_ALTERNATIVES`.
    """
    patterns = [pattern]
    plain = list[str]()
    while patterns:
        current = patterns.pop()
        # The innermost braces come first, so braces may stand in braces.
        braces = re.search(r"\{([^{}]*)\}", current)
        if braces is None:
            plain.append(current)
        else:
            patterns += _without_braces(current, braces)
        if len(patterns) + len(plain) > MAX_ALTERNATIVES:
            raise MethodFailed(
                codes.LIMIT_EXCEEDED,
                f"a pattern has at most {MAX_ALTERNATIVES} alternatives",
            )
    return plain


def _without_braces(pattern: str, braces: re.Match[str]) -> list[str]:
    """The patterns in which one alternative stands in place of some braces."""
    before = pattern[: braces.start()]
    after = pattern[braces.end() :]
    return [f"{before}{each}{after}" for each in braces[1].split(",")]


def info(api: Api, app: str, _request: _Request) -> dict[str, Any]:
    """The reply with the numbers of connections and channels of the app.

    Centrifugo has a row for each node. Here one row stands for all nodes,
    because the numbers of an app are counted over all of them. May switch
    greenlets.
    """
    count = api.core.presence.counts([app]).apps[app]
    node = api.core.node_name
    return {
        "nodes": [
            {
                # Clients of Centrifugo expect these fields of each node.
                "uid": node,
                "name": node,
                "version": api.core.node.version,
                "num_clients": count.sessions,
                "num_users": count.users,
                "num_channels": count.channels,
                "num_subs": count.subscriptions,
                "uptime": int(time() - api.core.node.started_at),
            }
        ]
    }


class Method(Struct, frozen=True):
    """One method of the API.

    ``need``: the permission that its principal must have. ``request``: its
    request. ``function``: carries it out. ``act``: its name in the audit log
    (``""``: it is not logged).
    """

    need: Need
    request: type[Partial]
    function: Callable[[Api, str, Any], Any]
    act: str = ""


METHODS: Final[Mapping[str, Method]] = {
    "publish": Method(Needs.PUSH, _Publish, publish),
    "broadcast": Method(Needs.PUSH, _Broadcast, broadcast),
    "subscribe": Method(Needs.PUSH, _Subscribe, subscribe),
    "unsubscribe": Method(Needs.PUSH, _Unsubscribe, unsubscribe),
    "disconnect": Method(Needs.ADMIN, _Disconnect, disconnect, "disconnect"),
    "refresh": Method(Needs.ADMIN, _Refresh, refresh, "refresh"),
    "presence": Method(Needs.READ, _OfChannel, presence),
    "presence_stats": Method(Needs.READ, _OfChannel, count_presence),
    "history": Method(Needs.READ, _History, history),
    "history_remove": Method(
        Needs.PUSH, _OfChannel, remove_history, "channels.history.remove"
    ),
    "channels": Method(Needs.READ, _Channels, list_channels),
    "info": Method(Needs.READ, _Request, info),
}
"""Every method except ``batch``, which runs several methods."""


# --- answering ----------------------------------------------------------------


def _error(code: int, detail: str = "") -> dict[str, Any]:
    """An error as clients of this API see it."""
    error = codes.ERRORS[code]
    if detail:
        message = f"{error.message}: {detail}"
    else:
        message = error.message
    return {"error": {"code": error.code, "message": message}}


_STATUSES: Final = {
    codes.INTERNAL: 500,
    codes.UNKNOWN_CHANNEL: 404,
    codes.METHOD_NOT_FOUND: 404,
    codes.PERMISSION_DENIED: 403,
    codes.ALREADY_SUBSCRIBED: 409,
    codes.TOO_MANY_REQUESTS: 429,
    codes.UNRECOVERABLE: 416,
}
"""The HTTP status of an error in the error mode ``transport``. All other errors
have :data:`_OTHER_STATUS`."""
_OTHER_STATUS: Final = 400

_TOO_LARGE: Final = _error(
    codes.LIMIT_EXCEEDED,
    "the replies of a batch have at most 4 MiB; send this command alone",
)


def _decode(kind: type[T], content: bytes) -> T:
    """The request of a method. An empty body is a request without fields.

    Fields of ``null`` count as left out. Raises ValueError and RecursionError.
    """
    return msgspec.json.decode(without_nulls(content or b"{}", 2), type=kind)


_decode_all_lines = msgspec.json.Decoder(NamedCommand).decode_lines
_decode_batch = msgspec.json.Decoder(CommandBatch).decode
_decode_command = msgspec.json.Decoder(dict[str, Raw]).decode


def _decode_lines(content: bytes) -> list[NamedCommand]:
    """The commands of ``POST /api``, one JSON object a line.

    Raises ValueError, RecursionError and :class:`ApiProblem`. The numbers of
    lines and values are checked before, because decoding them blocks all
    others.
    """
    # Some lines may be empty, but each other line becomes an object.
    if content.count(b"\n") > 2 * MAX_CHANNELS:
        raise _too_many_commands()
    Call.require_few_values(content, MOST_VALUES_OF_LINES)
    return _decode_all_lines(content)


def _decode_commands(content: bytes) -> list[dict[str, Raw]]:
    """The commands of a batch, as dicts from the name of a method to its
    request.

    The limits are checked before each step of decoding, which blocks all
    others. May switch greenlets. Raises ValueError, RecursionError and
    :class:`ApiProblem`.
    """
    # Counted in the bytes, before anything is decoded.
    Call.require_few_commands(content, MAX_CHANNELS)
    if is_long_turn():
        serve_others()
    commands = _decode_batch(content or b"{}").commands or []
    if len(commands) > MAX_CHANNELS:
        raise _too_many_commands()
    decoded: list[dict[str, Raw]] = []
    for command in commands:
        if is_long_turn():
            serve_others()
        Call.require_few_values(bytes(command), MOST_VALUES_OF_COMMAND)
        decoded.append(_decode_command(command))
    return decoded


def _decode_into_call(decode: Callable[[bytes], Any], api: Api, call: Call) -> None:
    """Decode the body of a request into ``call.input``, and choose
    ``call.app``.

    A key that is for one app acts in this app. Any other key acts in the app
    that the settings name. Raises :class:`ApiProblem`.
    """
    try:
        call.input = decode(call.body)
    except (ValueError, RecursionError) as error:
        raise BadBody(str(error)) from None
    apps = call.principal.apps
    # A key for one app cannot act in another, so it need not name the app.
    if apps is not None and len(apps) == 1:
        (call.app,) = apps
    else:
        call.app = api.core.tenants.resolve(
            settings_of(api.core.config, CentrifugeSettings).app
        )


def _too_many_commands() -> ApiProblem:
    """The problem with which a request of too many commands is answered."""
    return ApiProblem.invalid(f"a request has at most {MAX_CHANNELS} commands")


def _decode_commands_into_call(
    decode: Callable[[bytes], list[Any]], api: Api, call: Call
) -> None:
    """Decode a request with several commands into ``call.input``.

    The rate limits count each command as one request (``call.cost``). Raises
    :class:`ApiProblem`.
    """
    _decode_into_call(decode, api, call)
    if len(call.input) > MAX_CHANNELS:
        raise _too_many_commands()
    call.cost = max(1, len(call.input))


def _run(method: Method, api: Api, call: Call, request: Partial) -> dict[str, Any]:
    """Run one method, and return ``{"result": …}`` or ``{"error": …}``. May
    switch greenlets."""
    try:
        # The fields were not checked when the body was decoded.
        request.check()
    except ValueError as error:
        return _error(codes.BAD_DATA, str(error))
    try:
        result = method.function(api, call.app, request)
    except MethodFailed as failed:
        return _error(failed.code, failed.detail)
    except Refused as bad:
        return _error(bad.code)
    except ChannelRefused as refused:
        return _refused(refused)
    if method.act:
        api.acted(method.act, call, given=request)
    return {"result": result}


def respond(method: Method, api: Api, call: Call) -> HttpResponse:
    """Run the method of a route, and answer with its result or its error.

    In the error mode ``transport`` the error is the whole body, and the status
    of HTTP tells it, too. Otherwise the status is always 200. May switch
    greenlets.
    """
    reply = _run(method, api, call, call.input)
    error_mode = call.request.headers.get("x-centrifugo-error-mode")
    # Without the header an error has status 200, as all replies do.
    if "error" in reply and error_mode == "transport":
        error = reply["error"]
        status = _STATUSES.get(error["code"], _OTHER_STATUS)
        return HttpResponse(status, encode(error))
    return HttpResponse(200, encode(reply))


def _method_in(command: dict[str, Raw]) -> tuple[str, bytes]:
    """The method that a command of a batch names, and its request.

    Methods with ``null`` count as left out. If the command does not name
    exactly one, the result is ``""``. No method has this name, so the reply is
    the error for an unknown one.
    """
    methods = {
        name: bytes(content)
        for name, content in command.items()
        if bytes(content) != b"null"
    }
    if len(methods) != 1:
        return "", b""
    ((name, content),) = methods.items()
    return name, content


def _answer_batch(api: Api, call: Call) -> HttpResponse:
    """Run the commands of a batch, one after the other.

    Each command is ``{"publish": {…}}``, and its reply ``{"publish": {…}}`` or
    ``{"error": {…}}``. Each needs its own permission. May switch greenlets.
    """
    commands: list[dict[str, Raw]] = call.input
    answers = BatchAnswers()
    for command in commands:
        name, content = _method_in(command)
        reply = _run_command(api, call, name, content)
        if "error" not in reply:
            reply = {name: reply["result"]}
        # A reply that would make the answer too long becomes an error.
        answers.add(encode(reply), encode(_TOO_LARGE))
    return HttpResponse(200, b'{"replies":[%b]}' % b",".join(answers.parts))


def _answer_commands(api: Api, call: Call) -> HttpResponse:
    """Run the commands of older clients, one after the other.

    Each is ``{"method": "publish", "params": {…}}``, and its reply is one line
    of JSON. If a command has an ``id``, its reply has it, too. Each needs its
    own permission. May switch greenlets.
    """
    commands: list[NamedCommand] = call.input
    if not commands:
        raise BadBody("a request has a command")
    answers = BatchAnswers()
    for command in commands:
        params = bytes(command.params)
        if params == b"null":
            params = b""
        # Older clients write the names of methods with any capitals.
        reply = _run_command(api, call, (command.method or "").lower(), params)
        id_field = {"id": command.id} if command.id else {}
        answers.add(encode(id_field | reply), encode(id_field | _TOO_LARGE))
    return HttpResponse(200, b"\n".join(answers.parts))


def _run_command(api: Api, call: Call, name: str, content: bytes) -> dict[str, Any]:
    """Run one command of a request with several commands.

    Returns ``{"result": …}`` or ``{"error": …}``. A command that fails does not
    stop the next one. May switch greenlets.
    """
    method = METHODS.get(name)
    if method is None:
        return _error(codes.METHOD_NOT_FOUND)
    most_bytes = api.limits.one_body_bytes
    if len(content) > most_bytes:
        return _error(codes.LIMIT_EXCEEDED, f"a command has at most {most_bytes} bytes")
    if not call.principal.may(method.need, call.app):
        return _error(codes.PERMISSION_DENIED)

    try:
        request = _decode(method.request, content)
    except (ValueError, RecursionError):
        return _error(codes.BAD_DATA)
    try:
        return _run(method, api, call, request)
    except Unavailable:
        return _error(codes.INTERNAL)
    except Exception:
        # The answers of the other commands must not be lost.
        log.exception(
            "%s of %s failed",
            name,
            call.request.path,
            extra={"request": call.request.id},
        )
        return _error(codes.INTERNAL)


def _route(
    name: str,
    need: Need,
    answer: Callable[[Api, Call], HttpResponse],
    read: Callable[..., None],
    takes_many: bool = False,
) -> Route:
    """A route of this API, which is ``/api`` and ``name``.

    ``read`` decodes its request, and ``answer`` carries it out. ``takes_many``:
    the request has several commands.
    """
    return Route(
        "POST",
        f"/api{name}",
        need,
        function=answer,
        app="known",
        read=read,
        # The methods get the whole API, and not one service of it.
        service=lambda _, api: api,
        style=PROBLEM,
        limited=True,
        key_in="x-api-key",
        takes_many=takes_many,
    )


ROUTES: Final = (
    *(
        _route(
            f"/{name}",
            each.need,
            partial(respond, each),
            partial(_decode_into_call, partial(_decode, each.request)),
        )
        for name, each in METHODS.items()
    ),
    _route(
        "/batch",
        Needs.ANY_KEY,
        _answer_batch,
        partial(_decode_commands_into_call, _decode_commands),
        takes_many=True,
    ),
    _route(
        "",
        Needs.ANY_KEY,
        _answer_commands,
        partial(_decode_commands_into_call, _decode_lines),
        takes_many=True,
    ),
)
