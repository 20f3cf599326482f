"""The centrifuge dialect by vectors: what clients send, and the exact bytes of answers, in both forms."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw

from imserver.dialects.centrifuge import centrifuge_pb2 as pb
from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.wire import (
    BY_ALIAS,
    MAX_COMMANDS,
    PERSONAL,
    AskPresenceStats,
    CallMethod,
    CentrifugeDialect,
    CentrifugeLogin,
    CentrifugeProtobufDialect,
    ClientView,
    ConnectResult,
    HistoryResult,
    OwnChannel,
    PresenceResult,
    PresenceStatsResult,
    PublicationView,
    RefreshLogin,
    RefreshResult,
    RefreshSubscription,
    SubRefreshResult,
    SubscribeResult,
)
from imserver.gateway import errors
from imserver.gateway.errors import CloseCode
from imserver.gateway.model import (
    AskHistory,
    AskPresence,
    BadFrame,
    ChannelPart,
    Command,
    Event,
    Publish,
    Reply,
    Request,
    Signal,
    Subscribe,
    Unsubscribe,
)
from imserver.messenger.messages.commands import AskPins, Pin, React, Send
from imserver.messenger.messages.messaging import StoredView
from imserver.messenger.messages.model import Message
from imserver.messenger.messages.wire import MESSAGE_COMMANDS
from tests.support import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/centrifuge.json").read_text(encoding="utf-8"))
COMMANDS = {row["name"]: row for row in VECTORS["commands"]}
REPLIES = {row["name"]: row for row in VECTORS["replies"]}
as_json = CentrifugeDialect().joined(MESSAGE_COMMANDS)
as_protobuf = CentrifugeProtobufDialect().joined(MESSAGE_COMMANDS)
DIALECTS = (as_json, as_protobuf)

READ: dict[str, Command] = {
    "connect without a token": CentrifugeLogin("", name="js"),
    "connect": CentrifugeLogin("a.b.c", {"news": ("Zm9v", 7)}, b'{"x":1}', "js", "2", {"X-A": "b"}),
    "subscribe": Subscribe("news"),
    "subscribe from a position": Subscribe("news", "a.b.c", True, "Zm9v", 7, True, True),
    "unsubscribe": Unsubscribe("news"),
    "publish": Publish("news", '{"text":"你好"}'.encode()),
    "presence": AskPresence("news"),
    "presence_stats": AskPresenceStats("news"),
    "history": AskHistory("news", 10, ("Zm9v", 3), True),
    "position": AskHistory("news"),
    "rpc": CallMethod("send", b'{"to":"bob","text":"hi"}'),
    "refresh": RefreshLogin("a.b.c"),
    "sub_refresh": RefreshSubscription("news", "a.b.c"),
}

RECOVERED = SubscribeResult(
    recoverable=True,
    epoch="Zm9v",
    publications=[PublicationView(Raw(b'{"n":8}'), offset=8)],
    recovered=True,
    offset=8,
    positioned=True,
    was_recovering=True,
)
PAGE = [PublicationView(Raw(b'"hi"'), ClientView("bob", "c2"), 3, {"kind": "x"})]
ANN = ClientView("ann", "c1", Raw(b'{"name":"Ann"}'), Raw(b'{"role":1}'))
ANSWERS: dict[str, tuple[str, str, Reply]] = {
    "an error": ("2", "subscribe", Reply(codes.PERMISSION_DENIED)),
    "a temporary error": ("2", "subscribe", Reply(errors.ReplyCode.SYSTEM)),
    "an error for something unknown": ("2", "rpc", Reply(errors.ReplyCode.NO_DATA)),
    "connected": (
        "1",
        "connect",
        Reply(200, ConnectResult("c1", "imserver", True, 60, {"news": RECOVERED}, 25, True)),
    ),
    "subscribed": ("2", "subscribe", Reply(200, SubscribeResult())),
    "unsubscribed": ("3", "unsubscribe", Reply(200)),
    "present": ("5", "presence", Reply(200, PresenceResult({"c1": ANN}))),
    "counted": ("6", "presence_stats", Reply(200, PresenceStatsResult(2, 1))),
    "a page": ("7", "history", Reply(200, HistoryResult(PAGE, "Zm9v", 4))),
    "answered": ("8", "rpc", Reply(200, StoredView(7, 3, 1))),
    "renewed": ("9", "refresh", Reply(200, RefreshResult("c1", "imserver", True, 60))),
    "a renewed subscription": ("10", "sub_refresh", Reply(200, SubRefreshResult(True, 60))),
}
_BOB = b'{"user":"bob","client":"c2"}'
_ANN = b'{"user":"ann","client":"c1"}'
_STATE = b'{"recoverable":true,"epoch":"Zm9v","offset":4,"positioned":true,"data":{"x":1}}'
PUSHES = {
    "a publication": Event(
        "msg", "bob", "", data=b'{"n":9}', channel=ChannelPart("news", 9, "Zm9v", _BOB, b'{"kind":"x"}')
    ),
    "a text": Event("msg", "bob", "hi", channel=ChannelPart("news")),
    "a push to a user": Event("msg", "shop", "", data=b'{"n":1}'),
    "joined": Event("join", "ann", "", channel=ChannelPart("news", info=_ANN)),
    "left": Event("leave", "ann", "", channel=ChannelPart("news", info=_ANN)),
    "subscribed by the server": Event("subscribed", "", "", data=_STATE, channel=ChannelPart("news")),
    "unsubscribed by the server": Event(
        "unsubscribed", "", "insufficient state", code=2500, channel=ChannelPart("news")
    ),
}


def payload_of(
    event: Event | Message, dialect: CentrifugeDialect, user: str = "ann", state: OwnChannel | None = None
) -> bytes | None:
    """What a user receives of an event."""
    payload = dialect.encode_message(event) if isinstance(event, Message) else dialect.encode_event(event)
    return payload if payload is None or isinstance(payload, bytes) else payload(user, state)


def only(requests: Sequence[bytes]) -> bytes:
    (request,) = requests
    return request


# --- what clients send --------------------------------------------------------------------------------------


def test_every_vector_is_checked() -> None:
    assert COMMANDS.keys() == READ.keys()
    assert REPLIES.keys() == ANSWERS.keys() | PUSHES.keys()


@pytest.mark.parametrize("name", READ)
def test_a_command_means_the_same_in_both_forms(name: str) -> None:
    row = COMMANDS[name]
    for request in (
        as_json.decode(only(as_json.split(row["json"].encode()))),
        as_protobuf.decode(only(as_protobuf.split(bytes.fromhex(row["protobuf"])))),
    ):
        assert request.command == READ[name]
        assert request.seq == str(json.loads(row["json"])["id"])
        assert request.name in row["json"]


def test_methods_of_this_server_have_a_prefix() -> None:
    frame = b'{"id":1,"rpc":{"method":"imserver:%b","data":%b}}'
    for method, data, command in (
        (b"send", b'{"to":"bob","text":"hi"}', Send("bob", body=b"hi")),
        (b"react", b'{"id":7,"emoji":"+1","remove":true}', React(7, "+1", True)),
        (b"pin", b'{"id":7}', Pin(7)),
        (b"pins", b'{"conversation":3}', AskPins(3)),
    ):
        assert as_json.decode(frame % (method, data)).command == command


def test_a_tags_filter_is_refused_in_protobuf_too() -> None:
    filtered = pb.Command(id=1, subscribe=pb.SubscribeRequest(channel="news", tf=b"\x12\x01a"))
    request = as_protobuf.decode(filtered.SerializeToString())
    assert (request.command, request.code) == (None, codes.BAD_DATA)


def test_a_frame_has_many_commands() -> None:
    rows = list(COMMANDS.values())
    lines = as_json.split("\n".join(row["json"] for row in rows).encode() + b"\n")
    assert [as_json.decode(line).command for line in lines] == list(READ.values())
    parts = as_protobuf.split(b"".join(bytes.fromhex(row["protobuf"]) for row in rows))
    assert [as_protobuf.decode(part).command for part in parts] == list(READ.values())


@pytest.mark.parametrize(("dialect", "pong"), [(as_json, b"{}\n"), (as_protobuf, b"\0")])
def test_a_frame_with_too_many_commands_ends_the_connection(dialect: CentrifugeDialect, pong: bytes) -> None:
    assert len(dialect.split(pong * MAX_COMMANDS)) == MAX_COMMANDS
    with pytest.raises(BadFrame) as bad:
        dialect.split(pong * (MAX_COMMANDS + 1))
    assert bad.value.close == CloseCode.BAD_PAYLOAD


@pytest.mark.parametrize(
    ("dialect", "payload"),
    [(as_json, b"{}"), (as_protobuf, b""), (as_json, b'{"send":{"data":1}}'), (as_protobuf, b"\x62\x00")],
)
def test_the_answer_to_a_ping_and_a_message_without_an_answer_carry_nothing(
    dialect: CentrifugeDialect, payload: bytes
) -> None:
    with pytest.raises(BadFrame) as bad:
        dialect.decode(payload)
    assert (bad.value.reply, bad.value.close) == (None, 0)


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ('"connect":null,"subscribe":{"channel":"news"},"rpc":null', Subscribe("news")),
        ('"subscribe":{"channel":"news","token":null,"offset":null,"data":null}', Subscribe("news")),
        ('"history":{"channel":"news","since":{"offset":5,"epoch":null}}', AskHistory("news", 0, ("", 5))),
        (
            '"connect":{"token":null,"data":{"x":null},"subs":{"news":{"recover":true,"epoch":null}}}',
            CentrifugeLogin("", {"news": ("", 0)}, b'{"x":null}'),
        ),
        ('"publish":{"channel":"news","data":null}', Publish("news", b"null")),
    ],
)
def test_a_field_that_is_null_is_missing(given: str, command: Command) -> None:
    assert as_json.decode(b'{"id":1,%b}' % given.encode()).command == command


def test_a_ping_of_a_client_is_answered() -> None:
    with pytest.raises(BadFrame) as bad:
        as_json.decode(b'{"id":5,"ping":{}}')
    assert bad.value.reply == b'{"id":5,"ping":{}}'


@pytest.mark.parametrize(
    "payload",
    [
        b"nonsense",
        b"[]",
        b"5",
        b'{"id":1}',
        b'{"id":"1","connect":{}}',
        b'{"connect":{}}',
        b'{"id":1,"connect":{},"rpc":{}}',
        b'{"id":1,"connect":null}',
        b'{"id":1,"dance":{}}',
        b'{"id":1,"subscribe":{"channel":5}}',
        b'{"id":1,"subscribe":[]}',
    ],
)
def test_what_is_no_command_ends_the_connection(payload: bytes) -> None:
    with pytest.raises(BadFrame) as bad:
        as_json.decode(payload)
    assert bad.value.close == CloseCode.BAD_PAYLOAD


@pytest.mark.parametrize("frame", ["05", "80", "0308", "ffffffffffffffffff01"])
def test_a_protobuf_frame_that_ends_too_early_ends_the_connection(frame: str) -> None:
    with pytest.raises(BadFrame) as bad:
        as_protobuf.split(bytes.fromhex(frame))
    assert bad.value.close == CloseCode.BAD_PAYLOAD


def test_a_protobuf_frame_whose_length_has_more_than_five_bytes_ends_the_connection() -> None:
    command = b"\x08\x01"
    assert as_protobuf.split(b"\x82\x80\x80\x80\x00" + command) == [command]
    with pytest.raises(BadFrame):
        as_protobuf.split(b"\x82\x80\x80\x80\x80\x00" + command)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"id":1,"rpc":{"method":"imserver:send"}}', errors.ReplyCode.BAD_PARAMETER),
        (b'{"id":1,"rpc":{"method":"imserver:send","data":[]}}', errors.ReplyCode.BAD_PARAMETER),
        (
            b'{"id":1,"rpc":{"method":"imserver:search","data":{"text":"a\\u0000"}}}',
            errors.ReplyCode.BAD_PARAMETER,
        ),
        (b'{"id":1,"rpc":{"method":"imserver:read","data":{"id":"\\u0000"}}}', codes.BAD_DATA),
        (b'{"id":1,"rpc":{"method":"imserver:dance"}}', codes.METHOD_NOT_FOUND),
        (b'{"id":1,"publish":{"channel":"news"}}', codes.BAD_DATA),
        (b'{"id":1,"subscribe":{"channel":"news","offset":-1}}', codes.BAD_DATA),
        (b'{"id":1,"history":{"channel":"x","since":{"offset":-1}}}', codes.BAD_DATA),
        (b'{"id":1,"subscribe":{"channel":"news","tf":{"key":"a","cmp":"ex"}}}', codes.BAD_DATA),
        (b'{"id":1,"subscribe":{"channel":"news","type":1}}', codes.NOT_AVAILABLE),
    ],
)
def test_bad_data_is_answered_with_an_error(payload: bytes, code: int) -> None:
    request = as_json.decode(payload)
    assert (request.command, request.code) == (None, code)
    answer = json.loads(as_json.encode_reply(request, Reply(request.code)) or b"")
    assert answer["id"] == 1
    assert answer["error"]["code"] == codes.ERRORS[code].code


def test_a_binary_payload_is_refused_because_others_read_json() -> None:
    # publish, field 7: data (field 2) is the byte ff
    request = as_protobuf.decode(bytes.fromhex("0801 3a03 1201ff"))
    assert request.code == codes.BAD_DATA


# --- what the server sends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_both_forms(name: str) -> None:
    seq, command, reply = ANSWERS[name]
    request = Request(seq, command, None)
    assert as_json.encode_reply(request, reply) == REPLIES[name]["json"].encode()
    assert (as_protobuf.encode_reply(request, reply) or b"").hex() == REPLIES[name]["protobuf"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_encoded_result_makes_the_same_answer(dialect: CentrifugeDialect) -> None:
    for name, encoded in (
        ("present", dialect.join_clients([dialect.encode_clients({"c1": ANN})])),
        ("a page", dialect.encode_history(HistoryResult(PAGE, "Zm9v", 4))),
    ):
        seq, command, reply = ANSWERS[name]
        request = Request(seq, command, None)
        assert dialect.encode_reply(request, Reply(200, encoded)) == dialect.encode_reply(request, reply)


@pytest.mark.parametrize("name", PUSHES)
def test_a_push_in_both_forms(name: str) -> None:
    assert payload_of(PUSHES[name], as_json) == REPLIES[name]["json"].encode()
    assert (payload_of(PUSHES[name], as_protobuf) or b"").hex() == REPLIES[name]["protobuf"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_notices_of_an_app_cannot_be_expressed(dialect: CentrifugeDialect) -> None:
    for kind in ("enter", "exit", "left", "online", "offline"):
        assert dialect.encode_event(Event(kind, "ann", "x")) is None


def test_entries_and_signals_come_on_the_channel_of_their_receiver() -> None:
    entry = Message(7, 3, 1, "bob", ("ann", "bob"), body=b"hi", time_ms=5)
    found = json.loads(payload_of(entry, as_json, 'a"n') or b"")["push"]
    assert found["channel"] == '#a"n'
    assert found["pub"]["offset"] == 7
    assert found["pub"]["tags"] == {"kind": "message"}
    assert found["pub"]["data"]["text"] == "hi"
    signal = Signal("typing", "bob", "", to="ann")
    found = json.loads(payload_of(signal, as_json) or b"")["push"]["pub"]
    assert found == {"data": {"from": "bob", "to": "ann"}, "tags": {"kind": "typing"}}


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
        found = json.loads(payload_of(event, as_json, state=state) or b'{"push":{}}')["push"]
        assert found.get("channel") == expected
        if event is entry and found:
            assert found["pub"].get("offset") == offset
    publication = Event("msg", "shop", "hi", channel=ChannelPart("user:ann", 3, "epoch"))
    for event in (publication, Event("join", "ann", "", channel=ChannelPart("user:ann"))):
        assert json.loads(payload_of(event, as_json, state=state) or b"")["push"]["channel"] == own


def test_pings_are_empty_replies() -> None:
    assert (as_json.ping, as_protobuf.ping) == (b"{}", b"\0")
