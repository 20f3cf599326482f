"""Pushing: to one, to all, to many at once; repeats, limits, and whatever else may be in a body."""

import gevent
import pytest

from imserver.gateway.model import Event
from imserver.gateway.transport.http1 import HEADERS
from tests.gateway.api.fakes import (
    BAD_PARAMETER,
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


def test_the_answer_is_what_the_original_writes(node: FakeNode) -> None:
    answer = node.call("POST", ONE, "appID=101&userID=马远&msgID=1".encode())
    assert answer.body == b'{"code":200,"msg":"Success","data":{"sendResults":true}}'
    assert b"Content-Type: application/json; charset=utf-8\r\n" in HEADERS
    assert b"Access-Control-Allow-Origin: *\r\n" in HEADERS
    assert b"Access-Control-Allow-Credentials: true\r\n" in HEADERS
    assert b"Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE,UPDATE\r\n" in HEADERS
    assert HEADERS.endswith(b"\r\n")


@pytest.mark.parametrize("app_id", ["101", "+101", "0101"])
def test_an_app_is_named_by_its_number_however_it_is_written(node: FakeNode, app_id: str) -> None:
    assert node.post(ONE, appID=app_id, userID="黄帝", message="x") == SENT


@pytest.mark.parametrize(
    "app_id", ["", "0", "x", "1e2", " 101", "101 ", "１０１", "-101", "1" * 5000, "104", "999"]
)
def test_a_user_is_not_reached_in_another_app(node: FakeNode, app_id: str) -> None:
    assert node.post(ONE, appID=app_id, userID="黄帝", message="x") == NOT_SENT
    assert node.delivered == []


def test_both_spellings_of_the_parameters_are_accepted(node: FakeNode) -> None:
    assert node.post(ONE, appId=101, userId="马远", msgId="1", message="x") == SENT
    assert node.post(ONE, appid=101, USERID="马远", MsgId="1", message="x") == REPEATED


def test_the_first_of_repeated_parameters_counts(node: FakeNode) -> None:
    node.call("POST", ONE, "appID=101&userID=马远&userId=nobody&message=a&message=b".encode())
    assert node.texts == [("马远", "a")]


def test_a_user_who_is_not_online_is_not_reached(node: FakeNode) -> None:
    assert node.post(ONE, appID=101, userID="nobody", msgID="1", message="x") == NOT_SENT


@pytest.mark.parametrize("path", [ONE, ALL])
def test_an_empty_user_id_is_answered_with_false(node: FakeNode, path: str) -> None:
    assert node.post(path, appID=101, userID="", msgID="1", message="x") == NOT_SENT
    assert node.post(path, appID=101, msgID="1", message="x") == NOT_SENT
    assert node.delivered == []


def test_the_query_of_a_post_is_not_read(node: FakeNode) -> None:
    answer = node.call("POST", ONE, b"appID=101&message=x", query="userID=马远")
    assert decoded(answer) == NOT_SENT


def test_a_multipart_form_is_as_good(node: FakeNode) -> None:
    body, kind = multipart(("appID", "101"), ("userID", "马远"), ("message", "多"), files=(("f", b"\xff"),))
    assert decoded(node.call("POST", ONE, body, kind=kind)) == SENT
    assert node.texts == [("马远", "多")]


@pytest.mark.parametrize(
    "kind", [JSON, "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
@pytest.mark.parametrize("app_id", [b"101", b'"101"'])
def test_json_is_as_good(node: FakeNode, kind: str, app_id: bytes) -> None:
    body = b'{"APPID":%b,"userid":"\\u9a6c\\u8fdc","message":"x","more":[1,{}],"msgID":null}' % app_id
    assert decoded(node.call("POST", ONE, body, kind=kind)) == SENT


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded; charset=UTF-8"])
def test_a_form_is_the_default(node: FakeNode, kind: str) -> None:
    assert decoded(node.call("POST", ONE, "appID=101&userID=马远".encode(), kind=kind)) == SENT


@pytest.mark.parametrize(
    "document",
    [
        {"appID": 101, "userID": 5},
        {"appID": 101, "userID": ["马远"]},
        {"appID": 101, "userID": True},
        {"appID": 101.0, "userID": "马远"},
        {"appID": True, "userID": "马远"},
        {"appID": -1, "userID": "马远"},
        {"appID": 2**32, "userID": "马远"},
        {"appID": [101], "userID": "马远"},
        {"appID": 101, "userID": "马远", "msgID": 1},
        {"appID": 101, "userID": "马远", "message": {}},
        ["马远"],
        b"{",
        b"",
        b'{"userID":"\xff"}',
    ],
)
@pytest.mark.parametrize("path", [ONE, ALL, BATCH])
def test_values_of_a_wrong_type_are_refused_with_1001(node: FakeNode, path: str, document: object) -> None:
    assert node.post_json(path, document) == BAD_PARAMETER
    assert node.delivered == []


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data"])
def test_a_body_that_is_neither_form_nor_json_is_refused_with_1001(node: FakeNode, kind: str) -> None:
    assert decoded(node.call("POST", ONE, "appID=101&userID=马远".encode(), kind=kind)) == BAD_PARAMETER


def test_no_body_at_all_is_an_empty_form(node: FakeNode) -> None:
    assert decoded(node.call("POST", ONE, b"", kind="text/plain")) == NOT_SENT


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


def test_the_sender_of_a_message_to_all_need_not_be_online(node: FakeNode) -> None:
    assert node.post(ALL, appID=101, userID="nobody", msgID="1", message="x") == SENT
    assert len(node.delivered) == 2


def test_a_message_to_all_of_an_empty_app_is_sent(node: FakeNode) -> None:
    assert node.post(ALL, appID=104, userID="a", message="x") == SENT


# --- repeats --------------------------------------------------------------------------------------------


def test_an_accepted_message_id_is_not_accepted_again_on_any_path(node: FakeNode) -> None:
    assert node.post(ONE, appID=101, userID="马远", msgID="7") == SENT
    for path, app in [(ONE, 101), (ALL, 101), (ONE, 102), (ALL, 999)]:
        assert node.post(path, appID=app, userID="马远", msgID="7") == REPEATED
    assert len(node.delivered) == 1
    assert node.idempotency.repeats == 4


def test_a_message_id_is_released_when_no_user_was_reached(node: FakeNode) -> None:
    assert node.post(ONE, appID=101, userID="late", msgID="7") == NOT_SENT
    node.users["101"].append("late")
    assert node.post(ONE, appID=101, userID="late", msgID="7") == SENT


def test_an_empty_message_id_may_come_again_and_again(node: FakeNode) -> None:
    for _ in range(3):
        assert node.post(ONE, appID=101, userID="马远", msgID="") == SENT
        assert node.post(ALL, appID=101, userID="马远") == SENT


@pytest.mark.parametrize(("online", "second"), [(["a"], REPEATED), ([], NOT_SENT)])
def test_a_repeat_waits_for_the_outcome_of_the_first(
    node: FakeNode, online: list[str], second: dict[str, object]
) -> None:
    node.users["101"] = online
    delivering = gevent.event.Event()
    node.on_delivery = delivering.wait
    first, repeat = (gevent.spawn(node.post, ONE, appID=101, userID="a", msgID="7") for _ in range(2))
    gevent.sleep(0)
    gevent.sleep(0)
    assert not repeat.ready()
    delivering.set()
    gevent.joinall([first, repeat], timeout=60, raise_error=True)
    assert first.value == (SENT if online else NOT_SENT)
    assert repeat.value == second
    assert len(node.delivered) == len(online)


# --- many at once ---------------------------------------------------------------------------------------


def test_each_message_of_a_batch_has_a_result_in_its_order(node: FakeNode) -> None:
    messages = [
        {"userID": "马远", "msgID": "1", "message": "a"},
        {"userID": "nobody", "msgID": "2", "message": "b"},
        {"userID": "黄帝", "msgID": "1", "message": "c"},
        {"userID": "", "msgID": "3", "message": "d"},
        {"userID": "黄帝", "message": "e"},
    ]
    body = node.post_json(BATCH, {"appID": 101, "messages": messages})
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


def test_a_batch_may_be_written_in_any_spelling(node: FakeNode) -> None:
    message = {"userId": "马远", "MSGID": "1", "Message": "a", "color": "red"}
    body = node.post_json(BATCH, {"appid": "101", "Messages": [message, message], "note": 1, "userIDs": None})
    assert [row.get("sendResults") for row in body["data"]["results"]] == [True, None]
    assert node.delivered == [("101", "马远", Event("msg", "马远", "a", "1"))]


def test_a_batch_is_json_whatever_its_content_type_says(node: FakeNode) -> None:
    answer = node.call("POST", BATCH, '{"appID":101,"messages":[{"userID":"马远"}]}'.encode())
    assert decoded(answer)["data"]["sendCount"] == 1


def test_one_message_goes_to_many_users(node: FakeNode) -> None:
    document = {"appID": 101, "userIDs": ["马远", "nobody", "黄帝"], "msgID": "1", "message": "x"}
    body = node.post_json(BATCH, document)
    assert body["data"]["sendCount"] == 2
    assert [row["sendResults"] for row in body["data"]["results"]] == [True, False, True]
    assert node.delivered[0] == ("101", "马远", Event("msg", "马远", "x", "1"))
    assert node.post_json(BATCH, document) == REPEATED
    assert node.post(ONE, appID=101, userID="马远", msgID="1") == REPEATED


def test_the_message_id_of_many_is_released_when_no_user_was_reached(node: FakeNode) -> None:
    document = {"appID": 101, "userIDs": ["x", "y"], "msgID": "1", "message": "x"}
    assert node.post_json(BATCH, document)["data"]["sendCount"] == 0
    node.users["101"].append("x")
    assert node.post_json(BATCH, document)["data"]["sendCount"] == 1


@pytest.mark.parametrize(
    "document",
    [
        {"appID": 101},
        {"appID": 101, "messages": [], "userIDs": []},
        {"appID": 101, "messages": {}},
        {"appID": 101, "messages": [{"userID": "马远"}, 5]},
        {"appID": 101, "messages": [{"userID": "马远"}, {"userID": 5}]},
        {"appID": 101, "messages": [{"userid": "马远"}, {"userid": "马远", "message": 5}]},
        {"appID": 101, "userIDs": "马远"},
        {"appID": 101, "userIDs": ["马远", 5]},
        {"appID": 101, "userIDs": ["马远"] * 4},
        {"appID": 101, "messages": [{"userID": "马远"}] * 4},
        {"appID": 101, "userIDs": ["马远"], "message": "x" * 101},
    ],
)
def test_a_batch_that_cannot_be_taken_whole_is_refused_with_1001(document: object) -> None:
    node = FakeNode(LIMITED)
    assert node.post_json(BATCH, document) == BAD_PARAMETER
    assert node.delivered == []


def test_a_message_of_a_batch_that_no_outbox_could_hold_fails_alone() -> None:
    node = FakeNode(LIMITED)
    messages = [{"userID": "黄帝", "message": "x" * 101}, {"userID": "黄帝", "message": "x"}]
    body = node.post_json(BATCH, {"appID": 101, "messages": messages})
    assert [row["sendResults"] for row in body["data"]["results"]] == [False, True]


@pytest.mark.parametrize("form", ["messages", "userIDs"])
def test_a_large_batch_lets_others_run_in_between(node: FakeNode, form: str) -> None:
    turns: list[int] = []

    def count() -> None:
        while True:
            turns.append(len(node.delivered))
            gevent.sleep(0)

    other = gevent.spawn(count)
    users = ["马远"] * 3000
    document = {"userIDs": users} if form == "userIDs" else {"messages": [{"userID": user} for user in users]}
    node.post_json(BATCH, {"appID": 101, **document})
    other.kill()
    assert len(node.delivered) == 3000
    assert any(0 < seen < 3000 for seen in turns)
