"""The codec of the client dialect beyond its samples: silence to whatever comes, ids, notices."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.dialects.client.wire import BAD_SYSTEM, NO_SYSTEM, ClientDialect, refusal
from imserver.gateway.model import BadFrame, Event, Reply, Request

client = ClientDialect()
relaxed = settings(deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def received(event: Event) -> Any:
    """What a client reads."""
    payload = client.encode_event(event)
    assert payload is not None
    return json.loads(payload)


def test_a_refusal_has_the_form_of_other_frames() -> None:
    assert refusal(-1001, "系统ID不能为空") == NO_SYSTEM
    assert json.loads(BAD_SYSTEM) == {**json.loads(NO_SYSTEM), "msg": "系统ID无效"}


@relaxed
@given(payload=st.binary(max_size=60))
def test_messages_of_clients_are_read_and_not_answered(payload: bytes) -> None:
    with pytest.raises(BadFrame) as caught:
        client.decode(payload)
    assert caught.value.reply is None
    assert client.encode_reply(Request("", "", None, 1010), Reply(1010)) is None


def test_a_push_without_an_id_gets_sixteen_hexadecimal_digits_of_its_own() -> None:
    ids = {received(Event("msg", "", "x"))["messageId"] for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {16}
    assert all(set(one) <= set("0123456789abcdef") for one in ids)


@relaxed
@given(user=texts, extend=texts)
def test_a_notice_carries_json_in_a_string(user: str, extend: str) -> None:
    member = {"clientId": "c", "extend": extend, "userId": user}
    frame = received(Event("offline", "", "", data=json.dumps(member).encode()))
    assert isinstance(frame["data"], str)
    assert json.loads(frame["data"]) == member
