"""Log lines name the connection or the request that they are about, and have no token."""

import json
import time
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.support import HTTP_SERVERS, Server, eventually

from . import client, sse
from .cmd import logged_in
from .raw import ask, request

GIVEN = "shop/7f3a:1"


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log_text.splitlines()]


@pytest.fixture(params=HTTP_SERVERS)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(config={"log": {"format": "json", "level": "debug"}}, http_server=request.param)


def test_log_lines_of_a_connection_have_its_id(server: Server) -> None:
    with logged_in(server.ws, "ann", 101) as one:
        peer = "{}:{}".format(*one.sock.getsockname())
    eventually(
        lambda: any(
            line["message"].startswith("connection of ann in 101 closed: code ") for line in lines(server)
        ),
        what="the end is logged",
    )
    received = [line["message"] for line in lines(server) if line.get("connection") == peer]
    assert received[:2] == ["connected", "login of 'ann' in '101': 200"]
    assert len(received) == 3


@pytest.mark.parametrize("path", ["/user/online?appID=101&userID=ann", "/status"])
def test_a_request_is_logged_under_the_id_that_its_sender_gave(server: Server, path: str) -> None:
    assert ask(server.http, request(path, headers=[("X-Request-Id", GIVEN)])).status == 200
    eventually(
        lambda: [line for line in lines(server) if line.get("request") == GIVEN], what="the request is logged"
    )


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_token_is_in_no_log(start_server: StartServer, http_server: str) -> None:
    secret = "a secret that is long enough to be one"
    wanting = {"jwt": [{"algorithm": "HS256", "key": secret}]}
    node = start_server(config={"apps": {"101": wanting, "system:shop": wanting}}, http_server=http_server)

    def token(app: str) -> str:
        return jwt.encode({"sub": "ann", "app": app, "exp": time.time() + 60}, secret, "HS256")

    with client.listening(node.ws, "shop", token=token("system:shop")):
        pass
    with sse.listening(node.http, "101", "ann", token=token("101")):
        pass
    text = node.log_with_requests()
    assert f"GET {sse.PATH} 200" in text
    assert "eyJ" not in text, "no token at all begins in the log"
