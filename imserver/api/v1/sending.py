"""How a push is carried out, and what is answered.

One way in for all that send: ``/api/v1/push``, ``/api/v1/rooms/publish``, batches, the publisher connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.style import Problem
from imserver.api.v1.message import PushRequest, check, event_of, size, targets_of
from imserver.api.v1.outcome import STATUSES, Result
from imserver.api.v1.storing import Kept, Order, store_each
from imserver.api.v1.wire import app_of
from imserver.model import Event, Outcome
from imserver.services.push.idempotency import First, IdReused, Ticket, Waiting

_OF_ONE: Final = tuple(
    b'"sent":%d,"results":[{"target":{"user":%%b},"status":"%b"}]'
    % (outcome in (Outcome.SENT, Outcome.PARTLY), STATUSES[outcome].encode())
    for outcome in sorted(Outcome)
)
"""The answer to a push to one user, by its outcome."""


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


Carried = Sent | Kept
"""A push that was carried out, live or by storing it."""


def send(api: Api, call: Call, push: PushRequest, key: str = "") -> Carried:
    """Carry out a push, once for each ``key`` (or, without one, its id). May switch.

    Raises :class:`Problem`.
    """
    app = app_of(api, call, push.app)
    event = event_of(api, push)
    check(api, push)
    if not push.store:
        return _send_checked(api, app, push, event, key or push.id)
    (kept,) = store_each(api, [Order(app, push, event, key or push.id, digest_of(push))])
    if isinstance(kept, Problem):
        raise kept
    return kept


def _send_checked(api: Api, app: str, push: PushRequest, event: Event, key: str) -> Sent:
    if not key:
        return Sent(push, publish(api, app, push, event))
    ids = api.services.request_ids
    try:
        begun = ids.begin(app, key, digest_of(push))
    except IdReused:
        raise Problem(errors.HTTP_ID_REUSED) from None
    if type(begun) is Ticket:  # the cheap way: isinstance() of a Struct takes five times as long
        outcomes: list[Outcome] = []
        try:
            outcomes = publish(api, app, push, event)
        finally:
            ids.end(begun, outcomes)
        return Sent(push, outcomes)
    assert not isinstance(begun, Ticket)
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


def send_each(api: Api, call: Call, pushes: Sequence[PushRequest]) -> list[Carried | Problem]:
    """Carry out many pushes in their order; one that is refused stops no other. May switch.

    Neighbours that are for one user each, in one app, are served together: with one question to the registry.
    So are neighbours that are to be stored: with one transaction.
    """
    run = _Run(api)
    for push in pushes:
        try:
            app = app_of(api, call, push.app)
            event = event_of(api, push)
            check(api, push)
        except Problem as problem:
            run.results.append(problem)
            continue
        run.take(app, push, event)
    run.finish()
    return run.results


class _Run:
    """Pushes that wait for others of their kind, and the results so far, in the order of all."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.results: list[Carried | Problem] = []
        self._plain: list[_Ready] = []
        self._stored: list[tuple[int, Order]] = []
        self._app = ""
        self._ids: set[str] = set()

    def take(self, app: str, push: PushRequest, event: Event) -> None:
        """The next push. May switch."""
        kind = self._kind(push)
        waiting = self._stored if kind == "stored" else self._plain
        other = self._plain if kind == "stored" else self._stored
        if other or (waiting and (kind == "alone" or app != self._app or push.id in self._ids)):
            self.finish()
        if kind == "alone":
            self.results.append(self._alone(app, push, event))
            return
        self.results.append(_NOT_YET)
        place = len(self.results) - 1
        if kind == "stored":
            self._stored.append((place, Order(app, push, event, push.id, digest_of(push))))
        else:
            self._plain.append(_Ready(place, push, str(push.user), event))
        self._app = app
        if push.id:
            self._ids.add(push.id)

    def _kind(self, push: PushRequest) -> str:
        if push.store:
            return "stored"
        plain = push.user is not UNSET and push.device is UNSET and not push.ttl_seconds
        return "plain" if plain else "alone"

    def _alone(self, app: str, push: PushRequest, event: Event) -> Carried | Problem:
        try:
            return _send_checked(self._api, app, push, event, push.id)
        except Problem as problem:
            return problem

    def finish(self) -> None:
        """Carry out what waits. May switch."""
        plain, self._plain = self._plain, []
        stored, self._stored = self._stored, []
        self._ids = set()
        if plain:
            _send_run(self._api, self._app, plain, self.results)
        if stored:
            for (place, _), kept in zip(
                stored, store_each(self._api, [order for _, order in stored]), strict=True
            ):
                self.results[place] = kept


_NOT_YET: Final = Problem(errors.HTTP_INTERNAL_ERROR)


def _send_run(api: Api, app: str, run: list[_Ready], results: list[Carried | Problem]) -> None:
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
