"""Demo mode answers only for this machine's own names and pages: no website can use a server on loopback."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.conftest import StartServer
from tests.integration.raw import Raw, Response, ask, handshake, request, text
from tests.integration.test_gunicorn import gunicorn as gunicorn
from tests.support import HTTP_SERVERS, Server

FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "192.0.2.7",
    "[2001:db8::1]:80",
)
OWN_HOSTS = (
    "127.0.0.1",
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "[::1]:8080",
    "127.1.2.3:80",
    "im.example",
)
FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://localhost.evil.example",
    "null",
    "",
    "file://",
    "https://im.example.evil.example",
)
OWN_ORIGINS = ("http://localhost:3000", "http://127.0.0.1:9", "https://[::1]", "https://IM.example:8443")
LISTED_ORIGINS = ("https://friend.example", "https://shop.example:8443")
CONFIG: dict[str, Any] = {
    "app": {"http_url": "https://im.example", "websocket_url": "wss://ws.example/acc"},
    "server": {"origins": ["friend.example"]},
    "apps": {"101": {"origins": ["https://shop.example"]}, "102": {}},
}
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
JSON = [("Content-Type", "text/plain")]
ROUTES = (
    ("POST", "/user/sendMessageAll", FORM, b"appID=101&userID=a&msgID=1&message=m"),
    ("POST", "/api/register", JSON, b'{"systemId":"taken"}'),
    ("POST", "/register", FORM, b"phone_number=1&password=2"),
    ("POST", "/api/v1/uploads?app=101&user=a", (), b"x" * 100),
    ("POST", "/home/token", FORM, b"appID=101&userID=a"),
    ("GET", "/user/list?appID=101", (), b""),
    ("GET", "/home/index?appID=101", (), b""),
    ("GET", "/api/v1/docs", (), b""),
    ("GET", "/api/v1/events?app=101&user=a", (), b""),
    ("GET", "/metrics", (), b""),
    ("GET", "/gateway", (), b""),
    ("OPTIONS", "/user/sendMessage", (), b""),
    ("GET", "/nowhere", (), b""),
)


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys, with names of its own."""
    server = Server(tmp_path_factory.mktemp("demo"), config=CONFIG, http_server=request.param)
    yield server
    server.stop()
    server.check()


def refused(answer: Response, code: str) -> None:
    assert answer.status == 403, answer
    assert answer.json["code"] == code
    assert answer.json.keys() == {"code", "message", "temporary", "request_id"}
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.header("Access-Control-Allow-Credentials") == "true"
    assert "DELETE,UPDATE" in (answer.header("Access-Control-Allow-Methods") or "")
    assert answer.header("Access-Control-Allow-Headers")
    assert answer.header("Access-Control-Expose-Headers")


