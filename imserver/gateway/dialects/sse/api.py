"""``GET /api/v1/events``: an event stream for clients without a WebSocket. The
module has the login and the codec of the stream.

The codec writes events as ``text/event-stream`` (the HTML standard, section
9.2). A push or a notice is one event without a name, for a page's
``onmessage``. Its data is one line of JSON (:func:`to_json`). A stored message
has the same form and an ``id``: a client that reconnects sends the last id, and
receives what it missed. The stream's own events have the names ``ready`` and
``end``.
"""

import random
from collections.abc import Callable, Iterable
from functools import cache
from typing import Annotated, Any, Final, Protocol, runtime_checkable

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import encode

from imserver.gateway.auth.authority import bearer, refusal
from imserver.gateway.auth.principal import Needs, Principal
from imserver.gateway.channels.members import (
    MAX_CHANNELS_OF_A_CONNECTION,
    ChannelRefused,
)
from imserver.gateway.config.declared import about
from imserver.gateway.core.core import Core
from imserver.gateway.errors import CLOSE, CloseCode, Problems, ReplyCode, Unavailable
from imserver.gateway.http import field
from imserver.gateway.http.operation import Header, Resource
from imserver.gateway.http.reply import (
    PROBLEM,
    ApiProblem,
    stream_head,
    stream_refused,
    stream_request,
)
from imserver.gateway.http.wire import read_query
from imserver.gateway.model import Event, Limit, Login, Signal
from imserver.gateway.protocol.dialect import Dialect, StoredMessage
from imserver.gateway.protocol.publications import on_one_line, stream_view
from imserver.gateway.sessions.sessions import close_code_of
from imserver.gateway.transport.gate import Head, host_of
from imserver.gateway.transport.http1 import HttpRequest
from imserver.gateway.transport.stream import Stream, StreamEncoding

PATH: Final = "/api/v1/events"
NAME: Final = "sse"
COMMENT: Final = b":\n\n"
"""A comment, which keeps the connection from being idle."""

MIN_RETRY_MS: Final = 1000
MAX_RETRY_MS: Final = 5000
"""Time after which a client reconnects."""
_TEXT: Final = "text/event-stream"
_MAX_ID_DIGITS: Final = 18
"""The most digits of the id of a stored message. Longer numbers are not our
ids."""


class SseDialect(Dialect):
    """Writes events for the streams of one app. Each event has the app's
    name."""

    name = NAME
    logs_in = False
    pinged = True
    ping = COMMENT

    def __init__(self, app: str) -> None:
        """Take the name of the app. Each event contains this name."""
        self.app = app

    def encode_event(self, event: Event) -> bytes | None:
        """Encode an event: ``data: {…}`` and an empty line."""
        return b"data: %b\n\n" % on_one_line(to_json(self.app, event))

    def encode_message(self, message: StoredMessage) -> bytes:
        """Encode a stored message with its id.

        For example, ``id: 7``, then a line ``data:
        {"event":"message","app":"shop",…}``. A client that reconnects sends the
        id of its last message.
        """
        view = message.view()
        client_id = b""
        if view.client_msg_id:
            # Here the field has the name that it has in /api/v1.
            client_id = b'"client_msg_id":%b,' % encode(view.client_msg_id)
            view.client_msg_id = ""
        app = encode(self.app)
        # The fields of the message follow ours in one object.
        fields = encode(view)[1:]  # without the opening brace
        line = b'{"event":"message","app":%b,%b%b' % (app, client_id, fields)
        return b"id: %d\ndata: %b\n\n" % (message.id, on_one_line(line))

    def encode_close(self, code: int, reason: str) -> bytes:
        """Encode the last event of a stream, ``end``.

        It has the close code that a WebSocket would have, its reason, and
        whether to reconnect.
        """
        row = CLOSE.get(code)
        # An unknown code comes from a feature. Then the client may reconnect,
        # because that is harmless.
        reconnect = row is None or row.reconnect
        data = {"code": code, "reason": reason, "reconnect": reconnect}
        return b"event: end\ndata: %b\n\n" % encode(data)


def ready(
    about: dict[str, Any], retry_milliseconds: int, cursor: int | None = None
) -> bytes:
    """Encode the first event of a stream, which says that it has begun.

    ``about`` is its data. Stored messages after the id ``cursor`` are
    delivered. None means that the stream has no stored messages. The event
    has the lines ``retry: 2000``, ``id: 7``, ``event: ready`` and ``data: {…}``.
    """
    position = b""
    if cursor is not None:
        position = b"id: %d\n" % cursor
    return b"retry: %d\n%bevent: ready\ndata: %b\n\n" % (
        retry_milliseconds,
        position,
        encode(about),
    )


