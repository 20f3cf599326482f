"""The API on the port of WebSockets, and the warning of demo mode, over real connections."""

import json

import pytest

from tests.conftest import StartServer
from tests.integration.raw import ask, request
from tests.support import HTTP_SERVERS, Server, eventually


def test_the_websocket_port_answers_the_api_and_health_but_no_pages(server: Server) -> None:
    assert ask(server.ws, request("/health")).status == 200
    assert ask(server.ws, request("/user/list?appID=101")).status == 200
    assert ask(server.ws, request("/system/state")).status == 200
    for path in ("/", "/home/index", "/status", "/static/x", "/home/token"):
        answer = ask(server.ws, request(path))
        assert (answer.status, answer.json["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_demo_mode_warns_of_a_request_from_elsewhere(start_server: StartServer, http_server: str) -> None:
    server = start_server(http_server=http_server)
    ask(server.http, request("/user/list"))
    ask(server.http, request("/nosuch"))
    assert "DEMO MODE" not in server.log_text
    for _ in range(2):
        ask(server.http, request("/user/list", headers=[("X-Forwarded-For", "203.0.113.5")]))
    eventually(lambda: "DEMO MODE" in server.log_text)
    assert server.log_text.count("DEMO MODE") == 1
    assert json.loads(server.get("/user/list")[1])["code"] == 200
