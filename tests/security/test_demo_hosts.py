"""Demo mode answers only for this machine's own names and pages: no website can
use a server on loopback.

Which names and pages those are is in tests/gateway/transport/test_gate.py.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.conftest import StartServer
from tests.integration.raw import Raw, Response, ask, handshake, request
from tests.support import HTTP_SERVERS, Server

FOREIGN_HOSTS = (
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "192.0.2.7",
    "[2001:db8::1]:80",
)
FOREIGN_ORIGINS = (
    "https://evil.example",
    "null",
    "",
    "file://",
    "https://im.example.evil.example",
)
OWN_HOSTS = ("localhost.", "[::1]:8080", "im.example", "ws.example", "friend.example")
OWN_ORIGINS = (
    "http://localhost:3000",
    "https://IM.example:8443",
    "https://shop.example:8443",
)
CONFIG: dict[str, Any] = {
    "app": {"http_url": "https://im.example", "websocket_url": "wss://ws.example/acc"},
    "server": {"origins": ["friend.example"]},
    "apps": {"101": {"origins": ["https://shop.example"]}},
}
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
OTHERS = (
    "/user/list?appID=101",
    "/home/index?appID=101",
    "/api/v1/docs",
    "/api/v1/events?app=101&user=a",
    "/metrics",
    "/gateway",
    "/nowhere",
    "/sdk/../metrics",
)
ROUTES = (
    ("POST", "/user/sendMessageAll", FORM, b"appID=101&userID=a&msgID=1&message=m"),
    (
        "POST",
        "/api/register",
        [("Content-Type", "text/plain")],
        b'{"systemId":"taken"}',
    ),
    ("POST", "/register", FORM, b"phone_number=1&password=2"),
    ("POST", "/api/v1/uploads?app=101&user=a", (), b"x" * 100),
    ("POST", "/home/token", FORM, b"appID=101&userID=a"),
    ("OPTIONS", "/user/sendMessage", (), b""),
    *(("GET", path, (), b"") for path in OTHERS),
)


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def demo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server without keys, with names of its own."""
    server = Server(
        tmp_path_factory.mktemp("demo"), config=CONFIG, http_server=request.param
    )
    yield server
    server.stop()
    server.check()


def refused(answer: Response, code: str) -> None:
    assert answer.status == 403, answer
    assert answer.json["code"] == code
    assert answer.json.keys() == {"code", "message", "temporary", "request_id"}
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert "DELETE,UPDATE" in (answer.header("Access-Control-Allow-Methods") or "")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"), ROUTES, ids=[row[1] for row in ROUTES]
)
def test_no_route_answers_a_foreign_page_or_host(
    demo: Server,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> None:
    for origin in FOREIGN_ORIGINS:
        more = [*headers, ("Origin", origin)]
        refused(
            ask(demo.http, request(path, method=method, headers=more, body=body)),
            "origin_refused",
        )
    for host in FOREIGN_HOSTS:
        answer = ask(
            demo.http,
            request(path, method=method, headers=headers, body=body, host=host),
        )
        refused(answer, "host_refused")


@pytest.mark.parametrize(
    "path", ["/acc", "/ws", "/ws?systemId=s", "/ws?uid=1&to_uid=2", "/api/v1/publisher"]
)
def test_no_websocket_opens_for_a_foreign_page_or_host(demo: Server, path: str) -> None:
    for port in (demo.http, demo.ws):
        for origin in FOREIGN_ORIGINS:
            more = [("Origin", origin), ("X-Forwarded-Host", "evil.example")]
            refused(ask(port, handshake(path, more=more)), "origin_refused")
        for host in FOREIGN_HOSTS:
            refused(ask(port, handshake(path, host=host)), "host_refused")
            own = [("Origin", f"http://{host}")]
            refused(ask(port, handshake(path, host=host, more=own)), "host_refused")


def test_no_stream_opens_where_a_foreign_page_embeds_its_address(demo: Server) -> None:
    """Browsers send no Origin with the request for an image."""
    commands = [
        {"id": 1, "connect": {"token": jwt.encode({"sub": "ann"}, "x" * 32, "HS256")}},
        {"id": 2, "publish": {"channel": "news", "data": "forged"}},
    ]
    events = "/api/v1/events?app=101&user=ann"
    sse = f"/connection/sse?cf_connect={quote(chr(10).join(map(json.dumps, commands)))}"
    for site in ("cross-site", "same-site"):
        more = [
            ("Sec-Fetch-Site", site),
            ("Sec-Fetch-Mode", "no-cors"),
            ("Sec-Fetch-Dest", "image"),
        ]
        assert ask(demo.http, request(events, headers=more)).status == 403
        with Raw(demo.http) as raw:
            raw.send(request(sse, headers=more))
            assert b'"connect"' not in raw.rest()
        assert (
            ask(demo.http, request("/home/index?appID=101", headers=more)).status == 200
        )
    for site in ("same-origin", "none"):
        with Raw(demo.http) as raw:
            raw.send(request(events, headers=[("Sec-Fetch-Site", site)]))
            assert raw.response(to_head=True).status == 200


def test_a_body_is_refused_before_it_arrives(demo: Server) -> None:
    with Raw(demo.http) as raw:
        head = b"POST /user/sendMessage HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000\r\n\r\n"
        raw.send(head + b"first bytes")
        refused(raw.response(), "host_refused")


def test_own_hosts_and_own_and_listed_pages_are_answered(demo: Server) -> None:
    users = "/user/list?appID=101"
    for host in OWN_HOSTS:
        assert ask(demo.http, request(users, host=host)).json["code"] == 200
        assert ask(demo.ws, handshake(host=host)).status == 101
    for origin in OWN_ORIGINS:
        more = [("Origin", origin)]
        assert ask(demo.http, request(users, headers=more)).json["code"] == 200
        options = ask(
            demo.http, request("/user/sendMessage", method="OPTIONS", headers=more)
        )
        assert options.status in (200, 204)
        for path in ("/acc", "/ws?systemId=s"):
            assert ask(demo.ws, handshake(path, more=more)).status == 101


def test_every_page_may_import_the_sdk(demo: Server) -> None:
    for origin in FOREIGN_ORIGINS:
        headers = [("Origin", origin)]
        for name in ("errors.js", "imserver.js", "messenger.js"):
            sent = ask(demo.http, request(f"/sdk/{name}", headers=headers))
            assert (sent.status, sent.header("Access-Control-Allow-Origin")) == (
                200,
                "*",
            )
            assert sent.header("Content-Type") == "text/javascript; charset=utf-8"
        refused(
            ask(
                demo.http,
                request("/sdk/imserver.js", headers=headers, host="a.example"),
            ),
            "host_refused",
        )


def test_any_page_comes_where_the_operator_says_so_and_with_a_key_to_any_host(
    start_server: StartServer,
) -> None:
    server = start_server(config={"apps": {"101": {"origin_policy": "any"}}})
    more = [("Origin", "https://evil.example")]
    assert (
        ask(server.http, request("/user/list?appID=101", headers=more)).json["code"]
        == 200
    )
    refused(ask(server.http, request("/health", host="im.example.com")), "host_refused")
    keys = [{"key": "a key of some length 0123", "scopes": ["read"]}]
    keyed = start_server(config={"api": {"keys": keys}})
    assert ask(keyed.http, request("/health", host="im.example.com")).status == 200
