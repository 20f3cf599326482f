"""Readers: connections of this node that are told what is stored, and the groups whose members they are.

A group is a local room: who is a member is read once, when a connection begins to follow, and kept true by
the entries of joining and leaving themselves. So a message to a group costs no question per member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from imserver.model import Message
from imserver.storage.log.contract import Entry, Membership
from imserver.transport.connection import Connection

Held = list[Message | Callable[[], None]] | tuple[Callable[[], None], ...]


def with_acknowledgement(held: Held | None, acknowledgement: Callable[[], None]) -> Held:
    """What is held, and one acknowledgement more."""
    if isinstance(held, list):
        held.append(acknowledgement)
        return held
    return (*(held or ()), acknowledgement)


def acknowledgements(held: Held) -> tuple[Callable[[], None], ...]:
    """The acknowledgements among what is held."""
    return tuple([each for each in held if not isinstance(each, Message)])


class Reader(Struct, gc=False):
    """``Connection.about`` of a connection that follows; dialects may keep more there in a subclass.

    ``held`` is None while it is live: it is told what is stored as it is stored. Otherwise it has still to
    ask for what came before, and nothing may overtake that: a tuple has the acknowledgements that wait, a
    list collects what is stored meanwhile, too, in its order.
    """

    held: Held | None = ()
    groups: tuple[int, ...] = ()
    """Conversations in whose local rooms it is."""
    hears_rooms: ClassVar[bool] = False
    """Whether it is told from the log what is said in the live rooms that its connection is in."""
    by_cursor: ClassVar[bool] = True
    """Whether its client says by ids what it has: then no acknowledgement overtakes what it has missed."""

    def may_take_over(self, about: object) -> bool:
        """Whether it may become ``Connection.about`` in place of ``about``."""
        return True

    def own(self) -> Reader:
        """One that may be changed: itself, unless several connections share it. Put it in its place first."""
        return self

    def take_over(self, about: object) -> None:
        """It becomes ``Connection.about`` in place of ``about``."""

    @property
    def rest(self) -> object:
        """What ``Connection.about`` is when it follows no longer."""
        return None

    @property
    def live(self) -> bool:
        """Whether it is told what is new."""
        return self.held is None


class Behind(Reader):
    """A session that said where it stands, and could not be told what it missed: the log was away. It has to
    ask; until then its acknowledgements wait. ``acks``: its client acknowledges."""

    acks: bool = False


def concerned(entry: Entry) -> list[str]:
    """The users whose membership an entry is about."""
    try:
        users: Any = msgspec.json.decode(entry.meta).get("users", [])
    except (ValueError, AttributeError):
        return []
    return [user for user in users if isinstance(user, str)] if isinstance(users, list) else []


class GroupRooms:
    """Owner of the local rooms: app → conversation → connections. Never switches."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, int], dict[Connection, None]] = {}

    def members(self, app: str, conversation: int) -> dict[Connection, None]:
        """The following connections of the members of a group; do not change it."""
        return self._rooms.get((app, conversation), _NOBODY)

    def enter(self, app: str, connection: Connection, conversation: int) -> None:
        """A connection's user is a member."""
        reader: Reader = connection.about
        if conversation not in reader.groups:
            reader = connection.about = reader.own()
            reader.groups += (conversation,)
            self._rooms.setdefault((app, conversation), {})[connection] = None

    def leave(self, app: str, connection: Connection, conversation: int) -> None:
        """A connection's user is a member no longer."""
        reader: Reader = connection.about
        if conversation in reader.groups:
            reader.groups = tuple([each for each in reader.groups if each != conversation])
            self._take_out(app, connection, conversation)

    def leave_all(self, app: str, connection: Connection) -> None:
        """A connection follows no longer."""
        reader: Reader = connection.about
        if reader.groups:
            for conversation in reader.groups:
                self._take_out(app, connection, conversation)
            reader.groups = ()

    def _take_out(self, app: str, connection: Connection, conversation: int) -> None:
        room = self._rooms.get((app, conversation))
        if room is not None:
            room.pop(connection, None)
            if not room:
                del self._rooms[app, conversation]


_NOBODY: dict[Connection, None] = {}


class _Reading:
    """One that is under way. Each is itself, however many changes it has counted."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes = 0


class Readings:
    """Owner of the readings of memberships that are under way: each counts the changes told meanwhile."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], list[_Reading]] = {}

    def changed(self, app: str, user: str) -> None:
        """A user's memberships were told to have changed. Never switches."""
        for reading in self._running.get((app, user), ()):
            reading.changes += 1

    def running(self) -> bool:
        """Whether any is."""
        return bool(self._running)

    def read(
        self, memberships: Callable[[str, str], list[Membership]], app: str, user: str
    ) -> list[Membership]:
        """A user's memberships as of the position: read again when one was told to have changed meanwhile.

        It switches. Raises what ``memberships`` raises.
        """
        reading = _Reading()
        running = self._running.setdefault((app, user), [])
        running.append(reading)
        try:
            while True:
                before = reading.changes
                rows = memberships(app, user)
                if reading.changes == before:
                    return rows
        finally:
            running.remove(reading)
            if not running:
                del self._running[app, user]


def groups_at(rows: Iterable[Membership], position: int) -> list[int]:
    """The groups of which somebody with these memberships reads the entry behind ``position``."""
    return [
        row.conversation
        for row in rows
        if row.kind_of_conversation == "group"
        and row.joined_id <= position
        and (row.left_id is None or row.left_id > position)
    ]
