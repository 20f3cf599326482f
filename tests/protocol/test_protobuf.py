"""The protobuf dialect byte by byte: captures of the original, merging, what is skipped, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict

from imserver import errors
from imserver.model import BadFrame, ChatLogin, ChatMessage, ChatSync, Event, Message, Reply, Request
from imserver.protocol.protobuf import (
    CT_SYNC,
    LOGIN_ACK,
    MAX_DEVICE_BYTES,
    MAX_ID,
    MAX_MESSAGE_ID_BYTES,
    MESSAGE_TYPES,
    ProtobufDialect,
    account,
    message,
    output,
    page,
    push,
    type_name,
    type_number,
    uplink_ack,
)
from imserver.protocol.varints import Broken, Fields, lengthy, read_fields, signed32, signed64, varint
from tests.integration.protobuf import outputs, pushed

protobuf = ProtobufDialect()
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "protobuf.json").read_text(encoding="utf-8"))
relaxed = settings(deadline=None)
unsigned = st.integers(0, 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)


def named(rows: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row["name"])


def frame(row: dict[str, Any]) -> bytes:
    return bytes.fromhex(row["frame"])


def told(fields: dict[str, Any]) -> bytes:
    """The message of these fields."""
    return message(**{**fields, "content": fields["content"].encode()})


def numbered(kind: int, data: bytes) -> bytes:
    """One client frame."""
    return b"\x08" + varint(kind) + lengthy(0x12, data)


# --- captures -----------------------------------------------------------------------------------------------


@named(VECTORS["requests"])
def test_frames_of_clients_become_commands(row: dict[str, Any]) -> None:
    command = protobuf.decode(frame(row)).command
    assert type(command).__name__ == row["command"]
    found = to_builtins(asdict(command), builtin_types=(bytes,))  # type: ignore[arg-type]
    named_fields = {key: found[key] for key in row["fields"]}
    if "content" in named_fields:
        named_fields["content"] = named_fields["content"].decode()
    assert named_fields == row["fields"]
    assert not any(value for key, value in found.items() if key not in row["fields"])


@named(VECTORS["replies"])
def test_frames_of_the_server_are_those_of_the_original(row: dict[str, Any]) -> None:
    ((kind, what),) = row["tells"].items()
    made = {
        "login": lambda: protobuf.encode_reply(Request("", "login", None), Reply(errors.REPLY_OK)),
        "ack": lambda: uplink_ack(what["number"], what["seq"]),
        "push": lambda: push(told(what)),
        "sync": lambda: page(map(told, what["messages"]), what["more"]),
    }[kind]()
    assert made is not None
    assert made.hex(" ") == frame(row).hex(" ")


@named(VECTORS["dropped"])
def test_what_is_no_command_is_dropped_without_an_answer(row: dict[str, Any]) -> None:
    with pytest.raises(BadFrame) as caught:
        protobuf.decode(frame(row))
    assert caught.value.reply is None


# --- what is refused, and answered --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["login", "heartbeat", "message", "sync"])
def test_a_refusal_is_silence(name: str) -> None:
    for code in errors.REPLY_TEXT:
        if code != errors.REPLY_OK:
            assert protobuf.encode_reply(Request("", name, None, code), Reply(code, b"x")) is None


@pytest.mark.parametrize("name", ["heartbeat", "message", "sync"])
def test_only_a_login_is_answered_by_a_reply(name: str) -> None:
    assert protobuf.encode_reply(Request("", name, None), Reply(errors.REPLY_OK)) is None


def test_batches_that_follow_each_other_are_one_batch() -> None:
    outputs = [LOGIN_ACK, uplink_ack(1, 1), output(CT_SYNC, b"")]
    assert sum(len(lengthy(0x0A, read_one(one))) for one in outputs) == len(b"".join(outputs))
    assert read_fields(b"".join(outputs), merged=0x0A) == {0x0A: b"".join(map(read_one, outputs))}


def read_one(batch: bytes) -> bytes:
    """The output in a batch of one."""
    found = read_fields(batch)[0x0A]
    assert isinstance(found, bytes)
    return found


@pytest.mark.parametrize(
    ("field", "limit", "make"),
    [
        (0x12, MAX_DEVICE_BYTES, lambda text: numbered(1, lengthy(0x12, text))),
        (0x1A, MAX_MESSAGE_ID_BYTES, lambda text: numbered(3, lengthy(0x1A, text))),
    ],
)
def test_names_of_devices_and_ids_of_messages_have_a_limit(field: int, limit: int, make: Any) -> None:
    assert protobuf.decode(make(b"x" * limit)).command is not None
    with pytest.raises(BadFrame):
        protobuf.decode(make(b"x" * (limit + 1)))


def stored(id: int, kind: str = "message") -> Message:
    """An entry of a group."""
    return Message(id, 7, id, "266", kind=kind, body=b"t%d" % id, time_ms=id)


def test_payloads_in_a_row_are_one_batch_and_a_join_has_none() -> None:
    row = [stored(1), stored(2, "join"), stored(3)]
    made = [protobuf.encode_message(each) for each in row]
    assert made[1] is None
    batch = outputs((made[0] or b"") + (made[2] or b""))
    assert [pushed(each).content for each in batch] == [b"t1", b"t3"]


# --- messages -----------------------------------------------------------------------------------------------


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
    sent = message(session_type, receiver, sender, type_number, content, 0, sent_ms)
    up = lengthy(0x0A, sent) + b"\x10" + varint(number)
    command = protobuf.decode(numbered(3, up)).command
    assert isinstance(command, ChatMessage)
    assert command.number == number
    assert sent == message(
        command.session_type,
        command.receiver,
        command.sender,
        command.type,
        command.content,
        0,
        command.sent_ms,
    )


@given(after=unsigned)
def test_a_sync_may_begin_anywhere(after: int) -> None:
    assert protobuf.decode(numbered(5, b"\x08" + varint(after))).command == ChatSync(after)


@given(token=st.binary(max_size=200))
def test_a_token_may_be_any_bytes(token: bytes) -> None:
    assert protobuf.decode(numbered(1, lengthy(0x0A, token))).command == ChatLogin(token.decode("latin-1"))


@given(number=st.integers(-(2**31), 2**31 - 1))
def test_a_type_keeps_its_number_under_whatever_name(number: int) -> None:
    assert type_number(type_name(number)) == number


def test_types_that_the_original_knows_have_their_numbers() -> None:
    assert [type_number(name) for name in MESSAGE_TYPES[:3]] == [1, 2, 3]
    assert type_number("invoice") == type_number("custom") == MESSAGE_TYPES.index("custom") + 1


@pytest.mark.parametrize(
    ("user", "number"),
    [("266", 266), (str(MAX_ID), MAX_ID), (str(MAX_ID + 1), 0), ("", 0), ("-1", 0), ("ann", 0), ("²", 0)],
)
def test_an_account_is_the_number_that_its_user_is(user: str, number: int) -> None:
    assert account(user) == number


def test_a_push_that_is_not_kept_is_a_message_without_a_place() -> None:
    event = Event("msg", "266", "hi", "7", time=1700000000)
    assert protobuf.encode_event(event) == push(message(1, 0, 266, 1, b"hi", 0, 1700000000000))
    other = Event("msg", "shop", "", "7", "order", b'{"n":1}', time=1700000000)
    assert protobuf.encode_event(other) == push(message(1, 0, 0, 7, b'{"n":1}', 0, 1700000000000))


@pytest.mark.parametrize("kind", ["enter", "exit", "left", "online", "offline"])
def test_there_is_no_word_for_who_comes_and_goes(kind: str) -> None:
    assert protobuf.encode_event(Event(kind, "266", "x")) is None


# --- the wire -----------------------------------------------------------------------------------------------


@given(number=unsigned)
def test_numbers_come_back_as_they_went(number: int) -> None:
    assert read_fields(b"\x08" + varint(number)) == {0x08: number}


@given(number=signed)
def test_numbers_below_zero_come_back_too(number: int) -> None:
    assert signed64(read_fields(b"\x08" + varint(number))[0x08]) == number  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "number"), [(2**31, -(2**31)), (2**32 - 1, -1), (2**32 + 5, 5), (7, 7)])
def test_enums_are_the_low_32_bits(bits: int, number: int) -> None:
    assert signed32(bits) == number


rows = st.lists(
    st.tuples(st.integers(1, 2**29 - 1), unsigned | st.binary(max_size=40)),
    max_size=12,
    unique_by=lambda r: r[0],
)


@relaxed
@given(rows=rows, seed=st.randoms(use_true_random=False))
def test_fields_are_found_among_those_without_meaning(rows: list[Any], seed: Any) -> None:
    expected: Fields = {}
    wire = []
    for number, value in rows:
        kind = 0 if isinstance(value, int) else 2
        expected[number << 3 | kind] = value
        body = varint(value) if isinstance(value, int) else varint(len(value)) + value
        wire.append(varint(number << 3 | kind) + body)
    strange = [b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x0b\x08\x05\x12\x01x\x1b\x1c\x0c"]
    for piece in strange:
        wire.insert(seed.randrange(len(wire) + 1), piece)
    assert read_fields(b"".join(wire)) == expected


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    assert read_fields(b"\x08\x01\x12\x01a\x08\x02\x12\x01b") == {0x08: 2, 0x12: b"b"}


def test_a_message_in_many_pieces_costs_what_a_whole_one_does() -> None:
    pieces = 100_000
    assert read_fields(b"\x0a\x01x" * pieces, merged=0x0A) == {0x0A: b"x" * pieces}


@relaxed
@given(data=st.binary(max_size=80))
def test_bytes_are_a_message_or_broken_and_nothing_else(data: bytes) -> None:
    try:
        found = read_fields(data)
    except Broken:
        return
    assert all(tag >> 3 and tag & 7 in (0, 2) for tag in found)


@relaxed
@given(data=st.data())
def test_a_message_that_is_cut_anywhere_is_broken_or_has_fewer_fields(data: st.DataObject) -> None:
    whole = frame(VECTORS["requests"][3])
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        request = protobuf.decode(cut)
    except BadFrame:
        return
    assert request.command != protobuf.decode(whole).command
