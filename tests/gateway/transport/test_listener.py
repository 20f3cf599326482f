"""Listening: accepted at once, paused when files run out, and nobody forgotten
at the end."""

import _socket
import logging
import os
import resource
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from gevent.hub import get_hub

from imserver.gateway.errors import StartError
from imserver.gateway.metrics import Metrics
from imserver.gateway.transport.listener import Listener, bind, text_of
from imserver.gateway.transport.poller import EpollPoller
from tests.gateway.transport.harness import until
from tests.gateway.transport.test_poller import SPINNING_TURNS, turns_of_the_loop


@pytest.fixture
def poller() -> Iterator[EpollPoller]:
    one = EpollPoller(get_hub().loop, 4)
    yield one
    one.close()


class HastyListener(Listener):
    """Tries again soon."""

    PAUSE_SECONDS = 0.1


class Desk:
    def __init__(self, poller: EpollPoller, backlog: int = 256) -> None:
        self.metrics = Metrics()
        self.accepted: list[tuple[_socket.socket, Any]] = []
        self.fail = False
        sock = bind("127.0.0.1", 0, backlog, False)
        self.listener = HastyListener(
            sock, poller, get_hub().loop, self.metrics, self._accept
        )
        self.clients: list[socket.socket] = []

    def _accept(self, sock: _socket.socket, address: Any) -> None:
        self.accepted.append((sock, address))
        if self.fail:
            raise RuntimeError("a defect")

    def call(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.listener.port))
        self.clients.append(client)
        return client

    def close(self) -> None:
        self.listener.close()
        for client in self.clients:
            client.close()
        for sock, _ in self.accepted:
            sock.close()


@pytest.fixture
def desk(poller: EpollPoller) -> Iterator[Desk]:
    one = Desk(poller)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", None), ("192.0.2.1", 0), ("no.such.host.invalid", 0)],
)
def test_an_address_that_cannot_be_had_is_one_clear_line(
    host: str, port: int | None
) -> None:
    with bind("127.0.0.1", 0, 8, False) as taken:
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(StartError) as caught:
            bind(host, port, 8, False)
    assert str(caught.value).startswith(f"cannot listen on {host}:{port}: ")
    assert "\n" not in str(caught.value)


def test_whoever_calls_is_accepted_with_their_address_on_a_socket_that_never_blocks(
    desk: Desk,
) -> None:
    client = desk.call()
    until(lambda: desk.accepted)
    sock, address = desk.accepted[0]
    assert address == client.getsockname()
    assert sock.getblocking() is False
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    assert desk.metrics.accepted == 1
    assert (
        desk.listener.address
        == f"127.0.0.1:{desk.listener.port}"
        == text_of(client.getpeername())
    )
    assert text_of(("::1", 80, 0, 0)) == "[::1]:80"


def test_a_listener_goes_on_after_a_logged_defect(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.fail = True
    with caplog.at_level(logging.ERROR):
        desk.call()
        until(lambda: desk.accepted)
    assert "a defect" in caplog.text
    desk.fail = False
    desk.call()
    until(lambda: len(desk.accepted) == 2)


def test_closing_accepts_everybody_who_waits_and_nobody_after(desk: Desk) -> None:
    for _ in range(200):
        desk.call()
    desk.listener.close()
    assert len(desk.accepted) == 200
    with pytest.raises(ConnectionRefusedError):
        desk.call()
    desk.listener.close()


@contextmanager
def spare_files(count: int) -> Iterator[None]:
    """This process can open so many more files."""
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    files = [number for number in range(len(used) + count + 1) if number not in used][
        :count
    ]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[-1] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.linux
@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_without_files_the_listener_waits_and_resumes(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.clients += [socket.socket() for _ in range(40)]
    with spare_files(12):
        for client in desk.clients:
            client.connect(("127.0.0.1", desk.listener.port))
            client.setblocking(False)
        until(lambda: desk.metrics.files_exhausted >= 2)
        began = monotonic()
        tries = desk.metrics.files_exhausted
        assert turns_of_the_loop(0.3) < 6 * SPINNING_TURNS
        most = 5 + 2 * (monotonic() - began) / HastyListener.PAUSE_SECONDS
        assert desk.metrics.files_exhausted - tries <= most, "a pause is a pause"
        served = len(desk.accepted)
        assert 0 < served < 40
        refusals = [
            client.recv(1000)
            for client in desk.clients
            if select.select([client], [], [], 0)[0]
        ]
        assert refusals, "somebody was told that there is no room"
        assert all(refusal.startswith(b"HTTP/1.1 503 ") for refusal in refusals)
        for sock, _ in desk.accepted:
            sock.close()
        until(lambda: len(desk.accepted) > served)
    assert caplog.text.count("no file descriptors left") == 1, (
        "said once, not at every try"
    )
