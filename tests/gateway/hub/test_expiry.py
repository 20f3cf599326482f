"""Who showed no sign of life is closed, and nobody else; and the loop has its
turns in between."""

import socket
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.hub import expiry
from imserver.gateway.hub.expiry import SLOTS, Pings
from imserver.gateway.transport.connection import FOREVER, Connection, quiet_seconds
from imserver.gateway.transport.states import CLOSING
from tests.gateway.hub.harness import Harness, received
from tests.gateway.protocol.line import PingedDialect
from tests.gateway.transport.harness import POLLERS, Client, turn, until
from tests.integration.raw import PING, text

CLIENT = PingedDialect()
PERIOD_SECONDS = 50
SILENT_SECONDS = 150


@pytest.fixture
def spawned() -> Iterator[list[Any]]:
    """Greenlets that the test started; they end with it."""
    greenlets: list[Any] = []
    yield greenlets
    gevent.killall(greenlets)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has a turn after each second connection."""
    for name in ("_BATCH", "_PING_BATCH"):
        monkeypatch.setattr(expiry, name, 2)


def age(connection: Connection, seconds: float) -> None:
    """Let the last sign of life have been so long ago."""
    connection.last_seen -= seconds


def pinging(harness: Harness) -> Pings:
    return Pings(harness.context, harness.metrics, PERIOD_SECONDS, SILENT_SECONDS)


def check(pings: Pings, connection: Connection, silent_seconds: float = 0) -> None:
    """Run the step of a connection. If it did not answer a ping, that ping was
    so long ago."""
    if connection.pinged_at:
        connection.pinged_at = monotonic() - silent_seconds
    pings.step(connection.fd % SLOTS)


def pings_of(client: Client) -> int:
    """How many pings have come so far."""
    return sum(found.opcode == PING for found in client.read())


def test_who_showed_no_sign_of_life_for_too_long_is_closed_once_and_counted() -> None:
    with Harness(heartbeat_seconds=360) as harness:
        silent, client = harness.login("101", "ann")
        _, third = harness.login("101", "bob")
        age(silent, 400)
        for sweeps in (1, 2):
            harness.sweep.sweep()
            assert (harness.metrics.sweeps, harness.metrics.swept) == (sweeps, 1), (
                "nobody is closed twice"
            )
        assert (silent.state, client.close_code()) == (CLOSING, 4001)
        assert client.frames[-1].close_reason == "heartbeat expired"
        assert not harness.hub.is_online("101", "ann")
        third.probe()
        assert received(third)[-1][:2] == ("exit", "ann")


HEARTBEAT = {"heartbeat_seconds": 360}


@pytest.mark.parametrize(
    ("settings", "logged_in", "seconds", "frame_text", "code"),
    [
        *((HEARTBEAT, logged_in, 400, "", 4001) for logged_in in (True, False)),
        (HEARTBEAT, True, 300, "", None),
        # A heartbeat renews a session, and a login begins one.
        (HEARTBEAT, True, 400, '{"cmd":"heartbeat"}', None),
        *(
            (HEARTBEAT, True, 400, sent, 4001)
            for sent in ('{"cmd":"ping"}', "nonsense", '{"cmd":"x"}')
        ),
        (HEARTBEAT, False, 400, '{"cmd":"heartbeat"}', 4001),
        (
            HEARTBEAT,
            False,
            400,
            '{"cmd":"login","data":{"userID":"bob","appID":101}}',
            None,
        ),
        # A connection has to log in in time.
        ({"login_seconds": 100}, False, 150, "", 4002),
        ({"login_seconds": 100}, False, 50, "", None),
        ({"login_seconds": 100}, True, 150, "", None),
        ({"login_seconds": 0}, False, 150, "", None),
    ],
)
def test_a_sweep_closes_whose_time_has_passed(
    settings: dict[str, int],
    logged_in: bool,
    seconds: int,
    frame_text: str,
    code: int | None,
) -> None:
    with Harness(**settings) as harness:
        connection, client = (
            harness.login("101", "ann") if logged_in else harness.connect()
        )
        turn()
        age(connection, seconds)
        client.send(text(frame_text) if frame_text else b"")
        client.probe()
        harness.sweep.sweep()
        assert connection.is_open is (code is None)
        assert code is None or client.close_code() == code


@pytest.mark.usefixtures("small_batches")
def test_during_a_long_sweep_connections_come_and_go() -> None:
    with Harness() as harness:
        sessions = [harness.connect()[0] for _ in range(10)]
        for one in sessions:
            age(one, 400)
        sweeper = gevent.spawn(harness.sweep.sweep)
        until(lambda: harness.metrics.swept)
        assert harness.metrics.swept < len(sessions)
        harness.connect()
        for one in sessions:
            one.lost()
        sweeper.get()
        assert len(harness.context.connections) == 1


# --- pings --------------------------------------------------------------------


def test_a_peer_that_does_not_answer_a_ping_is_closed_when_it_is_due_and_no_other(
    spawned: list[Any],
) -> None:
    """Later pings do not wait until the answers to earlier ones are due, nor
    answers for later pings."""
    with Harness(ping_seconds=0.01, pong_seconds=1.0) as harness:
        dead, silent = harness.login("101", "ann")
        live, client = harness.login("101", "bob")
        spawned += [
            gevent.spawn(harness.sweep.run_pings),
            gevent.spawn(harness.sweep.run_sweeps, 0.005),
        ]
        until(lambda: (client.answer_pings(), not dead.is_open)[1])
        assert dict(harness.ended) == {dead: 4001}
        assert live.is_open
        until(lambda: harness.metrics.sweeps >= 3)
        assert pings_of(silent) >= 3
    with Harness(ping_seconds=0.5, pong_seconds=0.01) as harness:
        dead, client = harness.connect()
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        assert client.close_code() == 4001
        assert pings_of(client) == 1


# --- dialects of which everything that passes is a sign of life ---------------


@pytest.mark.parametrize("by", ["a frame of the client", "a push"])
def test_whatever_passes_renews_a_session_that_lives_by_traffic_but_nobody_without_a_login(
    by: str,
) -> None:
    """The kernel knows it, in steps of up to 0.01 s; of some sockets it reports
    nothing."""
    with Harness(by_traffic={"cmd": 0.4}, heartbeat_seconds=360) as harness:
        connection, client = harness.login("101", "ann", tcp=True)
        nobody, stranger = harness.connect(tcp=True)
        until(lambda: quiet_seconds(connection.sock) > 0.5)
        age(connection, 600)
        age(nobody, 300)
        if by == "a push":
            connection.send(b"told")
        else:
            client.send(text("nonsense"))
        until(lambda: quiet_seconds(connection.sock) < 0.3)
        harness.sweep.sweep()
        assert (connection.is_open, nobody.is_open) == (True, True)
        assert connection.last_seen > monotonic() - 0.5
        until(lambda: quiet_seconds(connection.sock) > 0.5)
        age(nobody, 100)
        stranger.send(text("nonsense"))
        stranger.probe()
        harness.sweep.sweep()
        assert (connection.state, nobody.state, client.close_code()) == (
            CLOSING,
            CLOSING,
            4001,
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert quiet_seconds(other) == FOREVER
    with socket.socket(socket.AF_UNIX) as other:
        assert quiet_seconds(other) == 0, "its proxy decides who is quiet"


# --- clients that need no heartbeat -------------------------------------------


def test_who_does_not_answer_is_closed_with_4001_and_nobody_pinged_before_login(
    spawned: list[Any],
) -> None:
    """Before it, a client that comes back would answer in the name of its last
    session."""
    with Harness() as harness:
        (dead, client), (live, other), (new, late) = (
            harness.connect(dialect=CLIENT) for _ in range(3)
        )
        new.last_seen = monotonic()
        pings = pinging(harness)
        for silent_seconds in range(0, SILENT_SECONDS, PERIOD_SECONDS):
            for connection in (dead, live, new):
                check(pings, connection, silent_seconds)
            until(lambda: other.answer_pings())
            until(lambda: not live.pinged_at)
        assert not harness.ended
        for connection in (dead, live):
            check(pings, connection, SILENT_SECONDS)
        assert (dict(harness.ended), harness.metrics.swept, live.is_open) == (
            {dead: 4001},
            1,
            True,
        )
        until(lambda: pings_of(client) == 3)
        late.probe()
        assert not pings_of(late)
        new.last_seen = 0.0
        spawned.append(
            gevent.spawn(Pings(harness.context, harness.metrics, 0.5, 1.5).run)
        )
        until(lambda: not new.is_open)
        assert pings_of(late)


@pytest.mark.parametrize("poller", POLLERS)
def test_every_client_without_a_heartbeat_is_pinged_once_in_a_period(
    poller: Any,
) -> None:
    with Harness(poller=poller) as harness:
        pairs = [harness.connect(dialect=CLIENT) for _ in range(60)]
        _, heartbeats = harness.connect(dialect=CmdDialect())
        pings = pinging(harness)
        due = 0
        in_slot = Counter(connection.fd % SLOTS for connection, _ in pairs)
        assert max(in_slot.values()) < 30
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


def test_the_sweep_leaves_clients_alone_that_are_pinged(spawned: list[Any]) -> None:
    with Harness(
        heartbeat_seconds=10, login_seconds=10, ping_seconds=0.01, pong_seconds=0.02
    ) as harness:
        listens, client = harness.login("101", "ann", dialect=CLIENT)
        beats, _ = harness.connect(dialect=CmdDialect())
        for connection in (listens, beats):
            age(connection, 400)
        harness.sweep.sweep()
        assert (listens.is_open, beats.is_open, listens.last_seen > 0) == (
            True,
            False,
            False,
        )
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        live, other = harness.connect(dialect=CmdDialect())
        until(lambda: pings_of(other))
        until(lambda: not live.is_open)
        assert (listens.is_open, pings_of(client)) == (True, 0)


@pytest.mark.usefixtures("small_batches")
def test_a_large_slot_gives_the_loop_its_turns(spawned: list[Any]) -> None:
    with Harness() as harness:
        connections = [harness.connect(dialect=CLIENT)[0] for _ in range(120)]
        slot, count = Counter(
            connection.fd % SLOTS for connection in connections
        ).most_common(1)[0]
        pinged: list[int] = []

        def look() -> None:
            while True:
                pinged.append(sum(bool(one.pinged_at) for one in connections))
                gevent.sleep(0)

        spawned.append(gevent.spawn(look))
        pinging(harness).step(slot)
        assert {2, 4} <= {*pinged}
        assert max(pinged) <= count
