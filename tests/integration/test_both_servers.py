"""The two HTTP servers answer alike: same bytes in, same bytes out.

Left out are dates, what is made anew each time, and whether an end that was
asked for is announced too.
"""

import gzip
import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from imserver.gateway.http.operation import JSON
from tests.rows import DOCUMENTED, OPERATIONS
from tests.samples import play, samples_of
from tests.support import Server

from .cmd import command, form_request, json_request
from .raw import Raw, ask, close, frame, handshake, request, text
from .setting import APPS, ECHO_PATH, Launch
from .v1 import PREFIX

APP = APPS[0]
VARYING = [
    (re.compile(rb"\r\n(?:Date|Connection): [^\r]*"), b""),
    (re.compile(rb'"request_id":"[^"]*"'), b'"request_id":"-"'),
    (re.compile(rb"\r\nX-Request-Id: [^\r]*", re.IGNORECASE), b""),
    (re.compile(rb"127\.0\.0\.1:\d+"), b"-"),
    (re.compile(rb'"numGoroutine":\d+'), b'"numGoroutine":0'),
]

BODY_BYTES = 5000
PLAIN = [row for row in OPERATIONS if row.status != 101 and row.content_type == JSON]
OWN = {
    f"/api/v1/{route}"
    for route in ("nodes", "nodes/timings", "notifications/key", "refusals")
}
"""Each of the two servers answers GET with its own: memory and times, key, ids
of what it refused."""


def alike_servers(launch: Launch, **settings: Any) -> tuple[Server, Server]:
    """Two servers of the same settings that differ in their HTTP server."""
    front, wsgi = (
        launch(each, hub={"notice_members": 0}, **settings)
        for each in ("front", "wsgi")
    )
    return front, wsgi


@pytest.fixture(scope="module")
def pair(launch: Launch) -> tuple[Server, Server]:
    websocket = {"deflate": True, "close_seconds": 1}
    return alike_servers(launch, debug={"echo_path": ECHO_PATH}, websocket=websocket)


@pytest.fixture(scope="module")
def limited(launch: Launch) -> tuple[Server, Server]:
    """A pair with limits of ``/api/v1``."""
    return alike_servers(launch, limits={"body_bytes": BODY_BYTES, "batch_targets": 10})


def received(server: Server, data: bytes, port: str) -> bytes:
    """Everything that the server answers to these bytes before it is left."""
    with Raw(getattr(server, port)) as raw:
        raw.send(data)
        return raw.rest()


def alike(pair: tuple[Server, Server], data: bytes, port: str = "http") -> bytes:
    """What both answer; they must agree to the byte, but in the order of the
    headers."""
    answers = [sorted_heads(received(server, data, port)) for server in pair]
    assert answers[0] == answers[1]
    return answers[0]


def sorted_heads(data: bytes) -> bytes:
    """The answers with their header lines in alphabetic order, and without what
    is made anew each time."""
    found: list[bytes] = []
    while data.startswith(b"HTTP/1.1 "):
        head, _, data = data.partition(b"\r\n\r\n")
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        body, data = (
            (data[: int(size[1])], data[int(size[1]) :]) if size else (b"", data)
        )
        refused = head[9:12] >= b"400"
        # the latter to HEAD
        if size and (b'"request_id"' in body or (refused and not body)):
            head = head.replace(size[0], b"")  # ids grow longer as they are counted up
        for pattern, instead in VARYING:
            head = pattern.sub(instead, head)
            body = pattern.sub(instead, body)
        first, *lines = head.split(b"\r\n")
        found += [first, *sorted(alphabetic(line.lower()) for line in lines), b"", body]
    return b"\n".join([*found, data])


def alphabetic(line: bytes) -> bytes:
    """A header line; the methods that Allow lists are a set."""
    name, _, value = line.partition(b": ")
    return (
        b"allow: " + b", ".join(sorted(value.split(b", ")))
        if name == b"allow"
        else line
    )


