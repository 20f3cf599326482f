"""Pings to clients without a heartbeat: everybody has a turn, the silent are closed, nobody else is."""

from collections import Counter
from time import monotonic
from typing import Any

import gevent
import pytest

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.hub.expiry import SLOTS, Pings
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness
from tests.gateway.protocol.line import PingedDialect
from tests.gateway.transport.harness import POLLERS, Client, until
from tests.integration.raw import PING, PONG, frame, text

CLIENT = PingedDialect()
PERIOD_SECONDS = 50
SILENT_SECONDS = 150


@pytest.fixture
def spawned() -> Any:
    """Greenlets that end with the test."""
    greenlets: list[gevent.Greenlet[..., Any]] = []
    yield greenlets
    gevent.killall(greenlets)


def pinging(harness: Harness) -> Pings:
    return Pings(harness.context, harness.metrics, PERIOD_SECONDS, SILENT_SECONDS)


def check(pings: Pings, connection: Connection, silent_seconds: float = 0) -> None:
    """Run the step of a connection. If it did not answer a ping, that ping was so long ago."""
    if connection.pinged_at:
        connection.pinged_at = monotonic() - silent_seconds
    pings.step(connection.fd % SLOTS)


def pings_of(client: Client) -> int:
    """How many pings have come so far."""
    return sum(found.opcode == PING for found in client.read())


def answered(client: Client) -> int:
    """Answer the pings that have come; how many there were."""
    count = pings_of(client)
    client.frames = [found for found in client.frames if found.opcode != PING]
    for _ in range(count):
        client.send(frame(PONG, b""))
    return count


def test_a_client_is_pinged_only_after_its_login() -> None:
    """Before it, a client that comes back would answer in the name of its last session."""
    with Harness() as harness:
        connection, client = harness.connect(dialect=CLIENT)
        connection.last_seen = monotonic()
        check(pinging(harness), connection)
        client.probe()
        assert not pings_of(client)
        connection.last_seen = 0.0
        check(pinging(harness), connection)
        until(lambda: pings_of(client))


@pytest.mark.parametrize("poller", POLLERS)
def test_every_client_without_a_heartbeat_is_pinged_once_in_a_period(poller: Any) -> None:
    with Harness(poller=poller) as harness:
        pairs = [harness.connect(dialect=CLIENT) for _ in range(60)]
        _, heartbeats = harness.connect(dialect=CmdDialect())
        pings = pinging(harness)
        in_slot = Counter(connection.fd % SLOTS for connection, _ in pairs)
        assert max(in_slot.values()) < 30
        due = 0
        for slot in range(SLOTS):
            pings.step(slot)
            due += in_slot[slot]
            until(lambda due=due: sum(pings_of(client) for _, client in pairs) == due)
        assert [pings_of(client) for _, client in pairs] == [1] * 60
        assert not pings_of(heartbeats)
        first, client = pairs[0]
        client.send(text("hello"))
        until(lambda: not first.pinged_at)
        assert not first.is_addressed, "whatever it sends is a sign of life"


def test_who_does_not_answer_in_time_is_closed_with_4001_and_who_does_stays() -> None:
    with Harness() as harness:
        (dead, client), (live, other) = (harness.connect(dialect=CLIENT) for _ in range(2))
        pings = pinging(harness)
        for silent_seconds in range(0, SILENT_SECONDS, PERIOD_SECONDS):
            for connection in (dead, live):
                check(pings, connection, silent_seconds)
            until(lambda: answered(other))
            until(lambda: not live.pinged_at)
        assert not harness.ended
        for connection in (dead, live):
            check(pings, connection, SILENT_SECONDS)
        assert (dict(harness.ended), harness.metrics.swept, live.is_open) == ({dead: 4001}, 1, True)
        until(lambda: pings_of(client) == 3)


def test_the_greenlet_closes_who_does_not_answer(spawned: list[Any]) -> None:
    with Harness() as harness:
        dead, _ = harness.connect(dialect=CLIENT)
        spawned.append(gevent.spawn(Pings(harness.context, harness.metrics, 0.5, 1.5).run))
        until(lambda: not dead.is_open)
        assert dict(harness.ended) == {dead: 4001}


def test_the_sweep_leaves_clients_alone_that_are_pinged(spawned: list[Any]) -> None:
    with Harness(heartbeat_seconds=10, login_seconds=10, ping_seconds=0.01, pong_seconds=0.02) as harness:
        listens, client = harness.connect(dialect=CLIENT)
        beats, _ = harness.connect(dialect=CmdDialect())
        for connection in (listens, beats):
            connection.last_seen -= 400
        harness.sweep.sweep()
        assert (listens.is_open, beats.is_open) == (True, False)
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        live, other = harness.connect(dialect=CmdDialect())
        until(lambda: pings_of(other))
        until(lambda: not live.is_open)
        assert listens.is_open
        assert not pings_of(client)


@pytest.mark.usefixtures("small_batches")
def test_a_large_slot_gives_the_loop_its_turns() -> None:
    with Harness() as harness:
        connections = [harness.connect(dialect=CLIENT)[0] for _ in range(120)]
        slot, count = Counter(connection.fd % SLOTS for connection in connections).most_common(1)[0]
        pinged: list[int] = []

        def look() -> None:
            while True:
                pinged.append(sum(bool(one.pinged_at) for one in connections))
                gevent.sleep(0)

        other = gevent.spawn(look)
        pinging(harness).step(slot)
        other.kill()
        assert {2, 4} <= {*pinged}
        assert max(pinged) <= count
