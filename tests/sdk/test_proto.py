"""The schema of the protobuf dialect says what the server writes and reads,
field by field."""

import re
from typing import Any

import pytest

from imserver.dialects.protobuf import wire
from imserver.gateway.model import ChannelPart, Reply, Request, Signal, StreamPart
from imserver.messenger.delivery.receipts import (
    MarksAnswer,
    PeerReceipt,
    ReadMark,
    ReceiptPage,
    ReceiptShown,
)
from imserver.messenger.log.commands import SearchFilter
from imserver.messenger.log.model import Message
from imserver.messenger.messages.message_commands import (
    ConversationPage,
    ConversationView,
    EntryPage,
    SearchPage,
)
from tests.integration import protobuf
from tests.support import ROOT

TEXT = re.sub(
    r"//.*", "", (ROOT / "sdk" / "protobuf" / "chat.proto").read_text(encoding="utf-8")
)
ENUMS = {
    name: {int(number): word for word, number in re.findall(r"(\w+) = (\d+);", body)}
    for name, body in re.findall(r"enum (\w+) \{(.*?)\}", TEXT, re.DOTALL)
}
_FIELD = re.compile(r"(repeated |optional )?(\w+) (\w+) = (\d+);")
MESSAGES = {
    name: {
        int(number): (word, kind, way)
        for way, kind, word, number in _FIELD.findall(body)
    }
    for name, body in re.findall(r"message (\w+) \{(.*?)\}", TEXT, re.DOTALL)
}
dialect = wire.FullProtobufDialect()
ENTRY = Message(
    9, 5, 2, "ann", ("ann", "bob"), "edit", "picture", b"{}", "mine", 1, 8, b"{}"
)
OWN = Message(
    9, 5, 2, "266", ("266", "267"), "edit", "picture", b"{}", "mine", 1, 8, b"{}"
)


def is_bytes(kind: str, way: str) -> bool:
    """Whether a field is written as bytes: numbers that are repeated are
    packed."""
    return kind in ("bytes", "string") or kind in MESSAGES or way == "repeated "


def written(name: str, *payload: bytes) -> None:
    """Together these have all fields of a message, each as it is declared."""
    found = {
        (number, isinstance(value, bytes))
        for data in payload
        for number, value in protobuf.fields(data)
    }
    assert found == {
        (number, is_bytes(kind, way))
        for number, (_, kind, way) in MESSAGES[name].items()
    }


def answer(name: str, data: Any) -> bytes:
    payload = dialect.encode_reply(Request("", name, None), Reply(200, data))
    assert payload is not None
    return protobuf.outputs(payload)[0].data


def data_of(payload: bytes | None) -> bytes:
    return protobuf.outputs(payload or b"")[0].data


def test_messages_are_declared_as_they_are_written() -> None:
    written(
        "Message",
        *(wire.as_full_message(each).SerializeToString() for each in (ENTRY, OWN)),
    )
    written("PushMsg", data_of(dialect.encode_message(ENTRY)))
    written(
        "ACKMsg",
        data_of(wire.uplink_ack(1, 2)),
        data_of(wire.refusal(1003, 3, 7)),
        answer("login", wire.Recovered(True, True)),
    )
    written(
        "SyncOutputMsg", data_of(dialect.page([wire.as_full_message(OWN)], True, True))
    )
    written("HistoryOutputMsg", answer("history", EntryPage([ENTRY.view()], True)))
    written("SearchOutputMsg", answer("search", SearchPage([ENTRY.view()], True, 7)))
    written("OutputBatch", wire.uplink_ack(1, 2))
    written("Output", protobuf.fields(wire.uplink_ack(1, 2))[0][1])


