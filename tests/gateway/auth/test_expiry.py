"""Sessions end with their token: at their second, whatever the clock does, and without keeping the dead."""

import gc
import weakref

from imserver.gateway.auth.quotas import Expiry
from tests.gateway.transport.harness import SocketHarness

NOW = 1_800_000_000.25


def test_a_session_is_closed_with_4504_in_its_second_and_not_before() -> None:
    with SocketHarness() as harness:
        connection, client = harness.connect()
        other, _ = harness.connect()
        expiry = Expiry(NOW)
        expiry.end_at(connection, int(NOW) + 10)
        expiry.end_at(other, int(NOW) + 11)
        assert expiry.expire(NOW + 9.5) == 0
        assert expiry.expire(NOW + 10) == 1
        assert client.close_code() == 4504
        assert client.frames[-1].close_reason == "token invalid"
        assert other.is_open
        assert len(expiry) == 1


def test_a_new_token_moves_the_end() -> None:
    with SocketHarness() as harness:
        connection, _ = harness.connect()
        expiry = Expiry(NOW)
        expiry.end_at(connection, int(NOW) + 10)
        expiry.end_at(connection, int(NOW) + 100)
        assert expiry.expire(NOW + 50) == 0
        assert connection.is_open
        assert expiry.expire(NOW + 100) == 1


def test_a_login_without_an_end_takes_the_end_away() -> None:
    with SocketHarness() as harness:
        connection, _ = harness.connect()
        expiry = Expiry(NOW)
        expiry.end_at(connection, int(NOW) + 10)
        expiry.end_at(connection, 0)
        assert connection not in expiry
        assert expiry.expire(NOW + 100) == 0


def test_an_expired_session_ends_at_the_next_check() -> None:
    with SocketHarness() as harness:
        connection, _ = harness.connect()
        expiry = Expiry(NOW)
        expiry.expire(NOW + 5)
        expiry.end_at(connection, int(NOW))
        assert expiry.expire(NOW + 6) == 1


def test_a_clock_that_leaps_a_year_ends_all_that_is_over_and_at_once() -> None:
    with SocketHarness() as harness:
        expiry = Expiry(NOW)
        connections = [harness.connect()[0] for _ in range(3)]
        for number, connection in enumerate(connections):
            expiry.end_at(connection, int(NOW) + 10**number)
        year = 365 * 86400
        expiry.end_at(connections[2], int(NOW) + 2 * year)
        assert expiry.expire(NOW + year) == 2
        assert connections[2].is_open


def test_a_clock_set_back_ends_no_session_and_loses_none() -> None:
    with SocketHarness() as harness:
        connection, late = harness.connect()[0], harness.connect()[0]
        expiry = Expiry(NOW)
        expiry.end_at(connection, int(NOW) + 10)
        assert expiry.expire(NOW - 3600) == 0
        expiry.end_at(late, int(NOW) - 3000)
        assert expiry.expire(NOW + 9) == 1, "by the clock of the login it was over"
        assert expiry.expire(NOW + 10) == 1


def test_an_ended_connection_leaves_no_state() -> None:
    with SocketHarness() as harness:
        expiry = Expiry(NOW)
        connection, _ = harness.connect()
        expiry.end_at(connection, int(NOW) + 10**6)
        connection.lost()
        harness.ended.clear()
        expiry.forget(connection)
        assert len(expiry) == 0
        remembered = weakref.ref(connection)
        del connection
        gc.collect()
        assert remembered() is None


def test_at_most_as_many_ended_sessions_as_live_ones_are_stored() -> None:
    with SocketHarness() as harness:
        stays, _ = harness.connect()
        comes, _ = harness.connect()
        expiry = Expiry(NOW)
        end = int(NOW) + 10
        expiry.end_at(stays, end)
        for _ in range(100):
            expiry.end_at(comes, end)
            expiry.end_at(stays, end)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
            expiry.forget(comes)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
        expiry.end_at(comes, end)
        assert expiry.expire(NOW + 10) == 2
        assert len(expiry) == 0
