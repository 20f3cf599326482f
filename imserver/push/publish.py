"""Publishing: sends one event to targets of several kinds and reports the outcome of each; stores pending
pushes for absent users.

Pending pushes wait in the memory of this node until a login or until they expire. When the user logs in on
any node, they are delivered within about a second, in the order of the pushes. A later push to the same user
is queued behind them. A node that stops passes its pending pushes to others of its cluster. They are lost if
it is killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic
from typing import Annotated, Final

import gevent
import msgspec
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from imserver.channels.channels import Channels
from imserver.channels.connections import Connections
from imserver.channels.members import GROUP_ID, ChannelRefused, check_name
from imserver.channels.stored import Published
from imserver.clock import until_beat
from imserver.cluster.history import Position
from imserver.cluster.nodes import NodeMessages, ToPending
from imserver.errors import StorageUnavailable
from imserver.model import SYSTEM_PREFIX, ChannelPart, Event, Outcome
from imserver.push.idempotency import Carried, First, Idempotency, IdReused
from imserver.push.push import Pushes
from imserver.sessions.presence import Presence
from imserver.storage.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
LOOK_USERS: Final = 1000
"""Number of users looked up together."""
APP_SHARE: Final = 0.75
"""Part of the free space (not used by other apps) that one app may use."""
_ENTRY_BYTES: Final = 400

Name = Annotated[str, Meta(min_length=1, max_length=512)]
GroupName = Annotated[str, Meta(pattern=f"^{GROUP_ID.pattern}$", description="A group, by its id.")]
_MEMBERS: Final = 1000
"""Members of a group that are read together."""
_encode = msgspec.json.Encoder().encode
_encode_position = msgspec.msgpack.Encoder().encode
_decode_position = msgspec.msgpack.Decoder(Position | None).decode


class Target(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A target of a push: a `user` (with `device`: only on that device), a `connection` by its id, a
    `channel`, the members of a `group`, or `all` users of the app.

    The channel `user:<id>` is the user with this id, `group:<id>` the group.
    """

    user: Name | UnsetType = UNSET
    device: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    connection: Name | UnsetType = UNSET
    channel: Name | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    all: bool = False

    def __post_init__(self) -> None:
        kinds = (self.user, self.connection, self.channel, self.group)
        if sum(kind is not UNSET for kind in kinds) + self.all != 1:
            raise ValueError(
                "A target has one of `user`, `connection`, `channel`, `group`, and `all` that is true"
            )
        if self.device is not UNSET and self.user is UNSET:
            raise ValueError("`device` goes with `user`")


def addressed(target: Target) -> Target:
    """The user or group whose channel a target is; any other target itself."""
    kind, _, id = ("", "", "") if target.channel is UNSET else target.channel.partition(":")
    if kind == "user" and id:
        return Target(user=id)
    if kind == "group" and GROUP_ID.fullmatch(id):
        return Target(group=id)
    return target


class PendingPush(Struct, gc=False):
    """One push, for ``device`` (None: for all), until the monotonic time ``until``."""

    event: Event
    device: str | None
    until: float

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return _ENTRY_BYTES + len(self.event.text) + len(self.event.data)


class _Queue:
    """The pushes of one user by number, the oldest first. ``turn`` is locked during delivery."""

    __slots__ = ("pushes", "turn")

    def __init__(self) -> None:
        self.pushes: dict[int, PendingPush] = {}
        self.turn = BoundedSemaphore(1)


