"""Who may do what without an API key: users with a session token, and back ends on a list."""

import pytest

from imserver.gateway.auth.principal import Needs
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.config.settings import KeySettings, LimitSettings, TenantSettings
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.http.call import Route, answer
from imserver.gateway.http.reply import PROBLEM
from imserver.gateway.transport.http1 import HttpRequest
from tests.gateway.api.fakes import FakeNode, decoded, with_keys

NODE = with_keys(KeySettings("admin-key", ("admin",)))


@pytest.fixture
def node() -> FakeNode:
    one = FakeNode(NODE)
    one.session_tokens["eyJ.ann.101"] = Claims("ann", "101", 2**40)
    one.allowed.learn([Tenant(name="102", api_allow_from=("10.0.0.0/8",))])
    return one


def code(node: FakeNode, path: str, host: str = "192.0.2.1", query: str = "", **headers: str) -> int:
    finished = answer(
        node.api,
        node.api.endpoints["GET", path],
        HttpRequest("GET", path, query.encode(), b"", headers, host),
    )
    return int(decoded(finished)["code"]) if finished.status == 200 else finished.status


def test_a_session_token_does_what_a_page_may_in_its_own_app(node: FakeNode) -> None:
    shown = {"authorization": "Bearer eyJ.ann.101"}
    assert code(node, "/user/list", query="appID=101", **shown) == 200
    assert code(node, "/user/list", query="appID=102", **shown) == 1003
    assert code(node, "/user/online", query="appID=101&userID=x", **shown) == 200
    assert code(node, "/user/online", query="appID=102&userID=x", **shown) == 1003
    assert code(node, "/user/online", query="userID=x", **shown) == 1003
    assert code(node, "/metrics", **shown) == 401
    assert code(node, "/user/list", query="appID=101", authorization="Basic eyJ.ann.101") == 1003


def test_a_session_token_sends_in_the_name_of_its_user_only(node: FakeNode) -> None:
    form = {"appID": "101", "msgID": "", "message": "hi"}
    assert node.post("/user/sendMessageAll", key="eyJ.ann.101", userID="ann", **form)["code"] == 200
    assert node.post("/user/sendMessageAll", key="eyJ.ann.101", userID="bob", **form)["code"] == 1003


def test_a_message_with_a_session_token_names_the_user_as_its_sender(node: FakeNode) -> None:
    form = {"userID": "马远", "msgID": "1", "message": "hi"}
    assert node.post("/user/sendMessage", key="eyJ.ann.101", appID="101", **form)["code"] == 200
    assert node.post("/user/sendMessage", key="eyJ.ann.101", appID="102", **form)["code"] == 1003
    assert [(user, event.sender) for _, user, event in node.delivered] == [("马远", "ann")]


def test_a_banned_user_sends_and_reads_nothing_although_the_token_is_valid(node: FakeNode) -> None:
    form = {"appID": "101", "userID": "ann", "message": "hi"}
    assert node.post("/user/sendMessageAll", key="eyJ.ann.101", **form)["code"] == 200
    assert code(node, "/user/list", query="appID=101", authorization="Bearer eyJ.ann.101") == 200
    node.banned.add(("101", "ann"))
    node.delivered.clear()
    for path in ("/user/sendMessage", "/user/sendMessageAll"):
        assert node.post(path, key="eyJ.ann.101", **form)["code"] == 1003
    assert code(node, "/user/list", query="appID=101", authorization="Bearer eyJ.ann.101") == 1003
    assert node.delivered == []


def test_users_send_no_faster_than_over_one_connection() -> None:
    limits = LimitSettings(messages_per_second=0.001)
    node = FakeNode(with_keys(KeySettings("admin-key", ("admin",)), limits=limits))
    node.session_tokens["eyJ.ann.101"] = Claims("ann", "101", 2**40)
    form = {"appID": "101", "userID": "ann", "message": "hi"}
    codes = [node.post("/user/sendMessageAll", key="eyJ.ann.101", **form)["code"] for _ in range(2)]
    assert codes == [200, 1004]


@pytest.mark.parametrize("name", ["shop", "系统"])
def test_an_app_id_may_be_the_name_of_an_app(name: str) -> None:
    node = FakeNode(with_keys(KeySettings("push-key", ("push", "read")), apps={name: TenantSettings()}))
    node.users[name] = ["bob"]
    form = {"userID": "bob", "message": "hi"}
    assert node.post("/user/sendMessage", key="push-key", appID=name, **form)["data"] == {"sendResults": True}
    assert node.post_json("/user/sendMessage", {"appID": name, **form}, key="push-key")["code"] == 200
    assert node.get("/user/list", key="push-key", appID=name)["data"]["userList"] == ["bob"]
    assert node.get("/user/list", key="push-key", appID=f"no {name}")["data"]["userList"] == []
    assert [app for app, _, _ in node.delivered] == [name, name]


def test_apps_of_other_dialects_cannot_be_named_by_an_app_id() -> None:
    node = FakeNode(with_keys(KeySettings("push-key", ("push",)), apps={"system:1": TenantSettings()}))
    node.users["system:1"] = ["bob"]
    node.post("/user/sendMessage", key="push-key", appID="system:1", userID="bob", message="hi")
    assert node.delivered == []


def test_a_back_end_on_a_list_pushes_and_reads_in_its_app_and_is_no_admin(node: FakeNode) -> None:
    assert code(node, "/user/list", "10.0.0.7", "appID=102") == 200
    assert code(node, "/user/online", "10.0.0.7", "appID=102&userID=x") == 200
    assert code(node, "/user/list", "10.0.0.7", "appID=101") == 1003
    assert code(node, "/user/list", "192.0.2.1", "appID=102") == 1003
    assert code(node, "/system/state", "10.0.0.7") == 1003
    assert code(node, "/metrics", "10.0.0.7") == 401


def test_while_the_issuer_of_a_token_does_not_answer_its_requests_may_be_repeated(node: FakeNode) -> None:
    def session_of(token: str) -> Claims | None:
        raise IssuerUnavailable(token)

    node.logins.session_of = session_of
    shown = {"authorization": "Bearer eyJ.ann.101"}
    assert code(node, "/user/list", query="appID=101", **shown) == 1004
    endpoint = node.api.bind(
        Route("GET", "/own", Needs.PUSH_OR_USER, lambda _, call: call.reply(""), style=PROBLEM)
    )
    finished = answer(node.api, endpoint, HttpRequest("GET", "/own", b"", b"", shown, "192.0.2.1"))
    assert (finished.status, b'"issuer_unavailable"' in finished.body) == (503, True)
