"""Messages that are stored together reach all readers in the order of the log."""

import pytest
from gevent.event import Event as Signal

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


@pytest.mark.usefixtures("small")
def test_nobody_is_pushed_what_is_their_own_as_it_is_read_from_the_log_before_it_is_acknowledged() -> None:
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
