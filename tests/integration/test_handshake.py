"""The opening handshake (RFC 6455 section 4) and who is let in, through both HTTP servers."""

import contextlib
import time

import pytest

from tests.support import Server, eventually

from .cmd import cmd_client, command, pairs, reply, users
from .raw import Ended, Raw, accept_of, ask, handshake, random_key, request
from .setting import OPEN, Launch

PORTS = ("http", "ws")
HEADER_BYTES = 16384


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


def test_headers_above_the_limit_get_431_though_they_never_end(server: Server) -> None:
    """The server must answer or close long before the sender is done with 4 MiB."""
    assert ask(server.ws, handshake(more=[("X-Filler", "x" * HEADER_BYTES)])).status == 431
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


def test_outside_demo_mode_pages_of_the_same_host_and_friends_alone_are_let_in(
    launch: Launch, http_server: str
) -> None:
    """Others get 403 before the handshake, or after it the code that tells a page to stay away."""
    keys = [{"key": "k" * 32, "scopes": ["push", "read", "admin"]}]
    guarded = launch(http_server, server={"origins": ["friend.example"]}, apps=OPEN, api={"keys": keys})
    for number, origin in enumerate((None, "http://chat.example:8080", "http://friend.example")):
        more = [] if origin is None else [("Origin", origin)]
        with cmd_client(guarded.ws, host="chat.example:8089", more=more) as one:
            one.login(f"u{number}", 101)
    for origin, page in (
        ("http://evil.example", "is of host evil.example; to allow it, add the host to"),
        ("null", "has no host (a file"),
    ):
        with Raw(guarded.ws) as raw:
            answer = raw.ask(handshake(host="chat.example", more=[("Origin", origin)]))
            if answer.status == 101:
                raw.closed(4505)
            else:
                assert answer.status == 403
        line = f"connection refused: the page {page}"
        eventually(lambda line=line: guarded.log_text.count(line) == 1, what="the log names the page")


@pytest.mark.full
def test_a_handshake_that_does_not_end_is_cut_off_in_time(launch: Launch, http_server: str) -> None:
    hasty = launch(http_server, limits={"handshake_seconds": 5, "keepalive_seconds": 5})
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(hasty.ws)) for _ in range(3)]
        for raw, start in zip(raws, (b"", b"GET /acc HT", handshake()[:-2]), strict=True):
            raw.send(start)
        for raw in raws:
            left = raw.rest()
            assert not left or left.startswith(b"HTTP/1.1 408"), left
            assert time.monotonic() - began > 1