class PendingPushes:
    """Owner of all pending pushes of this node: at most ``limit_pushes``, and at most ``limit_bytes``.

    One app takes at most :data:`APP_SHARE` of the free space, so that no app can use all of it.
    """

    def __init__(
        self,
        pushes: Pushes,
        presence: Presence,
        limit_pushes: int,
        limit_bytes: int,
        clock: Callable[[], float] = monotonic,
        node_messages: NodeMessages | None = None,
    ) -> None:
        self.limit_pushes = limit_pushes
        self.limit_bytes = limit_bytes
        self.count = 0
        self.bytes = 0
        self.expired = 0
        """Pushes that expired before their user came."""
        self._pushes = pushes
        self._presence = presence
        self._clock = clock
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._used: dict[str, tuple[int, int]] = {}
        """App → its pushes, and their bytes."""
        self._numbers = count()
        self._next_expiry = float("inf")
        self._filled = Signal()
        """Set while there are pending pushes."""
        self._node_messages = node_messages
        if node_messages is not None:
            node_messages.handle({ToPending: self._passed})

    def add(self, app: str, user: str, event: Event, seconds: float, device: str | None = None) -> bool:
        """Store a push for ``seconds``. Return False if there is no room for it. Never switches."""
        push = PendingPush(event, device, self._clock() + seconds)
        if not self._has_room(app, push.size):
            return False
        queue = self._queues.get((app, user))
        if queue is None:
            queue = self._queues[app, user] = _Queue()
        queue.pushes[next(self._numbers)] = push
        self._account(app, 1, push.size)
        self._next_expiry = min(self._next_expiry, push.until)
        self._filled.set()
        return True

    def _has_room(self, app: str, size: int) -> bool:
        pushes, used = self._used.get(app, (0, 0))
        return pushes + 1 <= APP_SHARE * (
            self.limit_pushes - self.count + pushes
        ) and used + size <= APP_SHARE * (self.limit_bytes - self.bytes + used)

    def _account(self, app: str, pushes: int, size: int) -> None:
        self.count += pushes
        self.bytes += size
        before = self._used.get(app, (0, 0))
        self._used[app] = before[0] + pushes, before[1] + size
        if not self._used[app][0]:
            del self._used[app]

    def waits_for(self, app: str, user: str) -> bool:
        """Whether a user has pending pushes. Never switches."""
        return (app, user) in self._queues

    def deliver(self, app: str, user: str) -> None:
        """Deliver the pending pushes of a user, if they are online. Switches."""
        queue = self._queues.get((app, user))
        if queue is None:
            return
        with queue.turn:
            for number, push in tuple(queue.pushes.items()):
                if number not in queue.pushes or push.until <= self._clock():
                    continue  # an expired one is counted in the next round
                if self._pushes.reach(app, [user], push.event, push.device)[0] is Outcome.SENT:
                    self._drop(app, queue, number)
                elif push.device is None:
                    break
            if not queue.pushes and self._queues.get((app, user)) is queue:
                del self._queues[app, user]

    def forget(self, app: str) -> None:
        """Remove all pushes of a deleted app. Never switches."""
        for key in [key for key in self._queues if key[0] == app]:
            queue = self._queues.pop(key)
            for number in tuple(queue.pushes):
                self._drop(app, queue, number)

    def pass_on(self) -> None:
        """Pass all pushes to nodes that are not stopping, those of one user to the same node. Switches."""
        node_messages = self._node_messages
        if node_messages is None:
            return
        epochs = [lease.epoch for lease in node_messages.peers() if not lease.draining]
        for index, ((app, user), queue) in enumerate(list(self._queues.items()) if epochs else ()):
            epoch = epochs[index % len(epochs)]
            for number, push in tuple(queue.pushes.items()):
                seconds = push.until - self._clock()
                if seconds > 0:
                    message = ToPending(app, user, push.event, seconds, push.device)
                    node_messages.send(epoch, message)
                self._drop(app, queue, number)
            gevent.sleep(0)

    def _passed(self, message: ToPending) -> None:
        self.add(message.app, message.user, message.event, message.seconds, message.device)

    def run(self) -> None:
        """Greenlet: while there are pending pushes, check once per second whether their users are online."""
        while True:
            self._filled.wait()
            gevent.sleep(until_beat(LOOK_SECONDS))
            try:
                self.look()
            except Exception:
                log.exception("looking for users with pending pushes failed")
            if not self._queues:
                self._filled.clear()

    def look(self) -> None:
        """Drop expired pushes, and deliver to users who are online now."""
        if self._clock() >= self._next_expiry:
            self._expire()
        users: dict[str, list[str]] = {}
        for app, user in self._queues:
            users.setdefault(app, []).append(user)
        for app, names in users.items():
            for start in range(0, len(names), LOOK_USERS):
                some = names[start : start + LOOK_USERS]
                for user, online in zip(some, self._presence.are_online(app, some), strict=True):
                    if online:
                        self.deliver(app, user)

    def _expire(self) -> None:
        now = self._clock()
        soonest = float("inf")
        for (app, user), queue in tuple(self._queues.items()):
            for number, push in tuple(queue.pushes.items()):
                if push.until <= now:
                    self._drop(app, queue, number)
                    self.expired += 1
                else:
                    soonest = min(soonest, push.until)
            if not queue.pushes:
                del self._queues[app, user]
        self._next_expiry = soonest

    def _drop(self, app: str, queue: _Queue, number: int) -> None:
        """Remove one push, unless another greenlet has removed it."""
        push = queue.pushes.pop(number, None)
        if push is not None:
            self._account(app, -1, -push.size)


