"""The sweep: who showed no sign of life is closed, and nobody else; and it leaves the loop to others."""

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from imserver.gateway import errors
from imserver.gateway.hub import expiry as module
from imserver.gateway.model import Login
from imserver.gateway.transport.connection import FOREVER, Connection, quiet_seconds
from imserver.gateway.transport.states import CLOSING
from tests.gateway.hub.harness import Harness, received
from tests.gateway.protocol.line import PingedDialect
from tests.gateway.transport.harness import Client, turn, until
from tests.integration.raw import PING, PONG, frame, text


@pytest.fixture
def spawned() -> Iterator[list[Any]]:
    """Greenlets that the test started; they end with it."""
    greenlets: list[Any] = []
    yield greenlets
    gevent.killall(greenlets)


def age(connection: Connection, seconds: float) -> None:
    """Let the last sign of life have been so long ago."""
    connection.last_seen -= seconds


def test_who_showed_no_sign_of_life_for_too_long_is_closed_with_4001() -> None:
    with Harness(heartbeat_seconds=360) as harness:
        silent, client = harness.login("101", "ann")
        stranger, other = harness.connect()
        live, third = harness.login("101", "bob")
        turn()
        age(silent, 400)
        age(stranger, 400)
        age(live, 300)
        harness.sweep.sweep()
        assert (silent.state, stranger.state, live.is_open) == (CLOSING, CLOSING, True)
        assert (client.close_code(), other.close_code()) == (4001, 4001)
        assert client.frames[-1].close_reason == "heartbeat expired"
        assert not harness.hub.is_online("101", "ann")
        third.probe()
        assert received(third)[-1][:2] == ("exit", "ann")
        assert (harness.metrics.sweeps, harness.metrics.swept) == (1, 2)
        harness.sweep.sweep()
        assert (harness.metrics.sweeps, harness.metrics.swept) == (2, 2), "nobody is closed twice"


def test_a_session_of_a_client_that_is_pinged_needs_no_sign_of_life() -> None:
    """It is that of an event stream, or of a signed-in user of Pusher."""
    with Harness(heartbeat_seconds=360, login_seconds=10) as harness:
        connection, _ = harness.connect(dialect=PingedDialect())
        assert harness.sessions.login(connection, Login("101", "ann")) == errors.ReplyCode.OK
        age(connection, 400)
        harness.sweep.sweep()
        assert connection.is_open
        assert not connection.last_seen > 0


@pytest.mark.parametrize(
    ("frame_text", "renewed"),
    [('{"cmd":"heartbeat"}', True), ('{"cmd":"ping"}', False), ("nonsense", False), ('{"cmd":"x"}', False)],
)
def test_a_heartbeat_renews_a_session_and_nothing_else_does(frame_text: str, renewed: bool) -> None:
    with Harness(heartbeat_seconds=360) as harness:
        connection, client = harness.login("101", "ann")
        age(connection, 400)
        client.send(text(frame_text))
        client.probe()
        harness.sweep.sweep()
        assert (connection.is_open) is renewed


def test_a_heartbeat_before_login_renews_nothing_and_a_login_does() -> None:
    with Harness(heartbeat_seconds=360) as harness:
        connection, client = harness.connect()
        other, guest = harness.connect()
        for one in (connection, other):
            age(one, 400)
        client.send(text('{"cmd":"heartbeat"}'))
        guest.send(text('{"cmd":"login","data":{"userID":"bob","appID":101}}'))
        client.probe()
        guest.probe()
        harness.sweep.sweep()
        assert (connection.state, other.is_open) == (CLOSING, True)


def test_without_a_login_in_time_a_connection_is_closed_with_4002() -> None:
    with Harness(login_seconds=100) as harness:
        late, client = harness.connect()
        early, _ = harness.connect()
        session, _ = harness.login("101", "ann")
        age(late, 150)
        age(early, 50)
        age(session, 150)
        harness.sweep.sweep()
        assert client.close_code() == 4002
        assert (early.is_open, session.is_open) == (True, True)


def test_a_login_is_not_asked_for_when_no_time_is_set() -> None:
    with Harness(login_seconds=0) as harness:
        connection, _ = harness.connect()
        age(connection, 300)
        harness.sweep.sweep()
        assert connection.is_open


def test_a_long_sweep_lets_others_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 10)
    with Harness() as harness:
        sessions = [harness.connect()[0] for _ in range(60)]
        seen: list[int] = []

        def look() -> None:
            while True:
                gevent.sleep(0)
                seen.append(sum(one.is_open for one in sessions))

        watcher = gevent.spawn(look)
        for one in sessions:
            age(one, 400)
        sweeper = gevent.spawn(harness.sweep.sweep)
        until(sweeper.ready)
        watcher.kill()
        assert {60, 50, 40, 30, 20, 10} & set(seen) >= {50, 30, 10}


def test_connections_that_come_and_go_during_a_sweep_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    with Harness() as harness:
        sessions = [harness.connect()[0] for _ in range(10)]
        for one in sessions:
            age(one, 400)
        sweeper = gevent.spawn(harness.sweep.sweep)
        until(lambda: harness.metrics.swept)
        harness.connect()
        for one in sessions:
            one.lost()
        until(sweeper.ready)
        assert sweeper.successful()
        assert len(harness.context.connections) == 1


