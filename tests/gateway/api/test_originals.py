"""The HTTP API of the originals: pushes, who is online, kicks and the state; and what depends on the key.

Each route for each kind of principal is in ``tests/security/matrix.txt``.
"""

from typing import Any
from urllib.parse import quote, urlencode

import gevent
import msgspec
import pytest

from imserver.gateway.auth.principal import Needs
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.cluster.nodes import StateQuery
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import KeySettings, LimitSettings, TenantSettings
from imserver.gateway.dialects.cmd.api import LIST_PAGE
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.model import Event
from tests.gateway.api.fakes import (
    BAD_PARAMETER,
    FORM,
    JSON,
    LIMITED,
    NOT_SENT,
    OK,
    REPEATED,
    SENT,
    SYSTEM_ERROR,
    UNAUTHORIZED,
    FakeNode,
    decoded,
    multipart,
    with_keys,
)

ONE, ALL, BATCH = "/user/sendMessage", "/user/sendMessageAll", "/user/sendMessageBatch"
LIST, ONLINE, MANY, KICK = "/user/list", "/user/online", "/user/onlineBatch", "/user/kick"
STATE = "/system/state"
KEYS = with_keys(
    KeySettings("push-key", ("push",)),
    KeySettings("read-key", ("read",)),
    KeySettings("admin-key", ("admin",)),
    KeySettings("app-key", ("push", "read", "admin"), ("102",)),
)
ANN = "eyJ.ann.101"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode(default=["named"])


@pytest.fixture
def keyed() -> FakeNode:
    one = FakeNode(KEYS)
    one.session_tokens[ANN] = Claims("ann", "101", 2**40)
    return one


# --- pushes to one and to all -------------------------------------------------------------------------------


def form(**fields: str) -> bytes:
    return urlencode(fields).encode()


TO_HUANGDI = form(appID="101", userID="黄帝", message="x")
OTHER_APPS = ("", "0", "x", "1e2", " 101", "101 ", "１０１", "-101", "1" * 5000, "104", "999")
AS_JSON = b'{"APPID":%b,"userid":"\\u9ec4\\u5e1d","message":"x","more":[1,{}],"msgID":null}'


@pytest.mark.parametrize(
    ("body", "kind", "answer"),
    [
        *((form(appID=app, userID="黄帝", message="x"), FORM, SENT) for app in ("101", "+101", "0101")),
        *((form(appID=app, userID="黄帝", message="x"), FORM, NOT_SENT) for app in OTHER_APPS),
        (form(appId="101", USERID="黄帝", MsgId="1", Message="x"), FORM, SENT),
        (TO_HUANGDI + b"&" + form(userId="nobody", message="second"), FORM, SENT),
        *((form(appID="101", userID=user, message="x"), FORM, NOT_SENT) for user in ("", "nobody")),
        *((TO_HUANGDI, kind, SENT) for kind in ("", f"{FORM}; charset=UTF-8")),
        *((TO_HUANGDI, kind, BAD_PARAMETER) for kind in ("text/plain", "multipart/form-data")),
        (b"", "text/plain", NOT_SENT),
        (b"appID=101&message=x", FORM, NOT_SENT),
        (AS_JSON % b"101", JSON, SENT),
        (AS_JSON % b'"101"', "Application/JSON; charset=utf-8", SENT),
        (*multipart(("appID", "101"), ("userID", "黄帝"), ("message", "x"), files=(("f", b"\xff"),)), SENT),
    ],
)
def test_any_form_of_a_body_is_read(
    node: FakeNode, body: bytes, kind: str, answer: dict[str, object]
) -> None:
    assert decoded(node.call("POST", ONE, body, query=TO_HUANGDI.decode(), kind=kind)) == answer
    assert node.texts == ([("黄帝", "x")] if answer == SENT else [])


OF_WRONG_TYPE = (
    *({"userID": user} for user in (5, ["马远"], True)),
    *({"appID": app} for app in (101.0, True, -1, 2**32, [101])),
    *({"msgID": 1}, {"message": {}}),
)


