"""Who may do what without an API key: users with a session token, and back ends on a list."""

import pytest

from imserver.api.routes import ROUTES, answer
from imserver.auth.tenants import Tenant
from imserver.auth.tokens import Claims
from imserver.config.settings import KeySettings
from imserver.transport.exchange import HttpRequest

from .fakes import FakeNode, decoded, with_keys

NODE = with_keys(KeySettings("admin-key", ("admin",)))


@pytest.fixture
def node() -> FakeNode:
    one = FakeNode(NODE)
    one.session_tokens["eyJ.ann.101"] = Claims("ann", "101", 2**40)
    one.allowed.learn([Tenant(name="102", api_allow_from=("10.0.0.0/8",))])
    return one


def code(node: FakeNode, path: str, host: str = "192.0.2.1", query: str = "", **headers: str) -> int:
    route = next(row for row in ROUTES if row.path == path and row.method == "GET")
    finished = answer(node.api, route, HttpRequest("GET", path, query.encode(), b"", headers, host))
    return int(decoded(finished)["code"]) if finished.status == 200 else finished.status


def test_a_session_token_does_what_a_page_may_in_its_own_app(node: FakeNode) -> None:
    shown = {"authorization": "Bearer eyJ.ann.101"}
    assert code(node, "/user/list", query="appID=101", **shown) == 200
    assert code(node, "/user/list", query="appID=102", **shown) == 1003
    assert code(node, "/user/online", query="appID=101&userID=x", **shown) == 1003
    assert code(node, "/metrics", **shown) == 401
    assert code(node, "/user/list", query="appID=101", authorization="Basic eyJ.ann.101") == 1003


def test_a_session_token_sends_in_the_name_of_its_user_only(node: FakeNode) -> None:
    form = {"appID": "101", "msgID": "", "message": "hi"}
    assert node.post("/user/sendMessageAll", key="eyJ.ann.101", userID="ann", **form)["code"] == 200
    assert node.post("/user/sendMessageAll", key="eyJ.ann.101", userID="bob", **form)["code"] == 1003
    assert node.post("/user/sendMessage", key="eyJ.ann.101", userID="bob", **form)["code"] == 1003


def test_a_back_end_on_a_list_pushes_and_reads_in_its_app_and_is_no_admin(node: FakeNode) -> None:
    assert code(node, "/user/list", "10.0.0.7", "appID=102") == 200
    assert code(node, "/user/online", "10.0.0.7", "appID=102&userID=x") == 200
    assert code(node, "/user/list", "10.0.0.7", "appID=101") == 1003
    assert code(node, "/user/list", "192.0.2.1", "appID=102") == 1003
    assert code(node, "/system/state", "10.0.0.7") == 1003
    assert code(node, "/metrics", "10.0.0.7") == 401


def test_whoever_shows_something_wrong_is_nobody_wherever_they_are(node: FakeNode) -> None:
    for shown in ("Bearer wrong", "Bearer", "nonsense"):
        assert code(node, "/user/list", "10.0.0.7", "appID=102", authorization=shown) == 1003


def test_the_new_routes_want_a_key_whoever_calls(node: FakeNode) -> None:
    paths = [
        row.path
        for row in ROUTES
        if row.path.startswith("/api/v1/") and row.method == "GET" and row.need.scope
    ]
    assert paths
    for path in paths:
        assert code(node, path, "10.0.0.7", "app=102") == 401, path