def test_sweeps_come_again_and_again(spawned: list[Any]) -> None:
    with Harness() as harness:
        spawned.append(gevent.spawn(harness.sweep.run_sweeps, 0.005))
        until(lambda: harness.metrics.sweeps >= 3)


# --- pings --------------------------------------------------------------------------------------------------


def answering(client: Client) -> bool:
    """Answer the pings that came; whether there was one."""
    pings = [found for found in client.read() if found.opcode == PING]
    client.frames = [found for found in client.frames if found.opcode != PING]
    for found in pings:
        client.send(frame(PONG, found.payload))
    return bool(pings)


def test_a_peer_that_does_not_answer_a_ping_is_closed_and_one_that_does_is_not(spawned: list[Any]) -> None:
    with Harness(ping_seconds=0.01, pong_seconds=1.0) as harness:
        dead, _ = harness.login("101", "ann")
        live, client = harness.login("101", "bob")
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        until(lambda: (answering(client), not dead.is_open)[1])
        assert dict(harness.ended) == {dead: 4001}
        assert live.is_open


def test_pings_do_not_wait_until_the_answers_to_earlier_ones_are_due(spawned: list[Any]) -> None:
    with Harness(ping_seconds=0.01, pong_seconds=3600) as harness:
        silent, client = harness.connect()
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        until(lambda: sum(found.opcode == PING for found in client.read()) >= 3)
        assert silent.is_open


def test_a_peer_is_closed_when_its_answer_is_due_and_not_at_a_later_ping(spawned: list[Any]) -> None:
    with Harness(ping_seconds=0.5, pong_seconds=0.01) as harness:
        dead, client = harness.connect()
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        until(lambda: not dead.is_open)
        assert client.close_code() == 4001
        assert [found.opcode for found in client.frames].count(PING) == 1


@pytest.mark.full
def test_a_peer_that_sends_anything_need_not_answer_the_ping(spawned: list[Any]) -> None:
    with Harness(ping_seconds=0.01, pong_seconds=5.0) as harness:
        connection, client = harness.connect()
        spawned.append(gevent.spawn(harness.sweep.run_pings))
        until(lambda: any(found.opcode == PING for found in client.read()))
        client.send(text('{"cmd":"ping"}'))
        until(lambda: len([found for found in client.read() if found.opcode == PING]) >= 2)
        assert connection.is_open


# --- dialects of which everything that passes is a sign of life ---------------------------------------------


def last_passed(connection: Connection) -> float:
    """When the kernel says that data passed last. It counts in steps of up to 0.01 s."""
    return monotonic() - quiet_seconds(connection.sock) + 0.1


def test_the_kernel_reports_when_something_was_read_or_written_last() -> None:
    with Harness() as harness:
        connection, client = harness.login("101", "ann", tcp=True)
        client.probe()
        until(lambda: quiet_seconds(connection.sock) > 0.5)
        began = monotonic()
        assert last_passed(connection) < began
        client.send(text("nonsense"))
        until(lambda: last_passed(connection) > began)
        until(lambda: quiet_seconds(connection.sock) > 0.5)
        began = monotonic()
        connection.send(b"told")
        until(lambda: last_passed(connection) > began)


def test_a_socket_of_which_the_kernel_reports_nothing_counts_as_quiet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert quiet_seconds(other) == FOREVER


def test_the_proxy_at_a_unix_socket_decides_who_is_quiet() -> None:
    with socket.socket(socket.AF_UNIX) as other:
        assert quiet_seconds(other) == 0


@pytest.mark.parametrize("by", ["a frame of the client", "a push"])
def test_whatever_passes_renews_a_session_that_lives_by_traffic(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Harness(by_traffic={"cmd": 60}) as harness:
        connection, client = harness.login("101", "ann", tcp=True)
        until(lambda: quiet_seconds(connection.sock) > 0.5)
        began = monotonic()
        age(connection, 600)
        if by == "a push":
            connection.send(b"told")
        else:
            client.send(text("nonsense"))
        client.probe()
        harness.sweep.sweep()
        assert connection.is_open
        assert connection.last_seen > began - 0.4
        age(connection, 61)
        monkeypatch.setattr(module, "quiet_seconds", lambda sock: quiet_seconds(sock) + 61)
        harness.sweep.sweep()
        assert (connection.state, client.close_code()) == (CLOSING, 4001)


def test_without_a_login_it_has_the_time_that_all_have() -> None:
    with Harness(by_traffic={"cmd": 0.01}, heartbeat_seconds=360) as harness:
        connection, client = harness.connect(tcp=True)
        age(connection, 300)
        until(lambda: quiet_seconds(connection.sock) > 0.02)
        harness.sweep.sweep()
        assert connection.is_open
        age(connection, 100)
        client.send(text("nonsense"))
        client.probe()
        harness.sweep.sweep()
        assert connection.state == CLOSING
