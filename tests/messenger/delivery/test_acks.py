"""Acknowledgements of clients: what is not acknowledged is told again, and then
the connection is closed."""

from collections.abc import Iterator

import pytest
from gevent.event import Event as Flag

from imserver.gateway import errors
from imserver.gateway.model import Event
from imserver.messenger.delivery.acks import (
    ACK,
    ACK_SECONDS,
    ACK_TRANSITIONS,
    CLEAR,
    EXPIRED,
    FULL,
    LATE,
    MAX_MESSAGES,
    ON_TIME,
    OVERFLOW,
    RESENT_ONCE,
    RESENT_THRICE,
    RESENT_TWICE,
    TRIES,
    UNREAD,
    AckEvent,
    AckingLogSubscription,
    AckState,
    AckTracker,
    Unacked,
)
from tests.gateway.hub.harness import Harness
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


def hold_resend(node: Node) -> Flag:
    """Let the time go by; what is to be sent again is read, and comes when the
    signal is set."""
    gate = Flag()
    node.gates.answering = gate
    reads = node.gates.reads
    pass_time(node)
    until(lambda: node.gates.reads > reads)
    node.gates.answering = None
    return gate


def test_unacknowledged_entries_are_resent_and_then_the_connection_is_closed(
    node: Node,
) -> None:
    """Of a client that has said that it acknowledges; another one gets
    everything once."""
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
    desk = node.speaker("bob", 0, "desk")
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
    desk.settle()
    assert desk.texts() == ["1", "2"]
    assert desk.ask("ack", {"id": 1}) == (200, None)


def test_what_could_not_be_read_again_costs_no_try(node: Node) -> None:
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
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


