"""Apps by ``/api/v1``, and what keys of which scope and app may do, on both doors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Server

from .cmd import Speaker, fresh, logged_in, number
from .setting import OPEN, Launch, stop
from .v1 import good, refused

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
DEFAULTS = {
    "configured": False,
    "login_policy": "multi",
    "same_as": "",
    "open": False,
    "dialects": [],
    "origins": [],
    "origin_policy": "",
    "api_allow_from": [],
    "jwt": [],
    "account_tokens": "ignored",
    "webhook": {"url": "", "events": [], "authorise_url": "", "signed": False},
    "max_connections": 0,
    "messages_per_second": 0.0,
    "max_rooms": 0,
    "keep_seconds": 0.0,
    "keep_messages": 0,
    "keep_talks": False,
    "room_members": {},
}


@pytest.fixture(scope="module")
def keyed(door: str, launch: Launch) -> Iterator[Server]:
    """A server with keys."""
    return launch(door, apps=OPEN, **KEYS)


def new_app() -> str:
    return str(70_000 + number())


# --- keys ---------------------------------------------------------------------------------------------------

CALLS: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("read", "presence", None, {"app": "101", "user": "a"}),
    ("read", "presence", {"app": "101", "users": ["a"]}, {}),
    ("read", "users", None, {"app": "101"}),
    ("read", "counts", None, {"app": "101"}),
    ("read", "rooms", None, {"app": "101"}),
    ("read", "rooms/members", None, {"app": "101", "room": "r"}),
    ("push", "rooms/join", {"app": "101", "room": "r"}, {}),
    ("push", "rooms/leave", {"app": "101", "room": "r"}, {}),
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
    assert document["paths"]["/api/v1/ban"]["post"]["security"] == [{"key": ["admin"]}]


# --- apps ---------------------------------------------------------------------------------------------------


def test_an_app_is_created_and_can_be_logged_in_to(keyed: Server) -> None:
    app = new_app()
    settings = {"open": True, "login_policy": "single", "room_members": {"staff": ["ann"]}, "max_rooms": 2}
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
    good(keyed.http, "apps/create", {"app": app, "settings": {"max_rooms": 1}}, key=ADMIN)
    change = {"app": app, "settings": {"origins": ["shop.example.com"], "max_connections": 1}}
    changed = good(keyed.http, "apps/set", change, key=ADMIN)
    assert changed == {
        "app": app,
        **DEFAULTS,
        "max_rooms": 1,
        "origins": ["shop.example.com"],
        "max_connections": 1,
    }
    unset = good(keyed.http, "apps/set", {"app": app, "unset": ["origins", "max_connections"]}, key=ADMIN)
    assert unset == {"app": app, **DEFAULTS, "max_rooms": 1}


def test_secrets_are_taken_and_never_shown(keyed: Server) -> None:
    app = new_app()
    secret = "a secret of more than thirty-two bytes"
    settings = {
        "jwt": [{"algorithm": "HS256", "key": secret, "kid": "one"}],
        "webhook": {"url": "https://shop.example.com/hook", "secret": secret, "events": ["login"]},
    }
    created = good(keyed.http, "apps/create", {"app": app, "settings": settings}, key=ADMIN)
    assert created["jwt"] == [{"algorithm": "HS256", "kid": "one"}]
    assert created["webhook"] == {
        "url": "https://shop.example.com/hook",
        "events": ["login"],
        "authorise_url": "",
        "signed": True,
    }
    with Speaker(keyed.ws) as ann:
        code, _, _ = ann.upgrade().ask_cmd("login", {"userID": fresh(), "appID": int(app)})
        assert code == 1003, "its logins need a token"


@pytest.mark.parametrize(
    "settings",
    [
        {"login_policy": "any"},
        {"no such setting": 1},
        {"max_rooms": -1},
        {"jwt": [{"algorithm": "HS256", "key": "short"}]},
        {"jwt": [{"algorithm": "HS256", "key_file": "/etc/passwd"}]},
        {"webhook": {"url": "ftp://shop.example.com"}},
        {"webhook": {"secret_file": "/etc/passwd"}},
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
    change = {"app": "101", "settings": {"max_rooms": 1}}
    assert refused(keyed.http, "apps/set", change, key=ADMIN)[:2] == (409, "app_configured")
    assert good(keyed.http, "apps/show", key=ADMIN, app="101")["configured"] is True


def test_an_app_that_is_not_there_cannot_be_changed(keyed: Server) -> None:
    assert refused(keyed.http, "apps/set", {"app": "nobody's"}, key=ADMIN)[:2] == (404, "unknown_app")


def test_there_may_be_so_many_apps_and_no_more(door: str, launch: Launch) -> None:
    server = launch(door, limits={"registered_apps": 1})
    good(server.http, "apps/create", {"app": "first"})
    assert refused(server.http, "apps/create", {"app": "second"})[:2] == (409, "too_many_apps")


def test_an_app_survives_a_restart(door: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "node", door=door)
    created = good(server.http, "apps/create", {"app": "205", "settings": {"max_rooms": 7}})
    stop(server)
    server = Server(tmp_path / "node", door=door)
    assert good(server.http, "apps/show", app="205") == created
    with logged_in(server.ws, "ann", 205):
        assert good(server.http, "counts", app="205")["apps"][0]["users"] == 1
    stop(server)


def test_without_a_database_creating_is_a_temporary_error(door: str, launch: Launch) -> None:
    server = launch(door)
    (Path(server.folder) / "data" / "imserver.db").mkdir()
    status, code, _ = refused(server.http, "apps/create", {"app": "third"})
    assert (status, code) == (503, "storage_unavailable")
    assert good(server.http, "apps/show", app="101")["configured"] is True
