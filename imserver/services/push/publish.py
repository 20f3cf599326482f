"""Publishing: one event to targets of mixed kinds, with what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.model import SYSTEM_PREFIX, Event, Outcome
from imserver.services.push.pending import PendingPushes
from imserver.services.push.push import Pushes
from imserver.services.rooms.connections import Connections
from imserver.services.rooms.rooms import Rooms

Name = Annotated[str, Meta(min_length=1, max_length=512)]
GroupName = Annotated[str, Meta(pattern="^[1-9][0-9]{0,17}$", description="A group, by its id.")]


class Target(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Whom a push is for: a ``user`` (on one ``device`` if it is named), a ``connection`` by its id, a
    ``room``, ``all`` users of the app, or, if it is stored, a ``group``."""

    user: Name | UnsetType = UNSET
    device: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    connection: Name | UnsetType = UNSET
    room: Name | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    all: bool = False

    def __post_init__(self) -> None:
        kinds = (self.user, self.connection, self.room, self.group)
        if sum(kind is not UNSET for kind in kinds) + self.all != 1:
            raise ValueError(
                "A target has one of `user`, `connection`, `room`, `group`, and `all` that is true"
            )
        if self.device is not UNSET and self.user is UNSET:
            raise ValueError("`device` goes with `user`")


OnAbsent = Callable[[str, str, Event], None]
"""Called with (app, user, event) for each user who is not online. Must not switch."""


class Publishing:
    """Sends to targets of all kinds, on all nodes. Every call may switch."""

    def __init__(
        self,
        pushes: Pushes,
        rooms: Rooms,
        connections: Connections,
        pending: PendingPushes,
        on_absent: OnAbsent | None = None,
    ) -> None:
        self._pushes = pushes
        self._rooms = rooms
        self._connections = connections
        self._pending = pending
        self._on_absent = on_absent

    def to_targets(
        self,
        app: str,
        targets: Sequence[Target],
        event: Event,
        except_users: tuple[str, ...] = (),
        ttl_seconds: float = 0,
    ) -> list[Outcome]:
        """Tell each target, in their order; a user or a connection under several of them is told as often.

        ``except_users`` are not told by rooms and ``all``. Users who are absent are told if they log in
        within ``ttl_seconds``.
        """
        outcomes: list[Outcome] = []
        users: list[str] = []
        for target in targets:
            if target.user is not UNSET and target.device is UNSET:
                users.append(target.user)
                continue
            if users:
                outcomes += self.to_users(app, users, event, ttl_seconds)
                users = []
            outcomes += self._to_target(app, target, event, except_users, ttl_seconds)
        return outcomes + self.to_users(app, users, event, ttl_seconds) if users else outcomes

    def _to_target(
        self, app: str, target: Target, event: Event, except_users: tuple[str, ...], ttl_seconds: float
    ) -> list[Outcome]:
        if target.user is not UNSET:
            device = None if target.device is UNSET else target.device
            return self.to_users(app, [target.user], event, ttl_seconds, device)
        if target.connection is not UNSET:
            return self._connections.push_each(app, [target.connection], event)
        if target.room is not UNSET:
            return [self._rooms.publish(app, target.room, event, except_users)]
        return [self._pushes.spread(app, event, except_users)]

    def to_users(
        self,
        app: str,
        users: Sequence[str],
        event: Event,
        ttl_seconds: float = 0,
        device: str | None = None,
    ) -> list[Outcome]:
        """Tell users, on all their devices or on one."""
        if app.startswith(SYSTEM_PREFIX):
            return self._connections.push_each(app, users, event)
        if self._pending.count:
            self._deliver_pending(app, users)
        outcomes = self._pushes.reach(app, users, event, device)
        if (ttl_seconds or self._on_absent is not None) and Outcome.NOT_SENT in outcomes:
            for index, outcome in enumerate(outcomes):
                if outcome is Outcome.NOT_SENT:
                    outcomes[index] = self._miss(app, users[index], event, ttl_seconds, device)
        return outcomes

    def to_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """Tell each user something of their own, in this order."""
        if app.startswith(SYSTEM_PREFIX):
            return [
                self._connections.push_each(app, [user], event)[0]
                for user, event in zip(users, events, strict=True)
            ]
        if self._pending.count:
            self._deliver_pending(app, users)
        outcomes = self._pushes.reach_each(app, users, events)
        if self._on_absent is not None:
            for user, event, outcome in zip(users, events, outcomes, strict=True):
                if outcome is Outcome.NOT_SENT:
                    self._on_absent(app, user, event)
        return outcomes

    def _deliver_pending(self, app: str, users: Sequence[str]) -> None:
        pending = self._pending
        for user in users:
            if pending.waits_for(app, user):
                pending.deliver(app, user)

    def _miss(self, app: str, user: str, event: Event, ttl_seconds: float, device: str | None) -> Outcome:
        """A user is not there: report it, and store the push for later."""
        if self._on_absent is not None:
            self._on_absent(app, user, event)
        if ttl_seconds and self._pending.add(app, user, event, ttl_seconds, device):
            return Outcome.HELD
        return Outcome.NOT_SENT
