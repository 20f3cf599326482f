"""Rooms and connections: join, leave, members, lists. Publishing to a room is in :mod:`.push`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.conversations import Before, MessagesAnswer, PageLimit, shown_entry
from imserver.api.v1.operation import APP_PROBLEMS, Link, Operation
from imserver.api.v1.wire import after, reply
from imserver.auth.principal import ADMIN, PUSH, READ
from imserver.errors import HTTP_INVALID_REQUEST, HTTP_STORAGE_UNAVAILABLE, HTTP_UNKNOWN_CONNECTION
from imserver.services.messages.deliverer import newest_page
from imserver.services.rooms.connections import Joined, Left
from imserver.services.rooms.rooms import RoomRefused
from imserver.transport.exchange import HttpResponse

MOST_MEMBERS: Final = 1000
"""Most connections and users of one call; each is asked for at its own node."""


class RoomChange(Struct, forbid_unknown_fields=True):
    """The connections that join or leave: single ones, and all present connections of users."""

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
    """The result for one connection, or for a user without one."""

    status: Annotated[
        str,
        Meta(
            description="`joined`; `member`: it was in there already; `unknown`: there is no such "
            "connection, or the user has none; `full`: too many rooms; `failed`: its server process did "
            "not answer."
        ),
    ]
    connection: str | UnsetType = UNSET
    user: Annotated[str | UnsetType, Meta(description="The user of the connection, if a user was named.")] = (
        UNSET
    )


class JoinAnswer(Struct):
    """What became of each: connections first, then those of the users, in the order of the request."""

    joined: Annotated[int, Meta(description="How many are new in the room.")]
    results: list[JoinResult]
    missing_nodes: field.Missing


class LeaveResult(Struct):
    """The result for one connection, or for a user without one."""

    status: Annotated[
        str,
        Meta(
            description="`left`; `absent`: it was not in there; `unknown`: there is no such connection, "
            "or the user has none; `failed`: its server process did not answer."
        ),
    ]
    connection: str | UnsetType = UNSET
    user: Annotated[str | UnsetType, Meta(description="The user of the connection, if a user was named.")] = (
        UNSET
    )


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


class RoomMessagesQuery(Struct, forbid_unknown_fields=True):
    """Which page of what was said in a room."""

    app: field.App
    room: field.RoomName
    before: Before = 0
    limit: PageLimit = 50


class MemberShown(Struct):
    """A connection in a room."""

    connection: field.ConnectionId
    user: Annotated[str, Meta(description="The user of the connection; empty before the login.")]
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
    user: Annotated[str, Meta(description="The user of the connection; empty before the login.")]
    device: field.Device
    dialect: field.Dialect
    since: field.Since
    peer: Annotated[str, Meta(description="Address and port at the other end.")]
    node: field.Node
    rooms: Annotated[list[str], Meta(description="The rooms that it is in, in the order of joining.")]


Named = tuple[str | UnsetType, str | UnsetType]


def join(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/rooms/join``."""
    asked: RoomChange = call.asked
    app = call.app
    named, missing = _named(api, app, asked)
    try:
        joined = api.services.connections.join_each(app, _ids(named), asked.room)
    except RoomRefused as refused:
        raise ApiProblem(HTTP_INVALID_REQUEST, str(refused)) from None
    outcomes = iter(joined)
    results = [
        JoinResult(next(outcomes) if connection is not UNSET else Joined.UNKNOWN, connection, user)
        for connection, user in named
    ]
    return reply(call, JoinAnswer(joined.count(Joined.JOINED), results, missing))


