"""Messages that are stored together reach all readers in the order of the log."""

import pytest
from gevent.event import Event as Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.messenger.messages import deliverer
from imserver.messenger.messages.log.contract import Draft
from tests.gateway.transport.harness import until
from tests.messenger.messaging_harness import APP, Node


def test_clients_receive_a_batch_in_order() -> None:
    with Node() as node:
        group = node.group("ann", "bob", "eve", "dan")
        ann, bob, eve, dan = (node.speaker(user, 1) for user in ("ann", "bob", "eve", "dan"))
        node.gates.committing = Signal()
        dan.send_payload("send", {"conversation": group, "text": "before"})
        until(lambda: node.log.writer.senders(APP))
        for each in (ann, bob, ann, eve):
            each.send_payload("send", {"conversation": group, "text": "x"})
            each.settle()
        node.gates.committing.set()
        for each in (ann, bob, eve, dan):
            until(lambda each=each: len(each.stream()) >= 5)  # type: ignore[misc]
            assert each.stream() == [2, 3, 4, 5, 6]
        assert node.appends == [1, 4]
        assert len(ann.pushed()) == 3


def chat(node: Node, pairs: list[tuple[int, int]]) -> None:
    """Have four users say all this to groups and to each other in one transaction; look at what all got."""
    users = [f"u{number}" for number in range(4)]
    groups = [node.group(*users), node.group(*users[:2])]
    targets: list[dict[str, object]] = [
        {"conversation": groups[0]},
        {"conversation": groups[1]},
        {"to": "u0"},
        {"to": "u3"},
    ]
    talkers = [node.speaker(user, 2) for user in users]
    other = node.speaker("u1", 2, "other")
    node.gates.committing = gate = Signal()
    talkers[0].send_payload("send", {"to": "u1", "text": "before"})
    until(lambda: node.log.writer.senders(APP))
    for sender, target in pairs:
        talkers[sender].send_payload("send", {**targets[target], "text": "x"})
        talkers[sender].settle()
    gate.set()
    until(lambda: not node.log.writer.is_busy(APP))
    entries = node.entries(APP)[2:]
    for user, message_client in (*zip(users, talkers, strict=True), ("u1", other)):
        member = {row.conversation for row in node.log.conversations.memberships(APP, user)}
        reads = [entry.id for entry in entries if entry.conversation in member]
        until(lambda message_client=message_client, reads=reads: len(message_client.stream()) >= len(reads))  # type: ignore[misc]
        message_client.settle()
        assert message_client.stream() == reads
        assert not {each["from"] for each in message_client.pushed()} & ({user} - {"u1"})


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=20))
def test_random_batches_are_delivered_in_order(pairs: list[tuple[int, int]]) -> None:
    with Node() as node:
        chat(node, [each for each in pairs if each not in ((0, 2), (3, 3), (2, 1), (3, 1))])


def test_a_bot_receives_entries_of_its_groups_that_name_it_in_order() -> None:
    with Node() as node:
        group = node.group("ann", "7", "bob")
        ann, bot, bob = (node.speaker(user, 1) for user in ("ann", "7", "bob"))
        followers = node.messaging.log_subscriptions.followers
        followers.enter(APP, bot.connection, group, True)

        def draft(text: str, meta: bytes = b"", sender: str = "ann") -> Draft:
            return Draft(sender=sender, conversation=group, body=text.encode(), meta=meta, time_ms=1)

        node.gates.committing = gate = Signal()
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


def test_nobody_is_pushed_what_is_their_own_as_it_is_read_from_the_log_before_it_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliverer, "GAP_SECONDS", 0.001)
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        node.gates.returning = Signal()
        sent = ann.send_payload("send", {"to": "bob", "text": "x"})
        until(lambda: node.log.entries.head(APP) == 1)
        node.messaging.follower.expect(APP, 1)
        reads = node.gates.reads
        until(lambda: node.gates.reads > reads + 2)
        assert ann.stream() == []
        node.gates.returning.set()
        assert ann.answer(sent)[1]["id"] == 1
        until(lambda: bob.pushed())
        ann.settle()
        assert ann.pushed() == []
