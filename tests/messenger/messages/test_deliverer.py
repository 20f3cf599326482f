"""What is told together: runs of messages in shared frames, and who sent them told in between."""

from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event as Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.messenger.messages import deliverer
from imserver.messenger.messages import deliverer as following
from imserver.messenger.messages.log.contract import Draft
from tests.dialects.protobuf.test_service import APP as CHATS
from tests.dialects.protobuf.test_service import Harness, ProtobufClient
from tests.gateway.transport.harness import until
from tests.messenger.messaging_harness import APP, Node


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness() as found:
        yield found


def members(harness: Harness, *lives: int) -> tuple[int, list[ProtobufClient]]:
    """A group of these accounts, who are here."""
    first, *others = [str(each) for each in lives]
    return harness.log.create(CHATS, first, others), [harness.live(each) for each in lives]


def together(harness: Harness, begin: ProtobufClient, group: int) -> Signal:
    """Have what is sent from now on share a transaction: the one before does not end until this is set."""
    harness.log.committing = gate = Signal()
    begin.group(1, group, "before")
    until(lambda: harness.uplink.queues)
    return gate


def test_what_is_stored_together_is_one_frame_and_its_senders_are_acknowledged_in_their_order(
    harness: Harness,
) -> None:
    group, (ann, bob, eve, dan) = members(harness, 1, 2, 3, 4)
    gate = together(harness, dan, group)
    for each, text in ((ann, "a"), (bob, "b"), (eve, "c")):
        each.group(1, group, text)
        each.settle()
    gate.set()
    until(lambda: len(dan.outputs()) >= 4)
    for each in (ann, bob, eve, dan):
        until(lambda each=each: len(each.stream()) >= 4)  # type: ignore[misc]
        assert each.stream() == [2, 3, 4, 5]
    assert harness.log.appends == [1, 3]
    assert [each.content for each in dan.pushes()] == [b"a", b"b", b"c"]
    assert [each.content for each in bob.pushes()] == [b"before", b"a", b"c"]
    assert bob.acks() == [(1, 4)]
    frames = {name: len(each.client.payloads()) for name, each in zip("aed", (ann, eve, dan), strict=True)}
    assert frames == {"a": 3, "e": 3, "d": 2}
    assert (harness.metrics.batch_messages.total, sum(harness.metrics.batch_seconds.counts)) == (4, 2)


def test_a_run_ends_where_it_is_enough_for_a_frame(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "MAX_RUN", 4)
    monkeypatch.setattr(deliverer, "MAX_RUN_BYTES", 100)
    group, (ann, bob, dan) = members(harness, 1, 2, 3)
    gate = together(harness, dan, group)
    for number in range(1, 7):
        ann.group(number, group, "short")
    for number in range(1, 4):
        bob.group(number, group, "x" * 60)
    ann.settle()
    bob.settle()
    gate.set()
    until(lambda: len(dan.stream()) >= 10)
    assert dan.stream() == list(range(2, 12))
    sizes = [payload.count(b"short") + payload.count(b"x" * 60) for payload in dan.client.payloads()]
    assert max(sizes) <= 4
    assert all(payload.count(b"x" * 60) <= 1 for payload in dan.client.payloads())
    assert len(sizes) < 10


def test_a_member_who_joins_in_a_batch_receives_the_entries_after_it(harness: Harness) -> None:
    group, (ann, bob) = members(harness, 1, 2)
    eve = harness.live(3)
    gate = together(harness, bob, group)
    ann.group(1, group, "a")
    ann.settle()
    joining = gevent.spawn(harness.log.join, CHATS, group, ["3"])
    gate.set()
    joining.join()
    ann.group(2, group, "b")
    until(lambda: eve.pushes())
    assert [each.content for each in eve.pushes()] == [b"b"]


def test_clients_of_all_dialects_receive_a_batch_in_order() -> None:
    with Node() as node:
        group = node.log.create(APP, "ann", ["bob", "eve", "dan"])
        ann, bob, eve, dan = (node.speaker(user, 1) for user in ("ann", "bob", "eve", "dan"))
        node.log.committing = Signal()
        dan.send_payload("send", {"conversation": group, "text": "before"})
        until(lambda: node.log.senders(APP))
        for each in (ann, bob, ann, eve):
            each.send_payload("send", {"conversation": group, "text": "x"})
            each.settle()
        node.log.committing.set()
        for each in (ann, bob, eve, dan):
            until(lambda each=each: len(each.stream()) >= 5)  # type: ignore[misc]
            assert each.stream() == [2, 3, 4, 5, 6]
        assert node.log.appends == [1, 4]
        assert len(ann.pushed()) == 3


