"""When deliveries are sent again and the connection is closed, wherever they come from."""

from collections.abc import Iterator

import pytest

from imserver.gateway.model import Event
from imserver.messenger.messages.acks import (
    ACK,
    ACK_SECONDS,
    ACK_TRANSITIONS,
    CLEAR,
    EXPIRED,
    FULL,
    LATE,
    MAX_MESSAGES,
    OVERFLOW,
    TRIES,
    UNREAD,
    AckEvent,
    AckingLogSubscription,
    AckState,
    AckTracker,
    Unacked,
)
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import turn


class FromLog:
    """Deliveries that are read from the log again."""

    seconds = (ACK_SECONDS,) * (TRIES + 1)
    after_ack = 2 * ACK_SECONDS
    """After which time what an acknowledgement of earlier ones lacks is sent again, at most."""

    def __init__(self, node: Harness) -> None:
        self.tracker = AckTracker(node.metrics, 1_000_000)
        self.connection, self.client = node.login("101", "bob")
        self.acks = self.connection.log_subscription = AckingLogSubscription(backlog=None)
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


def pass_time(client: Client, seconds: int) -> None:
    for _ in range(seconds):
        client.turn()


def is_idle(client: Client) -> bool:
    return not any(client.tracker._slots) and not client.tracker.bytes


def test_what_is_not_acknowledged_is_sent_again_and_then_the_connection_is_closed(client: Client) -> None:
    client.deliver()
    client.deliver()
    *resends, last = client.seconds
    for count, seconds in enumerate(resends):
        pass_time(client, seconds - 1)
        assert client.resent == [1, 2] * count
        pass_time(client, 1)
        assert client.resent == [1, 2] * (count + 1)
    pass_time(client, last - 1)
    assert client.connection.is_open
    pass_time(client, 1)
    assert not client.connection.is_open
    assert client.resent == [1, 2] * TRIES


def test_an_acknowledgement_covers_all_up_to_its_number_and_nothing_later(client: Client) -> None:
    for _ in range(3):
        client.deliver()
    client.ack(2)
    pass_time(client, client.after_ack)
    assert client.resent == [3]
    client.ack(99)
    client.deliver()
    pass_time(client, client.after_ack)
    assert client.resent == [3, 4]
    client.ack(1)
    assert client.acks.acked == 3
    client.ack(4)
    pass_time(client, sum(client.seconds))
    assert (client.resent, client.connection.is_open, is_idle(client)) == ([3, 4], True, True)


def test_a_connection_that_has_ended_is_forgotten(client: Client) -> None:
    client.deliver()
    client.connection.close(1000)
    if isinstance(client.acks, Unacked):
        assert [event.text for event in client.acks.clear()] == ["x"]
    pass_time(client, client.seconds[0])
    assert is_idle(client)


# --- the table of states ------------------------------------------------------------------------------------


def bring_to(client: Client, state: AckState) -> None:
    """Let what happened to the deliveries bring them to a state."""
    client.deliver()
    if state is FULL:
        assert isinstance(client, FromMemory)
        pass_time(client, ACK_SECONDS)  # the time ends in the next second
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
"""All but what happens to reads of the log: see test_acks. One of these has no test: a read that fails after
the client has used all its time."""


@pytest.mark.parametrize(
    ("client", "state", "event"), CASES, indirect=["client"], ids=lambda each: getattr(each, "name", "")
)
def test_what_the_table_has_happens(client: Client, state: AckState, event: AckEvent) -> None:
    bring_to(client, state)
    assert client.acks.state is state
    cause(client, event)
    assert client.acks.state is ACK_TRANSITIONS[state].get(event, state)
    closes = EXPIRED in (state, client.acks.state) or (state, event) == (FULL, LATE)
    assert client.connection.is_open is not closes
