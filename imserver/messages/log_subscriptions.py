"""Log subscriptions: which connections of this node follow the log, their groups, and what they acknowledge.

The memberships of a user are read once, when a connection begins to follow the log. From then on the entries
of joining and leaving keep the followers of groups up to date. So a message to a group costs no query per
member.

Acknowledgements are cumulative: everything up to an id.

- A client that said at login that it acknowledges receives again what it does not acknowledge in time
  (:class:`AckTracker`).
- Clients of the action dialect that do not acknowledge messages still answer a ping with its payload, as
  every WebSocket client does. After a delivery they are pinged with the last id; the pong proves that
  everything up to it has arrived, and is stored (:class:`PongTracker`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import ClassVar, Final

import gevent

from imserver.clock import until_beat
from imserver.model import Held, LogSubscription, Message
from imserver.storage.action_positions import ActionPositions
from imserver.storage.log.contract import Entry, Membership
from imserver.storage.log.rows import decode_meta
from imserver.transport.connection import OPEN, Connection, app_and_user

ACK_SECONDS: Final = 10
"""Time for an acknowledgement."""
TRIES: Final = 3
"""How often entries are sent again before the connection is closed."""
RESEND_LIMIT: Final = 200
"""Most entries that are sent again; a client that lacks more has to reconnect with its cursor."""
PINGS: Final = 2000
"""Most connections that are pinged in a second: each pong is a position to be stored."""
_SLOTS: Final = ACK_SECONDS + 1
_PROBE: Final = struct.Struct("!QQ")
"""The payload of a ping: the number of the log subscription, and the id of the last delivered entry."""


class AckingLogSubscription(LogSubscription, gc=False):
    """A log subscription whose client acknowledges entries."""

    acked: int = 0
    """The greatest id that the client has acknowledged."""
    delivered: int = 0
    """The greatest id that was sent to it."""
    tries: int = 0
    tracked: bool = False
    """An ack tracker waits for its acknowledgement."""


class PongLogSubscription(AckingLogSubscription, gc=False):
    """A log subscription whose client acknowledges by the pongs to pings that carry an id. The messages of
    its live rooms are delivered from the log."""

    number: int = 0
    """Unique on this node: a connection may log in again while a pong is under way."""
    positions: Mapping[str, int] = {}
    """The user's positions at the login; its keys are the rooms of this session."""
    pinged: bool = True
    """False: the client acknowledges by itself."""
    has_cursor: ClassVar[bool] = False


class PendingLogSubscription(LogSubscription):
    """A session logged in with a cursor while the log was away. It receives nothing until it asks for a sync;
    its acknowledgements wait. ``acks``: its client acknowledges."""

    acks: bool = False


def held_acks(held: Held) -> tuple[Callable[[], None], ...]:
    """The acknowledgements among the held items."""
    return tuple([each for each in held if not isinstance(each, Message)])


def hold_ack(held: Held | None, ack: Callable[[], None]) -> Held:
    """The held items and one more acknowledgement."""
    if isinstance(held, list):
        held.append(ack)
        return held
    return (*(held or ()), ack)


def users_of(entry: Entry) -> list[str]:
    """The users whose membership an entry changes."""
    users = decode_meta(entry.meta).get("users")
    return [user for user in users if isinstance(user, str)] if isinstance(users, list) else []


def groups_at(rows: Iterable[Membership], position: int) -> list[tuple[int, bool]]:
    """The groups of these memberships in which the user may read the entry behind ``position``, and whether
    the user is a bot."""
    return [
        (row.conversation, row.bot)
        for row in rows
        if row.kind_of_conversation == "group"
        and row.joined_id <= position
        and (row.left_id is None or row.left_id > position)
    ]


