"""Who may do what: keys, page tokens, users with a session token, back ends on a list.

Each route for each kind of principal is in ``tests/security/matrix.txt``. Here is what depends on values.
"""

from typing import Any

import pytest

from imserver.gateway.auth.principal import Needs
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.config.settings import KeySettings, LimitSettings, TenantSettings
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.http.call import Route, answer
from imserver.gateway.http.reply import PROBLEM
from imserver.gateway.transport.http1 import HttpRequest
from tests.gateway.api.fakes import NOT_SENT, SENT, UNAUTHORIZED, FakeNode, decoded, with_keys

ONE, ALL, LIST = "/user/sendMessage", "/user/sendMessageAll", "/user/list"
FORM = {"appID": 101, "userID": "马远", "message": "x"}
KEYS = with_keys(
    KeySettings("push-key", ("push",)),
    KeySettings("read-key", ("read",)),
    KeySettings("admin-key", ("admin",)),
    KeySettings("app-key", ("push", "read", "admin"), ("102",)),
)
ANN = "eyJ.ann.101"


@pytest.fixture
def node() -> FakeNode:
    one = FakeNode(KEYS)
    one.session_tokens[ANN] = Claims("ann", "101", 2**40)
    one.allowed.learn([Tenant(name="102", api_allow_from=("10.0.0.0/8",))])
    return one


@pytest.mark.parametrize(
    ("header", "is_read"),
    [
        *((header, True) for header in ("Bearer push-key", "bearer push-key", "BEARER   push-key ")),
        *((header, False) for header in ("push-key", "Basic push-key", "Bearer", "Bearer ", "")),
        *((header, False) for header in ("Bearerpush-key", "Bearer push-key x")),
    ],
)
def test_the_word_bearer_is_read_in_any_letter_case(node: FakeNode, header: str, is_read: bool) -> None:
    scopes = node.authority.identify(Needs.PUSH, {"authorization": header}, "127.0.0.1").scopes
    assert ("push" in scopes) is is_read


def test_a_key_of_one_app_looks_for_users_in_that_app_only(node: FakeNode) -> None:
    for user, key, online in (("马远", "app", True), ("黄帝", "app", False), ("黄帝", "read", True)):
        assert node.get("/user/online", userID=user, key=f"{key}-key")["data"]["online"] is online


@pytest.mark.parametrize("more", [{}, {"cluster": "true"}])
def test_the_state_is_for_keys_of_all_apps_and_its_peers_for_their_admins(
    node: FakeNode, more: dict[str, str]
) -> None:
    for shown, key, allowed in (
        *(({}, "app", False), ({"isDebug": "true"}, "app", False), ({"detail": "true"}, "app", False)),
        *(({}, "read", True), ({"isDebug": "true"}, "read", False), ({"detail": "true"}, "read", True)),
        ({"isDebug": "true"}, "admin", True),
    ):
        answered = node.get("/system/state", key=f"{key}-key", **shown, **more)
        assert (answered != UNAUTHORIZED) is allowed, (shown, key)


def test_outside_demo_mode_a_message_id_counts_for_each_app_by_itself(node: FakeNode) -> None:
    for app in (101, 102):
        assert node.post(ONE, key="push-key", **{**FORM, "appID": app}, msgID="1") == SENT


def test_keys_may_change_while_running(node: FakeNode) -> None:
    changed = with_keys(KeySettings("new-key", ("push",)))
    node.keys.reload(changed)
    node.api.reload(changed)
    assert node.post(ONE, key="push-key", **FORM) == UNAUTHORIZED
    assert node.post(ONE, key="new-key", **FORM) == SENT


