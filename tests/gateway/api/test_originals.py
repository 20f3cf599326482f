"""The HTTP API of the originals: pushes, who is online, kicks and the state;
and what depends on the key.

Each route for each kind of principal is in ``tests/security/matrix.txt``, ids
of messages in ``tests/gateway/push/test_idempotency.py``.
"""

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import gevent
import msgspec
import pytest

from imserver.gateway.auth.principal import Needs
from imserver.gateway.cluster.nodes import StateQuery
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import (
    JwtSettings,
    KeySettings,
    LimitSettings,
    TenantSettings,
)
from imserver.gateway.dialects.cmd.api import LIST_PAGE
from imserver.gateway.sessions.sessions import ClosedSessions
from tests.conftest import StartServer
from tests.gateway.api.api_node import (
    BAD_PARAMETER,
    FORM,
    JSON,
    LIMITED,
    NOT_SENT,
    OK,
    REPEATED,
    SENT,
    UNAUTHORIZED,
    ApiNode,
    Sent,
    decoded,
    with_keys,
)
from tests.gateway.api.conftest import StartNode
from tests.gateway.core.login_harness import JWT, token_for
from tests.gateway.http.test_form import multipart
from tests.gateway.transport.harness import until
from tests.integration.raw import ask, request
from tests.support import HTTP_SERVERS, Server, eventually

ONE = "/user/sendMessage"
ALL = "/user/sendMessageAll"
BATCH = "/user/sendMessageBatch"
LIST = "/user/list"
ONLINE = "/user/online"
MANY = "/user/onlineBatch"
KICK = "/user/kick"
STATE = "/system/state"
KEYS = with_keys(
    KeySettings("push-key", ("push",)),
    KeySettings("read-key", ("read",)),
    KeySettings("admin-key", ("admin",)),
    KeySettings("app-key", ("push", "read", "admin"), ("102",)),
    apps={
        "101": TenantSettings(jwt=JWT, login_policy="newest"),
        "102": TenantSettings(open=True),
    },
)
ANN = token_for("ann")


@pytest.fixture
def keyed(start_node: StartNode) -> ApiNode:
    return start_node(KEYS)


# --- pushes to one and to all -------------------------------------------------


def form(**fields: str) -> bytes:
    return urlencode(fields).encode()


TO_HUANGDI = form(appID="101", userID="黄帝", message="x")
OTHER_APPS = (
    "",
    "0",
    "x",
    "1e2",
    " 101",
    "101 ",
    "１０１",
    "-101",
    "1" * 5000,
    "104",
    "999",
)
AS_JSON = (
    b'{"APPID":%b,"userid":"\\u9ec4\\u5e1d","message":"x","more":[1,{}],"msgID":null}'
)


@pytest.mark.parametrize(
    ("body", "kind", "answer"),
    [
        *(
            (form(appID=app, userID="黄帝", message="x"), FORM, SENT)
            for app in ("101", "+101", "0101")
        ),
        *(
            (form(appID=app, userID="黄帝", message="x"), FORM, NOT_SENT)
            for app in OTHER_APPS
        ),
        (form(appId="101", USERID="黄帝", MsgId="1", Message="x"), FORM, SENT),
        (TO_HUANGDI + b"&" + form(userId="nobody", message="second"), FORM, SENT),
        *(
            (form(appID="101", userID=user, message="x"), FORM, NOT_SENT)
            for user in ("", "nobody")
        ),
        *((TO_HUANGDI, kind, SENT) for kind in ("", f"{FORM}; charset=UTF-8")),
        *(
            (TO_HUANGDI, kind, BAD_PARAMETER)
            for kind in ("text/plain", "multipart/form-data")
        ),
        (b"", "text/plain", NOT_SENT),
        (b"appID=101&message=x", FORM, NOT_SENT),
        (AS_JSON % b"101", JSON, SENT),
        (AS_JSON % b'"101"', "Application/JSON; charset=utf-8", SENT),
        (
            *multipart(
                ("appID", "101"),
                ("userID", "黄帝"),
                ("message", "x"),
                files=(("f", b"\xff"),),
            ),
            SENT,
        ),
    ],
)
def test_any_form_of_a_body_is_read(
    node: ApiNode, body: bytes, kind: str, answer: dict[str, object]
) -> None:
    assert (
        decoded(node.request("POST", ONE, body, query=TO_HUANGDI.decode(), kind=kind))
        == answer
    )
    assert [(each.user, each.text) for each in node.sent()] == (
        [("黄帝", "x")] if answer == SENT else []
    )


