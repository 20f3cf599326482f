"""``/api/v1/publisher``: a WebSocket over which a back end sends pushes and streamed messages.

A message is ``{"seq": …, "publish": {a push}}``, ``{"seq": …, "ping": {}}``, or the path of a route of
:mod:`.streamed` with its body. The answers come in the same order. Each has the ``seq`` of its message, and
``sent`` and ``results`` of a push, ``pong``, the fields of the route, or an ``error``
(:class:`PublishRefusal`). Messages that are read together are served together, so that many pushes share one
question to Redis.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Final

import gevent
import msgspec
from gevent.event import Event as Signal
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from imserver import errors
from imserver.api.v1 import streamed
from imserver.api.v1.push import (
    SENDING_PROBLEMS,
    CheckedPush,
    PushApi,
    PushResult,
    Sent,
    check,
    event_of,
    repeated,
    send,
    store_each,
)
from imserver.api.v1.push_request import PushRequest
from imserver.auth.authority import refusal
from imserver.auth.principal import PUSH, Principal, may
from imserver.clock import serve_others
from imserver.errors import HttpProblem
from imserver.http.call import Api, Call, decode, require_app, run_command
from imserver.http.operation import APP_PROBLEMS, PREFIX, Resource
from imserver.http.reply import ApiProblem
from imserver.model import ACCEPTED, DialectState, Event, Outcome
from imserver.protocol.dialect import PublisherDialect
from imserver.push.idempotency import UNTRACKED, Claimed, Waiting
from imserver.transport.connection import OPEN, Connection
from imserver.transport.exchange import HttpRequest, HttpResponse
from imserver.transport.gate import DialectPath, Head, host_of

log = logging.getLogger(__name__)

BATCH: Final = 256
"""The most commands that are served together. Then other connections have their turn."""
MAX_WAITING: Final = 4 * BATCH
"""The most commands of a connection that wait. Then its socket is not read."""
Seq = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=128)]


_STREAMS: Final = tuple(row.path.removeprefix(f"{PREFIX}/") for row in streamed.routes.rows)
OPEN_STREAM, APPEND, CLOSE_STREAM = _STREAMS
"""Commands with the bodies and the answers of these routes."""


class PublisherCommand(
    Struct,
    forbid_unknown_fields=True,
    rename={"open": OPEN_STREAM, "append": APPEND, "close": CLOSE_STREAM},
):
    """One message to the server. ``seq`` is yours, and comes back in the answer."""

    seq: Seq = 0
    publish: PushRequest | UnsetType = UNSET
    ping: dict[str, Any] | UnsetType = UNSET
    open: Raw | UnsetType = UNSET
    append: Raw | UnsetType = UNSET
    close: Raw | UnsetType = UNSET


class PublishRefusal(Struct):
    """Why a command was not carried out."""

    code: str
    message: str
    temporary: bool


class _Numbered(Struct):
    seq: Seq = 0


_command_of = msgspec.json.Decoder(PublisherCommand)
_number_of = msgspec.json.Decoder(_Numbered)
_refusal_of = msgspec.json.Decoder(PublishRefusal)
_encode = msgspec.json.Encoder().encode


class PublisherState(DialectState, kw_only=True):
    """Requests of a publisher connection that wait. Owner: :class:`Publisher`."""

    headers: dict[str, str]
    waiting: deque[bytes] = field(default_factory=deque)
    running: bool = False
    room: Signal | None = None
    """Set when there is room again; None if nothing waits for it."""


class Publisher:
    """Serves publisher connections. ``sending`` carries out their pushes."""

    path = PublisherDialect.path

    def __init__(self, api: Api, sending: PushApi, message_bytes: int) -> None:
        self._api = api
        self._sending = sending
        self._path = DialectPath(PublisherDialect(), self.serve, message_bytes, opened=self.opened)

    def choose(self, head: Head) -> DialectPath | HttpProblem:
        """Decide for the gate whether a client may publish."""
        principal = self._api.authority.identify(PUSH, head.headers, head.host)
        if may(principal, PUSH):
            return self._path
        problem, message = refusal(principal, PUSH)
        return replace(problem, message=message or problem.message)

    def opened(self, connection: Connection, head: Head) -> None:
        """A connection begins."""
        headers = {"authorization": head.headers.get("authorization", "")}
        connection.dialect_state = PublisherState(headers=headers)

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Take one message. Waits while the connection has too many commands."""
        line = connection.dialect_state
        assert isinstance(line, PublisherState)
        line.waiting.append(payload)
        if not line.running:
            line.running = True
            gevent.spawn(self._run, connection, line)
        elif len(line.waiting) >= MAX_WAITING:
            line.room = line.room or Signal()
            line.room.wait()

    def _run(self, connection: Connection, line: PublisherState) -> None:
        """Greenlet: serve waiting commands until there are none. It starts after the current read."""
        waiting = line.waiting
        try:
            while waiting:
                some = [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
                answers = self._serve_each(connection, line, some)
                if answers and connection.state == OPEN:
                    frame = connection.encoding.frame
                    connection.send_frame(b"".join([frame(answer) for answer in answers]))
                room, line.room = line.room, None
                if room is not None:
                    room.set()
                if waiting:
                    serve_others()
        except Exception:
            log.exception("publishing failed", extra={"connection": connection.peer})
            waiting.clear()
            connection.close(errors.CLOSE_INTERNAL_ERROR)
        finally:
            line.running = False
            if line.room is not None:
                line.room.set()

    def _serve_each(self, connection: Connection, line: PublisherState, payloads: list[bytes]) -> list[bytes]:
        """Carry out commands. Returns the answers in order."""
        api = self._api
        # Checked each time: the key may have been revoked or changed.
        principal = api.authority.identify(PUSH, line.headers, "")
        if not may(principal, PUSH):
            line.waiting.clear()
            connection.close(errors.CLOSE_TOKEN_INVALID)
            return []
        commands = [self._read(payload, principal, connection) for payload in payloads]
        answers: list[bytes] = []
        for streaming, some in groupby(commands, _is_streaming):
            if streaming:
                answers += [self._stream(command, principal, connection) for command in some]
            else:
                answers += self._publish_each([*some], principal)
        return answers

    def _publish_each(self, commands: list[PublisherCommand | bytes], principal: Principal) -> list[bytes]:
        """Carry out successive pushes, pings and refused commands."""
        named = [command.publish for command in commands if isinstance(command, PublisherCommand)]
        pushes = [push for push in named if push is not UNSET]
        sent = iter(send_each(self._api, self._sending, principal, pushes))
        answers = []
        for command in commands:
            if isinstance(command, bytes):
                answers.append(command)
            elif command.publish is UNSET:
                answers.append(b'{"seq":%b,"pong":{}}' % _encode(command.seq))
            else:
                answers.append(_answer(command.seq, next(sent)))
        return answers

    def _stream(
        self, command: PublisherCommand | bytes, principal: Principal, connection: Connection
    ) -> bytes:
        """Carry out a command on a streamed message, as its route would. Switches."""
        assert isinstance(command, PublisherCommand)
        bodies = {OPEN_STREAM: command.open, APPEND: command.append, CLOSE_STREAM: command.close}
        ((name, body),) = [(name, bytes(body)) for name, body in bodies.items() if body is not UNSET]
        endpoint = self._api.commands[name]
        request = HttpRequest("POST", endpoint.route.path, b"", body, {}, host_of(connection.peer))
        finished = run_command(self._api, endpoint, principal, request)
        serve_others()
        seq = _encode(command.seq)
        if finished.status >= 400:
            return b'{"seq":%b,"error":%b}' % (seq, _encode(_refusal_of.decode(finished.body)))
        return b'{"seq":%b,%b' % (seq, finished.body[1:])

    def _read(self, payload: bytes, principal: Principal, connection: Connection) -> PublisherCommand | bytes:
        """Decode one command; or the refusal of an invalid one."""
        try:
            command = decode(_command_of, payload)
            commands = (command.publish, command.ping, command.open, command.append, command.close)
            if commands.count(UNSET) != len(commands) - 1:
                names = ", ".join(f"`{name}`" for name in ("publish", "ping", *_STREAMS))
                raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"Give one of {names}")
            self._api.rates.require(principal, host_of(connection.peer))
        except ApiProblem as problem:
            return _refused(_seq_of(payload), problem)
        return command


