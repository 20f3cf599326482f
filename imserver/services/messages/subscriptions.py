"""Subscriptions: the connections of this node that follow the log, and the groups whose members they are.

The memberships of a user are read once, when a connection begins to follow the log. From then on the entries
of joining and leaving keep the group rooms up to date, so a message to a group costs no query per member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from imserver.model import Held, Message, Subscription
from imserver.storage.log.contract import Entry, Membership
from imserver.transport.connection import Connection

Positions = dict[str, int]
"""Room → the position up to which a user has everything of it; ``""``: all that is not in a room."""


class AckingSubscription(Subscription, gc=False):
    """A subscription whose client acknowledges entries."""

    acked: int = 0
    """The greatest id that the client has acknowledged."""
    delivered: int = 0
    """The greatest id that was sent to it."""
    tries: int = 0
    tracked: bool = False
    """An ack tracker waits for its acknowledgement."""


class PongSubscription(AckingSubscription, gc=False):
    """A subscription whose client acknowledges by the pongs to pings that carry an id. The messages of its
    live rooms are delivered from the log."""

    number: int = 0
    """Unique on this node: a connection may log in again while a pong is under way."""
    positions: Mapping[str, int] = {}
    """The user's positions at the login; its keys are the rooms of this session."""
    has_cursor: ClassVar[bool] = False


class PendingSubscription(Subscription):
    """A session logged in with a cursor while the log was away. It receives nothing until it asks for a sync;
    its acknowledgements wait. ``acks``: its client acknowledges."""

    acks: bool = False


def app_and_user(connection: Connection) -> tuple[str, str]:
    """App and user of a connection that has logged in."""
    app, user = connection.app, connection.user
    assert app is not None
    assert user is not None
    return app, user


def held_acks(held: Held) -> tuple[Callable[[], None], ...]:
    """The acknowledgements among what is held."""
    return tuple([each for each in held if not isinstance(each, Message)])


def hold_ack(held: Held | None, ack: Callable[[], None]) -> Held:
    """What is held, and one acknowledgement more."""
    if isinstance(held, list):
        held.append(ack)
        return held
    return (*(held or ()), ack)


def users_of(entry: Entry) -> list[str]:
    """The users whose membership an entry changes."""
    try:
        users: Any = msgspec.json.decode(entry.meta).get("users", [])
    except (ValueError, AttributeError):
        return []
    return [user for user in users if isinstance(user, str)] if isinstance(users, list) else []


def groups_at(rows: Iterable[Membership], position: int) -> list[int]:
    """The groups of these memberships in which the user may read the entry behind ``position``."""
    return [
        row.conversation
        for row in rows
        if row.kind_of_conversation == "group"
        and row.joined_id <= position
        and (row.left_id is None or row.left_id > position)
    ]


class GroupRooms:
    """Owner of the group rooms of this node: (app, conversation) → connections. Never switches."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, int], dict[Connection, None]] = {}

    def members(self, app: str, conversation: int) -> dict[Connection, None]:
        """The subscribed connections of the members of a group; do not change it."""
        return self._rooms.get((app, conversation), _NOBODY)

    def enter(self, app: str, connection: Connection, conversation: int) -> None:
        """The user of a subscribed connection is a member."""
        subscription = connection.subscription
        assert subscription is not None
        if conversation not in subscription.groups:
            subscription.groups += (conversation,)
            self._rooms.setdefault((app, conversation), {})[connection] = None

    def leave(self, app: str, connection: Connection, conversation: int) -> None:
        """The user of a subscribed connection is no longer a member."""
        subscription = connection.subscription
        assert subscription is not None
        if conversation in subscription.groups:
            subscription.groups = tuple([each for each in subscription.groups if each != conversation])
            self._remove(app, connection, conversation)

    def leave_all(self, app: str, connection: Connection) -> None:
        """The subscription of a connection ends."""
        subscription = connection.subscription
        assert subscription is not None
        for conversation in subscription.groups:
            self._remove(app, connection, conversation)
        subscription.groups = ()

    def _remove(self, app: str, connection: Connection, conversation: int) -> None:
        room = self._rooms.get((app, conversation))
        if room is not None:
            room.pop(connection, None)
            if not room:
                del self._rooms[app, conversation]


_NOBODY: dict[Connection, None] = {}


class Subscriptions:
    """Owner of the group rooms, of the numbers of subscriptions, and of the reads of memberships that are
    under way: each counts the changes that are delivered meanwhile. Only :meth:`read_memberships` switches.
    """

    def __init__(self) -> None:
        self.rooms = GroupRooms()
        self.by_app: dict[str, int] = {}
        """Connections that are subscribed, or about to be, by app."""
        self.acking = 0
        """Subscriptions whose clients acknowledge."""
        self._reads: dict[tuple[str, str], list[list[int]]] = {}
        """(app, user) → the reads under way, each a list with its number of changes."""

    def add(self, app: str) -> None:
        """A connection of an app is about to follow its log."""
        self.by_app[app] = self.by_app.get(app, 0) + 1

    def remove(self, app: str) -> bool:
        """A connection follows the log of its app no longer. True if it was the last one."""
        left = self.by_app[app] - 1
        if left:
            self.by_app[app] = left
        else:
            del self.by_app[app]
        return not left

    def memberships_changed(self, app: str, user: str) -> None:
        """An entry that changes a user's memberships was delivered."""
        for changes in self._reads.get((app, user), ()):
            changes[0] += 1

    @property
    def reading(self) -> bool:
        """Memberships are being read."""
        return bool(self._reads)

    def read_memberships(
        self, memberships: Callable[[str, str], list[Membership]], app: str, user: str
    ) -> list[Membership]:
        """A user's memberships as of the log position: read again if a change was delivered meanwhile.

        It switches. Raises what ``memberships`` raises.
        """
        changes = [0]
        running = self._reads.setdefault((app, user), [])
        running.append(changes)
        try:
            while True:
                before = changes[0]
                rows = memberships(app, user)
                if changes[0] == before:
                    return rows
        finally:
            # By identity: equal counts of other reads are not this one.
            running[:] = [each for each in running if each is not changes]
            if not running:
                del self._reads[app, user]
