"""The protocol of ntfy: notifications by HTTP to topics, channels of one app, and their streams."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import time
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from imserver.plugin import DialectParts, Feature, FeatureParts, FeatureSettings
from imserver.plugin.errors import CloseCode, HttpProblem, Unavailable
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
from imserver.plugin.wire import OPEN, Connection, Event, Head, Stream, StreamEncoding, StreamPath, host_of

from .message import Message, Parameters, bad, new_message, read_json, read_message
from .wire import FRAMES, NAME, STREAMS, NtfyDialect, Since, Wish, channel_of, message_of

PAGE: Final = 100
_CODES: Final = {"unknown": 404, "limit": 413, "full": 429, "rate": 429, "unavailable": 503}
"""Reason why a channel refuses → status; any other: 401 without a key or token, else 403."""


class NtfySettings(Struct, frozen=True):
    """The section ``ntfy``. ``app``: the app whose channels ``ntfy:TOPIC`` are the topics."""

    app: Annotated[str, Meta(min_length=1)] = "default"
    message_bytes: Annotated[int, Meta(ge=1, le=65536)] = 4096


class NtfyStyle:
    """Refusals in ntfy's form: ``{"code": 40009, "http": 400, "error": "…"}``."""

    everywhere = False
    options = HttpResponse(204, b"")

    def refuse(self, problem: HttpProblem, _request: HttpRequest, detail: str = "") -> HttpResponse:
        """The answer to a refused request."""
        code = int(problem.code) if problem.code.isdecimal() else problem.status * 100 + 1
        about = {"code": code, "http": problem.status, "error": detail or problem.message}
        return HttpResponse(problem.status, msgspec.json.encode(about))


STYLE: Final = NtfyStyle()


def credential_of(headers: Mapping[str, str], query: str) -> str:
    """The key or token of a request: ``Bearer``, or the password of ``Basic``, in the header or ``auth=``."""
    given = headers.get("authorization", "")
    try:
        if not given and (param := dict(parse_qsl(query)).get("auth", "")):
            given = urlsafe_b64decode(param + "=" * (-len(param) % 4)).decode()
        scheme, _, rest = given.partition(" ")
        return b64decode(rest).decode().partition(":")[2] if scheme.lower() == "basic" else rest.strip()
    except ValueError:
        raise bad(40101, "the key or token cannot be read") from None