def test_lists_are_declared_as_they_are_written() -> None:
    rows = [
        ConversationView(5, "user", 3, 8, "member", peer, "us", ENTRY.view())
        for peer in ("267", "ann")
    ]
    payload = answer("conversations", ConversationPage(rows, True))
    written("ConversationsOutputMsg", payload)
    written(
        "Conversation",
        *[value for number, value in protobuf.fields(payload) if number == 1],
    )
    written(
        "ReceiptsOutputMsg",
        answer("receipts", ReceiptPage([ReceiptShown("267", 8, 9)], True)),
    )
    peers = [PeerReceipt(user, 7, 8, 5) for user in ("267", "ann")]
    payload = answer("marks", MarksAnswer(12, [ReadMark(5, 8)], [3], peers))
    written("MarksOutputMsg", payload)
    written(
        "Receipt", *[value for number, value in protobuf.fields(payload) if number == 4]
    )
    signals = [
        Signal(
            "hidden", "266", "", to="267", conversation=5, read=1, received=2, ids=(3,)
        ),
        Signal("typing", "ann", "", to="bob"),
        Signal(
            "piece",
            "266",
            "a",
            channel=ChannelPart("user:7", stream=StreamPart("s", 1, True, True)),
        ),
    ]
    written("SignalMsg", *[data_of(dialect.encode_event(each)) for each in signals])


KINDS = (1, 5, 6, 7, 9, 10, 11, 12, 13, 14)
NAMES = (
    "Login",
    "SyncInput",
    "Place",
    "Place",
    "Hide",
    "History",
    "Conversations",
    "Receipts",
    "Marks",
    "Search",
)


@pytest.mark.parametrize(("kind", "name"), [*zip(KINDS, NAMES, strict=True)])
def test_each_field_of_a_request_is_read(kind: int, name: str) -> None:
    name = f"{name}Msg"
    data = b""
    values: list[object] = []
    for number, (_, declared, way) in MESSAGES[name].items():
        if is_bytes(declared, way):
            data += protobuf.field(number, b"%d" % (70 + number))
            values.append(f"{70 + number}")
        else:
            data += protobuf.field(number, 1 if declared == "bool" else 70 + number)
            values.append(True if declared == "bool" else 70 + number)
    command = dialect.decode(protobuf.sent(kind, data)).command
    assert command is not None
    found = [getattr(command, field) for field in command.__struct_fields__]
    if name == "HideMsg":
        assert found == [(ord("7"), ord("1"))]
    elif isinstance(command, wire.ChatLogin):
        assert found == values
    elif name in (others := {"HistoryMsg": [-1, ()], "ReceiptsMsg": [0]}):
        assert (list(map(str, found[:3])), found[3:]) == (
            list(map(str, values)),
            others[name],
        )
    else:
        if name == "SearchMsg":
            assert found.pop() == SearchFilter()
        assert sorted(map(str, found)) == sorted(map(str, values))


def test_each_field_of_a_message_is_read() -> None:
    more = {"kind": 2, "about": 9, "meta": "{}"}
    command = dialect.decode(
        protobuf.message(
            7, protobuf.SentMessage(1, 2, 3, 4, b"5", 6, 8), "mine", **more
        )
    ).command  # type: ignore[arg-type]
    assert command == wire.ChatMessage(7, 1, 2, 3, 4, b"5", 8, "mine", 2, 9, b"{}")
    assert list(MESSAGES["UpMsg"]) == [1, 2, 3]


def test_enums_have_the_numbers_of_the_code() -> None:
    words = {
        number: word.partition("_")[2].lower()
        for number, word in ENUMS["CmdType"].items()
    }
    assert {number: words[number] for number in wire.FULL_COMMANDS} == {
        number: name for number, (name, _) in wire.FULL_COMMANDS.items()
    }
    assert [word.partition("_")[2].lower() for word in ENUMS["Kind"].values()] == list(
        wire.KINDS
    )
    assert [word.partition("_")[2].lower() for word in ENUMS["SignalKind"].values()][
        1:
    ] == list(wire.SIGNALS)
    types = [word.partition("_")[2].lower() for word in ENUMS["MessageType"].values()]
    assert types[1:] == list(wire.MESSAGE_TYPES)
