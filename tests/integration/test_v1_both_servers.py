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


def rows() -> Iterator[tuple[str, int, str, bytes]]:
    """Names, statuses, codes and requests of all kinds."""
    ids = {"app": "101", "users": ["a", "b"]}
    gzipped = ("Content-Encoding", "gzip")
    yield "presence", 200, "", post("presence", ids)
    yield "as a form", 200, "", post("presence", ids, ("Content-Type", "application/x-www-form-urlencoded"))
    yield "as something else", 200, "", post("presence", ids, ("Content-Type", "x/y"))
    yield "with an id", 200, "", post("presence", ids, ("X-Request-Id", "mine-17"))
    yield "compressed", 200, "", post("presence", gzip.compress(json.dumps(ids).encode()), gzipped)
    other = ("Content-Encoding", "br")
    yield "compressed otherwise", 415, "unknown_encoding", post("presence", ids, other)
    yield "no gzip", 400, "invalid_request", post("presence", b"{}", gzipped)
    yield "a bomb", 413, "body_too_large", post("presence", gzip.compress(b" " * 10_000_000), gzipped)
    many = {"app": "101", "users": ["a"] * 11}
    yield "too many", 400, "too_many_targets", post("presence", many)
    long = {"app": "101", "users": ["a" * BODY_BYTES]}
    yield "too long", 413, "body_too_large", post("presence", long)
    yield "chunked", 200, "", chunked("presence", b'{"app":"101",', b'"users":["a"]}')
    yield "chunked and too long", 413, "body_too_large", chunked("presence", *[b" " * 1000] * 6)
    for name, body in (("no JSON", b"{"), ("not UTF-8", b'{"app":"\xff"}'), ("deep", b"[" * 2000)):
        yield name, 400, "invalid_request", post("presence", body)
    yield "unknown app", 404, "unknown_app", post("presence", {"app": "x", "users": []})
    yield "query", 200, "", request(f"{PREFIX}users?app=101&limit=2")
    yield "query, not UTF-8", 404, "unknown_app", request(f"{PREFIX}users?app=%ff")
    for query in ("app=101&lim=2", "app=101&app=102"):
        yield f"query {query}", 400, "invalid_request", request(f"{PREFIX}users?{query}")
    yield "document", 200, "", request(f"{PREFIX}openapi.json")
    accepted = [("Accept-Encoding", "gzip")]
    yield "document, compressed", 200, "", request(f"{PREFIX}openapi.json", headers=accepted)
    yield "another method", 405, "method_not_allowed", request(f"{PREFIX}ban")
    for path in ("users/?app=101", "Users?app=101", "nothing"):
        yield path, 404, "not_found", request(PREFIX + path)


@pytest.mark.parametrize("path", sorted({row.path for row in PLAIN}))
def test_each_method_of_a_path_is_answered_alike(pair: tuple[Server, Server], path: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"):
        if path not in OWN or method not in ("GET", "HEAD"):
            assert b"HTTP/1.1 500" not in alike(pair, last(request(path, method=method)))


@pytest.mark.parametrize(("status", "code", "data"), [pytest.param(*row, id=name) for name, *row in rows()])
def test_a_request_is_answered_alike_and_refused_with_a_fitting_status(
    pair: tuple[Server, Server], status: int, code: str, data: bytes
) -> None:
    alike(pair, last(data))
    for server in pair:
        response = ask(server.http, data)
        assert response.status == status
        if code:
            assert list(response.json) == ["code", "message", "temporary", "request_id"]
            assert response.json["code"] == code


@pytest.mark.parametrize(
    "path", sorted({*(row.path for row in DOCUMENTED if row.status != 101), "/api/v1/docs"})
)
def test_the_websocket_port_does_not_answer_it(pair: tuple[Server, Server], path: str) -> None:
    for server in pair:
        response = ask(server.ws, request(path))
        assert (response.status, response.json["code"]) == (404, "not_found")
