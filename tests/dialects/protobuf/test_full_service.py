"""Protobuf clients that log in with a cursor: resuming, acknowledging, forms
for all that is stored."""

from collections.abc import Iterator

import pytest

from imserver.gateway.transport.states import CLOSING
from imserver.messenger.delivery import acks
from imserver.messenger.delivery.acks import AckingLogSubscription
from imserver.messenger.delivery.catch_up import RECOVERED
from tests.dialects.protobuf.test_service import APP, Harness, ProtobufClient, missed
from tests.gateway.transport.harness import until
from tests.integration import protobuf
from tests.integration.protobuf import (
    ACK,
    MESSAGE,
    SINGLE,
    SYNC,
    SentMessage,
    further,
    recovered,
    refused,
)


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as found:
        yield found


def resumed(
    harness: Harness, id: int, cursor: int = 0, acks: bool = False
) -> ProtobufClient:
    """Somebody who has logged in with a cursor, and was answered."""
    found = harness.visitor()
    found.id = id
    found.send_payload(protobuf.login(str(id), "", cursor, acks))
    until(found.outputs)
    return found


def kinds_of(who: ProtobufClient) -> list[str]:
    """The kinds of what was pushed."""
    return [
        further(protobuf.one(each.data)[1])["kind"]
        for each in who.outputs()
        if each.kind == MESSAGE
    ]


@pytest.mark.parametrize("count", [0, 1, RECOVERED])
def test_missed_entries_follow_the_ack_of_a_login_with_a_cursor(
    harness: Harness, count: int
) -> None:
    missed(harness, count)
    ann = resumed(harness, 266)
    until(lambda: len(ann.outputs()) == count + 1)
    assert recovered(ann.outputs()[0]) == (True, False)
    assert [each.text for each in ann.pushes()] == [
        f"t{number}" for number in range(1, count + 1)
    ]


def test_a_client_that_missed_too_much_must_sync_before_it_gets_new_entries(
    harness: Harness,
) -> None:
    missed(harness, RECOVERED + 1)
    ann = resumed(harness, 266)
    bob = harness.live(267)
    assert recovered(ann.outputs()[0]) == (False, False)
    bob.single(1, 266, "new")
    bob.expect(1)
    ann.settle()
    assert len(ann.outputs()) == 1
    position = 0
    for _ in range(2):
        ann.send_payload(
            protobuf.sent(SYNC, protobuf.field(1, position) + protobuf.field(2, 150))
        )
        position = until(
            lambda position=position: [
                seq for seq in ann.stream()[-1:] if seq > position
            ]
        )[0]  # type: ignore[misc]
    assert ann.stream() == list(range(1, RECOVERED + 3)), (
        "the last page, or a push behind it, has what is new"
    )


@pytest.mark.parametrize(("cursor", "expires"), [(3, True), (99, False)])
def test_a_cursor_that_has_expired_or_is_none_of_this_log_has_to_start_again(
    harness: Harness, cursor: int, expires: bool
) -> None:
    missed(harness, 5)
    if expires:
        assert harness.log.expire(APP, more_than=1) == 4
    ann = resumed(harness, 266, cursor)
    assert recovered(ann.outputs()[0]) == (False, True)
    ann.send_payload(protobuf.sync(cursor))
    ann.settle()
    assert protobuf.fields(ann.outputs()[1].data)[-1] == (3, 1)
    ann.send_payload(protobuf.sync(0))
    ann.settle()
    assert 3 not in dict(protobuf.fields(ann.outputs()[2].data))


def test_a_refused_login_is_answered_and_may_be_followed_by_one_of_the_original(
    harness: Harness,
) -> None:
    ann = harness.visitor()
    ann.send_payload(protobuf.login("nonsense", "", 0))
    assert refused(ann.expect(1)[0]) == (1003, protobuf.LOGIN, 0)
    ann.send_payload(protobuf.login("266"))
    assert ann.expect(2)[1].data == b"\x08\x03"
    group = harness.group("267", "266")
    ann.send_payload(protobuf.sent(protobuf.READ, b"\x08\x01\x10\x01"))
    ann.group(1, group + 1, "no member")
    ann.settle()
    assert len(ann.outputs()) == 2, "it is told nothing that the original does not say"


