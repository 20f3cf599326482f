"""What a browser is shown in place of a page that it cannot have; programs are given JSON."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from imserver.errors import HttpProblem
from imserver.pages.rendering import HEADERS, language_of_visitor, policy, render

_PROGRAMS: Final = "/api/"
"""Where addresses of programs begin: whoever looks at these wants to see what programs see."""


def refusal(problem: HttpProblem, request_id: str) -> Response | None:
    """A page that says what ``problem`` is; None: the visitor has not come to read a page."""
    accepted = request.accept_mimetypes
    if request.method not in ("GET", "HEAD") or request.path.startswith(_PROGRAMS):
        return None
    if accepted["text/html"] <= accepted["application/json"]:
        return None  # programs take either
    language, words = language_of_visitor()
    answer = render("refusal.html", language, words, data={}, problem=problem, request_id=request_id)
    answer.status_code = problem.status
    answer.headers["Vary"] = "Accept, Accept-Language"
    answer.headers["Content-Security-Policy"] = policy("'none'")
    answer.headers.update(HEADERS)
    return answer
