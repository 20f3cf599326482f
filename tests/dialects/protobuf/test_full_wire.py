"""The codec of clients with a cursor beyond its samples: what they are answered
and told."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.dialects.protobuf.wire import (
    FULL_COMMANDS,
    KINDS,
    FullProtobufDialect,
    ProtobufDialect,
    as_full_message,
    as_message,
)
from imserver.gateway import errors
from imserver.gateway.model import BadFrame, Reply, Request, Signal
from imserver.messenger.log.model import EntryKind, Message
from imserver.messenger.messages.message_commands import (
    ConversationPage,
    ConversationView,
    EntryPage,
    SearchPage,
)
from tests.integration import protobuf
from tests.integration.protobuf import Output, further, one, outputs, sent
from tests.samples import requests_of

full = FullProtobufDialect()
old = ProtobufDialect()
packed = b"".join


def full_message(stored: Message) -> bytes:
    """An entry with all its fields, encoded."""
    return as_full_message(stored).SerializeToString()


def test_clients_of_the_original_cannot_ask_any_of_it() -> None:
    for payload in requests_of("protobuf-full", full):
        if payload[1] in (4, *range(6, 17)):
            with pytest.raises(BadFrame):
                old.decode(payload)


@given(data=st.binary(max_size=40), kind=st.sampled_from(sorted(FULL_COMMANDS)))
def test_any_frame_is_read_or_dropped(data: bytes, kind: int) -> None:
    try:
        request = full.decode(sent(kind, data))
    except BadFrame:
        return
    assert (request.command is None) == (request.code == errors.ReplyCode.BAD_PARAMETER)


def answered(name: str, data: Any = None, code: int = errors.ReplyCode.OK) -> Output:
    payload = full.encode_reply(Request("", name, None), Reply(code, data))
    assert payload is not None
    (found,) = outputs(payload)
    return found


ENTRY = Message(
    9,
    5,
    2,
    "266",
    ("266", "267"),
    "edit",
    "picture",
    b'{"url":"/p"}',
    "mine",
    1700000000000,
    8,
    b"{}",
)


@pytest.mark.parametrize(
    ("type", "body"),
    [
        ("text", b"hi"),
        ("text", b"\xff"),
        ("picture", b'{"url": "/p"}'),
        ("voice", b"\x00\xff"),
        ("text", b""),
    ],
)
def test_history_and_search_show_entries_as_they_are_pushed(
    type: str, body: bytes
) -> None:
    entry = Message(9, 5, 2, "266", ("266", "267"), "message", type, body, time_ms=1)
    found = protobuf.fields(answered("history", EntryPage([entry.view()], True)).data)
    assert found == [(1, full_message(entry)), (2, 1)]
    found = protobuf.fields(
        answered("search", SearchPage([entry.view()], True, 7)).data
    )
    assert found == [(1, full_message(entry)), (2, 1), (3, 7)]


def test_a_list_of_conversations_has_what_is_known_of_each() -> None:
    rows = [
        ConversationView(5, "user", 3, 8, "member", "267", "", ENTRY.view()),
        ConversationView(6, "group", 0, 0, "owner", "", "us", None, 11),
    ]
    (_, first), (_, second) = protobuf.fields(
        answered("conversations", ConversationPage(rows, False)).data
    )
    assert one(first) == {
        1: 5,
        2: 1,
        3: 3,
        4: 8,
        5: b"member",
        6: 267,
        8: full_message(ENTRY),
        10: 9,
    }
    assert one(second) == {1: 6, 2: 2, 5: b"owner", 7: b"us", 10: 11}


def test_each_kind_of_entry_has_a_number_and_the_fields_of_the_original_come_first() -> (
    None
):
    assert set(KINDS) == set(get_args(EntryKind))
    for kind in KINDS:
        assert further(full_message(Message(9, 5, 2, "266", kind=kind)))["kind"] == kind
    plain = Message(9, 5, 2, "266", ("266", "267"), body=b"hi", time_ms=1)
    begin = as_message(plain)
    assert begin is not None
    assert full_message(plain).startswith(begin.SerializeToString())
    assert old.encode_event(Signal("typing", "266", "", to="267")) is None
