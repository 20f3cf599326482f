"""The codec of the action dialect beyond its samples: any text, the receiver,
the time."""

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.dialects.action.wire import ActionDialect, Say
from imserver.gateway.model import Event

action = ActionDialect()
relaxed = settings(deadline=None)


def say(**data: Any) -> Any:
    """The command of a message with this data, or the code of its refusal."""
    request = action.decode(
        json.dumps({"seq": "7", "action": "sendmsg", "data": data}).encode()
    )
    return request.command or request.code


@relaxed
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_come_out_as_they_went_in(words: str) -> None:
    kind = words.replace("\0", "")
    command = say(msgType=kind, message=words)
    assert command == Say(kind, words, "7")
    before, behind = action.encode_for(Event("msg", words, words, words, words)) or (
        b"",
        b"",
    )
    data = json.loads(before + b'"2"' + behind)["data"]
    assert {data[key] for key in ("msgId", "msgType", "content", "from")} == {
        words
    } or not words


def test_the_receiver_is_the_only_thing_that_differs() -> None:
    event = Event("msg", "1", "hi", "7", time=5)
    assert action.encode_event(event) == b'""'.join(action.encode_for(event) or ())


def test_a_message_without_a_time_gets_the_current_time() -> None:
    _, behind = action.encode_for(Event("msg", "1", "hi", "7")) or (b"", b"")
    assert re.fullmatch(rb',"msgTimestamp":"[1-9][0-9]{9}"\}\}', behind)