def turns(harness: Harness, count: int) -> None:
    for _ in range(count):
        harness.messaging.catch_up.check_acks()


def ack(id: int, kind: int = protobuf.PUSH) -> bytes:
    return protobuf.sent(ACK, protobuf.field(1, kind) + protobuf.field(3, id))


def test_one_ack_covers_all_before_it_and_those_of_the_original_send_none(
    harness: Harness,
) -> None:
    ann = resumed(harness, 266, acks=True)
    bob = harness.live(267)
    old = harness.live(266, "old")
    for number in (1, 2, 3):
        bob.single(number, 266, "hi")
    until(lambda: len(ann.pushes()) == 3)
    ann.send_payload(ack(2))
    ann.send_payload(ack(3, protobuf.UP))  # of an uplink kind: acknowledges nothing
    ann.settle()
    turns(harness, 2 * acks.ACK_SECONDS)
    until(lambda: len(ann.pushes()) == 4)
    assert ann.stream() == [1, 2, 3, 3]
    ann.send_payload(ack(3))
    ann.settle()
    turns(harness, 5 * acks.ACK_SECONDS)
    ann.settle()
    assert (len(ann.pushes()), ann.connection.is_open) == (4, True)
    old.send_payload(ack(1))
    old.settle()
    assert (len(old.pushes()), old.connection.is_open) == (3, True)
    assert not isinstance(old.connection.log_subscription, AckingLogSubscription)


def test_recalls_and_edits_go_where_their_message_went(harness: Harness) -> None:
    ann = resumed(harness, 266)
    bob = resumed(harness, 267)
    old = harness.live(267, "old")
    ann.single(1, 267, "hallo")
    until(ann.acks)
    (_, position) = ann.acks()[0]
    ann.send_payload(
        protobuf.message(
            2, SentMessage(sender=266, type=1, content=b"hello"), kind=2, about=position
        )
    )
    ann.send_payload(
        protobuf.message(3, SentMessage(sender=266), kind=1, about=position)
    )
    until(lambda: len(ann.acks()) == 3)
    bob.settle()
    _, edit, recall = [
        protobuf.one(each.data)[1] for each in bob.outputs() if each.kind == MESSAGE
    ]
    for frame, kind, text, at in (
        (edit, 1, b"hello", position + 1),
        (recall, 0, b"", position + 2),
    ):
        assert (
            protobuf.message_in(frame)[:-1]
            == SentMessage(SINGLE, 267, 266, kind, text, at)[:-1]
        )
    assert further(edit) == {
        "kind": "edit",
        "about": position,
        "conversation": 1,
        "conversation_seq": 2,
    }
    assert further(recall)["about"] == position
    assert [each.text for each in old.pushes()] == ["hallo"], (
        "the original's clients have no word for it"
    )
    assert [entry.id for entry in harness.entries(APP)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("sent", "more", "code"),
    [
        pytest.param(
            SentMessage(sender=266), {"kind": 1, "about": 1}, 1003, id="another's"
        ),
        pytest.param(
            SentMessage(sender=266), {"kind": 1, "about": 999}, 1003, id="nothing"
        ),
        pytest.param(SentMessage(sender=266), {"kind": 2}, 1003, id="edit of nothing"),
        pytest.param(SentMessage(sender=266), {"kind": 4, "about": 1}, 1001, id="join"),
        pytest.param(SentMessage(SINGLE, 266, 266, 1, b"x"), {}, 1001, id="to oneself"),
        pytest.param(
            SentMessage(SINGLE, 267, 268, 1, b"x"), {}, 1003, id="for another"
        ),
        pytest.param(SentMessage(2, 2, 266, 1, b"x"), {}, 1003, id="no member"),
        *(
            pytest.param(
                SentMessage(SINGLE, 267, 266, 1, b"x"), {"meta": meta}, 1001, id=name
            )
            for name, meta in (
                ("list", "[]"),
                ("no text", '{"mentions":[1]}'),
                ("nested", '{"other":' + "[" * 2000 + "]" * 2000 + "}"),
            )
        ),
    ],
)
def test_a_refused_message_gets_a_refusal(
    harness: Harness, sent: SentMessage, more: dict[str, int | str], code: int
) -> None:
    bob = harness.live(267)
    bob.single(1, 266, "bob's")
    bob.expect(1)
    assert harness.group("267") == 2
    ann = resumed(harness, 266, 1)
    ann.send_payload(protobuf.message(1, sent, **more))  # type: ignore[arg-type]
    assert refused(ann.expect(2)[1]) == (code, MESSAGE, 1)
    ann.single(2, 267, "after")
    until(ann.acks)
    assert [number for number, _ in ann.acks()] == [2]