OF_WRONG_TYPE = (
    *({"userID": user} for user in (5, ["马远"], True)),
    *({"appID": app} for app in (101.0, True, -1, 2**32, [101])),
    {"msgID": 1},
    {"message": {}},
)


@pytest.mark.parametrize("path", [ONE, ALL, BATCH])
def test_a_wrong_type_and_what_is_too_large_are_refused_with_1001(
    start_node: StartNode, path: str
) -> None:
    node = start_node(LIMITED)
    wrong = [{"appID": 101, "userID": "马远", **one} for one in OF_WRONG_TYPE]
    for document in (*wrong, ["马远"], b"{", b"", b'{"userID":"\xff"}'):
        assert node.post_json(path, document) == BAD_PARAMETER, document
    assert node.post(path, appID=101, userID="黄帝", x="x" * 1000) == BAD_PARAMETER
    if path != BATCH:
        assert (
            node.post(path, appID=101, userID="黄帝", message="x" * 99) == BAD_PARAMETER
        ), "no outbox has it"
        assert node.sent() == []
        assert node.post(path, appID=101, userID="黄帝", message="x" * 98) == SENT


def test_a_message_names_its_user_as_sender_and_one_to_all_leaves_them_out(
    node: ApiNode,
) -> None:
    for path in (ONE, ALL):
        for user in ({"userID": ""}, {}):
            assert (
                node.post(path, appID=101, **user, msgID="1", message="x") == NOT_SENT
            )
    assert node.sent() == []
    assert (
        node.post(ONE, appID=101, userID="马远", msgID="1", message="你好 <b>&") == SENT
    )
    assert node.post(ALL, appID=101, userID="马远", msgID="2", message="x") == SENT
    one = Sent("101", "马远", "马远", "你好 <b>&", "1")
    others = Sent("101", "黄帝", "马远", "x", "2")
    assert node.sent() == [one, others]
    assert node.core.metrics.pushes == {"101": 2}


def test_an_id_is_claimed_by_what_was_sent_on_any_path(
    node: ApiNode, keyed: ApiNode
) -> None:
    for _ in range(2):
        assert node.post(ONE, appID=101, userID="late", msgID="7") == NOT_SENT
    node.begin("101", "late")
    assert node.post(ONE, appID=101, userID="late", msgID="7") == SENT
    for path, app in [(ONE, 101), (ALL, 101), (ONE, 102), (ALL, 999)]:
        assert node.post(path, appID=app, userID="late", msgID="7") == REPEATED
    assert len(node.sent()) == 1
    for app in (101, 102):  # outside demo mode it counts for each app by itself
        assert (
            keyed.post(
                ONE, key="push-key", appID=app, userID="马远", message="x", msgID="1"
            )
            == SENT
        )


# --- many at once -------------------------------------------------------------


def test_each_message_of_a_batch_has_a_result_in_its_order(node: ApiNode) -> None:
    messages = [
        {"userID": "马远", "msgID": "1", "message": "a"},
        {"userID": "nobody", "msgID": "2", "message": "b"},
        {"userID": "黄帝", "msgID": "1", "message": "c"},
        {"userID": "", "msgID": "3", "message": "d"},
        {"userId": "黄帝", "Message": "e", "color": "red"},
    ]
    document = {"appid": "101", "Messages": messages, "note": 1, "userIDs": None}
    body = decoded(
        node.request("POST", BATCH, msgspec.json.encode(document), kind=FORM)
    )
    results = [
        {"userID": "马远", "sendResults": True},
        {"userID": "nobody", "sendResults": False},
        {"userID": "黄帝", "repeated": True},
        {"userID": "", "sendResults": False},
        {"userID": "黄帝", "sendResults": True},
    ]
    assert body == {**OK, "data": {"sendCount": 2, "results": results}}
    first, second = node.sent()
    assert first == Sent("101", "马远", "马远", "a", "1")
    assert second[:4] == ("101", "黄帝", "黄帝", "e")
    assert node.core.metrics.pushes == {"101": 2}


def test_one_message_goes_to_many_users(node: ApiNode) -> None:
    document = {
        "appID": 101,
        "userIDs": ["马远", "nobody", "黄帝"],
        "msgID": "1",
        "message": "x",
    }
    body = node.post_json(BATCH, document)
    assert body["data"]["sendCount"] == 2
    assert [row["sendResults"] for row in body["data"]["results"]] == [
        True,
        False,
        True,
    ]
    assert node.sent()[0] == Sent("101", "马远", "马远", "x", "1")
    assert node.post_json(BATCH, document) == REPEATED
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == REPEATED


