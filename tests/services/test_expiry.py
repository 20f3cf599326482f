"""Sessions end with their token: at their second, whatever the clock does, and without keeping the dead."""

import gc
import weakref

from imserver.auth.expiry import Expiry
from imserver.transport.connection import OPEN
from tests.transport.rig import Rig

NOW = 1_800_000_000.25


def test_a_session_is_closed_with_4504_in_its_second_and_not_before() -> None:
    with Rig() as rig:
        connection, client = rig.connect()
        other, _ = rig.connect()
        expiry = Expiry(NOW)
        expiry.keep(connection, int(NOW) + 10)
        expiry.keep(other, int(NOW) + 11)
        assert expiry.expire(NOW + 9.5) == 0
        assert expiry.expire(NOW + 10) == 1
        assert client.close_code() == 4504
        assert client.frames[-1].close_reason == "token invalid"
        assert other.state == OPEN
        assert len(expiry) == 1


def test_a_new_token_moves_the_end() -> None:
    with Rig() as rig:
        connection, _ = rig.connect()
        expiry = Expiry(NOW)
        expiry.keep(connection, int(NOW) + 10)
        expiry.keep(connection, int(NOW) + 100)
        assert expiry.expire(NOW + 50) == 0
        assert connection.state == OPEN
        assert expiry.expire(NOW + 100) == 1


def test_a_login_without_an_end_takes_the_end_away() -> None:
    with Rig() as rig:
        connection, _ = rig.connect()
        expiry = Expiry(NOW)
        expiry.keep(connection, int(NOW) + 10)
        expiry.keep(connection, 0)
        assert connection not in expiry
        assert expiry.expire(NOW + 100) == 0


def test_what_is_over_already_ends_at_the_next_look() -> None:
    with Rig() as rig:
        connection, _ = rig.connect()
        expiry = Expiry(NOW)
        expiry.expire(NOW + 5)
        expiry.keep(connection, int(NOW))
        assert expiry.expire(NOW + 6) == 1


def test_a_clock_that_leaps_a_year_ends_all_that_is_over_and_at_once() -> None:
    with Rig() as rig:
        expiry = Expiry(NOW)
        connections = [rig.connect()[0] for _ in range(3)]
        for number, connection in enumerate(connections):
            expiry.keep(connection, int(NOW) + 10**number)
        year = 365 * 86400
        expiry.keep(connections[2], int(NOW) + 2 * year)
        assert expiry.expire(NOW + year) == 2
        assert connections[2].state == OPEN


def test_a_clock_that_goes_back_ends_nobody_and_forgets_nobody() -> None:
    with Rig() as rig:
        connection, late = rig.connect()[0], rig.connect()[0]
        expiry = Expiry(NOW)
        expiry.keep(connection, int(NOW) + 10)
        assert expiry.expire(NOW - 3600) == 0
        expiry.keep(late, int(NOW) - 3000)
        assert expiry.expire(NOW + 9) == 1, "by the clock of the login it was over"
        assert expiry.expire(NOW + 10) == 1


def test_nothing_is_kept_of_a_connection_that_has_ended() -> None:
    with Rig() as rig:
        expiry = Expiry(NOW)
        connection, _ = rig.connect()
        expiry.keep(connection, int(NOW) + 10**6)
        connection.lost()
        rig.ended.clear()
        expiry.forget(connection)
        assert len(expiry) == 0
        remembered = weakref.ref(connection)
        del connection
        gc.collect()
        assert remembered() is None


def test_of_those_who_end_together_no_more_are_kept_that_are_over_than_that_live() -> None:
    with Rig() as rig:
        stays, _ = rig.connect()
        comes, _ = rig.connect()
        expiry = Expiry(NOW)
        end = int(NOW) + 10
        expiry.keep(stays, end)
        for _ in range(100):
            expiry.keep(comes, end)
            expiry.keep(stays, end)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
            expiry.forget(comes)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
        expiry.keep(comes, end)
        assert expiry.expire(NOW + 10) == 2
        assert len(expiry) == 0
