"""How pushes are carried out that are to be stored: each target is a message of the log.

A push with an id, or under an Idempotency-Key, is stored once for good: its messages have a ``client_msg_id``
that is made of it, which the log knows as long as it keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from time import time
from typing import Any, Final

import gevent
import msgspec
from gevent.event import Event as Signal
from msgspec import UNSET, Struct

from imserver import errors
from imserver.api.call import Api
from imserver.api.reply import ApiProblem
from imserver.api.v1.push_request import PushRequest, Result, StoredAt, targets_of
from imserver.errors import StorageUnavailable
from imserver.model import SYSTEM_PREFIX, YIELD_TARGETS, Event, Outcome
from imserver.services.push.idempotency import First, IdReused, Ticket, Waiting
from imserver.services.push.publish import Target
from imserver.storage.log.contract import CLIENT_MSG_ID_BYTES, INVALID, Appended, Draft, Rejected

_DIGEST_BYTES: Final = 24
_INVALID: Final = Rejected(INVALID, "the receiver is the sender")

_encode = msgspec.json.Encoder().encode


class Order(Struct, frozen=True):
    """A push that was checked, in an app that was found. ``key``: what it may be repeated under (``""``:
    nothing), ``digest`` tells it from another push under the same key."""

    app: str
    push: PushRequest
    event: Event
    key: str
    digest: int


class Kept(Struct, frozen=True):
    """A push that was stored: what became of each target, and whether it had been stored before."""

    results: list[Result]
    replayed: bool = False
    all_sent: bool = False
    """Never: results say where the messages are."""

    @property
    def count(self) -> int:
        """How many targets' messages are stored."""
        return sum(result.status == "stored" for result in self.results)

    def answer(self, only_missed: bool = False) -> bytes:
        """The answer as JSON; all results in any case."""
        return b'"sent":%d,"results":%b' % (self.count, _encode(self.results))


Done = Appended | Rejected | StorageUnavailable


class _Drafts:
    """The drafts of several pushes, until the log has settled all of them."""

    def __init__(self) -> None:
        self._left = 0
        self._settled = Signal()

    def send(self, api: Api, app: str, draft: Draft, into: list[Any], place: int) -> None:
        """Hand over a draft; what becomes of it is put into ``into[place]``."""
        self._left += 1

        def done(result: Done) -> None:
            into[place] = result
            self._left -= 1
            if not self._left:
                self._settled.set()

        api.services.messaging.send(app, draft, done)

    def wait(self) -> None:
        """Wait for all of them. Switches."""
        while self._left:
            self._settled.clear()
            self._settled.wait()


def store_each(api: Api, orders: Sequence[Order]) -> list[Kept | ApiProblem]:
    """Store pushes of one app, in their order, together; those that are refused stop no other. Switches.

    No two of them may have the same key.
    """
    begun = _begin_each(api, orders)
    outcomes: list[list[Done]] = [[] for _ in orders]
    waiting = _Drafts()
    try:
        for order, start, done in zip(orders, begun, outcomes, strict=True):
            if not isinstance(start, ApiProblem | Waiting):
                _hand_over(api, order, done, waiting)
        waiting.wait()
    finally:
        for start, done in zip(begun, outcomes, strict=True):
            if isinstance(start, Ticket):
                stored = any(isinstance(each, Appended) for each in done)
                api.services.request_ids.end(start, [Outcome.STORED] if stored else [])
    return [
        _finished(api, order, start, done) for order, start, done in zip(orders, begun, outcomes, strict=True)
    ]


Start = Ticket | ApiProblem | Waiting | bool
"""How a push begins: with a ticket, refused, when another one under its key has ended; False: it has no key,
True: it was accepted before."""


def _begin_each(api: Api, orders: Sequence[Order]) -> list[Start]:
    if orders[0].app.startswith(SYSTEM_PREFIX):
        return [ApiProblem(errors.HTTP_STORE_UNAVAILABLE) for _ in orders]
    ids = api.services.request_ids
    named = [order for order in orders if order.key]
    if len(orders) == 1 and named:  # who holds nothing may wait for others
        return [_begin(api, orders[0])]
    begun = iter(ids.begin_each(orders[0].app, [(order.key, order.digest) for order in named]))
    return [_start(next(begun)) if order.key else False for order in orders]


def _begin(api: Api, order: Order) -> Start:
    try:
        return _start(api.services.request_ids.begin(order.app, order.key, order.digest))
    except IdReused:
        return ApiProblem(errors.HTTP_ID_REUSED)


def _start(begun: Ticket | First | IdReused | Waiting | None) -> Start:
    if isinstance(begun, IdReused):
        return ApiProblem(errors.HTTP_ID_REUSED)
    return begun if isinstance(begun, Ticket | Waiting) else True


def _finished(api: Api, order: Order, start: Start, outcomes: Sequence[Done]) -> Kept | ApiProblem:
    if isinstance(start, ApiProblem):
        return start
    if isinstance(start, Waiting):
        return store_each(api, [order])[0]
    if all(isinstance(done, StorageUnavailable) for done in outcomes):
        return ApiProblem(errors.HTTP_STORAGE_UNAVAILABLE)
    targets = targets_of(order.push)
    results = [_result(target, done) for target, done in zip(targets, outcomes, strict=True)]
    return Kept(results, start is True)


def _hand_over(api: Api, order: Order, outcomes: list[Any], waiting: _Drafts) -> None:
    targets = targets_of(order.push)
    outcomes += [_INVALID] * len(targets)
    for place, draft in enumerate(_drafts(order, targets)):
        if draft.conversation or draft.to_user != draft.sender:
            waiting.send(api, order.app, draft, outcomes, place)
        if not (place + 1) % YIELD_TARGETS:
            gevent.sleep(0)


def _drafts(order: Order, targets: Sequence[Target]) -> Iterator[Draft]:
    event, now = order.event, int(time() * 1000)
    kind = "custom" if event.data and event.type == "text" else event.type
    body = event.data or event.text.encode()
    alone = len(targets) == 1
    for number, target in enumerate(targets):
        group = 0 if target.group is UNSET else int(target.group)
        yield Draft(
            sender=event.sender,
            type=kind,
            body=body,
            client_msg_id=_name(order.key, number, alone),
            time_ms=now,
            to_user="" if target.user is UNSET else target.user,
            conversation=group,
        )


def _name(key: str, number: int, alone: bool) -> str:
    """What names the message for a target in the log: the key itself where that will do."""
    if not key or (alone and len(key.encode()) <= CLIENT_MSG_ID_BYTES and "\0" not in key):
        return key
    return blake2b(f"{number} {key}".encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _result(target: Target, done: Done) -> Result:
    if isinstance(done, Appended):
        entry = done.entry
        return Result(target, "stored", StoredAt(entry.id, entry.conversation, entry.seq))
    if isinstance(done, Rejected):
        return Result(target, "refused", UNSET, done.reason)  # type: ignore[arg-type]
    return Result(target, "failed")
