"""The HTTP interface of the cmd dialect on a real server, through both HTTP servers."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, cmd_client, form_request, fresh, get, good, json_request, logged_in
from .raw import Raw, Response, ask, request

PUSHES = ("/user/sendMessage", "/user/sendMessageAll")


@pytest.fixture
def me(server: Server, app: int) -> Iterator[CmdClient]:
    """A session of the user `me`."""
    with logged_in(server.ws, "me", app) as one:
        yield one


def check_headers(answer: Response) -> None:
    """The headers that every answer of the interface has."""
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.header("access-control-allow-methods") == "POST, GET, OPTIONS, PUT, DELETE,UPDATE"
    assert "Content-Type" in (answer.header("access-control-allow-headers") or "")
    assert "Content-Length" in (answer.header("access-control-expose-headers") or "")


@pytest.mark.parametrize(
    "data",
    [
        request("/user/list?appID=101"),
        request("/user/online?appID=101&userID=x"),
        request("/system/state"),
        form_request("/user/sendMessage", {}),
        form_request("/user/sendMessageAll", {"appID": 101, "userID": "x", "message": "x"}),
        form_request("/user/kick", {}),
        json_request("/user/onlineBatch", {"appID": 101, "userIDs": ["x"]}),
        json_request("/user/sendMessageBatch", {"appID": 101, "userIDs": ["x"], "message": "x"}),
        json_request("/user/sendMessage", []),
    ],
    ids=lambda data: data.split(b" ")[1].decode(),
)
def test_every_answer_is_200_json_with_the_headers_of_the_original(server: Server, data: bytes) -> None:
    answer = ask(server.http, data)
    assert answer.status == 200
    check_headers(answer)
    assert list(answer.json) == ["code", "msg", "data"]


def test_a_thousand_repeats_at_once_deliver_once(server: Server, app: int, me: CmdClient) -> None:
    form = {"appID": app, "userID": "me", "msgID": fresh("m"), "message": "once"}
    raws = [Raw(server.http) for _ in range(20)]
    for raw in raws:
        raw.send(form_request("/user/sendMessage", form) * 50)
    found = [good(raw.response()) for raw in raws for _ in range(50)]
    assert found.count({"sendResults": True}) == 1
    assert found.count({}) == 999
    me.push("msg")
    me.no_push()
    for raw in raws:
        raw.leave()


def counting(server: Server, connections: int) -> Any:
    """The state, once the server counts so many connections."""
    found = good(get(server.http, "/system/state"))
    return found if found["managerInfo"]["clientsLen"] == connections else None


def test_the_state_counts_connections_and_users(server: Server, app: int) -> None:
    with logged_in(server.ws, "马远", app) as one, cmd_client(server.ws) as two:
        data = eventually(lambda: counting(server, 2), what="connections of other tests are gone")
        assert list(data)[:3] == ["managerInfo", "numCPU", "numGoroutine"]
        info = data["managerInfo"]
        counts = ["chanBroadcastLen", "chanLoginLen", "chanRegisterLen", "chanUnregisterLen"]
        assert sorted(info) == sorted([*counts, "clientsLen", "usersLen"])
        assert (info["clientsLen"], info["usersLen"]) == (2, 1)
        assert all(type(info[name]) is int for name in counts)
        assert type(data["numCPU"]) is int
        assert type(data["numGoroutine"]) is int
        more = good(get(server.http, "/system/state", isDebug="true"))["managerInfo"]
        peers = sorted("{}:{}".format(*each.sock.getsockname()) for each in (one, two))
        assert sorted(more["clients"]) == peers
        assert more["users"] == [f"{app}_马远"]
    assert "clients" not in good(get(server.http, "/system/state", isDebug="false"))["managerInfo"]
