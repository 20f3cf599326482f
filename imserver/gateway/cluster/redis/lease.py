"""The lease of this node in Redis, and the leases of the other nodes."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import field

from imserver.gateway.cluster.features import REQUIRED_OF_FIRST_RELEASE
from imserver.gateway.cluster.redis.connection import ErrorReply, RedisUnavailable
from imserver.gateway.cluster.redis.link import Command, RedisLink
from imserver.gateway.cluster.redis.scripts import (
    ACTION_SERVERS,
    EPOCH_MS,
    JOIN,
    LEAVE,
    RENEW,
    SECOND_MS,
    SERVERS,
    lease_keys,
)
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.errors import StartError
from imserver.gateway.model import Service

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
decode_lease: Final = msgspec.json.Decoder(Lease).decode
_PAST_EPOCHS: Final = 16
"""How many earlier epochs of this process each login names as dead. The data of
older epochs was already cleaned up."""
_RENEWAL_SLACK: Final = 0.99
"""A lease is due for renewal after this share of its period, because the tick
that renews it may come a little early."""
_LIST_SECONDS: Final = 60
"""Seconds between two registrations of a node in the lists of the original
servers."""
_LIST_LIFE_SECONDS: Final = 7200
"""How long these lists stay after the last registration."""


def clock() -> float:
    """Return the seconds of a clock that also runs while the process or the
    machine is suspended."""
    return time.clock_gettime(_CLOCK)


class LeaseLost(Exception):
    """Redis no longer has this epoch, after a long pause or a flush."""


_NO_VERSION: Final = b"-1"
"""With this version, the next refresh reads all leases, whether they have
changed or not."""


class LeaseTable:
    """The leases of all nodes as of the last refresh.

    A lease is a node's proof of life, and expires unless it is renewed. An
    epoch is one life of a node. Owner: the :class:`LeaseKeeper`; never switches
    greenlets.
    """

    def __init__(self) -> None:
        """Make a table without leases. The next refresh fills it."""
        self.live: Mapping[int, Lease] = MappingProxyType({})
        self.reachable: Mapping[int, Lease] = self.live
        """The live leases, and the leases of :meth:`overdue`."""
        self.dead_epochs: tuple[int, ...] = ()
        """Dead epochs that may have left data behind."""
        self.last_epoch = 0
        """The highest epoch at the last refresh."""
        self.version = _NO_VERSION
        """The version of these leases in Redis."""

    def overdue(self) -> list[Lease]:
        """Return leases that were live, and then ran out or were lost with the
        data of Redis. :meth:`forget` removes them.

        The nodes of these leases have neither left nor joined again. They may
        still serve their users, because a busy node renews its lease too late.
        The leases are marked as draining, so that these nodes get nothing new.
        """
        if self.reachable is self.live:
            return []
        leases = self.reachable.items()
        return [lease for epoch, lease in leases if epoch not in self.live]

    def is_dead(self, epoch: int) -> bool:
        """Whether an epoch is over.

        An epoch that began after the last refresh counts as live.
        """
        return epoch not in self.live and epoch <= self.last_epoch

    def is_newer(self, epoch: int) -> bool:
        """Whether an epoch began after the last refresh, so that another
        refresh would help."""
        return epoch > self.last_epoch and epoch not in self.live

    def update(
        self,
        version: bytes,
        last_epoch: bytes,
        dead_epochs: Sequence[bytes],
        live_leases: Sequence[bytes],
        left_epochs: Collection[bytes],
    ) -> bool:
        """Apply values from the reply of the script RENEW.

        Returns whether the set of live epochs has changed. ``live_leases`` has
        an epoch, its lease as JSON, the next epoch and so on; it is empty if
        the leases have not changed since the last refresh. ``left_epochs`` has
        the epochs of nodes that have ended in good order.

        An epoch is the number of one life of a node, and its lease proves that
        it goes on.
        """
        self.version = version
        self.last_epoch = int(last_epoch)
        self.dead_epochs = tuple(int(epoch) for epoch in dead_epochs)
        if not live_leases:
            return False

        live = _leases_by_epoch(live_leases)
        has_changed = live.keys() != self.live.keys()
        self._set(live, self._reachable_without(left_epochs))
        return has_changed

    def _reachable_without(self, left_epochs: Collection[bytes]) -> dict[int, Lease]:
        """Return the reachable nodes, by epoch. Nodes that have left in good
        order are not overdue, and are left out."""
        left = set(map(int, left_epochs))
        return {
            epoch: lease for epoch, lease in self.reachable.items() if epoch not in left
        }

    def _set(self, live: Mapping[int, Lease], remaining: Mapping[int, Lease]) -> None:
        """Set the live leases.

        ``remaining`` has the leases of nodes that were reachable, and have not
        left. A remaining lease that is not live becomes overdue, unless its
        node has joined again with another epoch.

        A lease is overdue if it has run out although its node has not left, so
        that the node may still live.
        """
        live_nodes = {lease.node for lease in live.values()}
        overdue = {}
        for epoch, lease in remaining.items():
            if epoch not in live and lease.node not in live_nodes:
                overdue[epoch] = msgspec.structs.replace(lease, draining=True)

        # The mappings are new objects, so that other classes notice a change by
        # their identity.
        self.live = MappingProxyType(live)
        if overdue:
            self.reachable = MappingProxyType({**overdue, **live})
        else:
            self.reachable = self.live

    def add(self, lease: Lease) -> None:
        """Add the lease of a newer node that has announced itself.

        The next refresh confirms or drops it.
        """
        if self.is_newer(lease.epoch):
            self._set({**self.live, lease.epoch: lease}, self.reachable)
            self.version = _NO_VERSION

    def forget(self, epoch: int) -> None:
        """Remove an earlier epoch of this node, or the epoch of an overdue
        lease.

        The next refresh reads all leases.
        """
        remaining = dict(self.reachable)
        remaining.pop(epoch, None)
        live = dict(self.live)
        live.pop(epoch, None)
        self._set(live, remaining)
        self.version = _NO_VERSION


def _leases_by_epoch(epochs_and_leases: Sequence[bytes]) -> dict[int, Lease]:
    """Read leases from a reply. It has the epochs, each followed by its lease
    as JSON."""
    leases = {}
    pairs = zip(epochs_and_leases[::2], epochs_and_leases[1::2], strict=True)
    for epoch, data in pairs:
        lease = decode_lease(data)
        leases[int(epoch)] = msgspec.structs.replace(lease, epoch=int(epoch))
    return leases


def _no_lease() -> Lease:
    """Return the lease of a node that has not joined."""
    return Lease("")


class _Renewal(NamedTuple):
    """The reply of the script RENEW, if Redis still has the lease."""

    is_live: int
    version: bytes
    last_epoch: bytes
    dead_epochs: Sequence[bytes]
    replaced: Sequence[bytes]
    """Sessions of this node that are no longer addressed."""
    cleans_up: int
    """1 if this node does the dead-node cleanup, otherwise 0."""
    live_leases: Sequence[bytes]
    redis_ms: bytes
    left_epochs: Collection[bytes]


class _Joining(NamedTuple):
    """The answer of Redis to a node that joins.

    ``lease`` has the new epoch. ``written`` is the lease as Redis has it now.
    ``began`` is the time at which the node has asked.
    """

    lease: Lease
    written: bytes
    began: float


class LeaseKeeper(Service):
    """Joins the cluster, renews the lease of this node, and leaves.

    A lease is a node's proof of life in Redis. Owner of this node's lease and
    of the connection; used by one greenlet at a time.
    """

    link: RedisLink
    lease_seconds: float
    renew_seconds: float
    on_replaced: Callable[[Sequence[bytes]], object]
    """Called with the entries of sessions of this node that are no longer
    addressed."""
    table: LeaseTable = field(default_factory=LeaseTable)
    lease: Lease = field(default_factory=_no_lease)
    past_epochs: tuple[int, ...] = ()
    """The last :data:`_PAST_EPOCHS` of this process before the current one."""
    cleans_up: bool = False
    """Whether this node does the dead-node cleanup."""
    clock_seconds: float = 0.0
    """How many seconds this node's clock was ahead of the clock of Redis at the
    last refresh. A negative number means that it was behind."""
    _redis_ms: float = 0.0
    """Milliseconds of Redis's clock at second 0 of :func:`clock`, or a little
    more."""
    _until: float = 0.0
    """Time of :func:`clock` at which the lease expires; 0 if there is no
    lease."""
    _renewed_at: float = 0.0
    """Time of the last renewal; minus infinity means that the next refresh
    renews the lease."""
    _listed_at: float = 0.0
    """Time at which the node was last entered into the lists of servers."""
    _written: bytes = b""
    """The lease as Redis has it. ``b""`` means that this is not known, so the
    lease is written again."""
    _replaced_seen: Sequence[bytes] = ()
    """The entries of replaced sessions that this node has read. The next
    renewal removes them from Redis."""

    def dead_epochs(self) -> str:
        """Return the epochs whose sessions and channels do not count.

        The form is ``,12,14,``, in which scripts search for ``,12,``. The text
        is usually empty.

        An epoch is the number of one life of a node.
        """
        dead = self.past_epochs + self.table.dead_epochs
        if dead:
            return f",{','.join(map(str, dead))},"
        return ""

    def redis_ms(self, seconds_ago: float) -> int:
        """Return the time that the clock of Redis showed ``seconds_ago``.

        It is in the milliseconds of the scripts of Redis. It is estimated from
        the last refresh. It is never too early, and too late by less than a
        round trip.
        """
        return int(self._redis_ms + (clock() - seconds_ago) * SECOND_MS)

    def alive(self) -> bool:
        """Whether the lease is live, as far as this node knows. Never switches
        greenlets."""
        return clock() < self._until

    def join(self) -> None:
        """Take a new epoch: begin another life of this node in the cluster.

        Until Redis has answered, the node still reaches the other nodes. Switches
        greenlets. Raises RedisUnavailable, or StartError if this node must not
        join.
        """
        past = self.lease.epoch  # 0: there was no epoch before
        self._until = 0.0
        # A node that has served already has channels which the cluster does not
        # know in the new epoch.
        lease = msgspec.structs.replace(
            self.lease, epoch=0, unsettled=past != 0 or self.lease.unsettled
        )
        joining = self._take_epoch(lease, self._highest_epoch())
        self._begin_life(joining, past)
        try:
            self.refresh()
        except LeaseLost:
            raise RedisUnavailable("the new lease was lost at once") from None

    def _begin_life(self, joining: _Joining, past: int) -> None:
        """Take the epoch that Redis has given. ``past`` is the epoch before; 0
        if there was no epoch before."""
        self.lease = joining.lease
        if past:
            self.past_epochs = (*self.past_epochs, past)[-_PAST_EPOCHS:]
        self.table.forget(past)
        self._replaced_seen = ()
        self._written = joining.written
        self._until = joining.began + self.lease_seconds
        self._renewed_at = joining.began
        self._listed_at = 0.0

    def _highest_epoch(self) -> int:
        """Return the highest epoch that this node knows, of any node.

        It is sent to Redis, because Redis may have come back with older data.
        """
        table = self.table
        return max(table.last_epoch, self.lease.epoch, *self.past_epochs, *table.live)

    def _take_epoch(self, lease: Lease, highest: int) -> _Joining:
        """Let Redis give this node an epoch above ``highest``.

        Asks again with other feature names if the cluster expects them.
        Switches greenlets. Raises RedisUnavailable, or StartError if this node
        must not join.

        An epoch is the number of one life of a node.
        """
        while True:
            data = msgspec.json.encode(lease)
            began = clock()
            result, text = self._reply(self._joining(lease, data, highest))
            if result == b"ok":
                new_lease = msgspec.structs.replace(lease, epoch=int(text))
                return _Joining(new_lease, written=data, began=began)
            # The cluster expects other names of features.
            lease = _adapted(lease, result, text)

    def report(
        self,
        connections: int,
        counts: Mapping[str, int],
        draining: bool,
        unsettled: bool = False,
    ) -> bool:
        """Update the facts about this node in its lease.

        Returns whether the lease should be renewed at once, because the node
        began or ceased to drain or to be unsettled. Never switches greenlets.
        """
        is_urgent = (draining, unsettled) != (self.lease.draining, self.lease.unsettled)
        if is_urgent:
            self._renewed_at = -math.inf
        self.lease = msgspec.structs.replace(
            self.lease,
            connections=connections,
            counts=dict(counts),
            draining=draining,
            unsettled=unsettled,
        )
        return is_urgent

    def report_database(self, database: str) -> None:
        """Publish the id of the database with the next refresh.

        That refresh renews the lease even if this is not due. Never switches
        greenlets.
        """
        self._renewed_at = -math.inf
        self.lease = msgspec.structs.replace(self.lease, database=database)

    def report_marks(self) -> None:
        """Publish, with the next refresh, that this node leaves marks.

        A mark is a node's proof that it has registered all its sessions. Never
        switches greenlets.
        """
        if not self.lease.marks:
            self._renewed_at = -math.inf
            self.lease = msgspec.structs.replace(self.lease, marks=True)

    def refresh(self) -> bool:
        """Read the leases, and renew the lease of this node if that is due.

        Returns whether the set of live epochs has changed. Switches greenlets.
        Raises RedisUnavailable, and :class:`LeaseLost` if Redis no longer has
        this epoch.

        A lease proves for some seconds that a node lives. An epoch is the
        number of one life of a node.
        """
        began = clock()
        began_unix = time.time()
        renews = began - self._renewed_at >= self.renew_seconds * _RENEWAL_SLACK
        reply = self._reply(self._renewal(renews), *self._listing(began))
        if reply[0] == 0:
            self._until = 0.0
            raise LeaseLost
        if renews:
            self._until = began + self.lease_seconds
            self._renewed_at = began

        renewal = _Renewal(*reply)
        self._note_clock(int(renewal.redis_ms), began, began_unix)
        return self._apply(renewal)

    def _note_clock(self, redis_ms: int, began: float, began_unix: float) -> None:
        """Compare the clock of Redis with the clock of this node.

        Redis has read its clock at the earliest when the request ``began``.
        """
        self._redis_ms = redis_ms - began * SECOND_MS
        self.clock_seconds = _clock_difference(redis_ms, began_unix, time.time())

    def _apply(self, renewal: _Renewal) -> bool:
        """Apply the facts about the nodes of the cluster from a reply of Redis.

        Returns whether the set of live epochs has changed.
        """
        has_changed = self.table.update(
            version=renewal.version,
            last_epoch=renewal.last_epoch,
            dead_epochs=renewal.dead_epochs,
            live_leases=renewal.live_leases,
            left_epochs=renewal.left_epochs,
        )
        self._replaced_seen = renewal.replaced
        self.cleans_up = bool(renewal.cleans_up)
        if renewal.replaced:
            self.on_replaced(renewal.replaced)
        return has_changed

    def leave(self, clean: bool) -> None:
        """Give the lease back.

        ``clean`` means that the node leaves no sessions or channels behind.
        Otherwise another node cleans up after it. Switches greenlets. Raises
        RedisUnavailable.
        """
        epoch = self.lease.epoch
        self._until = 0.0
        if epoch:
            self.link.exchange(self._leave_commands(epoch, clean))

    def _leave_commands(self, epoch: int, clean: bool) -> list[Command]:
        """Return the commands that remove the lease of this node and what
        belongs to it."""
        commands: list[Command] = [
            ("EVALSHA", LEAVE, *lease_keys(epoch), epoch, int(clean)),
            ("HDEL", SERVERS, self.lease.node),
            ("HDEL", ACTION_SERVERS, self.lease.clients),
        ]
        if clean:
            # If the node leaves data behind, the node that cleans up reads
            # these keys.
            commands.append(("DEL", written_key("buckets", epoch)))
            commands.append(("DEL", written_key("channel-buckets", epoch)))
        return commands

    def _joining(self, lease: Lease, data: bytes, highest: int) -> Command:
        """Return the command that takes an epoch above ``highest``.

        ``data`` is the encoded ``lease``.
        """
        return (
            "EVALSHA",
            JOIN,
            *lease_keys(0),
            lease.node,
            lease.host,
            "",
            int(self.lease_seconds * SECOND_MS),
            data,
            lease.database,
            highest,
            REQUIRED_OF_FIRST_RELEASE,
        )

    def _renewal(self, renews: bool) -> Command:
        """Return the command that reads the leases.

        If ``renews``, it also renews the lease of this node, and writes the
        lease if it has changed.
        """
        milliseconds = 0  # the script does not renew
        data = b""  # the script does not write the lease
        if renews:
            milliseconds = int(self.lease_seconds * SECOND_MS)
            data = self._take_changed_lease()

        # Redis drops the entries that were seen, if they are still the first in
        # the list.
        first_seen = self._replaced_seen[0] if self._replaced_seen else b""
        return (
            "EVALSHA",
            RENEW,
            *lease_keys(self.lease.epoch),
            self.lease.epoch,
            milliseconds,
            data,
            self.table.version,
            len(self._replaced_seen),
            first_seen,
            self.lease.node,
            self.lease.birth,
        )

    def _take_changed_lease(self) -> bytes:
        """Return the lease as JSON if it has changed since the last call; else
        ``b""``."""
        # The epoch is not part of the stored lease, but its key.
        lease = msgspec.structs.replace(self.lease, epoch=0)
        encoded_lease = msgspec.json.encode(lease)
        if encoded_lease == self._written:
            return b""
        self._written = encoded_lease
        return encoded_lease

    def _listing(self, now: float) -> list[Command]:
        """Return commands that enter this node into the server lists of the
        original servers.

        Programs for these servers find nodes there. The list is empty if that
        was done less than a minute ago.
        """
        if now - self._listed_at < _LIST_SECONDS:
            return []
        self._listed_at = now
        commands: list[Command] = []
        names = ((SERVERS, self.lease.node), (ACTION_SERVERS, self.lease.clients))
        # An empty name means that the node has no such server.
        for key, name in names:
            if name:
                commands.append(("HSET", key, name, int(time.time())))
                commands.append(("EXPIRE", key, _LIST_LIFE_SECONDS))
        return commands

    def _reply(self, *commands: Command) -> Any:
        """Execute commands, and return the reply to the first one.

        After a failure, the next refresh writes and reads everything again.
        Raises RedisUnavailable.
        """
        is_written = False
        try:
            reply = self.link.exchange(commands)[0]
            is_written = not isinstance(reply, Exception)
        finally:
            if not is_written:
                self._written = b""
                self._listed_at = 0.0
                self.table.version = _NO_VERSION
        # A link to several servers returns such an error instead of raising it.
        if isinstance(reply, RedisUnavailable):
            raise reply
        if isinstance(reply, ErrorReply):
            raise RedisUnavailable(f"command refused: {reply}", refused=True)
        return reply


def _adapted(lease: Lease, result: bytes, text: bytes) -> Lease:
    """Return another lease, with which a node that Redis has refused can join.

    The cluster expects other feature names, which ``text`` has. For any other
    ``result`` this raises StartError, and ``text`` names a node or a machine.
    """
    other = text.decode("utf-8", "replace")
    if result != b"names":
        raise StartError(_REFUSALS[result].format(other=other, lease=lease))
    # A node of an older release compares these names with its own names when it
    # joins again.
    return msgspec.structs.replace(lease, feature_names=other)


def _clock_difference(redis_ms: int, began: float, ended: float) -> float:
    """Return how many seconds the clock of this node is ahead of the clock of
    Redis.

    A negative number means that it is behind. Redis has read its clock,
    ``redis_ms``, at some time within a round trip. The trip ``began`` and
    ``ended`` at Unix times of this node. If the time of Redis is between these
    two times, the clocks agree, and the result is 0.
    """
    redis_time = (EPOCH_MS + redis_ms) / SECOND_MS
    ahead = max(began - redis_time, 0.0)
    behind = min(ended - redis_time, 0.0)
    return ahead + behind


def written_key(what: Literal["buckets", "channel-buckets"], epoch: int) -> str:
    """Return the key of the set of buckets into which an epoch has written.

    A bucket has some of the sessions, or of the channels, of an app.
    """
    return f"{{imserver}}:written-{what}:{epoch}"


# Result of the script JOIN → why the node must not join.
_REFUSALS: Final = {
    b"fingerprint": "the cluster has another secret than this node (seen at node "
    "{other}): give all nodes the same server.secret_file, "
    "or the same server.data_dir. To change the secret, first let "
    "all nodes accept the new one, too (server.second_secret_file)",
    b"database": "the cluster uses another database for apps and keys than "
    "this node (its node {other} was asked): give all nodes the "
    "same storage.url, or, on one machine, the same server.data_dir",
    b"features": "the cluster has other features than this node (it differs from "
    "node {other}): give all nodes the same list in the setting features",
    b"address": "the live node {lease.node} on machine {other} has the address "
    "of this one: set cluster.advertise to an address of this "
    "machine that the other nodes can reach, or another app.rpc_port",
}
