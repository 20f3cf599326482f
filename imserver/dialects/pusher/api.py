"""Pusher's HTTP API: events, channels and users of an app. The libraries of its
back ends use it.

Requests are signed (:mod:`imserver.dialects.pusher.apps`). Errors are texts,
because the libraries show them. If the tests of Pusher's libraries name a text,
the server answers with Pusher's text.
"""

import re
from collections.abc import Iterator
from time import time
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.dialects.pusher.apps import (
    PusherApp,
    PusherApps,
    body_matches,
    read_query,
)
from imserver.dialects.pusher.service import PusherService, connection_id_of
from imserver.dialects.pusher.wire import (
    CACHED,
    MAX_EVENT_NAME,
    PRESENCE,
    RESERVED_EVENTS,
    USER_CHANNEL,
    data_of,
)
from imserver.plugin.errors import HttpProblem, Problems
from imserver.plugin.http import (
    PROBLEM,
    ApiProblem,
    Call,
    HttpRequest,
    HttpResponse,
    Route,
)
from imserver.plugin.identity import Needs
from imserver.plugin.runtime import is_long_turn, serve_others
from imserver.plugin.services import ChannelRefused, Channels, Core
from imserver.plugin.wire import Event, Limit

MAX_CHANNELS: Final = 100
"""The most channels of one event."""
MAX_BATCH: Final = 10
"""The most events of one request."""
_PAGE: Final = 1000
_APP_INDEX: Final = 2
_NAME_INDEX: Final = 4
"""Indexes of the app, and of the channel or the user, in the segments of
``/apps/{app_id}/channels/{name}``. The first segment is empty."""
_CHANNEL: Final = re.compile(r"[-A-Za-z0-9_=@,.;:#$]+")
"""Names of channels: Pusher's characters, and characters with a meaning in
other dialects."""


def count_connections(core: Core, app: str) -> int:
    """The number of connections of an app on this node, in every dialect.

    A node may have very many, so other greenlets are served meanwhile. May
    switch greenlets.
    """
    count = 0
    for connection in tuple(core.hub.connections()):
        count += connection.app == app
        if is_long_turn():
            serve_others()
    return count


class PusherApi(Struct, frozen=True):
    """The services that the routes of this API use."""

    apps: PusherApps
    service: PusherService
    core: Core
    channels: Channels


def _refuse(
    problem: HttpProblem, _request: HttpRequest, detail: str = ""
) -> HttpResponse:
    """Answer a refused request with the status of the problem, and a line of
    text. The libraries of Pusher show it."""
    text = f"{detail or problem.message}\n"
    return HttpResponse(
        problem.status, text.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    )


_STYLE: Final = replace(PROBLEM, refuse=_refuse, everywhere=True)


class _PusherRequest(Struct, frozen=True):
    """A request with its app, the segments of its path, and its body."""

    pusher: PusherApp
    segments: list[str]
    body: Any


class _Event(Struct, kw_only=True):
    """One event for one channel."""

    name: str
    data: str
    channel: str = ""
    socket_id: str | None = None
    info: str | None = None


class _Trigger(_Event, kw_only=True):
    """One event for several channels."""

    channels: list[str] = []


class _Batch(Struct):
    """The body of a request with several events."""

    batch: list[_Event]


_BODY_OF_ROUTE: Final[dict[str, Any]] = {"events": _Trigger, "batch_events": _Batch}
"""End of a path → the type of its body. The other routes have no body."""


def _read_signed_request(api: PusherApi, call: Call) -> None:
    """Read a signed request into ``call.input``: the app that its path names,
    its parameters, and its body.

    The signature was checked before, and covers the query but not the body.
    So the query must have the MD5 of the body. Raises ApiProblem.
    """
    segments = [unquote(each) for each in call.request.path.split("/")]
    app_id = segments[_APP_INDEX]
    pusher = api.apps.by_id.get(app_id)
    if pusher is None:
        raise ApiProblem(Problems.UNKNOWN_APP, f"No app has the id {app_id}")

    call.app = pusher.app
    call.params = read_query(call.request.query)
    if not body_matches(call.params, call.body):
        raise ApiProblem(
            Problems.SIGNATURE_INVALID, "body_md5: does not match the body"
        )

    body = None
    kind = _BODY_OF_ROUTE.get(segments[-1])
    if kind is not None and call.request.method == "POST":
        try:
            body = msgspec.json.decode(call.body, type=kind)
        except (ValueError, RecursionError) as error:
            raise _bad_body(error) from None
    call.input = _PusherRequest(pusher, segments, body)


