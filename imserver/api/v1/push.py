"""``/api/v1/push`` and ``/api/v1/rooms/publish``: routes, and how pushes are carried out.

Batches and the publisher connection send through :func:`send` and :func:`send_each`, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict

from imserver import errors
from imserver.api.call import Api, Call, require_app
from imserver.api.reply import ApiProblem
from imserver.api.v1.operation import APP_PROBLEMS, Header, Operation
from imserver.api.v1.push_request import (
    MAX_ID_CHARACTERS,
    MESSAGE_RULES,
    PUSH_RULES,
    STATUSES,
    AppName,
    Code,
    Data,
    Kind,
    Note,
    PushAnswer,
    PushMessage,
    PushRequest,
    Result,
    Text,
    check,
    event_of,
    size,
    targets_of,
)
from imserver.api.v1.push_store import Kept, Order, store_each
from imserver.api.v1.wire import reply
from imserver.auth.principal import PUSH, Principal
from imserver.model import Event, Outcome
from imserver.services.push.idempotency import First, IdReused, Ticket, Waiting
from imserver.services.push.publish import Name
from imserver.transport.exchange import HttpResponse


class RoomPublishRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A message to the members of a room. The message has the fields of a push."""

    app: AppName
    room: Name
    message: PushMessage | str | UnsetType = UNSET
    type: Kind = "text"
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    code: Code = 0
    note: Note = ""
    sender: Annotated[str, Meta(max_length=512, description="The sender, as clients show it.")] = ""
    id: Annotated[str, Meta(max_length=MAX_ID_CHARACTERS, description="As in a push.")] = ""
    except_users: Annotated[list[str], Meta(description="Members who do not receive the message.")] = field(
        default_factory=list
    )


_REPLAYED: Final = (("Idempotent-Replayed", "true"),)


def push(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/push``."""
    return _answer(call, send(api, call.app, call.asked, key_of(call)))


def publish_to_room(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/rooms/publish``."""
    asked: RoomPublishRequest = call.asked
    return _answer(call, send(api, call.app, PushRequest(**asdict(asked)), key_of(call)))


def _answer(call: Call, sent: Carried) -> HttpResponse:
    return reply(call, b"{%b}" % sent.answer(), _REPLAYED if sent.replayed else ())


def key_of(call: Call) -> str:
    """The request's Idempotency-Key, ``""`` without one. Raises :class:`ApiProblem`."""
    key = call.request.headers.get("idempotency-key", "")
    if len(key) > MAX_ID_CHARACTERS:
        raise ApiProblem(
            errors.HTTP_INVALID_REQUEST, f"Idempotency-Key is longer than {MAX_ID_CHARACTERS} characters"
        )
    return key


IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "A request that comes again under the same key is not carried out again: the same server process gives "
    "the first answer again (of the last 50,000 at least), another one says `repeated`.",
    example="order-4711",
)
REPLAYED: Final = Header(
    "Idempotent-Replayed", "`true`: the request came before; this is what was done then.", example="true"
)

SENDING_PROBLEMS: Final = (
    *APP_PROBLEMS,
    errors.HTTP_TOO_MANY_TARGETS,
    errors.HTTP_STORE_UNAVAILABLE,
    errors.HTTP_ID_REUSED,
)
"""What may be wrong with whatever sends."""

OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/push",
        PUSH,
        push,
        "push",
        "Push a message",
        "Delivers a message to whoever is connected: users (all their devices, or one), connections, rooms, "
        "the whole app, in any mixture. It answers when the message is on its way to the connections, with "
        "what became of each target. With `store` the message is kept for users and groups, and the answer "
        "says where it stands.",
        body=PushRequest,
        answer=PushAnswer,
        problems=SENDING_PROBLEMS,
        headers=(IDEMPOTENCY_KEY,),
        answer_headers=(REPLAYED,),
        rules=PUSH_RULES,
        example_body={"app": "101", "user": "ann", "text": "your order has been sent"},
        example_answer={"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]},
        hot=True,
    ),
    Operation(
        "POST",
        "/api/v1/rooms/publish",
        PUSH,
        publish_to_room,
        "rooms",
        "Publish to a room",
        "Delivers a message to the members of a room: a push with the room as its only target.",
        body=RoomPublishRequest,
        answer=PushAnswer,
        problems=SENDING_PROBLEMS,
        headers=(IDEMPOTENCY_KEY,),
        answer_headers=(REPLAYED,),
        rules=MESSAGE_RULES,
        example_body={"app": "101", "room": "lobby", "sender": "ann", "text": "hello"},
        example_answer={"sent": 1, "results": [{"target": {"room": "lobby"}, "status": "sent"}]},
        hot=True,
    ),
)


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


def send(api: Api, app: str, push: PushRequest, key: str = "") -> Carried:
    """Carry out a push, once for each ``key`` (or, without one, its id). May switch.

    Raises :class:`ApiProblem`.
    """
    event = event_of(api, push)
    check(api, push)
    if not push.store:
        return _send_checked(api, app, push, event, key or push.id)
    (kept,) = store_each(api, [Order(app, push, event, key or push.id, digest_of(push))])
    if isinstance(kept, ApiProblem):
        raise kept
    return kept


def _send_checked(api: Api, app: str, push: PushRequest, event: Event, key: str) -> Sent:
    if not key:
        return Sent(push, publish(api, app, push, event))
    ids = api.services.request_ids
    try:
        begun = ids.begin(app, key, digest_of(push))
    except IdReused:
        raise ApiProblem(errors.HTTP_ID_REUSED) from None
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


def send_each(api: Api, principal: Principal, pushes: Sequence[PushRequest]) -> list[Carried | ApiProblem]:
    """Carry out many pushes in their order; one that is refused stops no other. May switch.

    Neighbours that are for one user each, in one app, are served together: with one question to the registry.
    So are neighbours that are to be stored: with one transaction.
    """
    run = _Run(api)
    for push in pushes:
        try:
            app = api.services.tenants.resolve(push.app)
            require_app(api, principal, PUSH, app)
            event = event_of(api, push)
            check(api, push)
        except ApiProblem as problem:
            run.results.append(problem)
            continue
        run.take(app, push, event)
    run.finish()
    return run.results


class _Run:
    """Pushes that wait for others of their kind, and the results so far, in the order of all."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.results: list[Carried | ApiProblem] = []
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

    def _alone(self, app: str, push: PushRequest, event: Event) -> Carried | ApiProblem:
        try:
            return _send_checked(self._api, app, push, event, push.id)
        except ApiProblem as problem:
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


_NOT_YET: Final = ApiProblem(errors.HTTP_INTERNAL_ERROR)


def _send_run(api: Api, app: str, run: list[_Ready], results: list[Carried | ApiProblem]) -> None:
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
        except ApiProblem as problem:
            results[ready.index] = problem


def _repeated(push: PushRequest, begun: First | IdReused | None) -> Sent | ApiProblem:
    if isinstance(begun, IdReused):
        return ApiProblem(errors.HTTP_ID_REUSED)
    if begun is None:
        return Sent(push, [Outcome.REPEATED] * size(push), True)
    return Sent(push, [Outcome(number) for number in begun.outcomes], True)
