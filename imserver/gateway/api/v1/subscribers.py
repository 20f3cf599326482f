"""Subscribers of channels: subscribe, unsubscribe, presence, lists. Publishing
is in :mod:`.channels`."""

from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.gateway.auth.principal import Needs
from imserver.gateway.channels.connections import Joined, Left
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.config.declared import about
from imserver.gateway.http import field
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.form import cursor_of, read_cursor
from imserver.gateway.http.operation import Link, Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.sessions.presence import ConnectionId, Device, Dialect

MOST_AT_ONCE: Final = 1000
"""The most connections and users of one call. Each is queried at its own
node."""


class SubscriptionChange(Struct, forbid_unknown_fields=True):
    """The connections to subscribe or unsubscribe: individual connections, and
    all current connections of the given users."""

    app: field.App
    channel: field.ChannelName
    connections: Annotated[
        list[ConnectionId], about("Ids of connections.", max_length=MOST_AT_ONCE)
    ] = []
    users: Annotated[
        list[field.User],
        about(
            "Users whose current connections are subscribed or unsubscribed. Their "
            "later connections are not.",
            max_length=MOST_AT_ONCE,
        ),
    ] = []


class SubscriptionResult(Struct):
    """The result for one connection, or for a user without a connection."""

    status: Annotated[
        str,
        about(
            "`subscribed`. `exists`: the connection was subscribed before. `unknown`: "
            "the connection does not exist, or the user has no connection. `full`: "
            "the connection has too many channels, or the app has too many channels. "
            "`failed`: the node of the connection did not answer."
        ),
    ]
    connection: str | UnsetType = UNSET
    user: Annotated[
        str | UnsetType,
        about("The user of the connection, if the request names the user."),
    ] = UNSET


class SubscribeAnswer(Struct):
    """The results for `connections`, then the results for `users`, in the order
    of the request."""

    subscribed: Annotated[int, about("The number of new subscriptions.")]
    results: list[SubscriptionResult]
    missing_nodes: field.Missing


class UnsubscriptionResult(SubscriptionResult):
    """The result for one connection, or for a user without a connection."""

    status: Annotated[
        str,
        about(
            "`unsubscribed`. `absent`: the connection was not subscribed. `unknown`: "
            "the connection does not exist, or the user has no connection. `failed`: "
            "the node of the connection did not answer."
        ),
    ]


class UnsubscribeAnswer(Struct):
    """The results for `connections`, then the results for `users`, in the order
    of the request."""

    unsubscribed: Annotated[int, about("The number of subscriptions that ended.")]
    results: list[UnsubscriptionResult]
    missing_nodes: field.Missing


class ChannelShown(Struct):
    """A channel and the number of its subscribers."""

    channel: str
    subscribers: int


class ChannelsAnswer(Struct):
    """A page of the channels with subscribers, ordered by name."""

    count: Annotated[
        int,
        about(
            "The number of channels, on all pages together. A channel with "
            "subscribers on several nodes may count more than once."
        ),
    ]
    channels: list[ChannelShown]
    next: field.NextCursor
    missing_nodes: field.Missing


class SubscriberShown(Struct):
    """A connection that is subscribed to a channel."""

    connection: ConnectionId
    user: Annotated[str, about("The user of the connection; empty before the login.")]
    device: Device
    dialect: Dialect
    subscribed_at: Annotated[
        float, about("The start of the subscription, in Unix seconds.")
    ]
    info: Annotated[
        Raw | UnsetType,
        about("The data that the connection gives about itself in all its channels."),
    ] = UNSET
    channel_info: Annotated[
        Raw | UnsetType,
        about("The data that the connection gives about itself in this channel."),
    ] = UNSET


class PresenceOfChannel(Struct):
    """A page of the subscribers of a channel, in the order of subscribing."""

    count: Annotated[int, about("The number of subscribers, on all pages together.")]
    subscribers: list[SubscriberShown]
    next: field.NextCursor
    missing_nodes: field.Missing


class Named(NamedTuple):
    """A connection that a request names by its id, or by its user.

    If ``user`` is UNSET, the request names the connection itself. If
    ``connection`` is UNSET, the user is absent.
    """

    connection: str | UnsetType
    user: str | UnsetType


class NamedConnections(NamedTuple):
    """The connections that a request names.

    ``entries`` are in the order of the request. Absent users have entries, too.
    ``ids`` are the ids of the connections in ``entries``. ``missing`` are the
    nodes that did not answer.
    """

    entries: list[Named]
    ids: list[str]
    missing: list[str]


Result = TypeVar("Result", bound=SubscriptionResult)


