"""``/api/v1/push``: the route, and how pushes are checked and carried out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from time import time
from typing import Any, Final

import msgspec
from gevent.event import Event as Signal
from msgspec import UNSET, Struct
from msgspec.structs import replace

from imserver import errors
from imserver.api.v1.push_request import (
    MAX_ID_CHARACTERS,
    PUSH_RULES,
    STATUSES,
    PushAnswer,
    PushMessage,
    PushRequest,
    Result,
    Sending,
    StoredAt,
    size,
    targets_of,
)
from imserver.auth.principal import (
    Needs,
)
from imserver.clock import serve_others
from imserver.core.core import Core
from imserver.errors import StorageUnavailable
from imserver.http.call import Api, Call
from imserver.http.limits import Limits
from imserver.http.operation import Header, Resource
from imserver.http.reply import ApiProblem
from imserver.messages.log.contract import (
    Appended,
    Draft,
    Rejected,
    RejectReason,
)
from imserver.messages.messaging import Messaging
from imserver.messages.services import MessageServices
from imserver.model import (
    ACCEPTED,
    SYSTEM_PREFIX,
    YIELD_TARGETS,
    Event,
    Limit,
    Outcome,
)
from imserver.notify import Notify, encode_notify, in_meta
from imserver.push.idempotency import Claimed, First, Idempotency, IdReused, Waiting
from imserver.push.push import Publishing, Target, addressed, nothing_accepted
from imserver.transport.exchange import HttpResponse

_REPLAYED: Final = (("Idempotent-Replayed", "true"),)


IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "A repeated request with the same key is not executed again. The node that served the "
    "first one repeats its answer (it remembers at least the last 50,000); any other node "
    "answers `repeated`.",
    example="order-4711",
)
REPLAYED: Final = Header(
    "Idempotent-Replayed",
    "`true`: this request was executed before. The answer is that of the first one.",
    example="true",
)

SENDING_PROBLEMS: Final = (
    errors.Problems.TOO_MANY_TARGETS,
    errors.Problems.STORE_UNAVAILABLE,
    errors.Problems.ID_REUSED,
    errors.Problems.NOT_ACCEPTED,
)
"""The refusals of everything that sends, besides those of a request that names an app."""


class PushApi(Struct, frozen=True):
    """The services that the route uses."""

    publishing: Publishing
    ids: Idempotency
    messaging: Messaging
    limits: Limits


def push_api(core: Core, api: Api) -> PushApi:
    """Make it for a node."""
    return PushApi(
        core.push.publishing, core.push.idempotency, core.service(MessageServices).messaging, api.limits
    )


routes = Resource("push", service=push_api)


@routes.post(
    "/push",
    Needs.PUSH,
    body=PushRequest,
    answer=PushAnswer,
    problems=SENDING_PROBLEMS,
    headers=(IDEMPOTENCY_KEY,),
    answer_headers=(REPLAYED,),
    rules=PUSH_RULES,
    example={"app": "default", "user": "ann", "text": "your order has been sent"},
    answer_example={"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]},
)
def push(api: PushApi, call: Call) -> HttpResponse:
    """Push a message.

    Delivers a message to connected targets: users (all devices or one), connections, channels, the
    whole app, in any mixture. The server answers with a result for each target as soon as it has queued the
    message for their connections. With `store`, the message is stored for users and groups before the
    server answers, and the answer has its position.
    """
    request: PushRequest = call.input
    event = event_of(api.limits, request)
    check(api.limits, request)
    if request.notify is not UNSET:
        event = with_notify(event, request.notify)
    sent = send(api, call.app, request, event, key_of(call) or request.id)
    return call.reply(b"{%b}" % sent.answer(), _REPLAYED if sent.replayed else ())


def key_of(call: Call) -> str:
    """The request's Idempotency-Key, ``""`` without one. Raises :class:`ApiProblem`."""
    key = call.request.headers.get("idempotency-key", "")
    if len(key) > MAX_ID_CHARACTERS:
        raise ApiProblem(
            errors.Problems.INVALID_REQUEST, f"Idempotency-Key is longer than {MAX_ID_CHARACTERS} characters"
        )
    return key


# --- checks -------------------------------------------------------------------------------------------------


