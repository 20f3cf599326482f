"""The HTTP interface of the cmd dialect on a real server, through both HTTP servers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, cmd_client, code_of, form_request, fresh, get, good, json_request, logged_in
from .raw import Raw, Response, ask, request

PUSHES = ("/user/sendMessage", "/user/sendMessageAll")


@pytest.fixture
def me(server: Server, app: int) -> Iterator[CmdClient]:
    """A session of the user `me`."""
    with logged_in(server.ws, "me", app) as one:
        yield one


def multipart_request(path: str, form: dict[str, Any]) -> bytes:
    """The bytes of a POST with a multipart form."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form.items()
    ]
    kind = ("Content-Type", "multipart/form-data; boundary=b")
    return request(path, method="POST", headers=[kind], body=("".join(parts) + "--b--\r\n").encode())


BODIES = {"urlencoded": form_request, "multipart": multipart_request, "json": json_request}


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


# Who is online.


# Pushes.


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", PUSHES)
@pytest.mark.parametrize("spelling", ["ID", "Id"])
def test_a_push_is_taken_as_form_and_as_json_in_both_spellings(
    server: Server, app: int, me: CmdClient, kind: str, path: str, spelling: str
) -> None:
    to = "me" if path == "/user/sendMessage" else "somebody"
    text, msg_id = "消息 +&=%\r\n<b>\"'", fresh("m")
    form = {"app" + spelling: app, "user" + spelling: to, "msg" + spelling: msg_id, "message": text}
    assert good(ask(server.http, BODIES[kind](path, form))) == {"sendResults": True}
    found = me.push().json
    assert found["seq"] == msg_id
    assert found["response"]["data"] == {"target": "", "type": "text", "msg": text, "from": to}


@pytest.mark.parametrize("path", PUSHES)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b"null"),
        ("application/json", b"\xff"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"appID":101,"userID":5,"message":"x"}'),
        ("application/json", b'{"appID":101,"userID":"a","message":{}}'),
        ("application/json", b'{"appID":-1,"userID":"a","message":"x"}'),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nbroken"),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b--"),
        ("application/octet-stream", b"\x00\xff"),
        ("text/plain", b"appID=101&userID=a"),
        ("application/x-www-form-urlencoded", b"\xff\xfe=\x00&&&=&%%%"),
        ("", b"x"),
        ("é", b"x"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_body_that_cannot_be_read_is_answered_and_never_500(
    server: Server, path: str, kind: str, body: bytes
) -> None:
    headers = [("Content-Type", kind)] if kind else []
    answer = ask(server.http, request(path, method="POST", headers=headers, body=body))
    assert code_of(answer) in (200, 1001)
    check_headers(answer)
    if kind == "application/json":
        assert code_of(answer) == 1001


# The same msgID twice.


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


# State.


def state(server: Server) -> dict[str, Any]:
    """The counters of `/system/state`."""
    found: dict[str, Any] = good(get(server.http, "/system/state"))["managerInfo"]
    return found


def test_the_state_counts_connections_and_users(server: Server, app: int) -> None:
    with logged_in(server.ws, "马远", app) as one, cmd_client(server.ws) as two:
        eventually(lambda: state(server)["clientsLen"] == 2, what="connections of other tests are gone")
        data = good(get(server.http, "/system/state"))
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


# Paths and methods.


@pytest.mark.parametrize(
    "path", ["/user/list", "/user/online", "/system/state", "/home/index", "/health", "/ready"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_get_path_with_another_method_is_404_or_405(server: Server, path: str, method: str) -> None:
    answer = ask(server.http, request(path, method=method, body=b"x"))
    assert answer.status in (404, 405)


@pytest.mark.parametrize("path", [*PUSHES, "/user/sendMessageBatch", "/user/onlineBatch", "/user/kick"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_post_path_with_another_method_is_404_or_405(server: Server, path: str, method: str) -> None:
    answer = ask(server.http, request(path, method=method))
    assert answer.status in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/nosuch",
        "/user",
        "/user/",
        "/user/list/",
        "/USER/list",
        "/user//list",
        "/user/list;x",
        "/user/%6cist%00",
        "/../etc/passwd",
        "/static/../config/default.yaml",
        "/static/%2e%2e/config/default.yaml",
        "/%ff",
        "/" + "x" * 5000,
        "//evil.example/",
    ],
    ids=lambda path: path[:30],
)
def test_an_unknown_path_is_404_in_json(server: Server, path: str) -> None:
    answer = ask(server.http, request(path))
    assert answer.status in (400, 404), answer
    assert isinstance(json.loads(answer.body), dict)
