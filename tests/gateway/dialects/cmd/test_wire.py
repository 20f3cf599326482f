"""The cmd dialect frame by frame: what is read, what is refused and how, and
the exact bytes of answers."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdDialect
from imserver.gateway.model import (
    BadFrame,
    ChannelPart,
    Event,
    Login,
    Reply,
    Request,
    Signal,
    StreamPart,
)
from tests.gateway.hub.harness import Harness
from tests.integration.raw import BINARY, TEXT, frame
from tests.samples import check, samples_of

cmd = CmdDialect()
relaxed = settings(deadline=None)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def decode(value: Any) -> Request:
    return cmd.decode(json.dumps(value).encode())


def is_bad(payload: bytes | str) -> bool:
    """Whether a frame is no request, answered by the bare text."""
    try:
        cmd.decode(payload.encode() if isinstance(payload, str) else payload)
    except BadFrame as bad:
        return bad.reply == BadFrame.TEXT == "数据不合法".encode()
    return False


@pytest.mark.parametrize(
    "sample", samples_of("cmd")["samples"], ids=lambda row: row["name"]
)
def test_a_wire_sample_gets_its_answer(
    harness: Harness, sample: dict[str, Any]
) -> None:
    if "answers" not in sample:
        check(cmd, sample)
        return
    _, client = harness.login("101", "me") if "session" in sample else harness.connect()
    before = harness.metrics.messages_in
    client.send(frame(BINARY if "binary" in sample else TEXT, sample["send"]))
    client.probe()
    assert harness.metrics.messages_in == before + 1
    assert [payload.decode() for payload in client.payloads()] == sample["answers"]


def test_each_notice_has_digits_of_its_own() -> None:
    frames = [cmd.encode_event(Event("enter", "ann", "hi")) for _ in range(3)]
    assert len({json.loads(each)["seq"] for each in frames}) == 3


@relaxed
@given(
    name=st.sampled_from(["login", "heartbeat", "ping", "other", ""]),
    seq=st.text(st.characters(exclude_categories=["Cs"])),
    data=json_values.filter(lambda value: "\\u0000" not in json.dumps(value)),
)
def test_both_ways_of_decoding_read_the_same(name: str, seq: str, data: Any) -> None:
    frame = {"seq": seq, "cmd": name, "data": data}
    assert decode(frame) == decode({**frame, "unknown": 1}), (
        "an unknown key takes the slow way"
    )


@pytest.mark.parametrize(
    "around", ['{"cmd":"login","data":%s}', '{"cmd":"ping","x":1,"data":%s}', "%s"]
)
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_nesting_of_any_depth_raises_nothing_but_bad_frame(
    around: str, brackets: tuple[str, str]
) -> None:
    limit = sys.getrecursionlimit()
    for depth in (10, *range(limit - 120, limit + 20), 30_000):
        is_bad(around % (brackets[0] * depth + "1" + brackets[1] * depth))


def test_half_a_character_becomes_a_replacement_character_and_can_be_answered() -> None:
    request = cmd.decode(rb'{"seq":"\ud800x","cmd":"\udc00","data":{}}')
    assert (request.seq, request.name) == ("\ufffdx", "\ufffd")
    assert json.loads(cmd.encode_reply(request, Reply(1010)))["seq"] == "\ufffdx"
    command = cmd.decode(
        rb'{"seq":"1","cmd":"login","data":{"userID":"\ud83d","appID":101}}'
    ).command
    assert command == Login("101", "\ufffd")


@pytest.mark.parametrize("dialect", [CmdDialect(), ChannelCmdDialect()])
def test_a_piece_of_an_answer_names_its_conversation_with_and_without_channels(
    dialect: Any,
) -> None:
    part = ChannelPart("group:7", stream=StreamPart("s1", 1))
    frame = json.loads(
        dialect.encode_event(Signal("piece", "bot", "hi", channel=part, conversation=7))
    )
    shown = {"from": "bot", "conversation": 7, "stream": "s1", "piece": 1, "text": "hi"}
    assert (frame["cmd"], frame["response"]["data"]) == ("piece", shown)
