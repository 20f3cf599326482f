"""Routing of pushes in a cluster: find the user's nodes, forward, reroute, keep
the order.

Messages from one node to another keep their order. But a user may move to
another node. Then a push on its way to the old node must be rerouted, while a
later push goes directly to the new node. So each push has a number from the
node that sends it. The sending node waits a little after a move
(:class:`ReorderDelay`). The new node drops a rerouted push that a later push
has overtaken (:class:`ReorderGuard`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.clock import retry_pause
from imserver.gateway.cluster.nodes import NodeMessages, ToApp, ToUser
from imserver.gateway.cluster.registry import SessionRef, is_found
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import Hub
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event, Outcome, Service
from imserver.gateway.push.idempotency import (
    CLAIM_SECONDS,
    LOOK_SECONDS,
    Idempotency,
    Waiting,
)
from imserver.gateway.push.push import UserPush
from imserver.gateway.sessions.cluster_sessions import ClusterSessions

if TYPE_CHECKING:
    from imserver.gateway.cluster.redis.registry import RedisRegistry


BATCH_TARGETS = 1000
"""Number of targets looked up together."""
_ORIGIN_BITS: Final = 48
"""Size of the random number that distinguishes the pushes of one node from the
pushes of others."""


class ClusterReach(Service):
    """Delivers to users on all nodes. It finds the nodes of users in the
    registry.

    While the registry does not answer, only users of this node are reached. The
    outcome of other users is then UNKNOWN. If the registry has lost its data,
    the outcome of users whom it does not know is UNKNOWN, too, until all nodes
    have registered their sessions again.
    """

    registry: RedisRegistry
    node_messages: NodeMessages
    hub: Hub
    fanout: Fanout
    ids: Idempotency
    reorder_guard: ReorderGuard
    metrics: Metrics
    _routes: ReorderDelay = field(default_factory=lambda: ReorderDelay())
    _origin: int = field(default_factory=partial(getrandbits, _ORIGIN_BITS))
    _numbers: Iterator[int] = field(default_factory=partial(count, 1))

    # --- the reach ------------------------------------------------------------

    def to_user(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> Outcome:
        """Find the nodes of a user, and deliver to the user there."""
        refs = self.find(app, [user])
        if refs is None:
            return self.push(app, user, event, None, device)
        return self.push(app, user, event, refs[0], device)

    def to_user_once(self, app: str, user: str, event: Event) -> Outcome:
        """Deliver to a user, unless a push with this id was accepted before.

        One query finds the user and claims the id. If another push with this id
        is on its way, this method waits for the outcome of that push.
        """
        if not event.id:
            return self.to_user(app, user, event)

        name = self.ids.name(app, event.id)
        deadline = 0.0
        while True:
            answer = self.registry.find_and_claim(app, user, name)
            if answer is None:
                # The registry does not answer: only this node is reached.
                return self.push(app, user, event, None)
            refs, claim = answer
            if claim.state == "mine":
                break
            if claim.state == "repeat":
                return Outcome.REPEATED
            # Another push of this id is on its way: wait for its outcome.
            deadline = deadline or monotonic() + CLAIM_SECONDS
            if monotonic() > deadline:
                return Outcome.FAILED
            gevent.sleep(LOOK_SECONDS)

        outcome = Outcome.NOT_SENT
        own_epoch = self.registry.lease.epoch
        try:
            if (
                len(refs) == 1
                and refs[0].epoch == own_epoch
                and not self._routes.may_be_elsewhere(app, user)
            ):
                # Most pushes come here. If push() did this, a push with Redis
                # would take 3 % more CPU (measured in six pairs of runs).
                if self.fanout.to_sessions(app, user, event):
                    self.metrics.pushes[app] += 1
                    outcome = Outcome.SENT
                return outcome

            # If the user has just moved, earlier pushes may still be on their
            # way.
            if _are_together(refs):
                epoch = refs[0].epoch
                seconds = self._routes.record_push(app, user, epoch, own_epoch)
                if seconds:
                    gevent.sleep(seconds)
                    # If the registry does not answer, the sessions of the first
                    # look-up are used.
                    (refs,) = self._look_up(app, [user]) or [refs]
            outcome = self.push(app, user, event, refs)
        finally:
            self.registry.settle(claim, outcome == Outcome.SENT)
        return outcome

    def to_each_once(
        self, app: str, pushes: Sequence[UserPush]
    ) -> tuple[list[Outcome], Sequence[int]]:
        """Claim and deliver many pushes, in batches.

        Returns the outcomes, and the indexes of the pushes that were not sent
        because another push has claimed their id.
        """
        outcomes: list[Outcome] = []
        waiting: list[int] = []
        for start in range(0, len(pushes), BATCH_TARGETS):
            batch = pushes[start : start + BATCH_TARGETS]
            for outcome in self._push_batch(app, batch):
                if outcome is None:
                    waiting.append(len(outcomes))
                # The outcome of a push that waits is set later.
                outcomes.append(outcome or Outcome.NOT_SENT)
        return outcomes, waiting

    def _push_batch(self, app: str, pushes: Sequence[UserPush]) -> list[Outcome | None]:
        """Send the pushes of one batch.

        The outcome of a push is None if another push holds its id now. Then the
        push was not sent.
        """
        refs = self.find(app, [push.user for push in pushes])
        # An absent user gets nothing, so the id of such a push is not claimed
        # in the cluster.
        absent: set[int] = set()
        if refs is not None:
            absent.update(index for index, sessions in enumerate(refs) if not sessions)
        # A claim that is neither a number nor Waiting belongs to a repeat.
        outcomes: list[Outcome | None] = [Outcome.REPEATED] * len(pushes)
        ids = [push.msg_id for push in pushes]
        claims = self.ids.claim_each(app, ids, only_here=absent)

        settled = 0  # how many claims need no release any more
        try:
            for index, (push, id_claim) in enumerate(zip(pushes, claims, strict=True)):
                if isinstance(id_claim, Waiting):
                    outcomes[index] = None
                elif isinstance(id_claim, int):
                    event = Event("msg", push.user, push.text, push.msg_id)
                    sessions = None if refs is None else refs[index]
                    outcome = self.push(app, push.user, event, sessions)
                    outcomes[index] = outcome
                    self.ids.settle(id_claim, outcome == Outcome.SENT)
                settled = index + 1
        finally:
            self.ids.release(claims[settled:])
        return outcomes

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
        outcomes: list[Outcome] | None = None,
    ) -> list[Outcome]:
        """Deliver to each user the event of ``events`` at the same index.

        The outcomes are added to the list ``outcomes``, so that the caller has
        the known outcomes after an error.
        """
        if outcomes is None:
            outcomes = []
        next_events = iter(events)
        for start in range(0, len(users), BATCH_TARGETS):
            batch = users[start : start + BATCH_TARGETS]
            refs = self.find(app, batch)
            # The iterator of the events continues in the next batch.
            rows = zip(batch, next_events, strict=False)
            for index, (user, event) in enumerate(rows):
                if not user:
                    outcomes.append(Outcome.NOT_SENT)
                    continue
                sessions = None if refs is None else refs[index]
                outcomes.append(self.push(app, user, event, sessions, device))
        return outcomes

    def to_app(
        self,
        app: str,
        event: Event,
        except_user: str = "",
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        """Deliver to all users of an app on all nodes, except some.

        The outcome is PARTLY if a node does not receive the message.
        """
        reached_here = self.fanout.to_app(app, event, except_user, except_users) > 0
        peer_count = len(self.node_messages.peers())
        message = ToApp(app, except_user, event, except_users)
        failed_count = self.node_messages.broadcast(message)
        if not reached_here and failed_count == peer_count:
            # If there are other nodes, none of them receives the push.
            if failed_count:
                return Outcome.FAILED
            return Outcome.NOT_SENT

        self.metrics.pushes[app] += 1
        if failed_count:
            return Outcome.PARTLY
        return Outcome.SENT

    # --- finding and sending --------------------------------------------------

    def find(
        self, app: str, users: Sequence[str]
    ) -> list[tuple[SessionRef, ...]] | None:
        """Find the sessions of each user.

        If a user has just moved to another node, this waits a short time first,
        so that pushes keep their order. Returns None if the registry does not
        answer. May switch greenlets.
        """
        refs = self._look_up(app, users)
        own_epoch = self.node_messages.own_epoch
        longest = 0.0
        for user, sessions in zip(users, refs or (), strict=False):
            if _are_together(sessions):
                epoch = sessions[0].epoch
                seconds = self._routes.record_push(app, user, epoch, own_epoch)
                longest = max(longest, seconds)
        if not longest:
            return refs

        # During this time earlier pushes are rerouted. Other users may move
        # during it, so the sessions are looked up again.
        gevent.sleep(longest)
        return self._look_up(app, users)

    def _look_up(
        self, app: str, users: Sequence[str]
    ) -> list[tuple[SessionRef, ...]] | None:
        """Look up the sessions of each user; the user ``""`` has no sessions.

        Returns None if the registry does not answer.
        """
        named = [user for user in users if user]
        if not named:
            return [()] * len(users)
        refs = self.registry.find(app, named)
        if refs is None:
            return None
        next_refs = iter(refs)
        return [next(next_refs) if user else () for user in users]

    def push(
        self,
        app: str,
        user: str,
        event: Event,
        refs: tuple[SessionRef, ...] | None,
        device: str | None = None,
    ) -> Outcome:
        """Deliver a push to the nodes of a user, or to one device of the user.

        ``refs`` are the sessions that the registry knows. None means that the
        registry does not answer.

        After a flush of Redis or a lost lease, the registry may lack sessions
        of a user. They may be on this node, or on a node that has not
        registered all its sessions yet (an *unsure* node here). If the push is
        sent at all, such nodes get it, too, because each of them may have the
        user.

        The outcome is SENT if a node gets the push, FAILED if no node of the
        user gets it, UNKNOWN if the user may be on a node that did not get it,
        and NOT_SENT if the user is not online.
        """
        # The reorder guards of all nodes compare these numbers.
        number = next(self._numbers)
        own_epoch = self.registry.lease.epoch
        if (
            refs is not None
            and len(refs) == 1
            and refs[0].epoch == own_epoch
            and device is None
        ):
            # Most pushes: one session, on this node.
            if not self.fanout.to_sessions(app, user, event):
                return Outcome.NOT_SENT
            if self._routes.may_be_elsewhere(app, user):
                self.reorder_guard.reached(app, user, self._origin, number)
            self.metrics.pushes[app] += 1
            return Outcome.SENT

        epochs = _epochs_with(refs, device)
        unsure_epochs = _unsure_epochs(refs)
        may_be_here = (
            own_epoch in epochs
            or refs is None
            or not is_found(refs)
            or self._has_unregistered(app, user)
        )
        reached = 0
        if may_be_here and self.fanout.to_sessions(app, user, event, device):
            reached = 1
            self.reorder_guard.reached(app, user, self._origin, number)

        if epochs or reached:
            # The push is sent, so it goes to the unsure nodes, too.
            epochs |= unsure_epochs
        others = epochs - {own_epoch}
        if others:
            # A node may forward a push only if no other node has the push.
            # Otherwise the user could get the push twice.
            alone = len(epochs) == 1 and not unsure_epochs
            # 0 means that the push was not rerouted yet.
            item = ToUser(app, user, event, 0, alone, self._origin, number, device)
            reached += self._send_each(others, item)

        if reached:
            self.metrics.pushes[app] += 1
            return Outcome.SENT
        # The outcome is UNKNOWN even if there are no other nodes now, because a
        # node that is just starting may already serve users.
        if refs is None or unsure_epochs:
            return Outcome.UNKNOWN
        if others:
            return Outcome.FAILED
        return Outcome.NOT_SENT

    def _has_unregistered(self, app: str, user: str) -> bool:
        """Tell whether the user has a session here that the registry does not
        know."""
        for connection in self.hub.sessions_of(app, user):
            session = connection.session
            if session is not None and not self.registry.registered(session):
                return True
        return False

    def _send_each(self, epochs: Iterable[int], item: ToUser) -> int:
        """Send a push to other nodes.

        Returns the number of nodes to which it was sent.
        """
        sent = 0
        for epoch in epochs:
            if item.device is not None:
                # A push to a device is rerouted if the device moves, even if
                # the user has other devices elsewhere. So its node is recorded
                # here; find() records only users whose sessions are together.
                self._routes.record_push(item.app, item.user, epoch)
            sent += self.node_messages.send(epoch, item)
        return sent


def _epochs_with(refs: tuple[SessionRef, ...] | None, device: str | None) -> set[int]:
    """Return the nodes that have sessions of a user, by their epochs.

    If ``device`` is not None, only sessions on this device count.
    """
    return {
        ref.epoch
        for ref in refs or ()
        if ref.id and (device is None or ref.device == device)
    }


def _unsure_epochs(refs: tuple[SessionRef, ...] | None) -> set[int]:
    """Return the nodes that may have sessions which the registry does not know.

    Such an entry has the ``SessionRef.id`` 0.
    """
    return {ref.epoch for ref in refs or () if not ref.id}


def _are_together(refs: tuple[SessionRef, ...]) -> bool:
    """Tell whether a user's sessions are all on one node.

    Only then is a push rerouted if it does not find the user there.
    """
    if len(refs) <= 1:
        return len(refs) == 1
    first_epoch = refs[0].epoch
    return all(ref.epoch == first_epoch for ref in refs)


MAX_HOPS = 3
"""Limit of the number of reroutings of a push."""
MAX_REROUTED = 10_000
"""Limit of the pushes on a node that wait to find their users."""
_LOGIN_LOOKS: Final = 100
_LOGIN_LOOK_SECONDS: Final = 0.01
"""Time between two checks whether a login that waits for the registry has
ended. After :data:`_LOGIN_LOOKS` checks, the user is looked for elsewhere."""
_FIRST_LOOK_SECONDS: Final = 0.02
_LONGEST_LOOK_SECONDS: Final = 0.1
"""The shortest and the longest pause between two look-ups of a user who is
nowhere."""
RETURN_SECONDS: Final = 3.0
"""How long pushes wait on a node that drains. In this time the users whose
connections the node has closed come back on other nodes."""


class Rerouting(Service):
    """Delivers pushes of other nodes, and reroutes pushes whose user has moved.

    Between the look-up and the arrival of a push, its user may have logged in
    on another node, or a login here may still wait for the registry. Such a
    push waits in the queue of its user. When a login here ends, the push is
    delivered here. Otherwise it is forwarded to the user's node, in the order
    of arrival.
    """

    registry: RedisRegistry
    node_messages: NodeMessages
    fanout: Fanout
    sessions: ClusterSessions
    reorder_guard: ReorderGuard
    _queues: dict[tuple[str, str], deque[ToUser]] = field(default_factory=dict)
    _count: int = 0
    rerouted: int = 0
    """Number of pushes forwarded to the node to which their user had moved."""
    unreached: int = 0
    """Number of accepted pushes that reached nobody. Overtaken pushes
    count, too."""
    _on_unreached: list[Callable[[str, str, Event], object]] = field(
        default_factory=list
    )
    patience: float = 0.0
    """How many seconds a push waits for a user who is on no node. While this
    node drains, the value is :data:`RETURN_SECONDS`.
    :class:`imserver.gateway.core.network.Draining` sets it."""

    def report_to(self, unreached: Callable[[str, str, Event], object]) -> None:
        """Call a function for each push whose user was found on no node.

        The function is called only if no other node has the push. Its arguments
        are the app, the user and the event. It must not switch greenlets.
        """
        self._on_unreached.append(unreached)

    @property
    def waiting(self) -> int:
        """The number of pushes that wait to find their users."""
        return self._count

    def deliver(self, item: ToUser) -> None:
        """Deliver a push of another node to a user of this node.

        If pushes to the same user wait, or the user is not here, the push is
        queued. Never switches greenlets.
        """
        queue = self._queues.get((item.app, item.user))
        if queue is None and self._deliver_here(item):
            return
        # Too many pushes wait already, so this push is dropped.
        if self._count >= MAX_REROUTED:
            self.unreached += 1
            return
        self._count += 1
        if queue is not None:
            queue.append(item)
            return
        self._queues[item.app, item.user] = deque([item])
        gevent.spawn(self._serve_queue, item.app, item.user)

    def _deliver_here(self, item: ToUser) -> bool:
        """Deliver a push, or drop it if a later push has overtaken it.

        Returns False if the user is not here. Never switches greenlets.
        """
        app = item.app
        user = item.user
        # Only a rerouted push can be overtaken.
        if item.hops and self.reorder_guard.is_overtaken(
            app, user, item.origin, item.number
        ):
            self.unreached += 1
            return True
        if not self.fanout.to_sessions(app, user, item.event, item.device):
            return False
        self.reorder_guard.reached(app, user, item.origin, item.number)
        return True

    def _serve_queue(self, app: str, user: str) -> None:
        """Greenlet: deliver or forward the pushes to one user, until none
        waits.

        The pushes are sent one by one, so that they keep their order. While
        this node drains, a push waits ``patience`` seconds for its user to
        come back.
        """
        queue = self._queues[app, user]
        until = monotonic() + self.patience
        try:
            while queue:
                item = queue[0]
                if not self._deliver_or_forward(item, until):
                    self._report_unreached(item)
                # The push is removed only now, because a new push must wait
                # behind it until it is sent.
                queue.popleft()
                self._count -= 1
        except Exception:
            logging.getLogger(__name__).exception(
                "rerouting pushes of %s in %s failed", user, app
            )
            self.unreached += len(queue)
            self._count -= len(queue)
        finally:
            del self._queues[app, user]

    def _report_unreached(self, item: ToUser) -> None:
        """Count a push that did not reach its user, and report it.

        If the push went to other nodes, too, it is not reported.
        """
        self.unreached += 1
        if item.alone:
            for call in self._on_unreached:
                call(item.app, item.user, item.event)

    def _deliver_or_forward(self, item: ToUser, until: float) -> bool:
        """Deliver one push here, or forward it to the node of its user.

        The user may log in until the monotonic time ``until``. Returns False if
        the user was not found, or the push must not be forwarded. Switches
        greenlets.
        """
        if self._deliver_after_login(item):
            return True

        looks = 0
        while True:
            refs = self.registry.find(item.app, [item.user])
            # The user may have logged in here during the look-up.
            if self._deliver_here(item):
                return True
            if refs is None or not item.alone or item.hops >= MAX_HOPS:
                return False
            epochs = {ref.epoch for ref in refs[0]} - {self.node_messages.own_epoch}
            if epochs or monotonic() >= until:
                break
            looks += 1
            gevent.sleep(retry_pause(looks, _FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS))

        return self._forward(item, epochs)

    def _forward(self, item: ToUser, epochs: Collection[int]) -> bool:
        """Forward one push to the nodes that have its user now.

        Returns whether at least one node gets it.
        """
        onward = replace(item, hops=item.hops + 1, alone=len(epochs) == 1)
        sent = sum(self.node_messages.send(epoch, onward) for epoch in epochs)
        self.rerouted += sent > 0
        return sent > 0

    def _deliver_after_login(self, item: ToUser) -> bool:
        """Deliver one push here, after a login of its user has ended.

        Returns False if the user is not here. May switch greenlets.
        """
        for _ in range(_LOGIN_LOOKS):
            if self._deliver_here(item):
                return True
            if not self.sessions.is_beginning(item.app, item.user):
                return False
            gevent.sleep(_LOGIN_LOOK_SECONDS)
        return False


REROUTE_SECONDS = 0.05
"""Time for rerouting pushes that are on their way to the user's old node."""
ARRIVED_SECONDS = 1.0
"""Age at which a push has certainly arrived."""
MAX_ROUTES = 10_000
"""Limit of the number of users whose last node is remembered."""
GUARD_SECONDS = 10.0
"""Time after a login in which rerouted pushes may arrive."""


