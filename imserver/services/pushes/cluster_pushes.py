"""Pushes of a node among others: one look into the registry says where a user is and if the id is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from imserver.cluster.registry import Claim, SessionRef
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.model import Event
from imserver.services.nodes.messages import NodeMessages, ToApp
from imserver.services.pushes.dedupe import Dedupe
from imserver.services.pushes.pushing import Delivers, Outcome, Target
from imserver.services.pushes.routing import ReorderGuard, Router

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry

CLAIM_SECONDS = 10.0
"""How long a repeat waits for the outcome of the same message id on another node."""
_LOOK_SECONDS = 0.05
BATCH_TARGETS = 1000
"""Targets that are looked up together."""


class ClusterPushes:
    """See :class:`imserver.services.pushes.pushing.Pushes`.

    Repeats on this node are found in its own memory first. While the registry is away, users of this node are
    reached, and message ids are known on this node only.
    """

    def __init__(
        self,
        registry: RedisRegistry,
        node_messages: NodeMessages,
        hub: Hub,
        delivery: Delivers,
        dedupe: Dedupe,
        metrics: Metrics,
        reorder_guard: ReorderGuard,
    ) -> None:
        self._registry = registry
        self._node_messages = node_messages
        self._delivery = delivery
        self._dedupe = dedupe
        self._metrics = metrics
        self._router = Router(registry, node_messages, hub, delivery, reorder_guard)

    def to_user(self, app: str, target: Target) -> Outcome:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        outcome = self._to_user(app, target)
        self._metrics.pushes += outcome == Outcome.SENT
        return outcome

    def _to_user(self, app: str, target: Target) -> Outcome:
        key = self._dedupe.claim(app, target.msg_id)
        if key is None:
            return Outcome.REPEATED
        outcome = Outcome.NOT_SENT
        try:
            if target.user:
                outcome = self._find_and_push(app, target)
        finally:
            self._dedupe.settle(key, outcome in (Outcome.SENT, Outcome.REPEATED))
        return outcome

    def _find_and_push(self, app: str, target: Target) -> Outcome:
        event = Event("msg", target.user, target.text, target.msg_id)
        if not target.msg_id:
            found = self._router.find(app, [target.user])
            return self._router.push(app, target.user, event, None if found is None else found[0])
        deadline = monotonic() + CLAIM_SECONDS
        while True:
            answer = self._registry.find_and_claim(app, target.user, self._key(app, target.msg_id))
            if answer is None:
                return self._router.push(app, target.user, event, None)
            refs, claim = answer
            if claim.state == "mine":
                return self._push_claimed(app, target.user, event, refs, claim)
            if claim.state == "repeat" or monotonic() > deadline:
                return Outcome.REPEATED
            gevent.sleep(_LOOK_SECONDS)

    def _push_claimed(
        self, app: str, user: str, event: Event, refs: tuple[SessionRef, ...], claim: Claim
    ) -> Outcome:
        outcome = Outcome.NOT_SENT
        try:
            if self._router.wait_for_rerouting(app, [(user, refs)]):
                refs = (self._router.look_up(app, [user]) or [refs])[0]
            outcome = self._router.push(app, user, event, refs)
        finally:
            self._registry.settle(claim, outcome == Outcome.SENT)
        return outcome

    def to_app(self, app: str, sender: str, msg_id: str, text: str) -> Outcome:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return Outcome.REPEATED
        outcome = Outcome.NOT_SENT
        claim: Claim | None = None
        try:
            if sender:
                claim = self._claim(app, msg_id)
                if claim is None or claim.state == "mine":
                    outcome = self._to_all(app, sender, Event("msg", sender, text, msg_id))
                else:
                    outcome = Outcome.REPEATED
        finally:
            self._settle(claim, outcome)
            self._dedupe.settle(key, outcome in (Outcome.SENT, Outcome.PARTLY, Outcome.REPEATED))
        self._metrics.pushes += outcome in (Outcome.SENT, Outcome.PARTLY)
        return outcome

    def _to_all(self, app: str, sender: str, event: Event) -> Outcome:
        self._delivery.to_app(app, event, sender)
        failed = self._node_messages.broadcast(ToApp(app, sender, event))
        return Outcome.PARTLY if failed else Outcome.SENT

    def _claim(self, app: str, msg_id: str) -> Claim | None:
        """Claim an id in the cluster, waiting for the outcome of whoever holds it. None: nothing to claim."""
        deadline = monotonic() + CLAIM_SECONDS
        while msg_id:
            claims = self._registry.claim([self._key(app, msg_id)])
            if claims is None:
                return None
            if claims[0].state != "pending" or monotonic() > deadline:
                return claims[0]
            gevent.sleep(_LOOK_SECONDS)
        return None

    def _settle(self, claim: Claim | None, outcome: Outcome) -> None:
        if claim is not None and claim.state == "mine":
            self._registry.settle(claim, outcome in (Outcome.SENT, Outcome.PARTLY))

    def _key(self, app: str, msg_id: str) -> str:
        return msg_id if self._dedupe.shared else f"{app}:{msg_id}"

    # --- many at once ---------------------------------------------------------------------------------------

    def to_each(self, app: str, targets: Sequence[Target]) -> list[Outcome]:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        outcomes: list[Outcome] = []
        for start in range(0, len(targets), BATCH_TARGETS):
            outcomes += self._batch(app, targets[start : start + BATCH_TARGETS])
        self._metrics.pushes += sum(outcome == Outcome.SENT for outcome in outcomes)
        return outcomes

    def _batch(self, app: str, targets: Sequence[Target]) -> list[Outcome]:
        outcomes = [Outcome.REPEATED] * len(targets)
        keys: dict[int, int] = {}
        later: list[int] = []
        for index, target in enumerate(targets):
            if self._dedupe.is_claimed(app, target.msg_id):
                later.append(index)
            elif (key := self._dedupe.claim(app, target.msg_id)) is not None:
                keys[index] = key
                outcomes[index] = Outcome.NOT_SENT
        later += self._push_each(app, targets, keys, outcomes)
        # Rare: an id twice in this batch, or in another one at this moment. Nothing is held while it is
        # waited for, so that no two batches wait for each other.
        for index in later:
            outcomes[index] = self._to_user(app, targets[index])
        return outcomes

    def _push_each(
        self, app: str, targets: Sequence[Target], keys: dict[int, int], outcomes: list[Outcome]
    ) -> list[int]:
        """Push those that have a key; returns which of them another node is pushing."""
        claims: dict[int, Claim] = {}
        pending = []
        try:
            refs = self._router.find(app, [target.user for target in targets])
            wanted = [index for index in keys if targets[index].msg_id and (refs is None or refs[index])]
            asked = [self._key(app, targets[index].msg_id) for index in wanted]
            claims = dict(zip(wanted, (self._registry.claim(asked) or ()) if asked else (), strict=False))
            for index in keys:
                state = claims[index].state if index in claims else "mine"
                if state == "mine":
                    target = targets[index]
                    event = Event("msg", target.user, target.text, target.msg_id)
                    where = None if refs is None else refs[index]
                    outcomes[index] = self._router.push(app, target.user, event, where)
                elif state == "pending":
                    pending.append(index)
                else:
                    outcomes[index] = Outcome.REPEATED
        finally:
            for index, key in keys.items():
                self._settle(claims.get(index), outcomes[index])
                self._dedupe.settle(key, outcomes[index] in (Outcome.SENT, Outcome.REPEATED))
        return pending

    def to_many(self, app: str, users: Sequence[str], msg_id: str, text: str) -> list[Outcome] | None:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        key = self._dedupe.claim(app, msg_id)
        if key is None:
            return None
        outcomes: list[Outcome] = []
        claim: Claim | None = None
        repeated = False
        try:
            claim = self._claim(app, msg_id)
            repeated = claim is not None and claim.state != "mine"
            for start in range(0, 0 if repeated else len(users), BATCH_TARGETS):
                batch = users[start : start + BATCH_TARGETS]
                refs = self._router.find(app, batch)
                for index, user in enumerate(batch):
                    event = Event("msg", user, text, msg_id)
                    where = None if refs is None else refs[index]
                    outcomes.append(self._router.push(app, user, event, where) if user else Outcome.NOT_SENT)
        finally:
            sent = sum(outcome == Outcome.SENT for outcome in outcomes)
            self._dedupe.settle(key, repeated or sent > 0)
            self._settle(claim, Outcome.SENT if sent else Outcome.NOT_SENT)
        self._metrics.pushes += sent
        return None if repeated else outcomes

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        return self._reach(app, users, repeat(event), device)

    def reach_each(self, app: str, users: Sequence[str], events: Sequence[Event]) -> list[Outcome]:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        return self._reach(app, users, events)

    def _reach(
        self, app: str, users: Sequence[str], events: Iterable[Event], device: str | None = None
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        coming = iter(events)
        for start in range(0, len(users), BATCH_TARGETS):
            batch = users[start : start + BATCH_TARGETS]
            refs = self._router.find(app, batch)
            for index, user in enumerate(batch):
                where = None if refs is None else refs[index]
                outcomes.append(self._router.push(app, user, next(coming), where, device))
        self._metrics.pushes += outcomes.count(Outcome.SENT)
        return outcomes

    def spread(self, app: str, event: Event, except_users: tuple[str, ...] = ()) -> Outcome:
        """See :class:`imserver.services.pushes.pushing.Pushes`."""
        here = self._delivery.to_app(app, event, "", except_users) > 0
        others = len(self._node_messages.peers())
        failed = self._node_messages.broadcast(ToApp(app, "", event, except_users))
        if not here and failed == others:
            return Outcome.FAILED if failed else Outcome.NOT_SENT
        self._metrics.pushes += 1
        return Outcome.PARTLY if failed else Outcome.SENT
