"""What nodes ask each other about rooms and connections; see :mod:`imserver.services.nodes.queries`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from imserver.services.rooms.rooms import RoomCount


class Hall(Struct, frozen=True, array_like=True):
    """Who is in this room on your node? At most ``limit``, behind the place ``after``."""

    app: str
    room: str
    after: str
    limit: int


class Halls(Struct, frozen=True, array_like=True):
    """Which rooms of this app have members on your node? At most ``limit``, behind the name ``after``."""

    app: str
    after: str
    limit: int


class HallsAnswer(Struct, frozen=True, array_like=True):
    """``total`` rooms have members there; ``rooms`` are those that were asked for."""

    total: int
    rooms: list[RoomCount]


class JoinRoom(Struct, frozen=True, array_like=True):
    """Let connections of yours join a room; answered with what became of each."""

    app: str
    connections: Sequence[str]
    room: str
    about: bytes = b""


class LeaveRoom(Struct, frozen=True, array_like=True):
    """Take connections of yours out of a room; answered with what became of each."""

    app: str
    connections: Sequence[str]
    room: str


class About(Struct, frozen=True, array_like=True):
    """What is known of these connections of yours? Answered in their order."""

    app: str
    connections: Sequence[str]


class Behind(Struct, frozen=True, array_like=True):
    """Answer another question, behind what the life ``origin`` has sent you before this ``fence``."""

    origin: int
    fence: int
    kind: str
    body: bytes