@pytest.mark.parametrize(("method", "path", "headers", "body"), ROUTES, ids=[row[1] for row in ROUTES])
def test_no_route_answers_a_foreign_page_or_host(
    demo: Server, method: str, path: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    for origin in FOREIGN_ORIGINS:
        more = [*headers, ("Origin", origin)]
        refused(ask(demo.http, request(path, method=method, headers=more, body=body)), "origin_refused")
    for host in FOREIGN_HOSTS:
        answer = ask(demo.http, request(path, method=method, headers=headers, body=body, host=host))
        refused(answer, "host_refused")


@pytest.mark.parametrize("path", ["/acc", "/ws", "/ws?systemId=s", "/ws?uid=1&to_uid=2", "/api/v1/publisher"])
def test_no_websocket_opens_for_a_foreign_page_or_host(demo: Server, path: str) -> None:
    for port in (demo.http, demo.ws):
        for origin in FOREIGN_ORIGINS:
            refused(ask(port, handshake(path, more=[("Origin", origin)])), "origin_refused")
        for host in FOREIGN_HOSTS:
            refused(ask(port, handshake(path, host=host)), "host_refused")
            refused(
                ask(port, handshake(path, host=host, more=[("Origin", f"http://{host}")])), "host_refused"
            )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_no_stream_opens_where_a_foreign_page_embeds_its_address(demo: Server, site: str) -> None:
    """Browsers send no Origin with the request for an image."""
    commands = [
        {"id": 1, "connect": {"token": jwt.encode({"sub": "ann"}, "x" * 32, "HS256")}},
        {"id": 2, "subscribe": {"channel": "news"}},
        {"id": 3, "publish": {"channel": "news", "data": "forged"}},
    ]
    query = quote("\n".join(map(json.dumps, commands)))
    more = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")]
    events, sse = "/api/v1/events?app=101&user=ann", f"/connection/sse?cf_connect={query}"
    assert ask(demo.http, request(events, headers=more)).status == 403
    with Raw(demo.http) as raw:
        raw.send(request(sse, headers=more))
        assert b'"connect"' not in raw.rest()
    assert ask(demo.http, request("/user/online?appID=101&userID=ann")).json["data"]["online"] is False
    assert ask(demo.http, request("/home/index?appID=101", headers=more)).status == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_streams_open_for_own_pages_and_for_the_user(demo: Server, site: str) -> None:
    with Raw(demo.http) as raw:
        path = f"/api/v1/events?app=101&user={site}"
        raw.send(request(path, headers=[("Sec-Fetch-Site", site)]))
        assert raw.response(to_head=True).status == 200


def test_a_body_is_refused_before_it_arrives(demo: Server) -> None:
    with Raw(demo.http) as raw:
        raw.send(
            b"POST /user/sendMessage HTTP/1.1\r\nHost: evil.example\r\n"
            b"Content-Length: 1000000\r\n\r\nfirst bytes"
        )
        refused(raw.response(), "host_refused")


def test_a_proxys_header_does_not_make_a_page_our_own(demo: Server) -> None:
    more = [("Origin", "http://evil.example"), ("X-Forwarded-Host", "evil.example")]
    refused(ask(demo.http, request("/user/list?appID=101", headers=more)), "origin_refused")
    refused(ask(demo.http, handshake(more=more)), "origin_refused")


@pytest.mark.parametrize("host", [*OWN_HOSTS, "ws.example", "friend.example"])
def test_own_hosts_are_answered(demo: Server, host: str) -> None:
    assert ask(demo.http, request("/user/list?appID=101", host=host)).json["code"] == 200
    assert ask(demo.ws, handshake(host=host)).status == 101


@pytest.mark.parametrize("origin", [*OWN_ORIGINS, *LISTED_ORIGINS])
def test_own_and_listed_pages_are_answered(demo: Server, origin: str) -> None:
    more = [("Origin", origin)]
    assert ask(demo.http, request("/user/list?appID=101", headers=more)).json["code"] == 200
    assert ask(demo.http, request("/user/sendMessage", method="OPTIONS", headers=more)).status in (200, 204)
    for path in ("/acc", "/ws?systemId=s"):
        assert ask(demo.ws, handshake(path, more=more)).status == 101


def test_a_page_that_one_app_lists_may_not_log_in_to_another(demo: Server) -> None:
    login = '{"seq":"1","cmd":"login","data":{"userID":"a","appID":%d}}'
    for app, expected in ((101, 200), (102, None)):
        with Raw(demo.ws) as raw:
            raw.upgrade("/acc", more=[("Origin", "https://shop.example")])

            raw.send(text(login % app))
            answer = raw.frame()
            if expected is None:
                assert answer.close_code == 4505
            else:
                assert answer.json["response"]["code"] == expected


@pytest.mark.full
def test_every_page_may_come_where_the_operator_says_so(start_server: StartServer) -> None:
    for config in ({"server": {"origin_policy": "any"}}, {"apps": {"101": {"origin_policy": "any"}}}):
        server = start_server(config=config)
        more = [("Origin", "https://evil.example")]
        assert ask(server.http, request("/user/list?appID=101", headers=more)).json["code"] == 200
        assert ask(server.ws, handshake(more=more)).status == 101
        refused(ask(server.http, request("/user/list?appID=101", host="evil.example")), "host_refused")


def test_beyond_loopback_every_address_is_a_host(start_server: StartServer) -> None:
    server = start_server(config={"server": {"host": "0.0.0.0", "insecure": True}})
    address = ("127.0.0.1", server.http.port)
    own = [("Origin", "http://192.0.2.7:3000")]
    assert (
        ask(address, request("/user/list?appID=101", host="192.0.2.7:8080", headers=own)).json["code"] == 200
    )
    refused(ask(address, request("/user/list?appID=101", headers=own)), "origin_refused")
    refused(ask(address, request("/user/list?appID=101", host="evil.example")), "host_refused")


def test_with_a_key_hosts_are_not_checked(start_server: StartServer) -> None:
    server = start_server(
        config={"api": {"keys": [{"key": "a key of some length 0123", "scopes": ["read"]}]}}
    )
    assert ask(server.http, request("/health", host="im.example.com")).status == 200


def test_the_log_explains_how_to_allow_what_was_refused(start_server: StartServer) -> None:
    server = start_server()
    for _ in range(3):
        refused(ask(server.http, request("/health", host="im.example.com")), "host_refused")
    assert server.log_text.count("server.origins") == 1
    assert "im.example.com" in server.log_text


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_every_page_may_import_the_sdk(demo: Server, origin: str) -> None:
    for name in ("errors.js", "imserver.js", "messenger.js"):
        sent = ask(demo.http, request(f"/sdk/{name}", headers=[("Origin", origin)]))
        assert (sent.status, sent.header("Access-Control-Allow-Origin")) == (200, "*")
        assert sent.header("Content-Type") == "text/javascript; charset=utf-8"
    refused(ask(demo.http, request("/sdk/../metrics", headers=[("Origin", origin)])), "origin_refused")


def test_the_sdk_keeps_to_the_hosts_of_the_server(demo: Server) -> None:
    headers = [("Origin", "https://evil.example")]
    refused(ask(demo.http, request("/sdk/imserver.js", headers=headers, host="evil.example")), "host_refused")