class ReorderDelay(Service):
    """Delays a push if its user has just moved to another node.

    For the most recent users of other nodes, this object remembers to which
    node this node has sent the last push. A push to a user of this node is
    delivered at once, so no later push waits for it.
    """

    _clock: Callable[[], float] = monotonic
    _routes: dict[tuple[str, str], tuple[int, float, float]] = field(
        default_factory=dict
    )
    """App and user → the epoch of the node, the time of the last push, and the
    end of the wait. The end is 0 if pushes need not wait. The oldest push comes
    first."""

    def record_push(self, app: str, user: str, epoch: int, own: int = 0) -> float:
        """Record a push to a node, and return how many seconds it must wait.

        ``epoch`` is the epoch of that node, and ``own`` the epoch of this node.
        If ``own`` is 0, the push is recorded in any case. Never switches
        greenlets.
        """
        if epoch == own and (app, user) not in self._routes:
            return 0.0

        now = self._clock()
        route = self._routes.pop((app, user), None)
        until = 0.0
        if route is not None:
            last_epoch, sent_at, until = route
            has_moved = last_epoch != epoch
            # An earlier push may not have arrived at the former node yet.
            if has_moved and now < max(sent_at, until) + ARRIVED_SECONDS:
                until = now + REROUTE_SECONDS
        elif len(self._routes) >= MAX_ROUTES:
            oldest = next(iter(self._routes))
            del self._routes[oldest]
        self._routes[app, user] = (epoch, now, until)
        return max(until - now, 0.0)

    def may_be_elsewhere(self, app: str, user: str) -> bool:
        """Tell whether an earlier push may be on its way to another node."""
        # A full table may have forgotten the user.
        return (app, user) in self._routes or len(self._routes) >= MAX_ROUTES


