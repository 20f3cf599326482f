"""Routes that tell who is online: one user, many, all of them in pages, and how many."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.v1 import field
from imserver.api.v1.operation import APP_PROBLEMS, Link, Operation
from imserver.api.v1.wire import after, page_of, reached, reply, require_few
from imserver.auth.principal import READ
from imserver.errors import HTTP_TOO_MANY_TARGETS
from imserver.services.sessions.presence import SessionInfo
from imserver.transport.exchange import HttpResponse


class PresenceQuery(Struct, forbid_unknown_fields=True):
    """The users to look for."""

    app: field.App
    user: field.User


class PresenceRequest(Struct, forbid_unknown_fields=True):
    """The users to look for."""

    app: field.App
    users: Annotated[
        list[field.User],
        Meta(description="The users to look for.", extra_json_schema={"maxItems": "limits.batch_targets"}),
    ]
    sessions: Annotated[bool, Meta(description="Whether to list each user's sessions, too.")] = False


class SessionShown(Struct):
    """One session: a connection that is logged in."""

    connection: field.ConnectionId
    device: field.Device
    dialect: field.Dialect
    since: field.Since
    node: field.Node


class UserPresence(Struct):
    """Whether a user is online, and where."""

    user: str
    online: bool
    sessions: Annotated[
        list[SessionShown] | UnsetType, Meta(description="Their sessions, the oldest first; if asked for.")
    ] = UNSET


class PresenceAnswer(Struct):
    """Whether each user is online, in the order of the request."""

    online_count: Annotated[int, Meta(description="How many of them are online.")]
    users: list[UserPresence]
    missing_nodes: field.Missing


class UsersQuery(Struct, forbid_unknown_fields=True):
    """Which page of the list."""

    app: field.App
    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class UsersAnswer(Struct):
    """Some of the users who are online."""

    count: Annotated[int, Meta(description="How many users are online, on all pages together.")]
    users: Annotated[list[str], Meta(description="Some of them, in the order of their names.")]
    next: field.Next
    missing_nodes: field.Missing


class CountsQuery(Struct, forbid_unknown_fields=True):
    """What to count."""

    app: field.AnyApp = ""
    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class AppCounts(Struct):
    """How much there is of an app, on all nodes together."""

    app: str
    users: Annotated[int, Meta(description="Users who are online.")]
    sessions: Annotated[int, Meta(description="Sessions of theirs; a user may have several.")]
    rooms: Annotated[
        int, Meta(description="Rooms with a member; of very many, one that spans nodes counts on each.")
    ]


class CountsAnswer(Struct):
    """The counts of one app, or of some that the key reaches, in the order of their names."""

    apps: list[AppCounts]
    next: field.Next
    missing_nodes: field.Missing


def user_presence(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/presence``."""
    asked: PresenceQuery = call.asked
    found = api.presence.sessions(call.app, [asked.user])
    user = _with_sessions(asked.user, found.sessions[0])
    return reply(call, PresenceAnswer(int(user.online), [user], list(found.missing)))


def users_presence(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/presence``."""
    asked: PresenceRequest = call.asked
    app = call.app
    require_few(api, asked.users)
    if asked.sessions:
        found = api.presence.sessions(app, asked.users)
        users = [_with_sessions(*each) for each in zip(asked.users, found.sessions, strict=True)]
        missing = list(found.missing)
    else:
        online = api.presence.are_online(app, asked.users)
        users = [UserPresence(*each) for each in zip(asked.users, online, strict=True)]
        missing = []
    return reply(call, PresenceAnswer(sum(user.online for user in users), users, missing))


def _with_sessions(user: str, places: list[SessionInfo]) -> UserPresence:
    sessions = [
        SessionShown(each.connection, each.device, each.dialect, each.since, each.node) for each in places
    ]
    return UserPresence(user, bool(sessions), sessions)


def users(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/users``."""
    asked: UsersQuery = call.asked
    page = api.presence.page(call.app, after(asked.cursor), asked.limit)
    names = sorted(page.users)
    following = cursor_of(names[-1]) if page.more else ""
    return reply(call, UsersAnswer(page.total, names, following, list(page.missing)))


def counts(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/counts``."""
    asked: CountsQuery = call.asked
    if asked.app:
        names, following = [call.app], ""
    else:
        names, following = page_of(reached(api, call), asked.cursor, asked.limit)
    found = api.presence.counts(names)
    counted = [AppCounts(name, each.users, each.sessions, each.rooms) for name, each in found.apps.items()]
    return reply(call, CountsAnswer(counted, following, list(found.missing)))


OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/presence",
        READ,
        user_presence,
        "presence",
        "Is a user online, where, and since when?",
        query=PresenceQuery,
        answer=PresenceAnswer,
        problems=APP_PROBLEMS,
        links=(
            Link(
                "connection",
                "get_connections_show",
                {
                    "app": "$request.query.app",
                    "connection": "$response.body#/users/0/sessions/0/connection",
                },
            ),
        ),
        example_query={"app": "101", "user": "ann"},
        example_answer={
            "online_count": 1,
            "users": [
                {
                    "user": "ann",
                    "online": True,
                    "sessions": [
                        {
                            "connection": "dGm8cCzJGMUlcIWDc_5cEwvMvk-lT7Gn6_VXnA",
                            "device": "",
                            "dialect": "cmd",
                            "since": 1795155801,
                            "node": "10.0.0.1:9001",
                        }
                    ],
                }
            ],
            "missing_nodes": [],
        },
    ),
    Operation(
        "POST",
        "/api/v1/presence",
        READ,
        users_presence,
        "presence",
        "Which of these users are online?",
        body=PresenceRequest,
        answer=PresenceAnswer,
        problems=(*APP_PROBLEMS, HTTP_TOO_MANY_TARGETS),
        example_body={"app": "101", "users": ["ann", "nobody"]},
        example_answer={
            "online_count": 1,
            "users": [{"user": "ann", "online": True}, {"user": "nobody", "online": False}],
            "missing_nodes": [],
        },
    ),
    Operation(
        "GET",
        "/api/v1/users",
        READ,
        users,
        "presence",
        "The users of an app who are online, page by page",
        "A user who stays online is listed exactly once, even if others come and go meanwhile.",
        query=UsersQuery,
        answer=UsersAnswer,
        problems=APP_PROBLEMS,
        links=(
            Link(
                "page",
                "get_users",
                {"app": "$request.query.app", "cursor": "$response.body#/next"},
            ),
            Link(
                "user",
                "get_presence",
                {"app": "$request.query.app", "user": "$response.body#/users/0"},
            ),
        ),
        example_query={"app": "101", "limit": 1},
        example_answer={"count": 2, "users": ["ann"], "next": "YW5u", "missing_nodes": []},
    ),
    Operation(
        "GET",
        "/api/v1/counts",
        READ,
        counts,
        "presence",
        "How many users, sessions and rooms there are",
        "Of one app, or page by page of all that the key reaches.",
        query=CountsQuery,
        reach="optional",
        answer=CountsAnswer,
        problems=APP_PROBLEMS,
        example_query={"app": "101"},
        example_answer={
            "apps": [{"app": "101", "users": 2, "sessions": 2, "rooms": 0}],
            "next": "",
            "missing_nodes": [],
        },
    ),
)
