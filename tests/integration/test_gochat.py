"""GoChat's routes over the wire, in the words of the original, and what moved
here from it."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.support import Server, eventually, run_cli

from .gochat import code_and_message, form, fresh_phone, register
from .protobuf import acked, chatting
from .raw import ask, request
from .setting import Launch

BAD_PARAMETER = (-1, "参数不正确")
WRONG_LOGIN = (-1, "手机号或密码错误")
WRONG_TOKEN = (-1, "用户认证未通过")
ADDED = (200, "好友添加成功")
NUMBERS = ("", "0", "x", "9" * 20)
PASSWORD = "密码 & more"


def log_in(server: Server, phone: str, password: str) -> dict[str, Any]:
    answer: dict[str, Any] = form(
        server.http, "/login", {"phone_number": phone, "password": password}
    ).json
    return answer


@pytest.mark.both_servers
def test_an_account_and_its_token(server: Server) -> None:
    phone = fresh_phone()
    fields = {"phone_number": phone, "password": PASSWORD, "nickname": phone}
    answer = form(server.http, "/register", fields)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert list(answer.json) == ["code", "msg", "data"]
    assert (answer.json["code"], answer.json["msg"]) == (200, "登录成功")
    assert list(answer.json["data"]) == ["token", "id"]
    user = answer.json["data"]["id"]
    claims = json.loads(
        urlsafe_b64decode(answer.json["data"]["token"].split(".")[1] + "==")
    )
    assert claims["user_id"] == int(user)
    assert code_and_message(form(server.http, "/register", fields)) == (
        -1,
        "账号已被注册",
    )
    again = log_in(server, phone, PASSWORD)
    assert (again["code"], again["msg"]) == (200, "登录成功")
    assert list(again["data"]) == ["token", "user_id"]
    assert again["data"]["user_id"] == user
    for who, password in ((phone, "wrong"), (fresh_phone(), PASSWORD), ("1" * 30, "x")):
        wrong = form(server.http, "/login", {"phone_number": who, "password": password})
        assert code_and_message(wrong) == WRONG_LOGIN


REFUSALS: dict[str, list[dict[str, Any]]] = {
    "/register": [
        {},
        {"phone_number": "1"},
        {"password": "x"},
        {"phone_number": "", "password": "x"},
        {"phone_number": "1", "password": ""},
        {"phone_number": "1" * 21, "password": "x"},
        {"phone_number": "1\0", "password": "x"},
        {"phone_number": "1", "password": "x" * 1025},
        {"phone_number": "1", "password": "x", "nickname": "n" * 65},
    ],
    "/login": [{}, {"phone_number": "1"}, {"password": "x"}],
    "/friend/add": [{}, *({"friend_id": number} for number in NUMBERS)],
    "/group/create": [
        {},
        {"name": "us"},
        {"ids": ["1"]},
        {"name": "", "ids": ["1"]},
        {"name": "n" * 51, "ids": ["1"]},
        {"name": "\u200b", "ids": ["1"]},
    ],
    "/group_user/list": [{"group_id": number} for number in NUMBERS],
}
"""Fields that a route refuses."""
WRONG_JSON = (
    ("/register", b'{"appID":true}'),
    ("/login", b'{"appID":-1}'),
    ("/login", b'{"message":1}'),
    ("/group/create", b'{"name":"us","ids":[1]}'),
    ("/group/create", b"{"),
)


@pytest.mark.both_servers
def test_what_lacks_something_or_has_too_much_is_refused_after_the_token(
    server: Server,
) -> None:
    _, token = register(server.http)
    for path, rows in REFUSALS.items():
        method = "GET" if path == "/group_user/list" else "POST"
        for fields in rows:
            answer = form(server.http, path, fields, token, method)
            assert code_and_message(answer) == BAD_PARAMETER, (path, fields)
        if path not in ("/register", "/login"):
            for wrong in (None, "", "x", "a.b.c", "å®\x89"):
                assert (
                    code_and_message(form(server.http, path, {}, wrong, method))
                    == WRONG_TOKEN
                )
    for path, body in WRONG_JSON:
        headers = [("Content-Type", "application/json"), ("token", token)]
        question = request(path, method="POST", headers=headers, body=body)
        assert code_and_message(ask(server.http, question)) == BAD_PARAMETER, (
            path,
            body,
        )


def test_friends(server: Server) -> None:
    (one, token), (two, other_token) = register(server.http), register(server.ws)
    for number, who, answer in (
        (two, token, ADDED),
        (two, token, (-1, "请勿重复添加")),
        (one, other_token, (-1, "请勿重复添加")),
        (one, token, (-1, "不能添加自己为好友")),
        ("999999999", token, (-1, "好友不存在")),
        ("9" * 19, token, (-1, "好友不存在")),
    ):
        added = form(server.http, "/friend/add", {"friend_id": number}, who)
        assert code_and_message(added) == answer, number


def test_groups(server: Server) -> None:
    (one, token), (two, other_token), (_, stranger) = (
        register(server.http) for _ in range(3)
    )

    def ids(group: str, token: str) -> Any:
        answer = form(
            server.http, "/group_user/list", {"group_id": group}, token, "GET"
        ).json
        assert (answer["code"], answer["msg"], list(answer["data"])) == (
            200,
            "请求成功",
            ["ids"],
        )
        return sorted(answer["data"]["ids"])

    named = {"name": "us", "ids": [two, two, "999999999", "x", "", "0", "-1", one]}
    created = form(server.http, "/group/create", named, token).json
    assert (created["code"], created["msg"], list(created["data"])) == (
        200,
        "群组创建成功",
        ["id"],
    )
    group = created["data"]["id"]
    assert ids(group, token) == ids(group, other_token) == sorted([one, two])
    for which in (group, "999999999", "9" * 19):
        answer = form(
            server.http, "/group_user/list", {"group_id": which}, stranger, "GET"
        )
        assert code_and_message(answer) == (-1, "用户不属于该群"), (
            "strangers do not learn whether it is there"
        )
    alone = form(
        server.http, "/group/create", {"name": "us", "ids": ["x"]}, token
    ).json["data"]["id"]
    assert ids(alone, token) == [one]
    body = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("name", "us"), ("ids", one), ("ids", two))
    )
    headers = [("Content-Type", "multipart/form-data; boundary=b"), ("token", token)]
    sent = request(
        "/group/create",
        method="POST",
        headers=headers,
        body=f"{body}--b--\r\n".encode(),
    )
    assert ids(ask(server.http, sent).json["data"]["id"], token) == sorted([one, two])


@pytest.mark.full("waits")
def test_limits_are_refused_in_its_words(launch: Launch, http_server: str) -> None:
    limits = {
        "group_members": 2,
        "groups_per_user": 1,
        "failures": 3,
        "failure_seconds": 3000,
    }
    server = launch(http_server, accounts=limits)
    phone = fresh_phone()
    _, token = register(server.http, phone)
    two = register(server.http)[0]
    three = register(server.http)[0]
    form(server.http, "/group/create", {"name": "us", "ids": [two]}, token)
    for ids, reached in (([two, three], "群成员数量"), ([two], "群数量")):
        answer = form(server.http, "/group/create", {"name": "us", "ids": ids}, token)
        assert code_and_message(answer) == (-1, f"系统错误:{reached}已达上限")
    assert [log_in(server, phone, "x")["msg"] for _ in range(3)] == [WRONG_LOGIN[1]] * 3
    assert log_in(server, phone, "secret")["msg"].startswith("系统错误:")
    closed = launch(http_server, accounts={"registration": False})
    code, why = code_and_message(
        form(closed.http, "/register", {"phone_number": "1", "password": "x"})
    )
    assert (code, why[:5]) == (-1, "系统错误:")


# --- keys ---------------------------------------------------------------------


@pytest.mark.full("processes")
def test_the_public_key_is_good_in_demo_mode_only(
    launch: Launch, http_server: str
) -> None:
    server = launch(
        http_server, jwt={"sign_key": "gooooIM"}, storage={"look_seconds": 0.1}
    )
    _, token = register(server.http)
    other, _ = register(server.http)
    assert (
        code_and_message(form(server.http, "/friend/add", {"friend_id": other}, token))
        == ADDED
    )
    done = run_cli(
        "key", "create", "--scope", "push", "--config", str(server.config_file)
    )
    assert done.returncode == 0

    def refused() -> bool:
        answer = form(server.http, "/friend/add", {"friend_id": other}, token)
        return code_and_message(answer) == WRONG_TOKEN

    eventually(refused)


def test_clients_that_moved_sync_from_the_seq_that_they_had_at_gochat(
    launch: Launch, http_server: str, tmp_path: Path
) -> None:
    server = launch(http_server)
    ann = register(server.http)
    bob = register(server.http)
    with chatting(server.ws, ann) as sender:
        sender.single(1, int(bob[0]), "before")
        assert acked(sender.output()) == (1, 1)
        table = tmp_path / "user.csv"
        hashed = "0" * 32
        table.write_text(
            f"id,phone_number,password\n{int(bob[0]) + 100},{fresh_phone()},{hashed}\n"
        )
        folder = str(server.folder / "data")
        done = run_cli(
            "account", "import", "--data-dir", folder, "--last-seq", "900", str(table)
        )
        assert done.stdout == "accounts imported: 1; already there: 0\n", done
        sender.single(2, int(bob[0]), "after")
        assert acked(sender.output()) == (2, 901)
    with chatting(server.ws, bob, after=900) as receiver:
        assert [(one.seq, one.text) for one in receiver.missed] == [(901, "after")]