def _bad_body(error: Exception) -> ApiProblem:
    """The problem for a body that cannot be decoded. A missing field has
    Pusher's text."""
    missing = re.match("Object missing required field `([^`]*)`", str(error))
    if missing:
        text = f"Missing required parameter: {missing[1]}"
    else:
        text = f"The body does not fit: {error}"
    return ApiProblem.invalid(text)


def trigger(api: PusherApi, call: Call) -> HttpResponse:
    """``POST /apps/{app_id}/events``: send one event to one or more channels.

    With ``info``, the answer has attributes of each channel. May switch
    greenlets. Raises ApiProblem and ChannelRefused.
    """
    api.core.metrics.pushes.require(call.app)
    request: _PusherRequest = call.input
    event: _Trigger = request.body
    channels = event.channels
    if not channels and event.channel:
        channels = [event.channel]
    if not 1 <= len(channels) <= MAX_CHANNELS:
        raise ApiProblem.invalid(f"An event is for 1 to {MAX_CHANNELS} channels")
    _check_event(api, request.pusher, event, channels)

    # A channel that is named twice gets the event once.
    for channel in dict.fromkeys(channels):
        api.service.publish(
            request.pusher, channel, event.name, event.data, event.socket_id or ""
        )
    if not event.info:
        return _answer({})
    attributes = {
        channel: _attributes(api, call.app, channel, event.info) for channel in channels
    }
    return _answer({"channels": attributes})


def trigger_batch(api: PusherApi, call: Call) -> HttpResponse:
    """``POST /apps/{app_id}/batch_events``: send several events.

    If one of them is wrong, none is sent. With ``info`` in an event, the
    answer has attributes of its channel. May switch greenlets. Raises
    ApiProblem and ChannelRefused.
    """
    api.core.metrics.pushes.require(call.app)
    request: _PusherRequest = call.input
    events: list[_Event] = request.body.batch
    _check_batch(api, request.pusher, events)
    for event in events:
        api.service.publish(
            request.pusher, event.channel, event.name, event.data, event.socket_id or ""
        )
    if not any(event.info for event in events):
        return _answer({})
    return _answer({"batch": _infos_of(api, call.app, events)})


def _infos_of(api: PusherApi, app: str, events: list[_Event]) -> list[dict[str, Any]]:
    """The attributes of the channels of events: one object for each event, in
    their order, even if it is empty."""
    infos: list[dict[str, Any]] = []
    for event in events:
        if event.info:
            infos.append(_attributes(api, app, event.channel, event.info))
        else:
            infos.append({})
    return infos


def _check_batch(api: PusherApi, pusher: PusherApp, events: list[_Event]) -> None:
    """Refuse a batch with a wrong event, or with too many. Raises
    ApiProblem."""
    if not events:
        raise ApiProblem.invalid("A batch has at least one event")
    if len(events) > MAX_BATCH:
        raise ApiProblem.invalid(f"Batch too large ({len(events)} > {MAX_BATCH})")
    for event in events:
        if not event.channel:
            raise ApiProblem.invalid("Missing required parameter: channel")
        _check_event(api, pusher, event, [event.channel])


def _check_event(
    api: PusherApi, pusher: PusherApp, event: _Event, channels: list[str]
) -> None:
    """Refuse an event that may not be sent to these channels.

    It checks the length and form of names, data and ``socket_id``. Raises
    ApiProblem, with Pusher's texts.
    """
    if not 0 < len(event.name) <= MAX_EVENT_NAME:
        raise ApiProblem.invalid(f"name: expected 1 to {MAX_EVENT_NAME} characters")
    if event.name.startswith(RESERVED_EVENTS):
        raise ApiProblem.invalid("name: events of this name are those of the protocol")

    # Pusher's libraries show this text, and so does its own server.
    limit = pusher.settings.event_bytes
    if len(event.data.encode("utf-8", "surrogatepass")) > limit:
        text = f"The data content of this event exceeds the allowed maximum ({limit} bytes)"
        raise ApiProblem(Problems.BODY_TOO_LARGE, text)
    if event.socket_id and not connection_id_of(event.socket_id):
        raise ApiProblem.invalid(f"Invalid socket id: '{event.socket_id}'")

    for channel in channels:
        _check_name(api, channel)