def last(data: bytes) -> bytes:
    """The request with a wish that the connection end after it."""
    return data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def requests() -> Iterator[tuple[str, bytes]]:
    """Requests of all kinds, named."""
    paths = (
        "/user/list",
        "/user/online",
        "/system/state",
        "/health",
        "/ready",
        "/acc",
        "/ws",
        "/",
        "/nosuch",
    )
    for path, method in product(
        paths, ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE")
    ):
        yield f"{method} {path}", request(path, method=method)
    for path in (
        "/user/sendMessage",
        "/user/sendMessageAll",
        "/user/kick",
        "/user/onlineBatch",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            yield f"{method} {path}", request(path, method=method)
        form = {"appID": APP, "userID": "a", "msgID": f"d{path}", "message": "x"}
        yield f"form {path}", form_request(path, form)
        yield f"again {path}", form_request(path, form)
        yield (
            f"json {path}",
            json_request(path, {**form, "appID": 101, "msgID": f"j{path}"}),
        )
        yield f"bad json {path}", json_request(path, {"appID": 101, "userID": 5})
        for name, kind, body in (
            ("no json", "application/json", b"{"),
            ("unknown type", "x/y", b"a=b"),
        ):
            typed = request(
                path, method="POST", headers=[("Content-Type", kind)], body=body
            )
            yield f"{name} {path}", typed
        yield f"empty {path}", form_request(path, {})
    apps = (
        "appID=101",
        "appId=101",
        "appID=x",
        "appID=0",
        "appID=101&userID=%E9%BB%84",
    )
    for query in (*apps, "userID=%ff", "&&=&%"):
        yield f"list {query}", request(f"/user/list?{query}")
        yield f"online {query}", request(f"/user/online?{query}")
    batch = {"appID": 101, "userIDs": ["a", "b"], "message": "x", "msgID": "batch"}
    yield "batch", json_request("/user/sendMessageBatch", batch)
    yield "missing host", request("/user/list", host=None)
    both = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]
    sent = request("/user/sendMessage", method="POST", headers=both, body=b"0\r\n\r\n")
    yield "both lengths", sent
    yield "bare line feeds", request("/user/list").replace(b"\r\n", b"\n")
    yield "long head", request("/user/list", headers=[("X", "y" * 17000)])
    yield "no request", b"hello\r\n\r\n"
    for target in (
        "/user/online?appID=101&userID=马远",
        "/文",
        "http://localhost?x=/health",
    ):
        yield f"target {target}", request(target)
    yield (
        "push to a raw name",
        form_request("/user/sendMessage?名=远", {"appID": APP, "userID": "a"}),
    )
    yield "control byte", request("/user/online?userID=马\x01")
    for count in (99, 100):
        for path in ("/health", "/nosuch"):
            # and Host and Connection
            more = [(f"X{number}", "y") for number in range(count - 2)]
            yield f"{count} header lines {path}", request(path, headers=more)
    for path in ("/health", "/nosuch"):
        yield f"head with body {path}", request(path, method="HEAD", body=b"abc")
    old = [("Expect", "100-continue")]
    body = b"appID=101&userID=a"
    yield (
        "old expect",
        request(
            "/user/list", protocol="HTTP/1.0", method="POST", headers=old, body=body
        ),
    )
    yield (
        "pipeline",
        request("/user/list") + request("/system/state") + last(request("/health")),
    )


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(*row, id=row[0]) for row in requests()]
)
def test_a_request_is_answered_alike(
    pair: tuple[Server, Server], name: str, data: bytes
) -> None:
    found = alike(
        pair, data if name == "pipeline" else last(data) if b"\r\n" in data else data
    )
    assert found.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 500" not in found


def conversations() -> Iterator[tuple[str, bytes]]:
    """Handshakes with frames behind them, named."""
    end = close(1000)
    offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
    yield "hello", handshake() + text("hello") + end
    yield (
        "login",
        handshake()
        + command("login", {"userID": "a", "appID": 101})
        + command("heartbeat")
        + end,
    )
    yield (
        "refused login",
        handshake() + command("login", {"userID": "", "appID": 101}) + end,
    )
    yield "kept", request("/user/list") * 2 + handshake() + command("heartbeat") + end
    yield "ping", handshake() + frame(9, b"x") + end
    yield "unmasked", handshake() + frame(1, b"x", mask=None)
    yield "not UTF-8", handshake() + text(b"\xff")
    yield "too big", handshake() + frame(1, b"", declared=70000)
    yield "bad close", handshake() + close(1005)
    yield "one byte close", handshake() + frame(8, b"x")
    yield "echo", handshake(ECHO_PATH) + text("x" * 300) + end
    yield "deflate", handshake(ECHO_PATH, more=offer) + text("x" * 300) + end
    yield "version", handshake(version="8")
    yield "no key", handshake(key=None)
    yield "bad key", handshake(key="x")
    yield "nowhere", handshake("/nosuch")
    yield "raw name", handshake("/acc?店=商店") + text("x") + end
    yield "list", handshake(upgrade="h2c, websocket") + end
    yield "other word", handshake(upgrade="xwebsocketx", more=[("Connection", "close")])
    pong = frame(9, b"")
    yield "body", handshake(more=[("Content-Length", str(len(pong)))]) + pong
    for chunks in (b"0\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(pong), pong)):
        yield (
            f"chunks {len(chunks)}",
            handshake(more=[("Transfer-Encoding", "chunked")]) + chunks,
        )
    yield "post", handshake(method="POST")
    yield "old", handshake(protocol="HTTP/1.0")


@pytest.mark.parametrize("port", ["http", "ws"])
@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(*row, id=row[0]) for row in conversations()]
)
def test_a_conversation_goes_alike(
    pair: tuple[Server, Server], name: str, data: bytes, port: str
) -> None:
    assert alike(pair, data, port).startswith(b"HTTP/1.1 ")


