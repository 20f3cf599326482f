"""Pending pushes: pushes to absent users, which wait for a login.

Pending pushes wait in the memory of this node until the user logs in or they
expire. When the user logs in on any node, the pushes are delivered within about
a second, in their order. A later push to the same user is queued behind them. A
node that stops passes its pending pushes to other nodes of its cluster. If a
node is killed, its pending pushes are lost.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event as Flag
from gevent.lock import BoundedSemaphore
from msgspec import Struct, field

from imserver.gateway.clock import until_beat
from imserver.gateway.cluster.nodes import ForgetPending, NodeMessages, ToPending
from imserver.gateway.model import Event, Outcome, Service
from imserver.gateway.sessions.presence import Presence

LOOK_SECONDS: Final = 1.0
LOOK_USERS: Final = 1000
"""Number of users looked up together."""
APP_SHARE: Final = 0.75
"""Part of the free space that one app may use. The free space is the space that
other apps do not use."""
_ENTRY_BYTES: Final = 400
"""Memory of a push, without its content."""


class PendingPush(Struct, gc=False):
    """One push to an absent user.

    ``device`` is the only device that gets the push; None means all devices.
    ``until`` is the monotonic time at which the push expires.
    """

    event: Event
    device: str | None
    until: float

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return _ENTRY_BYTES + len(self.event.text) + len(self.event.data)


class _Queue(Struct, eq=False):
    """The pending pushes of one user: number → push, the oldest first.

    ``turn`` is locked while a greenlet delivers these pushes.
    """

    pushes: dict[int, PendingPush] = field(default_factory=dict)
    turn: BoundedSemaphore = field(default_factory=BoundedSemaphore)


class PendingPushes(Service):
    """The pushes to absent users that wait on this node.

    At most ``limit_pushes`` pushes wait, with at most ``limit_bytes`` together.
    An app takes at most :data:`APP_SHARE` of the free space, so that no app can
    use all of it. ``to_user`` is the method that delivers a push to a user
    (``Reach.to_user``).
    """

    to_user: Callable[[str, str, Event, str | None], Outcome]
    presence: Presence
    limit_pushes: int
    limit_bytes: int
    clock: Callable[[], float] = monotonic
    node_messages: NodeMessages | None = None

    count: int = 0
    bytes: int = 0
    expired: int = 0
    """The number of pushes that expired before their user logged in."""
    _queues: dict[tuple[str, str], _Queue] = field(default_factory=dict)
    _used: dict[str, tuple[int, int]] = field(default_factory=dict)
    """App → the number of its pushes, and their bytes."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _next_expiry: float = float("inf")
    _filled: Flag = field(default_factory=Flag)
    """Set while there are pending pushes."""

    def __post_init__(self) -> None:
        """Receive pushes of nodes that stop."""
        if self.node_messages is not None:
            self.node_messages.handle(
                {ToPending: self._add_passed, ForgetPending: self._forget_user}
            )

    def add(
        self,
        app: str,
        user: str,
        event: Event,
        seconds: float,
        device: str | None = None,
    ) -> bool:
        """Keep a push for ``seconds``, until its user logs in.

        Returns False if there is no space for the push. Never switches
        greenlets.
        """
        push = PendingPush(event, device, self.clock() + seconds)
        pushes, used_bytes = self._used.get(app, (0, 0))
        # The free space is the space that other apps do not use.
        free = self.limit_pushes - self.count + pushes
        free_bytes = self.limit_bytes - self.bytes + used_bytes
        if pushes + 1 > APP_SHARE * free:
            return False
        if used_bytes + push.size > APP_SHARE * free_bytes:
            return False

        queue = self._queues.get((app, user))
        if queue is None:
            queue = _Queue()
            self._queues[app, user] = queue
        queue.pushes[next(self._numbers)] = push
        self._change_counts(app, pushes=1, size=push.size)
        self._next_expiry = min(self._next_expiry, push.until)
        self._filled.set()
        return True

    def _change_counts(self, app: str, pushes: int, size: int) -> None:
        """Add to the counts of all apps and of one app; negative numbers
        subtract.

        ``size`` is in bytes. An app without pushes is forgotten.
        """
        self.count += pushes
        self.bytes += size
        app_pushes, app_bytes = self._used.get(app, (0, 0))
        app_pushes += pushes
        app_bytes += size
        if app_pushes:
            self._used[app] = (app_pushes, app_bytes)
        else:
            self._used.pop(app, None)

    def waits_for(self, app: str, user: str) -> bool:
        """Tell whether a user has pending pushes. Never switches greenlets."""
        return (app, user) in self._queues

    def deliver(self, app: str, user: str) -> None:
        """Deliver the pending pushes of a user, if the user is online.

        Switches greenlets.
        """
        queue = self._queues.get((app, user))
        if queue is None:
            return
        with queue.turn:
            for number, push in tuple(queue.pushes.items()):
                # Another delivery may have removed the push meanwhile.
                # An expired push is dropped and counted in the next round.
                if number not in queue.pushes or push.until <= self.clock():
                    continue
                outcome = self.to_user(app, user, push.event, push.device)
                if outcome is Outcome.SENT:
                    self._drop(app, queue, number)
                elif push.device is None:
                    # The user is absent, so no later push is sent.
                    break
            # Another queue of the user may have begun since.
            if not queue.pushes and self._queues.get((app, user)) is queue:
                del self._queues[app, user]

    def forget(self, app: str) -> None:
        """Remove all pushes of a deleted app. Never switches greenlets."""
        users = [user for queue_app, user in self._queues if queue_app == app]
        for user in users:
            self._remove(app, user)

    def forget_user(self, app: str, user: str) -> None:
        """Remove all pushes of an erased user, on all nodes.

        Never switches greenlets.
        """
        message = ForgetPending(app, user)
        self._forget_user(message)
        if self.node_messages is not None:
            self.node_messages.broadcast(message)

    def _forget_user(self, message: ForgetPending) -> None:
        """Remove all pushes of an erased user on this node."""
        if (message.app, message.user) in self._queues:
            self._remove(message.app, message.user)

    def _remove(self, app: str, user: str) -> None:
        """Remove the queue of a user, with all its pushes."""
        queue = self._queues.pop((app, user))
        for number in tuple(queue.pushes):
            self._drop(app, queue, number)

    def pass_on(self) -> None:
        """Pass all pushes to nodes that are not stopping. Switches greenlets.

        All pushes of one user go to the same node, so that they keep their
        order.
        """
        node_messages = self.node_messages
        if node_messages is None:
            return
        epochs = [lease.epoch for lease in node_messages.peers() if not lease.draining]
        if not epochs:
            return

        queues = list(self._queues.items())
        next_epochs = itertools.cycle(epochs)
        for ((app, user), queue), epoch in zip(queues, next_epochs, strict=False):
            send = partial(node_messages.send, epoch)
            self._pass_queue(app, user, queue, send)
            gevent.sleep(0)

    def _pass_queue(
        self, app: str, user: str, queue: _Queue, send: Callable[[ToPending], object]
    ) -> None:
        """Pass the pushes of a user to another node, and drop them here.

        ``send`` sends a message to the other node.
        """
        # The remaining time is passed, because clocks of nodes differ.
        for number, push in tuple(queue.pushes.items()):
            seconds = push.until - self.clock()
            if seconds > 0:
                send(ToPending(app, user, push.event, seconds, push.device))
            self._drop(app, queue, number)

    def _add_passed(self, message: ToPending) -> None:
        """Add a push that a node passes on because it stops."""
        self.add(
            message.app, message.user, message.event, message.seconds, message.device
        )

    def run(self) -> None:
        """Greenlet: check once per second whether users have come back.

        It sleeps while there are no pending pushes.
        """
        while True:
            self._filled.wait()
            gevent.sleep(until_beat(LOOK_SECONDS))
            try:
                self.deliver_to_present()
            except Exception:
                logging.getLogger(__name__).exception(
                    "looking for users with pending pushes failed"
                )
            if not self._queues:
                self._filled.clear()

    def deliver_to_present(self) -> None:
        """Drop expired pushes, and deliver to users who are online now.

        :meth:`run` calls it once a second. Switches greenlets.
        """
        if self.clock() >= self._next_expiry:
            self._expire()

        users_of: dict[str, list[str]] = {}
        for app, user in self._queues:
            users_of.setdefault(app, []).append(user)
        for app, users in users_of.items():
            # The users of an app are looked up together, in the whole cluster.
            for start in range(0, len(users), LOOK_USERS):
                self._deliver_to_online(app, users[start : start + LOOK_USERS])

    def _deliver_to_online(self, app: str, users: Sequence[str]) -> None:
        """Deliver the pushes of users who are online. Switches greenlets."""
        are_online = self.presence.are_online(app, users)
        for user, is_online in zip(users, are_online, strict=True):
            if is_online:
                self.deliver(app, user)

    def _expire(self) -> None:
        """Drop the pushes whose time is over, and find the next expiry.

        So all queues are searched only when a push expires.
        """
        now = self.clock()
        next_expiry = float("inf")
        for (app, user), queue in tuple(self._queues.items()):
            for number, push in tuple(queue.pushes.items()):
                if push.until <= now:
                    self._drop(app, queue, number)
                    self.expired += 1
                else:
                    next_expiry = min(next_expiry, push.until)
            # An empty queue would keep its user in all look-ups.
            if not queue.pushes:
                del self._queues[app, user]
        self._next_expiry = next_expiry

    def _drop(self, app: str, queue: _Queue, number: int) -> None:
        """Remove one push, unless another greenlet has removed it."""
        push = queue.pushes.pop(number, None)
        if push is not None:
            self._change_counts(app, pushes=-1, size=-push.size)
