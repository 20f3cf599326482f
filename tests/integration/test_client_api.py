"""The routes of the client dialect: every answer, every refusal and their order, with and without keys."""

import json
from pathlib import Path
from typing import Any

import pytest

from imserver.dialects.client.api import ROUTES
from tests.support import Server, eventually, run_cli

from .client import (
    NO_SYSTEM,
    UNKNOWN_SYSTEM,
    Listener,
    api,
    api_request,
    check_message_id,
    done,
    is_online,
    listening,
    new_system,
    online_list,
    refused,
)
from .cmd import fresh, logged_in
from .raw import Response, ask, request
from .setting import Launch
from .v1 import good

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "client.json").read_text(encoding="utf-8"))
PATHS = sorted({row.path.removeprefix("/api/") for row in ROUTES})
DRIVEN = [path for path in PATHS if path != "register"]
WHOLE: dict[str, Any] = {"clientId": "x", "clientIds": ["x"], "groupName": "g"}
"""A body that every route but register takes: unknown keys are ignored."""


@pytest.fixture(scope="module")
def vectors(launch: Launch, http_server: str) -> Server:
    """A server of its own: the samples name the system that they register."""
    return launch(http_server)


@pytest.fixture
def system(server: Server) -> str:
    return new_system(server.http)


# --- samples ------------------------------------------------------------------------------------------------


def test_the_samples_are_answered_as_by_the_original(vectors: Server) -> None:
    wrong = []
    for row in VECTORS["answers"]:
        answer = api(vectors.http, row["path"].removeprefix("/api/"), row["body"].encode(), row["system"])
        if answer.status == 200:
            assert answer.header("content-type") == "application/json; charset=utf-8", row["name"]
        body = answer.body.decode()
        if "<id>" in row["answer"]:
            found = answer.json["data"]["messageId"]
            check_message_id(found)
            body = body.replace(found, "<id>")
        if (answer.status, body) != (row["status"], row["answer"]):
            wrong.append((row["name"], answer.status, body))
    assert not wrong


# --- the order of the checks --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", DRIVEN)
def test_only_post_drives_clients(server: Server, path: str, method: str) -> None:
    answer = ask(server.http, api_request(path, b"", None, method=method))
    assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize("path", DRIVEN)
def test_the_system_is_asked_for_before_anything_is_read(server: Server, path: str) -> None:
    for body in (b"", b"no JSON", {}, {"clientId": 7}):
        for system in (None, ""):
            assert api(server.http, path, body, system).body.decode() == NO_SYSTEM
        assert api(server.http, path, body, fresh("nobody")).body.decode() == UNKNOWN_SYSTEM


@pytest.mark.parametrize("path", DRIVEN)
@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"[]", b"7", b"null", b'"x"', b"{", b'{"a":1}{}', b"\xff{}"]
)
def test_what_is_no_json_object_is_400_without_a_body(
    server: Server, system: str, path: str, body: bytes
) -> None:
    answer = api(server.http, path, body, system)
    assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [7, True, 1.5, [7], {"x": 1}])
def test_a_field_of_a_wrong_type_is_400_without_a_body(
    server: Server, system: str, path: str, value: Any
) -> None:
    names = {"register": ["systemId"], "send_to_system": ["msg"]}.get(path, list(WHOLE))
    answers = [api(server.http, path, {**WHOLE, name: value}, system) for name in names]
    # What a route does not know is ignored, whatever it is.
    assert {answer.status for answer in answers} <= {200, 400}
    assert [answer.body for answer in answers if answer.status == 400]
    assert not any(answer.body for answer in answers if answer.status == 400)


@pytest.mark.parametrize("field", ["sendUserId", "msg"])
@pytest.mark.parametrize("path", ["send_to_client", "send_to_clients", "send_to_group", "send_to_system"])
def test_texts_are_texts_and_codes_are_whole_numbers(
    server: Server, system: str, path: str, field: str
) -> None:
    for more in ({field: 7}, {field: ["x"]}, {"code": "1"}, {"code": 1.5}, {"code": True}, {"code": 2**63}):
        answer = api(server.http, path, {**WHOLE, **more}, system)
        assert (answer.status, answer.body) == (400, b""), more
    for more in ({field: None}, {"code": -(2**63)}, {"code": 2**63 - 1}, {"code": None}):
        assert api(server.http, path, {**WHOLE, **more}, system).json["code"] == 0, more


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("send_to_client", ["clientId"]),
        ("send_to_clients", ["clientIds"]),
        ("send_to_group", ["groupName"]),
        ("bind_to_group", ["clientId", "groupName"]),
        ("unbind_from_group", ["clientId", "groupName"]),
        ("get_online_list", ["groupName"]),
        ("get_client_groups", ["clientId"]),
        ("close_client", ["clientId"]),
        ("is_online", ["clientId"]),
    ],
)
def test_the_first_field_that_is_missing_is_named(
    server: Server, system: str, path: str, missing: list[str]
) -> None:
    body = dict(WHOLE)
    for name in reversed(missing):
        for without in (None, "") if name != "clientIds" else (None,):
            answer = api(server.http, path, {**body, name: without}, system)
            assert refused(answer) == f"{name[0].upper()}{name[1:]}为必填字段"
        del body[name]
        assert refused(api(server.http, path, body, system)) == f"{name[0].upper()}{name[1:]}为必填字段"


