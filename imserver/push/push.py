"""Pushes: messages of a back end to users, delivered once per message id.

:class:`Pushes` claims ids. A :class:`Reach` delivers: :class:`LocalReach` on this node,
:class:`imserver.push.routing.ClusterReach` on all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct, field

from imserver.clock import serve_others
from imserver.hub.fanout import Fanout
from imserver.metrics import Metrics
from imserver.model import ACCEPTED, Event, Outcome
from imserver.push.idempotency import MessageIds

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
    """Delivers to users. Two implementations: this node, and all nodes. Every call may switch.

    The pushes that were sent are counted here.
    """

    def to_user(self, app: str, user: str, event: Event, device: str | None = None) -> Outcome:
        """Deliver to one user, to all devices or to one."""

    def to_user_once(self, app: str, user: str, event: Event) -> Outcome:
        """Deliver to one user, unless another node has accepted a push of this id."""

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
        outcomes: list[Outcome] | None = None,
    ) -> list[Outcome]:
        """Deliver to each user one event of ``events``, in this order, to all devices or to one.

        Returns the outcomes. If it fails, those that are known are in ``outcomes``, an empty list.
        """

    def to_each_once(self, app: str, pushes: Sequence[UserPush]) -> tuple[list[Outcome], Sequence[int]]:
        """Claim and deliver many pushes, each with its own user and id.

        Returns the outcomes, and the indexes of pushes that were not sent because another push holds their id
        now.
        """

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: tuple[str, ...] = ()
    ) -> Outcome:
        """Deliver to all users of an app except some."""


class Pushes:
    """Pushes with message ids: claims the id, delivers through ``reach``, settles the claim. Every call may
    switch."""

    def __init__(self, ids: MessageIds, reach: Reach, metrics: Metrics) -> None:
        self._ids = ids
        self._dedupe = ids.dedupe
        self._reach = reach
        self._metrics = metrics

    def to_user(self, app: str, push: UserPush) -> Outcome:
        """Push of a back end to one user. It names the receiver as its sender, as in the original."""
        user, msg_id = push.user, push.msg_id
        # Claimed on this node only: the reach claims in the cluster, in one query with the lookup.
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if user:
                outcome = self._reach.to_user_once(app, user, Event("msg", user, push.text, msg_id))
        finally:
            self._dedupe.settle(key, outcome in _SETTLED)
        return outcome

    def from_user(self, app: str, sender: str, push: UserPush) -> Outcome:
        """Push of a user to another one."""
        claim = self._ids.begin(app, _id_of_user(sender, push.msg_id))
        if claim is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if push.user:
                event = Event("msg", sender, push.text, push.msg_id)
                outcome = self._reach.to_user(app, push.user, event)
        finally:
            self._ids.end(claim, outcome in ACCEPTED)
        return outcome

    def to_each(self, app: str, pushes: Sequence[UserPush]) -> list[Outcome]:
        """Push many messages, each with its own user and message id."""
        outcomes, waiting = self._reach.to_each_once(app, pushes)
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
        claim = self._ids.begin(app, _id_of_user(sender, msg_id) if by_user else msg_id)
        if claim is None:
            return _REPEATED
        outcome = _NOT_SENT
        try:
            if sender:
                event = Event("msg", sender, text, msg_id)
                outcome = self._reach.to_app(app, event, sender, except_users)
                if outcome is _NOT_SENT:
                    # It counts as sent if no node is known to have missed it, even if no user is online.
                    outcome = _SENT
                    self._metrics.pushes += 1
        finally:
            self._ids.end(claim, outcome in ACCEPTED)
        return outcome

    def to_many(self, app: str, users: Sequence[str], msg_id: str, text: str) -> list[Outcome] | None:
        """Push one message to many users. Return None if its id was accepted before.

        The id is claimed once. It is accepted if at least one user was reached.
        """
        claim = self._ids.begin(app, msg_id)
        if claim is None:
            return None
        outcomes: list[Outcome] = []
        try:
            events = (Event("msg", user, text, msg_id) for user in users)
            self._reach.to_each(app, users, events, outcomes=outcomes)
        finally:
            self._ids.end(claim, _SENT in outcomes)
        return outcomes


def _id_of_user(user: str, msg_id: str) -> str:
    """The name under which the message id of a user is claimed.

    It never equals an id of the back end or of another user: U+0000 is in no id. Otherwise a user could claim
    an id of others, whose push would then count as a repeat.
    """
    return f"{user}\0{msg_id}" if msg_id else ""


class LocalReach:
    """See :class:`Reach`; on a node without a cluster."""

    def __init__(self, ids: MessageIds, fanout: Fanout, metrics: Metrics) -> None:
        self._dedupe = ids.dedupe
        self._to_user = fanout.to_user
        self._to_app = fanout.to_app
        self._metrics = metrics

    def to_user(self, app: str, user: str, event: Event, device: str | None = None) -> Outcome:
        if not self._to_user(app, user, event, device):
            return _NOT_SENT
        self._metrics.pushes += 1
        return _SENT

    to_user_once = to_user  # no other node has accepted its id

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
        outcomes: list[Outcome] | None = None,
    ) -> list[Outcome]:
        # Names are looked up once per call, not once per user. So in to_each_once().
        to_user = self._to_user
        found: list[Outcome] = [] if outcomes is None else outcomes
        for user, event in zip(users, events, strict=False):
            found.append(_SENT if user and to_user(app, user, event, device) else _NOT_SENT)
            if not len(found) % _YIELD_PUSHES:
                serve_others()
        self._metrics.pushes += found.count(_SENT)
        return found

    def to_each_once(self, app: str, pushes: Sequence[UserPush]) -> tuple[list[Outcome], Sequence[int]]:
        claim, settle, to_user = self._dedupe.claim, self._dedupe.settle, self._to_user
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
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes, ()

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: tuple[str, ...] = ()
    ) -> Outcome:
        if not self._to_app(app, event, except_user, except_users):
            return _NOT_SENT
        self._metrics.pushes += 1
        return _SENT
