"""Listeners that share a port, and which of them new clients get."""

import _socket
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.node.http_servers import Listeners, close_all, listen
from imserver.gateway.supervisor.slot import ConnectionSteering
from tests.support import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="steering needs Linux")

COUNT = 5


def accept_and_close(listener: _socket.socket) -> None:
    """Raises BlockingIOError if no connection waits."""
    with socket.socket(fileno=os.dup(listener.fileno())) as same:
        same.setblocking(False)
        same.accept()[0].close()


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
            with suppress(BlockingIOError):
                while True:
                    accept_and_close(listeners[name])
                    got[number] += 1
        return got.total() == clients

    eventually(all_taken)
    for connection in connections:
        connection.close()
    return got


def test_port_0_is_the_same_port_for_all_and_each_gets_clients(all_listeners: list[Listeners]) -> None:
    for name in ("http", "websocket"):
        assert len({listeners[name].getsockname() for listeners in all_listeners}) == 1
        assert taken_by(all_listeners, name).keys() == set(range(COUNT))


@pytest.mark.parametrize("closed", [{0}, {1, 3}, {1, 2, 3, 4}])
def test_clients_are_kept_away_from_those_that_take_none(
    all_listeners: list[Listeners], closed: set[int]
) -> None:
    steering = ConnectionSteering(all_listeners)
    steering.exclude(frozenset(closed))
    for name in ("http", "websocket"):
        got = taken_by(all_listeners, name)
        assert got.keys() == set(range(COUNT)) - closed
        assert min(got.values()) > 40 / len(got)
    steering.exclude(frozenset())
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT))


def test_nobody_is_kept_away_when_there_is_nowhere_else_or_it_is_not_possible(
    all_listeners: list[Listeners],
) -> None:
    steering = ConnectionSteering(all_listeners)
    steering.exclude(frozenset({1}))
    steering.exclude(frozenset(range(COUNT)))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT))
    ConnectionSteering(all_listeners, possible=False).exclude(frozenset({1}))
    assert taken_by(all_listeners, "http").keys() == set(range(COUNT))


def test_children_share_one_queue_of_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "im.sock")
    ports = {"app.http_port": 0, "app.websocket_port": 0}
    settings = load_with_locations(os.devnull, {}, {**ports, "server.extra_listen": [{"socket": path}]})[0]
    shares = listen(settings, 3)
    ConnectionSteering(shares).exclude(frozenset({0}))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        close_all(shares[0])
        close_all(shares[1])
        accept_and_close(shares[2]["extra 1"])
    close_all(shares[2])