@pytest.mark.both_servers
def test_wire_samples_get_their_answers(launch: Launch, http_server: str) -> None:
    server = launch(
        http_server, centrifuge={"app": "101"}, websocket={"close_seconds": 1}
    )
    for name in ("action", "centrifuge", "client", "cmd"):
        wrong = play(server, samples_of(name))
        assert not wrong, "\n".join([name, *wrong])


# --- /api/v1 ------------------------------------------------------------------


def post(route: str, body: Any, *headers: tuple[str, str]) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(PREFIX + route, method="POST", headers=headers, body=data)


def chunked(route: str, *chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return request(
        PREFIX + route,
        method="POST",
        headers=[("Transfer-Encoding", "chunked")],
        body=parts,
    )


def rows() -> Iterator[tuple[str, int, str, bytes]]:
    """Names, statuses, codes and requests of all kinds."""
    ids = {"app": "101", "users": ["a", "b"]}
    gzipped = ("Content-Encoding", "gzip")
    yield "presence", 200, "", post("presence", ids)
    yield (
        "as a form",
        200,
        "",
        post("presence", ids, ("Content-Type", "application/x-www-form-urlencoded")),
    )
    yield "as something else", 200, "", post("presence", ids, ("Content-Type", "x/y"))
    yield "with an id", 200, "", post("presence", ids, ("X-Request-Id", "mine-17"))
    yield (
        "compressed",
        200,
        "",
        post("presence", gzip.compress(json.dumps(ids).encode()), gzipped),
    )
    other = ("Content-Encoding", "br")
    yield "compressed otherwise", 415, "unknown_encoding", post("presence", ids, other)
    yield "no gzip", 400, "invalid_request", post("presence", b"{}", gzipped)
    yield (
        "a bomb",
        413,
        "body_too_large",
        post("presence", gzip.compress(b" " * 10_000_000), gzipped),
    )
    many = {"app": "101", "users": ["a"] * 11}
    yield "too many", 400, "too_many_targets", post("presence", many)
    long = {"app": "101", "users": ["a" * BODY_BYTES]}
    yield "too long", 413, "body_too_large", post("presence", long)
    yield "chunked", 200, "", chunked("presence", b'{"app":"101",', b'"users":["a"]}')
    yield (
        "chunked and too long",
        413,
        "body_too_large",
        chunked("presence", *[b" " * 1000] * 6),
    )
    for name, body in (
        ("no JSON", b"{"),
        ("not UTF-8", b'{"app":"\xff"}'),
        ("deep", b"[" * 2000),
    ):
        yield name, 400, "invalid_request", post("presence", body)
    yield "unknown app", 404, "unknown_app", post("presence", {"app": "x", "users": []})
    yield "query", 200, "", request(f"{PREFIX}users?app=101&limit=2")
    yield "query, not UTF-8", 404, "unknown_app", request(f"{PREFIX}users?app=%ff")
    for query in ("app=101&lim=2", "app=101&app=102"):
        yield (
            f"query {query}",
            400,
            "invalid_request",
            request(f"{PREFIX}users?{query}"),
        )
    yield "document", 200, "", request(f"{PREFIX}openapi.json")
    accepted = [("Accept-Encoding", "gzip")]
    yield (
        "document, compressed",
        200,
        "",
        request(f"{PREFIX}openapi.json", headers=accepted),
    )
    yield "another method", 405, "method_not_allowed", request(f"{PREFIX}ban")
    for path in ("users/?app=101", "Users?app=101", "nothing"):
        yield path, 404, "not_found", request(PREFIX + path)


@pytest.mark.parametrize("path", sorted({row.path for row in PLAIN}))
def test_each_method_of_a_path_is_answered_alike(
    limited: tuple[Server, Server], path: str
) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"):
        if path not in OWN or method not in ("GET", "HEAD"):
            assert b"HTTP/1.1 500" not in alike(
                limited, last(request(path, method=method))
            )


@pytest.mark.parametrize(
    ("status", "code", "data"), [pytest.param(*row, id=name) for name, *row in rows()]
)
def test_a_request_is_answered_alike_and_refused_with_a_fitting_status(
    limited: tuple[Server, Server], status: int, code: str, data: bytes
) -> None:
    alike(limited, last(data))
    for server in limited:
        response = ask(server.http, data)
        assert response.status == status
        if code:
            assert list(response.json) == ["code", "message", "temporary", "request_id"]
            assert response.json["code"] == code


@pytest.mark.parametrize(
    "path",
    sorted({*(row.path for row in DOCUMENTED if row.status != 101), "/api/v1/docs"}),
)
def test_the_websocket_port_does_not_answer_it(
    limited: tuple[Server, Server], path: str
) -> None:
    for server in limited:
        response = ask(server.ws, request(path))
        assert (response.status, response.json["code"]) == (404, "not_found")
