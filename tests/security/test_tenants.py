"""Nothing crosses from one app to another: attacks with a key of two apps."""

import json
from typing import Any

import pytest

from tests.integration.cmd import logged_in
from tests.integration.raw import Raw, ask, bearer, request, text
from tests.integration.v1 import call
from tests.security.attack_setting import ADMIN, OF_205, TOKENS, session_token
from tests.support import Server

APP = {"app": TOKENS}
ROUTES: list[tuple[str, Any]] = [
    ("push", {**APP, "user": "7", "text": "hi"}),
    ("push", {**APP, "all": True, "text": "hi"}),
    ("disconnect", {**APP, "users": ["mallory"]}),
    (f"conversations?app={TOKENS}&user=7", None),
]
"""The table of permissions has all of them (``matrix.txt``); here nothing must happen."""


@pytest.mark.parametrize(("route", "body"), ROUTES, ids=[route for route, _ in ROUTES])
def test_a_key_reaches_no_foreign_app(guarded: Server, route: str, body: Any) -> None:
    with logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim:
        answer = call(guarded.http, route, body, key=OF_205)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        victim.no_push()
    assert call(guarded.http, route, body, key=ADMIN).status in (200, 201, 409), "the attack is well formed"


def test_two_apps_on_one_request_are_one(guarded: Server) -> None:
    """The app that is authorised is the app that is used, wherever it is named."""
    for path in (f"/user/list?appID=205&appID={TOKENS}", f"/user/list?appID=205&appId={TOKENS}"):
        with logged_in(
            guarded.ws, "secret-user", int(TOKENS), serviceToken=session_token(TOKENS, "secret-user")
        ):
            answer = ask(guarded.http, bearer(request(path), OF_205))
            assert b"secret-user" not in answer.body, answer


def test_a_publisher_connection_keeps_to_the_apps_of_its_key(guarded: Server) -> None:
    with (
        logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim,
        Raw(guarded.http) as one,
    ):
        one.upgrade("/api/v1/publisher", more=[("Authorization", f"Bearer {OF_205}")])
        one.send(text(json.dumps({"seq": 1, "publish": {"app": TOKENS, "user": "7", "text": "hi"}})))
        assert one.message().json["error"]["code"] == "forbidden"
        victim.no_push()


# --- aliases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["101", TOKENS, "gochat"])
def test_an_alias_of_a_foreign_app_cannot_be_made(guarded: Server, target: str) -> None:
    """The key reaches the apps 205 to 207, of which 206 and 207 do not exist at first."""
    alias = {"same_as": target}
    assert call(guarded.http, "apps/create", {"app": "206", "settings": alias}, key=OF_205).status == 403
    answer = call(guarded.http, "apps/create", {"app": "207", "settings": {}}, key=OF_205).status
    assert answer in (201, 409)
    assert call(guarded.http, "apps/set", {"app": "207", "settings": alias}, key=OF_205).status == 403
    with logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim:
        for app in ("206", "207"):
            call(guarded.http, "push", {"app": app, "user": "7", "text": "hi"}, key=OF_205)
            call(guarded.http, "push", {"app": app, "all": True, "text": "hi"}, key=OF_205)
        victim.no_push()


def test_an_alias_that_an_operator_made_widens_no_key(guarded: Server) -> None:
    """What is authorised is the app behind the alias."""
    alias = {"app": "210", "settings": {"same_as": TOKENS}}
    assert call(guarded.http, "apps/create", alias, key=ADMIN).status in (201, 409)
    for route, body in (
        ("push", {"app": "210", "user": "7", "text": "hi"}),
        ("presence?app=210&user=7", None),
        ("ban", {"app": "210", "users": ["mallory"], "seconds": 1}),
    ):
        assert call(guarded.http, route, body, key=OF_205).status == 403, route


def test_an_alias_within_reach_can_be_made(guarded: Server) -> None:
    alias = {"app": "205", "settings": {"same_as": "205"}}
    assert call(guarded.http, "apps/set", alias, key=OF_205).status in (400, 409)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"jwt": [{"algorithm": "HS256", "key": "a secret of thirty-two characters"}]}},
        {"settings": {"open": True}},
        {"settings": {}, "unset": ["same_as"]},
    ],
)
def test_a_key_for_the_target_of_an_alias_cannot_change_the_alias(
    guarded: Server, change: dict[str, Any]
) -> None:
    """It could give the alias settings of its own, and cut it loose from its target."""
    alias = {"app": "211", "settings": {"same_as": "205"}}
    assert call(guarded.http, "apps/create", alias, key=ADMIN).status in (201, 409)
    assert call(guarded.http, "push", {"app": "211", "user": "7", "text": "hi"}, key=OF_205).status == 200
    assert call(guarded.http, "apps/set", {"app": "211", **change}, key=OF_205).status == 403
    assert call(guarded.http, "apps/set", {"app": "211", "settings": {}}, key=ADMIN).status == 200