def test_a_batch_that_cannot_be_taken_whole_is_refused_with_1001(
    start_node: StartNode,
) -> None:
    node = start_node(LIMITED)
    for wrong in (
        {},
        {"messages": [], "userIDs": []},
        {"messages": {}},
        {"messages": [{"userID": "马远"}] * 4},
        *(
            {"messages": [{"userid": "马远"}, bad]}
            for bad in (5, {"userID": 5}, {"userid": "a", "message": 5})
        ),
        *({"userIDs": users} for users in ("马远", ["马远", 5], ["马远"] * 4)),
        {"userIDs": ["马远"], "message": "x" * 101},
    ):
        assert node.post_json(BATCH, {"appID": 101, **wrong}) == BAD_PARAMETER, wrong
    assert node.sent() == []
    messages = [{"userID": "黄帝", "message": "x" * size} for size in (101, 1)]
    rows = node.post_json(BATCH, {"appID": 101, "messages": messages})["data"][
        "results"
    ]
    assert [row["sendResults"] for row in rows] == [False, True], (
        "one that no outbox could hold fails alone"
    )


@pytest.mark.parametrize("by", ["messages", "userIDs"])
def test_a_large_batch_lets_others_run_in_between(node: ApiNode, by: str) -> None:
    turns: list[int] = []

    def count() -> None:
        while True:
            turns.append(len(node.clients["101", "马远"].payloads()))
            gevent.sleep(0)

    other = gevent.spawn(count)
    users = ["马远"] * 3000
    document = (
        {"userIDs": users}
        if by == "userIDs"
        else {"messages": [{"userID": user} for user in users]}
    )
    node.post_json(BATCH, {"appID": 101, **document})
    other.kill()
    until(lambda: len(node.sent()) == 3000)
    assert any(0 < seen < 3000 for seen in turns)


# --- who is online ------------------------------------------------------------


def test_parameters_of_a_get_come_from_the_query_only(node: ApiNode) -> None:
    for query in (
        "",
        "appID=",
        "appID=0",
        "appID=999",
        "appID=x",
        "appID=104",
        "userID=1",
    ):
        empty = {**OK, "data": {"userCount": 0, "userList": []}}
        assert decoded(node.request("GET", LIST, query=query)) == empty
    assert decoded(node.request("GET", LIST, b"appID=101"))["data"]["userCount"] == 0
    assert (
        decoded(node.request("GET", LIST, b"appID=102", query="appId=101"))["data"][
            "userCount"
        ]
        == 2
    )
    listed = node.request("GET", LIST, query="appID=101")
    assert node.request("HEAD", LIST, query="appID=101") == listed
    assert listed.body.decode().endswith(
        '"data":{"userCount":2,"userList":["马远","黄帝"]}}'
    )
    assert node.request("OPTIONS", ONE).status == 204


