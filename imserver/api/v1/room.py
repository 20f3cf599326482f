"""Rooms and their members, as requests and answers of ``/api/v1`` have them."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.v1 import field
from imserver.api.v1.conversation import Before, PageLimit

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


class RoomMessagesQuery(Struct, forbid_unknown_fields=True):
    """Which page of what was said in a room."""

    app: field.App
    room: field.RoomName
    before: Before = 0
    limit: PageLimit = 50


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
