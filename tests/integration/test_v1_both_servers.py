"""Both HTTP servers answer ``/api/v1`` alike, to the byte; and it is for the HTTP port only."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.gateway.http.operation import JSON
from tests.rows import DOCUMENTED, OPERATIONS
from tests.support import Server

from .raw import ask, request
from .setting import Launch
from .test_both_servers import alike, last
from .v1 import PREFIX

BODY_BYTES = 5000
PLAIN = [row for row in OPERATIONS if row.status != 101 and row.content_type == JSON]
OWN = {f"/api/v1/{route}" for route in ("nodes", "notifications/key", "refusals")}
"""Each of the two servers answers GET with its own: its memory, its key, the ids of what it refused."""


@pytest.fixture(scope="module")
def pair(launch: Launch) -> tuple[Server, Server]:
    """Two servers of the same settings that differ in their HTTP server."""
    front, wsgi = (
        launch(http_server, limits={"body_bytes": BODY_BYTES, "batch_targets": 10}, hub={"notice_members": 0})
        for http_server in ("front", "wsgi")
    )
    return front, wsgi


def post(route: str, body: Any, *headers: tuple[str, str]) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(PREFIX + route, method="POST", headers=headers, body=data)


def chunked(route: str, *chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return request(PREFIX + route, method="POST", headers=[("Transfer-Encoding", "chunked")], body=parts)


def requests() -> Iterator[tuple[str, bytes]]:
    """Requests of all kinds, named."""
    for path in sorted({row.path for row in PLAIN}):
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"):
            if path in OWN and method in ("GET", "HEAD"):
                continue
            yield f"{method} {path}", request(path, method=method)
    ids = {"app": "101", "users": ["a", "b"]}
    yield "presence", post("presence", ids)
    yield "as a form", post("presence", ids, ("Content-Type", "application/x-www-form-urlencoded"))
    yield "as something else", post("presence", ids, ("Content-Type", "x/y"))
    yield "with an id", post("presence", ids, ("X-Request-Id", "mine-17"))
    yield (
        "compressed",
        post("presence", gzip.compress(json.dumps(ids).encode()), ("Content-Encoding", "gzip")),
    )
    yield "compressed otherwise", post("presence", ids, ("Content-Encoding", "br"))
    yield "no gzip", post("presence", b"{}", ("Content-Encoding", "gzip"))
    yield "a bomb", post("presence", gzip.compress(b" " * 10_000_000), ("Content-Encoding", "gzip"))
    yield "too many", post("presence", {"app": "101", "users": ["a"] * 11})
    yield "too long", post("presence", {"app": "101", "users": ["a" * BODY_BYTES]})
    yield "chunked", chunked("presence", b'{"app":"101",', b'"users":["a"]}')
    yield "chunked and too long", chunked("presence", *[b" " * 1000] * 6)
    yield "no JSON", post("presence", b"{")
    yield "not UTF-8", post("presence", b'{"app":"\xff"}')
    yield "deep", post("presence", b"[" * 2000)
    yield "unknown app", post("presence", {"app": "x", "users": []})
    yield "query", request(f"{PREFIX}users?app=101&limit=2")
    yield "query, unknown name", request(f"{PREFIX}users?app=101&lim=2")
    yield "query, twice", request(f"{PREFIX}users?app=101&app=102")
    yield "query, not UTF-8", request(f"{PREFIX}users?app=%ff")
    yield "document", request(f"{PREFIX}openapi.json")
    yield "document, compressed", request(f"{PREFIX}openapi.json", headers=[("Accept-Encoding", "gzip")])
    yield "another slash", request(f"{PREFIX}users/?app=101")
    yield "another case", request(f"{PREFIX}Users?app=101")
    yield "nothing there", request(f"{PREFIX}nothing")
    yield "only the beginning", request("/api/v1")


@pytest.mark.parametrize(("name", "data"), [pytest.param(*row, id=row[0]) for row in requests()])
def test_a_request_is_answered_alike(pair: tuple[Server, Server], name: str, data: bytes) -> None:
    found = alike(pair, last(data))
    assert found.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 500" not in found


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("compressed otherwise", 415, "unknown_encoding"),
        ("no gzip", 400, "invalid_request"),
        ("a bomb", 413, "body_too_large"),
        ("too many", 400, "too_many_targets"),
        ("too long", 413, "body_too_large"),
        ("chunked and too long", 413, "body_too_large"),
        ("deep", 400, "invalid_request"),
        ("no JSON", 400, "invalid_request"),
        ("not UTF-8", 400, "invalid_request"),
        ("query, unknown name", 400, "invalid_request"),
        ("query, twice", 400, "invalid_request"),
        ("unknown app", 404, "unknown_app"),
        ("GET /api/v1/ban", 405, "method_not_allowed"),
        ("POST /api/v1/users", 405, "method_not_allowed"),
        ("another slash", 404, "not_found"),
        ("nothing there", 404, "not_found"),
    ],
)
def test_what_it_refuses_has_a_fitting_status(
    pair: tuple[Server, Server], name: str, status: int, code: str
) -> None:
    for server in pair:
        response = ask(server.http, dict(requests())[name])
        assert (response.status, response.json["code"]) == (status, code)
        assert list(response.json) == ["code", "message", "temporary", "request_id"]


def test_compressed_bodies_and_answers_are_the_same(pair: tuple[Server, Server]) -> None:
    by_name = dict(requests())
    for server in pair:
        assert ask(server.http, by_name["compressed"]).body == ask(server.http, by_name["presence"]).body
        response = ask(server.http, by_name["document, compressed"])
        assert response.header("Content-Encoding") == "gzip"
        plain = ask(server.http, by_name["document"]).body
        assert gzip.decompress(response.body) == plain
        assert len(response.body) < len(plain) / 4


@pytest.mark.parametrize(
    "path", sorted({*(row.path for row in DOCUMENTED if row.status != 101), "/api/v1/docs"})
)
def test_the_websocket_port_does_not_answer_it(pair: tuple[Server, Server], path: str) -> None:
    for server in pair:
        response = ask(server.ws, request(path))
        assert (response.status, response.json["code"]) == (404, "not_found")
