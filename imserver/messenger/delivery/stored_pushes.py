"""Stored pushes: each target gets a message of the log.

A push with a key is stored only once. The ``client_msg_id`` of its messages is
made from the key, and the log remembers it as long as the messages.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from time import perf_counter, time
from typing import Final

from gevent.event import Event as Flag
from msgspec import UNSET, Raw, field

from imserver.gateway.clock import serve_others
from imserver.gateway.errors import HttpProblem, Problems, StorageUnavailable
from imserver.gateway.model import SYSTEM_PREFIX, YIELD_TARGETS, Limit, Outcome
from imserver.gateway.push.idempotency import Claimed, Idempotency, IdReused, Waiting
from imserver.gateway.push.push import nothing_accepted
from imserver.gateway.push.targets import (
    PushToStore,
    StoredPushes,
    StoreResult,
    TargetResult,
    addressed,
)
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.log.contract import (
    Appended,
    Draft,
    Rejected,
    RejectReason,
    Stored,
)
from imserver.messenger.log.meta import MessageMeta
from imserver.plugin.runtime import Service

_DIGEST_BYTES: Final = 24
"""Length of the names that replace keys. In hexadecimal they are short enough
for a ``client_msg_id``."""


class LogPushes(StoredPushes):
    """Stores pushes in the log."""

    def __init__(self, messaging: Messaging, ids: Idempotency) -> None:
        self._messaging = messaging
        self._ids = ids

    def store_each(
        self, app: str, pushes: Sequence[PushToStore]
    ) -> list[StoreResult | HttpProblem | StorageUnavailable]:
        if app.startswith(SYSTEM_PREFIX):
            return [Problems.STORE_UNAVAILABLE for _ in pushes]

        claims = self._claims(app, pushes)
        outcomes: list[list[Stored]] = [[] for _ in pushes]
        waiting = _Drafts(self._messaging, app)
        try:
            for push, claim, results in zip(pushes, claims, outcomes, strict=True):
                if not isinstance(claim, IdReused | Waiting):
                    waiting.send_all(push, results)
            waiting.wait()
        finally:
            # An unsettled claim would make a repeated request wait.
            for push, claim, results in zip(pushes, claims, outcomes, strict=True):
                if isinstance(claim, int):
                    stored = any(isinstance(result, Appended) for result in results)
                    self._ids.settle(
                        claim, stored, push.digest, bytes([Outcome.STORED])
                    )

        return [
            self._finished(app, push, claim, results)
            for push, claim, results in zip(pushes, claims, outcomes, strict=True)
        ]

    def _claims(
        self, app: str, pushes: Sequence[PushToStore]
    ) -> Sequence[Claimed | Waiting]:
        if len(pushes) == 1:  # a push that holds no claim may wait for others
            return [self._ids.claim(app, pushes[0].key, pushes[0].digest)]
        keys = [push.key for push in pushes]
        digests = [push.digest for push in pushes]
        return self._ids.claim_each(app, keys, digests)

    def _finished(
        self,
        app: str,
        push: PushToStore,
        claim: Claimed | Waiting,
        outcomes: Sequence[Stored],
    ) -> StoreResult | HttpProblem | StorageUnavailable:
        if isinstance(claim, IdReused):
            return Problems.ID_REUSED
        if isinstance(claim, Waiting):
            # A single push may wait for the request that has the claim.
            return self.store_each(app, [push])[0]

        results = [_result(outcome) for outcome in outcomes]
        if not nothing_accepted([result.outcome for result in results]):
            return StoreResult(results, not isinstance(claim, int))
        for outcome in outcomes:
            if isinstance(outcome, StorageUnavailable) and outcome.detail:
                return outcome
        return Problems.STORAGE_UNAVAILABLE


class _Drafts(Service):
    """Drafts that the log has not settled yet."""

    _messaging: Messaging
    _app: str
    _left: int = 0
    _settled: Flag = field(default_factory=Flag)

    def send_all(self, push: PushToStore, into: list[Stored]) -> None:
        """Send the drafts of a push; ``into`` gets a result for each target."""
        to_self = Rejected(RejectReason.INVALID, "the receiver is the sender")
        into += [to_self] * len(push.targets)
        for index, draft in enumerate(_drafts(push)):
            if draft.conversation or draft.to_user != draft.sender:
                self.send(draft, into, index)
            if not (index + 1) % YIELD_TARGETS:
                serve_others()

    def send(self, draft: Draft, into: list[Stored], index: int) -> None:
        """Send a draft, and put its result into ``into[index]``."""
        self._left += 1

        def done(result: Stored) -> None:
            into[index] = result
            self._left -= 1
            if not self._left:
                self._settled.set()

        self._messaging.send(self._app, draft, done)

    def wait(self) -> None:
        """Wait for all of them. Switches greenlets."""
        began = perf_counter()
        while self._left:
            self._settled.clear()
            self._settled.wait()
        self._messaging.waited(began)


def _drafts(push: PushToStore) -> Iterator[Draft]:
    """The messages of a push, one for each target."""
    event = push.event
    now = int(time() * 1000)
    type = event.type
    if event.data and type == "text":
        # Data is no text.
        type = "custom"
    body = event.data or event.text.encode()
    meta = b""
    if event.notify:
        meta = MessageMeta(notify=Raw(event.notify)).to_bytes()

    alone = len(push.targets) == 1
    for number, target in enumerate(map(addressed, push.targets)):
        group = 0
        if target.group is not UNSET:
            group = int(target.group)
        user = ""
        if target.user is not UNSET:
            user = target.user
        yield Draft(
            sender=event.sender,
            type=type,
            body=body,
            client_msg_id=_name(push.key, number, alone),
            time_ms=now,
            meta=meta,
            to_user=user,
            conversation=group,
            group=group != 0,
        )


def _name(key: str, number: int, alone: bool) -> str:
    """The ``client_msg_id`` of the message for one target: the key itself, if
    it is short enough."""
    if not key:
        return ""
    fits = len(key.encode()) <= Limit.CLIENT_MSG_ID_BYTES and "\0" not in key
    if alone and fits:
        return key
    name = f"{number} {key}".encode()
    return blake2b(name, digest_size=_DIGEST_BYTES).hexdigest()


def _result(done: Stored) -> TargetResult:
    if isinstance(done, Appended):
        entry = done.entry
        return TargetResult(Outcome.STORED, "", entry.id, entry.conversation, entry.seq)
    if isinstance(done, Rejected):
        return TargetResult(Outcome.REFUSED, done.reason)
    return TargetResult(Outcome.FAILED)
