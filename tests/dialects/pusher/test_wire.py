"""The pusher dialect frame by frame: requests, events, and the server's own answers."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from imserver.dialects.pusher import wire
from imserver.dialects.pusher.wire import PusherDialect
from imserver.gateway import errors
from imserver.gateway.model import BadFrame, ChannelPart, Event, Reply
from tests.support import ROOT

pusher = PusherDialect()
VECTORS = json.loads((ROOT / "tests" / "vectors" / "pusher.json").read_text(encoding="utf-8"))


def named(rows: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row["name"])


@named([row for row in VECTORS["requests"] if "command" in row])
def test_requests_become_commands(row: dict[str, Any]) -> None:
    command = pusher.decode(row["frame"].encode()).command
    fields = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in msgspec.structs.asdict(command).items()  # type: ignore[type-var]
    }
    assert [type(command).__name__, fields] == row["command"]


@named([row for row in VECTORS["requests"] if "error" in row])
def test_other_frames_are_answered_with_an_error(row: dict[str, Any]) -> None:
    try:
        request = pusher.decode(row["frame"].encode())
        reply = pusher.encode_reply(request, Reply(request.code))
    except BadFrame as bad:
        reply = bad.reply
    assert (json.loads(reply)["data"]["code"] if reply else None) == row["error"]


@named(VECTORS["events"])
def test_events_become_frames(row: dict[str, Any]) -> None:
    fields = {"sender": "", "text": "", **row["event"]}
    fields["data"] = fields.get("data", "").encode()
    channel = ChannelPart(row["channel"]) if row["channel"] else None
    found = pusher.encode_event(Event(**fields, channel=channel))
    assert (found.decode() if found else None) == row["frame"]


def data_of(frame: bytes) -> Any:
    """The data of a frame, which are JSON in a string."""
    return json.loads(json.loads(frame)["data"])


def test_a_connection_begins_with_its_id() -> None:
    found = wire.established("1.2", 120)
    assert json.loads(found)["event"] == "pusher:connection_established"
    assert data_of(found) == {"socket_id": "1.2", "activity_timeout": 120}


@named([row for row in VECTORS["requests"] if "reply" in row])
def test_a_ping_is_answered(row: dict[str, Any]) -> None:
    with pytest.raises(BadFrame) as bad:
        pusher.decode(row["frame"].encode())
    assert json.loads(bad.value.reply or b"") == row["reply"]
    assert bad.value.close == 0


def test_the_answers_to_subscriptions() -> None:
    members = {"7": Raw(b'{"name":"x"}'), "8": Raw(b"null")}
    assert data_of(wire.subscribed("presence-a", members)) == {
        "presence": {"count": 2, "ids": ["7", "8"], "hash": {"7": {"name": "x"}, "8": None}}
    }
    assert data_of(wire.subscribed("news")) == {}
    refused = wire.not_subscribed("private-a", "AuthError", "why", 401)
    assert json.loads(refused)["channel"] == "private-a"
    assert data_of(refused) == {"type": "AuthError", "error": "why", "status": 401}
    assert json.loads(wire.cache_miss("cache-a")) == {"event": "pusher:cache_miss", "channel": "cache-a"}


def test_an_error_is_an_object_in_data() -> None:
    assert json.loads(wire.error(4301, "why")) == {
        "event": "pusher:error",
        "data": {"code": 4301, "message": "why"},
    }


@pytest.mark.parametrize("data", ["{}", '{"a": [1, 2]}', "5", '"x"', "hello", "", "{", "null"])
def test_the_data_of_an_event_arrive_unchanged(data: str) -> None:
    content, text = wire.as_payload(data)
    assert wire.data_of(Event("msg", "", text, data=content)) == data


def test_every_close_code_of_ours_has_one_that_clients_understand() -> None:
    codes = wire.CLOSE_CODES
    for row in errors.CLOSE.values():
        code = codes.get(row.code, row.code)
        if row.code >= 4000:
            assert row.code in codes
            assert 4100 <= code < 4300 if row.reconnect else 4001 <= code < 4100, row