def _check_name(api: PusherApi, channel: str) -> None:
    """Refuse a name that no channel can have. Raises ApiProblem, with Pusher's
    text."""
    if not 0 < len(channel.encode("utf-8", "surrogatepass")) <= Limit.CHANNEL_BYTES:
        raise ApiProblem.invalid(
            f"Invalid channel name: it has 1 to {Limit.CHANNEL_BYTES} bytes"
        )
    # Ids of users may have any characters.
    if channel.startswith(USER_CHANNEL):
        return
    # Channels of this server that other dialects use.
    if api.channels.options.is_reserved(channel):
        return
    if channel.startswith("#") or not _CHANNEL.fullmatch(channel):
        raise ApiProblem.invalid(f"Invalid channel name: '{channel}'")


def _refused(refused: ChannelRefused) -> ApiProblem:
    """The problem that the caller gets for a refusal of the core."""
    if refused.reason == "unavailable":
        return ApiProblem(Problems.NOT_ACCEPTED)
    if refused.reason == "limit":
        return ApiProblem(Problems.BODY_TOO_LARGE, str(refused))
    return ApiProblem.invalid(str(refused))


# --- queries ------------------------------------------------------------------


def channels(api: PusherApi, call: Call) -> HttpResponse:
    """``GET /apps/{app_id}/channels``: the channels with subscribers.

    Parameters: only names that begin with ``filter_by_prefix``, with the
    attributes that ``info`` names. May switch greenlets. Raises ApiProblem.
    """
    prefix = call.params.get("filter_by_prefix", "")
    info = call.params.get("info", "")
    _check_wanted(info, prefix)
    attributes_by_name: dict[str, Any] = {}
    for name, members in _listed_channels(api, call.app, prefix):
        attributes_by_name[name] = _attributes(api, call.app, name, info, members)
        if is_long_turn():
            serve_others()
    return _answer({"channels": attributes_by_name})


def _listed_channels(
    api: PusherApi, app: str, prefix: str
) -> Iterator[tuple[str, int]]:
    """Yield the channels of an app whose names begin with ``prefix``, with the
    number of their subscribers. They are read page by page."""
    last_name = ""
    while True:
        page = api.channels.members.channels(app, last_name, _PAGE)
        for row in page.channels:
            if row.channel.startswith(prefix) and _is_listed(api, row.channel):
                yield row.channel, row.members
        if not page.more:
            return
        last_name = page.channels[-1].channel


def _check_wanted(info: str, prefix: str) -> None:
    """Refuse a list of channels with numbers of users, unless all channels are
    presence channels. Raises ApiProblem."""
    if "user_count" in info.split(",") and not prefix.startswith(PRESENCE):
        # Pusher spells it "begining".
        raise ApiProblem.invalid(
            "user_count may only be requested for presence channels - "
            "please supply filter_by_prefix begining with presence-"
        )


def _is_listed(api: PusherApi, name: str) -> bool:
    """Whether back ends see a channel in a list. Channels of users, and
    channels of this server itself, are hidden."""
    return not (name.startswith("#") or api.channels.options.is_reserved(name))


def channel(api: PusherApi, call: Call) -> HttpResponse:
    """``GET /apps/{app_id}/channels/{name}``: whether a channel has
    subscribers, and the attributes that ``info`` names. May switch greenlets.
    Raises ApiProblem."""
    name = call.input.segments[_NAME_INDEX]
    info = call.params.get("info", "")
    if "user_count" in info.split(",") and not name.startswith(PRESENCE):
        raise ApiProblem.invalid(
            "Cannot retrieve the user count unless the channel is a presence channel"
        )
    # Counted on all nodes at this moment.
    count = _subscribers(api, call.app, name)
    attributes = _attributes(api, call.app, name, info, count)
    return _answer({"occupied": count > 0, **attributes})


def users(api: PusherApi, call: Call) -> HttpResponse:
    """``GET /apps/{app_id}/channels/{name}/users``: the users in a presence
    channel."""
    name: str = call.input.segments[_NAME_INDEX]
    if not name.startswith(PRESENCE):
        raise ApiProblem.invalid("Users can only be retrieved for presence channels")
    return _answer(
        {"users": [{"id": each} for each in api.service.users(call.app, name)]}
    )


