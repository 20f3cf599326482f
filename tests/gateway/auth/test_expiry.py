"""Sessions end with their token: at their second, whatever the clock does, and without keeping the dead."""

import gc
import weakref

import pytest

from imserver.gateway.auth.quotas import Expiry
from tests.gateway.transport.harness import SocketHarness

NOW = 1_800_000_000.25
YEAR = 365 * 86400


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([("a", 10), ("b", 11), (9.5, 0), (10, 1)], "b"),
        ([("a", 10), ("a", 100), (50, 0), (100, 1)], ""),  # a new token moves the end
        ([("a", 10), ("a", None), (100, 0)], ""),  # a login without an end takes it away
        ([(5, 0), ("a", 0), (6, 1)], ""),  # it has expired already
        ([("a", 1), ("b", 10), ("c", 2 * YEAR), (YEAR, 2)], "c"),  # a clock that leaps
        ([("a", 10), (-3600, 0), ("b", -3000), (9, 1), (10, 1)], ""),  # one that is set back
    ],
)
def test_each_session_is_closed_with_4504_in_its_second(
    steps: list[tuple[str, int | None] | tuple[float, int]], left: str
) -> None:
    with SocketHarness() as harness:
        connections = {name: harness.connect() for name in "abc"}
        expiry = Expiry(NOW)
        for what, number in steps:
            if isinstance(what, str):
                expiry.end_at(connections[what][0], 0 if number is None else int(NOW) + number)
            else:
                open_before = sum(connection.is_open for connection, _ in connections.values())
                assert expiry.expire(NOW + what) == number
                closed = [each for each in connections.values() if not each[0].is_open]
                assert len(connections) - open_before + (number or 0) == len(closed)
                assert {client.close_code() for _, client in closed} <= {4504}
        assert [name for name, (connection, _) in connections.items() if connection in expiry] == [*left]
        assert len(expiry) == len(left)


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
        stays, comes = harness.connect()[0], harness.connect()[0]
        expiry = Expiry(NOW)
        end = int(NOW) + 10
        expiry.end_at(stays, end)
        for _ in range(100):
            expiry.end_at(comes, end)
            expiry.end_at(stays, end)
            expiry.forget(comes)
            assert len(expiry._due[end].listed) <= 2 * len(expiry)
        expiry.end_at(comes, end)
        assert expiry.expire(NOW + 10) == 2
        assert len(expiry) == 0