def test_keys_and_the_header_may_be_spelt_in_any_letter_case(server: Server, system: str) -> None:
    with listening(server.ws, system) as one:
        for header in ("SystemId", "systemid", "SYSTEMID", "Systemid"):
            body = {"CLIENTID": one.id, "Data": header, "SENDuserid": "7", "other": [None]}
            answer = api(server.http, "send_to_client", body, system, header=header)
            assert answer.json["code"] == 0
            found = one.received()
            assert (found["data"], found["sendUserId"]) == (header, "7")


def test_the_content_type_does_not_matter(server: Server, system: str) -> None:
    with listening(server.ws, system) as one:
        for kind in (
            "",
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/x",
        ):
            body = json.dumps({"clientId": one.id, "data": kind}).encode()
            headers = [("SystemId", system), *([("Content-Type", kind)] if kind else [])]
            answer = ask(
                server.http, request("/api/send_to_client", method="POST", headers=headers, body=body)
            )
            assert answer.json["code"] == 0
            assert one.received()["data"] == kind


@pytest.mark.full
def test_a_body_above_the_limit_is_400_without_a_body(launch: Launch, http_server: str) -> None:
    server = launch(http_server, limits={"body_bytes": 2000})
    system = new_system(server.http)
    for path in PATHS:
        answer = api(server.http, path, {**WHOLE, "systemId": "s", "data": "x" * 2000}, system)
        assert (answer.status, answer.body) == (400, b""), path
    assert api(server.http, "send_to_client", {**WHOLE, "data": "x" * 1500}, system).json["code"] == 0


@pytest.mark.full
def test_more_clients_than_a_batch_may_have_are_refused(launch: Launch, http_server: str) -> None:
    server = launch(http_server, limits={"batch_targets": 3})
    system = new_system(server.http)
    assert api(server.http, "send_to_clients", {"clientIds": ["x"] * 3}, system).json["code"] == 0
    assert refused(api(server.http, "send_to_clients", {"clientIds": ["x"] * 4}, system)) == (
        "ClientIds数量超过上限"
    )


@pytest.mark.parametrize(
    "client_id",
    ["", "x", "85eU3wnS03u+yaOUyi9k6DhIMxDRPcKiw2N9wzZxgJM=", "系统", "A" * 38, "\x00", "../x", "1" * 9999],
)
def test_no_id_is_an_error(server: Server, system: str, client_id: str) -> None:
    for path in ("send_to_client", "bind_to_group", "unbind_from_group", "close_client", "get_client_groups"):
        answer = api(server.http, path, {"clientId": client_id, "groupName": "g"}, system)
        assert answer.status == 200
        assert answer.json["code"] == (0 if client_id else -1)
    assert online_list(server.http, system, "g") == []


# --- register -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_register_takes_any_method_and_needs_a_body(server: Server, method: str) -> None:
    empty = ask(server.http, api_request("register", b"", None, method=method))
    assert (empty.status, empty.body) == (400, b"")
    system = {"systemId": fresh("shop")}
    answer = ask(server.http, api_request("register", system, None, method=method))
    assert answer.json == {"code": 0, "msg": "success", "data": []}
    again = ask(server.http, api_request("register", system, None, method=method))
    assert refused(again) == "该系统ID已被注册"


@pytest.mark.parametrize("name", [" ", " x", "x ", "x\n", "x" * 200, "\x00"])
def test_a_name_that_no_system_can_have_is_refused(server: Server, name: str) -> None:
    assert refused(api(server.http, "register", {"systemId": name})) == "系统ID无效"


@pytest.mark.full
def test_more_systems_than_the_limit_are_refused(launch: Launch, http_server: str) -> None:
    server = launch(http_server, limits={"registered_apps": 2})
    for _ in range(2):
        new_system(server.http)
    assert refused(api(server.http, "register", {"systemId": fresh()})) == "系统数量已达上限"


# --- keys ---------------------------------------------------------------------------------------------------

PUSH, ADMIN = (f"a-{name}-key-of-this-test" for name in ("push", "admin"))


@pytest.fixture(scope="module")
def guarded(launch: Launch, http_server: str) -> Server:
    """A server that is not in demo mode."""
    keys = [{"key": PUSH, "scopes": ["push"], "apps": ["system:shop"]}, {"key": ADMIN, "scopes": ["admin"]}]
    return launch(http_server, api={"keys": keys}, apps={"system:shop": {"open": True}})


def called(server: Server, path: str, system: str | None, key: str = "") -> Response:
    return ask(server.http, api_request(path, {**WHOLE, "systemId": fresh("new")}, system, key=key))


def test_without_a_key_nobody_learns_which_systems_there_are(guarded: Server) -> None:
    known = called(guarded, "is_online", "shop")
    unknown = called(guarded, "is_online", "nobody")
    assert known.body == unknown.body
    assert refused(known) == "未授权"
    assert refused(called(guarded, "is_online", "nobody", ADMIN)) == "系统ID无效"
    assert refused(called(guarded, "is_online", None, ADMIN)) == "系统ID不能为空"


