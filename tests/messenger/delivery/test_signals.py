"""Signals: who is told that somebody is typing, how often, and who is not."""

from collections.abc import Callable
from typing import Any

import pytest

from imserver.messenger.delivery import receipts
from imserver.messenger.log.contract import Appended, Draft
from tests.gateway.transport.harness import until
from tests.messenger.log_file import LogFile
from tests.messenger.messaging_harness import APP, MessageClient, Node


def received(
    message_client: MessageClient, cmd: str = "typing"
) -> list[dict[str, Any]]:
    """What a client was pushed of one kind, all that was sent so far."""
    message_client.settle()
    return [
        body["response"]["data"]
        for body in message_client.bodies()
        if body["cmd"] == cmd and body["response"]["codeMsg"] == "Ok"
    ]


@pytest.fixture(autouse=True)
def _rates(request: pytest.FixtureRequest, constants: Callable[..., None]) -> None:
    """Notices are rare of the kind that a test names; of others as many as
    come. Three are remembered."""
    constants(receipts, TYPING_SECONDS=0.0, GROUP_SECONDS=0.0, MOST_REMEMBERED=3)
    if rare := getattr(request, "param", ""):
        constants(receipts, **{rare: 1000.0})


def test_only_subscribed_devices_of_the_peer_receive_a_signal(node: Node) -> None:
    ann = node.speaker("ann", 0, "phone")
    desk = node.speaker("ann", 0, "desk")
    eve = node.speaker("eve", 0)
    bob = node.speaker("bob", 0)
    pad = node.speaker("bob", 0, "pad")
    deaf = node.speaker("bob", None, "old")
    assert ann.ask("typing", {"to": "bob"}) == (200, None)
    assert received(bob) == received(pad) == [{"from": "ann", "to": "bob"}]
    assert [received(each) for each in (ann, desk, eve, deaf)] == [[], [], [], []]


@pytest.mark.parametrize(
    "data",
    [{}, {"to": "ann"}, {"to": "bob", "conversation": 1}, {"to": 1}, {"to": "x" * 256}],
)
def test_a_signal_without_a_receiver_is_refused(
    node: Node, data: dict[str, Any]
) -> None:
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    assert ann.ask("typing", data)[0] == 1001
    assert received(bob) == []


def test_group_members_receive_signals_and_only_members_may_send_them(
    node: Node,
) -> None:
    group = node.group("ann", "bob", "cat")
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    eve = node.speaker("eve", 0)
    assert eve.ask("typing", {"conversation": group}) == (1003, None)
    assert ann.ask("typing", {"conversation": group}) == (200, None)
    assert received(bob) == [{"from": "ann", "conversation": group}]
    assert received(ann) == received(eve) == []


def test_a_connection_that_does_not_follow_may_signal_too(node: Node) -> None:
    group = node.group("ann", "bob")
    bob = node.speaker("bob", 0)
    ann = node.speaker("ann")
    conversation = ann.send("bob", "hi")[1]["conversation"]
    assert ann.ask("typing", {"conversation": group}) == (200, None)
    assert ann.ask("typing", {"conversation": conversation}) == (200, None)
    assert received(bob) == [
        {"from": "ann", "conversation": group},
        {"from": "ann", "to": "bob", "conversation": conversation},
    ]
    node.gates.away = True
    assert ann.ask("typing", {"conversation": group}) == (1008, None)


def test_a_connection_in_catch_up_receives_no_signals(node: Node) -> None:
    ann = node.speaker("ann", 0)
    for number in range(3):
        ann.send("bob", str(number))
    bob = node.speaker("bob")
    assert bob.ask("sync", {"cursor": 0, "limit": 1})[1]["hasMore"] is True
    assert ann.ask("typing", {"to": "bob"}) == (200, None)
    assert received(bob) == []
    assert bob.ask("sync", {"cursor": 1})[1]["hasMore"] is False
    assert ann.ask("typing", {"to": "bob"}) == (200, None)
    assert received(bob) == [{"from": "ann", "to": "bob"}]


@pytest.mark.parametrize("_rates", ["GROUP_SECONDS"], indirect=True)
def test_a_group_does_not_learn_of_everybody_at_once(node: Node) -> None:
    group = node.group("ann", "bob", "cat")
    ann, bob, cat = (node.speaker(user, 0) for user in ("ann", "bob", "cat"))
    for each in (ann, bob):
        assert each.ask("typing", {"conversation": group}) == (200, None)
    assert received(cat) == [{"from": "ann", "conversation": group}]


@pytest.mark.parametrize("_rates", ["TYPING_SECONDS"], indirect=True)
def test_many_notices_become_one_and_only_the_latest_are_remembered(node: Node) -> None:
    ann, first, last = (node.speaker(user, 0) for user in ("ann", "u0", "u9"))
    for number in (*range(10), 9, 9, 0):
        assert ann.ask("typing", {"to": f"u{number}"}) == (200, None)
    assert (len(received(first)), len(received(last))) == (2, 1)
    assert last.ask("typing", {"to": "ann"}) == (200, None)
    assert len(received(ann)) == 1


def test_subscribers_on_other_nodes_receive_signals() -> None:
    file = LogFile()
    with Node(file) as here, Node(file) as there:
        here.others, there.others = [there], [here]
        group = here.group("ann", "bob")
        ann = here.speaker("ann", 0)
        bob = there.speaker("bob", 0)
        ann.ask("typing", {"to": "bob"})
        ann.ask("typing", {"conversation": group})
        until(lambda: len(received(bob)) == 2)
        assert received(bob) == [
            {"from": "ann", "to": "bob"},
            {"from": "ann", "conversation": group},
        ]
        assert received(ann) == []


def test_nobody_receives_a_signal_of_a_conversation_with_oneself(node: Node) -> None:
    (stored,) = node.log.writer.append(APP, [Draft(sender="ann", to_user="ann")])
    assert isinstance(stored, Appended)
    ann = node.speaker("ann", 0, "phone")
    desk = node.speaker("ann", 0, "desk")
    assert ann.ask("typing", {"conversation": stored.entry.conversation}) == (200, None)
    assert received(ann) == received(desk) == []