def leave(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/rooms/leave``."""
    asked: RoomChange = call.asked
    app = call.app
    named, missing = _named(api, app, asked)
    left = api.services.connections.leave_each(app, _ids(named), asked.room)
    outcomes = iter(left)
    results = [
        LeaveResult(next(outcomes) if connection is not UNSET else Left.UNKNOWN, connection, user)
        for connection, user in named
    ]
    return reply(call, LeaveAnswer(left.count(Left.LEFT), results, missing))


def _named(api: Api, app: str, asked: RoomChange) -> tuple[list[Named], list[str]]:
    """(connection, user) for all that is named, no connection for who is absent; and the silent nodes."""
    named: list[Named] = [(each, UNSET) for each in asked.connections]
    if not asked.users:
        return named, []
    found = api.presence.sessions(app, asked.users)
    for user, sessions in zip(asked.users, found.sessions, strict=True):
        named += [(session.connection, user) for session in sessions] or [(UNSET, user)]
    return named, list(found.missing)


def _ids(named: list[Named]) -> list[str]:
    return [connection for connection, _ in named if connection is not UNSET]


def rooms(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/rooms``."""
    asked: RoomsQuery = call.asked
    app = call.app
    page = api.services.rooms.page(app, after(asked.cursor) or "", asked.limit)
    following = cursor_of(page.rooms[-1].room) if page.more else ""
    shown = [RoomShown(each.room, each.members) for each in page.rooms]
    return reply(call, RoomsAnswer(page.total, shown, following, list(page.missing)))


def members(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/rooms/members``."""
    asked: MembersQuery = call.asked
    app = call.app
    page = api.services.rooms.members(app, asked.room, after(asked.cursor) or "", asked.limit)
    shown = [
        MemberShown(each.connection, each.user, each.device, each.dialect, each.joined)
        for each in page.members
    ]
    following = cursor_of(page.next) if page.next else ""
    return reply(call, MembersAnswer(page.total, shown, following, list(page.missing)))


def messages(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/rooms/messages``."""
    asked: RoomMessagesQuery = call.asked
    app, store = call.app, api.services.store
    if not store.keeps:
        return reply(call, MessagesAnswer([], 0))
    entries, more = newest_page(*store.log().room_history(app, asked.room, asked.before, asked.limit))
    return reply(call, MessagesAnswer([shown_entry(each) for each in entries], entries[0].id if more else 0))


def connection(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/connections/show``."""
    asked: ConnectionQuery = call.asked
    found = api.services.connections.about(call.app, [asked.connection])[0]
    if found is None:
        raise ApiProblem(HTTP_UNKNOWN_CONNECTION)
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
        PUSH,
        join,
        "rooms",
        "Put connections into a room",
        "A room exists while it has members. A message published after the answer reaches the new members.",
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
        PUSH,
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
        READ,
        rooms,
        "rooms",
        "The rooms of an app, page by page",
        query=RoomsQuery,
        answer=RoomsAnswer,
        problems=APP_PROBLEMS,
        links=(
            Link(
                "members",
                "get_rooms_members",
                {"app": "$request.query.app", "room": "$response.body#/rooms/0/room"},
            ),
        ),
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
        READ,
        members,
        "rooms",
        "List the members of a room, page by page",
        "A room in which nobody is has no members; it is no error to ask for one.",
        query=MembersQuery,
        answer=MembersAnswer,
        problems=APP_PROBLEMS,
        links=(
            Link(
                "page",
                "get_rooms_members",
                {
                    "app": "$request.query.app",
                    "room": "$request.query.room",
                    "cursor": "$response.body#/next",
                },
            ),
            Link(
                "connection",
                "get_connections_show",
                {"app": "$request.query.app", "connection": "$response.body#/members/0/connection"},
            ),
        ),
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
        "/api/v1/rooms/messages",
        ADMIN,
        messages,
        "rooms",
        "Stored messages of a room, the newest page first",
        "In an app with `keep_talks`. Rooms have the names that clients of the `action` dialect give them.",
        query=RoomMessagesQuery,
        answer=MessagesAnswer,
        problems=(*APP_PROBLEMS, HTTP_STORAGE_UNAVAILABLE),
        hot=False,
        example_query={"app": "action:1", "room": "1"},
        example_answer={
            "messages": [
                {"id": 7, "conversation": 1, "seq": 3, "kind": "message", "from": "2", "text": "tea?"}
            ],
            "before": 0,
        },
    ),
    Operation(
        "GET",
        "/api/v1/connections/show",
        READ,
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
