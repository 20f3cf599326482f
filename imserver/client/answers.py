"""What the HTTP API answers, as the client hands it on (docs/guides/README.md)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class StoredAt(Struct, frozen=True):
    """Where a message is kept: its place in the log of the app, its conversation, its place there."""

    id: int
    conversation: int
    seq: int


class PushResult(Struct, frozen=True):
    """What became of one target.

    ``status``: ``"sent"``, ``"absent"`` (nobody was there), ``"held"`` (kept until a login, for
    ``ttl_seconds`` at most), ``"repeated"`` (this id was accepted before), ``"failed"`` (try again),
    ``"partly"`` (a room or an app: one of the nodes cannot be reached), ``"stored"`` (at the place in
    ``stored``) or ``"refused"`` (it cannot be stored, for this ``reason``).
    """

    target: dict[str, Any]
    status: str
    stored: StoredAt | None = None
    reason: str = ""


class PushAnswer(Struct, frozen=True):
    """``sent`` is the number of targets that a connection has, or a node that holds one was handed."""

    sent: int
    results: tuple[PushResult, ...] = ()


class Session(Struct, frozen=True):
    """One session of a user. ``since`` is Unix seconds; ``node`` the server process that holds it."""

    connection: str
    device: str = ""
    dialect: str = ""
    since: int = 0
    node: str = ""


class Presence(Struct, frozen=True):
    """Whether a user is online, and, where that was asked for, in which sessions."""

    user: str
    online: bool
    sessions: tuple[Session, ...] = ()


class UserPage(Struct, frozen=True):
    """Some users of an app in the order of their names; ``count`` are all, ``next`` the cursor behind them.

    ``missing_nodes`` names server processes that did not answer.
    """

    count: int
    users: tuple[str, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class Counts(Struct, frozen=True):
    """How much there is of one app, on all nodes together."""

    app: str
    users: int
    sessions: int
    rooms: int


class Room(Struct, frozen=True):
    """A room, and how many connections are in it."""

    room: str
    members: int


class RoomPage(Struct, frozen=True):
    """Some rooms of an app in the order of their names; see :class:`UserPage`."""

    count: int
    rooms: tuple[Room, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class Member(Struct, frozen=True):
    """A connection in a room; ``joined_at`` is Unix seconds."""

    connection: str
    user: str = ""
    device: str = ""
    dialect: str = ""
    joined_at: float = 0.0


class MemberPage(Struct, frozen=True):
    """Some members of a room in the order of joining; see :class:`UserPage`."""

    count: int
    members: tuple[Member, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class BatchResult(Struct, frozen=True):
    """What one command of a batch would have been answered with alone."""

    status: int
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether it was carried out."""
        return self.status < 400


class App(Struct, frozen=True):
    """An app, and what is set for it. ``configured``: it stands in the configuration and is changed there."""

    app: str
    configured: bool = False
    login_policy: str = ""
    same_as: str = ""
    dialects: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_connections: int = 0
    messages_per_second: float = 0.0
    max_rooms: int = 0
    keep_seconds: float = 0.0
    keep_messages: int = 0
    keep_talks: bool = False


class _Presences(Struct):
    users: tuple[Presence, ...]


class _CountsList(Struct):
    apps: tuple[Counts, ...]


class _Joined(Struct):
    joined: int


class _Left(Struct):
    left: int


class _Closed(Struct):
    closed: int


class _BatchResults(Struct):
    results: tuple[BatchResult, ...]


class _Apps(Struct):
    apps: tuple[App, ...]
    next: str = ""


def presences(body: bytes) -> tuple[Presence, ...]:
    """Read an answer of ``/api/v1/presence``."""
    return msgspec.json.decode(body, type=_Presences).users


def counts(body: bytes) -> tuple[Counts, ...]:
    """Read an answer of ``/api/v1/counts``."""
    return msgspec.json.decode(body, type=_CountsList).apps


def joined(body: bytes) -> int:
    """Read an answer of ``/api/v1/rooms/join``."""
    return msgspec.json.decode(body, type=_Joined).joined


def left(body: bytes) -> int:
    """Read an answer of ``/api/v1/rooms/leave``."""
    return msgspec.json.decode(body, type=_Left).left


def closed(body: bytes) -> int:
    """Read an answer of ``/api/v1/disconnect`` or ``/api/v1/ban``."""
    return msgspec.json.decode(body, type=_Closed).closed


def batch_results(body: bytes) -> tuple[BatchResult, ...]:
    """Read an answer of ``/api/v1/batch``."""
    return msgspec.json.decode(body, type=_BatchResults).results


def apps(body: bytes) -> tuple[tuple[App, ...], str]:
    """Read an answer of ``/api/v1/apps``: some apps, and the cursor behind them."""
    page = msgspec.json.decode(body, type=_Apps)
    return page.apps, page.next