@pytest.mark.parametrize("path", [ONE, ALL, BATCH])
def test_values_of_a_wrong_type_and_what_is_too_large_are_refused_with_1001(path: str) -> None:
    node = FakeNode(LIMITED)
    wrong = [{"appID": 101, "userID": "马远", **one} for one in OF_WRONG_TYPE]
    for document in (*wrong, ["马远"], b"{", b"", b'{"userID":"\xff"}'):
        assert node.post_json(path, document) == BAD_PARAMETER, document
    assert node.post(path, appID=101, userID="黄帝", x="x" * 1000) == BAD_PARAMETER
    if path != BATCH:
        assert node.post(path, appID=101, userID="黄帝", message="x" * 99) == BAD_PARAMETER, (
            "no outbox has it"
        )
    assert node.delivered == []
    if path != BATCH:
        assert node.post(path, appID=101, userID="黄帝", message="x" * 98) == SENT


def test_an_error_is_logged_and_answered_with_1004(node: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("the reason")

    node.on_delivery = fail
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == SYSTEM_ERROR
    assert "the reason" in caplog.text
    assert "Traceback" in caplog.text
    node.on_delivery = lambda: None
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == SENT


def test_a_message_names_its_user_as_sender_and_one_to_all_leaves_them_out(node: FakeNode) -> None:
    for path in (ONE, ALL):
        for user in ({"userID": ""}, {}):
            assert node.post(path, appID=101, **user, msgID="1", message="x") == NOT_SENT
    assert node.delivered == []
    assert node.post(ONE, appID=101, userID="马远", msgID="1", message="你好 <b>&") == SENT
    assert node.post(ALL, appID=101, userID="马远", msgID="2", message="x") == SENT
    one, others = Event("msg", "马远", "你好 <b>&", "1"), Event("msg", "马远", "x", "2")
    assert node.delivered == [("101", "马远", one), ("101", "黄帝", others)]
    assert node.metrics.pushes == {"101": 2}


def test_an_id_is_claimed_by_what_was_sent_on_any_path(node: FakeNode, keyed: FakeNode) -> None:
    """How ids are claimed and released: ``tests/gateway/push/test_idempotency.py``."""
    for _ in range(2):
        assert node.post(ONE, appID=101, userID="late", msgID="7") == NOT_SENT
    node.users["101"].append("late")
    assert node.post(ONE, appID=101, userID="late", msgID="7") == SENT
    for path, app in [(ONE, 101), (ALL, 101), (ONE, 102), (ALL, 999)]:
        assert node.post(path, appID=app, userID="late", msgID="7") == REPEATED
    assert len(node.delivered) == 1
    for app in (101, 102):  # outside demo mode it counts for each app by itself
        assert keyed.post(ONE, key="push-key", appID=app, userID="马远", message="x", msgID="1") == SENT


# --- many at once -------------------------------------------------------------------------------------------


def test_each_message_of_a_batch_has_a_result_in_its_order(node: FakeNode) -> None:
    messages = [
        {"userID": "马远", "msgID": "1", "message": "a"},
        {"userID": "nobody", "msgID": "2", "message": "b"},
        {"userID": "黄帝", "msgID": "1", "message": "c"},
        {"userID": "", "msgID": "3", "message": "d"},
        {"userId": "黄帝", "Message": "e", "color": "red"},
    ]
    document = {"appid": "101", "Messages": messages, "note": 1, "userIDs": None}
    body = decoded(node.call("POST", BATCH, msgspec.json.encode(document), kind=FORM))
    results = [
        {"userID": "马远", "sendResults": True},
        {"userID": "nobody", "sendResults": False},
        {"userID": "黄帝", "repeated": True},
        {"userID": "", "sendResults": False},
        {"userID": "黄帝", "sendResults": True},
    ]
    assert body == {**OK, "data": {"sendCount": 2, "results": results}}
    assert node.texts == [("马远", "a"), ("黄帝", "e")]
    assert node.delivered[0][2] == Event("msg", "马远", "a", "1")
    assert node.metrics.pushes == {"101": 2}


def test_one_message_goes_to_many_users(node: FakeNode) -> None:
    document = {"appID": 101, "userIDs": ["马远", "nobody", "黄帝"], "msgID": "1", "message": "x"}
    body = node.post_json(BATCH, document)
    assert body["data"]["sendCount"] == 2
    assert [row["sendResults"] for row in body["data"]["results"]] == [True, False, True]
    assert node.delivered[0] == ("101", "马远", Event("msg", "马远", "x", "1"))
    assert node.post_json(BATCH, document) == REPEATED
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == REPEATED


def test_a_batch_that_cannot_be_taken_whole_is_refused_with_1001() -> None:
    node = FakeNode(LIMITED)
    for wrong in (
        *({}, {"messages": [], "userIDs": []}, {"messages": {}}, {"messages": [{"userID": "马远"}] * 4}),
        *(
            {"messages": [{"userid": "马远"}, bad]}
            for bad in (5, {"userID": 5}, {"userid": "a", "message": 5})
        ),
        *({"userIDs": users} for users in ("马远", ["马远", 5], ["马远"] * 4)),
        {"userIDs": ["马远"], "message": "x" * 101},
    ):
        assert node.post_json(BATCH, {"appID": 101, **wrong}) == BAD_PARAMETER, wrong
    assert node.delivered == []
    messages = [{"userID": "黄帝", "message": "x" * size} for size in (101, 1)]
    rows = node.post_json(BATCH, {"appID": 101, "messages": messages})["data"]["results"]
    assert [row["sendResults"] for row in rows] == [False, True], "one that no outbox could hold fails alone"


@pytest.mark.parametrize("by", ["messages", "userIDs"])
def test_a_large_batch_lets_others_run_in_between(node: FakeNode, by: str) -> None:
    turns: list[int] = []

    def count() -> None:
        while True:
            turns.append(len(node.delivered))
            gevent.sleep(0)

    other = gevent.spawn(count)
    users = ["马远"] * 3000
    document = {"userIDs": users} if by == "userIDs" else {"messages": [{"userID": user} for user in users]}
    node.post_json(BATCH, {"appID": 101, **document})
    other.kill()
    assert len(node.delivered) == 3000
    assert any(0 < seen < 3000 for seen in turns)


# --- who is online ------------------------------------------------------------------------------------------


def test_parameters_of_a_get_come_from_the_query_only(node: FakeNode) -> None:
    for query in ("", "appID=", "appID=0", "appID=999", "appID=x", "appID=104", "userID=1"):
        empty = {**OK, "data": {"userCount": 0, "userList": []}}
        assert decoded(node.call("GET", LIST, query=query)) == empty
    assert decoded(node.call("GET", LIST, b"appID=101"))["data"]["userCount"] == 0
    assert decoded(node.call("GET", LIST, b"appID=102", query="appId=101"))["data"]["userCount"] == 2
    listed = node.call("GET", LIST, query="appID=101")
    assert node.call("HEAD", LIST, query="appID=101") == listed
    assert listed.body.decode().endswith('"data":{"userCount":2,"userList":["马远","黄帝"]}}')
    assert node.call("OPTIONS", ONE).status == 204


def test_a_large_app_is_listed_in_pages(node: FakeNode) -> None:
    names = [f"用户{number:06}" for number in range(LIST_PAGE * 5 // 2)]
    node.users["101"] = names[::-1]
    pages: list[Any] = [node.get(LIST, appID=101)["data"]]
    while "next" in pages[-1]:
        pages.append(node.get(LIST, appID=101, cursor=pages[-1]["next"])["data"])
        node.users["101"] = [*reversed(names), "a", "zz"]  # they are on no page: others are, whoever comes
    assert [len(page["userList"]) for page in pages] == [LIST_PAGE, LIST_PAGE, LIST_PAGE // 2]
    assert [name for page in pages for name in page["userList"]] == names
    node.users["101"] = names[:LIST_PAGE]
    assert list(node.get(LIST, appID=101)["data"]) == ["userCount", "userList"], "just one page"
    for cursor in ("*", "a", quote("马"), "_w"):
        assert decoded(node.call("GET", LIST, query=f"appID=101&cursor={cursor}")) == BAD_PARAMETER


@pytest.mark.parametrize(
    ("app", "user", "online"),
    [
        *(("101", user, online) for user, online in (("马远", True), ("named", False), ("", False))),
        *((app, "马远", False) for app in ("103", "999")),
        *((app, "黄帝", True) for app in ("0", "", "x")),
        *((app, "named", True) for app in ("", "default")),
        ("", "nobody", False),
    ],
)
def test_a_user_is_online_in_an_app_or_in_any(node: FakeNode, app: str, user: str, online: bool) -> None:
    assert node.get(ONLINE, appID=app, userID=user) == {**OK, "data": {"online": online, "userID": user}}


def test_many_users_are_looked_up_at_once(node: FakeNode) -> None:
    rows = [{"online": True, "userID": "马远"}, {"online": False, "userID": "x"}]
    expected = {**OK, "data": {"onlineCount": 1, "userList": rows}}
    assert node.post_json(MANY, {"appID": 102, "userIDs": ["马远", "x"]}) == expected
    assert node.post_json(MANY, {"appId": "102", "userids": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=102, userIDs=["马远", "x"]) == expected
    written = b"appID=102&userIds=%E9%A9%AC%E8%BF%9C&userIDs=x"
    assert decoded(node.call("POST", MANY, written, kind=FORM)) == expected
    assert node.post_json(MANY, {"userIDs": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=101) == {**OK, "data": {"onlineCount": 0, "userList": []}}
    assert node.post_json(MANY, {"userIDs": ["named", "马远", "x"]})["data"]["onlineCount"] == 2
    for wrong in ("马远", 5, ["马远", 5], {"a": 1}, ["a"] * 4):
        assert FakeNode(LIMITED).post_json(MANY, {"appID": 101, "userIDs": wrong}) == BAD_PARAMETER


# --- state, health and kicks --------------------------------------------------------------------------------


def test_the_state_of_all_nodes_is_that_of_each_with_its_lease(node: FakeNode) -> None:
    for more in ({}, {"isDebug": "false"}):
        assert node.get(STATE, **more)["data"] == {"managerInfo": {"clientsLen": 2}}
    debugged = {"managerInfo": {"clientsLen": 2, "clients": ["127.0.0.1:1"]}}
    assert node.get(STATE, isDebug="true")["data"] == debugged
    node.peers.others = [Lease("10.0.0.2:9001", 2, host="two", connections=5), Lease("10.0.0.3:9001", 3)]
    node.peers.answers = {"10.0.0.2:9001": {"state": {"managerInfo": {"clientsLen": 5}}}}
    data = node.get(STATE, cluster="true", isDebug="true")["data"]
    assert list(data["nodes"]) == ["10.0.0.1:9001", "10.0.0.2:9001", "10.0.0.3:9001"]
    own, other, silent = data["nodes"].values()
    assert own["managerInfo"] == debugged["managerInfo"]
    assert (other["managerInfo"], other["lease"]["connections"]) == ({"clientsLen": 5}, 5)
    assert list(silent) == ["lease"]
    assert not {"control", "data", "fingerprint"} & other["lease"].keys(), "what only nodes need"
    assert data["missingNodes"] == ["10.0.0.3:9001"]
    query = (["10.0.0.2:9001", "10.0.0.3:9001"], "state", msgspec.msgpack.encode(StateQuery(True, False)))
    assert node.peers.queries == [query]
    node.peers.others = [Lease("10.0.0.2:9001", 7), Lease("10.0.0.2:9001", 5)]
    assert node.overview.leases()["10.0.0.2:9001"].epoch == 7, "of two lives of a node the later one"


def test_health_is_always_fine_and_readiness_says_whether_the_node_can_do_its_work(node: FakeNode) -> None:
    assert node.call("GET", "/ready").status == 200
    node.is_ready = False
    assert node.call("GET", "/ready").status == 503
    answer = node.call("GET", "/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def kick(node: FakeNode, as_json: bool = False, **fields: Any) -> Any:
    whole = {"appID": 101, "userID": "马远", **fields}
    return node.post_json(KICK, whole) if as_json else node.post(KICK, **whole)


@pytest.mark.parametrize(
    ("as_json", "given"), [(False, {"banSeconds": "60"}), (False, {}), (True, {"banSeconds": 1.5})]
)
def test_a_kick_closes_the_connections_of_a_user_and_may_ban_for_a_time(
    node: FakeNode, as_json: bool, given: dict[str, Any]
) -> None:
    assert kick(node, as_json, **given)["data"] == {"kickResults": True, "kickCount": 1}
    nobody = {"kickResults": False, "kickCount": 0}
    assert kick(node, as_json, userID="nobody", **given)["data"] == nobody
    seconds = float(given.get("banSeconds", 0))
    kicked = [("101", "马远", seconds), ("101", "nobody", seconds)]
    for body in ("userID=马远", "appID=0&userID=马远", "appID=101", "appID=101&userID="):
        assert decoded(node.call("POST", KICK, body.encode()))["data"] == nobody
    assert node.kicked == kicked
    node.silent = ["192.0.2.1:9001"]
    assert kick(node, as_json, **given)["data"]["missingNodes"] == node.silent


@pytest.mark.parametrize(
    ("as_json", "seconds", "is_taken"),
    [
        *((False, seconds, True) for seconds in ("0.5", "", "31622400")),
        *((False, seconds, False) for seconds in ("x", "-1", "nan", "inf", "1e9", "31622401", "1" * 400)),
        *((True, seconds, False) for seconds in ("1", True)),
    ],
)
def test_a_ban_has_a_sensible_time(node: FakeNode, as_json: bool, seconds: object, is_taken: bool) -> None:
    assert (kick(node, as_json, banSeconds=seconds) != BAD_PARAMETER) is is_taken
    assert bool(node.kicked) is is_taken


# --- keys and users -----------------------------------------------------------------------------------------

TO_ALL = {"appID": 101, "userID": "马远", "message": "x"}


@pytest.mark.parametrize(
    ("header", "is_read"),
    [
        *((header, True) for header in ("Bearer push-key", "bearer push-key", "BEARER   push-key ")),
        *((header, False) for header in ("push-key", "Basic push-key", "Bearer", "Bearer ", "")),
        *((header, False) for header in ("Bearerpush-key", "Bearer push-key x")),
    ],
)
def test_the_word_bearer_is_read_in_any_letter_case(keyed: FakeNode, header: str, is_read: bool) -> None:
    scopes = keyed.authority.identify(Needs.PUSH, {"authorization": header}, "127.0.0.1").scopes
    assert ("push" in scopes) is is_read


def test_a_key_of_one_app_looks_into_that_app_only_and_keys_may_change(keyed: FakeNode) -> None:
    for user, key, online in (("马远", "app", True), ("黄帝", "app", False), ("黄帝", "read", True)):
        assert keyed.get(ONLINE, userID=user, key=f"{key}-key")["data"]["online"] is online
    for shown, key, allowed in (
        *(({}, "app", False), ({"isDebug": "true"}, "app", False), ({"detail": "true"}, "app", False)),
        *(({}, "read", True), ({"isDebug": "true"}, "read", False), ({"detail": "true"}, "read", True)),
        ({"isDebug": "true"}, "admin", True),
    ):
        for more in ({}, {"cluster": "true"}):
            answered = keyed.get(STATE, key=f"{key}-key", **shown, **more)
            assert (answered != UNAUTHORIZED) is allowed, (shown, key)
    changed = with_keys(KeySettings("new-key", ("push",)))
    keyed.keys.reload(changed)
    keyed.api.reload(changed)
    assert keyed.post(ONE, key="push-key", **TO_ALL) == UNAUTHORIZED
    assert keyed.post(ONE, key="new-key", **TO_ALL) == SENT


@pytest.mark.parametrize(("user", "by_page"), [("马远", True), ("ann", False)])
def test_a_user_lists_and_sends_to_all_in_their_app(keyed: FakeNode, user: str, by_page: bool) -> None:
    token = keyed.page_tokens.make("101", user) if by_page else ANN
    fields = {**TO_ALL, "userID": user}
    for changed in ({"appID": 102}, {"appID": ""}, {"userID": "黄帝"}, {"userID": ""}):
        assert keyed.post(ALL, key=token, **{**fields, **changed}, msgID="1") == UNAUTHORIZED
    for app in (102, 0):
        assert keyed.get(LIST, key=token, appID=app) == UNAUTHORIZED
    assert keyed.get(LIST, key=token, appID=101)["data"]["userCount"] == 2
    assert keyed.delivered == []
    assert keyed.post(ALL, key=token, **fields, msgID="1") == SENT, "the refused ones have not claimed the id"
    assert {event.sender for _, _, event in keyed.delivered} == {user}


def test_a_session_token_names_the_sender_and_is_worth_nothing_after_a_ban(keyed: FakeNode) -> None:
    assert keyed.post(ONE, key=ANN, **TO_ALL) == SENT
    assert keyed.post(ONE, key=ANN, **{**TO_ALL, "appID": 102}) == UNAUTHORIZED
    assert [(user, event.sender) for _, user, event in keyed.delivered] == [("马远", "ann")]
    keyed.banned.add(("101", "ann"))
    for path in (ONE, ALL):
        assert keyed.post(path, key=ANN, **{**TO_ALL, "userID": "ann"})["code"] == 1003
    assert keyed.get(LIST, key=ANN, appID=101)["code"] == 1003
    assert len(keyed.delivered) == 1

    def session_of(token: str) -> Claims | None:
        raise IssuerUnavailable(token)

    keyed.logins.session_of = session_of
    assert keyed.get(LIST, key=ANN, appID=101)["code"] == 1004, "it may be repeated"


def test_users_send_no_faster_than_over_one_connection() -> None:
    limits = LimitSettings(messages_per_second=0.001)
    node = FakeNode(with_keys(KeySettings("admin-key", ("admin",)), limits=limits))
    node.session_tokens[ANN] = Claims("ann", "101", 2**40)
    assert [node.post(ALL, key=ANN, **{**TO_ALL, "userID": "ann"})["code"] for _ in range(2)] == [200, 1004]


@pytest.mark.parametrize(("name", "can_be_named"), [("shop", True), ("系统", True), ("system:1", False)])
def test_an_app_id_may_be_the_name_of_an_app_of_this_dialect(name: str, can_be_named: bool) -> None:
    node = FakeNode(with_keys(KeySettings("push-key", ("push", "read")), apps={name: TenantSettings()}))
    node.users[name] = ["bob"]
    fields = {"appID": name, "userID": "bob", "message": "hi"}
    assert node.post(ONE, key="push-key", **fields) == (SENT if can_be_named else NOT_SENT)
    node.post_json(ONE, fields, key="push-key")
    assert [app for app, _, _ in node.delivered] == [name] * 2 * can_be_named
    assert node.get(LIST, key="push-key", appID=name)["data"]["userList"] == ["bob"] * can_be_named
    assert node.get(LIST, key="push-key", appID=f"no {name}")["data"]["userList"] == []