class _Guard(Struct, gc=False):
    """The guard of a user who has logged in.

    ``until`` is the time at which the guard ends. ``numbers`` has, for each
    origin, the number of the last push that has reached the user.
    """

    until: float = 0.0
    numbers: dict[int, int] = field(default_factory=dict)


class ReorderGuard(Service):
    """Drops rerouted pushes that a later push has overtaken.

    The guard remembers recent logins on this node, and the pushes that were
    delivered to these users. ``origin`` identifies the node that sent a push,
    and ``number`` counts the pushes of that node. Never switches greenlets.
    """

    _hub: Hub
    _clock: Callable[[], float] = monotonic
    _guards: dict[tuple[str, str], _Guard] = field(default_factory=dict)
    _ends: deque[tuple[float, tuple[str, str]]] = field(default_factory=deque)
    """When the guard of each login ends."""

    def logged_in(self, app: str, user: str) -> None:
        """Begin to guard a user, because a session of the user has begun here.

        Guards that have ended are dropped.
        """
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, ended = self._ends.popleft()
            guard = self._guards.get(ended)
            # A later login of the user may have made the guard longer.
            if guard is not None and guard.until <= now:
                del self._guards[ended]

        until = now + GUARD_SECONDS
        self._ends.append((until, (app, user)))
        guard = self._guards.setdefault((app, user), _Guard())
        guard.until = until

    def reached(self, app: str, user: str, origin: int, number: int) -> None:
        """Record that a push has reached the user on this node."""
        guard = self._guards.get((app, user))
        if guard is not None:
            guard.numbers[origin] = number

    def is_overtaken(self, app: str, user: str, origin: int, number: int) -> bool:
        """Tell whether a later push of the same origin has reached the user
        here.

        If the user is not guarded any more, a later push may have reached the
        user. The result is then True.
        """
        if not self._hub.is_online(app, user):
            return False
        guard = self._guards.get((app, user))
        return (
            guard is None
            or guard.until < self._clock()
            or guard.numbers.get(origin, 0) >= number
        )
