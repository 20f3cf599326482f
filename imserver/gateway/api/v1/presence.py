"""Presence: users online, their sessions, counts, a connection; ending
sessions: disconnect, ban, unban, bans."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from imserver.gateway.auth.principal import Needs
from imserver.gateway.channels.connections import ConnectionInfo
from imserver.gateway.config.declared import about
from imserver.gateway.errors import CloseCode, Problems
from imserver.gateway.http import field
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.form import cursor_of, read_cursor
from imserver.gateway.http.operation import Link, Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.http.wire import page_of, reached, require_few
from imserver.gateway.model import Outcome
from imserver.gateway.sessions.presence import ConnectionId, SessionInfo
from imserver.gateway.sessions.sessions import MAX_BAN_SECONDS


class PresenceRequest(Struct, forbid_unknown_fields=True):
    """The users to look for."""

    app: field.App
    users: Annotated[
        list[field.User],
        about(
            "The users to look for.",
            extra_json_schema={"maxItems": "limits.batch_targets"},
        ),
    ]
    sessions: Annotated[
        bool, about("Whether to list also the sessions of each user.")
    ] = False


class SessionShown(SessionInfo, frozen=True, array_like=False):
    """One session: a connection that is logged in."""


class UserPresence(Struct):
    """Whether a user is online, and their sessions."""

    user: str
    online: bool
    sessions: Annotated[
        list[SessionShown] | UnsetType,
        about(
            "The sessions of the user, the oldest first, if the request asks for them."
        ),
    ] = UNSET


class PresenceAnswer(Struct):
    """Whether each user is online, in the order of the request."""

    online_count: Annotated[int, about("The number of these users who are online.")]
    users: list[UserPresence]
    missing_nodes: field.Missing


class UsersAnswer(Struct):
    """A page of the online users."""

    count: Annotated[int, about("The number of users online, on all pages together.")]
    users: Annotated[list[str], about("Ids of users, in order.")]
    next: field.NextCursor
    missing_nodes: field.Missing


class AppCounts(Struct):
    """The counts of an app, over all nodes."""

    app: str
    users: Annotated[int, about("The number of online users.")]
    sessions: Annotated[
        int,
        about(
            "The number of sessions of these users. A user may have several sessions."
        ),
    ]
    channels: Annotated[
        int,
        about(
            "The number of channels with subscribers. If the app has very many "
            "channels, a channel with subscribers on several nodes is counted on each "
            "node."
        ),
    ]


class CountsAnswer(Struct):
    """The counts of one app, or a page of the apps that the key reaches,
    ordered by name."""

    apps: list[AppCounts]
    next: field.NextCursor
    missing_nodes: field.Missing


routes = Resource("presence", lambda _, api: api, need=Needs.READ_OR_OPERATE)


@routes.get(
    "/presence",
    links=(
        Link(
            "connection",
            "get_connections_show",
            {"connection": "users/0/sessions/0/connection"},
        ),
    ),
)
def user_presence(
    api: Api, call: Call, app: field.App, user: field.User
) -> PresenceAnswer:
    """Show whether a user is online, and their sessions."""
    return _with_sessions(api, call.app, [user])


@routes.post(
    "/presence", act="", problems=(Problems.TOO_MANY_TARGETS,), takes_many=True
)
def users_presence(api: Api, call: Call, request: PresenceRequest) -> PresenceAnswer:
    """Show which of the given users are online."""
    require_few(api.limits, request.users)
    if request.sessions:
        return _with_sessions(api, call.app, request.users)

    # Without sessions a shorter query is enough.
    online = api.core.presence.online(call.app, request.users)
    users = [
        UserPresence(user, is_online)
        for user, is_online in zip(request.users, online.users, strict=True)
    ]
    return PresenceAnswer(
        online_count=sum(online.users),
        users=users,
        missing_nodes=list(online.missing),
    )


def _with_sessions(api: Api, app: str, names: list[str]) -> PresenceAnswer:
    """Tell whether each of these users is online, with their sessions."""
    answer = api.core.presence.sessions(app, names)
    # The sessions come from other nodes in a compact form.
    sessions_of_each = msgspec.convert(
        answer.sessions, list[list[SessionShown]], from_attributes=True
    )
    users = [
        UserPresence(user, bool(sessions), sessions)
        for user, sessions in zip(names, sessions_of_each, strict=True)
    ]
    online_count = sum(user.online for user in users)
    return PresenceAnswer(
        online_count=online_count,
        users=users,
        missing_nodes=list(answer.missing),
    )


@routes.get(
    "/users",
    links=(
        Link("page", "get_users", {"cursor": "next"}),
        Link("user", "get_presence", {"user": "users/0"}),
    ),
)
def users(api: Api, call: Call, request: field.AppPage) -> UsersAnswer:
    """List the online users of an app, page by page.

    A user who stays online is listed exactly once, even if other users connect
    or disconnect between two pages.
    """
    cursor = read_cursor(request.cursor)
    page = api.core.presence.page(call.app, cursor, request.limit)
    names = sorted(page.users)
    next_cursor = ""
    if page.more:
        next_cursor = cursor_of(names[-1])
    return UsersAnswer(
        count=page.total,
        users=names,
        next=next_cursor,
        missing_nodes=list(page.missing),
    )


@routes.get("/counts", reach="optional")
def counts(
    api: Api,
    call: Call,
    app: field.AnyApp = "",
    cursor: field.PageCursor = "",
    limit: field.Limit = field.USUAL_PAGE,
) -> CountsAnswer:
    """Count users, sessions and channels.

    Counts of one app, or a page of all apps that the key reaches.
    """
    # If the request names an app, there is only one row, and no next page.
    if app:
        names = [call.app]
        next_cursor = ""
    else:
        own_apps = reached(api.core.tenants, call.principal)
        names, next_cursor = page_of(own_apps, cursor, limit)
    result = api.core.presence.counts(names)
    rows = [
        AppCounts(
            app=name,
            users=count.users,
            sessions=count.sessions,
            channels=count.channels,
        )
        for name, count in result.apps.items()
    ]
    return CountsAnswer(
        apps=rows,
        next=next_cursor,
        missing_nodes=list(result.missing),
    )


# --- one connection -----------------------------------------------------------


class ConnectionShown(ConnectionInfo, frozen=True, array_like=False):
    """One connection."""


@routes.get("/connections/show", problems=(Problems.UNKNOWN_CONNECTION,))
def connection(
    api: Api, call: Call, app: field.App, connection: ConnectionId
) -> ConnectionShown:
    """Show a connection."""
    (row,) = api.core.connections.about(call.app, [connection])
    if row is None:
        raise ApiProblem(Problems.UNKNOWN_CONNECTION)
    return msgspec.convert(row, ConnectionShown, from_attributes=True)


# --- ending sessions ----------------------------------------------------------

MOST_USERS: Final = 1000

Users = Annotated[list[field.User], about("The users.", max_length=MOST_USERS)]


class DisconnectRequest(Struct, forbid_unknown_fields=True):
    """The sessions to end: all sessions of users, or their sessions on one
    device, and individual connections."""

    app: field.App
    users: Annotated[
        list[field.User], about("Users whose sessions to end.", max_length=MOST_USERS)
    ] = []
    device: Annotated[
        str | UnsetType,
        about(
            "End only the sessions on devices with this name. Left out: on all devices."
        ),
    ] = UNSET
    connections: Annotated[
        list[ConnectionId], about("Connections to close.", max_length=MOST_USERS)
    ] = []


class UserRemoved(Struct):
    """The number of ended sessions of a user."""

    user: str
    closed: int


class ConnectionClosed(Struct):
    """1: the connection was closed. 0: there is no such connection."""

    connection: str
    closed: int


class DisconnectAnswer(Struct):
    """The sessions and connections that were ended."""

    closed: Annotated[int, about("The number of ended sessions.")]
    users: list[UserRemoved]
    connections: list[ConnectionClosed]
    missing_nodes: field.Missing


class BanAnswer(Struct):
    """The sessions that the ban has ended."""

    closed: Annotated[int, about("The number of ended sessions.")]
    users: list[UserRemoved]
    lasting: Annotated[
        bool,
        about(
            "False: the ban is not stored, because the database does not answer or "
            "the cluster has no database. Running nodes enforce the ban, but a node "
            "that starts later does not."
        ),
    ]
    missing_nodes: field.Missing


class UnbanAnswer(Struct):
    """The bans were lifted."""

    missing_nodes: field.Missing


class BanShown(Struct):
    """A banned user."""

    user: str
    until: Annotated[
        int | None,
        about("The end of the ban, in Unix seconds; null: the ban is permanent."),
    ]
    reason: Annotated[str, about("The reason for the ban. The user sees it.")] = ""


class BansAnswer(Struct):
    """A page of the banned users, ordered by id."""

    count: Annotated[int, about("The number of entries, on all pages together.")]
    bans: list[BanShown]
    next: field.NextCursor


sessions = Resource("sessions", lambda _, api: api, need=Needs.OPERATE)


def _require_below(api: Api, call: Call, users: Sequence[str]) -> None:
    """Refuse a principal whose role may not act on one of these users.

    A moderator, for example, may not ban an owner. Raises :class:`ApiProblem`.
    May switch greenlets.
    """
    if not api.core.authority.may_act_on(call.principal, call.app, users):
        raise ApiProblem(
            Problems.NOT_ALLOWED, "Your role acts on users with fewer rights only"
        )


@sessions.post("/disconnect")
def disconnect(api: Api, call: Call, request: DisconnectRequest) -> DisconnectAnswer:
    """End sessions of users, or individual connections.

    The server closes the connections with code 4502. The code asks the client
    not to reconnect, but the server does not prevent it. Clients receive
    earlier pushes first.
    """
    app = call.app
    device = None
    if request.device is not UNSET:
        device = request.device
    removed = api.core.sessions.close(app, request.users, device)
    users = [
        UserRemoved(user, count)
        for user, count in zip(request.users, removed.closed, strict=True)
    ]

    connections = _close_connections(api, app, request.connections)
    closed = removed.total + sum(each.closed for each in connections)
    return DisconnectAnswer(
        closed=closed,
        users=users,
        connections=connections,
        missing_nodes=list(removed.missing),
    )


def _close_connections(
    api: Api, app: str, ids: Iterable[str]
) -> list[ConnectionClosed]:
    """Close connections by their ids, one by one, because each connection may
    be on another node."""
    results = []
    for id in ids:
        outcome = api.core.connections.close(app, id, CloseCode.KICKED)
        results.append(ConnectionClosed(id, closed=int(outcome is Outcome.SENT)))
    return results


@sessions.post(
    "/ban",
    schema=("BanRequest", "The users to ban, the duration of the ban, and the reason."),
)
def ban(
    api: Api,
    call: Call,
    app: field.App,
    users: Users,
    seconds: Annotated[
        float,
        about(
            "The duration of the ban in seconds, at most one year; 0: the ban is "
            "permanent.",
            ge=0,
            le=MAX_BAN_SECONDS,
        ),
    ],
    reason: Annotated[
        str, about("The reason for the ban. The users see it.", max_length=250)
    ] = "",
) -> BanAnswer:
    """Ban users: end all their sessions and refuse their logins, for a time or
    permanently.

    The server closes the connections with code 4503, with the end of the ban
    and its reason. A later ban replaces an earlier one. You can also ban
    unknown ids. An owner of the app can ban moderators and members.
    """
    _require_below(api, call, users)
    # "Programs" act for a user, and are banned together with the user.
    everybody = api.core.authority.with_programs(call.app, users)
    removed = api.core.sessions.close(
        call.app, everybody, ban_seconds=seconds or inf, reason=reason
    )
    # `everybody` has the users, and after them their programs, which the answer
    # leaves out.
    banned = [
        UserRemoved(user, count)
        for user, count in zip(users, removed.closed, strict=False)
    ]
    return BanAnswer(
        closed=removed.total,
        users=banned,
        lasting=removed.lasting,
        missing_nodes=list(removed.missing),
    )


@sessions.post(
    "/unban",
    schema=("UnbanRequest", "The users to unban."),
    problems=(Problems.TO_BE_ERASED,),
)
def unban(api: Api, call: Call, app: field.App, users: Users) -> UnbanAnswer:
    """Let users log in again.

    You may also name users who are not banned. A ban that comes with a lock
    ends only when the lock is lifted. A user who is to be erased cannot log in
    until `users/erase/undo`.
    """
    core = api.core
    _require_below(api, call, users)
    if any((call.app, user) in core.sessions.holds for user in users):
        raise ApiProblem(Problems.TO_BE_ERASED)
    users = core.authority.unlocked(call.app, users)
    return UnbanAnswer(list(core.sessions.unban(call.app, users)))


@sessions.get("/bans", Needs.MODERATE)
def bans(api: Api, call: Call, request: field.AppPage) -> BansAnswer:
    """List banned users, page by page."""
    bans_by_user = api.core.sessions.bans(call.app)
    page, next_cursor = page_of(sorted(bans_by_user), request.cursor, request.limit)
    rows = []
    for user in page:
        ban = bans_by_user[user]
        rows.append(BanShown(user, ban.until, ban.reason))
    return BansAnswer(
        count=len(bans_by_user),
        bans=rows,
        next=next_cursor,
    )