def test_a_large_app_is_listed_in_pages(node: ApiNode) -> None:
    names = [f"用户{number:06}" for number in range(LIST_PAGE * 5 // 2)]
    users = node.core.hub.apps["101"].users
    (connection, _) = users.values()

    def come(*names: str) -> None:
        users.clear()
        users.update(dict.fromkeys(names, connection))

    come(*names[::-1])
    pages: list[Any] = [node.get(LIST, appID=101)["data"]]
    while "next" in pages[-1]:
        pages.append(node.get(LIST, appID=101, cursor=pages[-1]["next"])["data"])
        # they are on no page: others are, whoever comes
        come(*reversed(names), "a", "zz")
    assert [len(page["userList"]) for page in pages] == [
        LIST_PAGE,
        LIST_PAGE,
        LIST_PAGE // 2,
    ]
    assert [name for page in pages for name in page["userList"]] == names
    come(*names[:LIST_PAGE])
    assert list(node.get(LIST, appID=101)["data"]) == ["userCount", "userList"], (
        "just one page"
    )
    for cursor in ("*", "a", quote("马"), "_w"):
        assert (
            decoded(node.request("GET", LIST, query=f"appID=101&cursor={cursor}"))
            == BAD_PARAMETER
        )
    users.clear()


@pytest.mark.parametrize(
    ("app", "user", "online"),
    [
        *(
            ("101", user, online)
            for user, online in (("马远", True), ("named", False), ("", False))
        ),
        *((app, "马远", False) for app in ("103", "999")),
        *((app, "黄帝", True) for app in ("0", "", "x")),
        *((app, "named", True) for app in ("", "default")),
        ("", "nobody", False),
    ],
)
def test_a_user_is_online_in_an_app_or_in_any(
    node: ApiNode, app: str, user: str, online: bool
) -> None:
    assert node.get(ONLINE, appID=app, userID=user) == {
        **OK,
        "data": {"online": online, "userID": user},
    }


def test_many_users_are_looked_up_at_once(node: ApiNode, start_node: StartNode) -> None:
    rows = [{"online": True, "userID": "马远"}, {"online": False, "userID": "x"}]
    expected = {**OK, "data": {"onlineCount": 1, "userList": rows}}
    assert node.post_json(MANY, {"appID": 102, "userIDs": ["马远", "x"]}) == expected
    assert node.post_json(MANY, {"appId": "102", "userids": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=102, userIDs=["马远", "x"]) == expected
    written = b"appID=102&userIds=%E9%A9%AC%E8%BF%9C&userIDs=x"
    assert decoded(node.request("POST", MANY, written, kind=FORM)) == expected
    assert node.post_json(MANY, {"userIDs": ["马远", "x"]}) == expected
    assert node.post(MANY, appID=101) == {
        **OK,
        "data": {"onlineCount": 0, "userList": []},
    }
    assert (
        node.post_json(MANY, {"userIDs": ["named", "马远", "x"]})["data"]["onlineCount"]
        == 2
    )
    limited = start_node(LIMITED)
    for wrong in ("马远", 5, ["马远", 5], {"a": 1}, ["a"] * 4):
        assert (
            limited.post_json(MANY, {"appID": 101, "userIDs": wrong}) == BAD_PARAMETER
        )


# --- state, health and kicks --------------------------------------------------


def test_the_state_of_all_nodes_is_that_of_each_with_its_lease(node: ApiNode) -> None:
    for debug, more in (
        (False, {}),
        (False, {"isDebug": "false"}),
        (True, {"isDebug": "true"}),
    ):
        state = node.get(STATE, **more)["data"]["managerInfo"]
        assert (state["clientsLen"], "clients" in state) == (4, debug)
    others = node.meet()
    others.others = [
        Lease("10.0.0.2:9001", 2, host="two", connections=5),
        Lease("10.0.0.3:9001", 3),
    ]
    others.answers = {"10.0.0.2:9001": {"state": {"managerInfo": {"clientsLen": 5}}}}
    data = node.get(STATE, cluster="true", isDebug="true")["data"]
    assert list(data["nodes"]) == ["10.0.0.1:9001", "10.0.0.2:9001", "10.0.0.3:9001"]
    own, other, silent = data["nodes"].values()
    assert own["managerInfo"] == state
    assert (other["managerInfo"], other["lease"]["connections"]) == (
        {"clientsLen": 5},
        5,
    )
    assert list(silent) == ["lease"]
    assert not {"control", "data", "fingerprint"} & other["lease"].keys(), (
        "what only nodes need"
    )
    assert data["missingNodes"] == ["10.0.0.3:9001"]
    query = (
        ["10.0.0.2:9001", "10.0.0.3:9001"],
        "state",
        msgspec.msgpack.encode(StateQuery(True, False)),
    )
    assert others.queries == [query]
    others.others = [Lease("10.0.0.2:9001", 7), Lease("10.0.0.2:9001", 5)]
    assert node.core.overview.leases()["10.0.0.2:9001"].epoch == 7, (
        "of two lives of a node the later one"
    )


def test_health_is_always_fine_and_readiness_says_whether_the_node_can_do_its_work(
    node: ApiNode,
) -> None:
    assert node.request("GET", "/ready").status == 200
    node.core.node.life = "starts"
    assert node.request("GET", "/ready").status == 503
    answer = node.request("GET", "/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def kick(node: ApiNode, as_json: bool = False, **fields: Any) -> Any:
    whole = {"appID": 101, "userID": "马远", **fields}
    return node.post_json(KICK, whole) if as_json else node.post(KICK, **whole)


@pytest.mark.parametrize(
    ("as_json", "given"),
    [(False, {"banSeconds": "60"}), (False, {}), (True, {"banSeconds": 1.5})],
)
def test_a_kick_closes_connections_and_may_ban(
    node: ApiNode, as_json: bool, given: dict[str, Any]
) -> None:
    nobody = {"kickResults": False, "kickCount": 0}
    for body in (
        "userID=马远",
        "appID=0&userID=马远",
        "appID=101",
        "appID=101&userID=",
    ):
        assert decoded(node.request("POST", KICK, body.encode()))["data"] == nobody
    assert kick(node, as_json, **given)["data"] == {"kickResults": True, "kickCount": 1}
    assert node.clients["101", "马远"].close_code() == (4503 if given else 4502)
    assert kick(node, as_json, **given)["data"] == nobody, "nobody is there"
    sessions = node.core.sessions
    found = ClosedSessions([0], ("10.0.0.2:9001",))
    ban = sessions.ban_of("101", "马远")
    seconds = float(given.get("banSeconds", 0))
    assert (ban.seconds if ban else 0) == pytest.approx(seconds, abs=1)
    node.core.sessions = SimpleNamespace(close=lambda *_, **__: found)
    assert kick(node, as_json, **given)["data"]["missingNodes"] == ["10.0.0.2:9001"]
    node.core.sessions = sessions


@pytest.mark.parametrize(
    ("as_json", "seconds", "is_taken"),
    [
        *((False, seconds, True) for seconds in ("0.5", "", "31622400")),
        *(
            (False, seconds, False)
            for seconds in ("x", "-1", "nan", "inf", "1e9", "31622401", "1" * 400)
        ),
        *((True, seconds, False) for seconds in ("1", True)),
    ],
)
def test_a_ban_has_a_sensible_time(
    node: ApiNode, as_json: bool, seconds: object, is_taken: bool
) -> None:
    assert (kick(node, as_json, banSeconds=seconds) != BAD_PARAMETER) is is_taken
    assert node.core.hub.is_online("101", "马远") is not is_taken


# --- keys and users -----------------------------------------------------------

TO_ALL = {"appID": 101, "userID": "马远", "message": "x"}


@pytest.mark.parametrize(
    ("header", "is_read"),
    [
        *(
            (header, True)
            for header in ("Bearer push-key", "bearer push-key", "BEARER   push-key ")
        ),
        *(
            (header, False)
            for header in ("push-key", "Basic push-key", "Bearer", "Bearer ", "")
        ),
        *((header, False) for header in ("Bearerpush-key", "Bearer push-key x")),
    ],
)
def test_the_word_bearer_is_read_in_any_letter_case(
    keyed: ApiNode, header: str, is_read: bool
) -> None:
    scopes = keyed.core.authority.identify(
        Needs.PUSH, {"authorization": header}, "127.0.0.1"
    ).scopes
    assert ("push" in scopes) is is_read


def test_a_key_of_one_app_looks_into_that_app_only_and_keys_may_change(
    keyed: ApiNode,
) -> None:
    for user, key, online in (
        ("马远", "app", True),
        ("黄帝", "app", False),
        ("黄帝", "read", True),
    ):
        assert (
            keyed.get(ONLINE, userID=user, key=f"{key}-key")["data"]["online"] is online
        )
    for shown, key, allowed in (
        ({}, "app", False),
        ({"isDebug": "true"}, "app", False),
        ({"detail": "true"}, "app", False),
        ({}, "read", True),
        ({"isDebug": "true"}, "read", False),
        ({"detail": "true"}, "read", True),
        ({"isDebug": "true"}, "admin", True),
    ):
        for more in ({}, {"cluster": "true"}):
            answered = keyed.get(STATE, key=f"{key}-key", **shown, **more)
            assert (answered != UNAUTHORIZED) is allowed, (shown, key)
    changed = with_keys(KeySettings("new-key", ("push",)))
    keyed.core.keys.reload(changed)
    keyed.api.reload(changed)
    assert keyed.post(ONE, key="push-key", **TO_ALL) == UNAUTHORIZED
    assert keyed.post(ONE, key="new-key", **TO_ALL) == SENT


@pytest.mark.parametrize(
    ("app", "user"), [(102, "马远"), (101, "ann")], ids=["of a page", "with a session"]
)
def test_a_user_lists_and_sends_to_all_of_their_app_as_themselves(
    keyed: ApiNode, app: int, user: str
) -> None:
    token = ANN if user == "ann" else keyed.page(str(app), user)
    fields = {"appID": app, "userID": user, "message": "x"}
    for changed in (
        {"appID": 203 - app},
        {"appID": ""},
        {"userID": "黄帝"},
        {"userID": ""},
    ):
        assert (
            keyed.post(ALL, key=token, **{**fields, **changed}, msgID="1")
            == UNAUTHORIZED
        )
    for other in (203 - app, 0):
        assert keyed.get(LIST, key=token, appID=other) == UNAUTHORIZED
    assert keyed.get(LIST, key=token, appID=app)["data"]["userCount"] == 103 - app
    keyed.begin(str(app), "zoe")
    assert keyed.sent() == []
    assert keyed.post(ALL, key=token, **fields, msgID="1") == SENT, (
        "the refused ones have not claimed the id"
    )
    assert {each.sender for each in keyed.sent()} == {user}


def test_a_session_token_names_the_sender_and_is_worth_nothing_after_a_ban(
    keyed: ApiNode,
) -> None:
    assert keyed.post(ONE, key=ANN, **TO_ALL) == SENT
    assert keyed.post(ONE, key=ANN, **{**TO_ALL, "appID": 102}) == UNAUTHORIZED
    assert [(each.user, each.sender) for each in keyed.sent()] == [("马远", "ann")]
    keyed.core.sessions.ban("101", "ann", 60)
    for path in (ONE, ALL):
        assert keyed.post(path, key=ANN, **{**TO_ALL, "userID": "ann"})["code"] == 1003
    assert keyed.get(LIST, key=ANN, appID=101)["code"] == 1003
    assert len(keyed.sent()) == 1


def test_a_token_of_an_issuer_that_is_away_may_be_repeated(
    start_node: StartNode,
) -> None:
    rows = (JwtSettings(issuer="https://127.0.0.1:9", audience="shop"),)
    node = start_node(
        with_keys(KeySettings("key", ("push",)), apps={"101": TenantSettings(jwt=rows)})
    )
    assert (
        node.get(LIST, key=token_for("ann", iss="https://127.0.0.1:9"), appID=101)[
            "code"
        ]
        == 1004
    )


def test_users_send_no_faster_than_over_one_connection(start_node: StartNode) -> None:
    node = start_node(
        msgspec.structs.replace(KEYS, limits=LimitSettings(messages_per_second=0.001))
    )
    assert [
        node.post(ALL, key=ANN, **{**TO_ALL, "userID": "ann"})["code"] for _ in range(2)
    ] == [200, 1004]


@pytest.mark.parametrize(
    ("name", "can_be_named"), [("shop", True), ("系统", True), ("system:1", False)]
)
def test_an_app_id_may_be_the_name_of_an_app(
    start_node: StartNode, name: str, can_be_named: bool
) -> None:
    node = start_node(
        with_keys(
            KeySettings("push-key", ("push", "read")), apps={name: TenantSettings()}
        )
    )
    node.begin(name, "bob")
    fields = {"appID": name, "userID": "bob", "message": "hi"}
    assert node.post(ONE, key="push-key", **fields) == (
        SENT if can_be_named else NOT_SENT
    )
    node.post_json(ONE, fields, key="push-key")
    assert [each.app for each in node.sent()] == [name] * 2 * can_be_named
    assert (
        node.get(LIST, key="push-key", appID=name)["data"]["userList"]
        == ["bob"] * can_be_named
    )
    assert node.get(LIST, key="push-key", appID=f"no {name}")["data"]["userList"] == []


def test_the_websocket_port_answers_the_api_and_health_but_no_pages(
    server: Server,
) -> None:
    assert ask(server.ws, request("/health")).status == 200
    assert ask(server.ws, request("/user/list?appID=101")).status == 200
    assert ask(server.ws, request("/system/state")).status == 200
    for path in ("/", "/home/index", "/status", "/static/x", "/home/token"):
        answer = ask(server.ws, request(path))
        assert (answer.status, answer.json["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_demo_mode_warns_of_a_request_from_elsewhere(
    start_server: StartServer, http_server: str
) -> None:
    server = start_server(http_server=http_server)
    ask(server.http, request("/user/list"))
    ask(server.http, request("/nosuch"))
    assert "DEMO MODE" not in server.log_text
    for _ in range(2):
        ask(
            server.http,
            request("/user/list", headers=[("X-Forwarded-For", "203.0.113.5")]),
        )
    eventually(lambda: "DEMO MODE" in server.log_text)
    assert server.log_text.count("DEMO MODE") == 1
    assert json.loads(server.get("/user/list")[1])["code"] == 200