def to_json(app: str, event: Event) -> bytes:
    """Encode an event as one JSON object. Its name is in ``event``.

    A push has ``id``, ``sender``, ``type``, and ``text`` or ``data``. An enter
    or exit notice has ``user``. Signals and other notices have their payload in
    ``data``. Empty ``code``, ``note`` and ``time`` are left out.
    """
    channel = event.channel
    if event.kind == "msg":
        if event.data:
            body = b'"data":%b' % event.data
        else:
            body = b'"text":%b' % encode(event.text)
        content = b'"id":%b,"sender":%b,"type":%b,%b' % (
            encode(event.id),
            encode(event.sender),
            encode(event.type),
            body,
        )
    elif isinstance(event, Signal):
        content = b'"data":%b' % event.as_json()
    elif channel is not None and channel.stream is not None:
        view = stream_view(event, channel.stream, channel.name)
        content = b'"data":%b' % encode(view)
    elif event.data:
        content = b'"data":%b' % event.data
    else:
        content = b'"user":%b' % encode(event.sender)

    # Most events have none of these.
    more = b""
    if event.code:
        more += b',"code":%d' % event.code
    if event.note:
        more += b',"note":%b' % encode(event.note)
    if event.time:
        more += b',"time":%d' % event.time
    kind = encode(event.kind)
    return b'{"event":%b,"app":%b,%b%b}' % (kind, encode(app), content, more)


# --- requests -----------------------------------------------------------------


class EventsQuery(Struct, forbid_unknown_fields=True):
    """A user whose events to receive."""

    app: field.App
    user: Annotated[
        str,
        about(
            "The user who receives the events. Optional if the token names the user.",
            max_length=255,
        ),
    ] = ""
    token: Annotated[
        str,
        about(
            "The session token of the user, if the app requires a token. You can send "
            "the token as `Authorization: Bearer` instead. The server does not log "
            "the token."
        ),
    ] = ""
    device: Annotated[str, about("The name of the device.", max_length=64)] = ""
    channels: Annotated[
        str,
        about(
            "Channels to subscribe to, separated by commas. Outside demo mode, this "
            "field requires an API key with the scope `read` as `Authorization: "
            "Bearer`. Without such a key, your back end can subscribe the connection."
        ),
    ] = ""
    with_id: Annotated[
        bool,
        about(
            "Whether `ready` contains the id of the connection, so that your back end "
            "can push to it."
        ),
    ] = False
    cursor: (
        Annotated[
            int,
            about(
                "The id of the last stored message that the client has. The server "
                "first sends all later messages. `Last-Event-ID` takes precedence.",
                ge=0,
                le=2**53,
            ),
        ]
        | UnsetType
    ) = UNSET


def _encoding_of(app: str) -> StreamEncoding:
    """Make the encoding of the streams of an app."""
    return StreamEncoding(SseDialect(app))


@runtime_checkable
class StoresMessages(Protocol):
    """The messenger: the feature that stores messages.

    It knows the position at which a stream with stored messages begins.
    """

    stream_starts: Any


