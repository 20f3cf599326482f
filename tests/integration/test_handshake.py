"""The opening handshake (RFC 6455 section 4) and who is let in, through both HTTP servers."""

import contextlib
import time
from typing import Any

import pytest

from tests.gateway.api.test_metrics import samples
from tests.support import Server, eventually

from .cmd import cmd_client, command, pairs, reply, users
from .raw import KEY, PING, Ended, Raw, accept_of, ask, frame, handshake, random_key, request
from .setting import OPEN, Launch

PORTS = ("http", "ws")
HEADER_BYTES = 16384


def refused_handshakes(server: Server) -> float:
    found = samples(ask(server.http, request("/metrics")).body.decode())
    return sum(count for (name, _), count in found.items() if name == "imserver_handshakes_refused_total")


@pytest.mark.parametrize("port", PORTS)
def test_an_upgrade_on_either_port_is_answered_101_with_the_right_accept(server: Server, port: str) -> None:
    key = random_key()
    with Raw(getattr(server, port)) as raw:
        answer = raw.ask(handshake(key=key))
        assert answer.status == 101
        assert answer.header("sec-websocket-accept") == accept_of(key)
        assert (answer.header("upgrade") or "").lower() == "websocket"
        assert (answer.header("connection") or "").lower() == "upgrade"
        assert answer.header("sec-websocket-extensions") is None
        assert answer.header("sec-websocket-protocol") is None
        assert answer.header("content-length") is None
        assert answer.header("transfer-encoding") is None
        raw.quiet()


@pytest.mark.parametrize(
    "options",
    [
        {"connection": "keep-alive, Upgrade"},
        {"upgrade": "h2c, WebSocket"},
        {"path": "/acc?token=x&a=1"},
        {"more": [("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Extensions", "permessage-deflate")]},
        {"more": [("X-Forwarded-For", "192.0.2.1"), ("User-Agent", "x" * 500), ("Cookie", "a=b; c=d")]},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items())[:60],
)
def test_an_upgrade_in_other_words_is_taken(server: Server, options: dict[str, Any]) -> None:
    with Raw(server.ws) as raw:
        answer = raw.ask(handshake(**options))
        assert answer.status == 101, answer
        # Neither a subprotocol nor an extension that is switched off may be answered.
        assert answer.header("sec-websocket-protocol") is None
        assert answer.header("sec-websocket-extensions") is None
        raw.quiet()


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("path", ["/acc", "/acc?x=1", "/ws", "/ws?systemId=1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_plain_request_to_a_websocket_path_gets_400_in_json(
    server: Server, port: str, path: str, method: str
) -> None:
    body = b"a=1" if method == "POST" else b""
    answer = ask(getattr(server, port), request(path, method=method, body=body))
    assert answer.status == 400
    assert (answer.header("content-type") or "").startswith("application/json")
    assert isinstance(answer.json, dict)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("path", ["/ws/", "/", "/nosuch", "/acc/", "/acc/x", "/ACC", "/user/list"])
def test_an_upgrade_where_no_dialect_lives_gets_404(server: Server, port: str, path: str) -> None:
    answer = ask(getattr(server, port), handshake(path))
    assert answer.status == 404, answer
    assert answer.header("sec-websocket-accept") is None


def test_another_version_gets_426_that_names_13_alone_and_is_counted(server: Server) -> None:
    before = refused_handshakes(server)
    answer = ask(server.ws, handshake(version="8"))
    assert answer.status == 426
    assert answer.all("sec-websocket-version") == ["13"]
    assert refused_handshakes(server) == before + 1


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ({"key": None}, (400,)),
        ({"key": "short"}, (400,)),
        ({"more": [("Sec-WebSocket-Key", KEY)]}, (400,)),
        ({"upgrade": None}, (400, 426)),
        ({"upgrade": "xwebsocketx"}, (400, 426)),
        ({"connection": "keep-alive"}, (400, 426)),
        ({"more": [("Content-Length", "6")]}, (400,)),
        ({"more": [("Transfer-Encoding", "chunked")]}, (400,)),
        ({"protocol": "HTTP/1.0"}, (400, 405, 426)),
        ({"method": "POST"}, (400, 405, 426)),
    ],
    ids=str,
)
def test_half_an_upgrade_or_one_with_a_body_is_refused(
    server: Server, options: dict[str, Any], statuses: tuple[int, ...]
) -> None:
    data = handshake(**options)
    behind = b"0\r\n\r\n" if b"chunked" in data else frame(PING, b"")
    assert ask(server.ws, data + behind).status in statuses


