"""Rooms: live sets of connections that are told things together, asked the same way on one node and on many.

``services.local_rooms`` serves a node that is alone; ``services.cluster_rooms`` does the same for many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from imserver.errors import ImserverError
from imserver.model import Event
from imserver.services.pushes.pushing import Outcome
from imserver.transport.connection import Connection

MAX_NAME_BYTES: Final = 255
"""Longest name of a room, in bytes of UTF-8."""
MAX_ROOMS_OF_A_CONNECTION: Final = 1000

OnLeft = Callable[[Connection, tuple[str, ...]], None]


class RoomRefused(ImserverError):
    """A connection may not join: the name is empty or too long, or (``full``) there are too many rooms."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


def check_name(room: str) -> None:
    """Raise :class:`RoomRefused` if no room can have this name."""
    size = len(room.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_NAME_BYTES:
        raise RoomRefused(f"the name of a room has 1 to {MAX_NAME_BYTES} bytes, this one has {size}")


class Publication(Struct, frozen=True, gc=False):
    """What is told to a room: to all its members but the connections of ``except_users``, and but
    ``except_connection`` (an object of this node, or an id from anywhere).

    ``at_most``: nobody is told if there are more members than that (None: any number); those of other nodes
    are counted as of about a second ago. ``kept``: it is stored, and those who hear it from the log are not
    told here.
    """

    room: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: Connection | str | None = None
    at_most: int | None = None
    kept: bool = False


class Member(Struct, frozen=True, array_like=True):
    """A connection in a room, as others see it: its id, whose it is, and since when, in Unix seconds."""

    connection: str
    user: str
    device: str
    dialect: str
    joined: float


class MemberPage(Struct, frozen=True):
    """Some members in the order of joining. ``total`` counts all; ``missing`` names silent nodes.

    ``next`` is the ``after`` of the next page, ``""`` if there is none.
    """

    total: int
    members: list[Member]
    next: str = ""
    missing: tuple[str, ...] = ()


class RoomCount(Struct, frozen=True, array_like=True):
    """A room and how many connections are in it."""

    room: str
    members: int


class RoomPage(Struct, frozen=True):
    """Some rooms of an app in the order of names; ``more`` follow behind the last.

    ``total`` counts all rooms; one that has members on several nodes may count several times if there is more
    than this page. ``missing`` names silent nodes.
    """

    total: int
    rooms: list[RoomCount]
    more: bool = False
    missing: tuple[str, ...] = ()


class Rooms(Protocol):
    """What dialects and the API ask. Calls may switch to other greenlets, but where it says otherwise.

    Connections are those of this node; for those of other nodes, see
    :class:`imserver.services.rooms.connections.Connections`.
    """

    on_left: list[OnLeft]
    """Called with a connection that has ended and the names of the rooms it was in, in a greenlet of its own
    that may switch. It is no member any more; ``app``, ``user`` and ``about`` are as they were. Append."""
    hears_log: Callable[[Connection], bool]
    """Whether a connection is told from the log what is said in its rooms and kept. Must not switch."""

    def join(self, app: str, room: str, connection: Connection) -> bool:
        """Put a connection into a room: who publishes there after this returns, on any node, reaches it.

        True: it is new there. False: it was in there before, or it is not in service in this app. Raises
        :class:`RoomRefused`, with a text for whoever asked.
        """

    def leave(self, app: str, room: str, connection: Connection) -> bool:
        """Take a connection out of a room; whether it was in there. Never switches."""

    def leave_all(self, connection: Connection) -> tuple[str, ...]:
        """Take a connection out of all its rooms, whose names are returned; nobody is told. Never
        switches."""

    def publish(
        self,
        app: str,
        room: str,
        event: Event,
        except_users: tuple[str, ...] = (),
        except_connection: Connection | str | None = None,
        at_most: int | None = None,
    ) -> Outcome:
        """Tell a room (:class:`Publication`). What one greenlet or many of a node publish to a room arrives
        in the order of the calls.

        NOT_SENT: nobody is there. PARTLY: a node with members is known not to have got it; FAILED: none has.
        """

    def publish_each(self, app: str, publications: Sequence[Publication]) -> list[Outcome]:
        """The same for many, in their order, at the cost of one question to the registry."""

    def members(self, app: str, room: str, after: str = "", limit: int = 1000) -> MemberPage:
        """Members in the order of joining, behind ``after`` (a page's ``next``)."""

    def count(self, app: str, room: str) -> int:
        """How many connections are in a room; those of other nodes as of about a second ago."""

    def page(self, app: str, after: str = "", limit: int = 1000) -> RoomPage:
        """Rooms of an app in the order of names, behind the name ``after``."""

    def rooms_of(self, connection: Connection) -> tuple[str, ...]:
        """The names of a connection's rooms in the order of joining. Never switches."""

    def ended(self, connection: Connection) -> None:
        """A connection is over (the carrier's ``ended``). Never switches."""