class EventStreams:
    """Opens the event streams of clients.

    It owns their encodings, one for each app that has had a stream here.
    ``messenger`` is None on a node without stored messages. There, a stream
    delivers only events that happen while it is open.
    """

    def __init__(self, core: Core, messenger: StoresMessages | None) -> None:
        """Take the services of the node.

        ``messenger`` knows where stored messages begin. None means
        that this node stores no messages.
        """
        self._sessions = core.sessions
        self._connections = core.connections
        self._channels = core.channels
        self._logins = core.logins
        self._keys = core.keys
        self._tenants = core.tenants
        self._authority = core.authority
        self._log = core.node.request_log
        self._starts: Any = None
        if messenger is not None:
            self._starts = messenger.stream_starts
        # One encoding for each app: an event is encoded once for all its
        # streams.
        self._encoding_of = cache(_encoding_of)

    def open(self, stream: Stream, head: Head) -> None:
        """Begin the stream of a request, or refuse it.

        The head of the answer is made only after the login, because the log
        then has the user of the request. A refusal is a whole HTTP response in
        place of the stream. May switch greenlets.
        """
        request = stream_request(head, host_of(stream.peer))

        def make_head(proved_user: str) -> bytes:
            """Make the head of the answer, and log who has the stream.

            ``proved_user`` is the user whom a token in the query has proved.
            ``""`` means that no token has proved a user.
            """
            by = principal.label
            # The token was in the query, and identify() reads only the headers.
            if proved_user and principal.kind == "nobody":
                apps = frozenset({query.app})
                by = Principal("session", apps=apps, user=proved_user).label
            content_type = f"{_TEXT}; charset=utf-8"
            return stream_head(self._log, head, request.host, content_type, by)

        def refuse(why: ApiProblem, code: int = CloseCode.POLICY) -> None:
            """Answer with a problem, and close the stream."""
            response = stream_refused(
                log=self._log,
                head=head,
                host=request.host,
                why=why,
                style=PROBLEM,
                by=request.by,
            )
            stream.refuse(response, code)

        try:
            query, channels, principal = self.read_request(request)
            if principal.kind == "key":
                # If the key is revoked, the stream ends.
                self._keys.hold(principal.key, stream)
                use = (principal.key, f"GET {PATH}", query.app, request.host)
                self._keys.uses.add(use, refused=False)
            self.begin(stream, query, channels, make_head)
        except ApiProblem as refused:
            refuse(refused)
        except Unavailable as error:
            refuse(ApiProblem(error.problem), CloseCode.INTERNAL_ERROR)

    def refuse(self, head: Head, host: str, code: int) -> bytes:
        """Answer a request whose stream is closed before it has begun.

        ``host`` is the address of the client, and ``code`` the close code.
        """
        return stream_refused(
            log=self._log,
            head=head,
            host=host,
            why=code,
            style=PROBLEM,
        )

    def read_request(
        self, request: HttpRequest
    ) -> tuple[EventsQuery, tuple[str, ...], Principal]:
        """Read and check a request for a stream.

        Returns the query, the channels and the principal. The query gets the
        token and the cursor that the headers have. May switch greenlets. Raises
        :class:`ApiProblem` and StorageUnavailable.
        """
        query = read_query(request, EventsQuery)
        app = self._tenants.resolve(query.app)
        if self._tenants.find(app) is None:
            self._logins.refused("app", app, query.user, request.host)
            raise ApiProblem(Problems.UNKNOWN_APP)

        principal = self._authority.identify(
            Needs.ANYONE_OR_READ, request.headers, request.host
        )
        request.by = principal.label
        if principal.kind == "key" and not principal.scopes:
            raise ApiProblem(*refusal(principal, Needs.ANYONE_OR_READ))

        names = filter(None, query.channels.split(","))
        channels = tuple(dict.fromkeys(names))
        if channels and not principal.may(Needs.READ, app):
            raise ApiProblem(
                Problems.FORBIDDEN, "`channels` needs an API key with the scope read"
            )
        # A stream may have as many channels as a WebSocket.
        if len(channels) > MAX_CHANNELS_OF_A_CONNECTION:
            raise ApiProblem.invalid(
                f"More than {MAX_CHANNELS_OF_A_CONNECTION} channels"
            )
        if any(len(name.encode()) > Limit.CHANNEL_BYTES for name in channels):
            raise ApiProblem.invalid(
                f"A channel has more than {Limit.CHANNEL_BYTES} bytes"
            )

        # The request must have a token, or a key in its header.
        if not (query.token or principal.key):
            query.token = bearer(request.headers.get("authorization", ""))
        last_id = request.headers.get("last-event-id", "").strip()
        # A text of another form is not an id of this server, and is ignored.
        is_number = last_id.isascii() and last_id.isdecimal()
        if is_number and len(last_id) <= _MAX_ID_DIGITS:
            query.cursor = int(last_id)
        query.app = app
        return query, channels, principal

    def begin(
        self,
        stream: Stream,
        request: EventsQuery,
        channels: Iterable[str],
        head: Callable[[str], bytes],
    ) -> None:
        """Log in, send the head of the answer, and subscribe to the channels.

        The event ``ready`` comes last. If the login is refused, the stream is
        closed. ``head`` makes the head of the answer. Its argument is the user
        whom a token has proved, or ``""`` if no token has proved a user. May
        switch greenlets. Raises :class:`ApiProblem` and StorageUnavailable.
        """
        # Calls that may switch greenlets come first. If the user is kicked
        # meanwhile, this login is refused.
        kicks = self._sessions.kicks.count
        decision = self._logins.check(
            request.app, request.user, request.token, NAME, stream, request.device
        )
        if not decision.ok:
            stream.close(decision.close)
            return
        user = self._user_of(stream, request, decision.user)
        start = self._start_of(request, user)
        # The client may have disconnected while this greenlet waited.
        if not stream.is_open:
            return

        login = Login(request.app, user, request.token, request.device)
        code = self._sessions.login(stream, login, decision=decision, kicks=kicks)
        if code != ReplyCode.OK:
            stream.close(close_code_of(code))
            return

        # Nothing switches between the login and here, so no event can precede
        # the head.
        proved_user = ""
        if decision.claims is not None:
            proved_user = user
        stream.begin(self._encoding_of(request.app), head(proved_user))
        try:
            for channel in channels:
                self._channels.subscriptions.join(request.app, channel, stream)
        except ChannelRefused as refused:
            stream.close(CloseCode.NOT_ALLOWED, str(refused))
        if not stream.is_open:
            return

        stream.send(self._ready(stream, request, channels, start))
        if self._starts is not None and start is not None:
            self._starts.send(stream, start)

    def _user_of(self, stream: Stream, request: EventsQuery, named: str) -> str:
        """Return the user who logs in.

        The user in the request comes first. Otherwise the result is ``named``,
        the user in the token of the request. Raises ApiProblem if there is no
        user, or if the app does not accept the user id.
        """
        user = request.user or named
        if user and self._sessions.takes_user(request.app, user):
            return user

        self._logins.refused("user", request.app, user, stream.peer)
        if not user:
            raise ApiProblem.invalid("`user`: name the user")
        raise ApiProblem.invalid(
            "`user` is longer than this app allows (`max_user_bytes`)"
        )

    def _start_of(self, request: EventsQuery, user: str) -> Any:
        """Find the position at which the stored messages of a stream begin.

        Returns None for a stream without stored messages. May switch greenlets.
        Raises StorageUnavailable.
        """
        if self._starts is None:
            return None
        cursor = None
        if request.cursor is not UNSET:
            cursor = request.cursor
        return self._starts.start(request.app, user, cursor)

    def _ready(
        self,
        stream: Stream,
        request: EventsQuery,
        channels: Iterable[str],
        start: Any,
    ) -> bytes:
        """Encode the first event of a stream.

        ``start`` is the position at which the stored messages of the stream
        begin. None means that the stream has no stored messages.
        """
        about: dict[str, object] = {
            "event": "ready",
            "app": stream.app,
            "user": stream.user,
            "device": stream.device,
            "channels": channels,
            "resumed": start is not None and start.resumed,
        }
        if request.with_id:
            about["connection"] = self._connections.id_of(stream)
        # Each client gets a random time after which it reconnects. So the
        # clients do not all reconnect at once.
        retry_ms = random.randint(MIN_RETRY_MS, MAX_RETRY_MS)
        if start is None:
            return ready(about, retry_ms)
        return ready(about, retry_ms, start.cursor)


