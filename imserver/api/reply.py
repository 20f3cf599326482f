"""Responses of the HTTP API: the envelope, the headers, and the styles in which routes refuse.

A style is how a family of routes refuses a request, in the words that its clients know. Answers that are
always the same are made once, here, and shared: a push is answered without encoding anything.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from imserver import errors
from imserver.errors import HttpProblem
from imserver.transport.exchange import HttpRequest, HttpResponse
from imserver.transport.problems import challenged

_encode = msgspec.json.Encoder().encode


class RequestRefused(Exception):
    """The request gets this answer and nothing else."""

    def __init__(self, answer: HttpResponse) -> None:
        super().__init__(answer.body)
        self.answer = answer


def refusal(code: int) -> HttpResponse:
    """The envelope of a reply code (``errors.REPLY_…``) without data."""
    return HttpResponse(200, b'{"code":%d,"msg":%b,"data":{}}' % (code, _encode(errors.reply_text(code))))


def success(data: Any) -> HttpResponse:
    """The envelope around ``data``: a dict with its keys in the order of the wire, or a msgspec Struct."""
    return HttpResponse(200, b'{"code":200,"msg":"Success","data":%b}' % _encode(data))


BAD_PARAMETER: Final = refusal(errors.REPLY_BAD_PARAMETER)
"""The body cannot be read or is over the limit, or a value has a wrong type."""
UNAUTHORIZED: Final = refusal(errors.REPLY_UNAUTHORIZED)
SYSTEM_ERROR: Final = refusal(errors.REPLY_SYSTEM)
PREFLIGHT: Final = HttpResponse(204, b"")
"""What a browser gets that asks whether it may call from another origin."""

SENT: Final = success({"sendResults": True})
NOT_SENT: Final = success({"sendResults": False})
FAILED: Final = success({"sendResults": False, "sendResultsErr": "the node of the user does not answer"})
"""The user is on another node, which is known not to have got it."""
PARTLY: Final = success(
    {"sendResults": True, "sendResultsErr": "a node does not answer; its users did not get it"}
)
REPEATED: Final = success({})
"""The ``msgID`` was accepted before: nothing is delivered again."""


class ApiProblem(Exception):
    """The request is refused with this problem; ``detail`` says more than its usual message."""

    def __init__(
        self, problem: HttpProblem, detail: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail or problem.message)
        self.problem = problem
        self.detail = detail
        self.headers = headers


class Style(Protocol):
    """How refusals look. ``everywhere``: its routes answer on WebSocket listeners too."""

    everywhere: bool

    def refuse(self, problem: HttpProblem, request: HttpRequest, detail: str = "") -> HttpResponse:
        """The answer to a request that is refused."""


class _CmdStyle:
    """Status 200 with a code of the cmd dialect in the body, whatever happened (docs/reference/http.md)."""

    everywhere = True

    def refuse(self, problem: HttpProblem, _request: HttpRequest, _detail: str = "") -> HttpResponse:
        if problem.status in (401, 403):
            return UNAUTHORIZED
        return SYSTEM_ERROR if problem.status >= 500 else BAD_PARAMETER


class _ClientStyle:
    """Code -1 in the body, but the statuses 400 and 405 without one (docs/reference/client-dialect.md)."""

    everywhere = True

    def refuse(self, problem: HttpProblem, _request: HttpRequest, _detail: str = "") -> HttpResponse:
        if problem.status in (401, 403):
            return client_refusal("未授权")
        if problem.status >= 500:
            return client_refusal("系统错误")
        return HttpResponse(405 if problem.status == 405 else 400, b"")


class _ProblemStyle:
    """A fitting status, and a problem body ``{code, message, temporary, request_id}``."""

    everywhere = False

    def refuse(self, problem: HttpProblem, request: HttpRequest, detail: str = "") -> HttpResponse:
        body = {
            "code": problem.code,
            "message": detail or problem.message,
            "temporary": problem.temporary,
            "request_id": request.id,
        }
        headers = challenged(problem, (("X-Request-Id", request.id),))
        return HttpResponse(problem.status, _encode(body), headers=headers)


def client_refusal(text: str) -> HttpResponse:
    """What the client dialect's routes answer when they refuse: code -1 and a text."""
    return HttpResponse(200, b'{"code":-1,"msg":%b,"data":[]}' % _encode(text))


CMD: Final[Style] = _CmdStyle()
CLIENT: Final[Style] = _ClientStyle()
PROBLEM: Final[Style] = _ProblemStyle()
