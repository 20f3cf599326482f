"""The codec of the protobuf dialect beyond its samples: any message, limits,
merging, malformed frames."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.dialects.protobuf.wire import (
    MAX_DEVICE_BYTES,
    ChatLogin,
    ChatMessage,
    ChatSync,
    ProtobufDialect,
    account,
    type_name,
    type_number,
)
from imserver.gateway.model import BadFrame, Heartbeat, Limit
from tests.gateway.protocol.generate import generate
from tests.integration.protobuf import HEARTBEAT, LOGIN, MESSAGE, SYNC, field, sent
from tests.support import ROOT, run_python

protobuf = ProtobufDialect()
relaxed = settings(deadline=None)
unsigned = st.integers(0, 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)


def message(
    session_type: int,
    receiver: int,
    sender: int,
    type_number: int,
    content: bytes,
    seq: int,
    sent_ms: int,
) -> bytes:
    """One ``Message``, by the codec of the tests."""
    values = (session_type, receiver, sender, type_number, content, seq, sent_ms)
    return b"".join(field(number, value) for number, value in enumerate(values, 1))


@pytest.mark.parametrize(
    ("kind", "number", "limit"),
    [(LOGIN, 2, MAX_DEVICE_BYTES), (MESSAGE, 3, Limit.CLIENT_MSG_ID_BYTES)],
)
def test_names_of_devices_and_ids_of_messages_have_a_limit(
    kind: int, number: int, limit: int
) -> None:
    assert protobuf.decode(sent(kind, field(number, b"x" * limit))).command is not None
    with pytest.raises(BadFrame):
        protobuf.decode(sent(kind, field(number, b"x" * (limit + 1))))


@relaxed
@given(
    session_type=st.integers(-(2**31), 2**31 - 1),
    receiver=unsigned,
    sender=unsigned,
    type_number=st.integers(-(2**31), 2**31 - 1),
    content=st.binary(max_size=300),
    sent_ms=signed,
    number=unsigned,
)
def test_a_message_that_is_sent_on_is_the_one_that_came(
    session_type: int,
    receiver: int,
    sender: int,
    type_number: int,
    content: bytes,
    sent_ms: int,
    number: int,
) -> None:
    given = message(session_type, receiver, sender, type_number, content, 0, sent_ms)
    command = protobuf.decode(sent(MESSAGE, field(1, given) + field(2, number))).command
    assert isinstance(command, ChatMessage)
    assert command.number == number
    whom = command.session_type, command.receiver, command.sender
    assert given == message(*whom, command.type, command.content, 0, command.sent_ms)


@given(after=unsigned)
def test_a_sync_may_begin_anywhere(after: int) -> None:
    assert protobuf.decode(sent(SYNC, field(1, after))).command == ChatSync(after)


@given(token=st.binary(max_size=200))
def test_a_token_may_be_any_bytes(token: bytes) -> None:
    assert protobuf.decode(sent(LOGIN, field(1, token))).command == ChatLogin(
        token.decode("latin-1")
    )


@given(number=st.integers(-(2**31), 2**31 - 1))
def test_a_type_has_the_same_number_under_every_name(number: int) -> None:
    assert type_number(type_name(number)) == number


@pytest.mark.parametrize(
    ("user", "number"),
    [
        ("266", 266),
        (f"{Limit.ID}", Limit.ID),
        (f"{Limit.ID + 1}", 0),
        ("", 0),
        ("-1", 0),
        ("ann", 0),
        ("²", 0),
    ],
)
def test_an_account_is_the_number_that_its_user_is(user: str, number: int) -> None:
    assert account(user) == number


def test_the_generated_classes_are_those_of_the_schema(tmp_path: Path) -> None:
    for path in generate(tmp_path):
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), (
            f"{path}: run make proto"
        )


def test_the_library_is_loaded_by_the_first_frame() -> None:
    code = (
        "import sys; from imserver.dialects.protobuf.wire import PLAIN; "
        "before = 'google.protobuf' in sys.modules; PLAIN.decode(b'\\x08\\x02'); "
        "print(before, 'google.protobuf' in sys.modules)"
    )
    assert run_python(code).split() == ["False", "True"]


@pytest.mark.parametrize(
    "data", [b"\xff" * 1000, b"\x80" * 9 + b"\x02", b"\x0a" + b"\xff" * 9 + b"\x02"]
)
def test_endless_numbers_in_the_data_of_a_command_are_dropped(data: bytes) -> None:
    for kind in (LOGIN, MESSAGE, SYNC):
        with pytest.raises(BadFrame):
            protobuf.decode(sent(kind, data))
    # its data is not read
    assert protobuf.decode(sent(HEARTBEAT, data)).command == Heartbeat()


def test_long_texts_are_no_long_numbers() -> None:
    text = "一二三四五六七八九十".encode() * 3
    other = b"\x11" + b"\xff" * 8 + b"\x15" + b"\xff" * 4
    command = protobuf.decode(
        sent(MESSAGE, field(1, field(2, 267) + field(6, text)) + other)
    ).command
    assert isinstance(command, ChatMessage)
    assert command.receiver == 267


def test_text_that_is_not_utf8_spoils_no_other_field() -> None:
    texts = b"".join(field(number, b"\xff") for number in (12, 13, 14, 15))
    command = protobuf.decode(sent(MESSAGE, field(1, field(2, 267) + texts))).command
    assert isinstance(command, ChatMessage)
    assert (command.receiver, command.meta) == (267, b"\xff")


@relaxed
@given(data=st.data())
def test_a_message_that_is_cut_anywhere_is_broken_or_has_fewer_fields(
    data: st.DataObject,
) -> None:
    whole = sent(
        MESSAGE,
        field(1, message(1, 267, 266, 1, b"hi", 0, 1700000000000)) + field(2, 1),
    )
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        request = protobuf.decode(cut)
    except BadFrame:
        return
    assert request.command != protobuf.decode(whole).command