routes = Resource("events", lambda _, api: api, hot=False)


routes.elsewhere(
    "GET",
    "/events",
    Needs.ANYONE_OR_READ,
    """Receive events without a WebSocket.

    Opens a session of `user` that only receives, as server-sent events
    (`EventSource` in browsers). The login policy, bans, limits and tokens of
    the app apply as on a WebSocket.

    The first event is named `ready`. Then each message for the user arrives as
    one event without a name, with one line of JSON as its data. The server
    sends a comment every 25 s. If the server ends the stream, the last event is
    named `end`. It has a close code and says whether to reconnect.

    Stored messages have an `id`. A client that reconnects with the last id as
    `Last-Event-ID`, as browsers do, receives the missed messages. Then `ready`
    has `resumed` true. If `resumed` is false, messages before the id of `ready`
    may be missing.
    """,
    query=EventsQuery,
    problems=(
        Problems.TOKEN_INVALID,
        Problems.NOT_ALLOWED,
        Problems.BANNED,
        Problems.ALREADY_ONLINE,
        Problems.NODE_FULL,
        Problems.NOT_READY,
    ),
    headers=(
        Header(
            "Last-Event-ID",
            "The id of the last stored message that the client received. Browsers "
            "send it when they reconnect.",
        ),
    ),
    content_type=_TEXT,
)
