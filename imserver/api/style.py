"""Styles: how a family of routes refuses a request, each in the words that its clients know.

What is refused is always a :class:`imserver.errors.HttpProblem`; a style makes an answer of it.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from imserver.api.reply import BAD_PARAMETER, SYSTEM_ERROR, UNAUTHORIZED, Answer
from imserver.errors import HttpProblem
from imserver.transport.fast import FastRequest
from imserver.transport.problems import challenged


class Problem(Exception):
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

    def refuse(self, problem: HttpProblem, request: FastRequest, detail: str = "") -> Answer:
        """The answer to a request that is refused."""


class _CmdStyle:
    """Status 200 with a code of the cmd dialect in the body, whatever happened (docs/reference/http.md)."""

    everywhere = True

    def refuse(self, problem: HttpProblem, _request: FastRequest, _detail: str = "") -> Answer:
        if problem.status in (401, 403):
            return UNAUTHORIZED
        return SYSTEM_ERROR if problem.status >= 500 else BAD_PARAMETER


class _ClientStyle:
    """Code -1 in the body, but the statuses 400 and 405 without one (docs/reference/client-dialect.md)."""

    everywhere = True

    def refuse(self, problem: HttpProblem, _request: FastRequest, _detail: str = "") -> Answer:
        if problem.status in (401, 403):
            return client_refusal("未授权")
        if problem.status >= 500:
            return client_refusal("系统错误")
        return Answer(405 if problem.status == 405 else 400, b"")


class _ProblemStyle:
    """A fitting status, and a problem body ``{code, message, temporary, request_id}``."""

    everywhere = False

    def refuse(self, problem: HttpProblem, request: FastRequest, detail: str = "") -> Answer:
        body = {
            "code": problem.code,
            "message": detail or problem.message,
            "temporary": problem.temporary,
            "request_id": request.id,
        }
        headers = challenged(problem, (("X-Request-Id", request.id),))
        return Answer(problem.status, _encode(body), headers=headers)


_encode = msgspec.json.Encoder().encode


def client_refusal(text: str) -> Answer:
    """What the client dialect's routes answer when they refuse: code -1 and a text."""
    return Answer(200, b'{"code":-1,"msg":%b,"data":[]}' % _encode(text))


CMD: Final[Style] = _CmdStyle()
CLIENT: Final[Style] = _ClientStyle()
PROBLEM: Final[Style] = _ProblemStyle()