def check(limits: Limits, push: PushRequest) -> None:
    """Refuse a push that contradicts itself or is too large. Raises :class:`ApiProblem`."""
    kinds = (push.targets, push.user, push.users, push.connection, push.channel, push.group)
    if len(kinds) - kinds.count(UNSET) + push.all != 1:
        raise ApiProblem(
            errors.Problems.INVALID_REQUEST,
            "Give one of `targets`, `user`, `users`, `connection`, `channel`, `group`, or `all: true`",
        )
    if push.device is not UNSET and push.user is UNSET:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, "`device` needs `user`")
    if (push.user is UNSET and size(push) > limits.batch_targets) or len(
        push.except_users
    ) > limits.batch_targets:
        raise ApiProblem(errors.Problems.TOO_MANY_TARGETS)
    if push.store:
        _check_stored(push)


def _check_stored(push: PushRequest) -> None:
    """Refuse a push that the message log cannot store. Raises :class:`ApiProblem`."""
    message = push.message if isinstance(push.message, PushMessage) else push
    if message.code or message.note or push.ttl_seconds or push.except_users:
        raise ApiProblem(
            errors.Problems.INVALID_REQUEST,
            "With `store` there is no `code`, `note`, `ttl_seconds` or `except_users`",
        )
    if push.users is not UNSET:
        return
    for target in map(addressed, targets_of(push)):
        if (target.user is UNSET and target.group is UNSET) or target.device is not UNSET:
            text = "`store` is only for users, on all their devices, and for groups"
            if target.channel is not UNSET:
                text += (
                    f". Pushes to `{target.channel}` are stored, without `store`, if its namespace has "
                    "`history: log` in `channels` of the app's settings"
                )
            raise ApiProblem(errors.Problems.INVALID_REQUEST, text)


def event_of(limits: Limits, push: Sending) -> Event:
    """The event that the receivers of a push get. Raises :class:`ApiProblem`."""
    message: PushMessage = push
    if push.message is not UNSET or (push.text is UNSET and push.data is UNSET):
        message = _message_of(push)
    if (message.text is UNSET) == (message.data is UNSET):
        raise ApiProblem(errors.Problems.INVALID_REQUEST, "A message has one of `text` and `data`")
    text, data = _payload(message.data) if message.text is UNSET else (message.text, b"")
    if not text and not data:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, "The message is empty: give `text` or `data`")
    if len(text) + len(data) + len(push.id) + len(push.sender) > limits.push_characters:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, "The message is too long for an outbox")
    return Event(
        "msg", push.sender, text, push.id, message.type, data, message.code, message.note, int(time())
    )


def with_notify(event: Event, notify: Notify | bool) -> Event:
    """The event of a push with what it says about its notification. Raises :class:`ApiProblem`."""
    return replace(event, notify=notify_bytes(notify))


def notify_bytes(notify: Notify | bool) -> bytes:
    """The field ``notify`` of a request as it is stored. Raises :class:`ApiProblem`."""
    try:
        return encode_notify(notify)
    except ValueError as wrong:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, f"`notify`: {wrong}") from None


def _message_of(push: Sending) -> PushMessage:
    """The content of a message that is given as `message`."""
    message = push.message
    if message is UNSET or push.text is not UNSET or push.data is not UNSET:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, "Give one of `message`, `text` and `data`")
    if isinstance(message, str):
        return PushMessage(push.type, message, UNSET, push.code, push.note)
    if push.type != "text" or push.code or push.note:
        raise ApiProblem(
            errors.Problems.INVALID_REQUEST, "With `message`, put `type`, `code` and `note` into it"
        )
    return message


def _payload(raw: Any) -> tuple[str, bytes]:
    """Data as (text, JSON on one line). A string is text."""
    data = bytes(raw)
    try:
        if data[:1] == b'"':
            return _decode_text(data), b""
        # Raw is not checked yet; clients must get valid JSON.
        _decode_any(data)
        return "", msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError) as error:
        raise ApiProblem(errors.Problems.INVALID_REQUEST, f"{error} - at `$.data`") from None


# --- carrying out -------------------------------------------------------------------------------------------

_FAILED: Final = Outcome.FAILED
"""To read it of the class for each push would take 0.07 µs."""
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
_decode_any = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode


