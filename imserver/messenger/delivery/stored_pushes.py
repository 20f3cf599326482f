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
"""Length of the digests that replace long keys. In hexadecimal, such a digest
is short enough for a ``client_msg_id``."""


class LogPushes(StoredPushes):
    """Stores pushes of back ends in the log.

    A *push* is a message of a back end to one or more targets.
    """

    def __init__(self, messaging: Messaging, ids: Idempotency) -> None:
        """Take the service that stores messages. ``ids`` has the claims of keys
        (see :meth:`store_each`)."""
        self._messaging = messaging
        self._ids = ids

    def store_each(
        self, app: str, pushes: Sequence[PushToStore]
    ) -> list[StoreResult | HttpProblem | StorageUnavailable]:
        """Store pushes, and wait for the results: one for each push.

        A request *claims* the key of a push, so that no other request stores
        the push with this key. If another request has the claim, a single push
        waits for that request. Switches greenlets.
        """
        # Apps of the server itself have no log.
        if app.startswith(SYSTEM_PREFIX):
            return [Problems.STORE_UNAVAILABLE for _ in pushes]

        claims = self._claims(app, pushes)
        # For each push, the results of its targets.
        outcomes: list[list[Stored]] = [[] for _ in pushes]
        drafts = _Drafts(self._messaging, app)
        try:
            for push, claim, results in zip(pushes, claims, outcomes, strict=True):
                if not isinstance(claim, IdReused | Waiting):
                    drafts.send_all(push, results)
            drafts.wait()
        finally:
            # Each claim is given a result even after an error. Otherwise a
            # repeated request would wait for it.
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
        """Claim the keys of pushes, so that a repeated request stores
        nothing."""
        # A single push may wait for the request that has its key. No request
        # waits for this one, because it has no other claim.
        if len(pushes) == 1:
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
        """Return the result of a push. May switch greenlets.

        ``outcomes`` are the results of the push's targets. If the push has no
        claim yet, it is stored now.
        """
        if isinstance(claim, IdReused):
            return Problems.ID_REUSED
        if isinstance(claim, Waiting):
            # A single push may wait for the request that has the claim.
            return self.store_each(app, [push])[0]

        results = [_result(outcome) for outcome in outcomes]
        # The request has succeeded if the message of one target was stored.
        if not nothing_accepted([result.outcome for result in results]):
            return StoreResult(results, not isinstance(claim, int))
        # An error with a reason tells more than the general error.
        for outcome in outcomes:
            if isinstance(outcome, StorageUnavailable) and outcome.detail:
                return outcome
        return Problems.STORAGE_UNAVAILABLE


class _Drafts(Service):
    """Sends drafts of an app to the log, and waits for their results."""

    _messaging: Messaging
    _app: str
    _unsettled: int = 0
    """The number of drafts without a result."""
    _settled: Flag = field(default_factory=Flag)
    """Set when the last draft has its result."""

    def send_all(self, push: PushToStore, into: list[Stored]) -> None:
        """Send the drafts of a push to the log.

        ``into`` gets a result for each target, and is complete after
        :meth:`wait`.
        """
        to_self = Rejected(RejectReason.INVALID, "the receiver is the sender")
        # Each target has this result if its draft is not sent.
        into += [to_self] * len(push.targets)
        for index, draft in enumerate(_drafts(push)):
            if draft.conversation or draft.to_user != draft.sender:
                self.send(draft, into, index)
            # A push may have very many targets, so other greenlets run in
            # between.
            if not (index + 1) % YIELD_TARGETS:
                serve_others()

    def send(self, draft: Draft, into: list[Stored], index: int) -> None:
        """Send a draft, and put its result into ``into[index]``."""
        self._unsettled += 1

        def settle(result: Stored) -> None:
            """Put the result into its place. The last result wakes
            :meth:`wait`."""
            into[index] = result
            self._unsettled -= 1
            if not self._unsettled:
                self._settled.set()

        self._messaging.send(self._app, draft, settle)

    def wait(self) -> None:
        """Wait for the results of all drafts. Switches greenlets."""
        began = perf_counter()
        while self._unsettled:
            self._settled.clear()
            self._settled.wait()
        self._messaging.waited(began)


def _drafts(push: PushToStore) -> Iterator[Draft]:
    """Yield the messages of a push, one draft for each target."""
    event = push.event
    now = int(time() * 1000)
    type = event.type
    if event.data and type == "text":
        # Data is not text, so its type is not the type of texts.
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
    """Return the ``client_msg_id`` of the message for one target.

    With this id, a repeated push finds its message. The id is ``""`` if the
    push has no key. If the push has only one target (``alone``) and a short
    key, the id is the key. Otherwise it is a digest of the key and of
    ``number``, the index of the target.
    """
    if not key:
        return ""
    # A `client_msg_id` has a limited number of bytes, and no NUL.
    fits = len(key.encode()) <= Limit.CLIENT_MSG_ID_BYTES and "\0" not in key
    if alone and fits:
        return key
    name = f"{number} {key}".encode()
    return blake2b(name, digest_size=_DIGEST_BYTES).hexdigest()


def _result(stored: Stored) -> TargetResult:
    """Return the result for one target, from the result of its draft."""
    if isinstance(stored, Appended):
        entry = stored.entry
        return TargetResult(Outcome.STORED, "", entry.id, entry.conversation, entry.seq)
    if isinstance(stored, Rejected):
        return TargetResult(Outcome.REFUSED, stored.reason)
    return TargetResult(Outcome.FAILED)
