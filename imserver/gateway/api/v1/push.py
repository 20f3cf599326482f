"""``/api/v1/push``: the route, and how pushes are checked and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from imserver.gateway.api.v1.push_request import (
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
from imserver.gateway.auth.principal import Needs
from imserver.gateway.errors import HttpProblem, Problems, StorageUnavailable
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.limits import Limits, spent
from imserver.gateway.http.operation import Header, Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.model import ACCEPTED, Event, Outcome, encode_json
from imserver.gateway.notify import Notify, encode_notify
from imserver.gateway.protocol.forgiving import check_json
from imserver.gateway.push.idempotency import First, IdReused
from imserver.gateway.push.push import nothing_accepted
from imserver.gateway.push.targets import PushToStore, StoreResult, Target, addressed
from imserver.gateway.transport.http1 import HttpResponse

_decode_text: Final = msgspec.json.Decoder(str).decode
"""Decodes a text in JSON. The decoder is made once, because it is called for
each push."""

IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "The server does not execute a repeated request with the same key. The node that "
    "served the first request repeats its answer (a node remembers at least the last "
    "50,000 answers). Any other node answers `repeated`.",
    example="order-4711",
)

SENDING_PROBLEMS: Final = (
    Problems.TOO_MANY_TARGETS,
    Problems.STORE_UNAVAILABLE,
    Problems.ID_REUSED,
    Problems.NOT_ACCEPTED,
)
"""The refusals of every route that sends. Such a route also has the refusals of
all requests that name an app."""


_REPLAYED: Final = (("Idempotent-Replayed", "true"),)
routes = Resource("push", service=lambda _, api: api)


@routes.post(
    "/push",
    Needs.PUSH,
    act="",
    body=PushRequest,
    takes_many=True,
    answer=PushAnswer,
    problems=SENDING_PROBLEMS,
    headers=(IDEMPOTENCY_KEY,),
    answer_headers=(
        Header(
            "Idempotent-Replayed",
            "`true`: this request was executed before. The answer is the answer to "
            "the first request.",
            example="true",
        ),
    ),
    rules=PUSH_RULES,
)
def push(api: Api, call: Call) -> HttpResponse:
    """Push a message.

    Delivers a message to connected targets: users (all devices or one),
    connections, channels, or the whole app. One push may have targets of
    several kinds. The server answers with a result for each target as soon as
    it has queued the message for their connections. With `store`, the server
    stores the message for users and groups before it answers, and the answer
    has the position of the message.
    """
    request: PushRequest = call.input
    event = checked_event(api.limits, request)
    checked = CheckedPush(call.app, request, event, key_of(call) or request.id)
    sent = send(api, checked)
    body = b"{%b}" % sent.answer()
    if sent.replayed:
        return call.reply(body, _REPLAYED)
    return call.reply(body)


def key_of(call: Call) -> str:
    """Return the Idempotency-Key of a request, or ``""``.

    The key lets a client repeat a request safely: the server executes it once.
    Raises :class:`ApiProblem` if the key is too long.
    """
    key = call.request.headers.get("idempotency-key", "")
    if len(key) > MAX_ID_CHARACTERS:
        raise ApiProblem.invalid(
            f"Idempotency-Key is longer than {MAX_ID_CHARACTERS} characters"
        )
    return key


# --- checks -------------------------------------------------------------------


def checked_event(limits: Limits, push: PushRequest) -> Event:
    """Check a push, and make the event that its targets receive.

    Raises :class:`ApiProblem` if the push contradicts itself, or is too large.
    """
    event = event_of(limits, push)
    kinds = (
        push.targets,
        push.user,
        push.users,
        push.connection,
        push.channel,
        push.group,
    )
    # `all` is a bool, and counts as one kind of target if it is true.
    if len(kinds) - kinds.count(UNSET) + push.all != 1:
        raise ApiProblem.invalid(
            "Give one of `targets`, `user`, `users`, `connection`, `channel`, "
            "`group`, or `all: true`"
        )
    if push.device is not UNSET and push.user is UNSET:
        raise ApiProblem.invalid("`device` needs `user`")
    if push.user is UNSET and size(push) > limits.batch_targets:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)
    if len(push.except_users) > limits.batch_targets:
        raise ApiProblem(Problems.TOO_MANY_TARGETS)

    if push.store:
        _check_stored(push)
    if push.notify is UNSET:
        return event
    return replace(event, notify=notify_bytes(push.notify))


def _check_stored(push: PushRequest) -> None:
    """Refuse a push that the message log cannot store.

    The log stores messages of users and groups only. Raises
    :class:`ApiProblem`.
    """
    if isinstance(push.message, PushMessage):
        message = push.message
    else:
        message = push
    if message.code or message.note or push.ttl_seconds or push.except_users:
        raise ApiProblem.invalid(
            "With `store` there is no `code`, `note`, `ttl_seconds` or `except_users`"
        )
    # Each target is a user, on all devices.
    if push.users is not UNSET:
        return

    for target in map(addressed, targets_of(push)):
        is_storable = target.user is not UNSET or target.group is not UNSET
        if not is_storable or target.device is not UNSET:
            raise ApiProblem.invalid(_why_not_stored(target))


def _why_not_stored(target: Target) -> str:
    """Say why a push to this target cannot be stored, and what a channel needs
    instead."""
    text = "`store` is only for users, on all their devices, and for groups"
    if target.channel is not UNSET:
        text += (
            f". Pushes to `{target.channel}` are stored, without `store`, "
            "if its namespace has `history: log` in `channels` of the "
            "app's settings"
        )
    return text


def event_of(limits: Limits, push: Sending) -> Event:
    """Make the event that the receivers of a message get.

    Raises :class:`ApiProblem` if the message is invalid or too long.
    """
    message: PushMessage = push
    # The content is in `message`, or beside the targets as `text` or `data`.
    if push.message is not UNSET or (push.text is UNSET and push.data is UNSET):
        message = _message_of(push)
    if (message.text is UNSET) == (message.data is UNSET):
        raise ApiProblem.invalid("A message has one of `text` and `data`")

    if message.text is UNSET:
        text, data = _payload(message.data, limits.push_characters)
    else:
        text = message.text
        data = b""
    if not text and not data:
        raise ApiProblem.invalid("The message is empty: give `text` or `data`")
    # An outbox is the bytes that wait for one connection. A message that is
    # longer than an outbox could never be sent.
    characters = len(text) + len(data) + len(push.id) + len(push.sender)
    if characters > limits.push_characters:
        raise ApiProblem.invalid("The message is too long for an outbox")

    # The arguments are given by position, which is faster than by keyword: each
    # push makes an event.
    return Event(
        "msg",
        push.sender,
        text,
        push.id,
        message.type,
        data,
        message.code,
        message.note,
        int(time()),
    )


def notify_bytes(notify: Notify | bool) -> bytes:
    """Encode the field ``notify`` of a request as it is stored.

    Raises :class:`ApiProblem`.
    """
    try:
        return encode_notify(notify)
    except ValueError as wrong:
        raise ApiProblem.invalid(f"`notify`: {wrong}") from None


def _message_of(push: Sending) -> PushMessage:
    """Return the content of a message that is given as `message`.

    It is a text, or an object with a type. Raises :class:`ApiProblem`.
    """
    message = push.message
    if message is UNSET or push.text is not UNSET or push.data is not UNSET:
        raise ApiProblem.invalid("Give one of `message`, `text` and `data`")
    if isinstance(message, str):
        return PushMessage(push.type, message, UNSET, push.code, push.note)
    if push.type != "text" or push.code or push.note:
        raise ApiProblem.invalid(
            "With `message`, put `type`, `code` and `note` into it"
        )
    return message


MOST_ESCAPE_BYTES: Final = 6
"""The most bytes of a character in JSON. In the limit of a push, a character
counts for at least one byte."""


def _payload(raw: Any, most_bytes: int) -> tuple[str, bytes]:
    """Convert the ``data`` of a message to a text or to JSON on one line.

    Returns the text and the JSON; one of them is empty. A string of JSON
    becomes a text. Data that are too long are not checked, because the caller
    refuses them. Raises :class:`ApiProblem`.
    """
    data = bytes(raw)
    try:
        if data[:1] == b'"':
            # A string of this length is too long, even if each character of it
            # is an escape.
            if len(data) > MOST_ESCAPE_BYTES * (most_bytes + 1):
                return "", data
            return _decode_text(data), b""
        on_one_line = msgspec.json.format(data, indent=-1)
        if len(on_one_line) <= most_bytes:
            # The decoder has only skipped this JSON. It is checked here,
            # because clients must get valid JSON.
            check_json(on_one_line)
        return "", on_one_line
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(f"{error} - at `$.data`") from None


# --- carrying out -------------------------------------------------------------

_FAILED: Final = Outcome.FAILED
"""A name for the outcome, because reading it from the class for each push would
take 0.07 µs."""
_OF_ONE: Final = tuple(
    b'"sent":%d,"results":[{"target":{"user":%%b},"status":"%b"}]'
    % (outcome in (Outcome.SENT, Outcome.PARTLY), STATUSES[outcome].encode())
    for outcome in sorted(Outcome)
)
"""The answer to a push to one user, by its outcome: JSON without braces, with
``%b`` in place of the user. Example:
``"sent":1,"results":[{"target":{"user":%b},"status":"sent"}]``."""


class _User(Struct, gc=False):
    """A target of an answer that is a user."""

    user: str


class _UserResult(Struct, gc=False):
    """A result of an answer whose target is a user."""

    target: _User
    status: str


class Sent(Struct, gc=False):
    """The results of a push that was sent.

    ``outcomes`` has one outcome for each target. If ``replayed`` is set, the
    outcomes come from an earlier request with the same key.
    """

    push: PushRequest
    outcomes: list[Outcome]
    replayed: bool = False

    def answer(self, only_missed: bool = False) -> bytes:
        """Encode the answer as JSON without braces: ``"sent":1,"results":[…]``.

        If ``only_missed`` is set, the answer leaves out results with the status
        ``sent``.
        """
        push = self.push
        outcomes = self.outcomes
        # Most pushes are to one user. Their answers are made in advance.
        if push.user is not UNSET and push.device is UNSET:
            return _OF_ONE[outcomes[0]] % encode_json(push.user)

        left_out = None  # the outcome whose results are left out
        if only_missed:
            left_out = Outcome.SENT
        results: list[Any]
        if push.users is not UNSET:
            results = [
                _UserResult(_User(user), STATUSES[outcome])
                for user, outcome in zip(push.users, outcomes, strict=True)
                if outcome is not left_out
            ]
        else:
            results = [
                Result(target, STATUSES[outcome])
                for target, outcome in zip(targets_of(push), outcomes, strict=True)
                if outcome is not left_out
            ]
        count = outcomes.count(Outcome.SENT) + outcomes.count(Outcome.PARTLY)
        return b'"sent":%d,"results":%b' % (count, encode_json(results))


class StoredPush(Struct, frozen=True):
    """The results of a push that was stored in the message log.

    If ``replayed`` is set, an earlier request had stored the push.
    """

    results: list[Result]
    replayed: bool = False

    def answer(self, only_missed: bool = False) -> bytes:
        """Encode the answer as JSON without braces, as :meth:`Sent.answer`
        does.

        The answer always has all results, because clients need the positions.
        """
        count = sum(result.status == "stored" for result in self.results)
        return b'"sent":%d,"results":%b' % (count, encode_json(self.results))


PushResult = Sent | StoredPush
"""A push that was carried out, live or by storing it."""


def send(api: Api, checked: CheckedPush) -> PushResult:
    """Send a push, only once for each key.

    A *claim* is the record that this node executes the push with this key. A
    repetition has the results of the first push. May switch greenlets. Raises
    :class:`ApiProblem`.
    """
    core = api.core
    app = checked.app
    push = checked.push
    event = checked.event
    key = checked.key
    if push.store:
        (stored,) = store_each(api, [checked])
        if isinstance(stored, ApiProblem):
            raise stored
        return stored

    digest = checked.digest
    claim = core.idempotency.claim(app, key, digest)
    # If the value is a number, it is the claim of this push. Otherwise it
    # describes the first push with this key.
    if not isinstance(claim, int):
        return repeated(push, claim)

    publishing = core.publishing
    seconds = push.ttl_seconds
    outcomes: list[Outcome] = []
    try:
        pushes = core.metrics.pushes
        # The quota of the app is looked up only if some app has a quota of
        # pushes.
        if pushes.stops:
            quota = pushes.spent(app)
            if quota is not None:
                raise spent(quota)
        if push.user is not UNSET:
            device = None
            if push.device is not UNSET:
                device = push.device
            outcomes = publishing.to_each(app, [push.user], [event], seconds, device)
        elif push.users is not UNSET:
            events = [event] * len(push.users)
            outcomes = publishing.to_each(app, push.users, events, seconds)
        else:
            except_users = tuple(push.except_users)
            outcomes = publishing.to_targets(
                app, targets_of(push), event, except_users, seconds, key
            )
    finally:
        # To settle a claim is to record the outcome. The claim is settled even
        # after an error, because repetitions of this push wait for the outcome.
        is_accepted = not ACCEPTED.isdisjoint(outcomes)
        core.idempotency.settle(claim, is_accepted, digest, bytes(outcomes))
    if _FAILED in outcomes and nothing_accepted(outcomes):
        raise ApiProblem(Problems.NOT_ACCEPTED)
    return Sent(push, outcomes)


def repeated(push: PushRequest, first: First | IdReused | None) -> Sent:
    """Return the results of the first request with this key.

    ``first`` is the record of the first request (:data:`Claimed`). Raises
    :class:`ApiProblem` if the first request was a different push.
    """
    if isinstance(first, IdReused):
        raise ApiProblem(Problems.ID_REUSED)
    if first is None or not first.result:
        # Another node has the results.
        return Sent(push, [Outcome.REPEATED] * size(push), replayed=True)
    # Each byte is the number of an outcome; see send().
    return Sent(push, [Outcome(number) for number in first.result], replayed=True)


# --- pushes that are stored ---------------------------------------------------


class CheckedPush(Struct, frozen=True, gc=False):
    """A checked push to one app.

    ``event`` is what its targets receive. ``key`` is its id or Idempotency-Key,
    or ``""``.
    """

    app: str
    push: PushRequest
    event: Event
    key: str

    @property
    def digest(self) -> int:
        """A hash of the push, which shows whether a repeated key means the same
        push.

        The result is 0 if the push has no key.
        """
        if self.key:
            return hash(encode_json(self.push))
        return 0


def store_each(
    api: Api, pushes: Sequence[CheckedPush]
) -> list[StoredPush | ApiProblem]:
    """Store pushes of one app with different keys, in order.

    Returns a result or a problem for each. A refused push does not stop the
    others. Switches greenlets.
    """
    rows = [
        PushToStore(targets_of(each.push), each.event, each.key, each.digest)
        for each in pushes
    ]
    app = pushes[0].app
    results = api.core.publishing.stored_pushes.store_each(app, rows)
    return [_stored(row, result) for row, result in zip(rows, results, strict=True)]


def _stored(
    push: PushToStore, result: StoreResult | HttpProblem | StorageUnavailable
) -> StoredPush | ApiProblem:
    """Convert the result of the message log to the result for the sender.

    A refused push becomes a problem. Otherwise each target has a result, with
    the position of its message or the reason why it was refused.
    """
    if isinstance(result, StorageUnavailable):
        return spent(result)
    if isinstance(result, HttpProblem):
        return ApiProblem(result)
    results = []
    # The result of a stored message has a position. All other results may have
    # a reason.
    for target, each in zip(push.targets, result.results, strict=True):
        row = Result(target, STATUSES[each.outcome], UNSET, each.reason or UNSET)  # type: ignore[arg-type]
        if each.outcome is Outcome.STORED:
            row.stored = StoredAt(each.id, each.conversation, each.seq)
            row.reason = UNSET
        results.append(row)
    return StoredPush(results, result.replayed)