routes = Resource(
    "channels",
    lambda _, api: api,
    base=field.AppPage,
    need=Needs.READ_OR_OPERATE,
    refusals={ChannelRefused: lambda error: ApiProblem.invalid(str(error))},
)


@routes.post("/channels/subscribe", Needs.PUSH, act="")
def subscribe(api: Api, call: Call, request: SubscriptionChange) -> SubscribeAnswer:
    """Subscribe connections to a channel.

    The connections receive each message that is published after the answer. The
    server checks no permission.
    """
    named = _named(api, call.app, request)
    subscribed = api.core.connections.join_each(call.app, named.ids, request.channel)
    results = _results(SubscriptionResult, named.entries, subscribed)
    return SubscribeAnswer(
        subscribed=subscribed.count(Joined.JOINED),
        results=results,
        missing_nodes=named.missing,
    )


@routes.post("/channels/unsubscribe", Needs.PUSH, act="")
def unsubscribe(api: Api, call: Call, request: SubscriptionChange) -> UnsubscribeAnswer:
    """Unsubscribe connections from a channel.

    When a connection closes, its subscriptions end.
    """
    named = _named(api, call.app, request)
    unsubscribed = api.core.connections.leave_each(call.app, named.ids, request.channel)
    results = _results(UnsubscriptionResult, named.entries, unsubscribed)
    return UnsubscribeAnswer(
        unsubscribed=unsubscribed.count(Left.LEFT),
        results=results,
        missing_nodes=named.missing,
    )


def _results(
    kind: type[Result], entries: list[Named], outcomes: Iterable[str]
) -> list[Result]:
    """Make a result for each named connection, and for each absent user.

    ``outcomes`` are the outcomes of the connections, in their order. A user
    without a connection has the status ``unknown``.
    """
    next_outcome = iter(outcomes)
    results = []
    for connection, user in entries:
        status = "unknown"
        if connection is not UNSET:
            status = next(next_outcome)
        results.append(kind(status, connection, user))
    return results


def _named(api: Api, app: str, request: SubscriptionChange) -> NamedConnections:
    """Find the connections that a request names, by ids or by users.

    May switch greenlets.
    """
    entries = [Named(connection, UNSET) for connection in request.connections]
    online = api.core.presence.sessions(app, request.users)
    for user, sessions in zip(request.users, online.sessions, strict=True):
        if not sessions:
            entries.append(Named(UNSET, user))
        # A user with several connections has several entries.
        entries += [Named(session.connection, user) for session in sessions]
    ids = [entry.connection for entry in entries if entry.connection is not UNSET]
    return NamedConnections(entries, ids, list(online.missing))


@routes.get(
    "/channels/list",
    links=(
        Link("presence", "get_channels_presence", {"channel": "channels/0/channel"}),
    ),
)
def channels(api: Api, call: Call, request: field.AppPage) -> ChannelsAnswer:
    """List the channels of an app that have subscribers, page by page."""
    cursor = read_cursor(request.cursor) or ""
    page = api.channels.members.channels(call.app, cursor, request.limit)
    next_cursor = ""
    if page.more:
        next_cursor = cursor_of(page.channels[-1].channel)
    rows = [ChannelShown(row.channel, row.members) for row in page.channels]
    return ChannelsAnswer(
        count=page.total,
        channels=rows,
        next=next_cursor,
        missing_nodes=list(page.missing),
    )


@routes.get(
    "/channels/presence",
    links=(
        Link("page", "get_channels_presence", {"cursor": "next"}, ("app", "channel")),
        Link(
            "connection",
            "get_connections_show",
            {"connection": "subscribers/0/connection"},
        ),
    ),
)
def presence(
    api: Api, call: Call, cursor: str, limit: int, channel: field.ChannelName
) -> PresenceOfChannel:
    """List the subscribers of a channel, page by page.

    For a channel without subscribers, the answer is an empty page, not an
    error.
    """
    # The cursor is a time of joining. So the next page continues exactly after
    # the last entry.
    after = read_cursor(cursor) or ""
    page = api.channels.members.page(call.app, channel, after, limit)
    rows = [
        SubscriberShown(
            connection=member.connection,
            user=member.user,
            device=member.device,
            dialect=member.dialect,
            subscribed_at=member.joined,
            info=_raw(member.info),
            channel_info=_raw(member.channel_info),
        )
        for member in page.members
    ]
    next_cursor = ""
    if page.next:
        next_cursor = cursor_of(page.next)
    return PresenceOfChannel(
        count=page.total,
        subscribers=rows,
        next=next_cursor,
        missing_nodes=list(page.missing),
    )


def _raw(text: str) -> Raw | UnsetType:
    """Return the JSON that a connection gives about itself.

    The result is UNSET if the text is empty.
    """
    if not text:
        return UNSET
    return Raw(text)
