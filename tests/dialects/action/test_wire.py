"""The action dialect frame by frame: what is read, and the exact bytes of what is told."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.dialects.action.wire import ActionDialect, ActionLogin, Say
from imserver.gateway import errors
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.model import BadFrame, Event, Heartbeat, Limit, Reply
from tests.support import ROOT

VECTORS = json.loads((ROOT / "tests" / "vectors" / "action.json").read_text(encoding="utf-8"))

action = ActionDialect()
relaxed = settings(deadline=None)


def login(**data: Any) -> Any:
    """The command of a login with this data, or the code of its refusal."""
    request = action.decode(json.dumps({"seq": "1", "action": "login", "data": data}).encode())
    return request.command or request.code


def say(**data: Any) -> Any:
    """The command of a message with this data, or the code of its refusal."""
    request = action.decode(json.dumps({"seq": "7", "action": "sendmsg", "data": data}).encode())
    return request.command or request.code


def alike(found: bytes, wanted: str) -> bool:
    """Whether the bytes are the wanted ones; ``<digits>`` stands for any."""
    pattern = re.escape(wanted).replace(re.escape("<digits>"), "[0-9]+")
    return re.fullmatch(pattern, found.decode()) is not None


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", VECTORS["requests"], ids=lambda row: row["name"])
def test_a_sample_is_read_as_its_answer_says(row: dict[str, Any]) -> None:
    if row["answer"] == BadFrame.TEXT.decode():
        with pytest.raises(BadFrame) as bad:
            action.decode(row["send"].encode())
        assert bad.value.reply == BadFrame.TEXT
        return
    request = action.decode(row["send"].encode())
    wanted = json.loads(row["answer"])
    code = wanted["response"]["code"]
    if request.command is None:
        assert action.encode_reply(request, Reply(request.code)).decode() == row["answer"]
    else:
        # What needs no session, or an app that there is, may be refused by others.
        # So is a user id that is too long for its app.
        refused = (errors.ReplyCode.NOT_LOGGED_IN, errors.ReplyCode.UNAUTHORIZED, errors.ReplyCode.BAD_USER)
        assert code == errors.ReplyCode.OK or code in refused
        assert action.encode_reply(request, Reply(code)).decode() == row["answer"]


@pytest.mark.parametrize(
    ("data", "command"),
    [
        ({"toUid": "2", "groupsId": "0"}, ActionLogin("action:1", "1", peer="2")),
        ({"appId": 2, "toUid": "0", "groupsId": "5"}, ActionLogin("action:2", "1", room="5")),
        ({"toUid": "2", "token": "t"}, ActionLogin("action:1", "1", "t", peer="2")),
        *(({"groupsId": room}, ActionLogin("action:1", "1")) for room in ("", "0", None)),
        *(
            ({"toUid": peer, "groupsId": "0"}, ActionLogin("action:1", "1"))
            for peer in ("null", "", "x" * (MAX_USER_BYTES + 1), "一" * 86)
        ),
    ],
)
def test_a_login_names_the_peer_or_the_room_or_neither(data: dict[str, Any], command: ActionLogin) -> None:
    assert login(**{"userId": "1", "appId": 1, **data}) == command


def test_the_length_of_a_room_is_that_of_its_bytes() -> None:
    room = "群" * (Limit.ROOM_BYTES // 3)
    assert login(userId="1", appId=1, groupsId=room) == ActionLogin("action:1", "1", room=room)
    assert login(userId="1", appId=1, groupsId=room + "群") == errors.ReplyCode.BAD_PARAMETER


def test_a_message_has_the_id_of_its_request_and_no_receiver() -> None:
    assert say(msgType="voice", message="x") == Say("voice", "x", "7")
    assert say(MsgType="voice", MESSAGE="x", more=1) == Say("voice", "x", "7")
    named = {"userId": "9", "appId": 2, "toUid": "8", "groupsId": "7"}
    assert say(msgType="text", message="x", **named) == Say("text", "x", "7")


@relaxed
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_come_out_as_they_went_in(words: str) -> None:
    kind = words.replace("\0", "")
    command = say(msgType=kind, message=words)
    assert command == Say(kind, words, "7")
    before, behind = action.encode_for(Event("msg", words, words, words, words)) or (b"", b"")
    data = json.loads(before + b'"2"' + behind)["data"]
    assert {data[key] for key in ("msgId", "msgType", "content", "from")} == {words} or not words


def test_lone_surrogates_are_replaced() -> None:
    frame = b'{"seq":"1","action":"sendmsg","data":{"msgType":"text","message":"\\ud800"}}'
    assert action.decode(frame).command == Say("text", "\ufffd", "1")


def test_a_heartbeat_may_have_any_data() -> None:
    assert isinstance(action.decode(b'{"action":"heartbeat","data":{"userId":"x"}}').command, Heartbeat)


# --- what is told -------------------------------------------------------------------------------------------


def test_the_server_speaks_first() -> None:
    assert alike(action.greet(), VECTORS["opening"])


@pytest.mark.parametrize("row", VECTORS["pushes"], ids=lambda row: row["name"])
def test_an_event_is_encoded_as_its_sample(row: dict[str, Any]) -> None:
    event = dict(row["event"])
    event["data"] = event.get("data", "").encode()
    halves = action.encode_for(Event(**event))
    if row["frame"] is None:
        assert halves is None
        return
    assert halves is not None
    assert alike(json.dumps(row["receiver"]).encode().join(halves), row["frame"])


def test_the_receiver_is_the_only_thing_that_differs() -> None:
    event = Event("msg", "1", "hi", "7", time=5)
    assert action.encode_event(event) == b'""'.join(action.encode_for(event) or ())


def test_a_message_without_a_time_gets_the_current_time() -> None:
    _, behind = action.encode_for(Event("msg", "1", "hi", "7")) or (b"", b"")
    assert re.fullmatch(rb',"msgTimestamp":"[1-9][0-9]{9}"\}\}', behind)
