"""One request of a client: its principal, the routes that it may run, and its
answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import CloseCode, Problems
from imserver.plugin.http import (
    PROBLEM,
    Api,
    ApiProblem,
    Call,
    HttpRequest,
    HttpResponse,
    stream_head,
    stream_refused,
)
from imserver.plugin.identity import GOCHAT, Principal
from imserver.plugin.services import Core
from imserver.plugin.wire import Dialect, DialectState, Head, Stream, StreamEncoding

from .declared import Task
from .protocol import (
    TASK_EXTENSION,
    Code,
    McpError,
    RpcMessage,
    Seal,
    notification,
    sse,
)

NAME: Final = "mcp"
PREFIX: Final = "/api/v1"
MOST_CARDS: Final = 100
"""The most accounts that are shown at once."""
_BAD_REQUEST: Final = 400
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class _Streams(Dialect):
    """The codec of streams. Clients send nothing on them, and messages are
    written unchanged."""

    name = NAME
    logs_in = False
    pinged = True

    def encode_ping(self, state: DialectState | None) -> bytes:
        """Encode a ping: a comment, which keeps proxies from closing the
        stream."""
        return b":\n\n"


ENCODING: Final = StreamEncoding(_Streams())


def _text_of(value: Any) -> Any:
    """The value of a parameter as it stands in a query: ``true`` for True."""
    if isinstance(value, bool):
        return str(value).lower()
    return value


def _request_of(
    method: str, path: str, fields: Mapping[str, Any], host: str
) -> HttpRequest:
    """A request to a route of ``/api/v1``, with these fields as query or as
    JSON. Empty fields are left out."""
    given = {
        name: value for name, value in fields.items() if value not in ("", None, [])
    }
    query = b""
    body = _encode(given)
    if method == "GET":
        parameters = {name: _text_of(value) for name, value in given.items()}
        # A GET has no body.
        query = urlencode(parameters).encode()
        body = b""
    return HttpRequest(method, PREFIX + path, query, body, {}, host)


class RouteRefused(Exception):
    """The refusal by a route of ``/api/v1`` that a tool has called.

    ``code`` and ``status`` belong to the problem.
    """

    def __init__(self, code: str, message: str, status: int = _BAD_REQUEST) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status


class InputRequired(Struct, frozen=True):
    """The result of a tool, prompt or resource that needs more from the client
    (2026-07-28).

    ``requests``: name → request (``elicitation/create``,
    ``sampling/createMessage``, ``roots/list``). The client repeats its request
    with the answers, which are then in ``Turn.responses``, and with ``state``,
    any JSON, which is then ``Turn.state``. The state is signed for this
    principal and request.
    """

    requests: Mapping[str, Any] = {}
    state: Any = None


class Turn:
    """A request with its answer. The functions of tools get it.

    ``responses``: answers of the client to :class:`InputRequired`. ``state``:
    the state in this ``InputRequired``, or in the ``Later`` with which the tool
    became a task. ``task``: the tool runs as this task; None if a client waits.
    """

    task: Task | None = None
    permitted_by = 0
    """The question whose yes was used; 0 for none."""

    def __init__(
        self,
        core: Core,
        api: Api,
        seal: Seal,
        stream: Stream,
        head: Head,
        request: HttpRequest,
    ) -> None:
        """Begin with the request on a connection. It was not authorised yet:
        see :meth:`admit`."""
        self.core = core
        self.api = api
        self.stream = stream
        self.request = request
        self.responses: Mapping[str, Any] = {}
        self.state: Any = None
        self._seal = seal
        self._head = head
        self._has_begun = False
        self._runs = 0

    def admit(self, call: Call) -> None:
        """Note that the request was read and authorised.

        From now on ``user`` is the user for whom it is made; ``""`` if it names
        nobody.
        """
        self.message: RpcMessage = call.input
        self.principal: Principal = call.principal
        self.app = call.app or GOCHAT
        self.user = call.user
        self.params = self.message.params

    @property
    def takes_tasks(self) -> bool:
        """Whether the client accepts a task in place of a result."""
        extensions = self.message.client.get("extensions")
        is_named = isinstance(extensions, dict) and TASK_EXTENSION in extensions
        return is_named and self.task is None

    def require_tasks(self) -> None:
        """Raise McpError unless the client accepts tasks."""
        if not self.takes_tasks:
            lacks: dict[str, Any] = {
                "requiredCapabilities": {"extensions": {TASK_EXTENSION: {}}}
            }
            raise McpError(Code.NO_CAPABILITY, "The client does not take tasks", lacks)

    def proof(self) -> str:
        """A text by which :meth:`Core.still_holds` can check later that the
        principal still has its right. May switch greenlets. Raises
        StorageUnavailable."""
        return self.core.authority.proof(self.principal, self.request.headers)

    def has_route(self, method: str, path: str) -> bool:
        """Whether this node has a route of ``/api/v1``, whose feature may be
        missing."""
        return (method, PREFIX + path) in self.api.endpoints

    def run(self, method: str, path: str, **values: Any) -> Any:
        """Call a route of ``/api/v1`` as the principal of this request.

        The need of the route, its rules and its act in the audit log apply.
        Each call except the first costs as much as a request. ``values``: the
        query or the JSON body. Empty values are left out. ``app`` and ``user``
        come from the request. May switch greenlets. Raises RouteRefused.
        """
        if self._runs:
            self.api.rates.charge(self.principal, self.request.host, 1)
        self._runs += 1
        fields = {"app": self.app, "user": self.user, **values}
        request = _request_of(method, path, fields, self.request.host)
        answer = self.api.run(
            self.api.endpoints[method, PREFIX + path], self.principal, request
        )
        # Every route of /api/v1 answers with JSON.
        content = msgspec.json.decode(answer.body)
        if answer.status >= _BAD_REQUEST:
            raise RouteRefused(content["code"], content["message"], answer.status)
        return content

    def cards(self, users: Collection[str]) -> list[dict[str, Any]]:
        """The cards of those users who have accounts: their names and their
        presence.

        The list is empty if the app has no accounts. May switch greenlets.
        """
        if not (users and self.user and self.has_route("POST", "/accounts/cards")):
            return []
        try:
            answer = self.run("POST", "/accounts/cards", users=[*users][:MOST_CARDS])
        except RouteRefused:  # the app has no accounts
            return []
        return answer["cards"]  # type: ignore[no-any-return]

    # --- rounds ---------------------------------------------------------------

    def read_round(self) -> None:
        """Read the answers and the state that a client sends with a repeated
        request. Raises McpError if the state was not made for it."""
        self.responses = self.message.mapping("inputResponses")
        if "requestState" in self.params:
            self.state = self._seal.read(self.message.text("requestState"), self._bound)

    def require_answers(self, wanted: InputRequired) -> None:
        """Raise McpError unless the client can answer these requests."""
        # The capability for "sampling/createMessage" is called "sampling".
        requests = wanted.requests.values()
        needs = {request["method"].partition("/")[0] for request in requests}
        lacks: dict[str, Any] = {
            name: {} for name in needs - self.message.client.keys()
        }
        if lacks or not self.message.is_modern:
            raise McpError(
                Code.NO_CAPABILITY,
                "The client lacks what this needs",
                {"requiredCapabilities": lacks},
            )

    def next_round(self, wanted: InputRequired) -> dict[str, Any]:
        """The result that lets the client answer, and repeat its request.
        Raises McpError if it cannot answer."""
        self.require_answers(wanted)
        state = None
        if wanted.state is not None:
            state = self._seal.make(wanted.state, self._bound)
        result = {
            "resultType": "input_required",
            "inputRequests": wanted.requests,
            "requestState": state,
        }
        return {name: value for name, value in result.items() if value}

    @property
    def _bound(self) -> bytes:
        """The part of the request to which the signature of a state is bound.

        It is the principal, and the request without its rounds. So nobody can
        use the state for another call.
        """
        rounds = {"_meta", "inputResponses", "requestState"}
        params = {key: value for key, value in self.params.items() if key not in rounds}
        return _encode(
            [self.principal.label, self.app, self.user, self.message.method, params]
        )

    # --- answering ------------------------------------------------------------

    def begin(self) -> bool:
        """Begin a stream and keep it open, unless it has begun.

        Returns False if the client accepts no streams.
        """
        if self._has_begun:
            return True
        if "text/event-stream" not in self.request.headers.get("accept", ""):
            return False

        log = self.core.node.request_log
        host = self.request.host
        kind = "text/event-stream"
        self._has_begun = True
        self.stream.begin(
            ENCODING, stream_head(log, self._head, host, kind, self.principal.label)
        )
        return True

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification about this request, if the client accepts
        streams."""
        if self.begin():
            self.stream.send(notification(method, params))

    def progress(self, progress: float, total: float) -> None:
        """Tell the client how much of this request is done, if the client wants
        that.

        It wants that if its request has a ``progressToken``.
        """
        meta = self.params.get("_meta")
        if not isinstance(meta, dict):
            return
        token = meta.get("progressToken")
        if isinstance(token, int | str):
            how_far = {"progressToken": token, "progress": progress, "total": total}
            self.notify("notifications/progress", how_far)

    def finish(self, answer: HttpResponse) -> None:
        """Answer the request: on its stream if one has begun, and otherwise as
        an ordinary response."""
        if self._has_begun:
            self.stream.send(sse(answer.body))
            self.stream.close(CloseCode.NORMAL)
            return
        log = self.core.node.request_log
        host = self.request.host
        problem = ApiProblem(Problems.BAD_REQUEST)
        # A connection that has not become a stream is answered as a refusal,
        # whatever the answer is.
        style = replace(PROBLEM, refuse=lambda *_: answer)
        response = stream_refused(
            log, self._head, host, problem, style, self.request.by
        )
        self.stream.refuse(response, CloseCode.NORMAL)
