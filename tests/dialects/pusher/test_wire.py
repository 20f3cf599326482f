"""The codec of the pusher dialect beyond its samples: any data, streamed
messages, close codes."""

import json

import pytest

from imserver.dialects.pusher import wire
from imserver.gateway import errors
from imserver.gateway.model import ChannelPart, Event, StreamPart


@pytest.mark.parametrize(
    "data", ["{}", '{"a": [1, 2]}', "5", '"x"', "hello", "", "{", "null"]
)
def test_the_data_of_an_event_arrive_unchanged(data: str) -> None:
    content, text = wire.as_payload(data)
    assert wire.data_of(Event("msg", "", text, data=content)) == data


def test_pieces_and_the_end_of_a_streamed_message_are_events_of_their_own() -> None:
    end = {"whole": True, "done": True, "from": "bot", "type": "text"}
    for part, shown in (
        (StreamPart("s", 1), {}),
        (StreamPart("s", 1, whole=True, done=True), end),
    ):
        channel = ChannelPart("news", stream=part)
        found = wire.PusherDialect().encode_event(
            Event("stream", "bot", "a", channel=channel)
        )
        assert found
        head = json.loads(found)
        assert (head["event"], head["channel"]) == ("imserver:stream", "news")
        assert json.loads(head["data"]) == {
            "stream": "s",
            "piece": 1,
            "text": "a",
            **shown,
        }


def test_every_close_code_of_ours_has_one_that_clients_understand() -> None:
    codes = wire.CLOSE_CODES
    for row in errors.CLOSE.values():
        code = codes.get(row.code, row.code)
        if row.code >= 4000:
            assert row.code in codes
            assert 4100 <= code < 4300 if row.reconnect else 4001 <= code < 4100, row
