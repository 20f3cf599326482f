"""Who may do what: keys with scopes and apps, page tokens, demo mode."""

from typing import Any

import pytest

from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.settings import KeySettings
from imserver.gateway.dialects.cmd.api import ROUTES as CMD_ROUTES
from imserver.gateway.http.reply import CMD
from tests.gateway.api.fakes import NOT_SENT, SENT, UNAUTHORIZED, FakeNode, with_keys
from tests.rows import ROUTES

FORM = {"appID": 101, "userID": "马远", "message": "x"}
KEYS = {
    "push": KeySettings("push-key", ("push",)),
    "read": KeySettings("read-key", ("read",)),
    "admin": KeySettings("admin-key", ("admin",)),
    "both": KeySettings("both-key", ("push", "read")),
    "of one app": KeySettings("app-key", ("push", "read", "admin"), ("102",)),
}


@pytest.fixture
def node() -> FakeNode:
    return FakeNode(with_keys(*KEYS.values()))


def ask(node: FakeNode, path: str, key: str, **params: Any) -> Any:
    route = next(row for row in ROUTES if row.path == path)
    if route.method == "GET":
        return node.get(path, key=key, **params)
    if route.read:
        return node.post_json(path, {"appID": params["appID"], "userIDs": [params["userID"]]}, key=key)
    return node.post(path, key=key, **params)


KEYED = [
    row.path
    for row in CMD_ROUTES
    # The app of the other row is one of the action dialect.
    if row.need.scope and row.style is CMD and row.path != "/user/groupslist"
]


@pytest.mark.parametrize("path", KEYED)
def test_demo_mode_needs_no_key(path: str) -> None:
    assert ask(FakeNode(), path, "", **FORM)["code"] == 200
    assert ask(FakeNode(), path, "any", **FORM)["code"] == 200


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("key", ["", "wrong", "push-key ".upper(), "page.x", "马"])
def test_a_missing_or_wrong_key_is_answered_with_1003(node: FakeNode, path: str, key: str) -> None:
    assert ask(node, path, key, **FORM) == UNAUTHORIZED
    assert (node.delivered, node.kicked) == ([], [])


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("name", ["push", "read", "admin", "both"])
def test_a_key_opens_the_routes_of_its_scopes_and_admin_all(node: FakeNode, path: str, name: str) -> None:
    scope = next(row.need.scope for row in ROUTES if row.path == path)
    allowed = scope in KEYS[name].scopes or name == "admin"
    assert ask(node, path, KEYS[name].key, **FORM)["code"] == (200 if allowed else 1003)


def test_the_word_bearer_is_read_in_any_letter_case_and_nothing_else_is(node: FakeNode) -> None:
    def scopes(header: str) -> frozenset[str]:
        return node.authority.identify(Needs.PUSH, {"authorization": header}, "127.0.0.1").scopes

    for header in ("Bearer push-key", "bearer push-key", "BEARER   push-key "):
        assert "push" in scopes(header), header
    for header in (
        "push-key",
        "Basic push-key",
        "Bearer",
        "Bearer ",
        "",
        "Bearerpush-key",
        "Bearer push-key x",
    ):
        assert not scopes(header), header


@pytest.mark.parametrize("path", [path for path in KEYED if path != "/system/state"])
def test_a_key_of_one_app_does_nothing_in_another(node: FakeNode, path: str) -> None:
    assert ask(node, path, "app-key", **FORM) == UNAUTHORIZED
    assert ask(node, path, "app-key", **{**FORM, "appID": 102})["code"] == 200
    assert {app for app, *_ in node.delivered} <= {"102"}


def test_a_key_of_one_app_looks_for_users_in_that_app_only(node: FakeNode) -> None:
    assert node.get("/user/online", userID="马远", key="app-key")["data"]["online"]
    assert not node.get("/user/online", userID="黄帝", key="app-key")["data"]["online"]
    assert node.get("/user/online", userID="黄帝", key="read-key")["data"]["online"]


def test_peers_and_users_in_the_state_are_for_admins_of_all_apps(node: FakeNode) -> None:
    assert node.get("/system/state", key="read-key")["code"] == 200
    for more in ({}, {"cluster": "true"}):
        assert node.get("/system/state", isDebug="true", key="read-key", **more) == UNAUTHORIZED
        assert node.get("/system/state", detail="true", key="read-key", **more)["code"] == 200
    assert "clients" in node.get("/system/state", isDebug="true", key="admin-key")["data"]["managerInfo"]


@pytest.mark.parametrize("params", [{}, {"isDebug": "true"}, {"detail": "true"}, {"cluster": "true"}])
def test_the_state_needs_a_key_that_reaches_all_apps(node: FakeNode, params: dict[str, str]) -> None:
    assert node.get("/system/state", key="app-key", **params) == UNAUTHORIZED


def test_outside_demo_mode_a_message_id_counts_for_each_app_by_itself(node: FakeNode) -> None:
    for app in (101, 102):
        assert node.post("/user/sendMessage", key="push-key", **{**FORM, "appID": app}, msgID="1") == SENT


def test_keys_may_change_while_running(node: FakeNode) -> None:
    changed = with_keys(KeySettings("new-key", ("push",)))
    node.keys.reload(changed)
    node.api.reload(changed)
    assert node.post("/user/sendMessage", key="push-key", **FORM) == UNAUTHORIZED
    assert node.post("/user/sendMessage", key="new-key", **FORM) == SENT


# --- pages ----------------------------------------------------------------------------------------------


def test_a_page_token_lists_and_sends_to_all_as_its_user_in_its_app(node: FakeNode) -> None:
    token = node.page_tokens.make("101", "马远")
    assert node.get("/user/list", appID=101, key=token)["data"]["userCount"] == 2
    assert node.post("/user/sendMessageAll", key=token, **FORM) == SENT
    assert node.texts == [("黄帝", "x")]


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("/user/list", {"appID": 102}),
        ("/user/list", {"appID": 0}),
        ("/user/sendMessageAll", {"appID": 102}),
        ("/user/sendMessageAll", {"appID": ""}),
        ("/user/sendMessageAll", {"userID": "黄帝"}),
        ("/user/sendMessageAll", {"userID": ""}),
        *((path, {}) for path in KEYED if path not in ("/user/list", "/user/sendMessageAll")),
    ],
)
def test_a_page_token_does_nothing_else(node: FakeNode, path: str, changed: dict[str, Any]) -> None:
    token = node.page_tokens.make("101", "马远")
    assert ask(node, path, token, **{**FORM, **changed}) == UNAUTHORIZED
    assert (node.delivered, node.kicked) == ([], [])


def test_a_page_token_is_no_use_to_claim_a_message_id_elsewhere(node: FakeNode) -> None:
    token = node.page_tokens.make("102", "马远")
    assert node.post("/user/sendMessageAll", key=token, **FORM, msgID="1") == UNAUTHORIZED
    assert (
        node.post("/user/sendMessage", key="push-key", **{**FORM, "userID": "nobody"}, msgID="1") == NOT_SENT
    )
