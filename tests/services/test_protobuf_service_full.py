"""Protobuf clients that log in with a cursor: resuming, acknowledging, forms for all that is stored."""

from collections.abc import Iterator

import gevent
import pytest

from imserver.errors import StorageUnavailable
from imserver.services.messages import acks
from imserver.services.messages.catch_up import RECOVERED
from imserver.services.messages.subscriptions import AckingSubscription
from imserver.transport.connection import CLOSING, OPEN
from tests.integration import protobuf
from tests.integration.protobuf import ACK, MESSAGE, REFUSED, SINGLE, SYNC, Said, further, recovered, refused
from tests.services.test_protobuf_service import APP, Chatter, World, missed
from tests.transport.rig import until


@pytest.fixture
def world() -> Iterator[World]:
    with World() as found:
        yield found


def resumed(world: World, id: int, cursor: int = 0, acks: bool = False) -> Chatter:
    """Somebody who has logged in with a cursor, and was answered."""
    found = world.visitor()
    found.id = id
    found.tell(protobuf.login(str(id), "", cursor, acks))
    until(found.outputs)
    return found


def tell_kinds(who: Chatter) -> list[str]:
    """The kinds of what was pushed."""
    return [further(protobuf.one(each.data)[1])["kind"] for each in who.outputs() if each.kind == MESSAGE]


# --- resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, RECOVERED])
def test_what_was_missed_follows_the_ack_of_a_login_with_a_cursor(world: World, count: int) -> None:
    missed(world, count)
    ann = resumed(world, 266)
    until(lambda: len(ann.outputs()) == count + 1)
    assert recovered(ann.outputs()[0]) == (True, False)
    assert [said.text for said in ann.pushes()] == [f"t{number}" for number in range(1, count + 1)]


def test_only_what_stands_behind_the_cursor_follows_and_then_what_is_new(world: World) -> None:
    missed(world, 5)
    ann, bob = resumed(world, 266, 3), world.live(267)
    bob.single(1, 266, "new")
    until(lambda: len(ann.pushes()) == 3)
    assert ann.stream() == [4, 5, 6]


def test_whoever_missed_too_much_is_told_to_ask_and_nothing_newer_before(world: World) -> None:
    missed(world, RECOVERED + 1)
    ann, bob = resumed(world, 266), world.live(267)
    assert recovered(ann.outputs()[0]) == (False, False)
    bob.single(1, 266, "new")
    bob.expect(1)
    ann.settle()
    assert len(ann.outputs()) == 1
    place = 0
    for _ in range(2):
        ann.tell(protobuf.sent(SYNC, protobuf.field(1, place) + protobuf.field(2, 150)))
        place = until(lambda place=place: [seq for seq in ann.stream()[-1:] if seq > place])[0]  # type: ignore[misc]
    assert ann.stream() == list(range(1, RECOVERED + 3)), (
        "the last page, or a push behind it, has what is new"
    )


