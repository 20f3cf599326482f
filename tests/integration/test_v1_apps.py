"""Apps by ``/api/v1``, and what keys of which scope and app may do, on both HTTP servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Server, eventually, run_cli
from tests.users import User

from .cmd import fresh, logged_in, login_code, number
from .raw import Raw, ask, request
from .setting import OPEN, Launch, stop
from .v1 import call, good, refused

PUSH, READ, ADMIN = "a key that may push ....", "a key that may read ....", "a key that may do all .."
OF_101 = "an admin's key for 101 .."
KEYS = {
    "api": {
        "keys": [
            {"key": PUSH, "scopes": ["push"]},
            {"key": READ, "scopes": ["read"]},
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": OF_101, "scopes": ["admin"], "apps": [101]},
        ]
    }
}
DEFAULTS: dict[str, Any] = {
    "configured": False,
    "accounts": {
        "identifiers": ["phone", "email", "name"],
        "find": True,
        "search": False,
        "passwords": True,
        "factor_for": [],
        "guests": False,
        "ask_strangers": False,
        "reset_url": "",
    },
    "oauth": {},
    "notify": {
        "enabled": True,
        "after_seconds": 10.0,
        "again_seconds": 60.0,
        "preview": True,
        "audience_per_second": 1000,
    },
    "previews": False,
    "safety": {
        "reasons": ["spam", "harassment", "hate", "violence", "sexual", "scam", "other"],
        "retention_days": 90,
    },
    "quotas": {"pushes_per_day": 0, "messages_per_day": 0},
    "known_channels_only": False,
    "subscribe_to_own_channel": True,
    "anonymous_tokens": False,
    "login_policy": "multi",
    "same_as": "",
    "open": False,
    "dialects": [],
    "origins": [],
    "origin_policy": "",
    "api_allow_from": [],
    "jwt": [],
    "account_tokens": "ignored",
    "webhook": {
        "url": "",
        "events": [],
        "authorise_url": "",
        "review_url": "",
        "review_seconds": 2.0,
        "review_failure": "reject",
        "signed": False,
        "absent_seconds": 10.0,
    },
    "back_ends": {
        **dict.fromkeys(("connect", "refresh", "subscribe", "publish", "sub_refresh", "rpc"), ""),
        "headers": [],
        "emulated_headers": [],
        "seconds": 2.0,
    },
    "pusher": {
        "app_id": "",
        "key": "",
        "webhook_url": "",
        "signed": False,
        "activity_seconds": 120,
        "client_events_per_second": 10,
        "event_bytes": 10240,
        "presence_members": 100,
        "subscription_count": False,
    },
    "max_connections": 0,
    "messages_per_second": 0.0,
    "max_channels": 0,
    "channels": {},
    "retention_seconds": 0.0,
    "retention_messages": 0,
    "store_conversations": False,
    "keep_seconds": 0.0,
    "keep_messages": 0,
    "keep_talks": False,
    "max_user_bytes": 255,
    "room_members": {},
}


@pytest.fixture(scope="module")
def keyed(http_server: str, launch: Launch) -> Iterator[Server]:
    """A server with keys."""
    return launch(http_server, apps=OPEN, **KEYS)


def new_app() -> str:
    return str(70_000 + number())


# --- keys ---------------------------------------------------------------------------------------------------

CALLS: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("read", "presence", None, {"app": "101", "user": "a"}),
    ("read", "presence", {"app": "101", "users": ["a"]}, {}),
    ("read", "users", None, {"app": "101"}),
    ("read", "counts", None, {"app": "101"}),
    ("read", "channels/list", None, {"app": "101"}),
    ("read", "channels/presence", None, {"app": "101", "channel": "r"}),
    ("push", "channels/subscribe", {"app": "101", "channel": "r"}, {}),
    ("push", "channels/unsubscribe", {"app": "101", "channel": "r"}, {}),
    ("admin", "disconnect", {"app": "101", "users": ["a"]}, {}),
    ("admin", "ban", {"app": "101", "users": ["a"], "seconds": 0.1}, {}),
    ("admin", "unban", {"app": "101", "users": ["a"]}, {}),
    ("admin", "apps", None, {}),
    ("admin", "apps/show", None, {"app": "101"}),
]


@pytest.mark.parametrize(("scope", "route", "body", "query"), CALLS)
def test_a_route_takes_a_key_of_its_scope(
    keyed: Server, scope: str, route: str, body: Any, query: dict[str, Any]
) -> None:
    for key, name in ((PUSH, "push"), (READ, "read")):
        if name == scope:
            good(keyed.http, route, body, key=key, **query)
        else:
            assert refused(keyed.http, route, body, key=key, **query)[:2] == (403, "forbidden")
    good(keyed.http, route, body, key=ADMIN, **query)
    assert refused(keyed.http, route, body, **query)[:2] == (401, "unauthorized")
    assert refused(keyed.http, route, body, key="wrong", **query)[:2] == (401, "unauthorized")


@pytest.mark.parametrize(("scope", "route", "body", "query"), [each for each in CALLS if each[1] != "apps"])
def test_a_key_of_one_app_reaches_no_other(
    keyed: Server, scope: str, route: str, body: Any, query: dict[str, Any]
) -> None:
    good(keyed.http, route, body, key=OF_101, **query)
    there = {**query, "app": "102"} if query else {}
    body = {**body, "app": "102"} if body else None
    assert refused(keyed.http, route, body, key=OF_101, **there)[:2] == (403, "forbidden")
    there = {**query, "app": "unheard of"} if query else {}
    body = {**body, "app": "unheard of"} if body else None
    assert refused(keyed.http, route, body, key=OF_101, **there)[:2] == (403, "forbidden"), (
        "nor learns of one"
    )


def test_lists_hold_only_what_the_key_reaches(keyed: Server) -> None:
    assert [each["app"] for each in good(keyed.http, "apps", key=OF_101)["apps"]] == ["101"]
    assert [each["app"] for each in good(keyed.http, "counts", key=OF_101)["apps"]] == ["101"]
    names = [each["app"] for each in good(keyed.http, "counts", key=READ)["apps"]]
    assert len(names) >= 7
    for route, key in (("counts", READ), ("apps", ADMIN)):
        first = good(keyed.http, route, key=key, limit=3)
        second = good(keyed.http, route, key=key, limit=3, cursor=first["next"])
        assert [each["app"] for each in first["apps"] + second["apps"]] == names[:6]


def test_the_document_needs_no_key_and_says_who_does(keyed: Server) -> None:
    document = good(keyed.http, "openapi.json")
    assert document["paths"]["/api/v1/ban"]["post"]["security"] == [{"key": ["admin"]}, {"token": []}]
    assert document["paths"]["/api/v1/apps/create"]["post"]["security"] == [{"key": ["admin"]}]


# --- apps ---------------------------------------------------------------------------------------------------


def test_an_app_is_created_and_can_be_logged_in_to(keyed: Server) -> None:
    app = new_app()
    settings = {"open": True, "login_policy": "single", "room_members": {"staff": ["ann"]}, "max_channels": 2}
    created = good(keyed.http, "apps/create", {"app": app, "settings": settings}, key=ADMIN)
    assert created == {"app": app, **DEFAULTS, **settings}
    assert good(keyed.http, "apps/show", key=ADMIN, app=app) == created
    assert app in [each["app"] for each in good(keyed.http, "apps", key=ADMIN)["apps"]]
    user = fresh()
    with logged_in(keyed.ws, user, int(app)) as older, logged_in(keyed.ws, user, int(app)):
        assert older.frame().close_code == 4500, "its policy is single"


def test_a_name_is_given_once(keyed: Server) -> None:
    app = new_app()
    good(keyed.http, "apps/create", {"app": app}, key=ADMIN)
    for name in (app, "101"):
        assert refused(keyed.http, "apps/create", {"app": name}, key=ADMIN)[:2] == (409, "app_exists")


def test_an_app_is_changed_and_settings_are_unset(keyed: Server) -> None:
    app = new_app()
    good(keyed.http, "apps/create", {"app": app, "settings": {"max_channels": 1}}, key=ADMIN)
    change = {"app": app, "settings": {"origins": ["shop.example.com"], "max_connections": 1}}
    changed = good(keyed.http, "apps/set", change, key=ADMIN)
    assert changed == {
        "app": app,
        **DEFAULTS,
        "max_channels": 1,
        "origins": ["shop.example.com"],
        "max_connections": 1,
    }
    unset = good(keyed.http, "apps/set", {"app": app, "unset": ["origins", "max_connections"]}, key=ADMIN)
    assert unset == {"app": app, **DEFAULTS, "max_channels": 1}


def test_secrets_are_taken_and_never_shown(keyed: Server) -> None:
    app = new_app()
    secret = "a secret of more than thirty-two bytes"
    settings = {
        "jwt": [{"algorithm": "HS256", "key": secret, "kid": "one"}],
        "webhook": {
            "url": "https://shop.example.com/hook",
            "secret": secret,
            "events": ["login"],
            "review_url": "https://shop.example.com/review",
            "review_seconds": 0.5,
            "review_failure": "allow",
        },
        "back_ends": {
            "rpc": "https://shop.example.com/rpc",
            "headers": ["Cookie"],
            "emulated_headers": ["Authorization"],
            "seconds": 5,
        },
        "pusher": {"app_id": app, "key": app, "secret": secret, "subscription_count": True},
        "channels": {"orders": {"history_size": 5, "history_seconds": 60}},
    }
    created = good(keyed.http, "apps/create", {"app": app, "settings": settings}, key=ADMIN)
    assert created["jwt"] == [{"algorithm": "HS256", "kid": "one", "user_claim": "sub"}]
    assert created["webhook"] == {
        "url": "https://shop.example.com/hook",
        "events": ["login"],
        "authorise_url": "",
        "review_url": "https://shop.example.com/review",
        "review_seconds": 0.5,
        "review_failure": "allow",
        "signed": True,
        "absent_seconds": 10.0,
    }
    shown = {
        **DEFAULTS["back_ends"],
        "rpc": "https://shop.example.com/rpc",
        "headers": ["Cookie"],
        "emulated_headers": ["Authorization"],
        "seconds": 5.0,
    }
    assert created["back_ends"] == shown
    known = {"app_id": app, "key": app, "signed": True, "subscription_count": True}
    assert created["pusher"] == {**DEFAULTS["pusher"], **known}
    assert created["channels"]["orders"]["history_size"] == 5
    assert good(keyed.http, "apps/show", key=ADMIN, app=app) == created
    assert secret not in str(created)
    assert login_code(keyed.ws, fresh(), int(app)) == 1003, "its logins need a token"


@pytest.mark.parametrize(
    "settings",
    [
        {"login_policy": "any"},
        {"no such setting": 1},
        {"max_channels": -1},
        {"jwt": [{"algorithm": "HS256", "key": "short"}]},
        {"jwt": [{"algorithm": "HS256", "key_file": "/etc/passwd"}]},
        {"webhook": {"url": "ftp://shop.example.com"}},
        {"webhook": {"secret_file": "/etc/passwd"}},
        {"pusher": {"app_id": "9", "key": "nine", "secret": "short"}},
        {"pusher": {"app_id": "9", "key": "nine", "secret_file": "/etc/passwd"}},
        {"back_ends": {"rpc": "https://shop.example.com"}},
        {"back_ends": {"rpc": "ftp://e.org"}, "webhook": {"secret": "a secret"}},
        {"back_ends": {"rpc": "https://e.org", "headers": ["Host"]}, "webhook": {"secret": "a secret"}},
        {"channels": {"orders": {"subscribe": "back_end"}}},
        {"api_allow_from": ["everybody"]},
        {"same_as": "no such app"},
    ],
)
def test_settings_that_cannot_be_are_refused(keyed: Server, settings: dict[str, Any]) -> None:
    app = new_app()
    status, code, message = refused(keyed.http, "apps/create", {"app": app, "settings": settings}, key=ADMIN)
    assert (status, code) == (400, "invalid_request")
    assert message
    assert refused(keyed.http, "apps/show", key=ADMIN, app=app)[:2] == (404, "unknown_app")


@pytest.mark.parametrize("name", ["", "x" * 192, " blank", "line\nbreak", "茶" * 180])
def test_a_name_that_cannot_be_one_is_refused(keyed: Server, name: str) -> None:
    assert refused(keyed.http, "apps/create", {"app": name}, key=ADMIN)[:2] == (400, "invalid_request")


def test_an_app_of_the_configuration_is_changed_there(keyed: Server) -> None:
    change = {"app": "101", "settings": {"max_channels": 1}}
    assert refused(keyed.http, "apps/set", change, key=ADMIN)[:2] == (409, "app_configured")
    assert good(keyed.http, "apps/show", key=ADMIN, app="101")["configured"] is True


def test_an_app_that_is_not_there_cannot_be_changed(keyed: Server) -> None:
    assert refused(keyed.http, "apps/set", {"app": "nobody's"}, key=ADMIN)[:2] == (404, "unknown_app")


def test_there_may_be_so_many_apps_and_no_more(http_server: str, launch: Launch) -> None:
    server = launch(http_server, limits={"registered_apps": 1})
    good(server.http, "apps/create", {"app": "first"})
    assert refused(server.http, "apps/create", {"app": "second"})[:2] == (409, "too_many_apps")


@pytest.mark.full
def test_an_app_survives_a_restart(http_server: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "node", http_server=http_server)
    created = good(server.http, "apps/create", {"app": "205", "settings": {"max_channels": 7}})
    stop(server)
    server = Server(tmp_path / "node", http_server=http_server)
    assert good(server.http, "apps/show", app="205") == created
    with logged_in(server.ws, "ann", 205):
        assert good(server.http, "counts", app="205")["apps"][0]["users"] == 1
    stop(server)


def test_without_a_database_creating_is_a_temporary_error(http_server: str, launch: Launch) -> None:
    server = launch(http_server)
    (Path(server.folder) / "data" / "imserver.db").mkdir()
    status, code, _ = refused(server.http, "apps/create", {"app": "third"})
    assert (status, code) == (503, "storage_unavailable")
    assert good(server.http, "apps/show", app="101")["configured"] is True


# --- deletion -----------------------------------------------------------------------------------------------


def test_an_app_is_deleted_with_all_that_belongs_to_it(http_server: str, launch: Launch) -> None:
    server = launch(http_server, storage={"look_seconds": 0.2})
    app, other = new_app(), new_app()
    users = {}
    for name in (app, other):
        settings = {"open": True, "account_tokens": "required"}
        good(server.http, "apps/create", {"app": name, "settings": settings})
        users[name] = User.register(server, name, phone="1", nickname="Ann").user
        good(server.http, "groups/create", {"app": name, "user": users[name], "name": "tea"})
        good(server.http, "push", {"app": name, "user": "bob", "text": "hi", "store": True})
        upload = f"/api/v1/uploads?app={name}&user=eve&name=notes.txt"
        assert ask(server.http, request(upload, method="POST", body=b"notes")).status == 201
    run_cli("key", "create", "--scope", "push", "--app", app, **data_of(server))
    key = run_cli("key", "create", "--scope", "admin", **data_of(server)).stdout.strip()
    eventually(lambda: call(server.http, "apps", key=key).status == 200, what="the key is known")
    good(server.http, "apps/set", {"app": app, "unset": ["account_tokens"]}, key=key)
    with logged_in(server.ws, fresh(), int(app)) as cmd_client:
        assert refused(server.http, "apps/delete", {"app": app, "confirm": "no"}, key=key)[0] == 400
        deleted = good(server.http, "apps/delete", {"app": app, "confirm": app}, key=key)
        cmd_client.closed(4506)
    assert deleted.pop("messages") >= 1
    assert deleted == {"app": app, "keys": 1, "accounts": 1, "uploads": 1, "groups": 1}
    assert refused(server.http, "apps/show", key=key, app=app)[:2] == (404, "unknown_app")
    push = {"app": app, "user": "ann", "text": "to nobody"}
    eventually(lambda: call(server.http, "push", push, key=key).status == 404, what="the app is gone")
    again = good(server.http, "apps/delete", {"app": app, "confirm": app}, key=key)
    assert again == {"app": app, "keys": 0, "accounts": 0, "messages": 0, "uploads": 0, "groups": 0}
    good(server.http, "apps/create", {"app": app, "settings": {"account_tokens": "required"}}, key=key)
    assert groups_of(server, app, users[app], key) == []
    assert len(groups_of(server, other, users[other], key)) == 1
    assert sum(file.is_file() for file in (server.folder / "data" / "uploads").rglob("*")) == 1


@pytest.mark.full
def test_a_file_that_comes_while_its_app_is_deleted_goes_with_it(http_server: str, launch: Launch) -> None:
    server = launch(http_server, storage={"look_seconds": 0.2})
    app = new_app()
    good(server.http, "apps/create", {"app": app, "settings": {"open": True}})
    files = server.folder / "data" / "uploads"

    def stored() -> int:
        return sum(file.is_file() for file in files.rglob("*"))

    with Raw(server.http) as raw:
        line = f"POST /api/v1/uploads?app={app}&user=eve HTTP/1.1"
        raw.send(f"{line}\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345".encode())
        eventually(lambda: stored() == 1, what="a file under way")
        good(server.http, "apps/delete", {"app": app, "confirm": app})
        raw.send(b"67890")
        answer = raw.response()
    assert (answer.status, answer.json["code"]) == (404, "unknown_app")
    assert stored() == 0


def groups_of(server: Server, app: str, user: str, key: str) -> Any:
    return good(server.http, "groups", key=key, app=app, user=user)["groups"]


def data_of(server: Server) -> dict[str, str]:
    return {"IMSERVER_SERVER_DATA_DIR": str(server.folder / "data")}


@pytest.mark.full
def test_configured_apps_and_those_with_aliases_are_not_deleted(http_server: str, launch: Launch) -> None:
    server = launch(http_server, storage={"look_seconds": 0.2})
    app, alias = new_app(), new_app()
    assert refused(server.http, "apps/delete", {"app": app, "confirm": app})[:2] == (404, "unknown_app")
    assert refused(server.http, "apps/delete", {"app": "101", "confirm": "101"})[1] == "app_configured"
    good(server.http, "apps/create", {"app": app})
    good(server.http, "apps/create", {"app": alias, "settings": {"same_as": app}})
    status, _, message = refused(server.http, "apps/delete", {"app": app, "confirm": app})
    assert (status, alias in message) == (400, True)
    for name in (alias, app):
        good(server.http, "apps/delete", {"app": name, "confirm": name})
