"""How a push is carried out, and what is answered.

One way in for all that send: ``/api/v1/push``, ``/api/v1/rooms/publish``, batches, the publisher connection.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.style import Problem
from imserver.api.v1.message import PushRequest, check, event_of, size, targets_of
from imserver.api.v1.wire import app_of
from imserver.model import Event
from imserver.services.idempotency import First, IdReused
from imserver.services.publishing import Target
from imserver.services.pushing import Outcome

Status = Literal["absent", "sent", "repeated", "failed", "partly", "held"]
STATUSES: Final[tuple[Status, ...]] = ("absent", "sent", "repeated", "failed", "partly", "held")
"""Outcome → what results say of it."""


class Result(Struct, gc=False):
    """What became of one target."""

    target: Target
    status: Annotated[
        Status,
        Meta(
            description="`sent`: a connection has it, or the node that holds one. `absent`: nobody was "
            "there. `held`: nobody was there, it waits for a login. `repeated`: it was accepted before, "
            "through another node. `failed`: the node that is needed does not answer, try again. `partly`: "
            "a node does not answer, the others have it."
        ),
    ]


class PushAnswer(Struct, gc=False):
    """What became of a push: ``results`` stand in the order of the targets."""

    sent: Annotated[int, Meta(description="How many results are `sent` or `partly`.")]
    results: list[Result]


class _User(Struct, gc=False):
    user: str


class _UserResult(Struct, gc=False):
    target: _User
    status: str


_encode = msgspec.json.Encoder().encode


class Sent(Struct, gc=False):
    """A push that was carried out: what became of each target, and whether that is old news."""

    push: PushRequest
    outcomes: list[Outcome]
    replayed: bool = False

    @property
    def count(self) -> int:
        """How many targets have it."""
        return self.outcomes.count(Outcome.SENT) + self.outcomes.count(Outcome.PARTLY)

    def answer(self, only_missed: bool = False) -> bytes:
        """The answer as JSON; with ``only_missed`` of the results those that are not ``sent``."""
        push, outcomes, spared = self.push, self.outcomes, Outcome.SENT if only_missed else None
        results: list[Any]
        if push.user is not UNSET and push.device is UNSET:
            results = [_UserResult(_User(push.user), STATUSES[outcomes[0]])]
        elif push.users is not UNSET:
            results = [
                _UserResult(_User(user), STATUSES[outcome])
                for user, outcome in zip(push.users, outcomes, strict=True)
                if outcome is not spared
            ]
        else:
            results = [
                Result(target, STATUSES[outcome])
                for target, outcome in zip(targets_of(push), outcomes, strict=True)
                if outcome is not spared
            ]
        return b'"sent":%d,"results":%b' % (self.count, _encode(results))


def send(api: Api, call: Call, push: PushRequest, key: str = "", more: str = "") -> Sent:
    """Carry out a push, once for each ``key`` (or, without one, its id). May switch.

    ``more`` belongs to what a key stands for. Raises :class:`Problem`.
    """
    app = app_of(api, call, push.app)
    event = event_of(api, push)
    check(api, push)
    key = key or push.id
    if not key:
        return Sent(push, publish(api, app, push, event))
    try:
        begun = api.services.request_ids.begin(app, key, hash((_encode(push), more)))
    except IdReused:
        raise Problem(errors.HTTP_ID_REUSED) from None
    if begun is None:
        return Sent(push, [Outcome.REPEATED] * size(push), True)
    if isinstance(begun, First):
        return Sent(push, [Outcome(number) for number in begun.outcomes], True)
    outcomes: list[Outcome] = []
    try:
        outcomes = publish(api, app, push, event)
    finally:
        api.services.request_ids.end(begun, outcomes)
    return Sent(push, outcomes)


def publish(api: Api, app: str, push: PushRequest, event: Event) -> list[Outcome]:
    """Tell the targets of a push."""
    publishing = api.services.publishing
    if push.users is not UNSET:
        return publishing.to_users(app, push.users, event, push.ttl_seconds)
    if push.user is not UNSET:
        device = None if push.device is UNSET else push.device
        return publishing.to_users(app, [push.user], event, push.ttl_seconds, device)
    return publishing.to_targets(app, targets_of(push), event, tuple(push.except_users), push.ttl_seconds)
