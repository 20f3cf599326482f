"""Nothing crosses from one app to another: attacks with a key of two apps."""

import json
from typing import Any

import pytest

from tests.integration.cmd import form_request, json_request, logged_in
from tests.integration.raw import Raw, ask, bearer, request, text
from tests.integration.v1 import call
from tests.security.attack_setting import ADMIN, OF_205, PUSH_OF_TOKENS, TOKENS, session_token
from tests.support import Server

APP = {"app": TOKENS}
ROUTES: list[tuple[str, Any]] = [
    ("push", {**APP, "user": "mallory", "text": "hi"}),
    ("push", {**APP, "all": True, "text": "hi"}),
    ("push", {**APP, "user": "mallory", "text": "hi", "store": True}),
    ("channels/publish", {**APP, "channel": "tea", "text": "hi"}),
    ("channels/subscribe", {**APP, "channel": "tea", "users": ["mallory"]}),
    ("channels/unsubscribe", {**APP, "channel": "tea", "users": ["mallory"]}),
    ("ban", {**APP, "users": ["mallory"], "seconds": 1}),
    ("unban", {**APP, "users": ["mallory"]}),
    ("disconnect", {**APP, "users": ["mallory"]}),
    ("presence", {**APP, "users": ["7"]}),
    (f"presence?app={TOKENS}&user=7", None),
    (f"users?app={TOKENS}", None),
    (f"counts?app={TOKENS}", None),
    (f"channels/list?app={TOKENS}", None),
    (f"channels/presence?app={TOKENS}&channel=tea", None),
    ("apps/set", {**APP, "settings": {"max_channels": 1}}),
    ("apps/create", {"app": "208", "settings": {}}),
    (f"apps/show?app={TOKENS}", None),
    (f"conversations?app={TOKENS}&user=7", None),
    (f"messages/sync?app={TOKENS}&user=7&after=0", None),
    ("messages/send", {**APP, "user": "7", "to": "8", "text": "hi"}),
    ("groups/create", {**APP, "user": "7", "name": "tea"}),
    (f"uploads?app={TOKENS}&user=7", None),
]


@pytest.mark.parametrize(("route", "body"), ROUTES, ids=[route for route, _ in ROUTES])
def test_a_key_reaches_no_foreign_app(guarded: Server, route: str, body: Any) -> None:
    with logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim:
        answer = call(guarded.http, route, body, key=OF_205)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        victim.no_push()
    assert call(guarded.http, route, body, key=ADMIN).status in (200, 201, 409), "the attack is well formed"


@pytest.mark.parametrize(
    "data",
    [
        form_request("/user/sendMessage", {"appID": TOKENS, "userID": "7", "message": "hi"}),
        form_request("/user/sendMessageAll", {"appID": TOKENS, "userID": "7", "message": "hi"}),
        form_request("/user/kick", {"appID": TOKENS, "userID": "7"}),
        json_request("/user/sendMessageBatch", {"appID": int(TOKENS), "userIDs": ["7"], "message": "hi"}),
        json_request("/user/onlineBatch", {"appID": int(TOKENS), "userIDs": ["7"]}),
        request(f"/user/list?appID={TOKENS}"),
        request(f"/user/online?appID={TOKENS}&userID=7"),
        request("/user/list?appId=1&groupsId=1"),
        request("/system/state"),
        request("/system/state?cluster=true"),
    ],
    ids=lambda data: data.split()[1].decode(),
)
def test_the_original_routes_reach_no_foreign_app(guarded: Server, data: bytes) -> None:
    with logged_in(guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")) as victim:
        assert ask(guarded.http, bearer(data, OF_205)).json["code"] == 1003
        assert ask(guarded.http, bearer(data, ADMIN)).json["code"] != 1003, "the attack is well formed"
        victim.pushed.clear()


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


def test_a_scope_is_not_widened(guarded: Server) -> None:
    for route, body in (
        (f"presence?app={TOKENS}&user=7", None),
        ("ban", {"app": TOKENS, "users": ["7"], "seconds": 60}),
        ("apps", None),
        ("apps/set", {"app": TOKENS, "settings": {"jwt": []}}),
    ):
        assert call(guarded.http, route, body, key=PUSH_OF_TOKENS).status == 403, route
    assert ask(guarded.http, bearer(request("/metrics"), OF_205)).status == 403


# --- aliases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["101", TOKENS, "gochat"])
def test_an_alias_of_a_foreign_app_cannot_be_made(guarded: Server, target: str) -> None:
    """The key reaches the apps 205 to 207, of which 206 and 207 do not exist at first."""
    alias = {"same_as": target}
    assert call(guarded.http, "apps/create", {"app": "206", "settings": alias}, key=OF_205).status == 403
    made = call(guarded.http, "apps/create", {"app": "207", "settings": {}}, key=OF_205).status
    assert made in (201, 409)
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
