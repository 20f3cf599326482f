"""Bodies and frames of the client dialect: whatever comes is read or refused;
what is read arrives."""

import json
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.dialects.client.api import (
    Binding,
    BodyReader,
    Client,
    ClientBody,
    GroupBody,
    MembershipBody,
    Push,
    PushToClient,
    PushToClients,
    PushToGroup,
    RegisterBody,
)
from imserver.dialects.client.wire import ClientDialect
from imserver.gateway.auth.principal import Principal
from imserver.gateway.http.call import Call
from imserver.gateway.http.form import BadBody
from imserver.gateway.model import BadFrame, Event, Reply, Request
from imserver.gateway.transport.http1 import HttpRequest

KINDS: list[type[ClientBody]] = [
    Binding, Client, GroupBody, MembershipBody, Push, PushToClient, PushToClients, PushToGroup, RegisterBody
]  # fmt: skip
NAMES = sorted({name for kind in KINDS for name in kind.__struct_encode_fields__})
relaxed = settings(deadline=None)

texts = st.text(max_size=12)
whole = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)
names = (
    st.sampled_from(NAMES) | st.sampled_from([name.upper() for name in NAMES]) | texts
)
client = ClientDialect()
Body = TypeVar("Body", bound=ClientBody)


def read(kind: type[Body], body: bytes) -> Body:
    call = Call(
        {}, "", Principal("nobody"), HttpRequest("POST", "/", b"", body, {}, ""), body
    )
    return BodyReader(kind).read(call)


def frame_of(push: Push) -> Any:
    """What a client reads of a push."""
    text, data = push.payload()
    more: Any = {"data": data, "code": push.code or 0, "note": push.msg or ""}
    return json.loads(
        client.encode_event(Event("msg", push.send_user_id or "", text, "1", **more))
        or b""
    )


@relaxed
@given(kind=st.sampled_from(KINDS), body=st.dictionaries(names, values, max_size=5))
def test_any_object_is_read_or_refused_and_what_is_read_can_be_delivered(
    kind: type[ClientBody], body: dict[str, Any]
) -> None:
    try:
        found = read(kind, json.dumps(body).encode())
        if isinstance(found, Push):
            frame_of(found)
    except BadBody:
        pass


@relaxed
@given(
    data=whole
    | st.lists(values, max_size=3)
    | st.dictionaries(whole, values, max_size=3),
    code=st.integers(-(2**63), 2**63 - 1),
    sender=whole,
    note=whole,
)
def test_whatever_is_pushed_arrives_whichever_way_it_was_read(
    data: Any, code: int, sender: str, note: str
) -> None:
    fields = {"sendUserId": sender, "code": code, "msg": note, "data": data}
    straight = read(Push, json.dumps(fields).encode())
    slowly = read(Push, json.dumps({**fields, "unknown": None}).encode())
    for push in (straight, slowly):
        frame = frame_of(push)
        assert (frame["sendUserId"], frame["code"], frame["msg"]) == (
            sender,
            code,
            note,
        )
        # JavaScript writes half characters, which cannot be sent: they come as
        # U+FFFD, or still escaped.
        assert well_formed(frame["data"]) == well_formed(data)


def well_formed(value: Any) -> Any:
    """Half characters replaced; the last of equal keys counts."""
    return json.loads(
        json.dumps(value, ensure_ascii=False)
        .encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
    )


@pytest.mark.parametrize(
    "data",
    [
        b'"\xff"',
        b'["\xff"]',
        b'{"\xff":1}',
        b"5",
        b"true",
        b"1.5",
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda data: repr(data[:9]),
)
def test_data_that_no_client_could_read_is_refused(data: bytes) -> None:
    with pytest.raises(BadBody):
        read(Push, b'{"data":%b}' % data).payload()


def test_a_missing_field_and_a_null_are_the_same() -> None:
    nothing = {"messageId": "1", "sendUserId": "", "code": 0, "msg": "", "data": ""}
    for body in (b"{}", b'{"data":null,"code":null,"msg":null,"sendUserId":null}'):
        assert frame_of(read(Push, body)) == nothing


@relaxed
@given(payload=st.binary(max_size=60))
def test_messages_of_clients_are_read_and_not_answered(payload: bytes) -> None:
    with pytest.raises(BadFrame) as caught:
        client.decode(payload)
    assert caught.value.reply is None
    assert client.encode_reply(Request("", "", None, 1010), Reply(1010)) is None


def test_a_push_without_an_id_gets_sixteen_hexadecimal_digits_of_its_own() -> None:
    ids = {
        json.loads(client.encode_event(Event("msg", "", "x")) or b"")["messageId"]
        for _ in range(1000)
    }
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {16}
    assert all(set(one) <= set("0123456789abcdef") for one in ids)
