"""The cmd dialect frame by frame: what is read, what is refused and how, and the exact bytes of answers."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdDialect
from imserver.gateway.model import (
    BadFrame,
    ChannelPart,
    Command,
    Event,
    Heartbeat,
    Login,
    Ping,
    Reply,
    Request,
    Signal,
    StreamPart,
)

cmd = CmdDialect()
relaxed = settings(deadline=None)

NO_DATA = object()
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
letters = st.lists(st.booleans(), min_size=40, max_size=40)


def decode(value: Any) -> Request:
    return cmd.decode(json.dumps(value).encode())


def login(data: Any = NO_DATA) -> Command | int:
    """The command of a login with this data, or the code of its refusal."""
    frame = {"seq": "1", "cmd": "login"} | ({} if data is NO_DATA else {"data": data})
    request = decode(frame)
    return request.command or request.code


def is_bad(payload: bytes | str) -> bool:
    """Whether a frame is no request, answered by the bare text."""
    try:
        cmd.decode(payload.encode() if isinstance(payload, str) else payload)
    except BadFrame as bad:
        return bad.reply == BadFrame.TEXT == "数据不合法".encode()
    return False


def respelled(key: str, capitals: list[bool]) -> str:
    return "".join(c.upper() if big else c.lower() for c, big in zip(key, capitals, strict=False))


# --- frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        "",
        " ",
        "null",
        "[]",
        '"login"',
        "1",
        "true",
        "{",
        "{}}",
        '{"seq":1,"cmd":"ping"}',
        '{"seq":"1","cmd":1}',
        '{"seq":["1"],"cmd":"ping"}',
        '{"seq":"1","cmd":{}}',
        '{"seq":"1" "cmd":"ping"}',
        '{"seq":"1","cmd":"ping"} x',
        '{"seq":"1","cmd":"ping","data":}',
        '{"seq":"1","cmd":"ping","data":NaN}',
        '{"seq":"1","cmd":"ping","data":Infinity}',
        '{"seq":"1","cmd":"ping","extra":NaN}',
        "{'seq':'1'}",
        '\ufeff{"seq":"1","cmd":"ping"}',
    ],
)
def test_an_unreadable_request_is_answered_by_the_bare_text(payload: str) -> None:
    assert is_bad(payload)


def test_bytes_that_are_no_utf_8_are_no_request() -> None:
    assert is_bad(b'{"seq":"\xff","cmd":"ping"}')
    assert is_bad('{"seq":"1","cmd":"ping"}'.encode("utf-16"))


@pytest.mark.parametrize(
    ("frame", "seq", "name"),
    [
        ({}, "", ""),
        ({"seq": None, "cmd": None, "data": None}, "", ""),
        ({"seq": "1"}, "1", ""),
        ({"cmd": "Ping"}, "", "Ping"),
        ({"seq": "7", "cmd": "nonsense", "data": {"a": [1]}}, "7", "nonsense"),
        ({"seq": "7", "CMD": "nonsense"}, "7", "nonsense"),
    ],
)
def test_an_object_without_a_known_command_is_answered_1010(frame: Any, seq: str, name: str) -> None:
    assert decode(frame) == Request(seq, name, None, errors.ReplyCode.NO_ROUTE)


@given(capitals=letters)
def test_keys_are_the_same_in_any_letter_case(capitals: list[bool]) -> None:
    frame = {
        respelled("seq", capitals): "1",
        respelled("cmd", capitals[3:]): "login",
        respelled("data", capitals[6:]): {
            respelled("userid", capitals[10:]): "ann",
            respelled("appid", capitals[16:]): 101,
            respelled("servicetoken", capitals[21:]): "t",
        },
    }
    assert decode(frame) == Request("1", "login", Login("101", "ann", "t"))


def test_the_names_of_commands_have_one_spelling() -> None:
    for name in ("Login", "PING", "heartBeat", "login "):
        assert decode({"cmd": name}).code == errors.ReplyCode.NO_ROUTE


@relaxed
@given(
    name=st.sampled_from(["login", "heartbeat", "ping", "other", ""]),
    seq=st.text(st.characters(exclude_categories=["Cs"])),
    data=json_values.filter(lambda value: "\\u0000" not in json.dumps(value)),
)
def test_both_ways_of_decoding_read_the_same(name: str, seq: str, data: Any) -> None:
    frame = {"seq": seq, "cmd": name, "data": data}
    assert decode(frame) == decode({**frame, "unknown": 1}), "an unknown key takes the slow way"


@relaxed
@given(frame=st.dictionaries(st.sampled_from(["seq", "cmd", "data", "Data", "x"]), json_values))
def test_any_object_is_a_request_if_seq_and_cmd_are_texts(frame: dict[str, Any]) -> None:
    honest = all(isinstance(frame.get(key), str | None) for key in ("seq", "cmd"))
    assert is_bad(json.dumps(frame)) is not honest


@relaxed
@given(payload=st.text(alphabet='{}[]":,\\\ud83dsecmdatloginp1.eE-+nuftr \n\x00é', max_size=40))
def test_hostile_text_raises_nothing_but_bad_frame(payload: str) -> None:
    is_bad(payload.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("around", ['{"cmd":"login","data":%s}', '{"cmd":"ping","x":1,"data":%s}', "%s"])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_nesting_of_any_depth_raises_nothing_but_bad_frame(around: str, brackets: tuple[str, str]) -> None:
    limit = sys.getrecursionlimit()
    for depth in (10, *range(limit - 120, limit + 20), 30_000):
        is_bad(around % (brackets[0] * depth + "1" + brackets[1] * depth))


def test_a_number_of_thousands_of_digits_raises_nothing_but_bad_frame() -> None:
    number = "9" * 20_000
    assert cmd.decode(b'{"cmd":"login","data":%b}' % number.encode()).code == 1001
    assert cmd.decode(b'{"cmd":"ping","data":%b}' % number.encode()).command == Ping()
    is_bad(b'{"cmd":"ping","x":%b}' % number.encode())


def test_half_a_character_becomes_a_replacement_character_and_can_be_answered() -> None:
    request = cmd.decode(rb'{"seq":"\ud800x","cmd":"\udc00","data":{}}')
    assert (request.seq, request.name) == ("\ufffdx", "\ufffd")
    assert json.loads(cmd.encode_reply(request, Reply(1010)))["seq"] == "\ufffdx"
    command = cmd.decode(rb'{"seq":"1","cmd":"login","data":{"userID":"\ud83d","appID":101}}').command
    assert command == Login("101", "\ufffd")


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert login({"userID": "\U0001f600", "appID": 101}) == Login("101", "\U0001f600")
    assert decode({"seq": "\U0001f600", "cmd": "ping", "x": "\U0001f600"}).seq == "\U0001f600"


# --- login --------------------------------------------------------------------------------------------------


def test_both_spellings_of_a_login_are_read() -> None:
    assert login({"userID": "马远", "appID": 101}) == Login("101", "马远")
    assert login({"userId": "11", "appId": 4_294_967_295}) == Login("4294967295", "11")


@pytest.mark.parametrize(
    "data",
    [
        [],
        "x",
        1,
        True,
        {"userID": "a", "appID": "101"},
        {"userID": "a", "appID": -1},
        {"userID": "a", "appID": 2**32},
        {"userID": "a", "appID": 101.0},
        {"userID": "a", "appID": 101.5},
        {"userID": "a", "appID": True},
        {"userID": 1, "appID": 101},
        {"userID": ["a"], "appID": 101},
        {"userID": "a", "appID": 101, "serviceToken": 1},
        {"userID": "", "appID": "101"},
    ],
)
def test_a_login_with_a_field_of_a_wrong_type_is_refused_with_1001(data: Any) -> None:
    assert login(data) == errors.ReplyCode.BAD_PARAMETER


@pytest.mark.parametrize(
    ("app", "read"),
    [("gochat", "gochat"), ("马", "马"), ("", "7"), (5, "7"), (None, "7"), ("system:shop", ""), (":", "")],
)
def test_an_app_may_be_named_but_not_that_of_another_dialect(app: Any, read: str) -> None:
    assert login({"userID": "a", "appID": 7, "app": app}) == Login(read, "a")


@pytest.mark.parametrize("data", [NO_DATA, None, {}, {"appID": 101}, {"userID": None}, {"userID": ""}])
def test_a_login_without_a_user_is_refused_with_1002(data: Any) -> None:
    assert login(data) == errors.ReplyCode.BAD_USER


@pytest.mark.parametrize(
    ("user", "fits"), [("u" * 255, True), ("u" * 256, False), ("皇" * 85, True), ("皇" * 85 + "u", False)]
)
def test_a_user_id_has_at_most_255_bytes(user: str, fits: bool) -> None:
    assert login({"userID": user, "appID": 101}) == (
        Login("101", user) if fits else errors.ReplyCode.BAD_USER
    )


def test_a_missing_app_counts_as_0() -> None:
    assert login({"userID": "a"}) == Login("0", "a")
    assert login({"userID": "a", "appID": None}) == Login("0", "a")


@pytest.mark.parametrize(
    ("device", "taken"),
    [
        ("phone", "phone"),
        ("d" * 32, "d" * 32),
        ("d" * 33, ""),
        ("机" * 10, "机" * 10),
        ("机" * 11, ""),
        (7, ""),
        (None, ""),
        (["phone"], ""),
    ],
)
def test_a_device_is_a_text_of_at_most_32_bytes_and_anything_else_is_ignored(device: Any, taken: str) -> None:
    data = {"userID": "a", "appID": 101, "device": device}
    assert login(data) == Login("101", "a", device=taken)


def test_of_a_repeated_key_the_last_counts_and_null_changes_nothing() -> None:
    assert cmd.decode(
        b'{"cmd":"ping","cmd":"login","data":{"userID":"a","userId":"b","appID":101}}'
    ) == Request("", "login", Login("101", "b"))
    assert cmd.decode(b'{"cmd":"login","data":{"userID":"a","USERID":null,"appID":101}}').command == Login(
        "101", "a"
    )


# --- heartbeat and ping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [NO_DATA, None, {}, {"userID": "anybody"}, {"x": 1}, {"userid": None}])
def test_a_heartbeat_needs_nothing(data: Any) -> None:
    frame = {"seq": "1", "cmd": "heartbeat"} | ({} if data is NO_DATA else {"data": data})
    assert decode(frame).command == Heartbeat()


@pytest.mark.parametrize("data", [[], "x", 0, False, {"userID": 1}, {"userId": []}, {"USERID": {}}])
def test_a_heartbeat_whose_data_is_wrong_is_refused_with_1001(data: Any) -> None:
    assert decode({"cmd": "heartbeat", "data": data}).code == errors.ReplyCode.BAD_PARAMETER


@relaxed
@given(data=json_values)
def test_a_ping_does_not_look_at_its_data(data: Any) -> None:
    assert decode({"seq": "1", "cmd": "ping", "data": data}) == Request("1", "ping", Ping())


# --- what is said -------------------------------------------------------------------------------------------


def test_a_reply_has_exactly_the_keys_of_the_original() -> None:
    request = Request("1565336219141-266129", "login", None)
    assert cmd.encode_reply(request, Reply(200)) == (
        b'{"seq":"1565336219141-266129","cmd":"login",'
        b'"response":{"code":200,"codeMsg":"Success","data":null}}'
    )
    assert cmd.encode_reply(Request("4", "ping", None), Reply(200, "pong")) == (
        b'{"seq":"4","cmd":"ping","response":{"code":200,"codeMsg":"Success","data":"pong"}}'
    )


def test_an_unknown_code_has_a_text_too() -> None:
    assert "未定义错误类型!".encode() in cmd.encode_reply(Request("", "", None), Reply(4711))


def test_an_event_has_exactly_the_keys_of_the_original() -> None:
    assert cmd.encode_event(Event("enter", "黄帝", "哈喽~", "137386068")) == (
        '{"seq":"137386068","cmd":"enter","response":{"code":200,"codeMsg":"Ok",'
        '"data":{"target":"","type":"text","msg":"哈喽~","from":"黄帝"}}}'.encode()
    )


def test_an_event_without_an_id_gets_digits_of_its_own() -> None:
    numbers = [json.loads(cmd.encode_event(Event("enter", "a", "b")))["seq"] for _ in range(3)]
    assert all(number.isdecimal() for number in numbers)
    assert len(set(numbers)) == 3


def test_a_message_without_an_id_has_none() -> None:
    assert json.loads(cmd.encode_event(Event("msg", "a", "b")))["seq"] == ""


@relaxed
@given(
    kind=st.sampled_from(["enter", "exit", "msg"]),
    sender=st.text(st.characters(exclude_categories=["Cs"])),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_names_and_texts_arrive_as_they_are(kind: str, sender: str, text: str) -> None:
    frame = json.loads(cmd.encode_event(Event(kind, sender, text, "1")))
    assert frame["cmd"] == kind
    assert frame["response"]["data"] == {"target": "", "type": "text", "msg": text, "from": sender}


@pytest.mark.parametrize("dialect", [CmdDialect(), ChannelCmdDialect()])
def test_a_piece_of_an_answer_names_its_conversation_with_and_without_channels(dialect: Any) -> None:
    part = ChannelPart("group:7", stream=StreamPart("s1", 1))
    frame = json.loads(dialect.encode_event(Signal("piece", "bot", "hi", channel=part, conversation=7)))
    shown = {"from": "bot", "conversation": 7, "stream": "s1", "piece": 1, "text": "hi"}
    assert (frame["cmd"], frame["response"]["data"]) == ("piece", shown)
