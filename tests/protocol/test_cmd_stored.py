"""Commands about what is stored: two ways of reading them that agree, and how entries are shown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from imserver.model import Message, Send
from imserver.protocol import cmd
from imserver.protocol.cmd import entry_view
from imserver.protocol.forgiving import Refused

NAMES = st.one_of(st.text(max_size=70), st.text("a\0é😀", max_size=70), st.none(), st.integers())
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.one_of(st.text(max_size=9), st.none(), st.integers()),
        "to": NAMES,
        "conversation": st.one_of(
            st.integers(-1, 2), st.just(2**63), st.none(), st.floats(), st.text(max_size=1)
        ),
        "clientMsgID": NAMES,
    },
)


def read(function: Any, data: bytes) -> Any:
    try:
        return function(data)
    except Refused as refused:
        return refused.code


@given(FIELDS)
def test_the_fast_path_reads_the_same_as_the_slow_path(fields: dict[str, Any]) -> None:
    data = json.encode(fields)
    assert read(cmd._send, data) == read(cmd._send_anything, data)


def test_the_quick_way_is_taken_by_a_plain_message() -> None:
    data = b'{"to":"bob","text":"hi","clientMsgID":"a-1"}'
    assert cmd._send_text(data) == Send("bob", 0, body=b"hi", id="a-1")


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b'{"TO":"bob","Text":"hi"}', Send("bob", body=b"hi")),
        (b'{"to":"bob","data":{"Key":[1, 2.0,"\\u00e9"]}}', Send("bob", type="custom", body=b"")),
        (b'{"conversation":3,"text":""}', Send(conversation=3)),
        (b'{"to":"bob","text":"x","replyTo":4,"nobody":"knows"}', Send("bob", body=b"x", about=4)),
    ],
)
def test_other_spellings_are_read_too(data: bytes, command: Send) -> None:
    found = cmd._send(data)
    if command.type == "custom":
        assert json.decode(found.body) == {"Key": [1, 2.0, "é"]}
        return
    assert found == command


def test_half_a_character_is_replaced_everywhere() -> None:
    said = cmd._send(rb'{"to":"bob","data":{"a\ud800":["\udc00"]},"mentions":["\ud800"]}')
    assert json.decode(said.body) == {"a\ufffd": ["\ufffd"]}
    assert json.decode(said.meta) == {"mentions": ["\ufffd"]}
    assert json.decode(cmd._edit(rb'{"id":1,"data":"\ud800"}').body) == "\ufffd"


@pytest.mark.parametrize(
    ("type", "body", "wanted"),
    [
        ("text", b"hi", {"text": "hi"}),
        ("text", b"", {"text": ""}),
        ("text", b"\xff", {"base64": "/w=="}),
        ("picture", b'{"a":1}', {"data": {"a": 1}}),
        ("picture", b"no json", {"text": "no json"}),
        ("voice", b"\xff\x00", {"base64": "/wA="}),
        ("custom", b"[" * 100_000, {"text": "[" * 100_000}),
    ],
)
def test_a_body_is_shown_in_its_type(type: str, body: bytes, wanted: dict[str, Any]) -> None:
    entry = json.decode(json.encode(entry_view(Message(1, 2, 3, "ann", "bob", "message", type, body))))
    del entry["id"], entry["conversation"], entry["seq"], entry["kind"], entry["from"], entry["to"]
    assert entry.pop("type") == type
    assert entry == wanted


def test_meta_names_the_users_who_joined() -> None:
    entry = json.decode(
        json.encode(entry_view(Message(1, 2, 3, "ann", kind="join", meta=b'{"users":["bob"]}')))
    )
    assert entry["meta"] == {"users": ["bob"]}
    assert "type" not in entry
