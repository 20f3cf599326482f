"""Events as they stand in a stream: one each, whatever they say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.dialects.sse.api import COMMENT, SseDialect, ready
from imserver.gateway.model import BadFrame, Event
from tests.samples import check, samples_of

DIALECT = SseDialect("system:shop")


def data_of(block: bytes | None) -> object:
    """The data of a block that must be one event without a name."""
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


def test_the_ready_event_has_the_cursor_and_nothing_is_asked_on_a_stream() -> None:
    assert ready({}, 1234, 16) == b"retry: 1234\nid: 16\nevent: ready\ndata: {}\n\n"
    assert (
        ready({"event": "ready"}, 1234)
        == b'retry: 1234\nevent: ready\ndata: {"event":"ready"}\n\n'
    )
    assert COMMENT == b":\n\n", "no event"
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


@pytest.mark.parametrize(
    "sample", samples_of("sse")["samples"], ids=lambda row: row["name"]
)
def test_an_event_is_one_object_on_one_line(sample: dict[str, Any]) -> None:
    check(SseDialect("101"), sample)