def test_an_acknowledgement_while_entries_are_read_again_gives_no_try_too_many(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
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
def test_a_client_with_too_many_unacknowledged_entries_is_closed_and_resumes(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
    for _ in range(7):
        ann.send("bob", "x")
    until(lambda: len(bob.pushed()) == 7)
    pass_time(node)
    assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT
    back = acknowledging(node, "bob", 1)
    assert back.login == (200, {"recovered": True})
    until(lambda: back.stream() == [2, 3, 4, 5, 6, 7])


@pytest.mark.usefixtures("small")
def test_a_client_with_too_many_unacknowledged_entries_gets_no_new_ones(
    node: Node,
) -> None:
    """What is stored while it is looked up would stand above what it was never
    told."""
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
    for _ in range(5):
        ann.send("bob", "x")
    until(lambda: len(bob.pushed()) == 5)
    go_on = Flag()
    reads = node.gates.reads
    node.gates.around = go_on.wait  # before it is read
    pass_time(node)
    until(lambda: node.gates.reads > reads)
    for _ in range(2):
        ann.send("bob", "x")
    go_on.set()
    assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT
    assert bob.stream() == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("small")
def test_entries_of_a_page_are_acknowledged_like_pushed_ones(node: Node) -> None:
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
    assert bob.stream() == [1, 2, 3, 4, 5, 6, 7, 8, 8], (
        "only the last is owed, and told again"
    )


def test_who_asks_while_it_waits_for_a_resend_gets_nothing_that_is_newer(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    bob = acknowledging(node, "bob")
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


# --- when deliveries are sent again and the connection is closed, wherever they
# come from


class FromLog:
    """Deliveries that are read from the log again."""

    seconds = (ACK_SECONDS,) * (TRIES + 1)
    after_ack = 2 * ACK_SECONDS
    """After which time what an acknowledgement of earlier ones lacks is sent
    again, at most."""

    def __init__(self, node: Harness) -> None:
        self.tracker = AckTracker(node.metrics, 1_000_000)
        self.connection, self.client = node.login("101", "bob")
        self.acks = self.connection.log_subscription = AckingLogSubscription(
            backlog=None
        )
        self.resent: list[int] = []

    def deliver(self) -> None:
        self.tracker.delivered(self.connection, self.acks, self.acks.delivered + 1)

    def ack(self, number: int) -> None:
        self.tracker.acked(self.connection, number, 0)

    def turn(self) -> None:
        if self.tracker.turn():
            self.resent += range(self.acks.acked + 1, self.acks.delivered + 1)
            self.tracker.delivered(self.connection, self.acks, self.acks.delivered)


class FromMemory:
    """Messages whose frames are kept."""

    seconds = (ACK_SECONDS + 1, 2 * ACK_SECONDS, 4 * ACK_SECONDS, 8 * ACK_SECONDS)
    after_ack = ACK_SECONDS + 1

    def __init__(self, node: Harness) -> None:
        self.tracker = AckTracker(node.metrics, 1_000_000)
        self.connection, self.client = node.login("101", "bob")
        self.acks = Unacked(self.tracker)
        self.metrics = node.metrics

    def deliver(self) -> None:
        frame = b"\x82\x01" + bytes([(self.acks.delivered + 1) % 256])
        self.acks.add(self.connection, Event("msg", "ann", "x"), frame)

    def ack(self, number: int) -> None:
        self.acks.ack(self.connection, number)

    def turn(self) -> None:
        assert self.tracker.turn() == []
        turn()

    @property
    def resent(self) -> list[int]:
        self.client.probe()
        return [payload[0] for payload in self.client.payloads()]


Client = FromLog | FromMemory


@pytest.fixture(params=[FromLog, FromMemory])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with Harness() as node:
        yield request.param(node)


def let_pass(client: Client, seconds: int) -> None:
    for _ in range(seconds):
        client.turn()


def is_idle(client: Client) -> bool:
    return not any(client.tracker._slots) and not client.tracker.bytes


def test_what_is_not_acknowledged_is_sent_again_and_then_the_connection_is_closed(
    client: Client,
) -> None:
    client.deliver()
    client.deliver()
    *resends, last = client.seconds
    for count, seconds in enumerate(resends):
        let_pass(client, seconds - 1)
        assert client.resent == [1, 2] * count
        let_pass(client, 1)
        assert client.resent == [1, 2] * (count + 1)
    let_pass(client, last - 1)
    assert client.connection.is_open
    let_pass(client, 1)
    assert not client.connection.is_open
    assert client.resent == [1, 2] * TRIES
    assert isinstance(client, FromLog) or client.metrics.resent_entries == 2 * TRIES


def test_an_acknowledgement_covers_all_up_to_its_number_and_nothing_later(
    client: Client,
) -> None:
    for _ in range(3):
        client.deliver()
    client.ack(2)
    let_pass(client, client.after_ack)
    assert client.resent == [3]
    client.ack(99)
    client.deliver()
    let_pass(client, client.after_ack)
    assert client.resent == [3, 4]
    client.ack(1)
    assert client.acks.acked == 3
    client.ack(4)
    let_pass(client, sum(client.seconds))
    assert (client.resent, client.connection.is_open, is_idle(client)) == (
        [3, 4],
        True,
        True,
    )


def test_a_connection_that_has_ended_is_forgotten(client: Client) -> None:
    client.deliver()
    client.connection.close(1000)
    if isinstance(client.acks, Unacked):
        assert [event.text for event in client.acks.clear()] == ["x"]
    let_pass(client, client.seconds[0])
    assert is_idle(client)


# --- the table of states ------------------------------------------------------


def bring_to(client: Client, state: AckState) -> None:
    """Let what happened to the deliveries bring them to a state."""
    client.deliver()
    if state is FULL:
        assert isinstance(client, FromMemory)
        let_pass(client, ACK_SECONDS)  # the time ends in the next second
        for _ in range(MAX_MESSAGES):
            client.deliver()
        return
    for _ in range(sum(client.seconds)):
        if client.acks.state is not state:
            client.turn()


def cause(client: Client, event: AckEvent) -> None:
    """Let an event happen."""
    if event is ACK:
        client.ack(client.acks.delivered)
    elif event is LATE:
        before = client.acks.state
        for _ in range(max(client.seconds)):
            if client.acks.state is before and client.connection.is_open:
                client.turn()
    elif event is OVERFLOW:
        for _ in range(MAX_MESSAGES):
            client.deliver()
    elif event is CLEAR:
        assert isinstance(client, FromMemory)
        client.acks.clear()


def happens(kind: type[Client], state: AckState, event: AckEvent) -> bool:
    """Whether an event happens to such deliveries."""
    of_memory = state is FULL or event in (OVERFLOW, CLEAR)
    return event is not UNREAD and (kind is FromMemory or not of_memory)


CASES = [
    (kind, state, event)
    for kind in (FromLog, FromMemory)
    for state in AckState
    for event in AckEvent
    if happens(kind, state, event)
]
"""All but what happens to reads of the log: see test_acks. One of these has no
test: a read that fails after the client has used all its time."""


@pytest.mark.parametrize(
    ("client", "state", "event"),
    CASES,
    indirect=["client"],
    ids=lambda each: getattr(each, "name", ""),
)
def test_what_the_table_has_happens(
    client: Client, state: AckState, event: AckEvent
) -> None:
    bring_to(client, state)
    assert client.acks.state is state
    cause(client, event)
    assert client.acks.state is ACK_TRANSITIONS[state].get(event, state)
    closes = EXPIRED in (state, client.acks.state) or (state, event) == (FULL, LATE)
    assert client.connection.is_open is not closes