class GroupFollowers:
    """Owner of the subscribed members of groups on this node: (app, conversation) → connections.

    Never switches.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int], dict[Connection, None]] = {}
        self.bots: dict[tuple[str, int], set[Connection]] = {}
        """Those of bots, which do not receive all entries. Read-only for others."""

    def members(self, app: str, conversation: int) -> dict[Connection, None]:
        """The subscribed connections of the members of a group; do not change it."""
        return self._groups.get((app, conversation), _NOBODY)

    def enter(self, app: str, connection: Connection, conversation: int, bot: bool = False) -> None:
        """The user of a subscribed connection is a member."""
        if bot:
            self.bots.setdefault((app, conversation), set()).add(connection)
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        if conversation not in log_subscription.groups:
            log_subscription.groups += (conversation,)
            self._groups.setdefault((app, conversation), {})[connection] = None

    def leave(self, app: str, connection: Connection, conversation: int) -> None:
        """The user of a subscribed connection is no longer a member."""
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        if conversation in log_subscription.groups:
            log_subscription.groups = tuple(
                [each for each in log_subscription.groups if each != conversation]
            )
            self._remove(app, connection, conversation)

    def leave_all(self, app: str, connection: Connection) -> None:
        """The log subscription of a connection ends."""
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        for conversation in log_subscription.groups:
            self._remove(app, connection, conversation)
        log_subscription.groups = ()

    def _remove(self, app: str, connection: Connection, conversation: int) -> None:
        members = self._groups.get((app, conversation))
        if members is not None:
            members.pop(connection, None)
            if not members:
                del self._groups[app, conversation]
        bots = self.bots.get((app, conversation))
        if bots is not None:
            bots.discard(connection)
            if not bots:
                del self.bots[app, conversation]


_NOBODY: dict[Connection, None] = {}


class LogSubscriptions:
    """Owner of the followers of groups, of the numbers of log subscriptions, and of the reads of memberships.

    A read that is under way counts the changes that are delivered meanwhile. Only :meth:`read_memberships`
    switches.
    """

    def __init__(self) -> None:
        self.followers = GroupFollowers()
        self.by_app: dict[str, int] = {}
        """Connections that are subscribed, or about to be, by app."""
        self.acking = 0
        """Log subscriptions whose clients acknowledge."""
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


# --- acknowledgements ---------------------------------------------------------------------------------------


class PongTracker:
    """Owner of the connections that are to be pinged."""

    def __init__(self, positions: ActionPositions) -> None:
        self._positions = positions
        self._unpinged: list[Connection] = []
        """Connections with deliveries since their last ping."""
        self._running = False
        self.numbers = count()
        """Of log subscriptions."""

    def delivered(self, connection: Connection) -> None:
        """Something was delivered to a connection that was not waiting for its ping. Never switches."""
        self._unpinged.append(connection)
        self._start()

    def ponged(self, connection: Connection, data: bytes) -> None:
        """A client has answered a ping. It can have no more than was sent to it. Never switches."""
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, PongLogSubscription) or len(data) != _PROBE.size:
            return
        number, id = _PROBE.unpack(data)
        if number == log_subscription.number and id <= log_subscription.delivered:
            self.proved(connection, id)

    def proved(self, connection: Connection, id: int) -> None:
        """Everything up to an id has arrived at a client. Never switches."""
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, PongLogSubscription) or id <= log_subscription.acked:
            return
        log_subscription.acked = id
        app, user = app_and_user(connection)
        present = {"", *[room.name for room in connection.channels]}
        rooms = [room for room in log_subscription.positions if room in present]
        self._positions.prove(app, user, rooms, id)

    def _start(self) -> None:
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Greenlet: work once a second, as long as there is anything to do."""
        try:
            while self._unpinged:
                gevent.sleep(until_beat())
                self.work()
        finally:
            self._running = False

    def work(self) -> None:
        """Ping connections with deliveries. Never switches."""
        now, self._unpinged = self._unpinged[:PINGS], self._unpinged[PINGS:]
        for connection in now:
            log_subscription = connection.log_subscription
            if isinstance(log_subscription, PongLogSubscription):
                log_subscription.tracked = False
                connection.probe(_PROBE.pack(log_subscription.number, log_subscription.delivered))


class AckTracker:
    """Owner of a timer wheel that turns each second: a connection with unacknowledged entries is in one of
    its slots, so idle connections cost nothing, and none has a timer. Never switches."""

    def __init__(self, pongs: PongTracker) -> None:
        self._pongs = pongs
        self._slots: list[list[tuple[Connection, int]]] = [[] for _ in range(_SLOTS)]
        self._now = 0

    def delivered(self, connection: Connection, log_subscription: AckingLogSubscription, id: int) -> None:
        """An entry was sent to a connection whose client acknowledges."""
        log_subscription.delivered = id
        if log_subscription.tracked:
            return
        if isinstance(log_subscription, PongLogSubscription):
            if log_subscription.pinged:
                log_subscription.tracked = True
                self._pongs.delivered(connection)
        else:
            self.wait(connection, log_subscription)

    def acked(self, connection: Connection, id: int, position: int) -> None:
        """A client acknowledges everything up to an id: pushed, or in a page that it asked for. It can have
        nothing behind ``position``, up to which the log of its app was delivered."""
        log_subscription = connection.log_subscription
        if isinstance(log_subscription, AckingLogSubscription) and log_subscription.acked < id:
            log_subscription.acked = min(
                id, max(log_subscription.delivered, log_subscription.acked, position)
            )
            log_subscription.tries = 0

    def wait(self, connection: Connection, log_subscription: AckingLogSubscription) -> None:
        """Give a client its time from now on."""
        log_subscription.tracked = True
        self._slots[(self._now + ACK_SECONDS) % _SLOTS].append((connection, log_subscription.delivered))

    def turn(self) -> list[Connection]:
        """A second has passed. The connections whose clients are late."""
        self._now += 1
        slot = self._now % _SLOTS
        due, self._slots[slot] = self._slots[slot], []
        late = []
        for connection, delivered in due:
            log_subscription = connection.log_subscription
            if connection.state != OPEN or not isinstance(log_subscription, AckingLogSubscription):
                continue
            log_subscription.tracked = False
            if log_subscription.acked < delivered:
                late.append(connection)
            elif log_subscription.acked < log_subscription.delivered:
                self.wait(connection, log_subscription)
        return late
