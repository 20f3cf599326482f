"""Findings about identity, each with a test that it stays closed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.api.gochat import BAD_PARAMETER, NO_TOKEN
from imserver.api.routes import ROUTES
from imserver.config.settings import AccountSettings, ApiSettings, TenantSettings
from imserver.services.people.accounts import Accounts
from imserver.storage.contract import AppRow, Changes, KeyRow

from .house import ALL, House, config, key

FOREIGN = key("admin", "push", apps=("205", "206", "301"))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = config(tmp_path, accounts=AccountSettings(registration=True))
    one = House(replace(settings, api=ApiSettings(keys=(*settings.api.keys, FOREIGN))))
    yield one
    one.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[House]:
    one = House(
        config(
            tmp_path / "demo", api=ApiSettings(), apps={"101": TenantSettings(), "gochat": TenantSettings()}
        )
    )
    yield one
    one.close()


def route(method: str, path: str) -> Any:
    return next(row for row in ROUTES if (row.method, row.path) == (method, path))


def decide(house: House, app: str, user: str = "u1", token: str = "", dialect: str = "cmd") -> bool:
    source = SimpleNamespace(peer="192.0.2.1:1", origin="")
    return house.node.parts.logins.check(app, user, token, dialect, source).ok


# --- accounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["205", "207", "204", "206"])
def test_nobody_registers_in_an_app_that_has_no_accounts(house: House, app: str) -> None:
    registration = {"app": app, "phone": "13800000001", "password": "correct horse"}
    status, answer = house.call("POST", "/api/v1/accounts/register", registration)
    assert (status, answer["code"]) == (403, "not_allowed")
    status, answer = house.call("POST", "/api/v1/accounts/register", registration, ALL.key)
    assert (status, answer["code"]) == (403, "not_allowed")
    status, answer = house.call("POST", "/api/v1/accounts/login", {**registration})
    assert (status, answer["code"]) == (403, "not_allowed")


def test_the_token_of_an_account_is_void_where_there_are_no_accounts(house: House) -> None:
    token = house.account("205")
    for app in ("205", "207", "201"):
        status, answer = house.call("GET", "/api/v1/messages/sync", token=token, query={"app": app})
        assert (status, answer["code"]) == (401, "token_invalid"), app
        assert not decide(house, app, "", token)


def test_an_account_is_a_user_of_its_own_app_only(house: House) -> None:
    token = house.account("gochat")
    for app in ("201", "202", "203"):
        status, answer = house.call("GET", "/api/v1/messages/sync", token=token, query={"app": app})
        assert (status, answer["code"]) == (401, "token_invalid"), app
    assert house.call("GET", "/api/v1/messages/sync", token=token, query={"app": "gochat"})[0] == 200
    sent = house.web.post("/api/v1/uploads?app=201", data=b"x", headers={"Authorization": f"Bearer {token}"})
    assert sent.status_code == 401


def test_a_token_that_names_no_login_is_one_of_gochat(house: House) -> None:
    token = house.account("201")
    found = house.node.parts.account_tokens.holder(token)
    other = house.node.parts.account_tokens.make(found.account.id, 0, found.expires_at, 0)
    status, answer = house.call("GET", "/api/v1/messages/sync", token=other, query={"app": "201"})
    assert (status, answer["code"]) == (401, "token_invalid")


def test_registration_is_off_once_there_are_keys_unless_it_is_set(demo: House, tmp_path: Path) -> None:
    def accounts(registration: bool | None, is_demo: bool) -> Accounts:
        node = demo.node
        settings = replace(node.parts.config, accounts=AccountSettings(registration=registration))
        return Accounts(
            settings, node.parts.account_tokens, node.parts.kept_accounts, lambda *_: 0, lambda: is_demo
        )

    for registration, is_demo, wanted in (
        (None, True, True),
        (None, False, False),
        (True, False, True),
        (False, True, False),
    ):
        made = accounts(registration, is_demo)
        assert made.registration_is_open is wanted
        made.close()


def test_gochat_has_accounts_in_demo_mode_and_other_apps_have_none(demo: House) -> None:
    registration = {"phone": "13800000001", "password": "correct horse"}
    assert demo.call("POST", "/api/v1/accounts/register", {**registration, "app": "gochat"})[0] == 201
    assert demo.call("POST", "/api/v1/accounts/register", {**registration, "app": "101"})[0] == 403


# --- aliases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["201", "gochat", "203"])
def test_a_key_makes_no_alias_of_an_app_that_it_does_not_reach(house: House, target: str) -> None:
    made = house.call("POST", "/api/v1/apps/create", {"app": "301"}, FOREIGN.key)
    assert made[0] == 201
    for path, document in (
        ("/api/v1/apps/set", {"app": "301", "settings": {"same_as": target}}),
        ("/api/v1/apps/create", {"app": "206", "settings": {"same_as": target}}),
    ):
        status, answer = house.call("POST", path, document, FOREIGN.key)
        assert (status, answer["code"]) == (403, "forbidden")
    assert house.node.parts.tenants.resolve("301") == "301"


def test_a_key_is_for_the_app_that_stands_for_its_own_when_that_changes(house: House) -> None:
    assert house.call("POST", "/api/v1/apps/create", {"app": "301"}, FOREIGN.key)[0] == 201
    ban = {"app": "301", "users": ["u"]}
    assert house.call("POST", "/api/v1/unban", ban, FOREIGN.key)[0] == 200
    alias = {"app": "301", "settings": {"same_as": "205"}}
    assert house.call("POST", "/api/v1/apps/set", alias, ALL.key)[0] == 200
    found = house.node.parts.keys.find(FOREIGN.key)
    assert found is not None
    assert found.apps == {"205", "204"}, "206 is an alias of 204"
    assert house.call("POST", "/api/v1/apps/set", {"app": "301", "unset": ["same_as"]}, ALL.key)[0] == 200
    found = house.node.parts.keys.find(FOREIGN.key)
    assert found is not None
    assert found.apps == {"205", "204", "301"}


def test_a_stored_key_is_resolved_too(house: House) -> None:
    digest = hashlib.sha256(b"stored").hexdigest()
    house.node.parts.keys.learn(Changes(1, keys=(KeyRow("k", digest, ("push",), ("203",)),)))
    found = house.node.parts.keys.find("stored")
    assert found is not None
    assert found.apps == {"201"}


# --- who may log in -----------------------------------------------------------------------------------------


def test_an_app_without_a_rule_lets_nobody_in_once_there_is_a_key(house: House) -> None:
    page = house.node.parts.page_tokens.make("205", "u1")
    assert not decide(house, "205")
    assert not decide(house, "205", token=page)
    assert not decide(house, "nowhere")
    assert decide(house, "204")
    for path in ("/home/index?appID=205", "/home/index?appID=207"):
        assert house.web.get(path).status_code == 401
    shown = {"authorization": f"Bearer {page}"}
    assert house.ask(route("GET", "/user/list"), shown, {"appID": "205"}).body.startswith(b'{"code":1003')
    denied = house.node.parts.metrics.denials
    assert denied["closed"] >= 2


def test_a_visitor_of_a_page_gets_no_token_where_the_back_end_is_asked(house: House) -> None:
    page = house.node.parts.page_tokens.make("207", "u1")
    assert not decide(house, "207", token=page)
    renewed = house.web.post(
        "/home/token", data={"appID": "207", "userID": "u1"}, headers={"Authorization": f"Bearer {page}"}
    )
    assert renewed.status_code == 401


def test_a_visitor_of_a_page_uploads_nothing(house: House) -> None:
    page = house.node.parts.page_tokens.make("204", "u1")
    headers = {"Authorization": f"Bearer {page}"}
    assert house.web.post("/api/v1/uploads?app=204&user=u1", data=b"x", headers=headers).status_code == 401
    assert house.web.post(f"/api/v1/uploads?app=204&user=u1&token={page}", data=b"x").status_code == 401
    status, _ = house.call("GET", "/api/v1/uploads", token=page, query={"app": "204", "user": "u1"})
    assert status == 401


def test_the_first_key_closes_apps_for_new_logins_and_ends_no_session(demo: House) -> None:
    assert decide(demo, "101")
    assert demo.node.parts.logins.exposure() == []
    digest = hashlib.sha256(b"the first").hexdigest()
    demo.node.parts.keys.learn(Changes(1, keys=(KeyRow("k", digest, ("admin",)),)))
    assert not decide(demo, "101")
    lines = demo.node.parts.logins.exposure()
    assert [line for line in lines if line.startswith("app 101: closed")]
    assert [line for line in lines if line.startswith("app gochat: a login needs an account")]


def test_a_system_that_nobody_has_registered_is_for_demo_mode(house: House, demo: House) -> None:
    assert demo.node.parts.logins.takes_unregistered
    assert not house.node.parts.logins.takes_unregistered
    assert not decide(house, "system:unknown", "", dialect="client")


def test_a_login_goes_to_the_app_that_stands_for_a_name_that_was_an_app_before(house: House) -> None:
    tenants = house.node.parts.tenants
    assert tenants.register("302", open=True)
    assert decide(house, tenants.resolve("302"))
    tenants._learn(Changes(5, apps=(AppRow("302", {"same_as": "201", "open": True}),)))
    assert tenants.resolve("302") == "201"
    assert not decide(house, tenants.resolve("302"))


# --- back ends by address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-mode": "no-cors"},
        {"sec-fetch-dest": "image"},
    ],
)
def test_a_browser_is_no_back_end_whatever_its_address(house: House, headers: dict[str, str]) -> None:
    form = {"appID": "201", "userID": "u", "message": "x", "msgID": ""}
    ask = route("POST", "/user/sendMessage")
    assert house.ask(ask, {}, body=form, host="10.0.0.7").body.startswith(b'{"code":200')
    assert house.ask(ask, headers, body=form, host="10.0.0.7").body.startswith(b'{"code":1003')


def test_a_page_that_the_app_lists_may_be_at_the_address_of_a_back_end(tmp_path: Path) -> None:
    tenant = TenantSettings(api_allow_from=("10.0.0.0/8",), origins=("https://office.example",))
    one = House(config(tmp_path, apps={"101": tenant}))
    ask, query = route("GET", "/user/list"), {"appID": "101"}
    for origin, code in (("https://office.example", 200), ("https://evil.example", 1003)):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        found = one.ask(ask, headers, query, host="10.0.0.7").body
        assert found.startswith(b'{"code":%d' % code), origin
    one.close()


# --- bodies of strangers ------------------------------------------------------------------------------------


def test_a_stranger_sends_no_gzip(house: House, demo: House) -> None:
    body = gzip.compress(b"[" + b"1.5," * 1_000_000 + b"1]")
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    for path, status in (
        ("/api/v1/push", 401),
        ("/api/v1/accounts/login", 415),
        ("/api/v1/accounts/register", 415),
        ("/api/v1/uploads/delete", 415),
    ):
        assert house.ask(route("POST", path), headers, body=body).status == status, path
    assert demo.ask(route("POST", "/api/v1/accounts/login"), headers, body=body).status == 415


@pytest.mark.parametrize("path", ["/register", "/login", "/friend/add", "/group/create"])
def test_the_body_of_a_stranger_is_bounded(house: House, demo: House, path: str) -> None:
    boundary = b'--b\r\nContent-Disposition: form-data; name="phone_number"\r\n\r\n'
    body = boundary + b"\xff" * 4_000_000 + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for one in (house, demo):
        found = one.ask(route("POST", path), headers, body=body).body
        assert found in (BAD_PARAMETER.body, NO_TOKEN.body)
    sent = house.web.post(path, data=body, headers={"Content-Type": headers["content-type"]})
    assert sent.json["code"] == -1


def test_a_form_in_parts_is_read_once(house: House) -> None:
    token = house.account("gochat")
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("name", "team"), ("ids", "1"), ("ids", "2"), ("ids", "x"))
    )
    headers = {"content-type": "multipart/form-data; boundary=b", "token": token}
    made = house.ask(route("POST", "/group/create"), headers, body=f"{parts}--b--\r\n".encode())
    assert made.body.startswith(b'{"code":200'), made.body
