"""Responses of the HTTP API: the envelope, the headers, the styles of refusals,
and the heads of streams.

A style is the form in which a family of routes refuses a request. Its clients
expect this form. Answers to a push are made once, with their headers. A stream
over HTTP begins with a head, or gets a refusal in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import (
    CloseCode,
    HttpProblem,
    Problems,
    ReplyCode,
    reply_text,
)
from imserver.gateway.logging import RequestLog
from imserver.gateway.model import encode_json
from imserver.gateway.transport.gate import Head
from imserver.gateway.transport.http1 import (
    SANDBOX,
    HttpRequest,
    HttpResponse,
    challenged,
    constant,
    header_block,
    problem_body,
    response_head,
    status_line,
)

MAX_BATCH_BYTES: Final = 4 << 20
"""The most bytes of the answers to the commands of one request."""


class BatchAnswers(Struct, eq=False):
    """The answers to the commands of one request, in order: ``parts``.

    Together they have at most 4 MiB.
    """

    parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, answer: bytes, too_large: bytes) -> None:
        """Add the answer to a command.

        If the answer exceeds the limit, ``too_large`` is added in its place.
        The server has run the command nevertheless. Switches greenlets in a
        long turn.
        """
        if self._size + len(answer) > MAX_BATCH_BYTES:
            answer = too_large
        self._size += len(answer)
        self.parts.append(answer)
        if is_long_turn():
            serve_others()


class RequestRefused(Exception):
    """Raised to end a request with this answer."""

    def __init__(self, answer: HttpResponse) -> None:
        """Take the answer that ends the request."""
        super().__init__(answer.body)
        self.answer = answer


def refusal(code: int, data: Mapping[str, Any] = MappingProxyType({})) -> HttpResponse:
    """Refuse a request in the form of the original server.

    The body is ``{"code": …, "msg": …, "data": {}}``, and the HTTP status is
    200. ``code`` is a :class:`ReplyCode`. Each code has a text, the ``msg``.
    """
    text = encode_json(reply_text(code))
    body = b'{"code":%d,"msg":%b,"data":%b}' % (code, text, encode_json(dict(data)))
    return HttpResponse(200, body, refuses=True)


def success(data: Any) -> HttpResponse:
    """Answer a request in the form of the original server.

    ``data`` is a msgspec Struct, or a dict. The keys of the dict have the order
    that they shall have in the answer.
    """
    body = b'{"code":200,"msg":"Success","data":%b}' % encode_json(data)
    return HttpResponse(200, body)


BAD_PARAMETER: Final = refusal(ReplyCode.BAD_PARAMETER)
"""The body cannot be read or is over the limit, or a value has a wrong type."""
UNAUTHORIZED: Final = refusal(ReplyCode.UNAUTHORIZED)
NOT_STORED: Final = refusal(ReplyCode.NOT_STORED)
"""A temporary failure: the same request may succeed later."""
SYSTEM_ERROR: Final = refusal(ReplyCode.SYSTEM)
PREFLIGHT: Final = HttpResponse(204, b"")
"""The answer to a preflight request of a browser."""
_RETRY_AFTER: Final = ("Retry-After", "2")
"""The seconds after which a client tries again if it got a temporary refusal
instead of a stream."""

SENT: Final = constant(success({"sendResults": True}))
NOT_SENT: Final = constant(success({"sendResults": False}))
FAILED: Final = success(
    {"sendResults": False, "sendResultsErr": "the node of the user does not answer"}
)
"""The node of the user did not get the push."""
PARTLY: Final = success(
    {
        "sendResults": True,
        "sendResultsErr": "a node does not answer; its users did not get it",
    }
)
REPEATED: Final = constant(success({}))
"""The ``msgID`` was accepted before; nothing is delivered."""


class ApiProblem(Exception):
    """Raised to refuse a request with a problem.

    ``detail`` replaces the usual message of the problem. ``""`` means the usual
    message. ``headers`` are added to the answer. ``rate`` is the rate that
    refuses the request, with the time until the next request is allowed.
    ``rate`` is None if the request is refused for another reason.
    """

    def __init__(
        self,
        problem: HttpProblem,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        rate: TooManyRequests | None = None,
    ) -> None:
        """Take the problem. The class explains the arguments."""
        super().__init__(detail or problem.message)
        self.problem = problem
        self.detail = detail
        self.headers = headers
        self.rate = rate

    @classmethod
    def invalid(cls, detail: str) -> ApiProblem:
        """Make the refusal of a malformed request. ``detail`` says what is
        wrong."""
        return cls(Problems.INVALID_REQUEST, detail)


class Style(Struct, frozen=True):
    """The form in which a family of routes refuses requests.

    ``refuse`` makes the answer to a refused request. Its arguments are the
    problem, the request, and a text that replaces the usual message of the
    problem. If the text is ``""``, the message is the usual one. If
    ``everywhere`` is set, WebSocket listeners serve the routes, too.
    ``options`` is the answer to OPTIONS on a route of another method.
    """

    refuse: Callable[..., HttpResponse]
    everywhere: bool = False
    options: HttpResponse = PREFLIGHT


def _refuse_in_cmd(
    problem: HttpProblem, _request: HttpRequest, _detail: str = ""
) -> HttpResponse:
    """Refuse in the form of the original server (docs/reference/http.md).

    The status is always 200. The body has a code of the cmd dialect, which
    knows only three reasons.
    """
    if problem.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return UNAUTHORIZED
    if problem.status >= 500 or problem.status == HTTPStatus.TOO_MANY_REQUESTS:
        return SYSTEM_ERROR
    return BAD_PARAMETER


def _refuse_as_problem(
    problem: HttpProblem, request: HttpRequest, detail: str = ""
) -> HttpResponse:
    """Refuse with the status of the problem, and the problem as JSON.

    The body is ``{code, message, temporary, request_id}``.
    """
    body = problem_body(problem, request.id, detail)
    headers = challenged(problem, (("X-Request-Id", request.id),))
    return HttpResponse(problem.status, body, headers=headers)


CMD: Final = Style(_refuse_in_cmd, everywhere=True)
PROBLEM: Final = Style(_refuse_as_problem)
"""The form of refusals of ``/api/v1``: a matching status, and a problem as
JSON."""

_STATUS_OF: Final = {
    CloseCode.TOKEN_INVALID: Problems.TOKEN_INVALID,
    CloseCode.NOT_ALLOWED: Problems.NOT_ALLOWED,
    CloseCode.WRONG_DIALECT: Problems.NOT_ALLOWED,
    CloseCode.BANNED: Problems.BANNED,
    CloseCode.KICKED: Problems.BANNED,
    CloseCode.REFUSED: Problems.ALREADY_ONLINE,
    CloseCode.REPLACED: Problems.ALREADY_ONLINE,
    CloseCode.NODE_FULL: Problems.NODE_FULL,
    CloseCode.INTERNAL_ERROR: Problems.INTERNAL_ERROR,
}
"""Close code → the HTTP refusal with the same meaning. Any other close code
means ``not_ready``."""
_STREAM_HEADERS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    # nginx would buffer events until it has 4 KB.
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
    ("Access-Control-Allow-Origin", "*"),
    ("Connection", "close"),
)
"""The headers of every stream."""


def stream_request(head: Head, host: str) -> HttpRequest:
    """Convert the head of a request for a stream to an :class:`HttpRequest`.

    ``host`` is the address of the client.
    """
    return HttpRequest(
        method=head.method,
        path=head.path,
        query=head.query.encode("latin-1"),
        body=b"",
        headers=head.headers,
        host=host,
    )


def stream_head(
    log: RequestLog, head: Head, host: str, content_type: str, by: str = ""
) -> bytes:
    """Make the head of the response that begins a stream, and log the request.

    ``host`` is the address of the client. ``by`` is the label of the principal.
    ``""`` means that the principal is not known yet.
    """
    request = stream_request(head, host)
    _log_stream(log, request, status=200, size=0, by=by)
    headers = [("Content-Type", content_type), *_STREAM_HEADERS]
    # A stream of events needs no headers of pages, because no browser shows
    # events as a page.
    if not content_type.startswith("text/event-stream"):
        headers.append(SANDBOX)
    headers.append(("X-Request-Id", request.id))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return status_line(200) + f"{lines}\r\n".encode("latin-1")


def stream_refused(
    log: RequestLog,
    head: Head,
    host: str,
    why: int | ApiProblem,
    style: Style,
    by: str = "",
) -> bytes:
    """Make the whole response that refuses a stream, and log the request.

    ``host`` is the address of the client. ``why`` is a problem, or the close
    code with which a WebSocket connection would have ended. ``style`` is the
    form of the refusal. ``by`` is the label of the principal. ``""`` means that
    the principal is not known.
    """
    request = stream_request(head, host)
    if isinstance(why, int):
        problem = ApiProblem(_STATUS_OF.get(why, Problems.NOT_READY))
    else:
        problem = why
    answer = style.refuse(problem.problem, request, problem.detail)
    # The headers of the problem are added to the headers of the style.
    lines = header_block(answer) + _header_lines_of(problem)
    size = len(answer.body)
    _log_stream(log, request, answer.status, size, by)
    head_block = response_head(answer.status, lines, size, keep_alive=False)
    return head_block + answer.body


def _header_lines_of(problem: ApiProblem) -> bytes:
    """Encode the headers of a problem. If the problem is temporary, a header
    asks the client to retry later."""
    headers = list(problem.headers)
    if problem.problem.temporary:
        headers.append(_RETRY_AFTER)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return lines.encode("latin-1")


def _log_stream(
    log: RequestLog, request: HttpRequest, status: int, size: int, by: str
) -> None:
    """Log a request for a stream. ``size`` is the length of a refusal's
    body."""
    # The stream has not ended, so it has no duration.
    log.add(
        request.method,
        request.path,
        status,
        seconds=0.0,
        peer=request.host,
        bytes_out=size,
        request_id=request.id,
        by=by,
    )
