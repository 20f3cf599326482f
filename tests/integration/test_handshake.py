"""The opening handshake (RFC 6455 section 4) and who is let in, through both HTTP servers."""

import contextlib
import time

import pytest

from tests.support import Server

from .cmd import command, pairs, reply, users
from .raw import Raw, handshake, request
from .setting import Launch

PORTS = ("http", "ws")


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
