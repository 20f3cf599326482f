"""Connections of a real server, through both HTTP servers: how they end, and
what is logged of them."""

import contextlib
import json
import signal
import socket
import time
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.support import HTTP_SERVERS, Server, eventually

from . import client, sse
from .cmd import cmd_client, logged_in
from .raw import Raw, ask, close, request
from .setting import Launch


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.both_servers
def test_a_signal_drains_clients_get_1001_and_the_exit_status_is_0(
    launch: Launch, http_server: str, number: int
) -> None:
    quick = {"close_seconds": 0.3}
    # Ports that nobody else takes: the test looks whether the server has left
    # them.
    node = launch(http_server, app=fixed_ports(), drain=quick, websocket=quick)
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(logged_in(node.ws, f"u{n}", 101)) for n in range(20)
        ]
        anonymous = stack.enter_context(cmd_client(node.http))
        idle = stack.enter_context(Raw(node.http))
        assert idle.ask(request("/health")).status == 200
        # A client without a request so far is waited for, so it is there only
        # once.
        mute = [stack.enter_context(Raw(node.http))] if number == signal.SIGTERM else []
        node.process.send_signal(number)
        for one in [*sessions, anonymous]:
            while (found := one.frame()).opcode == 1:
                assert found.json["cmd"] in ("enter", "exit")
            assert found.close_code == 1001
            one.send(close(1001))
            one.ended()
            one.leave()
        idle.ended()
        for each in mute:
            each.ended()
        assert node.process.wait(40) == 0
    for address in (node.http, node.ws):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=60)


# --- what their log lines name ------------------------------------------------

GIVEN = "shop/7f3a:1"


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log_text.splitlines()]


@pytest.fixture(params=HTTP_SERVERS)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(
        config={"log": {"format": "json", "level": "debug"}}, http_server=request.param
    )


def test_log_lines_of_a_connection_have_its_id(server: Server) -> None:
    with logged_in(server.ws, "ann", 101) as one:
        peer = "{}:{}".format(*one.sock.getsockname())
    end = "connection of ann in 101 closed: code "
    eventually(
        lambda: any(line["message"].startswith(end) for line in lines(server)),
        what="its last line",
    )
    received = [
        line["message"] for line in lines(server) if line.get("connection") == peer
    ]
    assert received[:2] == ["connected", "login of 'ann' in '101': 200"]
    assert len(received) == 3


@pytest.mark.parametrize("path", ["/user/online?appID=101&userID=ann", "/status"])
def test_a_request_is_logged_under_the_id_that_its_sender_gave(
    server: Server, path: str
) -> None:
    assert (
        ask(server.http, request(path, headers=[("X-Request-Id", GIVEN)])).status == 200
    )
    eventually(
        lambda: [line for line in lines(server) if line.get("request") == GIVEN],
        what="its line",
    )


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_token_is_in_no_log(start_server: StartServer, http_server: str) -> None:
    secret = "a secret that is long enough to be one"
    wanting = {"jwt": [{"algorithm": "HS256", "key": secret}]}
    node = start_server(
        config={"apps": {"101": wanting, "system:shop": wanting}},
        http_server=http_server,
    )

    def token(app: str) -> str:
        return jwt.encode(
            {"sub": "ann", "app": app, "exp": time.time() + 60}, secret, "HS256"
        )

    with client.listening(node.ws, "shop", token=token("system:shop")):
        pass
    with sse.listening(node.http, "101", "ann", token=token("101")):
        pass
    text = node.log_with_requests()
    assert f"GET {sse.PATH} 200" in text
    assert "eyJ" not in text, "no token at all begins in the log"
