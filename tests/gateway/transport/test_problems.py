"""Heads and problem bodies of what is answered below the application."""

import json

import pytest

from imserver.gateway import errors
from imserver.gateway.transport.http1 import problem_body, problem_response, response_head
from tests.rows import PROBLEMS


def parts(response: bytes) -> tuple[str, list[str], bytes]:
    head, body = response.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    return first, lines, body


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda problem: problem.code)
def test_every_problem_is_a_whole_response_that_ends_its_connection(problem: errors.HttpProblem) -> None:
    first, lines, body = parts(problem_response(problem, (("X-More", "13"),)))
    assert "X-More: 13" in lines
    assert first.startswith(f"HTTP/1.1 {problem.status} ")
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    assert "Content-Type: application/json; charset=utf-8" in lines
    found = json.loads(body)
    assert (found["code"], found["message"], found["temporary"]) == (
        problem.code,
        problem.message,
        problem.temporary,
    )
    again = json.loads(problem_body(problem))
    assert again["request_id"] != found["request_id"], "the log knows each"


@pytest.mark.parametrize(
    ("keep_alive", "version", "connection"),
    [
        (True, "1.1", []),
        (False, "1.1", ["Connection: close"]),
        (True, "1.0", ["Connection: keep-alive"]),
        (False, "1.0", ["Connection: close"]),
    ],
)
def test_a_head_shows_whether_the_connection_is_kept_where_the_version_does_not(
    keep_alive: bool, version: str, connection: list[str]
) -> None:
    first, lines, rest = parts(response_head(200, b"X: y\r\n", 7, keep_alive, version))
    assert (first, rest) == ("HTTP/1.1 200 OK", b"")
    assert sorted(lines) == sorted(["X: y", "Content-Length: 7", *connection])