def chat(node: Node, pairs: list[tuple[int, int]]) -> None:
    """Have four users say all this to groups and to each other in one transaction; look at what all got."""
    users = [f"u{number}" for number in range(4)]
    groups = [node.log.create(APP, "u0", users[1:]), node.log.create(APP, "u0", users[1:2])]
    targets: list[dict[str, object]] = [
        {"conversation": groups[0]},
        {"conversation": groups[1]},
        {"to": "u0"},
        {"to": "u3"},
    ]
    talkers = [node.speaker(user, 2) for user in users]
    other = node.speaker("u1", 2, "other")
    node.log.committing = gate = Signal()
    talkers[0].send_payload("send", {"to": "u1", "text": "before"})
    until(lambda: node.log.senders(APP))
    for sender, target in pairs:
        talkers[sender].send_payload("send", {**targets[target], "text": "x"})
        talkers[sender].settle()
    gate.set()
    until(lambda: not node.log.is_busy(APP))
    entries = node.log.shelf.entries[APP][2:]
    for user, message_client in (*zip(users, talkers, strict=True), ("u1", other)):
        member = {row.conversation for row in node.log.memberships(APP, user)}
        reads = [entry.id for entry in entries if entry.conversation in member]
        until(lambda message_client=message_client, reads=reads: len(message_client.stream()) >= len(reads))  # type: ignore[misc]
        message_client.settle()
        assert message_client.stream() == reads
        assert not {each["from"] for each in message_client.pushed()} & ({user} - {"u1"})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=20))
def test_random_batches_are_delivered_in_order(pairs: list[tuple[int, int]]) -> None:
    with Node() as node:
        chat(node, [each for each in pairs if each not in ((0, 2), (3, 3), (2, 1), (3, 1))])


def test_a_bot_receives_entries_of_its_groups_that_name_it_in_order() -> None:
    with Node() as node:
        group = node.log.create(APP, "ann", ["7", "bob"])
        ann, bot, bob = (node.speaker(user, 1) for user in ("ann", "7", "bob"))
        followers = node.messaging.log_subscriptions.followers
        followers.enter(APP, bot.connection, group, True)

        def draft(text: str, meta: bytes = b"", sender: str = "ann") -> Draft:
            return Draft(sender=sender, conversation=group, body=text.encode(), meta=meta, time_ms=1)

        node.log.committing = gate = Signal()
        for each in (
            draft("hidden"),
            draft("named", b'{"bots":["7"]}'),
            draft("of another", b'{"bots":["8"]}'),
            Draft(sender="bob", to_user="7", body=b"to you", time_ms=1),
            draft("named again", b'{"mentions":["7"],"bots":["8","7"]}', "bob"),
        ):
            node.messaging.send(APP, each, lambda _: None)
        gate.set()
        until(lambda: len(bob.texts()) >= 5)
        bot.settle()
        assert bot.texts() == ["named", "to you", "named again"]
        assert ann.texts() == ["hidden", "named", "of another", "named again"]
        bot.client.hang_up()
        until(lambda: not followers.bots)


def test_entries_of_other_conversations_do_not_split_a_frame(harness: Harness) -> None:
    one, (ann, bob, eve, dan, fay) = members(harness, 1, 2, 3, 4, 5)
    two = harness.log.create(CHATS, "1", ["2"])
    gate = together(harness, dan, one)
    for each, group, text in ((ann, one, "a"), (bob, two, "b"), (eve, one, "c")):
        each.group(1, group, text)
        each.settle()
    gate.set()
    until(lambda: len(fay.stream()) >= 3)
    assert [each.content for each in fay.pushes()] == [b"before", b"a", b"c"]
    assert len(fay.client.payloads()) == 2
    for each, count in ((ann, 4), (bob, 4), (eve, 3), (dan, 3)):
        until(lambda each=each, count=count: len(each.stream()) >= count)  # type: ignore[misc]
        assert each.stream() == sorted(each.stream())


def test_nobody_is_pushed_what_is_their_own_as_it_is_read_from_the_log_before_it_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "GAP_SECONDS", 0.001)
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        node.log.returning = Signal()
        sent = ann.send_payload("send", {"to": "bob", "text": "x"})
        until(lambda: node.log.head(APP) == 1)
        node.messaging.follower.expect(APP, 1)
        reads = node.log.reads
        until(lambda: node.log.reads > reads + 2)
        assert ann.stream() == []
        node.log.returning.set()
        assert ann.answer(sent)[1]["id"] == 1
        until(lambda: bob.pushed())
        ann.settle()
        assert ann.pushed() == []