class Ntfy:
    """Serves ntfy's requests on one node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settings = settings_of(core.config, NtfySettings)
        self._channels = core.channels.channels

    def app(self) -> str:
        """The app of the topics. Raises ApiProblem if there is none."""
        app = self._core.identity.tenants.resolve(self._settings.app)
        if self._core.identity.tenants.find(app) is None:
            raise bad(40401, f"there is no app {self._settings.app} (setting ntfy.app)")
        return app

    def identify(self, headers: Mapping[str, str], query: str, host: str) -> tuple[Principal, str]:
        """The maker of a request, and its key or token. May switch. Raises ApiProblem and Unavailable."""
        credential = credential_of(headers, query)
        bearer = {"authorization": f"Bearer {credential}"} if credential else {}
        return self._core.identity.authority.identify(Needs.ANYONE_OR_PUSH, bearer, host), credential

    def check(self, principal: Principal, app: str, channels: tuple[str, ...]) -> None:
        """Refuse who may not subscribe. May switch. Raises ApiProblem."""
        try:
            for channel in channels:
                self._core.channels.commands.check_request(principal, app, channel, "subscribe")
        except ChannelRefused as refused:
            raise _problem(refused, principal) from None

    def publish(self, request: HttpRequest, principal: Principal) -> Message:
        """Publish the message of a request. May switch. Raises ApiProblem."""
        topic, body, query = request.path.split("/")[2], request.body, request.query.decode("latin-1")
        given: Mapping[str, str] = {}
        if not topic:
            given, body = read_json(body), b""
            topic = given.get("topic", "")
        parameters = Parameters(request.headers, query, given)
        message, app = read_message(topic, parameters, body, self._settings.message_bytes), self.app()
        options = self._channels.options(app, channel_of(topic))
        kept = parameters.get("cache").lower() not in ("0", "no", "false", "off")
        if kept and options.history_size:
            message.expires = message.time + int(options.history_seconds)
        data = msgspec.json.encode(message)
        event = Event("msg", principal.user, "", message.id, NAME, data, time=message.time)
        publish = self._core.channels.commands.publish_request
        try:
            publish(principal, request.host, app, channel_of(topic), event, kept)
        except ChannelRefused as refused:
            raise _problem(refused, principal) from None
        return message

    def paths(self) -> dict[str, StreamPath]:
        """Path of a stream → how it is served."""
        refuse = partial(stream_refused, self._core.node.request_log, style=STYLE)
        return {
            f"/ntfy/*/{form}": StreamPath("GET", partial(self._open, codec, StreamEncoding(codec)), refuse)
            for form, codec in STREAMS.items()
        }

    def _open(self, codec: NtfyDialect, encoding: StreamEncoding, stream: Stream, head: Head) -> None:
        """Begin a stream, or refuse it. May switch."""
        log, host = self._core.node.request_log, host_of(stream.peer)

        def begin() -> None:
            stream.begin(encoding, stream_head(log, head, host, codec.content_type))

        try:
            self._serve(stream, head, codec, begin)
        except ApiProblem as problem:
            stream.refuse(stream_refused(log, head, host, problem, STYLE), CloseCode.POLICY)

    def opened(self, connection: Connection, head: Head) -> None:
        """Serve a new WebSocket, or close it. May switch."""
        try:
            self._serve(connection, head, FRAMES, lambda: None)
        except ApiProblem as problem:
            denied = problem.problem.status in (401, 403)
            connection.close(CloseCode.NOT_ALLOWED if denied else CloseCode.POLICY, str(problem))

    def _serve(
        self, connection: Connection, head: Head, codec: NtfyDialect, begin: Callable[[], None]
    ) -> None:
        wish, app = Wish.read(head.path, Parameters(head.headers, head.query, {})), self.app()
        try:
            principal, token = self.identify(head.headers, head.query, host_of(connection.peer))
            self.check(principal, app, wish.channels)
            options = [self._channels.options(app, each) for each in wish.channels]
            if wish.since is not None and not all(each.has_history for each in options):
                raise bad(40008, "the topic keeps no messages: its channel has no history")
            if not self._core.sessions.sessions.begin_for(connection, app, principal, token, NAME, NAME):
                return
        except Unavailable as error:
            raise ApiProblem(error.problem) from None
        begin()
        connection.dialect_state = wish
        try:
            self._deliver(connection, app, wish, codec)
        except ChannelRefused as refused:
            connection.close(CloseCode.GOING_AWAY, str(refused))

    def _deliver(self, connection: Connection, app: str, wish: Wish, codec: NtfyDialect) -> None:
        """Send what was missed, and from then on what is new. May switch. Raises ChannelRefused."""

        def send(events: Iterable[Event]) -> None:
            for message in filter(None, map(message_of, events)):
                if wish.accepts(message) and not 0 < message.expires <= time():
                    connection.send(codec.encode(message))

        opening, joined = codec.encode(new_message("open", wish.topics)), []
        if wish.since is not None and not wish.poll:
            connection.send(opening)
        for channel in wish.channels:
            position = None
            if wish.since is not None:
                position = self._find_start(app, channel, wish.since)
                while (page := self._channels.history(app, channel, position, PAGE)).publications:
                    send(page.publications)
                    position = _after(page.publications[-1])
                    connection.wait_until_sent()
                position = page.position
            if not wish.poll and connection.state == OPEN:
                options = self._channels.options(app, channel)
                joined.append((channel, self._channels.subscribe(connection, channel, options, position)))
        if wish.since is None and not wish.poll:  # what is published from now on reaches the client
            connection.send(opening)
        for channel, found in joined:
            send(found.publications)
            self._channels.answered(connection, channel, found)
            self._core.channels.consent.confirm_member(connection, channel)
        if wish.poll:
            connection.close(CloseCode.NORMAL)

    def _find_start(self, app: str, channel: str, is_before: Since) -> Position | None:
        """The position after which messages are wanted; None: all. Reads from the newest one on."""
        position, newer = None, 0
        while events := self._channels.history(app, channel, position, PAGE, reverse=True).publications:
            for event in events:
                message, position = message_of(event), _after(event)
                if message is not None and is_before(message, newer):
                    return position
                newer += 1
        return None


def _after(event: Event) -> Position:
    assert event.channel is not None
    return Position(event.channel.epoch, event.channel.offset)


def _problem(refused: ChannelRefused, principal: Principal) -> ApiProblem:
    status = _CODES.get(refused.reason, 401 if principal.kind == "nobody" else 403)
    return bad(status * 100 + 1, str(refused))


def _publish(ntfy: Ntfy, call: Call) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode(ntfy.publish(call.request, call.principal)))


def _check_auth(ntfy: Ntfy, call: Call) -> HttpResponse:
    topics = call.request.path.split("/")[2].split(",")
    ntfy.check(call.principal, ntfy.app(), tuple(map(channel_of, topics)))
    return HttpResponse(200, b'{"success":true}')


def _identify(ntfy: Ntfy, request: HttpRequest) -> Principal:
    return ntfy.identify(request.headers, request.query.decode("latin-1"), request.host)[0]


def _route(method: str, path: str, function: Callable[[Ntfy, Call], HttpResponse]) -> Route:
    more: dict[str, Any] = {"style": STYLE, "signer": _identify, "read": lambda _ntfy, _call: None}
    more["service"] = lambda core, _: core.service(Ntfy)
    return Route(method, f"/ntfy{path}", Needs.ANYONE_OR_PUSH, function, hot=True, limited=True, **more)


def _build(core: Core) -> FeatureParts:
    ntfy = Ntfy(core)
    return FeatureParts(
        ntfy, dialects={NAME: DialectParts(opened=ntfy.opened)}, streams=lambda _serve: ntfy.paths()
    )


ROUTES: Final = (
    *(_route(method, path, _publish) for method in ("POST", "PUT") for path in ("/", "/*")),
    *(_route("GET", f"/*/{word}", _publish) for word in ("publish", "send", "trigger")),
    _route("GET", "/*/auth", _check_auth),
    _route("GET", "/v1/health", lambda _ntfy, _call: HttpResponse(200, b'{"healthy":true}')),
)
FEATURE: Final = Feature(NAME, _build, (FRAMES,), ROUTES, settings=FeatureSettings({NAME: NtfySettings}))