def test_headers_above_the_limit_get_431(server: Server) -> None:
    with Raw(server.ws) as raw:
        raw.send(handshake(more=[("X-Filler", "x" * HEADER_BYTES)]))
        assert raw.response().status == 431


def test_a_head_that_never_ends_is_cut_off_at_the_limit(server: Server) -> None:
    """The server must answer or close long before the sender is done with 4 MiB."""
    with Raw(server.ws) as raw:
        raw.send(b"GET /acc HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(4096):
                raw.send(b"X-Filler: " + b"x" * 1012 + b"\r\n")
        with contextlib.suppress(Ended):
            assert raw.response().status == 431


def test_a_login_in_the_same_packet_as_the_upgrade_is_served(server: Server, app: int) -> None:
    with Raw(server.ws) as raw:
        raw.send(handshake(), command("login", {"userID": "early", "appID": app}), command("ping", None, "2"))
        assert raw.response().status == 101
        assert pairs(raw.message().payload) == reply(200, "Success", "login")
        assert pairs(raw.message().payload) == reply(200, "Success", "ping", "2", "pong")
        assert users(server.http, app) == ["early"]


@pytest.mark.parametrize("port", PORTS)
def test_a_kept_alive_connection_may_carry_an_upgrade(server: Server, port: str) -> None:
    with Raw(getattr(server, port)) as raw:
        assert raw.ask(request("/health")).status == 200
        assert raw.ask(request("/health")).status == 200
        raw.upgrade()
        raw.quiet()


# Servers with settings of their own.


@pytest.fixture(scope="module")
def guarded(launch: Launch, http_server: str) -> Server:
    """API keys exist, so pages must be of the same host."""
    return launch(
        http_server,
        server={"origins": ["friend.example"]},
        apps=OPEN,
        api={"keys": [{"key": "k" * 32, "scopes": ["push", "read", "admin"]}]},
    )


@pytest.fixture(scope="module")
def hasty(launch: Launch, http_server: str) -> Server:
    """Short times for handshakes and between two requests."""
    return launch(http_server, limits={"handshake_seconds": 5, "keepalive_seconds": 5})


@pytest.mark.parametrize("origin", [None, "http://chat.example:8080", "http://friend.example"])
def test_outside_demo_mode_pages_of_the_same_host_and_friends_are_let_in(
    guarded: Server, origin: str | None
) -> None:
    more = [] if origin is None else [("Origin", origin)]
    with cmd_client(guarded.ws, host="chat.example:8089", more=more) as one:
        one.login(f"u{time.monotonic_ns() % 10**9}", 101)


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_outside_demo_mode_pages_of_another_host_are_kept_out(guarded: Server, origin: str) -> None:
    """Before the handshake with 403, or after it with the close code that tells a page to stay away."""
    with Raw(guarded.ws) as raw:
        answer = raw.ask(handshake(host="chat.example", more=[("Origin", origin)]))
        if answer.status == 101:
            raw.closed(4505)
        else:
            assert answer.status == 403
    host = origin.removeprefix("http://")
    page = "has no host (a file" if host == "null" else f"is of host {host}; to allow it, add the host to"
    line = f"connection refused: the page {page}"
    eventually(lambda: guarded.log_text.count(line) == 1, what="the log names the page")


@pytest.mark.full
def test_a_handshake_that_does_not_end_is_cut_off_in_time(hasty: Server) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(hasty.ws)) for _ in range(3)]
        for raw, start in zip(raws, (b"", b"GET /acc HT", handshake()[:-2]), strict=True):
            raw.send(start)
        for raw in raws:
            left = raw.rest()
            assert not left or left.startswith(b"HTTP/1.1 408"), left
            assert time.monotonic() - began > 1