class Sent(Struct, gc=False):
    """The outcomes of a push that was sent. ``replayed``: they are those of an earlier request."""

    push: PushRequest
    outcomes: list[Outcome]
    replayed: bool = False

    @property
    def count(self) -> int:
        """The number of outcomes that are ``sent`` or ``partly``."""
        return self.outcomes.count(Outcome.SENT) + self.outcomes.count(Outcome.PARTLY)

    def answer(self, only_missed: bool = False) -> bytes:
        """The answer as JSON, without braces; with ``only_missed`` only the results that are not ``sent``."""
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


class StoredPush(Struct, frozen=True):
    """The results of a stored push. ``replayed``: it had been stored before."""

    results: list[Result]
    replayed: bool = False

    @property
    def count(self) -> int:
        """The number of stored messages."""
        return sum(result.status == "stored" for result in self.results)

    def answer(self, only_missed: bool = False) -> bytes:
        """The answer as JSON, without braces, with all results."""
        return b'"sent":%d,"results":%b' % (self.count, _encode(self.results))


PushResult = Sent | StoredPush
"""A push that was carried out, live or by storing it."""


def send(api: PushApi, app: str, push: PushRequest, event: Event, key: str) -> PushResult:
    """Carry out a checked push, once for each ``key`` (``""``: it has none). May switch.

    Raises :class:`ApiProblem`.
    """
    if push.store:
        (stored,) = store_each(api, [CheckedPush(app, push, event, key)])
        if isinstance(stored, ApiProblem):
            raise stored
        return stored
    digest = hash(_encode(push)) if key else 0
    claim = api.ids.claim(app, key, digest)
    if not isinstance(claim, int):
        return repeated(push, claim)
    publishing, seconds = api.publishing, push.ttl_seconds
    outcomes: list[Outcome] = []
    try:
        if push.user is not UNSET:
            device = None if push.device is UNSET else push.device
            outcomes = publishing.to_users(app, [push.user], event, seconds, device)
        elif push.users is not UNSET:
            outcomes = publishing.to_users(app, push.users, event, seconds)
        else:
            except_users = tuple(push.except_users)
            outcomes = publishing.to_targets(app, targets_of(push), event, except_users, seconds, key)
    finally:
        api.ids.settle(claim, not ACCEPTED.isdisjoint(outcomes), digest, bytes(outcomes))
    if _FAILED in outcomes and nothing_accepted(outcomes):
        raise ApiProblem(errors.Problems.NOT_ACCEPTED)
    return Sent(push, outcomes)


def repeated(push: PushRequest, first: First | IdReused | None) -> Sent:
    """The results of the first request. Raises :class:`ApiProblem` if that was a different one."""
    if isinstance(first, IdReused):
        raise ApiProblem(errors.Problems.ID_REUSED)
    if first is None or not first.result:  # another node has them
        return Sent(push, [Outcome.REPEATED] * size(push), True)
    return Sent(push, [Outcome(number) for number in first.result], True)


# --- pushes that are stored ---------------------------------------------------------------------------------
#
# Each target is a message of the log. A push with a key is stored once for good: the ``client_msg_id`` of its
# messages is made of the key, and the log remembers it as long as the messages.

_DIGEST_BYTES: Final = 24
_INVALID: Final = Rejected(RejectReason.INVALID, "the receiver is the sender")

Done = Appended | Rejected | StorageUnavailable


class CheckedPush(Struct, frozen=True, gc=False):
    """A checked push to one app. ``key``: its id or Idempotency-Key, ``""`` without one."""

    app: str
    push: PushRequest
    event: Event
    key: str

    @property
    def digest(self) -> int:
        """Tells the push from another one under the same key; 0 without one."""
        return hash(_encode(self.push)) if self.key else 0


class _Drafts:
    """Drafts that the log has not settled yet."""

    def __init__(self) -> None:
        self._left = 0
        self._settled = Signal()

    def send(self, messaging: Messaging, app: str, draft: Draft, into: list[Any], index: int) -> None:
        """Send a draft; its result is put into ``into[index]``."""
        self._left += 1

        def done(result: Done) -> None:
            into[index] = result
            self._left -= 1
            if not self._left:
                self._settled.set()

        messaging.send(app, draft, done)

    def wait(self) -> None:
        """Wait for all of them. Switches."""
        while self._left:
            self._settled.clear()
            self._settled.wait()


