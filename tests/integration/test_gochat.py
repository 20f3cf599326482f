"""GoChat's routes over the wire: every answer and every refusal, in the words of the original."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path

import jwt
import pytest
from sqlalchemy import create_engine, text

from tests.support import Server, eventually, run_cli
from tests.users import User

from .gochat import code_and_message, form, fresh_phone, register
from .protobuf import acked, chatting
from .raw import ask, request
from .setting import Launch

BAD_PARAMETER = (-1, "参数不正确")
WRONG_LOGIN = (-1, "手机号或密码错误")
PASSWORD = "密码 & more"


def log_in(server: Server, phone: str, password: str) -> dict[str, object]:
    answer: dict[str, object] = form(
        server.http, "/login", {"phone_number": phone, "password": password}
    ).json
    return answer


# --- accounts -----------------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_a_registered_user_is_logged_in(server: Server) -> None:
    phone = fresh_phone()
    answer = form(server.http, "/register", {"phone_number": phone, "password": PASSWORD, "nickname": "安"})
    assert answer.status == 200
    assert answer.header("content-type") == "application/json; charset=utf-8"
    assert list(answer.json) == ["code", "msg", "data"]
    assert (answer.json["code"], answer.json["msg"]) == (200, "登录成功")
    assert list(answer.json["data"]) == ["token", "id"]
    assert answer.json["data"]["id"].isdecimal()


def test_whoever_logs_in_is_called_user_id(server: Server) -> None:
    phone = fresh_phone()
    user, _ = register(server.http, phone, PASSWORD)
    answer = log_in(server, phone, PASSWORD)
    assert (answer["code"], answer["msg"]) == (200, "登录成功")
    data = answer["data"]
    assert isinstance(data, dict)
    assert list(data) == ["token", "user_id"]
    assert data["user_id"] == user


def test_a_token_names_the_account_by_a_number(server: Server) -> None:
    user, token = register(server.http)
    claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["user_id"] == int(user)


@pytest.mark.both_servers
def test_multipart_forms_are_read_too(server: Server) -> None:
    phone = fresh_phone()
    fields = {"phone_number": phone, "password": "x"}
    body = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    headers = [("Content-Type", "multipart/form-data; boundary=b")]
    sent = request("/register", method="POST", headers=headers, body=f"{body}--b--\r\n".encode())
    assert ask(server.http, sent).json["code"] == 200


@pytest.mark.parametrize(
    "fields",
    [
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
)
def test_a_registration_that_lacks_something_or_has_too_much_is_refused(
    server: Server, fields: dict[str, str]
) -> None:
    assert code_and_message(form(server.http, "/register", fields)) == BAD_PARAMETER


@pytest.mark.parametrize("fields", [{}, {"phone_number": "1"}, {"password": "x"}])
def test_a_login_that_lacks_something_is_refused(server: Server, fields: dict[str, str]) -> None:
    assert code_and_message(form(server.http, "/login", fields)) == BAD_PARAMETER


def test_any_phone_of_1_to_20_characters_is_taken_once(server: Server) -> None:
    taken = 0
    for phone in ("安", "安" * 20, fresh_phone()):
        form(server.http, "/register", {"phone_number": phone, "password": "x"})
        again = form(server.http, "/register", {"phone_number": phone, "password": "y"})
        taken += code_and_message(again) == (-1, "账号已被注册")
    assert taken == 3


def test_nicknames_and_groups_lose_what_nobody_sees(locked: Server) -> None:
    user, token = register(locked.http, nickname="An\u202en\u200b")
    assert User(locked, token, user).get("accounts/show")["nickname"] == "Ann"
    fields = {"name": "te\u202ea", "ids": [user]}
    assert form(locked.http, "/group/create", fields, token).json["code"] == 200
    (group,) = User(locked, token, user).get("groups")["groups"]
    assert group["name"] == "tea"
    refused = form(locked.http, "/group/create", {**fields, "name": "\u200b"}, token)
    assert code_and_message(refused) == BAD_PARAMETER


def test_a_nickname_may_equal_somebodys_phone(server: Server) -> None:
    phone = fresh_phone()
    register(server.http, phone)
    register(server.http, nickname=phone)


def test_the_error_of_a_login_does_not_name_the_wrong_part(server: Server) -> None:
    phone = fresh_phone()
    register(server.http, phone, "right")
    for who, password in ((phone, "wrong"), (fresh_phone(), "right"), ("1" * 30, "x")):
        answer = form(server.http, "/login", {"phone_number": who, "password": password})
        assert code_and_message(answer) == WRONG_LOGIN


@pytest.mark.full
def test_too_many_failures_cause_a_wait(launch: Launch, http_server: str) -> None:
    server = launch(http_server, accounts={"failures": 3, "failure_seconds": 3000})
    phone, other = fresh_phone(), fresh_phone()
    register(server.http, phone)
    register(server.http, other)
    for _ in range(3):
        assert (
            code_and_message(form(server.http, "/login", {"phone_number": phone, "password": "x"}))
            == WRONG_LOGIN
        )
    code, why = code_and_message(form(server.http, "/login", {"phone_number": phone, "password": "secret"}))
    assert code == -1
    assert why.startswith("系统错误:")
    assert log_in(server, other, "secret")["code"] == 200


def test_the_other_method_is_refused(server: Server) -> None:
    assert form(server.http, "/register", {}, method="GET").status in (404, 405)


def test_the_routes_are_on_both_ports(server: Server) -> None:
    user, _ = register(server.ws)
    assert user.isdecimal()


@pytest.mark.full
def test_registration_can_be_closed(launch: Launch, http_server: str) -> None:
    server = launch(http_server, accounts={"registration": False})
    code, why = code_and_message(form(server.http, "/register", {"phone_number": "1", "password": "x"}))
    assert code == -1
    assert why.startswith("系统错误:")


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_token_made_by_the_original_is_good_with_its_key(launch: Launch, http_server: str) -> None:
    key = "a key of some length, longer than its hash"
    server = launch(http_server, jwt={"sign_key": key, "expire_time": 2}, accounts={"registration": True})
    user, token = register(server.http)
    claims = jwt.decode(token, key, ["HS256"])
    theirs = jwt.encode({"user_id": int(user), "exp": claims["exp"]}, key, "HS256")
    other, _ = register(server.http)
    answer = form(server.http, "/friend/add", {"friend_id": other}, theirs)
    assert code_and_message(answer) == (200, "好友添加成功")


@pytest.mark.full
def test_the_public_key_is_good_in_demo_mode_only(launch: Launch, http_server: str, tmp_path: Path) -> None:
    server = launch(http_server, jwt={"sign_key": "gooooIM"}, storage={"look_seconds": 0.1})
    _, token = register(server.http)
    other, _ = register(server.http)
    assert code_and_message(form(server.http, "/friend/add", {"friend_id": other}, token)) == (
        200,
        "好友添加成功",
    )
    done = run_cli("key", "create", "--scope", "push", "--config", str(server.config_file))
    assert done.returncode == 0

    def refused() -> bool:
        answer = form(server.http, "/friend/add", {"friend_id": other}, token)
        return code_and_message(answer) == (-1, "用户认证未通过")

    eventually(refused)
    file = tmp_path / "some.yaml"
    file.write_text(
        "jwt: {sign_key: gooooIM}\napi: {keys: [{key: key-of-the-tests-1234, scopes: [push]}]}\n",
        encoding="utf-8",
    )
    checked = run_cli("check-config", "--config", str(file))
    assert checked.returncode != 0
    assert "sign_key" in checked.stderr


# --- passwords of the original ------------------------------------------------------------------------------


@pytest.mark.full
def test_a_hash_of_the_original_is_accepted_once_and_replaced(launch: Launch, http_server: str) -> None:
    server = launch(http_server)
    phone = fresh_phone()
    user, _ = register(server.http, phone)
    engine = create_engine(f"sqlite:///{server.config_file.parent}/data/imserver.db")
    try:
        with engine.begin() as database:
            database.execute(
                text("UPDATE account SET password = '764fb148aadad5dae3bb6c1ef08cb53d' WHERE id = :id"),
                {"id": int(user)},
            )
        assert log_in(server, phone, "1234567")["code"] == -1
        assert log_in(server, phone, "123456")["code"] == 200
        with engine.connect() as database:
            row = database.execute(text("SELECT password FROM account WHERE id = :id"), {"id": int(user)})
            assert row.scalar_one().startswith("$argon2id$")
        assert log_in(server, phone, "123456")["code"] == 200
    finally:
        engine.dispose()


def test_clients_that_moved_sync_from_the_seq_that_they_had_at_gochat(
    launch: Launch, http_server: str, tmp_path: Path
) -> None:
    server = launch(http_server)
    ann, bob = register(server.http), register(server.http)
    with chatting(server.ws, ann) as sender:
        sender.single(1, int(bob[0]), "before")
        assert acked(sender.output()) == (1, 1)
        table = tmp_path / "user.csv"
        hashed = "0" * 32
        table.write_text(f"id,phone_number,password\n{int(bob[0]) + 100},{fresh_phone()},{hashed}\n")
        folder = str(server.folder / "data")
        done = run_cli("account", "import", "--data-dir", folder, "--last-seq", "900", str(table))
        assert done.stdout == "1 accounts imported, 0 already existed\n", done
        sender.single(2, int(bob[0]), "after")
        assert acked(sender.output()) == (2, 901)
    with chatting(server.ws, bob, after=900) as receiver:
        assert [(code_and_message.seq, code_and_message.text) for code_and_message in receiver.missed] == [
            (901, "after")
        ]


# --- friends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "安"])
def test_the_token_is_checked_before_the_parameters(server: Server, token: str | None) -> None:
    name = None if token is None else token.encode().decode("latin-1")
    assert code_and_message(form(server.http, "/friend/add", {}, name)) == (-1, "用户认证未通过")


def test_a_friend_is_added_once_in_either_direction(server: Server) -> None:
    one, token = register(server.http)
    two, other_token = register(server.http)
    repeated = (-1, "请勿重复添加")
    assert code_and_message(form(server.http, "/friend/add", {"friend_id": two}, token)) == (
        200,
        "好友添加成功",
    )
    assert code_and_message(form(server.http, "/friend/add", {"friend_id": two}, token)) == repeated
    assert code_and_message(form(server.http, "/friend/add", {"friend_id": one}, other_token)) == repeated


@pytest.mark.parametrize(
    "fields", [{}, {"friend_id": ""}, {"friend_id": "0"}, {"friend_id": "x"}, {"friend_id": "9" * 20}]
)
def test_a_friend_has_a_number(server: Server, fields: dict[str, str]) -> None:
    _, token = register(server.http)
    assert code_and_message(form(server.http, "/friend/add", fields, token)) == BAD_PARAMETER


def test_oneself_and_nobody_are_no_friends(server: Server) -> None:
    one, token = register(server.http)
    assert code_and_message(form(server.http, "/friend/add", {"friend_id": one}, token)) == (
        -1,
        "不能添加自己为好友",
    )
    for nobody in ("999999999", "9" * 19):
        answer = code_and_message(form(server.http, "/friend/add", {"friend_id": nobody}, token))
        assert answer == (-1, "好友不存在")


# --- groups -------------------------------------------------------------------------------------------------


def new_group(server: Server, token: str, *users: str) -> str:
    answer = form(server.http, "/group/create", {"name": "us", "ids": list(users)}, token).json
    assert (answer["code"], answer["msg"], list(answer["data"])) == (200, "群组创建成功", ["id"])
    group: str = answer["data"]["id"]
    return group


def test_a_group_is_of_its_owner_and_of_those_who_exist(server: Server) -> None:
    one, token = register(server.http)
    two, other_token = register(server.http)
    group = new_group(server, token, two, two, "999999999", "x", "", "0", "-1", one)
    for member in (token, other_token):
        answer = form(server.http, "/group_user/list", {"group_id": group}, member, "GET").json
        assert (answer["code"], answer["msg"], list(answer["data"])) == (200, "请求成功", ["ids"])
        assert sorted(answer["data"]["ids"]) == sorted([one, two])


def test_a_group_of_nobody_that_exists_is_of_its_owner_alone(server: Server) -> None:
    one, token = register(server.http)
    group = new_group(server, token, "x")
    answer = form(server.http, "/group_user/list", {"group_id": group}, token, "GET").json
    assert answer["data"]["ids"] == [one]


def test_a_groups_ids_may_come_in_a_multipart_form(server: Server) -> None:
    one, token = register(server.http)
    two, _ = register(server.http)
    body = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("name", "us"), ("ids", one), ("ids", two))
    )
    headers = [("Content-Type", "multipart/form-data; boundary=b"), ("token", token)]
    sent = request("/group/create", method="POST", headers=headers, body=f"{body}--b--\r\n".encode())
    group = ask(server.http, sent).json["data"]["id"]
    answer = form(server.http, "/group_user/list", {"group_id": group}, token, "GET").json
    assert sorted(answer["data"]["ids"]) == sorted([one, two])


@pytest.mark.parametrize(
    "fields",
    [{}, {"name": "us"}, {"ids": ["1"]}, {"name": "", "ids": ["1"]}, {"name": "n" * 51, "ids": ["1"]}],
)
def test_a_group_has_a_name_and_ids(server: Server, fields: dict[str, object]) -> None:
    _, token = register(server.http)
    assert code_and_message(form(server.http, "/group/create", fields, token)) == BAD_PARAMETER


@pytest.mark.both_servers
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/register", b'{"appID":true}'),
        ("/login", b'{"appID":-1}'),
        ("/login", b'{"message":1}'),
        ("/group/create", b'{"name":"us","ids":[1]}'),
        ("/group/create", b"{"),
    ],
)
def test_json_with_a_value_of_a_wrong_type_is_refused_in_its_words(
    server: Server, path: str, body: bytes
) -> None:
    _, token = register(server.http)
    headers = [("Content-Type", "application/json"), ("token", token)]
    question = request(path, method="POST", headers=headers, body=body)
    assert code_and_message(ask(server.http, question)) == BAD_PARAMETER


@pytest.mark.parametrize("group", ["", "0", "x", "9" * 20])
def test_a_group_has_a_number(server: Server, group: str) -> None:
    _, token = register(server.http)
    answer = form(server.http, "/group_user/list", {"group_id": group}, token, "GET")
    assert code_and_message(answer) == BAD_PARAMETER


def test_others_do_not_learn_whether_there_is_a_group(server: Server) -> None:
    _, token = register(server.http)
    _, stranger = register(server.http)
    group = new_group(server, token, "1")
    for which in (group, "999999999", "9" * 19):
        answer = form(server.http, "/group_user/list", {"group_id": which}, stranger, "GET")
        assert code_and_message(answer) == (-1, "用户不属于该群")


def test_groups_ask_for_a_token_first(server: Server) -> None:
    assert code_and_message(form(server.http, "/group/create", {})) == (-1, "用户认证未通过")
    assert code_and_message(form(server.http, "/group_user/list", {}, method="GET")) == (-1, "用户认证未通过")


@pytest.mark.full
def test_a_group_has_a_limit_of_members_and_a_user_of_groups(launch: Launch, http_server: str) -> None:
    server = launch(http_server, accounts={"group_members": 2, "groups_per_user": 1})
    _, token = register(server.http)
    two, three = register(server.http)[0], register(server.http)[0]
    new_group(server, token, two)
    for ids, reached in (([two, three], "群成员数量"), ([two], "群数量")):
        answer = form(server.http, "/group/create", {"name": "us", "ids": ids}, token)
        assert code_and_message(answer) == (-1, f"系统错误:{reached}已达上限")
