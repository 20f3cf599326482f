"""Acknowledgements of clients: what is not acknowledged is told again, and then the connection is closed."""

import pytest
from gevent.event import Event as Signal

from imserver.gateway import errors
from imserver.messenger.messages.acks import (
    ACK_SECONDS,
    ON_TIME,
    RESENT_ONCE,
    RESENT_THRICE,
    RESENT_TWICE,
    TRIES,
    AckingLogSubscription,
)
from tests.gateway.transport.harness import turn, until
from tests.messenger.messaging_harness import APP, MessageClient, Node


def acknowledging(node: Node, user: str, cursor: int = 0) -> MessageClient:
    """A client that said at login that it acknowledges."""
    connection, client = node.connect()
    message_client = MessageClient(connection, client)
    data = {"userID": user, "appID": int(APP), "cursor": cursor, "acks": True}
    message_client.login = message_client.ask("login", data)
    return message_client


def pass_time(node: Node, seconds: int = ACK_SECONDS) -> None:
    """Let the time for an acknowledgement go by."""
    for _ in range(seconds):
        node.messaging.catch_up.check_acks()
    for _ in range(20):
        turn()


def hold_resend(node: Node) -> Signal:
    """Let the time go by; what is to be sent again is read, and comes when the signal is set."""
    gate = node.gates.answering = Signal()
    reads = node.gates.reads
    pass_time(node)
    until(lambda: node.gates.reads > reads)
    node.gates.answering = None
    return gate


def test_unacknowledged_entries_are_resent_and_then_the_connection_is_closed() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        for text in "12":
            ann.send("bob", text)
        until(lambda: len(bob.pushed()) == 2)
        assert bob.ask("ack", {"id": 1}) == (200, None)
        pass_time(node)  # the first was acknowledged in its time; that of the second begins
        for again in range(TRIES):
            assert bob.texts() == ["1", "2", *["2"] * again]
            pass_time(node)
            bob.settle()
        assert bob.texts() == ["1", "2", *["2"] * TRIES]
        assert node.metrics.resent_entries == TRIES
        pass_time(node)
        assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT


def test_a_client_that_does_not_acknowledge_gets_no_resends() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        ann.send("bob", "1")
        until(bob.pushed)
        pass_time(node, seconds=5 * ACK_SECONDS)
        bob.settle()
        assert bob.texts() == ["1"]
        assert bob.ask("ack", {"id": 1}) == (200, None)


def test_what_could_not_be_read_again_costs_no_try() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        ann.send("bob", "1")
        until(bob.pushed)
        subscription = bob.connection.log_subscription
        assert isinstance(subscription, AckingLogSubscription)
        for state in (ON_TIME, RESENT_ONCE, RESENT_TWICE):
            assert subscription.state is state
            node.gates.away = True
            pass_time(node)
            assert subscription.state is state
            node.gates.away = False
            pass_time(node)
        assert subscription.state is RESENT_THRICE


def test_an_acknowledgement_while_entries_are_read_again_gives_no_try_too_many() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        ann.send("bob", "1")
        until(bob.pushed)
        subscription = bob.connection.log_subscription
        assert isinstance(subscription, AckingLogSubscription)
        go_on = hold_resend(node)
        assert subscription.state is RESENT_ONCE
        node.messaging.ack_tracker.acked(bob.connection, 1, 1)
        node.gates.away = True
        go_on.set()
        pass_time(node, 1)
        assert subscription.state is ON_TIME


@pytest.mark.usefixtures("small")
def test_a_client_with_too_many_unacknowledged_entries_is_closed_and_resumes() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        for _ in range(7):
            ann.send("bob", "x")
        until(lambda: len(bob.pushed()) == 7)
        pass_time(node)
        assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT
        back = acknowledging(node, "bob", 1)
        assert back.login == (200, {"recovered": True})
        until(lambda: back.stream() == [2, 3, 4, 5, 6, 7])


@pytest.mark.usefixtures("small")
def test_a_client_with_too_many_unacknowledged_entries_gets_no_new_ones() -> None:
    """What is stored while it is looked up would stand above what it was never told."""
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        for _ in range(5):
            ann.send("bob", "x")
        until(lambda: len(bob.pushed()) == 5)
        go_on, reads = Signal(), node.gates.reads
        node.gates.around = go_on.wait  # before it is read
        pass_time(node)
        until(lambda: node.gates.reads > reads)
        for _ in range(2):
            ann.send("bob", "x")
        go_on.set()
        assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT
        assert bob.stream() == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("small")
def test_entries_of_a_page_are_acknowledged_like_pushed_ones() -> None:
    with Node() as node:
        ann = node.speaker("ann", 0)
        for _ in range(7):
            ann.send("bob", "missed")
        bob = acknowledging(node, "bob", 0)
        assert bob.login == (200, {"recovered": False})
        assert not bob.ask("sync", {"cursor": 0})[1]["hasMore"]
        assert bob.ask("ack", {"id": 7}) == (200, None)
        ann.send("bob", "new")
        until(bob.pushed)
        pass_time(node)
        bob.settle()
        assert bob.stream() == [1, 2, 3, 4, 5, 6, 7, 8, 8], "only the last is owed, and told again"


def test_who_asks_while_it_waits_for_a_resend_gets_nothing_that_is_newer() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), acknowledging(node, "bob")
        for _ in range(6):
            ann.send("bob", "x")
        until(lambda: len(bob.pushed()) == 6)
        again = hold_resend(node)
        bob.client.frames.clear()
        assert bob.ask("sync", {"cursor": 0, "limit": 2})[1]["hasMore"]
        again.set()
        ann.send("bob", "new")
        bob.settle()
        assert bob.stream() == [1, 2], "it has still to ask for the rest"
        assert not bob.ask("sync", {"cursor": 2})[1]["hasMore"]
        assert bob.stream() == [1, 2, 3, 4, 5, 6, 7]
