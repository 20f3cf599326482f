"""Events as JSON: what each kind shows, on one line."""

import json

import pytest

from imserver.gateway.dialects.sse.api import to_json
from imserver.gateway.model import ChannelPart, Event, Signal, StreamPart

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
