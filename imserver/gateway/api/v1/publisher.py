"""``/api/v1/publisher``: a WebSocket over which a back end sends pushes and
streamed messages.

A message is ``{"seq": …, "publish": {a push}}``, ``{"seq": …, "ping": {}}``, or
the path of a route with ``on_publisher`` and its body. The answers come in the
order of the messages. Each has the ``seq`` of its message. It also has ``sent``
and ``results`` of a push, ``pong``, the fields of the route, or an ``error``
(:class:`PublishRefusal`). Messages that are read together are served together,
so that many pushes share one question to Redis.
"""

import logging
import re
from collections import Counter, deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Final

import gevent
import msgspec
from gevent.event import Event as Flag
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.json import encode
from msgspec.structs import replace

from imserver.gateway.api.v1.push import (
    SENDING_PROBLEMS,
    CheckedPush,
    PushResult,
    Sent,
    checked_event,
    repeated,
    send,
    store_each,
)
from imserver.gateway.api.v1.push_request import PushRequest
from imserver.gateway.auth.authority import refusal
from imserver.gateway.auth.principal import Needs, Principal
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import CloseCode, HttpProblem, Problems
from imserver.gateway.http.call import Api, Call, require_app
from imserver.gateway.http.limits import spent
from imserver.gateway.http.operation import APP_PROBLEMS, Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.logging import request_id
from imserver.gateway.model import ACCEPTED, DialectState, Outcome, Service
from imserver.gateway.protocol.dialect import PublisherDialect
from imserver.gateway.push.idempotency import (
    UNTRACKED,
    Claimed,
    First,
    IdReused,
    Waiting,
)
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import DialectPath, Head, host_of
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse

BATCH: Final = 256
"""The most commands of a connection that are served together. After them, other
connections have their turn."""
MAX_WAITING: Final = 4 * BATCH
"""If so many commands of a connection wait, its socket is not read."""
_SWITCHING_PROTOCOLS: Final = 101
Seq = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=128)]


class PublisherCommand(Struct, forbid_unknown_fields=True):
    """One message to the server. ``seq`` is yours, and comes back in the
    answer.

    On a node it also has a field for each route with ``on_publisher``, the body
    of that route.
    """

    seq: Seq = 0
    publish: PushRequest | UnsetType = UNSET
    ping: dict[str, Any] | UnsetType = UNSET


class PublishRefusal(Struct):
    """Why a command was not carried out."""

    code: str
    message: str
    temporary: bool


class _Numbered(Struct):
    """The ``seq`` of a command. The rest of the command cannot be read."""

    seq: Seq = 0


_BEGIN_WITH_SEQ: Final = re.compile(
    rb'\s*\{\s*"seq"\s*:\s*(?:-?[0-9]{1,20}|"[^"\\]{0,128}")'
)
_number_of = msgspec.json.Decoder(_Numbered)


class PublisherState(DialectState, kw_only=True):
    """The commands of a publisher connection that wait.

    ``headers`` are the credentials of the connection. ``running`` says whether
    a greenlet serves the commands. :class:`Publisher` owns this state.
    """

    headers: dict[str, str]
    waiting: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    running: bool = False
    space_freed: Flag | None = None
    """Wakes the greenlet that reads the socket, if it has stopped because too
    many commands wait. None means that the greenlet has not stopped."""


