"""Commands about what is stored: two ways of reading them that agree; how
entries are shown; and names."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from imserver.gateway.protocol.forgiving import Refused
from imserver.messenger.delivery import wire
from imserver.messenger.log.commands import (
    History,
    Pin,
    React,
    Search,
    SearchFilter,
    Send,
)
from imserver.messenger.log.model import Message, Reaction
from imserver.messenger.log.names import clean_name, is_name

NAMES = st.one_of(
    st.text(max_size=70), st.text("a\0é😀", max_size=70), st.none(), st.integers()
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.one_of(st.text(max_size=9), st.none(), st.integers()),
        "to": NAMES,
        "conversation": st.one_of(
            st.integers(-1, 2),
            st.just(2**63),
            st.none(),
            st.floats(),
            st.text(max_size=1),
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
    slow = json.encode({**fields, "unknown": 0})
    assert read(wire.read_send, json.encode(fields)) == read(wire.read_send, slow)


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b'{"TO":"bob","Text":"hi"}', Send("bob", body=b"hi")),
        (
            b'{"to":"bob","data":{"Key":[1, 2.0,"\\u00e9"]}}',
            Send("bob", type="custom", body=b""),
        ),
        (b'{"conversation":3,"text":"hi"}', Send(conversation=3, body=b"hi")),
        (
            b'{"to":"bob","text":"x","replyTo":4,"nobody":"knows"}',
            Send("bob", body=b"x", about=4),
        ),
        (
            b'{"conversation":3,"text":"x","thread":4,"also":true}',
            Send(conversation=3, body=b"x", thread=4, also=True),
        ),
    ],
)
def test_other_spellings_are_read_too(data: bytes, command: Send) -> None:
    found = wire.read_send(data)
    if command.type == "custom":
        assert json.decode(found.body) == {"Key": [1, 2.0, "é"]}
        return
    assert found == command


def test_half_a_character_is_replaced_everywhere() -> None:
    request = wire.read_send(
        rb'{"to":"bob","data":{"a\ud800":["\udc00"]},"mentions":["\ud800"]}'
    )
    assert json.decode(request.body) == {"a\ufffd": ["\ufffd"]}
    assert json.decode(request.meta) == {"mentions": ["\ufffd"]}
    assert (
        json.decode(wire.MESSAGE_COMMANDS["edit"](rb'{"id":1,"data":"\ud800"}').body)
        == "\ufffd"
    )


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
        ("custom", b"[" * 900 + b"]" * 900, {"text": "[" * 900 + "]" * 900}),
        (
            "custom",
            b"[" + b"[],".join([b""] * 900) + b"{}]",
            {"data": [*[[]] * 899, {}]},
        ),
    ],
)
def test_a_body_is_shown_in_its_type(
    type: str, body: bytes, wanted: dict[str, Any]
) -> None:
    entry = json.decode(
        json.encode(
            Message(1, 2, 3, "ann", ("ann", "bob"), "message", type, body).view()
        )
    )
    del (
        entry["id"],
        entry["conversation"],
        entry["seq"],
        entry["kind"],
        entry["from"],
        entry["to"],
    )
    assert entry.pop("type") == type
    assert entry == wanted


# --- reactions, pins, forwarded messages, histories ---------------------------


@pytest.mark.parametrize(
    ("name", "data", "command"),
    [
        ("react", b'{"id":7,"emoji":"+1"}', React(7, "+1")),
        (
            "press",
            b'{"id":7,"value":"y","clientMsgID":"p"}',
            Send(kind="press", type="", body=b"y", id="p", about=7),
        ),
        (
            "send",
            b'{"to":"bob","text":"?","mentions":["ann"],"buttons":[[{"text":"Yes","value":"y"}]]}',
            Send(
                "bob",
                body=b"?",
                meta=b'{"mentions":["ann"],"buttons":[[{"text":"Yes","value":"y"}]]}',
            ),
        ),
        ("react", b'{"id":7,"emoji":"+1","remove":true}', React(7, "+1", True)),
        ("pin", b'{"id":7,"remove":false}', Pin(7)),
        ("history", b'{"conversation":3,"after":0,"limit":5}', History(3, 0, 5, 0)),
        (
            "search",
            b'{"from":"bob","types":["file"],"link":true,"since":1,"until":2,"conversation":3,"before":9}',
            Search("", 3, 9, 50, SearchFilter("bob", ("file",), True, 1, 2)),
        ),
        (
            "history",
            b'{"conversation":3,"types":["picture"]}',
            History(3, 0, 50, -1, ("picture",)),
        ),
        ("send", b'{"to":"bob","forward":7}', Send("bob", kind="forward", about=7)),
    ],
)
def test_what_is_asked_about_messages_is_read(
    name: str, data: bytes, command: object
) -> None:
    assert wire.MESSAGE_COMMANDS[name](data) == command


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("react", b'{"id":7,"emoji":"%b"}' % (b"x" * 33)),
        ("answer", b'{"id":7}'),
        ("answer", b'{"id":7,"value":"y","text":"yes"}'),
        ("answer", b'{"id":7,"text":"%b"}' % (b"x" * 1001)),
        (
            "send",
            b'{"to":"b","text":"?","exclusive":true,"buttons":[%b]}'
            % b",".join(
                b'[{"text":"x","value":"%d"},{"text":"x","value":"%d"},{"text":"x","value":"%d"}]'
                % (each, each + 1, each + 2)
                for each in (1, 4, 7)
            ),
        ),
        ("press", b'{"id":7,"value":"%b"}' % (b"x" * 65)),
        ("send", b'{"to":"bob","text":"?","buttons":[{"text":"Yes","value":"y"}]}'),
        ("send", b'{"to":"bob","forward":7,"buttons":[[{"text":"Yes","value":"y"}]]}'),
        ("history", b'{"conversation":3,"after":-1}'),
        ("history", b'{"conversation":3,"after":1,"types":["picture"]}'),
        ("search", b'{"link":false}'),
        ("search", b'{"text":" ","from":"bob"}'),
        ("search", b'{"text":"tea","since":-1}'),
        ("history", b'{"conversation":3,"types":[""]}'),
        ("history", b'{"conversation":3,"types":[%b"x"]}' % (b'"x",' * 20)),
        ("send", b'{"to":"bob","text":""}'),
        ("send", b'{"to":"bob","type":"picture","text":""}'),
        ("edit", b'{"id":1}'),
        ("send", b'{"to":"bob","forward":0}'),
        ("send", b'{"to":"bob","forward":7,"text":"x"}'),
        ("send", b'{"to":"bob","forward":7,"mentions":["bob"]}'),
        ("send", b'{"to":"bob","text":"x","mentions":[""]}'),
        ("send", b'{"to":"bob","text":"x","mentions":["all","bob"]}'),
        ("edit", b'{"id":1,"text":"x","mentions":["all","bob"]}'),
    ],
)
def test_what_is_asked_wrongly_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        wire.MESSAGE_COMMANDS[name](data)
    assert refused.value.code == 1001


def test_reactions_are_shown_and_a_digit_is_an_emoji_too() -> None:
    reacted = Message(1, 2, 3, "ann", reactions=(Reaction("1", 2, ("bob",), True),))
    shown = json.decode(json.encode(reacted.view()))
    assert shown["reactions"] == [
        {"emoji": "1", "count": 2, "users": ["bob"], "mine": True}
    ]
    change = Message(
        4, 2, 4, "bob", (), "reaction", "add", b"1", about=1, meta=b'{"count":2}'
    )
    shown = json.decode(json.encode(change.view()))
    assert (shown["kind"], shown["type"], shown["text"], shown["about"]) == (
        "reaction",
        "add",
        "1",
        1,
    )
    assert shown["meta"] == {"count": 2}
    shown = json.decode(
        json.encode(Message(5, 2, 5, "bob", (), "pin", "remove", about=1).view())
    )
    assert (shown["type"], "text" in shown) == ("remove", False)


# --- names --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "O'Neil, Ann-Marie (home)",
        "安",
        "Zoë",
        "محمد",
        "نامه\u200cای",  # Persian: the parts of a word
        "क्\u200dष",  # Devanagari: a half form
        "ශ්\u200dරී",  # Sinhala
        "👩\u200d💻",
        "👩🏽\u200d💻",
        "❤\ufe0f\u200d🔥",
        "👨\u200d👩\u200d👧",
        # the flag of England
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "1\ufe0f\u20e3",
        "\U0001faf8",  # an emoji that is newer than some releases of Python
    ],
)
def test_people_have_names_in_their_scripts_and_with_emoji(name: str) -> None:
    assert is_name(name, 1, 64)
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "character",
    [
        *"\n\t\x00\x7f\x9f\xad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\u2064\u2065\ufeff",
        *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u206f\ufff9\uffff",
        *"\u034f\u115f\u1160\u3164\uffa0\ue000\ud800\U000e0001\U000e0041\U000e0100\U000f0000",
    ],
    ids=lambda each: f"{ord(each):04X}",
)
def test_what_nobody_sees_is_refused_and_taken_out(character: str) -> None:
    name = f"An{character}n"
    assert not is_name(name, 1, 64)
    assert clean_name(name) == "Ann"
    assert clean_name(f"{character}安{character}") == "安"
    assert not is_name(character, 1, 64)


@pytest.mark.parametrize(
    "name", [" ", "   ", "\u3000", "\xa0", "\u2800", "\ufe0f", " \ufe0f\u2800"]
)
def test_a_name_has_something_to_see(name: str) -> None:
    assert not is_name(name, 0, 64)
    assert clean_name(f"{name}\u200b") == ""


def test_a_name_has_a_length() -> None:
    assert [is_name("安" * length, 0, 3) for length in range(5)] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert not is_name("", 1, 3)


def test_no_format_character_passes_alone() -> None:
    alone = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"
    ]
    assert not [f"{ord(each):X}" for each in alone if clean_name(f"a{each}b") != "ab"]
