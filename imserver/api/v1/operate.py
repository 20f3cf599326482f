"""Routes that end sessions and keep users out: disconnect, ban, unban."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.call import Api, Call
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.operation import APP_PROBLEMS, Operation
from imserver.api.v1.wire import reply
from imserver.auth.principal import ADMIN
from imserver.errors import CLOSE_KICKED, HTTP_REGISTRY_UNAVAILABLE
from imserver.model import Outcome
from imserver.transport.exchange import HttpResponse

MOST_USERS: Final = 1000
LONGEST_BAN: Final = 366 * 86400

Users = Annotated[list[field.User], Meta(max_length=MOST_USERS, description="The users.")]


class DisconnectRequest(Struct, forbid_unknown_fields=True):
    """The sessions to end: those of users, on one device or all, and single connections."""

    app: field.App
    users: Annotated[
        list[field.User], Meta(max_length=MOST_USERS, description="Users whose sessions end.")
    ] = []
    device: Annotated[
        str | UnsetType,
        Meta(description="Of the users, only sessions on devices of this name; not given: all of them."),
    ] = UNSET
    connections: Annotated[
        list[field.ConnectionId], Meta(max_length=MOST_USERS, description="Single connections that end.")
    ] = []


class BanRequest(Struct, forbid_unknown_fields=True):
    """The users to ban, and for how long."""

    app: field.App
    users: Users
    seconds: Annotated[
        float, Meta(gt=0, le=LONGEST_BAN, description="How long their logins are refused; a year at most.")
    ]


class UnbanRequest(Struct, forbid_unknown_fields=True):
    """The users who may log in again."""

    app: field.App
    users: Users


class UserRemoved(Struct):
    """How many sessions of a user were ended."""

    user: str
    closed: int


class ConnectionClosed(Struct):
    """Whether a connection was ended: 1, or 0 if there is none of this id."""

    connection: str
    closed: int


class DisconnectAnswer(Struct):
    """What was ended."""

    closed: Annotated[int, Meta(description="Sessions that were ended, all together.")]
    users: list[UserRemoved]
    connections: list[ConnectionClosed]
    missing_nodes: field.Missing


class BanAnswer(Struct):
    """What was ended by the ban."""

    closed: Annotated[int, Meta(description="Sessions that were ended, all together.")]
    users: list[UserRemoved]
    lasting: Annotated[
        bool,
        Meta(
            description="False: Redis did not answer, so a server process that starts later does not know of "
            "the ban; those that run do."
        ),
    ]
    missing_nodes: field.Missing


class UnbanAnswer(Struct):
    """The bans are lifted."""

    missing_nodes: field.Missing


def disconnect(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/disconnect``."""
    asked: DisconnectRequest = call.asked
    app = call.app
    device = None if asked.device is UNSET else asked.device
    removed = api.services.sessions.close(app, asked.users, device)
    users = [UserRemoved(*each) for each in zip(asked.users, removed.closed, strict=True)]
    closing = api.services.connections
    connections = [
        ConnectionClosed(each, int(closing.close(app, each, CLOSE_KICKED) is Outcome.SENT))
        for each in asked.connections
    ]
    closed = removed.total + sum(each.closed for each in connections)
    return reply(call, DisconnectAnswer(closed, users, connections, list(removed.missing)))


def ban(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/ban``."""
    asked: BanRequest = call.asked
    app = call.app
    removed = api.services.sessions.close(app, asked.users, None, asked.seconds)
    users = [UserRemoved(*each) for each in zip(asked.users, removed.closed, strict=True)]
    return reply(call, BanAnswer(removed.total, users, removed.lasting, list(removed.missing)))


def unban(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/unban``."""
    asked: UnbanRequest = call.asked
    missing = api.services.sessions.unban(call.app, asked.users)
    if missing is None:
        raise ApiProblem(HTTP_REGISTRY_UNAVAILABLE)
    return reply(call, UnbanAnswer(list(missing)))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/disconnect",
        ADMIN,
        disconnect,
        "sessions",
        "End sessions of users, or single connections",
        "They are closed with code 4502, which asks the client not to reconnect; the server does not "
        "enforce it. Earlier pushes arrive first.",
        body=DisconnectRequest,
        answer=DisconnectAnswer,
        problems=APP_PROBLEMS,
        example_body={"app": "101", "users": ["bob"]},
        example_answer={
            "closed": 1,
            "users": [{"user": "bob", "closed": 1}],
            "connections": [],
            "missing_nodes": [],
        },
    ),
    Operation(
        "POST",
        "/api/v1/ban",
        ADMIN,
        ban,
        "sessions",
        "End all sessions of users, and refuse their logins for a time",
        "They are closed with code 4503. A later ban takes the place of an earlier one.",
        body=BanRequest,
        answer=BanAnswer,
        problems=APP_PROBLEMS,
        example_body={"app": "101", "users": ["mallory"], "seconds": 3600},
        example_answer={
            "closed": 0,
            "users": [{"user": "mallory", "closed": 0}],
            "lasting": True,
            "missing_nodes": [],
        },
    ),
    Operation(
        "POST",
        "/api/v1/unban",
        ADMIN,
        unban,
        "sessions",
        "Let users log in again",
        "You may also name users who are not banned.",
        body=UnbanRequest,
        answer=UnbanAnswer,
        problems=(*APP_PROBLEMS, HTTP_REGISTRY_UNAVAILABLE),
        example_body={"app": "101", "users": ["mallory"]},
        example_answer={"missing_nodes": []},
    ),
)