def _decoder_of_commands(
    names: dict[str, str],
) -> msgspec.json.Decoder[PublisherCommand]:
    """Make the decoder of commands: name of a field → name of its route.

    The bodies of these routes stay undecoded.
    """
    kind = msgspec.defstruct(
        "PublisherCommand",
        [(field, Raw | UnsetType, UNSET) for field in names],
        bases=(PublisherCommand,),
        rename=names,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(kind)


class Publisher:
    """Serves publisher connections."""

    path = PublisherDialect.path

    def __init__(self, api: Api) -> None:
        """Make the decoder of commands, which depends on the routes of the
        node.

        The type of a command gets a field for each route with ``on_publisher``.
        The field has the name of the route, such as ``channels/stream/open``.
        """
        self._api = api
        longest = api.core.config.limits.body_bytes
        self._most_waiting_bytes = longest
        self._path = DialectPath(
            PublisherDialect(), self.serve, longest, opened=self.opened
        )
        # A field of a Struct has no slash in its name.
        names = {
            name.replace("/", "_"): name
            for name, endpoint in api.commands.items()
            if endpoint.route.on_publisher
        }
        self._decoder = _decoder_of_commands(names)
        self._names = ("publish", "ping", *names.values())
        self._bodies_of = attrgetter("publish", "ping", *names)
        """The values of these fields, each UNSET or the body of a command."""

    def choose(self, head: Head) -> DialectPath | HttpProblem:
        """Decide whether a client may open a publisher connection.

        Returns the path for the gate, or the problem that refuses the client.
        """
        principal = self._api.authority.identify(Needs.PUSH, head.headers, head.host)
        if principal.may(Needs.PUSH):
            return self._path
        self._count(
            principal,
            app="",
            host=head.host,
            route=self.path,
            refused=True,
        )
        problem, message = refusal(principal, Needs.PUSH)
        return replace(problem, message=message or problem.message)

    def opened(self, connection: Connection, head: Head) -> None:
        """Begin to serve a connection: check its key, and log the request.

        The server closes the connection when the key is revoked or expires.
        """
        headers = {"authorization": head.headers.get("authorization", "")}
        connection.dialect_state = PublisherState(headers=headers)
        principal = self._api.authority.identify(Needs.PUSH, headers, head.host)
        if principal.kind == "key":
            self._api.keys.hold(principal.key, connection)
        self._count(
            principal,
            app="",
            host=head.host,
            route=self.path,
            refused=False,
        )

        id = request_id(head.headers.get("x-request-id", ""))
        # The connection has not ended, so it has no duration and no size.
        self._api.core.node.request_log.add(
            "GET",
            self.path,
            _SWITCHING_PROTOCOLS,
            seconds=0.0,
            peer=head.host,
            bytes_out=0,
            request_id=id,
            by=principal.label,
        )

    def _count(
        self,
        by: Principal,
        app: str,
        host: str,
        route: str,
        refused: bool,
        number: int = 1,
    ) -> None:
        """Count uses of a key for the report about keys.

        ``route`` is the name in the report. Other principals are not counted.
        """
        if by.kind == "key":
            self._api.uses.add((by.key, f"GET {route}", app, host), refused, number)

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Queue one command.

        While too many commands of the connection wait, this method waits, too,
        so that its socket is not read.
        """
        state = connection.dialect_state
        assert isinstance(state, PublisherState)
        state.waiting.append(payload)
        state.waiting_bytes += len(payload)
        if not state.running:
            state.running = True
            gevent.spawn(self._run_waiting, connection, state)
        elif (
            len(state.waiting) >= MAX_WAITING
            or state.waiting_bytes >= self._most_waiting_bytes
        ):
            state.space_freed = state.space_freed or Flag()
            state.space_freed.wait()

    def _run_waiting(self, connection: Connection, state: PublisherState) -> None:
        """Greenlet: serve commands until no command waits.

        The first message of a read of the socket starts this greenlet, but the
        greenlet runs only after the read. So all messages of the read are
        served together.
        """
        waiting = state.waiting
        try:
            while waiting:
                count = min(len(waiting), BATCH)
                payloads = [waiting.popleft() for _ in range(count)]
                state.waiting_bytes -= sum(map(len, payloads))
                answers = self._serve_each(connection, state, payloads)
                if answers and connection.is_open:
                    frame = connection.encoding.frame
                    frames = b"".join([frame(answer) for answer in answers])
                    connection.send_frame(frames)

                # If serve() waits, it may continue.
                space_freed = state.space_freed
                state.space_freed = None
                if space_freed is not None:
                    space_freed.set()
                if waiting:
                    serve_others()
        except Exception:
            logging.getLogger(__name__).exception(
                "publishing failed", extra={"connection": connection.peer}
            )
            waiting.clear()
            connection.close(CloseCode.INTERNAL_ERROR)
        finally:
            state.running = False
            # After an error, serve() must not wait for ever.
            if state.space_freed is not None:
                state.space_freed.set()

    def _serve_each(
        self, connection: Connection, state: PublisherState, payloads: list[bytes]
    ) -> list[bytes]:
        """Execute commands, and count them for their key.

        Returns the answers in the order of the commands, or an empty list if
        the connection is closed. Switches greenlets.
        """
        api = self._api
        # The key is checked each time, because it may have been revoked or
        # changed.
        principal = api.authority.identify(Needs.PUSH, state.headers, "")
        if not principal.may(Needs.PUSH):
            state.waiting.clear()
            connection.close(CloseCode.TOKEN_INVALID)
            return []

        commands = []
        for payload in payloads:
            commands.append(self._read(payload, principal, connection))
            if is_long_turn():
                serve_others()

        batch = _CommandBatch(api, principal)
        host = host_of(connection.peer)
        for command in commands:
            if isinstance(command, bytes):
                # The command is invalid: these are the bytes of its refusal.
                batch.results.append(command)
            elif command.publish is not UNSET:
                batch.add(command.publish)
            elif command.ping is not UNSET:
                batch.results.append(b'{"seq":%b,"pong":{}}' % encode(command.seq))
            else:
                # The pushes before the command are carried out before it.
                batch.send_waiting()
                batch.results.append(self._run_route(command, principal, connection))
        batch.send_waiting()

        invalid = sum([isinstance(command, bytes) for command in commands])
        if invalid:
            # The app of a command that cannot be read is unknown.
            batch.counts["", True] += invalid
        # The audit of keys has pushes under this name.
        route = f"{PublisherDialect.path} publish"
        for (app, refused), number in batch.counts.items():
            self._count(
                principal,
                app=app,
                host=host,
                route=route,
                refused=refused,
                number=number,
            )

        # Answers to pushes are encoded here. All others were encoded when they
        # were made.
        answers = []
        for command, result in zip(commands, batch.results, strict=True):
            if isinstance(result, bytes):
                answers.append(result)
            else:
                answers.append(_answer(command, result))
        return answers

    def _run_route(
        self, command: PublisherCommand, principal: Principal, connection: Connection
    ) -> bytes:
        """Execute a command that is the name of a route, as the route would do.

        Returns the encoded answer. Switches greenlets.
        """
        bodies = zip(self._names, self._bodies_of(command), strict=True)
        # _read() has checked that the command has exactly one body.
        ((name, body),) = [(name, body) for name, body in bodies if body is not UNSET]
        endpoint = self._api.commands[name]
        request = HttpRequest(
            "POST",
            endpoint.route.path,
            query=b"",
            body=bytes(body),
            headers={},
            host=host_of(connection.peer),
        )
        response = self._api.run(endpoint, principal, request)
        serve_others()

        seq = encode(command.seq)
        if response.status >= 400:
            refusal = msgspec.json.decode(response.body, type=PublishRefusal)
            return b'{"seq":%b,"error":%b}' % (seq, encode(refusal))
        # The body of the response begins with a brace, which the seq replaces.
        return b'{"seq":%b,%b' % (seq, response.body[1:])

    def _seq_of(self, payload: bytes) -> Seq | None:
        """Find the ``seq`` of a command that cannot be read.

        Returns None if it is not found. Only the beginning of a long command is
        read.
        """
        if len(payload) > self._api.limits.one_body_bytes:
            begin = _BEGIN_WITH_SEQ.match(payload)
            if begin is None:
                return None
            payload = begin[0] + b"}"
        try:
            return _number_of.decode(payload).seq
        except (ValueError, RecursionError):
            return None

    def _read(
        self, payload: bytes, principal: Principal, connection: Connection
    ) -> PublisherCommand | bytes:
        """Decode one command, and count it against the rate of its principal.

        Returns the bytes of the refusal if the command is invalid or exceeds
        the rate.
        """
        try:
            command = Call.decode_json(
                self._decoder, payload, self._api.limits.many_values
            )
            bodies = self._bodies_of(command)
            # A command must have exactly one body.
            if bodies.count(UNSET) != len(bodies) - 1:
                names = ", ".join(f"`{name}`" for name in self._names)
                raise ApiProblem.invalid(f"Give one of {names}")
            if self._api.rates.per_second:
                self._api.rates.require(principal, host_of(connection.peer))
        except ApiProblem as problem:
            return _refused(self._seq_of(payload), problem)
        return command


def _answer(command: PublisherCommand | bytes, sent: PushResult | ApiProblem) -> bytes:
    """Encode the answer to a push.

    If all targets have received it, the answer is short:
    ``{"seq":1,"sent":1}``.
    """
    assert isinstance(command, PublisherCommand)
    seq = command.seq
    if isinstance(sent, ApiProblem):
        return _refused(seq, sent)
    if isinstance(sent, Sent):
        count = sent.outcomes.count(_SENT)
        if count == len(sent.outcomes):
            return b'{"seq":%b,"sent":%d}' % (encode(seq), count)
    return b'{"seq":%b,%b}' % (encode(seq), sent.answer(only_missed=True))


def _refused(seq: Seq | None, problem: ApiProblem) -> bytes:
    """Encode the answer to a refused command.

    ``seq`` is None if it is unknown. Then it is null in the answer.
    """
    row = problem.problem
    refusal = PublishRefusal(row.code, problem.detail or row.message, row.temporary)
    return b'{"seq":%b,"error":%b}' % (encode(seq), encode(refusal))


# --- successive pushes --------------------------------------------------------


class _CommandBatch(Service):
    """Executes the commands of one batch of a connection, in order.

    Pushes that follow each other are collected and executed together. Live
    pushes of one app that have one user each share one question to the
    registry. Stored pushes share one transaction. A refused command does not
    stop the others. ``results`` has an entry for each command that was added:
    its result, or its encoded answer.
    """

    _api: Api
    _principal: Principal
    results: list[PushResult | ApiProblem | bytes] = field(default_factory=list)
    _waiting: list[CheckedPush] = field(default_factory=list)
    _indexes: list[int] = field(default_factory=list)
    """The indexes of the results of the waiting pushes."""
    _app: str = ""
    """The app of the waiting pushes."""
    _is_stored: bool = False
    """Whether the waiting pushes are stored."""
    _ids: set[str] = field(default_factory=set)
    """The ids of the waiting pushes."""
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """App and whether pushes were refused → their number."""

    def add(self, push: PushRequest) -> None:
        """Add the next push.

        The push waits for more pushes of its kind. If a push cannot be
        collected, the waiting pushes are executed first, and then this push.
        May switch greenlets.
        """
        api = self._api
        id = push.id
        app = ""
        try:
            app = api.tenants.aliases.get(push.app, push.app)
            require_app(api, self._principal, Needs.PUSH, app)
            checked = CheckedPush(app, push, checked_event(api.limits, push), id)
            # Only such pushes share a question to the registry.
            is_plain = (
                push.user is not UNSET and push.device is UNSET and not push.ttl_seconds
            )
            is_alone = not (push.store or is_plain)
            is_other_kind = (push.store, app) != (self._is_stored, self._app)
            # If two pushes have one id, the second push must find the result of
            # the first push.
            if self._waiting and (is_alone or is_other_kind or id in self._ids):
                self.send_waiting()
            if is_alone:
                self._finish_with(app, send(api, checked))
                return
        except ApiProblem as problem:
            self._finish_with(app, problem)
            return

        self._waiting.append(checked)
        self._indexes.append(len(self.results))
        self.results.append(_NOT_YET)  # replaced by send_waiting()
        self._app = app
        self._is_stored = push.store
        if id:
            self._ids.add(id)

    def _finish_with(self, app: str, result: PushResult | ApiProblem) -> None:
        """Add the result of a push that does not wait, and count the push."""
        self.results.append(result)
        self.counts[app, isinstance(result, ApiProblem)] += 1

    def send_waiting(self) -> None:
        """Execute the waiting pushes together. May switch greenlets.

        Their results take the places that :meth:`add` has kept for them.
        """
        pushes = self._waiting
        indexes = self._indexes
        if not pushes:
            return
        # The lists are emptied first, because carrying out the pushes may
        # switch greenlets, and may raise.
        self._waiting = []
        self._indexes = []
        self._ids = set()

        results: Sequence[PushResult | ApiProblem]
        if self._is_stored:
            results = store_each(self._api, pushes)
        else:
            results = _send_each(self._api, pushes)
        for index, result in zip(indexes, results, strict=True):
            self.results[index] = result
            self.counts[self._app, isinstance(result, ApiProblem)] += 1


_NOT_YET: Final = ApiProblem(Problems.INTERNAL_ERROR)
"""The result of a push that waits."""
_NOT_ACCEPTED: Final = ApiProblem(Problems.NOT_ACCEPTED)
_SENT = Outcome.SENT
_FAILED = Outcome.FAILED
_RESULTS: Final = tuple(bytes([outcome]) for outcome in sorted(Outcome))
"""The result that is remembered for a push to one user, by its outcome."""


def _send_each(
    api: Api, pushes: Sequence[CheckedPush]
) -> list[PushResult | ApiProblem]:
    """Send pushes to one user each, all in one app.

    Returns a result or a problem for each. A push whose id was used before is
    not sent again. May switch greenlets.
    """
    core = api.core
    app = pushes[0].app
    keys = [checked.key for checked in pushes]
    digests = [0] * len(pushes)
    # A claim is the right of this node to execute the push with an id. A push
    # without an id needs no claim.
    claims: list[Claimed | Waiting] = [UNTRACKED] * len(pushes)
    if any(keys):  # most pushes have no id
        digests = [checked.digest for checked in pushes]
        claims = core.idempotency.claim_each(app, keys, digests)
    # The indexes of the pushes that are not repetitions.
    mine = [index for index, claim in enumerate(claims) if isinstance(claim, int)]
    # These outcomes stay if an error is raised, or if the quota is used up.
    outcomes: Sequence[Outcome] = [_FAILED] * len(mine)

    quota = core.metrics.pushes.spent(app)
    try:
        if quota is None:
            users = [str(pushes[index].push.user) for index in mine]
            events = [pushes[index].event for index in mine]
            outcomes = core.publishing.to_each(app, users, events)
    finally:
        # The claims are settled also after an error, because repetitions of
        # these pushes wait for that.
        for index, outcome in zip(mine, outcomes, strict=True):
            claim = claims[index]
            if claim and isinstance(claim, int):
                is_accepted = outcome in ACCEPTED
                core.idempotency.settle(
                    claim, is_accepted, digests[index], _RESULTS[outcome]
                )

    failure = _NOT_ACCEPTED
    if quota is not None:
        failure = spent(quota)
    results: list[PushResult | ApiProblem] = [failure] * len(pushes)
    for index, outcome in zip(mine, outcomes, strict=True):
        if outcome is not _FAILED:
            results[index] = Sent(pushes[index].push, [outcome])
    for index, claim in enumerate(claims):
        if not isinstance(claim, int):
            results[index] = _result_of_repeat(api, pushes[index], claim)
    return results


def _result_of_repeat(
    api: Api, checked: CheckedPush, claim: First | IdReused | Waiting | None
) -> PushResult | ApiProblem:
    """Return the result of a push whose id is not ours to execute.

    The id was used before, or another push with this id is being executed.
    The function may wait for that push, because all claims of the caller are
    settled: their outcomes are recorded. May switch greenlets.
    """
    try:
        if isinstance(claim, Waiting):
            return send(api, checked)
        return repeated(checked.push, claim)
    except ApiProblem as problem:
        return problem


# --- the route ----------------------------------------------------------------

routes = Resource("push", service=lambda _, api: api)


@routes.get(
    "/publisher",
    Needs.PUSH,
    status=_SWITCHING_PROTOCOLS,
    problems=(
        Problems.NOT_AN_UPGRADE,
        *APP_PROBLEMS,
        *SENDING_PROBLEMS,
        Problems.TOO_MANY_STREAMS,
    ),
)
def publisher(_api: Api, _call: Call) -> HttpResponse:
    """Push and stream over a WebSocket.

    A WebSocket for back ends that push continuously. Each message is a command,
    `{"seq": 1, "publish": {…the body of a push…}}`. You need not wait for an
    answer before you send the next command. The server answers in the order of
    the commands. If all targets received the push, the answer is `{"seq": 1,
    "sent": 1}`. Otherwise the answer also has `error`, or the `results` of the
    other targets (of all targets if the push was stored). The answer to
    `{"seq": 2, "ping": {}}` is `{"seq": 2, "pong": {}}`.

    On a server with stored messages, you can also send the paths
    `channels/stream/open`, `channels/stream/append` and `channels/stream/close`
    as commands, with the bodies of these routes. The answer has `seq` and the
    fields of the answer of the route.
    """
    raise ApiProblem(Problems.NOT_AN_UPGRADE)
