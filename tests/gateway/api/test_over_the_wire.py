"""Bodies of all sizes and shapes over real connections, through both HTTP servers; and a server with keys."""

import json
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.integration.cmd import form_request, json_request, logged_in
from tests.integration.raw import Response, ask, bearer, request
from tests.support import HTTP_SERVERS, Server, eventually

FORM = ("Content-Type", "application/x-www-form-urlencoded")
BAD_PARAMETER = {"code": 1001, "msg": "参数不合法", "data": {}}
UNAUTHORIZED = {"code": 1003, "msg": "未授权", "data": {}}


def body_of(response: Response) -> Any:
    assert response.status == 200, response
    return response.json


def test_a_body_of_megabytes_is_read(server: Server) -> None:
    messages = [{"userID": "nobody", "message": "x" * 100_000}] * 40
    answer = ask(server.http, json_request("/user/sendMessageBatch", {"appID": 101, "messages": messages}))
    assert body_of(answer)["data"]["sendCount"] == 0
    assert len(answer.json["data"]["results"]) == 40


def test_a_batch_of_ten_thousand_is_answered_item_by_item(server: Server) -> None:
    with logged_in(server.ws, "b1", 101) as me:
        messages = [
            {"userID": "b1" if n % 100 == 0 else "x", "msgID": f"b-{n}", "message": str(n)}
            for n in range(10_000)
        ]
        answer = ask(
            server.http, json_request("/user/sendMessageBatch", {"appID": 101, "messages": messages})
        )
        data = body_of(answer)["data"]
        assert data["sendCount"] == 100
        assert [n for n, row in enumerate(data["results"]) if row["sendResults"]] == list(
            range(0, 10_000, 100)
        )
        assert [me.push("msg").json["response"]["data"]["msg"] for _ in range(100)] == [
            str(n) for n in range(0, 10_000, 100)
        ]


def test_the_websocket_port_answers_the_api_and_health_but_no_pages(server: Server) -> None:
    assert ask(server.ws, request("/health")).status == 200
    assert ask(server.ws, request("/user/list?appID=101")).status == 200
    assert ask(server.ws, request("/system/state")).status == 200
    for path in ("/", "/home/index", "/status", "/static/x", "/home/token"):
        answer = ask(server.ws, request(path))
        assert (answer.status, answer.json["code"]) == (404, "not_found"), path


def test_a_kick_closes_with_4502_and_a_ban_refuses_logins(server: Server) -> None:
    with logged_in(server.ws, "k1", 101) as me:
        form = {"appID": 101, "userID": "k1"}
        assert body_of(ask(server.http, form_request("/user/kick", form)))["data"] == {
            "kickResults": True,
            "kickCount": 1,
        }
        assert me.closed(4502)
    with logged_in(server.ws, "k1", 101) as me:
        ask(server.http, form_request("/user/kick", {**form, "banSeconds": 60}))
        assert me.closed(4503)
    with pytest.raises(AssertionError):
        logged_in(server.ws, "k1", 101).__enter__()


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_keys_are_asked_for_and_may_change_without_a_restart(
    start_server: StartServer, http_server: str
) -> None:
    keys = [{"key": "secret-key-of-tests-1", "scopes": ["push"]}]
    server = start_server(config={"api": {"keys": keys}}, http_server=http_server)

    def push(key: str) -> Any:
        data = form_request("/user/sendMessage", {"appID": 101, "userID": "nobody"})
        return body_of(ask(server.http, bearer(data, key)))

    assert push("") == push("secret-key-of-tests-2") == UNAUTHORIZED
    assert push("secret-key-of-tests-1")["data"] == {"sendResults": False}
    assert body_of(ask(server.http, request("/user/list?appID=101"))) == UNAUTHORIZED
    assert ask(server.http, request("/health")).status == 200
    server.configure({"api": {"keys": [{"key": "secret-key-of-tests-2", "scopes": ["push"]}]}})
    server.process.send_signal(1)
    eventually(lambda: push("secret-key-of-tests-2") != UNAUTHORIZED)
    assert push("secret-key-of-tests-1") == UNAUTHORIZED
    assert "secret-key" not in server.log_with_requests()


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_demo_mode_warns_of_the_first_request_from_elsewhere(
    start_server: StartServer, http_server: str
) -> None:
    server = start_server(http_server=http_server)
    ask(server.http, request("/user/list"))
    ask(server.http, request("/nosuch"))
    assert "DEMO MODE" not in server.log_text
    for _ in range(2):
        ask(server.http, request("/user/list", headers=[("X-Forwarded-For", "203.0.113.5")]))
    eventually(lambda: "DEMO MODE" in server.log_text)
    assert server.log_text.count("DEMO MODE") == 1
    assert json.loads(server.get("/user/list")[1])["code"] == 200
