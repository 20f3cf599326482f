"""Responses of streams over HTTP: the head that begins one, and the refusal in place of it."""

from __future__ import annotations

from typing import Final

from imserver import errors
from imserver.http.reply import ApiProblem, Style
from imserver.logging import RequestLog
from imserver.transport.exchange import HttpRequest, header_block, response_head, status_line
from imserver.transport.gate import Head

_STATUS_OF: Final = {
    errors.CloseCode.TOKEN_INVALID: errors.Problems.TOKEN_INVALID,
    errors.CloseCode.NOT_ALLOWED: errors.Problems.NOT_ALLOWED,
    errors.CloseCode.WRONG_DIALECT: errors.Problems.NOT_ALLOWED,
    errors.CloseCode.BANNED: errors.Problems.BANNED,
    errors.CloseCode.KICKED: errors.Problems.BANNED,
    errors.CloseCode.REFUSED: errors.Problems.ALREADY_ONLINE,
    errors.CloseCode.REPLACED: errors.Problems.ALREADY_ONLINE,
    errors.CloseCode.NODE_FULL: errors.Problems.NODE_FULL,
    errors.CloseCode.INTERNAL_ERROR: errors.Problems.INTERNAL_ERROR,
}
"""Close code → the HTTP refusal that means the same; any other: ``not_ready``."""
_RETRY_AFTER: Final = ("Retry-After", "2")
_HEADERS: Final = (
    ("Cache-Control", "no-store, no-transform"),
    # nginx would buffer events until it has 4 KB.
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
    ("Access-Control-Allow-Origin", "*"),
    ("Connection", "close"),
)
"""The headers of every stream."""


def stream_request(head: Head, host: str) -> HttpRequest:
    """The request for a stream, as routes get theirs. ``host``: address of the client."""
    return HttpRequest(head.method, head.path, head.query.encode("latin-1"), b"", head.headers, host)


def stream_head(log: RequestLog, head: Head, host: str, content_type: str) -> bytes:
    """The head of the response that begins a stream; it is logged. ``host``: address of the client."""
    request = stream_request(head, host)
    _note(log, request, 200, 0)
    headers = (("Content-Type", content_type), *_HEADERS, ("X-Request-Id", request.id))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return status_line(200) + f"{lines}\r\n".encode("latin-1")


def stream_refused(log: RequestLog, head: Head, host: str, why: int | ApiProblem, style: Style) -> bytes:
    """The whole response in place of a stream, in this style; it is logged. ``host``: address of the client.
    ``why``: the close code of a stream that has not begun, or a problem."""
    request = stream_request(head, host)
    problem = (
        why if isinstance(why, ApiProblem) else ApiProblem(_STATUS_OF.get(why, errors.Problems.NOT_READY))
    )
    answer = style.refuse(problem.problem, request, problem.detail)
    headers = problem.headers + ((_RETRY_AFTER,) if problem.problem.temporary else ())
    lines = header_block(answer)
    lines += "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
    _note(log, request, answer.status, len(answer.body))
    return response_head(answer.status, lines, len(answer.body), keep_alive=False) + answer.body


def _note(log: RequestLog, request: HttpRequest, status: int, size: int) -> None:
    # The stream has not ended, so it has no duration.
    log.add(request.method, request.path, status, 0.0, request.host, size, request.id)
