"""The codecs of the centrifuge dialect beyond their samples: many commands in a
frame, names of channels."""

import json

import pytest
from msgspec import Raw

from imserver.dialects.centrifuge.wire import (
    BY_ALIAS,
    MAX_COMMANDS,
    PERSONAL,
    CentrifugeDialect,
    CentrifugeProtobufDialect,
    ClientView,
    HistoryResult,
    OwnChannel,
    PresenceResult,
    PublicationView,
)
from imserver.gateway.errors import CloseCode
from imserver.gateway.model import BadFrame, ChannelPart, Event, Reply, Request
from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from imserver.messenger.log.model import Message
from tests.samples import bytes_of, samples_of, shown

as_json = CentrifugeDialect().joined(MESSAGE_COMMANDS)
as_protobuf = CentrifugeProtobufDialect().joined(MESSAGE_COMMANDS)
DIALECTS = (as_json, as_protobuf)


def payload_of(
    event: Event | Message,
    dialect: CentrifugeDialect,
    user: str = "ann",
    state: OwnChannel | None = None,
) -> bytes | None:
    """What a user receives of an event."""
    payload = (
        dialect.encode_message(event)
        if isinstance(event, Message)
        else dialect.encode_event(event)
    )
    return (
        payload
        if payload is None or isinstance(payload, bytes)
        else payload(user, state)
    )


@pytest.mark.parametrize(("dialect", "line"), [(as_json, b"\n"), (as_protobuf, b"")])
def test_a_frame_has_many_commands(dialect: CentrifugeDialect, line: bytes) -> None:
    rows = [row for row in samples_of("centrifuge")["samples"] if "request" in row]
    frame = line.join(bytes_of(row["send"], dialect.text) for row in rows) + line
    assert [shown(dialect.decode(part).command) for part in dialect.split(frame)] == [
        row["command"] for row in rows
    ]


@pytest.mark.parametrize(
    ("dialect", "pong"), [(as_json, b"{}\n"), (as_protobuf, b"\0")]
)
def test_a_frame_with_too_many_commands_ends_the_connection(
    dialect: CentrifugeDialect, pong: bytes
) -> None:
    assert len(dialect.split(pong * MAX_COMMANDS)) == MAX_COMMANDS
    with pytest.raises(BadFrame) as bad:
        dialect.split(pong * (MAX_COMMANDS + 1))
    assert bad.value.close == CloseCode.BAD_PAYLOAD


def test_the_length_of_a_protobuf_frame_may_have_five_bytes() -> None:
    assert as_protobuf.split(b"\x82\x80\x80\x80\x00\x08\x01") == [b"\x08\x01"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_encoded_result_makes_the_same_answer(dialect: CentrifugeDialect) -> None:
    ann = ClientView("ann", "c1", Raw(b'{"name":"Ann"}'), Raw(b'{"role":1}'))
    page = HistoryResult(
        [PublicationView(Raw(b'"hi"'), ann, 3, {"kind": "x"})], "Zm9v", 4
    )
    clients = dialect.join_clients([dialect.encode_clients({"c1": ann})])
    for name, *results in (
        ("presence", clients, PresenceResult({"c1": ann})),
        ("history", dialect.encode_history(page), page),
    ):
        request = Request("5", name, None)
        assert (
            len({dialect.encode_reply(request, Reply(200, each)) for each in results})
            == 1
        )


@pytest.mark.parametrize(
    ("state", "name", "own", "offset"),
    [
        (OwnChannel(), None, "user:ann", None),
        (OwnChannel(marks=PERSONAL), "#ann", "user:ann", 7),
        (OwnChannel(marks=PERSONAL | BY_ALIAS), "#ann", "#ann", None),
        (OwnChannel(marks=BY_ALIAS), None, "#ann", None),
    ],
)
def test_a_client_has_the_channel_of_its_user_under_the_name_by_which_it_got_it(
    state: OwnChannel, name: str | None, own: str, offset: int | None
) -> None:
    entry = Message(7, 3, 1, "bob", ("ann", "bob"), body=b"hi", time_ms=5)
    for event, expected in ((entry, name), (Event("msg", "shop", "hi"), name)):
        found = json.loads(payload_of(event, as_json, state=state) or b'{"push":{}}')[
            "push"
        ]
        assert found.get("channel") == expected
        if event is entry and found:
            assert found["pub"].get("offset") == offset
    publication = Event(
        "msg", "shop", "hi", channel=ChannelPart("user:ann", 3, "epoch")
    )
    for event in (
        publication,
        Event("join", "ann", "", channel=ChannelPart("user:ann")),
    ):
        assert (
            json.loads(payload_of(event, as_json, state=state) or b"")["push"][
                "channel"
            ]
            == own
        )
