"""The answers of the HTTP API (docs/guides/README.md)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class StoredPosition(Struct, frozen=True):
    """Where a message is stored: its id in the log of the app, its conversation, its number there."""

    id: int
    conversation: int
    seq: int


class PushResult(Struct, frozen=True):
    """The result for one target.

    ``status``:

    - ``"sent"``: to a connection, or to the node that has one
    - ``"absent"``: no connection was there
    - ``"held"``: waits for a login, at most ``ttl_seconds``
    - ``"stored"``: at the position ``stored``
    - ``"repeated"``: this id was accepted before
    - ``"refused"``: it cannot be stored, for this ``reason``
    - ``"failed"``: try again
    - ``"partly"``: a room or an app, of which one node cannot be reached
    """

    target: dict[str, Any]
    status: str
    stored: StoredPosition | None = None
    reason: str = ""


class PushAnswer(Struct, frozen=True):
    """``sent`` is the number of targets whose result is ``"sent"``."""

    sent: int
    results: tuple[PushResult, ...] = ()


class Session(Struct, frozen=True):
    """One session of a user. ``since`` is in Unix seconds; ``node`` is the server process that has it."""

    connection: str
    device: str = ""
    dialect: str = ""
    since: int = 0
    node: str = ""


class Presence(Struct, frozen=True):
    """Whether a user is online, and, where requested, in which sessions."""

    user: str
    online: bool
    sessions: tuple[Session, ...] = ()


class UserPage(Struct, frozen=True):
    """Users of an app in the order of their names; ``count`` is the number of all, ``next`` the cursor of the
    next page. ``missing_nodes`` names server processes that did not answer."""

    count: int
    users: tuple[str, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class Counts(Struct, frozen=True):
    """The numbers of one app, on all nodes together."""

    app: str
    users: int
    sessions: int
    rooms: int


class Room(Struct, frozen=True):
    """A room, and its number of connections."""

    room: str
    members: int


class RoomPage(Struct, frozen=True):
    """Rooms of an app in the order of their names; see :class:`UserPage`."""

    count: int
    rooms: tuple[Room, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class Member(Struct, frozen=True):
    """A connection in a room; ``joined_at`` is in Unix seconds."""

    connection: str
    user: str = ""
    device: str = ""
    dialect: str = ""
    joined_at: float = 0.0


class MemberPage(Struct, frozen=True):
    """Members of a room in the order of joining; see :class:`UserPage`."""

    count: int
    members: tuple[Member, ...]
    next: str = ""
    missing_nodes: tuple[str, ...] = ()


class BatchResult(Struct, frozen=True):
    """The answer to one command of a batch, as it would have got it alone."""

    status: int
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether it was carried out."""
        return self.status < 400


class App(Struct, frozen=True):
    """An app and its settings. ``configured``: it is in the configuration, and changed only there."""

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