def store_each(api: PushApi, pushes: Sequence[CheckedPush]) -> list[StoredPush | ApiProblem]:
    """Store pushes of one app together, in order. A refused one does not stop the others. Switches.

    No two of them may have the same key.
    """
    app, ids = pushes[0].app, api.ids
    if app.startswith(SYSTEM_PREFIX):
        return [ApiProblem(errors.Problems.STORE_UNAVAILABLE) for _ in pushes]
    digests = [checked.digest for checked in pushes]
    claims: list[Claimed | Waiting]
    if len(pushes) == 1:  # a push that holds no claim may wait for others
        claims = [ids.claim(app, pushes[0].key, digests[0])]
    else:
        claims = ids.claim_each(app, [checked.key for checked in pushes], digests)
    outcomes: list[list[Done]] = [[] for _ in pushes]
    waiting = _Drafts()
    try:
        for checked, claim, done in zip(pushes, claims, outcomes, strict=True):
            if not isinstance(claim, IdReused | Waiting):
                _hand_over(api, checked, done, waiting)
        waiting.wait()
    finally:
        for claim, done, digest in zip(claims, outcomes, digests, strict=True):
            if isinstance(claim, int):
                stored = any(isinstance(each, Appended) for each in done)
                ids.settle(claim, stored, digest, bytes([Outcome.STORED]))
    return [
        _finished(api, checked, claim, done)
        for checked, claim, done in zip(pushes, claims, outcomes, strict=True)
    ]


def _finished(
    api: PushApi, checked: CheckedPush, claim: Claimed | Waiting, outcomes: Sequence[Done]
) -> StoredPush | ApiProblem:
    if isinstance(claim, IdReused):
        return ApiProblem(errors.Problems.ID_REUSED)
    if isinstance(claim, Waiting):
        return store_each(api, [checked])[0]
    if nothing_accepted([_outcome_of(done) for done in outcomes]):
        return ApiProblem(errors.Problems.STORAGE_UNAVAILABLE)
    targets = targets_of(checked.push)
    results = [_result(target, done) for target, done in zip(targets, outcomes, strict=True)]
    return StoredPush(results, not isinstance(claim, int))


def _hand_over(api: PushApi, checked: CheckedPush, outcomes: list[Any], waiting: _Drafts) -> None:
    targets = targets_of(checked.push)
    outcomes += [_INVALID] * len(targets)
    for index, draft in enumerate(_drafts(checked, targets)):
        if draft.conversation or draft.to_user != draft.sender:
            waiting.send(api.messaging, checked.app, draft, outcomes, index)
        if not (index + 1) % YIELD_TARGETS:
            serve_others()


def _drafts(checked: CheckedPush, targets: Sequence[Target]) -> Iterator[Draft]:
    event, now = checked.event, int(time() * 1000)
    kind = "custom" if event.data and event.type == "text" else event.type
    body = event.data or event.text.encode()
    meta = in_meta(event.notify)
    alone = len(targets) == 1
    for number, target in enumerate(map(addressed, targets)):
        group = 0 if target.group is UNSET else int(target.group)
        yield Draft(
            sender=event.sender,
            type=kind,
            body=body,
            client_msg_id=_name(checked.key, number, alone),
            time_ms=now,
            meta=meta,
            to_user="" if target.user is UNSET else target.user,
            conversation=group,
            group=group != 0,
        )


def _name(key: str, number: int, alone: bool) -> str:
    """The ``client_msg_id`` of the message for one target: the key itself, if it is short enough."""
    if not key or (alone and len(key.encode()) <= Limit.CLIENT_MSG_ID_BYTES and "\0" not in key):
        return key
    return blake2b(f"{number} {key}".encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _outcome_of(done: Done) -> Outcome:
    if isinstance(done, Appended):
        return Outcome.STORED
    return Outcome.REFUSED if isinstance(done, Rejected) else Outcome.FAILED


def _result(target: Target, done: Done) -> Result:
    if isinstance(done, Appended):
        entry = done.entry
        return Result(target, "stored", StoredAt(entry.id, entry.conversation, entry.seq))
    if isinstance(done, Rejected):
        return Result(target, "refused", UNSET, done.reason)  # type: ignore[arg-type]
    return Result(target, "failed")