# --- users --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "by_page"), [("马远", True), ("ann", False)])
def test_a_user_lists_and_sends_to_all_in_their_name_in_their_app(
    node: FakeNode, user: str, by_page: bool
) -> None:
    token = node.page_tokens.make("101", user) if by_page else ANN
    form = {**FORM, "userID": user}
    for changed in ({"appID": 102}, {"appID": ""}, {"userID": "黄帝"}, {"userID": ""}):
        assert node.post(ALL, key=token, **{**form, **changed}, msgID="1") == UNAUTHORIZED
    for app in (102, 0):
        assert node.get(LIST, key=token, appID=app) == UNAUTHORIZED
    assert node.get(LIST, key=token, appID=101)["data"]["userCount"] == 2
    assert node.delivered == []
    assert node.post(ALL, key=token, **form, msgID="1") == SENT, "the refused ones have not claimed the id"
    assert {event.sender for _, _, event in node.delivered} == {user}


def test_a_message_with_a_session_token_names_the_user_as_its_sender(node: FakeNode) -> None:
    assert node.post(ONE, key=ANN, **FORM) == SENT
    assert node.post(ONE, key=ANN, **{**FORM, "appID": 102}) == UNAUTHORIZED
    assert [(user, event.sender) for _, user, event in node.delivered] == [("马远", "ann")]
    assert node.post(ONE, key="push-key", **{**FORM, "userID": "nobody"}, msgID="1") == NOT_SENT


def test_a_banned_user_sends_and_reads_nothing_although_the_token_is_valid(node: FakeNode) -> None:
    node.banned.add(("101", "ann"))
    for path in (ONE, ALL):
        assert node.post(path, key=ANN, **{**FORM, "userID": "ann"})["code"] == 1003
    assert node.get(LIST, key=ANN, appID=101)["code"] == 1003
    assert node.delivered == []


def test_users_send_no_faster_than_over_one_connection() -> None:
    limits = LimitSettings(messages_per_second=0.001)
    node = FakeNode(with_keys(KeySettings("admin-key", ("admin",)), limits=limits))
    node.session_tokens[ANN] = Claims("ann", "101", 2**40)
    form = {**FORM, "userID": "ann"}
    assert [node.post(ALL, key=ANN, **form)["code"] for _ in range(2)] == [200, 1004]


@pytest.mark.parametrize(("name", "can_be_named"), [("shop", True), ("系统", True), ("system:1", False)])
def test_an_app_id_may_be_the_name_of_an_app_of_this_dialect(name: str, can_be_named: bool) -> None:
    node = FakeNode(with_keys(KeySettings("push-key", ("push", "read")), apps={name: TenantSettings()}))
    node.users[name] = ["bob"]
    form = {"appID": name, "userID": "bob", "message": "hi"}
    assert node.post(ONE, key="push-key", **form) == (SENT if can_be_named else NOT_SENT)
    node.post_json(ONE, form, key="push-key")
    assert [app for app, _, _ in node.delivered] == [name] * 2 * can_be_named
    assert node.get(LIST, key="push-key", appID=name)["data"]["userList"] == ["bob"] * can_be_named
    assert node.get(LIST, key="push-key", appID=f"no {name}")["data"]["userList"] == []


def ask(node: FakeNode, path: str, query: str = "", host: str = "192.0.2.1", **headers: str) -> int:
    """The code of the answer to whoever has this address, or its status."""
    request = HttpRequest("GET", path, query.encode(), b"", headers, host)
    finished = answer(node.api, node.api.endpoints["GET", path], request)
    return int(decoded(finished)["code"]) if finished.status == 200 else finished.status


def test_while_the_issuer_of_a_token_does_not_answer_its_requests_may_be_repeated(node: FakeNode) -> None:
    def session_of(token: str) -> Claims | None:
        raise IssuerUnavailable(token)

    node.logins.session_of = session_of
    shown: Any = {"authorization": f"Bearer {ANN}"}
    assert ask(node, LIST, "appID=101", **shown) == 1004
    route = Route("GET", "/own", Needs.PUSH_OR_USER, lambda _, call: call.reply(""), style=PROBLEM)
    request = HttpRequest("GET", "/own", b"", b"", shown, "192.0.2.1")
    finished = answer(node.api, node.api.bind(route), request)
    assert (finished.status, b'"issuer_unavailable"' in finished.body) == (503, True)