OnAbsent = Callable[[str, Sequence[tuple[str, Event]]], None]
"""Called with (app, (user, event) for each user who is not online). May switch."""


class Publishing:
    """Sends to targets of all kinds, on all nodes. Every call may switch. ``store`` has the groups."""

    def __init__(
        self,
        pushes: Pushes,
        channels: Channels,
        connections: Connections,
        pending: PendingPushes,
        store: Store,
        ids: Idempotency,
        on_absent: OnAbsent | None = None,
    ) -> None:
        self._pushes = pushes
        self._channels = channels
        self._connections = connections
        self._pending = pending
        self._store = store
        self._ids = ids
        self._on_absent = on_absent

    def to_channels(
        self,
        app: str,
        channels: Sequence[str],
        event: Event,
        *,
        except_users: tuple[str, ...] = (),
        tags: bytes = b"",
        with_history: bool = True,
        key: str = "",
        digest: int = 0,
        all_or_none: bool = False,
    ) -> list[Published | ChannelRefused | IdReused]:
        """Publish the same to several channels, for a ``key`` once to each. The results have their order.

        REPEATED: it was published before, at this position if this node knows it. No outcome is FAILED: a
        failed publication is a :class:`ChannelRefused`, as one that is refused. ``digest``: that of the
        request. :class:`IdReused`: the key belongs to another request in this channel; with ``all_or_none``
        it is raised before anything is published. The channels of users and groups have no tags.
        """

        def publish(channel: str) -> Published | ChannelRefused:
            target = Target(channel=channel)
            if addressed(target) is not target and not app.startswith(SYSTEM_PREFIX):
                (outcome,) = self.to_targets(app, [target], event, except_users)
                if outcome is Outcome.FAILED:
                    return ChannelRefused("unavailable", "a node or the database does not answer")
                return Published(outcome)
            try:
                check_name(channel)
                return self._channels.publish_event(
                    app,
                    channel,
                    replace(event, channel=ChannelPart(channel, tags=tags)),
                    except_users=except_users,
                    with_history=with_history,
                    key=key,
                )
            except ChannelRefused as refused:
                return refused

        def carry_out(index: int, first: First | None) -> Carried[Published | ChannelRefused]:
            channel = names[index]
            is_stored = with_history and self._channels.is_stored(app, channel)
            # If this node does not know the position, the log may still know it.
            if first is not None and (first.result or not is_stored):
                position = _decode_position(first.result) if first.result else None
                return Published(Outcome.REPEATED, position), (), b""
            found = publish(channel)
            if isinstance(found, ChannelRefused):
                return found, (), b""
            return found, (found.outcome,), _encode_position(found.position)

        if not key:
            return [publish(channel) for channel in channels]
        names = list(dict.fromkeys(channels))
        requests = [(_encode((key, channel)).decode(), digest) for channel in names]
        found = self._ids.carry_out_each(app, requests, carry_out, all_or_none=all_or_none)
        results = dict(zip(names, found, strict=True))
        return [results[channel] for channel in channels]

    def to_targets(
        self,
        app: str,
        targets: Sequence[Target],
        event: Event,
        except_users: tuple[str, ...] = (),
        ttl_seconds: float = 0,
        key: str = "",
    ) -> list[Outcome]:
        """Send to each target, in order. A user or connection named by several targets receives the event
        several times.

        ``except_users`` do not receive it through channels, groups and ``all``. Absent users receive it if
        they log in within ``ttl_seconds``. ``key``: see :meth:`Channels.publish_event`.
        """
        outcomes: list[Outcome] = []
        users: list[str] = []
        # Channels of a system have any names: there, `user:1` is not the channel of a user.
        system = app.startswith(SYSTEM_PREFIX)
        for target in targets if system else map(addressed, targets):
            if target.user is not UNSET and target.device is UNSET:
                users.append(target.user)
                continue
            if users:
                outcomes += self.to_users(app, users, event, ttl_seconds)
                users = []
            outcomes += self._to_target(app, target, event, except_users, ttl_seconds, key)
        return outcomes + self.to_users(app, users, event, ttl_seconds) if users else outcomes

    def _to_target(
        self,
        app: str,
        target: Target,
        event: Event,
        except_users: tuple[str, ...],
        ttl_seconds: float,
        key: str,
    ) -> list[Outcome]:
        if target.user is not UNSET:
            device = None if target.device is UNSET else target.device
            return self.to_users(app, [target.user], event, ttl_seconds, device)
        if target.connection is not UNSET:
            return self._connections.push_each(app, [target.connection], event)
        if target.channel is not UNSET:
            return [self._channels.publish(app, target.channel, event, except_users, key=key)]
        if target.group is not UNSET:
            return [self._to_group(app, int(target.group), event, except_users, ttl_seconds)]
        return [self._pushes.spread(app, event, except_users)]

    def _to_group(
        self, app: str, group: int, event: Event, except_users: tuple[str, ...], ttl_seconds: float
    ) -> Outcome:
        """Send to the members of a group. PARTLY: a node with some of them is known not to receive it."""
        log, outcomes, after = self._store.log(), set[Outcome](), ""
        event = replace(event, channel=ChannelPart(f"group:{group}"))
        while True:
            try:
                rows = log.members(app, group, after, _MEMBERS)
            except StorageUnavailable:
                outcomes.add(Outcome.FAILED)
                break
            # The two users of a conversation are its members, too.
            users = [row.user for row in rows if row.kind_of_conversation == "group"]
            users = [user for user in users if user not in except_users]
            outcomes.update(self.to_users(app, users, event, ttl_seconds))
            if len(rows) < _MEMBERS:
                break
            after = rows[-1].user
        if outcomes <= {Outcome.NOT_SENT}:
            return Outcome.NOT_SENT
        if outcomes <= {Outcome.NOT_SENT, Outcome.FAILED}:
            return Outcome.FAILED
        return Outcome.PARTLY if outcomes & {Outcome.FAILED, Outcome.PARTLY} else Outcome.SENT

    def to_users(
        self,
        app: str,
        users: Sequence[str],
        event: Event,
        ttl_seconds: float = 0,
        device: str | None = None,
    ) -> list[Outcome]:
        """Send to users, on all their devices or on one."""
        if app.startswith(SYSTEM_PREFIX):
            return self._connections.push_each(app, users, event)
        if self._pending.count:
            self._deliver_pending(app, users)
        outcomes = self._pushes.reach(app, users, event, device)
        if Outcome.NOT_SENT in outcomes:
            self._report(app, users, [event] * len(users), outcomes)
            for index, outcome in enumerate(outcomes if ttl_seconds else ()):
                if outcome is Outcome.NOT_SENT and self._pending.add(
                    app, users[index], event, ttl_seconds, device
                ):
                    outcomes[index] = Outcome.HELD
        return outcomes

    def to_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """Send each user their own event, in this order."""
        if app.startswith(SYSTEM_PREFIX):
            return [
                self._connections.push_each(app, [user], event)[0]
                for user, event in zip(users, events, strict=True)
            ]
        if self._pending.count:
            self._deliver_pending(app, users)
        outcomes = self._pushes.reach_each(app, users, events)
        if Outcome.NOT_SENT in outcomes:
            self._report(app, users, events, outcomes)
        return outcomes

    def _deliver_pending(self, app: str, users: Sequence[str]) -> None:
        pending = self._pending
        for user in users:
            if pending.waits_for(app, user):
                pending.deliver(app, user)

    def _report(
        self, app: str, users: Sequence[str], events: Sequence[Event], outcomes: Sequence[Outcome]
    ) -> None:
        """Report the users who are not online."""
        if self._on_absent is not None:
            pairs = zip(users, events, outcomes, strict=True)
            self._on_absent(
                app, [(user, event) for user, event, outcome in pairs if outcome is Outcome.NOT_SENT]
            )
