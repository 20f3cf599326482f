"""The HTTP interface of the cmd dialect on a real server, through both HTTP servers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import (
    CmdClient,
    cmd_client,
    code_of,
    command,
    form_request,
    fresh,
    get,
    good,
    json_request,
    logged_in,
    post,
    send_message,
    users,
)
from .raw import Raw, Response, ask, bearer, request
from .setting import OPEN, Launch

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


def test_the_list_has_each_user_of_the_app_once(server: Server, app: int) -> None:
    assert good(get(server.http, "/user/list", appID=app)) == {"userCount": 0, "userList": []}
    with (
        logged_in(server.ws, "马远", app),
        logged_in(server.ws, "黄帝", app),
        logged_in(server.ws, "黄帝", app),
        cmd_client(server.ws),
    ):
        assert users(server.http, app) == sorted(["马远", "黄帝"])


@pytest.mark.parametrize(
    "query", [{}, {"appID": 999}, {"appID": 0}, {"appID": "x"}, {"appID": ""}, {"appID": -1}]
)
def test_the_list_of_an_unknown_app_or_none_is_empty(server: Server, query: dict[str, Any]) -> None:
    assert good(get(server.http, "/user/list", **query)) == {"userCount": 0, "userList": []}


@pytest.mark.parametrize("name", ["appID", "appId", "appid"])
def test_the_app_may_be_spelled_in_both_ways(server: Server, app: int, me: CmdClient, name: str) -> None:
    assert good(get(server.http, "/user/list", **{name: app}))["userList"] == ["me"]


@pytest.mark.parametrize(
    ("app_name", "user_name"), [("appID", "userID"), ("appId", "userId"), ("appid", "userid")]
)
def test_online_tells_whether_a_user_is_there(
    server: Server, app: int, me: CmdClient, app_name: str, user_name: str
) -> None:
    there = good(get(server.http, "/user/online", **{app_name: app, user_name: "me"}))
    assert there == {"online": True, "userID": "me"}
    away = good(get(server.http, "/user/online", **{app_name: app, user_name: "黄帝"}))
    assert away == {"online": False, "userID": "黄帝"}
    assert good(get(server.http, "/user/online", **{app_name: 101, user_name: "me"}))["online"] is False


@pytest.mark.parametrize("query", [{}, {"appID": 0}, {"appID": "x"}])
def test_online_without_an_app_means_in_any_app(server: Server, app: int, query: dict[str, Any]) -> None:
    user = fresh("any")
    assert good(get(server.http, "/user/online", userID=user, **query))["online"] is False
    with logged_in(server.ws, user, app):
        assert good(get(server.http, "/user/online", userID=user, **query))["online"] is True


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


def test_plus_signs_and_percents_of_a_form_are_decoded(server: Server, app: int, me: CmdClient) -> None:
    body = f"appID={app}&userID=%6d%65&msgID={fresh('m')}&message=a+b%2Bc%E4%BD%A0%zz%&x".encode()
    kind = ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
    answer = ask(server.http, request("/user/sendMessage", method="POST", headers=[kind], body=body))
    assert good(answer) == {"sendResults": True}
    assert me.push().json["response"]["data"]["msg"] == "a b+c你%zz%"


def test_a_query_on_a_post_is_not_read(server: Server, app: int, me: CmdClient) -> None:
    answer = ask(server.http, form_request(f"/user/sendMessage?appID={app}&userID=me", {"message": "x"}))
    assert good(answer) == {"sendResults": False}
    me.no_push()


def test_an_app_that_is_no_number_counts_as_0_and_reaches_nobody(server: Server, me: CmdClient) -> None:
    for path in PUSHES:
        assert code_of(post(server.http, path, appID="x", userID="me", message="x", msgID=fresh("m"))) == 200
    me.no_push("msg")


@pytest.mark.parametrize("form", [{}, {"userID": ""}, {"appID": 101}, {"message": "x"}])
def test_a_push_to_an_empty_user_is_not_sent(server: Server, form: dict[str, Any]) -> None:
    assert good(post(server.http, "/user/sendMessage", **form)) == {"sendResults": False}


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


def test_a_msg_id_that_was_accepted_is_not_accepted_again(server: Server, app: int, me: CmdClient) -> None:
    msg_id = fresh("m")
    assert send_message(server.http, app, "me", "one", msg_id) == {"sendResults": True}
    for path in PUSHES:
        assert good(post(server.http, path, appID=app, userID="me", msgID=msg_id, message="two")) == {}
        assert good(post(server.http, path, appID=102, userID="x", msgId=msg_id, message="two")) == {}
    assert me.push().json["response"]["data"]["msg"] == "one"
    me.no_push()


def test_a_msg_id_whose_message_reached_nobody_may_be_used_again(server: Server, app: int) -> None:
    msg_id = fresh("m")
    for _ in range(2):
        assert send_message(server.http, app, "late", "x", msg_id) == {"sendResults": False}
    with logged_in(server.ws, "late", app) as one:
        assert send_message(server.http, app, "late", "now", msg_id) == {"sendResults": True}
        assert send_message(server.http, app, "late", "again", msg_id) == {}
        assert one.push().json["response"]["data"]["msg"] == "now"
        one.no_push()


def test_an_empty_msg_id_is_never_taken_for_a_repeat(server: Server, app: int, me: CmdClient) -> None:
    for form in ({"msgID": ""}, {"msgID": ""}, {}, {}):
        answer = post(server.http, "/user/sendMessage", appID=app, userID="me", message="x", **form)
        assert good(answer) == {"sendResults": True}
        assert me.push().json["response"]["data"]["msg"] == "x"


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


def test_a_path_may_be_percent_encoded(server: Server, app: int) -> None:
    assert good(ask(server.http, request(f"/user/%6cist?appID={app}")))["userCount"] == 0


def test_an_absolute_request_target_is_understood(server: Server, app: int) -> None:
    """RFC 9112 section 3.2.2: every server has to take it."""
    assert good(ask(server.http, request(f"http://127.0.0.1/user/list?appID={app}")))["userCount"] == 0


@pytest.mark.parametrize("port", ["http", "ws"])
def test_health_and_readiness_answer_on_both_ports_where_promised(server: Server, port: str) -> None:
    assert ask(getattr(server, port), request("/health")).status == 200
    if port == "http":
        assert ask(server.http, request("/ready")).status == 200


# Outside demo mode.

KEYS = {"all": "a" * 32, "push": "p" * 32, "read": "r" * 32, "one": "o" * 32}


@pytest.fixture(scope="module")
def guarded(launch: Launch, http_server: str) -> Server:
    """API keys are required."""
    keys = [
        {"key": KEYS["all"], "scopes": ["push", "read", "admin"]},
        {"key": KEYS["push"], "scopes": ["push"]},
        {"key": KEYS["read"], "scopes": ["read"]},
        {"key": KEYS["one"], "scopes": ["push", "read", "admin"], "apps": ["101"]},
    ]
    return launch(http_server, api={"keys": keys}, apps=OPEN)


@pytest.mark.parametrize(
    ("data", "needs"),
    [
        (request("/user/list?appID=102"), {"all", "read"}),
        (request("/user/online?appID=102&userID=x"), {"all", "read"}),
        (form_request("/user/sendMessage", {"appID": 102, "userID": "x", "message": "x"}), {"all", "push"}),
        (
            form_request("/user/sendMessageAll", {"appID": 102, "userID": "x", "message": "x"}),
            {"all", "push"},
        ),
        (
            json_request("/user/sendMessageBatch", {"appID": 102, "userIDs": ["x"], "message": "x"}),
            {"all", "push"},
        ),
        (json_request("/user/onlineBatch", {"appID": 102, "userIDs": ["x"]}), {"all", "read"}),
        (form_request("/user/kick", {"appID": 102, "userID": "x"}), {"all"}),
        (request("/system/state?isDebug=true"), {"all"}),
    ],
    ids=lambda value: value.split(b" ")[1].decode() if isinstance(value, bytes) else "",
)
def test_only_a_key_with_the_scope_for_the_app_is_let_in(
    guarded: Server, data: bytes, needs: set[str]
) -> None:
    for name in KEYS:
        assert (code_of(ask(guarded.http, bearer(data, KEYS[name]))) == 200) == (name in needs), name
    for wrong in (None, "", "x" * 32, KEYS["all"] + "x", KEYS["all"][:-1]):
        answer = ask(guarded.http, bearer(data, wrong))
        assert code_of(answer) == 1003
        check_headers(answer)


def test_a_key_of_one_app_works_there(guarded: Server) -> None:
    data = bearer(request("/user/list?appID=101"), KEYS["one"])
    assert good(ask(guarded.http, data)) == {"userCount": 0, "userList": []}
    data = bearer(
        form_request("/user/sendMessageAll", {"appID": 101, "userID": "x", "message": "x"}), KEYS["one"]
    )
    assert good(ask(guarded.http, data)) == {"sendResults": True}


def test_health_needs_no_key(guarded: Server) -> None:
    assert ask(guarded.http, request("/health")).status == 200
    assert ask(guarded.http, request("/ready")).status == 200


def test_outside_demo_mode_a_msg_id_counts_per_app(guarded: Server) -> None:
    form = {"userID": "x", "msgID": "same", "message": "x"}
    for app, expected in ((101, {"sendResults": True}), (102, {"sendResults": True}), (101, {}), (102, {})):
        data = bearer(form_request("/user/sendMessageAll", {"appID": app, **form}), KEYS["all"])
        assert good(ask(guarded.http, data)) == expected


# What was added.


def test_kick_closes_a_users_connections_with_a_code_that_tells_to_stay_away(
    server: Server, app: int
) -> None:
    with logged_in(server.ws, "witness", app) as witness, logged_in(server.ws, "bad", app) as bad:
        witness.push("enter")
        assert good(post(server.http, "/user/kick", appID=app, userID="bad"))["kickCount"] == 1
        bad.closed(4502)
        assert witness.push().json["cmd"] == "exit"
        assert users(server.http, app) == ["witness"]
        with logged_in(server.ws, "bad", app):
            assert users(server.http, app) == ["bad", "witness"]
        assert good(post(server.http, "/user/kick", appID=app, userID="nobody"))["kickCount"] == 0


def test_a_ban_refuses_logins_until_it_ends(server: Server, app: int) -> None:
    with logged_in(server.ws, "bad", app) as bad:
        assert (
            good(post(server.http, "/user/kick", appID=app, userID="bad", banSeconds=999))["kickCount"] == 1
        )
        bad.closed(4503)
    with cmd_client(server.ws) as one:
        one.send(command("login", {"userID": "bad", "appID": app}))
        found = one.frame()
        if found.opcode == 1:
            assert found.json["response"]["code"] != 200
        else:
            assert found.close_code == 4503
    post(server.http, "/user/kick", appID=app, userID="bad", banSeconds=0.1)  # instead of the first

    def comes() -> bool:
        with cmd_client(server.ws) as again:
            again.send(command("login", {"userID": "bad", "appID": app}))
            return again.frame().opcode == 1

    eventually(comes, what="the ban has ended")


def test_a_batch_of_messages_tells_for_each_what_became_of_it(
    server: Server, app: int, me: CmdClient
) -> None:
    repeated = fresh("m")
    messages = [
        {"userID": "me", "msgID": repeated, "message": "1"},
        {"userID": "absent", "msgID": fresh("m"), "message": "2"},
        {"userID": "me", "msgID": repeated, "message": "3"},
        {"userID": "me", "msgID": "", "message": "4"},
    ]
    data = good(
        ask(server.http, json_request("/user/sendMessageBatch", {"appID": app, "messages": messages}))
    )
    assert len(data["results"]) == 4
    assert [row.get("sendResults") for row in data["results"]] == [True, False, None, True]
    assert [me.push().json["response"]["data"]["msg"] for _ in range(2)] == ["1", "4"]
    me.no_push()


def test_ten_thousand_targets_are_taken_and_one_more_is_not(server: Server, app: int, me: CmdClient) -> None:
    names = ["me", *(f"absent{number}" for number in range(9999))]
    body = {"appID": app, "userIDs": names, "message": "x", "msgID": fresh("m")}
    data = good(ask(server.http, json_request("/user/sendMessageBatch", body)))
    assert [row["userID"] for row in data["results"]] == names
    assert [row["sendResults"] for row in data["results"]] == [True] + [False] * 9999
    me.push("msg")
    body["userIDs"] = [*names, "one more"]
    assert code_of(ask(server.http, json_request("/user/sendMessageBatch", body))) == 1001
    me.no_push()


def test_online_batch_answers_for_each(server: Server, app: int, me: CmdClient) -> None:
    body = {"appID": app, "userIDs": ["me", "absent", "马远"]}
    data = good(ask(server.http, json_request("/user/onlineBatch", body)))
    assert [(row["userID"], row["online"]) for row in data["userList"]] == [
        ("me", True),
        ("absent", False),
        ("马远", False),
    ]
