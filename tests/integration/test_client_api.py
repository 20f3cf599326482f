"""The routes of the client dialect: samples of the original, order of refusals, keys and rules of apps."""

import json
from time import time
from typing import Any

import jwt
import pytest

from imserver.dialects.client.api import ROUTES
from tests.samples import samples_of
from tests.support import Server

from .client import (
    NO_SYSTEM,
    UNKNOWN_SYSTEM,
    api,
    api_request,
    done,
    listening,
    new_system,
    online_list,
    refused,
)
from .cmd import fresh
from .raw import ask, request
from .setting import Launch
from .v1 import good

PATHS = sorted({row.path.removeprefix("/api/") for row in ROUTES})
DRIVEN = [path for path in PATHS if path != "register"]
WHOLE: dict[str, Any] = {"clientId": "x", "clientIds": ["x"], "groupName": "g"}
"""A body that every route but register takes: unknown keys are ignored."""
SECRET = "a secret of forty characters for this test"
PUSH, ADMIN = (f"a-{name}-key-of-this-test" for name in ("push", "admin"))


@pytest.fixture
def system(server: Server) -> str:
    return new_system(server.http)


def test_every_route_has_samples() -> None:
    assert {row.get("post", "/api/").removeprefix("/api/") for row in samples_of("client")["samples"]} - {
        ""
    } == set(PATHS)


@pytest.mark.parametrize("path", DRIVEN)
def test_the_method_is_checked_first_then_the_system_then_the_body(
    server: Server, system: str, path: str
) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        answer = ask(server.http, api_request(path, b"", None, method=method))
        assert (answer.status, answer.body) == (405, b"")
    bad_bodies = (b"", b"no JSON", b"[]", b"7", b"null", b'"x"', b"{", b'{"a":1}{}', b"\xff{}")
    for body in (*bad_bodies, {}, {"clientId": 7}):
        for unnamed in (None, ""):
            assert api(server.http, path, body, unnamed).body.decode() == NO_SYSTEM
        assert api(server.http, path, body, fresh("nobody")).body.decode() == UNKNOWN_SYSTEM
    first = {"send_to_clients": "clientIds", "send_to_system": "msg", "get_client_groups": "clientId"}
    field = first.get(path, "groupName" if path in ("send_to_group", "get_online_list") else "clientId")
    for body in (*bad_bodies, *({**WHOLE, field: value} for value in (7, True, 1.5, [7], {"x": 1}))):
        answer = api(server.http, path, body, system)
        assert (answer.status, answer.body) == (400, b""), body
    odd = {"clientIds": ["x", None, "", "1" * 9999], "clientId": "../系统\x00", "groupName": "组" * 100}
    assert api(server.http, path, odd, system).status == 200
    assert online_list(server.http, system, "g") == []


def test_the_header_and_the_content_type_may_be_any(server: Server, system: str) -> None:
    spellings = ("SystemId", "systemid", "SYSTEMID", "sYSTEMiD", "Systemid")
    kinds = ("", "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/x")
    with listening(server.ws, system) as one:
        for header, kind in zip(spellings, kinds, strict=True):
            body = json.dumps({"CLIENTID": one.id, "Data": kind, "SENDuserid": "7", "other": [None]}).encode()
            headers = [(header, system), *([("Content-Type", kind)] if kind else [])]
            sent = request("/api/send_to_client", method="POST", headers=headers, body=body)
            assert ask(server.http, sent).json["code"] == 0
            found = one.received()
            assert (found["data"], found["sendUserId"]) == (kind, "7")


@pytest.mark.full
def test_limits(launch: Launch, http_server: str) -> None:
    server = launch(http_server, limits={"body_bytes": 2000, "batch_targets": 3, "registered_apps": 2})
    system, _ = new_system(server.http), new_system(server.http)
    assert refused(api(server.http, "register", {"systemId": fresh()})) == "系统数量已达上限"
    for path in PATHS:
        answer = api(server.http, path, {**WHOLE, "systemId": "s", "data": "x" * 2000}, system)
        assert (answer.status, answer.body) == (400, b""), path
    assert api(server.http, "send_to_client", {**WHOLE, "data": "x" * 1500}, system).json["code"] == 0
    assert api(server.http, "send_to_clients", {"clientIds": ["x"] * 3}, system).json["code"] == 0
    many = api(server.http, "send_to_clients", {"clientIds": ["x"] * 4}, system)
    assert refused(many) == "ClientIds数量超过上限"


def test_register_takes_any_method_and_names_that_a_system_can_have(server: Server) -> None:
    for method in ("POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        empty = ask(server.http, api_request("register", b"", None, method=method))
        assert (empty.status, empty.body) == (400, b"")
        system = {"systemId": fresh("shop")}
        answer = ask(server.http, api_request("register", system, None, method=method))
        assert answer.json == {"code": 0, "msg": "success", "data": []}
        again = ask(server.http, api_request("register", system, None, method=method))
        assert refused(again) == "该系统ID已被注册"
    for name in (" ", " x", "x ", "x\n", "x" * 200, "\x00"):
        assert refused(api(server.http, "register", {"systemId": name})) == "系统ID无效"


@pytest.fixture(scope="module")
def strict(launch: Launch, http_server: str) -> Server:
    """Keys, and systems with session tokens, few connections, origins, and for another dialect."""
    keys = [{"key": PUSH, "scopes": ["push"], "apps": ["system:shop"]}, {"key": ADMIN, "scopes": ["admin"]}]
    apps = {
        "system:shop": {"open": True},
        "system:tokens": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
        "system:two": {"open": True, "max_connections": 2},
        "system:pages": {"open": True, "origins": ["https://shop.example.com"]},
        "system:cmd": {"open": True, "dialects": ["cmd"]},
        "system:alias": {"same_as": "system:two"},
    }
    return launch(http_server, apps=apps, api={"keys": keys})


def test_without_a_key_nobody_learns_which_systems_there_are(strict: Server) -> None:
    def called(system: str | None, key: str = "") -> str:
        return refused(api(strict.http, "is_online", WHOLE, system, key=key))

    assert called("shop") == called("nobody") == "未授权"
    assert called("nobody", ADMIN) == "系统ID无效"
    assert called(None, ADMIN) == "系统ID不能为空"
    for body in (b"", b"x", {}, {"systemId": "shop"}, {"systemId": ""}):
        for key in ("", PUSH):
            assert refused(api(strict.http, "register", body, key=key)) == "未授权"
    with listening(strict.ws, "shop") as one:
        assert done(strict.http, "send_to_client", "shop", PUSH, clientId=one.id, data="x")
        assert one.received()["data"] == "x"


def test_the_user_of_a_token_is_named_in_notices(strict: Server) -> None:
    claims = {"sub": "ann", "app": "system:tokens", "exp": time() + 60}
    with listening(strict.ws, "tokens", token=jwt.encode(claims, SECRET, "HS256")) as one:
        # Whoever joins by another way than bind keeps the name.
        fields = {"app": "system:tokens", "channel": "g", "connections": [one.id]}
        good(strict.http, "channels/subscribe", fields, key=ADMIN)
        assert one.notice()[1:] == (one.id, "ann", "")
