"""Listeners that share a port, and which of them new clients get."""

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.node.http_servers import Listeners, close_all, listen
from imserver.gateway.supervisor.slot import ConnectionSteering
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="steering needs Linux")

COUNT = 5


@pytest.fixture
def all_listeners() -> Iterator[list[Listeners]]:
    settings = load_with_locations(os.devnull, {}, {"app.http_port": 0, "app.websocket_port": 0})[0]
    result = listen(settings, COUNT)
    yield result
    for listeners in result:
        close_all(listeners)


def taken_by(all_listeners: list[Listeners], name: str, clients: int = 200) -> Counter[int]:
    """How many clients each listener got."""
    address = all_listeners[0][name].getsockname()
    connections = [socket.create_connection(address) for _ in range(clients)]
    got: Counter[int] = Counter()

    def all_taken() -> bool:
        for number, listeners in enumerate(all_listeners):
            with suppress(BlockingIOError), socket.socket(fileno=os.dup(listeners[name].fileno())) as same:
                same.setblocking(False)
                while True:
                    same.accept()[0].close()
                    got[number] += 1
        return got.total() == clients

    eventually(all_taken)
    for connection in connections:
        connection.close()
    return got


@pytest.mark.parametrize("closed", [set(), {0}, {1, 3}, {1, 2, 3, 4}])
def test_all_share_port_0_and_clients_are_kept_away_from_those_that_take_none(
    all_listeners: list[Listeners], closed: set[int]
) -> None:
    steering = ConnectionSteering(all_listeners)
    steering.exclude(frozenset(closed))
    for name in ("http", "websocket"):
        assert len({listeners[name].getsockname() for listeners in all_listeners}) == 1
        got = taken_by(all_listeners, name)
        assert got.keys() == set(range(COUNT)) - closed
        assert min(got.values()) > 40 / len(got) * (len(closed) > 0)
    steering.exclude(frozenset(range(COUNT)))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT)), "there is nowhere else"
    ConnectionSteering(all_listeners, possible=False).exclude(frozenset({1}))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT))