def connections(api: PusherApi, call: Call) -> HttpResponse:
    """``GET /apps/{app_id}/connections`` of Laravel Reverb: the number of
    connections of the app on all nodes.

    Nodes that do not answer count as none. May switch greenlets.
    """
    count = 0
    others = api.core.others
    if others is not None:
        count = sum(others.answers("app_connections", call.app, int))
    count += count_connections(api.core, call.app)
    return _answer({"connections": count})


def up(_service: None, _call: Call) -> HttpResponse:
    """``GET /up`` of Laravel Reverb: the loop runs and requests are
    answered."""
    return HttpResponse(200, b'{"health":"OK"}')


def terminate(api: PusherApi, call: Call) -> HttpResponse:
    """``POST /apps/{app_id}/users/{id}/terminate_connections``: end all
    sessions of a user."""
    request: _PusherRequest = call.input
    # For the audit log, which records this act.
    call.user = request.segments[_NAME_INDEX]
    call.facts = {}
    api.core.sessions.close(call.app, [call.user])
    return _answer({})


def _subscribers(api: PusherApi, app: str, channel: str) -> int:
    """The present number of subscribers of a channel, on all nodes. May
    switch greenlets."""
    return api.channels.members.page(app, channel, limit=0).total


def _attributes(
    api: PusherApi, app: str, channel: str, info: str, subscribers: int | None = None
) -> dict[str, Any]:
    """The attributes of a channel that ``info`` names, separated by commas.

    They are ``user_count``, ``subscription_count`` and ``cache``. An attribute
    that the channel does not have is left out. ``subscribers``: their number;
    if it is None, it is counted when ``info`` asks for it. May switch
    greenlets.
    """
    wanted = info.split(",")
    attributes = dict[str, Any]()
    service = api.service
    # Only presence channels know their users.
    if "user_count" in wanted and channel.startswith(PRESENCE):
        attributes["user_count"] = len(service.users(app, channel))
    if "subscription_count" in wanted:
        if subscribers is None:
            subscribers = _subscribers(api, app, channel)
        attributes["subscription_count"] = subscribers
    if "cache" in wanted and channel.startswith(CACHED):
        event = service.cached(app, channel)
        if event is not None:
            attributes["cache"] = _cache_of(api, app, channel, event)
    return attributes


def _cache_of(api: PusherApi, app: str, channel: str, event: Event) -> dict[str, Any]:
    """The attribute ``cache`` of a channel with this cached event: its data,
    and for how many seconds it stays."""
    seconds = api.channels.options.of(app, channel).history_seconds
    remaining_seconds = int(event.time + seconds - time())
    return {"data": data_of(event), "ttl": max(0, remaining_seconds)}


def _answer(data: dict[str, Any]) -> HttpResponse:
    """The answer to a request that has succeeded, as JSON."""
    return HttpResponse(200, msgspec.json.encode(data))


_ROW: Final[dict[str, Any]] = {
    "app": "known",
    "hot": True,
    "read": _read_signed_request,
    "style": _STYLE,
    "refusals": {ChannelRefused: _refused},
    "service": lambda core, _: core.service(PusherApi),
    "signer": lambda api, request: api.apps.signer(
        request.method, request.path, request.query, time()
    ),
}

ROUTES: Final = (
    Route("POST", "/apps/*/events", Needs.SIGNED, trigger, **_ROW),
    Route("POST", "/apps/*/batch_events", Needs.SIGNED, trigger_batch, **_ROW),
    Route("GET", "/apps/*/channels", Needs.SIGNED, channels, **_ROW),
    Route("GET", "/apps/*/channels/*", Needs.SIGNED, channel, **_ROW),
    Route("GET", "/apps/*/channels/*/users", Needs.SIGNED, users, **_ROW),
    Route("GET", "/apps/*/connections", Needs.SIGNED, connections, **_ROW),
    Route(
        "POST",
        "/apps/*/users/*/terminate_connections",
        Needs.SIGNED,
        terminate,
        act="disconnect",
        **_ROW,
    ),
    Route("GET", "/up", Needs.ANYONE, up, hot=True, style=_STYLE),
)