def test_a_registration_without_a_key_is_not_even_read(guarded: Server) -> None:
    for body in (b"", b"x", {}, {"systemId": "shop"}, {"systemId": ""}):
        assert refused(api(guarded.http, "register", body)) == "未授权"
        assert refused(api(guarded.http, "register", body, key=PUSH)) == "未授权"


# --- apps with rules ----------------------------------------------------------------------------------------

SECRET = "a secret of forty characters for this test"


def token(user: str, app: str, seconds: float = 60) -> str:
    """A session token."""
    import time

    import jwt

    return str(jwt.encode({"sub": user, "app": app, "exp": time.time() + seconds}, SECRET, "HS256"))


@pytest.fixture(scope="module")
def strict(launch: Launch, http_server: str) -> Server:
    """Systems with session tokens, with few connections, with origins, and for another dialect."""
    apps = {
        "system:tokens": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
        "system:two": {"open": True, "max_connections": 2},
        "system:pages": {"open": True, "origins": ["https://shop.example.com"]},
        "system:cmd": {"open": True, "dialects": ["cmd"]},
        "system:alias": {"same_as": "system:two"},
    }
    return launch(http_server, apps=apps, api={"keys": [{"key": ADMIN, "scopes": ["admin"]}]})


def opening(server: Server, path: str, **options: Any) -> tuple[int, int | None]:
    """The code of the first frame, and of the close behind it if the client may not stay."""
    with Listener(server.ws) as one:
        one.upgrade(path, **options)
        code = int(one.message().json["code"])
        return code, one.frame().close_code if code else None


def test_the_user_of_a_token_is_named_in_notices(strict: Server) -> None:
    with listening(strict.ws, "tokens", token=token("ann", "system:tokens")) as one:
        # Whoever joins by another way than bind keeps the name.
        fields = {"app": "system:tokens", "channel": "g", "connections": [one.id]}
        body = json.dumps(fields).encode()
        head = [("Authorization", f"Bearer {ADMIN}"), ("Content-Type", "application/json")]
        answer = ask(
            strict.http, request("/api/v1/channels/subscribe", method="POST", headers=head, body=body)
        )
        assert answer.status == 200, answer
        assert one.notice()[1:] == (one.id, "ann", "")


def test_a_full_system_takes_nobody_more_under_any_of_its_names(strict: Server) -> None:
    with listening(strict.ws, "two") as one, listening(strict.ws, "alias") as two:
        assert opening(strict, "/ws?systemId=two") == (-1009, 4005)
        assert opening(strict, "/ws?systemId=alias") == (-1009, 4005)
        done(strict.http, "send_to_system", "alias", ADMIN, data="both")
        assert [one.received()["data"], two.received()["data"]] == ["both"] * 2
    eventually(lambda: opening(strict, "/ws?systemId=two") == (0, None))


def test_pages_of_other_hosts_may_connect_only_where_no_list_of_hosts_is_kept(strict: Server) -> None:
    foreign = [("Origin", "https://evil.example.com")]
    assert opening(strict, "/ws?systemId=pages", more=foreign) == (-1003, 4505)
    assert opening(strict, "/ws?systemId=pages", more=[("Origin", "https://shop.example.com")]) == (0, None)
    assert opening(strict, "/ws?systemId=two", more=foreign) == (0, None)


def test_a_system_for_another_dialect_takes_no_clients(strict: Server) -> None:
    assert opening(strict, "/ws?systemId=cmd") == (-1003, 4507)


def test_a_system_may_be_an_alias_of_an_app_of_another_dialect(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"101": {}, "system:room": {"same_as": "101"}})
    with logged_in(server.ws, "ann", 101) as ann, listening(server.ws, "room") as one:
        done(server.http, "send_to_system", "room", sendUserId="shop", data="to all")
        assert one.received()["data"] == "to all"
        assert ann.push("msg").json["response"]["data"]["msg"] == "to all"
        one.leave()
        eventually(lambda: not is_online(server.http, "room", one.id))
        ann.no_push()


@pytest.mark.full
def test_a_key_is_made_at_the_command_line_and_drives_a_registered_system(
    launch: Launch, http_server: str
) -> None:
    server = launch(http_server)
    system = new_system(server.http)
    good(server.http, "apps/set", {"app": f"system:{system}", "settings": {"open": True}})
    config = str(server.config_file)
    created = run_cli("key", "create", "--config", config, "--scope", "push", "--app", f"system:{system}")
    assert created.returncode == 0, created
    key = next(word for word in created.stdout.split() if word.startswith("imk_"))
    eventually(lambda: api(server.http, "is_online", WHOLE, system).json["msg"] == "未授权")
    with listening(server.ws, system) as one:
        answer = api(server.http, "send_to_client", {"clientId": one.id, "data": "x"}, system, key=key)
        assert answer.json["code"] == 0
        assert one.received()["data"] == "x"