def _is_streaming(command: PublisherCommand | bytes) -> bool:
    """Whether it is a command on a streamed message."""
    return isinstance(command, PublisherCommand) and command.publish is UNSET and command.ping is UNSET


def _seq_of(payload: bytes) -> Seq | None:
    """The ``seq`` of an invalid command, if it has one."""
    try:
        return _number_of.decode(payload).seq
    except (ValueError, RecursionError):
        return None


def _answer(seq: Seq, sent: PushResult | ApiProblem) -> bytes:
    if isinstance(sent, ApiProblem):
        return _refused(seq, sent)
    if sent.all_sent:
        return b'{"seq":%b,"sent":%d}' % (_encode(seq), sent.count)
    return b'{"seq":%b,%b}' % (_encode(seq), sent.answer(only_missed=True))


def _refused(seq: Seq | None, problem: ApiProblem) -> bytes:
    row = problem.problem
    refusal = PublishRefusal(row.code, problem.detail or row.message, row.temporary)
    return b'{"seq":%b,"error":%b}' % (_encode(seq), _encode(refusal))


# --- successive pushes --------------------------------------------------------------------------------------


def send_each(
    api: Api, sending: PushApi, principal: Principal, pushes: Sequence[PushRequest]
) -> list[PushResult | ApiProblem]:
    """Carry out many pushes in order. A refused one does not stop the others. May switch.

    Successive pushes to one user each, in one app, share one question to the registry. Successive pushes that
    are stored share one transaction.
    """
    run = _Run(sending)
    for push in pushes:
        try:
            app = api.tenants.resolve(push.app)
            require_app(api, principal, PUSH, app)
            event = event_of(api.limits, push)
            check(api.limits, push)
        except ApiProblem as problem:
            run.results.append(problem)
            continue
        run.take(app, push, event)
    run.finish()
    return run.results


