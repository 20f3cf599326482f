"""Listening: accepted at once, paused when files run out, and nobody forgotten at the end."""

import _socket
import json
import logging
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gevent.hub import get_hub

from imserver.gateway.errors import StartError
from imserver.gateway.metrics import Metrics
from imserver.gateway.transport.listener import bind, text_of
from imserver.gateway.transport.poller import EpollPoller
from tests.gateway.transport.harness import until
from tests.gateway.transport.starved import HastyListener
from tests.processes import end, ended_on_failure, spawn
from tests.support import clean_environment, eventually

SPINNING_TURNS = 200


@pytest.fixture
def poller() -> Iterator[EpollPoller]:
    one = EpollPoller(get_hub().loop, 4)
    yield one
    one.close()


class Desk:
    """A listener and what it has accepted."""

    def __init__(self, poller: EpollPoller, backlog: int = 256) -> None:
        self.metrics = Metrics()
        self.accepted: list[tuple[_socket.socket, Any]] = []
        self.fail = False
        sock = bind("127.0.0.1", 0, backlog, False)
        self.listener = HastyListener(sock, poller, get_hub().loop, self.metrics, self._accept)
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


# --- binding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", None), ("192.0.2.1", 0), ("no.such.host.invalid", 0)]
)
def test_an_address_that_cannot_be_had_is_one_clear_line(host: str, port: int | None) -> None:
    with bind("127.0.0.1", 0, 8, False) as taken:
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(StartError) as caught:
            bind(host, port, 8, False)
    assert str(caught.value).startswith(f"cannot listen on {host}:{port}: ")
    assert "\n" not in str(caught.value)


def test_a_port_may_be_shared_by_processes_that_say_so() -> None:
    with bind("127.0.0.1", 0, 8, True) as one, bind("127.0.0.1", one.getsockname()[1], 8, True) as two:
        assert one.getsockname() == two.getsockname()


# --- accepting ----------------------------------------------------------------------------------------------


def test_whoever_calls_is_accepted_with_their_address_on_a_socket_that_never_blocks(desk: Desk) -> None:
    client = desk.call()
    until(lambda: desk.accepted)
    sock, address = desk.accepted[0]
    assert address == client.getsockname()
    assert sock.getblocking() is False
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    assert desk.metrics.accepted == 1
    assert desk.listener.address == f"127.0.0.1:{desk.listener.port}" == text_of(client.getpeername())
    assert text_of(("::1", 80, 0, 0)) == "[::1]:80"


def test_a_defect_behind_the_listener_is_logged_and_the_listener_opens_again(
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


# --- closing ------------------------------------------------------------------------------------------------


def test_closing_accepts_everybody_who_waits_and_nobody_after(desk: Desk) -> None:
    for _ in range(200):
        desk.call()
    desk.listener.close()
    assert len(desk.accepted) == 200
    with pytest.raises(ConnectionRefusedError):
        desk.call()
    desk.listener.close()


# --- too few files ------------------------------------------------------------------------------------------


class Starved:
    """The process of ``starved.py``."""

    def __init__(self) -> None:
        self.process = spawn(
            [sys.executable, "-m", "tests.gateway.transport.starved"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            text=True,
            bufsize=1,
        )
        with ended_on_failure(self.process):
            assert self.process.stdout is not None
            self.port = int(self.process.stdout.readline())

    def send_word(self, word: str) -> dict[str, int]:
        """Say a word; the counters that it answers with."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> str:
        """End it; what it logged."""
        try:
            output: str = self.process.communicate("end\n", timeout=60)[1]
        finally:
            end(self.process)
        return output


def received(client: socket.socket) -> bytes:
    """What has come so far."""
    ready, _, _ = select.select([client], [], [], 0)
    return client.recv(1000, socket.MSG_PEEK) if ready else b""


@pytest.mark.linux
@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_without_file_descriptors_the_listener_waits_and_resumes() -> None:
    starved = Starved()
    clients = [socket.create_connection(("127.0.0.1", starved.port)) for _ in range(40)]
    try:
        eventually(lambda: starved.send_word("report")["files_exhausted"] >= 2)
        began, before = time.monotonic(), starved.send_word("report")
        time.sleep(0.3)
        after = starved.send_word("report")
        seconds = time.monotonic() - began
        assert after["turns"] - before["turns"] < SPINNING_TURNS * (1 + seconds)
        tries = after["files_exhausted"] - before["files_exhausted"]
        assert tries <= 5 + 2 * seconds / HastyListener.PAUSE_SECONDS, "a pause is a pause"
        answers = [received(client) for client in clients]
        served, refused = (
            answers.count(b"hi"),
            [text for text in answers if text.startswith(b"HTTP/1.1 503 ")],
        )
        assert 0 < served < 40
        assert refused, "somebody was told that there is no room"
        starved.send_word("free")
        eventually(lambda: [received(client) for client in clients].count(b"hi") > served)
        assert starved.send_word("report")["accepted"] > served
    finally:
        for client in clients:
            client.close()
        log_text = starved.end()
    assert "Traceback" not in log_text
    assert log_text.count("no file descriptors left") == 1, "said once, not at every try"
