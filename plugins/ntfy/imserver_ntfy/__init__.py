"""The protocol of ntfy: notifications by HTTP to topics, and streams of topics.
Topics are channels of one app."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import time
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from imserver.plugin import FeatureRow, Parts, SettingsRow
from imserver.plugin.errors import CloseCode, Unavailable
from imserver.plugin.http import (
    ApiProblem,
    Call,
    HttpRequest,
    HttpResponse,
    Route,
    stream_head,
    stream_refused,
)
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.services import ChannelRefused, Core, Position
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import (
    Connection,
    Event,
    Head,
    Stream,
    StreamEncoding,
    StreamPath,
    host_of,
)

from .message import (
    INVALID_SINCE,
    NOT_FOUND,
    STYLE,
    NtfyMessage,
    Parameters,
    bad,
    code_of,
    new_message,
    read_json,
    read_message,
)
from .wire import (
    FRAMES,
    NAME,
    STREAMS,
    NtfyDialect,
    Since,
    Wish,
    channel_of,
    message_of,
)

PAGE: Final = 100
_DENIALS: Final = (401, 403)
_CODES: Final = {
    "unknown": 404,
    "limit": 413,
    "full": 429,
    "rate": 429,
    "unavailable": 503,
}
"""Reason why a channel refuses → status. For any other reason: 401 without a
key or token, else 403."""


class NtfySettings(Struct, frozen=True):
    """The section ``ntfy``. ``app``: the app whose channels ``ntfy:TOPIC`` are
    the topics."""

    app: Annotated[str, Meta(min_length=1)] = "default"
    message_bytes: Annotated[int, Meta(ge=1, le=65536)] = 4096


class Ntfy:
    """Serves the requests of ntfy's clients on one node.

    A *topic* of ntfy is the channel ``ntfy:<topic>`` of one app.
    """

    def __init__(self, core: Core) -> None:
        """Take the services of the core, and make the encodings of streams."""
        self._core = core
        self._settings = settings_of(core.config, NtfySettings)
        self._channels = core.channels
        self._commands = core.channel_commands
        self._encodings = {codec: StreamEncoding(codec) for codec in STREAMS.values()}

    def app(self) -> str:
        """The app whose channels are the topics. Raises ApiProblem if it does
        not exist."""
        app = self._core.tenants.resolve(self._settings.app)
        if self._core.tenants.find(app) is None:
            raise bad(
                NOT_FOUND, f"there is no app {self._settings.app} (setting ntfy.app)"
            )
        return app

    def identify(self, parameters: Parameters, host: str) -> tuple[Principal, str]:
        """The principal of a request, and its key or token (``""``: no
        credential).

        May switch greenlets. Raises ApiProblem and Unavailable.
        """
        credential = parameters.credential()
        headers = {}
        if credential:
            headers["authorization"] = f"Bearer {credential}"
        principal = self._core.authority.identify(Needs.ANYONE_OR_PUSH, headers, host)
        return principal, credential

    def check(self, principal: Principal, app: str, channels: tuple[str, ...]) -> None:
        """Refuse a principal who may not subscribe to one of these channels.

        May switch greenlets. Raises ApiProblem.
        """
        try:
            for channel in channels:
                self._commands.check_request(principal, app, channel, "subscribe")
        except ChannelRefused as refused:
            raise _problem(refused, principal) from None

    def publish(self, call: Call) -> HttpResponse:
        """Publish the message of a request, and answer with it.

        In a request to ``/`` the body is JSON, which names the topic. Otherwise
        the path names it, and the body is the text. May switch greenlets.
        Raises ApiProblem.
        """
        request = call.request
        principal = call.principal
        topic = request.path.split("/")[2]
        body = request.body
        json_fields: Mapping[str, str] = {}
        if not topic:
            json_fields = read_json(body)
            body = b""
            topic = json_fields.get("topic", "")
        app = self.app()
        channel = channel_of(topic)
        parameters = Parameters.of(request, json_fields)
        message = read_message(topic, parameters, body, self._settings.message_bytes)
        options = self._channels.options.of(app, channel)
        stores = parameters.get("cache").lower() not in ("0", "no", "false", "off")
        # Clients show when the server forgets a message.
        if stores and options.history_size:
            message.expires = message.time + int(options.history_seconds)
        data = msgspec.json.encode(message)
        event = _event_of(message, data, principal.user)
        try:
            self._commands.publish_request(
                principal, request.host, app, channel, event, stores
            )
        except ChannelRefused as refused:
            raise _problem(refused, principal) from None
        return HttpResponse(200, data)

    def check_auth(self, call: Call) -> HttpResponse:
        """Answer whether the principal of a request may subscribe to its
        topics.

        May switch greenlets. Raises ApiProblem if it may not.
        """
        topics = call.request.path.split("/")[2].split(",")
        self.check(call.principal, self.app(), tuple(map(channel_of, topics)))
        return HttpResponse(200, b'{"success":true}')

    def discover(self, call: Call) -> HttpResponse:
        """Tell a distributor of UnifiedPush that a topic accepts its messages.

        A *distributor* is an application on a phone that receives pushes for
        others. Raises ApiProblem for other requests.
        """
        channel_of(call.request.path.split("/")[2])
        if not Parameters.of(call.request).has("unifiedpush", "up"):
            raise bad(NOT_FOUND, "this server has no page for topics")
        return HttpResponse(200, b'{"unifiedpush":{"version":1}}\n')

    def paths(self, _serve: object) -> dict[str, StreamPath]:
        """The paths of streams, each with the way to serve it."""
        refuse = partial(stream_refused, self._core.node.request_log, style=STYLE)
        return {
            f"/ntfy/*/{form}": StreamPath("GET", partial(self.serve, codec), refuse)
            for form, codec in STREAMS.items()
        }

    def serve(self, codec: NtfyDialect, connection: Connection, head: Head) -> None:
        """Serve a new stream or WebSocket, or refuse it.

        ``codec``: the form in which it gets messages. May switch greenlets.
        """
        try:
            parameters = Parameters(head.headers, head.query)
            app = self.app()
            wish = Wish.read(head.path, parameters)
            principal, token = self.identify(parameters, host_of(connection.peer))
            self._check_wish(principal, app, wish)
            # The session limits may refuse it, and then it is closed already.
            if not self._core.sessions.begin_for(
                connection, app, principal, token, NAME, NAME
            ):
                return
        except (ApiProblem, Unavailable) as error:
            self._refuse(connection, head, error)
            return

        self._open(connection, head, codec, principal)
        connection.dialect_state = wish
        try:
            self._deliver(connection, app, wish, codec)
        except ChannelRefused as refused:
            connection.close(CloseCode.GOING_AWAY, str(refused))

    def _check_wish(self, principal: Principal, app: str, wish: Wish) -> None:
        """Raise ApiProblem unless a principal may read all topics of a request,
        and they have a history if it wants missed messages."""
        self.check(principal, app, wish.channels)
        if wish.since is not None:
            self._require_history(app, wish.channels)

    def _open(
        self,
        connection: Connection,
        head: Head,
        codec: NtfyDialect,
        principal: Principal,
    ) -> None:
        """Send the head of a stream. A WebSocket is open already.

        If the key of the principal is withdrawn, the connection is closed.
        """
        if isinstance(connection, Stream):
            log = self._core.node.request_log
            host = host_of(connection.peer)
            connection.begin(
                self._encodings[codec],
                stream_head(log, head, host, codec.content_type, principal.label),
            )
        if principal.kind == "key":
            self._core.keys.hold(principal.key, connection)

    def _require_history(self, app: str, channels: tuple[str, ...]) -> None:
        """Refuse a request for earlier messages if one of the topics stores
        none. Raises ApiProblem."""
        options = self._channels.options
        if not all(options.of(app, channel).has_history for channel in channels):
            raise bad(
                INVALID_SINCE, "the topic keeps no messages: its channel has no history"
            )

    def _refuse(
        self, connection: Connection, head: Head, error: ApiProblem | Unavailable
    ) -> None:
        """Refuse a stream with a response, or a WebSocket with a close code."""
        if isinstance(error, ApiProblem):
            problem = error
        else:
            problem = ApiProblem(error.problem)
        if isinstance(connection, Stream):
            log = self._core.node.request_log
            host = host_of(connection.peer)
            connection.refuse(
                stream_refused(log, head, host, problem, STYLE), CloseCode.POLICY
            )
        elif problem.problem.status in _DENIALS:
            # A WebSocket is open already, so it can have no status.
            connection.close(CloseCode.NOT_ALLOWED, str(problem))
        else:
            connection.close(CloseCode.POLICY, str(problem))

    def _deliver(
        self, connection: Connection, app: str, wish: Wish, codec: NtfyDialect
    ) -> None:
        """Send the messages that a subscriber has missed, and from then on new
        ones.

        A request that only polls (``wish.poll``) ends after the missed
        messages. May switch greenlets. Raises ChannelRefused.
        """

        send = partial(_send_wanted, connection, wish, codec)
        if wish.since is not None and not wish.poll:
            _announce(connection, wish, codec)
        subscribed = []
        for channel in wish.channels:
            position = None
            if wish.since is not None:
                position = self._send_missed(connection, app, channel, wish.since, send)
            if not wish.poll and connection.is_open:
                # From the end of the missed messages on, so that none is lost.
                options = self._channels.options.of(app, channel)
                result = self._channels.subscriptions.subscribe(
                    connection, channel, options, position
                )
                subscribed.append((channel, result))

        # Without missed messages, "open" tells the client that all messages
        # from now on reach it.
        if wish.since is None and not wish.poll:
            _announce(connection, wish, codec)
        for channel, result in subscribed:
            send(result.publications)
            self._channels.subscriptions.answered(connection, channel, result)
            self._core.consent.confirm_member(connection, channel)
        if wish.poll:
            connection.close(CloseCode.NORMAL)

    def _send_missed(
        self,
        connection: Connection,
        app: str,
        channel: str,
        since: Since,
        send: Callable[[Iterable[Event]], None],
    ) -> Position:
        """Send the stored messages of a channel by ``send``, page by page, at
        the speed at which the client reads.

        Returns the position of the channel after them. May switch greenlets.
        Raises ChannelRefused.
        """
        position = self._find_start(app, channel, since)
        while True:
            page = self._channels.histories.read(app, channel, position, PAGE)
            if not page.publications:
                return page.position
            send(page.publications)
            position = _after(page.publications[-1])
            connection.wait_until_sent()

    def _find_start(self, app: str, channel: str, is_before: Since) -> Position | None:
        """The position in a channel after which messages are wanted.

        Reads backwards from the newest message, until ``is_before`` tells that
        a message is not wanted. Returns None if all stored messages are wanted.
        """
        position = None
        newer = 0
        while True:
            page = self._channels.histories.read(
                app, channel, position, PAGE, reverse=True
            )
            if not page.publications:
                return None
            for event in page.publications:
                message = message_of(event)
                # Also where the next page ends, in this direction.
                position = _after(event)
                if message is not None and is_before(message, newer):
                    return position
                newer += 1


def _send_wanted(
    connection: Connection, wish: Wish, codec: NtfyDialect, events: Iterable[Event]
) -> None:
    """Send the messages among these publications that a subscriber wants."""
    for message in filter(None, map(message_of, events)):
        is_expired = 0 < message.expires <= time()
        if wish.accepts(message) and not is_expired:
            connection.send(codec.encode(message))


def _announce(connection: Connection, wish: Wish, codec: NtfyDialect) -> None:
    """Send the sign that a stream is open."""
    wish.is_open = True
    connection.send(codec.encode(new_message("open", wish.topics)))


def _event_of(message: NtfyMessage, data: bytes, sender: str) -> Event:
    """The publication of a message. Its payload is the whole message, encoded
    as ``data``."""
    return Event(
        kind="msg",
        sender=sender,
        text="",
        id=message.id,
        type=NAME,
        data=data,
        time=message.time,
    )


def _after(event: Event) -> Position:
    """The position after a publication, as a place to read on."""
    assert event.channel is not None
    return Position(event.channel.epoch, event.channel.offset)


def _problem(refused: ChannelRefused, principal: Principal) -> ApiProblem:
    """The problem that a client gets if a channel refuses it."""
    status = _CODES.get(refused.reason, 403)
    if principal.kind == "nobody" and refused.reason not in _CODES:
        status = 401
    return bad(code_of(status), str(refused))


def _signer(ntfy: Ntfy, request: HttpRequest) -> Principal:
    """The principal of a request to a route of ntfy."""
    principal, _ = ntfy.identify(Parameters.of(request), request.host)
    return principal


def _health(_ntfy: Ntfy, _call: Call) -> HttpResponse:
    """Answer that the server works."""
    return HttpResponse(200, b'{"healthy":true}')


def _route(
    method: str, path: str, function: Callable[[Ntfy, Call], HttpResponse]
) -> Route:
    """A route of ntfy. Anybody may call it; its function decides what they may
    do."""
    return Route(
        method,
        f"/ntfy{path}",
        Needs.ANYONE_OR_PUSH,
        function,
        hot=True,
        limited=True,
        style=STYLE,
        # The functions read the body themselves.
        read=lambda _ntfy, _call: None,
        service=lambda core, _: core.service(Ntfy),
        signer=_signer,
    )


def _build(core: Core) -> Parts:
    """Make the service of ntfy for one node."""
    ntfy = Ntfy(core)
    return Parts(
        services=(ntfy,),
        opened={NAME: partial(ntfy.serve, FRAMES)},
        streams=ntfy.paths,
    )


ROUTES: Final = (
    *(_route("POST", path, Ntfy.publish) for path in ("/", "/*")),
    *(_route("PUT", path, Ntfy.publish) for path in ("/", "/*")),
    *(
        _route("GET", f"/*/{word}", Ntfy.publish)
        for word in ("publish", "send", "trigger")
    ),
    _route("GET", "/*", Ntfy.discover),
    _route("GET", "/*/auth", Ntfy.check_auth),
    _route("GET", "/v1/health", _health),
)
FEATURE: Final = FeatureRow(
    NAME, _build, (FRAMES,), ROUTES, settings=SettingsRow({NAME: NtfySettings})
)
