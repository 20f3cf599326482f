"""Events as they stand in a stream: one each, whatever they say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.dialects.sse.api import COMMENT, SseDialect, ready, to_json
from imserver.gateway.model import BadFrame, ChannelPart, Event, Signal, StreamPart

DIALECT = SseDialect("system:shop")


def data_of(block: bytes | None) -> object:
    """The data of a block that must be one event without a name."""
    assert block is not None
    assert block.startswith(b"data: ")
    assert block.endswith(b"\n\n")
    line = block[len(b"data: ") : -2]
    assert b"\n" not in line
    assert b"\r" not in line
    return json.loads(line)


@given(st.text(), st.text(), st.text())
def test_a_text_is_one_line_of_json(text: str, sender: str, message_id: str) -> None:
    event = Event("msg", sender, text, message_id)
    assert data_of(DIALECT.encode_event(event)) == {
        "event": "msg",
        "app": "system:shop",
        "id": message_id,
        "sender": sender,
        "type": "text",
        "text": text,
    }


@pytest.mark.parametrize("space", ["\n", "\r\n", "\r", " \n\t "])
def test_a_payload_that_is_laid_out_is_one_line_too(space: str) -> None:
    payload = f'{{{space}"a":{space}[1,{space}"x\\ny"]{space}}}'.encode()
    heard = data_of(DIALECT.encode_event(Event("msg", "", "", type="order", data=payload)))
    assert isinstance(heard, dict)
    assert (heard["type"], heard["data"]) == ("order", {"a": [1, "x\ny"]})


def test_the_ready_event_has_the_cursor() -> None:
    assert ready({}, 1234, 16) == b"retry: 1234\nid: 16\nevent: ready\ndata: {}\n\n"
    assert ready({"event": "ready"}, 1234) == b'retry: 1234\nevent: ready\ndata: {"event":"ready"}\n\n'
    assert COMMENT == b":\n\n", "no event"


def test_nothing_is_asked_on_a_stream() -> None:
    with pytest.raises(BadFrame) as raised:
        DIALECT.decode(b"{}")
    assert raised.value.reply is None


@pytest.mark.parametrize("code", sorted(errors.CLOSE))
def test_the_end_says_whether_to_come_back(code: int) -> None:
    name, _, data = DIALECT.encode_close(code, "why").partition(b"\n")
    assert name == b"event: end"
    assert json.loads(data.removeprefix(b"data: ")) == {
        "code": code,
        "reason": "why",
        "reconnect": errors.CLOSE[code].reconnect,
    }


MSG = {"event": "msg", "app": "101", "id": "", "sender": "", "type": "text"}
SAMPLES = [
    (
        Event("msg", "shop", "hi", "o-1", time=7),
        {**MSG, "id": "o-1", "sender": "shop", "text": "hi", "time": 7},
    ),
    (Event("msg", "", "", "", "order", b'{"n":1}'), {**MSG, "type": "order", "data": {"n": 1}}),
    (Event("msg", "7", "x", code=-3, note="m"), {**MSG, "sender": "7", "text": "x", "code": -3, "note": "m"}),
    (Event("enter", "马远", "哈喽~", time=9), {"event": "enter", "app": "101", "user": "马远", "time": 9}),
    (Event("exit", "a", ""), {"event": "exit", "app": "101", "user": "a"}),
    *(
        (event, {"event": event.kind, "app": "101", "data": data})
        for event, data in (
            (Event("online", "", "", data=b'{"clientId":"c"}'), {"clientId": "c"}),
            (
                Signal("receipt", "bob", "", conversation=7, read=30),
                {"from": "bob", "conversation": 7, "read": 30},
            ),
            (Signal("typing", "bob", "", to="ann"), {"from": "bob", "to": "ann"}),
            (Signal("hidden", "ann", "", ids=(3,)), {"ids": [3]}),
            (
                Signal(
                    "piece",
                    "bot",
                    "hi",
                    to="ann",
                    channel=ChannelPart("user:ann", stream=StreamPart("s1", 1)),
                ),
                {"from": "bot", "to": "ann", "stream": "s1", "piece": 1, "text": "hi"},
            ),
        )
    ),
]


@pytest.mark.parametrize(("event", "shown"), SAMPLES, ids=[event.kind for event, _ in SAMPLES])
def test_an_event_is_one_object(event: Event, shown: dict[str, object]) -> None:
    text = to_json("101", event)
    assert json.loads(text) == shown
    assert list(json.loads(text)) == list(shown)


def test_any_event_is_one_line() -> None:
    text = to_json("a\nb", Event("msg", "x\r", "two\nlines\u2028", "i\n"))
    assert b"\n" not in text
    assert b"\r" not in text
    assert json.loads(text)["text"] == "two\nlines\u2028"
