"""How a push is carried out, and what is answered.

One way in for all that send: ``/api/v1/push``, ``/api/v1/rooms/publish``, batches, the publisher connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.style import Problem
from imserver.api.v1.message import PushRequest, check, event_of, size, targets_of
from imserver.api.v1.wire import app_of
from imserver.model import Event
from imserver.services.idempotency import First, IdReused, Ticket, Waiting
from imserver.services.publishing import Target
from imserver.services.pushing import Outcome

Status = Literal["absent", "sent", "repeated", "failed", "partly", "held"]
STATUSES: Final[tuple[Status, ...]] = ("absent", "sent", "repeated", "failed", "partly", "held")
"""Outcome → what results say of it."""


_OF_ONE: Final = tuple(
    b'"sent":%d,"results":[{"target":{"user":%%b},"status":"%b"}]'
    % (outcome in (Outcome.SENT, Outcome.PARTLY), STATUSES[outcome].encode())
    for outcome in sorted(Outcome)
)
"""The answer to a push to one user, by its outcome."""


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
    def all_sent(self) -> bool:
        """Whether every target has it."""
        return self.outcomes.count(Outcome.SENT) == len(self.outcomes)

    @property
    def count(self) -> int:
        """How many targets have it."""
        return self.outcomes.count(Outcome.SENT) + self.outcomes.count(Outcome.PARTLY)

    def answer(self, only_missed: bool = False) -> bytes:
        """The answer as JSON; with ``only_missed`` of the results those that are not ``sent``."""
        push, outcomes, spared = self.push, self.outcomes, Outcome.SENT if only_missed else None
        results: list[Any]
        if push.user is not UNSET and push.device is UNSET:
            return _OF_ONE[outcomes[0]] % _encode(push.user)
        if push.users is not UNSET:
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


def send(api: Api, call: Call, push: PushRequest, key: str = "") -> Sent:
    """Carry out a push, once for each ``key`` (or, without one, its id). May switch.

    Raises :class:`Problem`.
    """
    app = app_of(api, call, push.app)
    event = event_of(api, push)
    check(api, push)
    return _send_checked(api, app, push, event, key or push.id)


def _send_checked(api: Api, app: str, push: PushRequest, event: Event, key: str) -> Sent:
    if not key:
        return Sent(push, publish(api, app, push, event))
    ids = api.services.request_ids
    try:
        begun = ids.begin(app, key, digest_of(push))
    except IdReused:
        raise Problem(errors.HTTP_ID_REUSED) from None
    if isinstance(begun, Ticket):
        outcomes: list[Outcome] = []
        try:
            outcomes = publish(api, app, push, event)
        finally:
            ids.end(begun, outcomes)
        return Sent(push, outcomes)
    repeated = _repeated(push, begun)
    assert isinstance(repeated, Sent)
    return repeated


def digest_of(push: PushRequest) -> int:
    """What tells a push from another one under the same id."""
    return hash(_encode(push))


def publish(api: Api, app: str, push: PushRequest, event: Event) -> list[Outcome]:
    """Tell the targets of a push."""
    publishing = api.services.publishing
    if push.users is not UNSET:
        return publishing.to_users(app, push.users, event, push.ttl_seconds)
    if push.user is not UNSET:
        device = None if push.device is UNSET else push.device
        return publishing.to_users(app, [push.user], event, push.ttl_seconds, device)
    return publishing.to_targets(app, targets_of(push), event, tuple(push.except_users), push.ttl_seconds)


# --- many pushes at once ------------------------------------------------------------------------------------


class _Ready(Struct, gc=False):
    """A push to one user that waits for others of its run."""

    index: int
    push: PushRequest
    user: str
    event: Event


def send_each(api: Api, call: Call, pushes: Sequence[PushRequest]) -> list[Sent | Problem]:
    """Carry out many pushes in their order; one that is refused stops no other. May switch.

    Neighbours that are for one user each, in one app, are served together: with one question to the registry.
    """
    results: list[Sent | Problem] = []
    run: list[_Ready] = []
    run_app, run_ids = "", set[str]()
    for push in pushes:
        try:
            app = app_of(api, call, push.app)
            event = event_of(api, push)
            check(api, push)
            plain = push.user is not UNSET and push.device is UNSET and not push.ttl_seconds
            if run and (not plain or app != run_app or push.id in run_ids):
                _send_run(api, run_app, run, results)
                run, run_ids = [], set()
            if plain:
                results.append(_NOT_YET)
                run.append(_Ready(len(results) - 1, push, str(push.user), event))
                run_app = app
                if push.id:
                    run_ids.add(push.id)
            else:
                results.append(_send_checked(api, app, push, event, push.id))
        except Problem as problem:
            results.append(problem)
    if run:
        _send_run(api, run_app, run, results)
    return results


_NOT_YET: Final = Problem(errors.HTTP_INTERNAL_ERROR)


def _send_run(api: Api, app: str, run: list[_Ready], results: list[Sent | Problem]) -> None:
    """Carry out a run of pushes to one user each."""
    tickets: dict[int, Ticket] = {}
    named = [ready for ready in run if ready.push.id]
    ids = api.services.request_ids
    alone: list[_Ready] = []
    if named:
        asked = [(ready.push.id, digest_of(ready.push)) for ready in named]
        for ready, begun in zip(named, ids.begin_each(app, asked), strict=True):
            if isinstance(begun, Ticket):
                tickets[ready.index] = begun
            elif isinstance(begun, Waiting):
                alone.append(ready)
            else:
                results[ready.index] = _repeated(ready.push, begun)
    mine = [ready for ready in run if not ready.push.id or ready.index in tickets]
    outcomes: list[Outcome] = []
    try:
        outcomes = api.services.publishing.to_each(
            app, [ready.user for ready in mine], [ready.event for ready in mine]
        )
        for ready, outcome in zip(mine, outcomes, strict=True):
            results[ready.index] = Sent(ready.push, [outcome])
    finally:
        if tickets:
            became = dict(zip([ready.index for ready in mine], outcomes, strict=False))
            for index, ticket in tickets.items():
                ids.end(ticket, [became[index]] if index in became else [])
    for ready in alone:
        try:
            results[ready.index] = _send_checked(api, app, ready.push, ready.event, ready.push.id)
        except Problem as problem:
            results[ready.index] = problem


def _repeated(push: PushRequest, begun: First | IdReused | None) -> Sent | Problem:
    if isinstance(begun, IdReused):
        return Problem(errors.HTTP_ID_REUSED)
    if begun is None:
        return Sent(push, [Outcome.REPEATED] * size(push), True)
    return Sent(push, [Outcome(number) for number in begun.outcomes], True)