class _Run:
    """Successive pushes of one kind that wait for more, and the results so far, in order."""

    def __init__(self, api: PushApi) -> None:
        self._api = api
        self.results: list[PushResult | ApiProblem] = []
        self._waiting: list[tuple[int, CheckedPush]] = []
        self._kind = self._app = ""
        self._ids: set[str] = set()

    def take(self, app: str, push: PushRequest, event: Event) -> None:
        """The next push. May switch."""
        kind = _kind_of(push)
        if self._waiting and (kind != self._kind or app != self._app or push.id in self._ids):
            self.finish()
        if kind == "alone":
            try:
                self.results.append(send(self._api, app, push, event, push.id))
            except ApiProblem as problem:
                self.results.append(problem)
            return
        self._waiting.append((len(self.results), CheckedPush(app, push, event, push.id)))
        self.results.append(_NOT_YET)
        self._kind, self._app = kind, app
        if push.id:
            self._ids.add(push.id)

    def finish(self) -> None:
        """Carry out what waits. May switch."""
        run, self._waiting = self._waiting, []
        self._ids = set()
        if run and self._kind == "stored":
            stored_each = store_each(self._api, [checked for _, checked in run])
            for (index, _), stored in zip(run, stored_each, strict=True):
                self.results[index] = stored
        elif run:
            _send_run(self._api, run, self.results)


def _kind_of(push: PushRequest) -> str:
    if push.store:
        return "stored"
    plain = push.user is not UNSET and push.device is UNSET and not push.ttl_seconds
    return "plain" if plain else "alone"


_NOT_YET: Final = ApiProblem(errors.HTTP_INTERNAL_ERROR)


def _send_run(
    api: PushApi, run: list[tuple[int, CheckedPush]], results: list[PushResult | ApiProblem]
) -> None:
    """Carry out pushes to one user each, all in one app; their results by index. May switch."""
    app, ids = run[0][1].app, api.ids
    keys = [checked.key for _, checked in run]
    digests = [0] * len(run)
    claims: list[Claimed | Waiting] = [UNTRACKED] * len(run)
    if any(keys):  # most pushes have no id
        digests = [checked.digest for _, checked in run]
        claims = ids.claim_each(app, keys, digests)
    mine = [
        (checked, claim, digest)
        for (_, checked), claim, digest in zip(run, claims, digests, strict=True)
        if isinstance(claim, int)
    ]
    outcomes: Sequence[Outcome] = [Outcome.FAILED] * len(mine)
    try:
        users, events = (
            [str(checked.push.user) for checked, _, _ in mine],
            [checked.event for checked, _, _ in mine],
        )
        outcomes = api.publishing.to_each(app, users, events)
    finally:
        for (_, claim, digest), outcome in zip(mine, outcomes, strict=True):
            if claim:
                ids.settle(claim, outcome in ACCEPTED, digest, bytes([outcome]))
    outcome_of = iter(outcomes)
    alone: list[tuple[int, CheckedPush]] = []
    for (index, checked), found in zip(run, claims, strict=True):
        try:
            if isinstance(found, int):
                outcome = next(outcome_of)
                refused = outcome is Outcome.FAILED
                results[index] = (
                    ApiProblem(errors.HTTP_NOT_ACCEPTED) if refused else Sent(checked.push, [outcome])
                )
            elif isinstance(found, Waiting):
                alone.append((index, checked))
            else:
                results[index] = repeated(checked.push, found)
        except ApiProblem as problem:
            results[index] = problem
    for index, checked in alone:
        try:
            results[index] = send(api, app, checked.push, checked.event, checked.key)
        except ApiProblem as problem:
            results[index] = problem


# --- the route ----------------------------------------------------------------------------------------------

routes = Resource("push", service=lambda _, api: api)


@routes.get(
    "/publisher",
    PUSH,
    status=101,
    problems=(
        errors.HTTP_NOT_AN_UPGRADE,
        *APP_PROBLEMS,
        *SENDING_PROBLEMS,
        errors.HTTP_TOO_MANY_STREAMS,
    ),
)
def publisher(_api: Api, _call: Call) -> HttpResponse:
    """Push and stream over a WebSocket.

    A WebSocket for back ends that push continuously. Each message is a command, `{"seq": 1, "publish": {…the
    body of a push…}}`. You need not wait for one answer before you send the next command. The server answers
    in order: `{"seq": 1, "sent": 1}` if all targets received the push. Otherwise the answer also has
    `results` of the other targets (of all targets if the push was stored), or `error`. `{"seq": 2, "ping":
    {}}` is answered with `{"seq": 2, "pong": {}}`.

    The paths `channels/stream/open`, `channels/stream/append` and `channels/stream/close` are commands, too,
    with the bodies of these routes. The answer has `seq` and the fields of the answer of the route.
    """
    raise ApiProblem(errors.HTTP_NOT_AN_UPGRADE)