def test_a_recall_whose_message_cannot_be_read_may_be_sent_again(
    harness: Harness,
) -> None:
    ann = resumed(harness, 266)
    ann.single(1, 267, "one")
    until(ann.acks)
    harness.gates.away = True
    for number in (2, 3):
        ann.send_payload(
            protobuf.message(number, SentMessage(sender=266), kind=1, about=1)
        )
    ann.settle()
    until(lambda: not harness.uplink.queues)
    ann.settle()
    assert len(ann.acks()) == 1
    harness.gates.away = False
    ann.send_payload(protobuf.message(2, SentMessage(sender=266), kind=1, about=1))
    until(lambda: len(ann.acks()) == 2)
    assert ann.connection.is_open


def test_replies_and_mentions_are_carried(harness: Harness) -> None:
    ann = resumed(harness, 266)
    bob = resumed(harness, 267)
    ann.single(1, 267, "first")
    sent = SentMessage(SINGLE, 267, 266, 1, b"second")
    meta = '{"mentions":["267"],"other":1}'
    ann.send_payload(protobuf.message(2, sent, "mine", about=1, meta=meta))
    until(lambda: len(bob.pushes()) == 2)
    found = further(protobuf.one(bob.outputs()[-1].data)[1])
    assert (found["about"], found["meta"], found["client_msg_id"]) == (
        1,
        b'{"mentions":["267"]}',
        b"mine",
    )


def test_joins_and_leaves_are_delivered_also_in_syncs(harness: Harness) -> None:
    ann = resumed(harness, 266)
    group = harness.group("266", "267")
    harness.log.groups.join(APP, group, ["268"])
    harness.log.groups.leave(APP, group, ["267"])
    until(lambda: len(kinds_of(ann)) == 3)
    assert kinds_of(ann) == ["group", "join", "leave"]
    again = resumed(harness, 268)
    again.send_payload(protobuf.sync(0))
    until(lambda: any(each.kind == SYNC for each in again.outputs()))
    page = next(each for each in again.outputs() if each.kind == SYNC)
    messages, more = protobuf.synced(page)
    assert (len(messages), more) == (2, False), "from its own joining on"
    assert all(each.receiver == group for each in messages)


def test_a_group_of_both_kinds_receives_the_same_entries_in_one_order(
    harness: Harness,
) -> None:
    ids = range(266, 272)
    group = harness.group(*map(str, ids))
    everybody = [
        resumed(harness, id, 1, acks=id % 3 == 0) if id % 2 else harness.live(id)
        for id in ids
    ]
    for number in range(1, 11):
        for who in everybody:
            who.group(number, group, f"{who.id}: {number}")
    streams = []
    for who in everybody:
        until(lambda who=who: len(who.stream()) >= 60)  # type: ignore[misc]
        who.settle()
        streams.append(who.stream())
        assert [number for number, _ in who.acks()] == list(range(1, 11))
    assert all(stream == list(range(2, 62)) for stream in streams)
    assert len(everybody[0].client.payloads()) < 61, (
        "what was stored together is told together"
    )


def test_a_second_login_is_refused_in_words_or_dropped(harness: Harness) -> None:
    ann = resumed(harness, 266)
    old = harness.protobuf_client(267)
    ann.send_payload(protobuf.login("266", "", 0))
    assert refused(ann.expect(2)[1]) == (1009, protobuf.LOGIN, 0)
    old.send_payload(protobuf.login("268"))
    old.settle()
    assert (len(old.outputs()), old.connection.user) == (1, "267")
    assert ann.connection.state != CLOSING