@pytest.mark.parametrize(("cursor", "floor"), [(3, 5), (99, 0)])
def test_a_cursor_that_has_expired_or_is_none_of_this_log_has_to_begin_anew(
    world: World, cursor: int, floor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(world, 5)
    monkeypatch.setattr(world.log, "floor", lambda app: floor)
    ann = resumed(world, 266, cursor)
    assert recovered(ann.outputs()[0]) == (False, True)
    ann.tell(protobuf.sync(cursor))
    ann.settle()
    assert protobuf.fields(ann.outputs()[1].data)[-1] == (3, 1)
    ann.tell(protobuf.sync(0))
    ann.settle()
    assert 3 not in dict(protobuf.fields(ann.outputs()[2].data))


def test_when_many_come_back_at_once_the_floor_is_not_asked_for_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(world, 3)
    asked = []
    floor = world.log.floor

    def slow_floor(app: str) -> int:
        asked.append(app)
        gevent.sleep(0.01)
        return floor(app)

    monkeypatch.setattr(world.log, "floor", slow_floor)
    many = [world.visitor() for _ in range(20)]
    for id, each in enumerate(many, 266):
        each.tell(protobuf.login(str(id), "", 1))
    for each in many:
        until(each.outputs)
        assert recovered(each.outputs()[0]) == (True, False)
    assert 1 <= len(asked) <= 5
    assert many[0].stream() == [2, 3]


def test_of_those_who_share_a_question_all_are_told_that_it_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(world, 1)

    def away(app: str) -> int:
        gevent.sleep(0.01)
        raise StorageUnavailable("away")

    monkeypatch.setattr(world.log, "floor", away)
    many = [world.visitor() for _ in range(5)]
    for id, each in enumerate(many, 266):
        each.tell(protobuf.login(str(id), "", 1))
    assert [each.client.close_code() for each in many] == [1011] * 5
    monkeypatch.undo()
    assert recovered(resumed(world, 266, 1).outputs()[0]) == (True, False)


def test_a_login_with_a_cursor_that_cannot_be_served_closes_to_be_tried_again(world: World) -> None:
    world.log.away = True
    ann = world.visitor()
    ann.tell(protobuf.login("266", "", 0))
    assert ann.client.close_code() == 1011


def test_a_refused_login_is_answered_and_may_be_followed_by_one_of_the_original(world: World) -> None:
    ann = world.visitor()
    ann.tell(protobuf.login("nonsense", "", 0))
    assert refused(ann.expect(1)[0]) == (1003, protobuf.LOGIN, 0)
    ann.tell(protobuf.login("266"))
    assert ann.expect(2)[1].data == b"\x08\x03"
    group = world.log.create(APP, "267", ["266"])
    ann.tell(protobuf.sent(protobuf.READ, b"\x08\x01\x10\x01"))
    ann.group(1, group + 1, "no member")
    ann.settle()
    assert len(ann.outputs()) == 2, "it is told nothing that the original does not say"


# --- acknowledging ------------------------------------------------------------------------------------------


def turns(world: World, count: int) -> None:
    for _ in range(count):
        world.messaging.catch_up.check_acks()


def ack(id: int, kind: int = protobuf.PUSH) -> bytes:
    return protobuf.sent(ACK, protobuf.field(1, kind) + protobuf.field(3, id))


def test_whoever_does_not_acknowledge_is_told_again_and_then_closed(world: World) -> None:
    ann, bob = resumed(world, 266, acks=True), world.live(267)
    bob.single(1, 266, "hi")
    until(lambda: len(ann.pushes()) == 1)
    for times in range(2, acks.TRIES + 2):
        turns(world, acks.ACK_SECONDS)
        until(lambda times=times: len(ann.pushes()) == times)  # type: ignore[misc]
    turns(world, acks.ACK_SECONDS)
    assert ann.client.close_code() == 4004
    assert {said.text for said in ann.pushes()} == {"hi"}


def test_one_ack_stands_for_all_before_it(world: World) -> None:
    ann, bob = resumed(world, 266, acks=True), world.live(267)
    for number in (1, 2, 3):
        bob.single(number, 266, "hi")
    until(lambda: len(ann.pushes()) == 3)
    ann.tell(ack(2))
    ann.settle()
    turns(world, 2 * acks.ACK_SECONDS)
    until(lambda: len(ann.pushes()) == 4)
    assert ann.stream() == [1, 2, 3, 3]
    ann.tell(ack(3))
    ann.settle()
    turns(world, 5 * acks.ACK_SECONDS)
    ann.settle()
    assert (len(ann.pushes()), ann.connection.state) == (4, OPEN)


def test_an_ack_of_an_uplink_kind_acknowledges_nothing(world: World) -> None:
    ann, bob = resumed(world, 266, acks=True), world.live(267)
    bob.single(1, 266, "hi")
    until(lambda: ann.pushes())
    ann.tell(ack(1, protobuf.UP))
    ann.settle()
    turns(world, acks.ACK_SECONDS)
    until(lambda: len(ann.pushes()) == 2)


def test_an_acknowledging_session_sends_as_any_other(world: World) -> None:
    ann, bob = resumed(world, 266, acks=True), world.live(267)
    assert type(ann.connection.subscription) is AckingSubscription
    ann.single(1, 267, "hi")
    until(ann.acks)
    assert [said.text for said in bob.pushes()] == ["hi"]
    ann.single(1, 267, "hi")
    until(lambda: len(ann.acks()) == 2)


def test_clients_of_the_original_do_not_acknowledge(world: World) -> None:
    ann, bob = world.live(266), world.live(267)
    bob.single(1, 266, "hi")
    until(ann.pushes)
    ann.tell(ack(1))
    turns(world, 10 * acks.ACK_SECONDS)
    ann.settle()
    assert (len(ann.pushes()), ann.connection.state) == (1, OPEN)
    assert not isinstance(ann.connection.subscription, AckingSubscription)


# --- words for all that is stored ---------------------------------------------------------------------------


def test_recalls_and_edits_go_where_their_message_went(world: World) -> None:
    ann, bob, old = resumed(world, 266), resumed(world, 267), world.live(267, "old")
    ann.single(1, 267, "hallo")
    until(ann.acks)
    (_, place) = ann.acks()[0]
    ann.tell(protobuf.message(2, Said(sender=266, type=1, content=b"hello"), kind=2, about=place))
    ann.tell(protobuf.message(3, Said(sender=266), kind=1, about=place))
    until(lambda: len(ann.acks()) == 3)
    bob.settle()
    _, edit, recall = [protobuf.one(each.data)[1] for each in bob.outputs() if each.kind == MESSAGE]
    assert protobuf.said(edit) == Said(SINGLE, 267, 266, 1, b"hello", place + 1)
    assert further(edit) == {"kind": "edit", "about": place, "conversation": 1, "conversation_seq": 2}
    assert protobuf.said(recall) == Said(SINGLE, 267, 266, 0, b"", place + 2)
    assert further(recall)["about"] == place
    assert [said.text for said in old.pushes()] == ["hallo"], "the original's clients have no word for it"
    assert [entry.kind for entry in world.log.shelf.entries[APP]] == ["message", "edit", "recall"]


def test_recalls_keep_their_place_among_messages(world: World) -> None:
    ann, bob = resumed(world, 266), resumed(world, 267)
    ann.single(1, 267, "one")
    until(ann.acks)
    ann.tell(protobuf.message(2, Said(sender=266), kind=1, about=1))
    for number in (3, 4):
        ann.single(number, 267, "more")
    until(lambda: len(ann.acks()) == 4)
    assert [number for number, _ in ann.acks()] == [1, 2, 3, 4]
    assert tell_kinds(bob) == ["message", "recall", "message", "message"]


@pytest.mark.parametrize(
    ("sent", "more", "code"),
    [
        (Said(sender=266), {"kind": 1, "about": 1}, 1003),
        (Said(sender=266), {"kind": 1, "about": 999}, 1003),
        (Said(sender=266), {"kind": 2}, 1003),
        (Said(sender=266), {"kind": 4, "about": 1}, 1001),
        (Said(SINGLE, 266, 266, 1, b"x"), {}, 1001),
        (Said(SINGLE, 267, 268, 1, b"x"), {}, 1003),
        (Said(2, 77, 266, 1, b"x"), {}, 1003),
        (Said(SINGLE, 267, 266, 1, b"x"), {"meta": "[]"}, 1001),
        (Said(SINGLE, 267, 266, 1, b"x"), {"meta": '{"mentions":[1]}'}, 1001),
    ],
    ids=[
        "another's",
        "nothing",
        "edit of nothing",
        "join",
        "to oneself",
        "for another",
        "no member",
        "list",
        "no text",
    ],
)
def test_what_is_refused_is_said_to_be(
    world: World, sent: Said, more: dict[str, int | str], code: int
) -> None:
    bob = world.live(267)
    bob.single(1, 266, "bob's")
    bob.expect(1)
    ann = resumed(world, 266, 1)
    ann.tell(protobuf.message(1, sent, **more))  # type: ignore[arg-type]
    assert refused(ann.expect(2)[1]) == (code, MESSAGE, 1)
    ann.single(2, 267, "after")
    until(ann.acks)
    assert [number for number, _ in ann.acks()] == [2]


def test_a_recall_that_cannot_be_looked_up_may_be_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = resumed(world, 266)
    ann.single(1, 267, "one")
    until(ann.acks)
    entries = world.log.entries

    def away(app: str, ids: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(world.log, "entries", away)
    for number in (2, 3):
        ann.tell(protobuf.message(number, Said(sender=266), kind=1, about=1))
    ann.settle()
    until(lambda: world.uplink.idle)
    ann.settle()
    assert len(ann.acks()) == 1
    monkeypatch.setattr(world.log, "entries", entries)
    ann.tell(protobuf.message(2, Said(sender=266), kind=1, about=1))
    until(lambda: len(ann.acks()) == 2)
    assert ann.connection.state == OPEN


def test_an_error_in_looking_up_costs_the_connection_nothing_but_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = resumed(world, 266)
    monkeypatch.setattr(world.log, "entries", lambda app, ids: 1 / 0)
    ann.tell(protobuf.message(1, Said(sender=266), kind=1, about=1))
    ann.settle()
    until(lambda: world.uplink.idle)
    ann.single(1, 267, "goes on")
    until(ann.acks)


def test_replies_and_mentions_are_carried(world: World) -> None:
    ann, bob = resumed(world, 266), resumed(world, 267)
    ann.single(1, 267, "first")
    sent = Said(SINGLE, 267, 266, 1, b"second")
    meta = '{"mentions":["267"],"other":1}'
    ann.tell(protobuf.message(2, sent, "mine", about=1, meta=meta))
    until(lambda: len(bob.pushes()) == 2)
    found = further(protobuf.one(bob.outputs()[-1].data)[1])
    assert (found["about"], found["meta"], found["client_msg_id"]) == (1, b'{"mentions":["267"]}', b"mine")


def test_who_joins_and_leaves_is_told_and_in_syncs_too(world: World) -> None:
    ann = resumed(world, 266)
    group = world.log.create(APP, "266", ["267"])
    world.log.join(APP, group, ["268"])
    world.log.leave(APP, group, ["267"])
    until(lambda: len(tell_kinds(ann)) == 3)
    assert tell_kinds(ann) == ["group", "join", "leave"]
    again = resumed(world, 268)
    again.tell(protobuf.sync(0))
    until(lambda: any(each.kind == SYNC for each in again.outputs()))
    page = next(each for each in again.outputs() if each.kind == SYNC)
    messages, more = protobuf.synced(page)
    assert (len(messages), more) == (2, False), "from its own joining on"
    assert all(said.receiver == group for said in messages)


def test_of_two_kinds_of_clients_each_is_told_in_its_own_words(world: World) -> None:
    new, old, bob = resumed(world, 266), world.live(266, "old"), world.live(267)
    bob.single(1, 266, "hi")
    until(lambda: new.pushes() and old.pushes())
    assert new.pushes() == old.pushes()
    assert len(new.outputs()[-1].data) > len(old.outputs()[-1].data)
    assert (new.connection.encoding.dialect.name, old.connection.encoding.dialect.name) == ("protobuf",) * 2


def test_in_a_group_of_both_kinds_everybody_is_told_the_same_in_one_order(world: World) -> None:
    ids = range(266, 272)
    group = world.log.create(APP, "266", [str(id) for id in ids[1:]])
    everybody = [resumed(world, id, 1, acks=id % 3 == 0) if id % 2 else world.live(id) for id in ids]
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
    assert len(everybody[0].client.payloads()) < 61, "what was stored together is told together"


def test_a_second_login_is_refused_in_words(world: World) -> None:
    ann = resumed(world, 266)
    ann.tell(protobuf.login("266", "", 0))
    assert refused(ann.expect(2)[1]) == (1009, protobuf.LOGIN, 0)
    assert ann.connection.state != CLOSING
    assert REFUSED == 4
