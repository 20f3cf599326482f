"""Routes of rooms and connections: join, leave, members, lists. Publishing to a room is in ``push``."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.conversation import MessagesAnswer, shown_entry
from imserver.api.v1.operation import Link, Operation
from imserver.api.v1.query import after, read_query
from imserver.api.v1.reach import APP_PROBLEMS
from imserver.api.v1.room import (
    ConnectionQuery,
    ConnectionShown,
    JoinAnswer,
    JoinResult,
    LeaveAnswer,
    LeaveResult,
    MembersAnswer,
    MemberShown,
    MembersQuery,
    RoomChange,
    RoomMessagesQuery,
    RoomsAnswer,
    RoomShown,
    RoomsQuery,
)
from imserver.api.v1.wire import app_of, read, reply
from imserver.auth.principal import ADMIN, PUSH, READ
from imserver.errors import HTTP_INVALID_REQUEST, HTTP_STORAGE_UNAVAILABLE, HTTP_UNKNOWN_CONNECTION
from imserver.services.messages import page_bounds
from imserver.services.rooms.connections import Joined, Left
from imserver.services.rooms.rooms import RoomRefused

Named = tuple[str | UnsetType, str | UnsetType]

_read_change: Final = msgspec.json.Decoder(RoomChange)


def join(api: Api, call: Call) -> Answer:
    """``POST /api/v1/rooms/join``."""
    asked = read(api, call, _read_change)
    app = app_of(api, call, asked.app)
    named, missing = _named(api, app, asked)
    try:
        joined = api.services.connections.join_each(app, _ids(named), asked.room)
    except RoomRefused as refused:
        raise Problem(HTTP_INVALID_REQUEST, str(refused)) from None
    outcomes = iter(joined)
    results = [
        JoinResult(next(outcomes) if connection is not UNSET else Joined.UNKNOWN, connection, user)
        for connection, user in named
    ]
    return reply(call, JoinAnswer(joined.count(Joined.JOINED), results, missing))


def leave(api: Api, call: Call) -> Answer:
    """``POST /api/v1/rooms/leave``."""
    asked = read(api, call, _read_change)
    app = app_of(api, call, asked.app)
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


def messages(api: Api, call: Call) -> Answer:
    """``GET /api/v1/rooms/messages``."""
    asked = read_query(call, RoomMessagesQuery)
    app, store = app_of(api, call, asked.app), api.services.store
    if not store.keeps:
        return reply(call, MessagesAnswer([], 0))
    entries, more = page_bounds.newest(*store.log().room_history(app, asked.room, asked.before, asked.limit))
    return reply(call, MessagesAnswer([shown_entry(each) for each in entries], entries[0].id if more else 0))


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
        PUSH,
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
        "Who is in a room, page by page",
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
        "What was said in a room and kept, the newest page first",
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
