"""Routes of rooms and connections: join, leave, members, lists. Publishing to a room is in ``push``."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1 import field
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.reach import APP_PROBLEMS
from imserver.api.v1.wire import app_of, read, reply
from imserver.errors import HTTP_INVALID_REQUEST, HTTP_UNKNOWN_CONNECTION
from imserver.services.connections import Joined, Left
from imserver.services.rooms import RoomRefused

MOST_MEMBERS: Final = 1000
"""Most connections and users of one call; each is asked for at its own node."""


class RoomChange(Struct, forbid_unknown_fields=True):
    """Who joins or leaves: single connections, and all present connections of users."""

    app: field.App
    room: field.RoomName
    connections: Annotated[
        list[field.ConnectionId], Meta(max_length=MOST_MEMBERS, description="Single connections.")
    ] = []
    users: Annotated[
        list[field.User],
        Meta(
            max_length=MOST_MEMBERS,
            description="All connections that these users have now; later ones are not concerned.",
        ),
    ] = []


class JoinResult(Struct):
    """What became of one connection, or of a user who has none."""

    status: Annotated[
        str,
        Meta(
            description="`joined`; `member`: it was in there already; `unknown`: there is no such "
            "connection, or the user has none; `full`: too many rooms; `failed`: its server process did "
            "not answer."
        ),
    ]
    connection: str | UnsetType = UNSET
    user: Annotated[str | UnsetType, Meta(description="Whose connection it is, if a user was named.")] = UNSET


class JoinAnswer(Struct):
    """What became of each: connections first, then those of the users, in the order of the request."""

    joined: Annotated[int, Meta(description="How many are new in the room.")]
    results: list[JoinResult]
    missing_nodes: field.Missing


class LeaveResult(Struct):
    """What became of one connection, or of a user who has none."""

    status: Annotated[
        str,
        Meta(
            description="`left`; `absent`: it was not in there; `unknown`: there is no such connection, "
            "or the user has none; `failed`: its server process did not answer."
        ),
    ]
    connection: str | UnsetType = UNSET
    user: Annotated[str | UnsetType, Meta(description="Whose connection it is, if a user was named.")] = UNSET


class LeaveAnswer(Struct):
    """What became of each: connections first, then those of the users, in the order of the request."""

    left: Annotated[int, Meta(description="How many were in the room until now.")]
    results: list[LeaveResult]
    missing_nodes: field.Missing


class RoomsQuery(Struct, forbid_unknown_fields=True):
    """Which page of the list."""

    app: field.App
    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class RoomShown(Struct):
    """A room, and how many connections are in it."""

    room: str
    members: int


class RoomsAnswer(Struct):
    """Some rooms of an app, in the order of their names."""

    count: Annotated[
        int,
        Meta(
            description="How many rooms there are, on all pages together; one that spans server "
            "processes may count more than once."
        ),
    ]
    rooms: list[RoomShown]
    next: field.Next
    missing_nodes: field.Missing


class MembersQuery(Struct, forbid_unknown_fields=True):
    """Which page of the members of a room."""

    app: field.App
    room: field.RoomName
    cursor: field.Cursor = ""
    limit: field.Limit = field.USUAL_PAGE


class MemberShown(Struct):
    """A connection in a room."""

    connection: field.ConnectionId
    user: Annotated[str, Meta(description="Whose it is; empty if nobody has logged in on it.")]
    device: field.Device
    dialect: field.Dialect
    joined_at: Annotated[float, Meta(description="When it joined, in Unix seconds.")]


class MembersAnswer(Struct):
    """Some members of a room, in the order of joining."""

    count: Annotated[int, Meta(description="How many connections are in the room, on all pages together.")]
    members: list[MemberShown]
    next: field.Next
    missing_nodes: field.Missing


class ConnectionQuery(Struct, forbid_unknown_fields=True):
    """Which connection."""

    app: field.App
    connection: field.ConnectionId


class ConnectionShown(Struct):
    """One connection."""

    connection: field.ConnectionId
    user: Annotated[str, Meta(description="Whose it is; empty if nobody has logged in on it.")]
    device: field.Device
    dialect: field.Dialect
    since: field.Since
    peer: Annotated[str, Meta(description="Address and port at the other end.")]
    node: field.Node
    rooms: Annotated[list[str], Meta(description="The rooms that it is in, in the order of joining.")]


_read_change: Final = msgspec.json.Decoder(RoomChange)


def join(api: Api, call: Call) -> Answer:
    """``POST /api/v1/rooms/join``."""
    asked = read(api, call, _read_change)
    app = app_of(api, call, asked.app)
    connections, missing = _named(api, app, asked)
    results = []
    try:
        for connection, user in connections:
            if isinstance(connection, UnsetType):
                results.append(JoinResult(Joined.UNKNOWN, user=user))
            else:
                joined = api.services.connections.join(app, connection, asked.room)
                results.append(JoinResult(joined, connection, user))
    except RoomRefused as refused:
        raise Problem(HTTP_INVALID_REQUEST, str(refused)) from None
    new = sum(result.status == Joined.JOINED for result in results)
    return reply(call, JoinAnswer(new, results, missing))


def leave(api: Api, call: Call) -> Answer:
    """``POST /api/v1/rooms/leave``."""
    asked = read(api, call, _read_change)
    app = app_of(api, call, asked.app)
    connections, missing = _named(api, app, asked)
    results = []
    for connection, user in connections:
        if isinstance(connection, UnsetType):
            results.append(LeaveResult(Left.UNKNOWN, user=user))
        else:
            left = api.services.connections.leave(app, connection, asked.room)
            results.append(LeaveResult(left, connection, user))
    gone = sum(result.status == Left.LEFT for result in results)
    return reply(call, LeaveAnswer(gone, results, missing))


def _named(
    api: Api, app: str, asked: RoomChange
) -> tuple[list[tuple[str | UnsetType, str | UnsetType]], list[str]]:
    """(connection, user) for all that is named, no connection for who is absent; and the silent nodes."""
    named: list[tuple[str | UnsetType, str | UnsetType]] = [(each, UNSET) for each in asked.connections]
    if not asked.users:
        return named, []
    found = api.presence.sessions(app, asked.users)
    for user, sessions in zip(asked.users, found.sessions, strict=True):
        named += [(session.connection, user) for session in sessions] or [(UNSET, user)]
    return named, list(found.missing)


def rooms(api: Api, call: Call) -> Answer:
    """``GET /api/v1/rooms``."""
    asked = read_query(call, RoomsQuery)
    app = app_of(api, call, asked.app)
    page = api.services.rooms.page(app, after(asked.cursor) or "", asked.limit)
    following = cursor_of(page.rooms[-1].room) if page.more else ""
    shown = [RoomShown(each.room, each.members) for each in page.rooms]
    return reply(call, RoomsAnswer(page.total, shown, following, list(page.missing)))


def members(api: Api, call: Call) -> Answer:
    """``GET /api/v1/rooms/members``."""
    asked = read_query(call, MembersQuery)
    app = app_of(api, call, asked.app)
    page = api.services.rooms.members(app, asked.room, after(asked.cursor) or "", asked.limit)
    shown = [
        MemberShown(each.connection, each.user, each.device, each.dialect, each.joined)
        for each in page.members
    ]
    following = cursor_of(page.next) if page.next else ""
    return reply(call, MembersAnswer(page.total, shown, following, list(page.missing)))


def connection(api: Api, call: Call) -> Answer:
    """``GET /api/v1/connections/show``."""
    asked = read_query(call, ConnectionQuery)
    found = api.services.connections.about(app_of(api, call, asked.app), [asked.connection])[0]
    if found is None:
        raise Problem(HTTP_UNKNOWN_CONNECTION)
    return reply(
        call,
        ConnectionShown(
            found.connection,
            found.user,
            found.device,
            found.dialect,
            found.since,
            found.peer,
            found.node,
            list(found.rooms),
        ),
    )


_SAMPLE_ID: Final = "dGm8cCzJGMUlcIWDc_5cEwvMvk-lT7Gn6_VXnA"

OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/rooms/join",
        "push",
        join,
        "rooms",
        "Put connections into a room",
        "A room comes into being with its first member and is gone with the last. Whoever publishes there "
        "after the answer reaches the new members.",
        body=RoomChange,
        answer=JoinAnswer,
        problems=APP_PROBLEMS,
        example_body={"app": "101", "room": "lobby", "users": ["ann"]},
        example_answer={
            "joined": 1,
            "results": [{"status": "joined", "connection": _SAMPLE_ID, "user": "ann"}],
            "missing_nodes": [],
        },
    ),
    Operation(
        "POST",
        "/api/v1/rooms/leave",
        "push",
        leave,
        "rooms",
        "Take connections out of a room",
        "A connection that ends leaves its rooms by itself.",
        body=RoomChange,
        answer=LeaveAnswer,
        problems=APP_PROBLEMS,
        example_body={"app": "101", "room": "lobby", "users": ["ann"]},
        example_answer={
            "left": 1,
            "results": [{"status": "left", "connection": _SAMPLE_ID, "user": "ann"}],
            "missing_nodes": [],
        },
    ),
    Operation(
        "GET",
        "/api/v1/rooms",
        "read",
        rooms,
        "rooms",
        "The rooms of an app, page by page",
        query=RoomsQuery,
        answer=RoomsAnswer,
        problems=APP_PROBLEMS,
        example_query={"app": "101"},
        example_answer={
            "count": 1,
            "rooms": [{"room": "lobby", "members": 1}],
            "next": "",
            "missing_nodes": [],
        },
    ),
    Operation(
        "GET",
        "/api/v1/rooms/members",
        "read",
        members,
        "rooms",
        "Who is in a room, page by page",
        "A room in which nobody is has no members; it is no error to ask for one.",
        query=MembersQuery,
        answer=MembersAnswer,
        problems=APP_PROBLEMS,
        example_query={"app": "101", "room": "lobby"},
        example_answer={
            "count": 1,
            "members": [
                {
                    "connection": _SAMPLE_ID,
                    "user": "ann",
                    "device": "",
                    "dialect": "cmd",
                    "joined_at": 1795155802.25,
                }
            ],
            "next": "",
            "missing_nodes": [],
        },
    ),
    Operation(
        "GET",
        "/api/v1/connections/show",
        "read",
        connection,
        "rooms",
        "What is known of one connection",
        query=ConnectionQuery,
        answer=ConnectionShown,
        problems=(*APP_PROBLEMS, HTTP_UNKNOWN_CONNECTION),
        example_query={"app": "101", "connection": _SAMPLE_ID},
        example_answer={
            "connection": _SAMPLE_ID,
            "user": "ann",
            "device": "",
            "dialect": "cmd",
            "since": 1795155801,
            "peer": "192.0.2.7:50516",
            "node": "10.0.0.1:9001",
            "rooms": ["lobby"],
        },
    ),
)
