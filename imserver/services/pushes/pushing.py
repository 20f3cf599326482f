"""Pushing: a message from a back end to users, accepted once per message id, with what became of it.

:class:`LocalPushes` serves a node that is alone; ``services.cluster_pushes`` does the same for many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Protocol

import gevent
from msgspec import Struct, field

from imserver.metrics import Metrics
from imserver.model import Event
from imserver.services.pushes.dedupe import Dedupe

YIELD_TARGETS = 256
"""Targets of a large push that are served between two looks at the event loop."""


class Outcome(IntEnum):
    """What became of a push to one target."""

    NOT_SENT = 0
    """Nobody was there to receive it; its message id may be used again."""
    SENT = 1
    REPEATED = 2
    """The message id was accepted before; nothing was delivered again."""
    FAILED = 3
    """The user is on another node, which is known not to have got it; the message id may be used again."""
    PARTLY = 4
    """To all of an app or a room: a node is known not to have got it, the others have it."""
    HELD = 5
    """Nobody was there; it is kept, and delivered at a login in time."""
    STORED = 6
    """It is in the message log: who takes part in that is told, whoever is away when they come."""


_NOT_SENT, _SENT, _REPEATED = Outcome.NOT_SENT, Outcome.SENT, Outcome.REPEATED


class Target(Struct, forbid_unknown_fields=True, gc=False):
    """One message to one user, as it stands in a batch; ``user`` may be ``""``, then nobody receives it."""

    user: str = field(default="", name="userID")
    msg_id: str = field(default="", name="msgID")
    text: str = field(default="", name="message")


class Pushes(Protocol):
    """What the API asks. Every call may switch to other greenlets."""

    def to_user(self, app: str, target: Target) -> Outcome:
        """Push to one user."""

    def to_app(self, app: str, sender: str, msg_id: str, text: str) -> Outcome:
        """Push to all users of an app but ``sender``."""

    def to_each(self, app: str, targets: Sequence[Target]) -> list[Outcome]:
        """Push many messages, each with its own user and message id."""

    def to_many(self, app: str, users: Sequence[str], msg_id: str, text: str) -> list[Outcome] | None:
        """Push one message to many users; None if its id was accepted before.

        The id is claimed once, and accepted when anybody was reached.
        """

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        """Tell many users the same, whatever its id: on all their devices, or on one."""

    def reach_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """Tell each of many users something of their own, in this order, whatever the ids."""

    def spread(self, app: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        """Tell all users of an app but some, whatever its id."""


class Delivers(Protocol):
    """What delivers; :class:`imserver.services.pushes.delivery.Delivery` does it."""

    def to_user(self, app: str, user: str, event: Event, device: str | None = None) -> int:
        """Deliver to one user, or to one of their devices; the number of connections reached."""

    def to_app(
        self, app: str, event: Event, except_user: str = "", except_users: Collection[str] = ()
    ) -> int:
        """Deliver to the users of an app; the number of connections reached."""


class LocalPushes:
    """Pushes of a node that is alone."""

    def __init__(self, dedupe: Dedupe, delivery: Delivers, metrics: Metrics) -> None:
        self._dedupe = dedupe
        self._to_user = delivery.to_user
        self._to_app = delivery.to_app
        self._metrics = metrics

    def to_user(self, app: str, target: Target) -> Outcome:
        """See :class:`Pushes`."""
        user, msg_id = target.user, target.msg_id
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return _REPEATED
        sent = False
        try:
            sent = user != "" and self._to_user(app, user, Event("msg", user, target.text, msg_id)) > 0
        finally:
            self._dedupe.settle(key, sent)
        self._metrics.pushes += sent
        return _SENT if sent else _NOT_SENT

    def to_app(self, app: str, sender: str, msg_id: str, text: str) -> Outcome:
        """See :class:`Pushes`."""
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return Outcome.REPEATED
        sent = False
        try:
            if sender:
                self._to_app(app, Event("msg", sender, text, msg_id), sender)
                sent = True
        finally:
            self._dedupe.settle(key, sent)
        self._metrics.pushes += sent
        return Outcome.SENT if sent else Outcome.NOT_SENT

    def to_each(self, app: str, targets: Sequence[Target]) -> list[Outcome]:
        """See :class:`Pushes`."""
        # The hot path of every push: what a name costs to look up is paid once a call, not once a target.
        claim, settle, to_user = self._dedupe.claim, self._dedupe.settle, self._to_user
        outcomes = []
        sent_count = 0
        for target in targets:
            user, msg_id = target.user, target.msg_id
            key = claim(app, msg_id)
            if key is None:
                outcomes.append(_REPEATED)
                continue
            sent = False
            try:
                sent = user != "" and to_user(app, user, Event("msg", user, target.text, msg_id)) > 0
            finally:
                settle(key, sent)
            sent_count += sent
            outcomes.append(_SENT if sent else _NOT_SENT)
            if not len(outcomes) % YIELD_TARGETS:
                gevent.sleep(0)
        self._metrics.pushes += sent_count
        return outcomes

    def to_many(self, app: str, users: Sequence[str], msg_id: str, text: str) -> list[Outcome] | None:
        """See :class:`Pushes`."""
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return None
        outcomes: list[Outcome] = []
        sent = 0
        try:
            for number, user in enumerate(users, 1):
                reached = user != "" and self._to_user(app, user, Event("msg", user, text, msg_id)) > 0
                sent += reached
                outcomes.append(Outcome.SENT if reached else Outcome.NOT_SENT)
                if not number % YIELD_TARGETS:
                    gevent.sleep(0)
        finally:
            self._dedupe.settle(key, sent > 0)
        self._metrics.pushes += sent
        return outcomes

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        """See :class:`Pushes`."""
        to_user = self._to_user
        outcomes: list[Outcome] = []
        for user in users:
            reached = to_user(app, user, event) if device is None else to_user(app, user, event, device)
            outcomes.append(_SENT if reached else _NOT_SENT)
            if not len(outcomes) % YIELD_TARGETS:
                gevent.sleep(0)
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes

    def reach_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """See :class:`Pushes`."""
        to_user = self._to_user
        outcomes: list[Outcome] = []
        for user, event in zip(users, events, strict=True):
            outcomes.append(_SENT if to_user(app, user, event) else _NOT_SENT)
            if not len(outcomes) % YIELD_TARGETS:
                gevent.sleep(0)
        self._metrics.pushes += outcomes.count(_SENT)
        return outcomes

    def spread(self, app: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        """See :class:`Pushes`."""
        sent = self._to_app(app, event, "", except_users) > 0
        self._metrics.pushes += sent
        return _SENT if sent else _NOT_SENT
