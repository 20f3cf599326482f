"""Pushing: to one, to all, to many at once; repeats, limits, and whatever else may be in a body."""

from urllib.parse import urlencode

import gevent
import msgspec
import pytest

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
    FakeNode,
    decoded,
    multipart,
)

ONE = "/user/sendMessage"
ALL = "/user/sendMessageAll"
BATCH = "/user/sendMessageBatch"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


# --- to one ---------------------------------------------------------------------------------------------


def test_a_message_reaches_its_user_and_names_them_as_sender(node: FakeNode) -> None:
    assert node.post(ONE, appID=101, userID="马远", msgID="1", message="你好 <b>&") == SENT
    assert node.delivered == [("101", "马远", Event("msg", "马远", "你好 <b>&", "1"))]
    assert node.metrics.pushes == {"101": 1}


def form(**fields: str) -> bytes:
    return urlencode(fields).encode()


TO_HUANGDI = form(appID="101", userID="黄帝", message="x")
OTHER_APPS = ("", "0", "x", "1e2", " 101", "101 ", "１０１", "-101", "1" * 5000, "104", "999")


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
        *(
            (
                b'{"APPID":%b,"userid":"\\u9ec4\\u5e1d","message":"x","more":[1,{}],"msgID":null}' % app,
                kind,
                SENT,
            )
            for app, kind in ((b"101", JSON), (b'"101"', "Application/JSON; charset=utf-8"))
        ),
        (*multipart(("appID", "101"), ("userID", "黄帝"), ("message", "x"), files=(("f", b"\xff"),)), SENT),
    ],
)
def test_one_user_is_reached_by_any_form_of_a_body(
    node: FakeNode, body: bytes, kind: str, answer: dict[str, object]
) -> None:
    assert decoded(node.call("POST", ONE, body, query=TO_HUANGDI.decode(), kind=kind)) == answer
    assert node.texts == ([("黄帝", "x")] if answer == SENT else [])


OF_WRONG_TYPE = (
    *({"userID": user} for user in (5, ["马远"], True)),
    *({"appID": app} for app in (101.0, True, -1, 2**32, [101])),
    *({"msgID": 1}, {"message": {}}),
)


@pytest.mark.parametrize(
    "document",
    [
        *({"appID": 101, "userID": "马远", **wrong} for wrong in OF_WRONG_TYPE),
        *(["马远"], b"{", b"", b'{"userID":"\xff"}'),
    ],
)
@pytest.mark.parametrize("path", [ONE, ALL, BATCH])
def test_values_of_a_wrong_type_are_refused_with_1001(node: FakeNode, path: str, document: object) -> None:
    assert node.post_json(path, document) == BAD_PARAMETER
    assert node.delivered == []


def test_a_body_over_the_limit_is_refused_with_1001() -> None:
    node = FakeNode(LIMITED)
    assert node.post(ONE, appID=101, userID="黄帝", x="x" * 1000) == BAD_PARAMETER


@pytest.mark.parametrize("path", [ONE, ALL])
def test_a_message_that_no_outbox_could_hold_is_refused_with_1001(path: str) -> None:
    node = FakeNode(LIMITED)
    assert node.post(path, appID=101, userID="黄帝", message="x" * 98) == SENT
    assert node.post(path, appID=101, userID="黄帝", message="x" * 99) == BAD_PARAMETER


def test_an_error_inside_is_logged_and_answered_with_1004(
    node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("the reason")

    node.on_delivery = fail
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == SYSTEM_ERROR
    assert "the reason" in caplog.text
    assert "Traceback" in caplog.text
    node.on_delivery = lambda: None
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == SENT


# --- to all ---------------------------------------------------------------------------------------------


def test_a_message_to_all_leaves_out_its_sender(node: FakeNode) -> None:
    assert node.post(ALL, appID=101, userID="马远", msgID="1", message="x") == SENT
    assert node.delivered == [("101", "黄帝", Event("msg", "马远", "x", "1"))]


@pytest.mark.parametrize("path", [ONE, ALL])
def test_without_a_user_nothing_is_sent(node: FakeNode, path: str) -> None:
    for user in ({"userID": ""}, {}):
        assert node.post(path, appID=101, **user, msgID="1", message="x") == NOT_SENT
    assert node.delivered == []


def test_an_id_is_claimed_by_what_was_sent_on_any_path(node: FakeNode) -> None:
    """How ids are claimed and released: ``tests/gateway/push/test_idempotency.py``."""
    for _ in range(2):
        assert node.post(ONE, appID=101, userID="late", msgID="7") == NOT_SENT
    node.users["101"].append("late")
    assert node.post(ONE, appID=101, userID="late", msgID="7") == SENT
    for path, app in [(ONE, 101), (ALL, 101), (ONE, 102), (ALL, 999)]:
        assert node.post(path, appID=app, userID="late", msgID="7") == REPEATED
    assert len(node.delivered) == 1


# --- many at once ---------------------------------------------------------------------------------------


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
    assert body == {
        **OK,
        "data": {
            "sendCount": 2,
            "results": [
                {"userID": "马远", "sendResults": True},
                {"userID": "nobody", "sendResults": False},
                {"userID": "黄帝", "repeated": True},
                {"userID": "", "sendResults": False},
                {"userID": "黄帝", "sendResults": True},
            ],
        },
    }
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


@pytest.mark.parametrize(
    "wrong",
    [
        *({}, {"messages": [], "userIDs": []}, {"messages": {}}),
        *(
            {"messages": [{"userid": "马远"}, bad]}
            for bad in (5, {"userID": 5}, {"userid": "a", "message": 5})
        ),
        *({"userIDs": users} for users in ("马远", ["马远", 5], ["马远"] * 4)),
        {"messages": [{"userID": "马远"}] * 4},
        {"userIDs": ["马远"], "message": "x" * 101},
    ],
)
def test_a_batch_that_cannot_be_taken_whole_is_refused_with_1001(wrong: dict[str, object]) -> None:
    node = FakeNode(LIMITED)
    assert node.post_json(BATCH, {"appID": 101, **wrong}) == BAD_PARAMETER
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
