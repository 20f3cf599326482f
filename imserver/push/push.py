"""Pushes: messages of a back end to users, delivered once per message id.

:class:`Pushes` claims ids and reports results. Its ``reach`` delivers: :class:`LocalReach` on this node,
:class:`imserver.push.routing.ClusterReach` on all nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.clock import serve_others
from imserver.hub.fanout import Fanout
from imserver.hub.hub import App, Hub
from imserver.metrics import Metrics
from imserver.model import ACCEPTED, ChannelPart, Event, Outcome
from imserver.push.idempotency import Idempotency

_NOT_SENT, _SENT, _REPEATED = Outcome.NOT_SENT, Outcome.SENT, Outcome.REPEATED
_SETTLED: Final = ACCEPTED | {_REPEATED}
_YIELD_PUSHES: Final = 1024
"""Pushes between two looks at the sockets, 4 to 8 ms. With 256, `bench push --bulk 1000` cost 7 % more."""


class UserPush(Struct, forbid_unknown_fields=True, gc=False):
    """One message to one user, as a row of a batch. A row with ``user`` ``""`` is not sent."""

    user: str = field(default="", name="userID")
    msg_id: str = field(default="", name="msgID")
    text: str = field(default="", name="message")


class Reach(Protocol):
    """Delivers to users. Two implementations: this node, and all nodes. Every call may switch."""

    def to_user_once(self, app: str, user: str, event: Event) -> Outcome:
        """Deliver to one user, unless another node has accepted a push of this id."""

    def to_each_once(self, app: str, pushes: Sequence[UserPush]) -> tuple[list[Outcome], Sequence[int]]:
        """Claim and deliver many pushes, each with its own user and id.

        Returns the outcomes, and the indexes of pushes that were not sent because another push holds their id
        now.
        """

    def to_users(
        self, app: str, users: Sequence[str], event: Event, device: str | None = None
    ) -> list[Outcome]:
        """Deliver one event to each user, to all devices or to one."""

    def to_each(
        self, app: str, users: Sequence[str], events: Iterable[Event], outcomes: list[Outcome]
    ) -> None:
        """Deliver to each user one event of ``events``, in this order.

        Appends each outcome to ``outcomes`` as soon as it is known.
        """

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: tuple[str, ...] = ()
    ) -> Outcome:
        """Deliver to all users of an app except some."""


class Pushes:
    """Claims message ids, delivers through ``reach``, settles the claims. Every call may switch."""

    def __init__(self, ids: Idempotency, reach: Reach, metrics: Metrics) -> None:
        self._ids = ids
        self._reach = reach
        self._metrics = metrics

    def to_user(self, app: str, push: UserPush) -> Outcome:
        """Push of a back end to one user. It names the receiver as its sender, as in the original."""
        user, msg_id = push.user, push.msg_id
        # Claimed on this node only: the reach claims in the cluster, in one query with the lookup.
        key = self._ids.claim(app, msg_id, None, True)
        if key is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if user:
                outcome = self._reach.to_user_once(app, user, Event("msg", user, push.text, msg_id))
        finally:
            self._ids.settle(key, outcome in _SETTLED)
        self._metrics.pushes += outcome is _SENT
        return outcome

    def from_user(self, app: str, sender: str, push: UserPush) -> Outcome:
        """Push of a user to another one."""
        claim = self._ids.claim(app, _id_of_user(sender, push.msg_id))
        if claim is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if push.user:
                event = Event("msg", sender, push.text, push.msg_id)
                outcome = self._reach.to_users(app, [push.user], event)[0]
        finally:
            self._ids.settle(claim, outcome in ACCEPTED)
        self._metrics.pushes += outcome is _SENT
        return outcome

    def to_each(self, app: str, pushes: Sequence[UserPush]) -> list[Outcome]:
        """Push many messages, each with its own user and message id."""
        outcomes, waiting = self._reach.to_each_once(app, pushes)
        self._metrics.pushes += outcomes.count(_SENT)
        # Rare: the same id twice in this call, or in another call at this moment. No claim is held during the
        # wait, so that two calls never wait for each other.
        for index in waiting:
            outcomes[index] = self.to_user(app, pushes[index])
        return outcomes

    def to_app(
        self,
        app: str,
        sender: str,
        msg_id: str,
        text: str,
        by_user: bool = False,
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        """Push to all users of an app except ``sender`` and ``except_users``. ``by_user``: the sender asks,
        not the back end."""
        claim = self._ids.claim(app, _id_of_user(sender, msg_id) if by_user else msg_id)
        if claim is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if sender:
                reached = self._reach.to_app(app, Event("msg", sender, text, msg_id), sender, except_users)
                # It counts as sent if no node is known to have missed it, even if no user is online.
                outcome = reached if reached in (Outcome.PARTLY, Outcome.FAILED) else _SENT
        finally:
            self._ids.settle(claim, outcome in ACCEPTED)
        self._metrics.pushes += outcome in ACCEPTED
        return outcome

    def to_many(self, app: str, users: Sequence[str], msg_id: str, text: str) -> list[Outcome] | None:
        """Push one message to many users. Return None if its id was accepted before.

        The id is claimed once. It is accepted if at least one user was reached.
        """
        claim = self._ids.claim(app, msg_id)
        if claim is None:
            return None
        outcomes: list[Outcome] = []
        try:
            events = (Event("msg", user, text, msg_id) for user in users)
            self._reach.to_each(app, users, events, outcomes)
        finally:
            self._ids.settle(claim, _SENT in outcomes)
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes

    # --- without an id --------------------------------------------------------------------------------------

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        """Send one event to many users: to all their devices, or to one."""
        outcomes = self._reach.to_users(app, users, event, device)
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes

    def reach_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """Send each of many users their own event, in this order."""
        outcomes: list[Outcome] = []
        self._reach.to_each(app, users, events, outcomes)
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes

    def spread(self, app: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        """Send to all users of an app except some."""
        outcome = self._reach.to_app(app, event, "", except_users)
        self._metrics.pushes += outcome in ACCEPTED
        return outcome


def _id_of_user(user: str, msg_id: str) -> str:
    """The name under which the message id of a user is claimed.

    It never equals an id of the back end or of another user: U+0000 is in no id. Otherwise a user could claim
    an id of others, whose push would then count as a repeat.
    """
    return f"{user}\0{msg_id}" if msg_id else ""


class Delivery:
    """Delivers to sessions of this node. Stateless. Returns before anything is written to a socket."""

    def __init__(self, hub: Hub, fanout: Fanout) -> None:
        self._apps = hub.apps
        self._fanout = fanout
        self._named = self._plain = Event("msg", "", "")
        """The last publication of a group, and the push without its channel."""

    def to_user(self, app: str, user: str, event: Event, device: str | None = None) -> int:
        """Deliver to the addressed sessions of a user, or only to those on one device. Return their
        number.

        A session that has subscribed to ``group:<id>``, named by ``event.channel``, or to ``user:<user>``
        receives a publication of that channel instead of a push.
        """
        known = self._apps.get(app)
        if known is None:
            return 0
        if known.channels or event.channel is not None:
            return self._to_subscribers(known, user, event, device)
        if device is not None:
            return self._fanout.to_device(known, user, device, event)
        return self._fanout.to_user(known, user, event)

    def _to_subscribers(self, app: App, user: str, event: Event, device: str | None) -> int:
        own, group, of_group = app.channels.get(f"user:{user}"), None, event
        if event.channel is not None:
            group = app.channels.get(event.channel.name)
            event = self._without_channel(event)
        if own is None and group is None:
            if device is not None:
                return self._fanout.to_device(app, user, device, event)
            return self._fanout.to_user(app, user, event)
        sessions = [each for each in app.sessions_of(user) if device is None or each.device == device]
        for each in sessions:
            sent = event
            if group is not None and each in group.members:
                sent = of_group
            elif own is not None and each in own.members:
                sent = replace(event, channel=ChannelPart(own.name))
            self._fanout.to_connection(app, each, sent)
        return len(sessions)

    def _without_channel(self, event: Event) -> Event:
        """The push for sessions that have not subscribed. The same object for one event, which is encoded
        once."""
        if self._named is not event:
            self._named, self._plain = event, replace(event, channel=None)
        return self._plain

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: Collection[str] = ()
    ) -> int:
        """Deliver to all users of an app except these. Return the number of sessions reached."""
        known = self._apps.get(app)
        return 0 if known is None else self._fanout.to_app(known, event, except_user, except_users)


class LocalReach:
    """See :class:`Reach`; on a node without a cluster."""

    def __init__(self, ids: Idempotency, delivery: Delivery) -> None:
        self._ids = ids
        self._to_user = delivery.to_user
        self._to_app = delivery.to_app

    def to_user_once(self, app: str, user: str, event: Event) -> Outcome:
        return _SENT if self._to_user(app, user, event) else _NOT_SENT

    def to_each_once(self, app: str, pushes: Sequence[UserPush]) -> tuple[list[Outcome], Sequence[int]]:
        # The hot path of every push: names are looked up once per call, not once per target.
        claim, settle, to_user = self._ids.claim, self._ids.settle, self._to_user
        outcomes = []
        for push in pushes:
            user, msg_id = push.user, push.msg_id
            key = claim(app, msg_id)
            if key is None:
                outcomes.append(_REPEATED)
                continue
            sent = False
            try:
                sent = user != "" and to_user(app, user, Event("msg", user, push.text, msg_id)) > 0
            finally:
                settle(key, sent)
            outcomes.append(_SENT if sent else _NOT_SENT)
            if not len(outcomes) % _YIELD_PUSHES:
                serve_others()
        return outcomes, ()

    def to_users(
        self, app: str, users: Sequence[str], event: Event, device: str | None = None
    ) -> list[Outcome]:
        to_user = self._to_user
        outcomes = []
        for user in users:
            outcomes.append(_SENT if user and to_user(app, user, event, device) else _NOT_SENT)
            if not len(outcomes) % _YIELD_PUSHES:
                serve_others()
        return outcomes

    def to_each(
        self, app: str, users: Sequence[str], events: Iterable[Event], outcomes: list[Outcome]
    ) -> None:
        to_user = self._to_user
        for user, event in zip(users, events, strict=True):
            outcomes.append(_SENT if user and to_user(app, user, event) else _NOT_SENT)
            if not len(outcomes) % _YIELD_PUSHES:
                serve_others()

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: tuple[str, ...] = ()
    ) -> Outcome:
        return _SENT if self._to_app(app, event, except_user, except_users) else _NOT_SENT
