"""Connections of a real server, through both HTTP servers: how they begin and how they end."""

import contextlib
import signal
import socket
import time

import pytest

from tests.ports import fixed_ports

from .cmd import cmd_client, logged_in
from .raw import Raw, close, handshake, request
from .setting import Launch


@pytest.mark.full("waits")
def test_a_handshake_that_does_not_end_is_cut_off_in_time(launch: Launch, http_server: str) -> None:
    hasty = launch(http_server, limits={"handshake_seconds": 5, "keepalive_seconds": 5})
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(hasty.ws)) for _ in range(3)]
        for raw, start in zip(raws, (b"", b"GET /acc HT", handshake()[:-2]), strict=True):
            raw.send(start)
        for raw in raws:
            left = raw.rest()
            assert not left or left.startswith(b"HTTP/1.1 408"), left
            assert time.monotonic() - began > 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.both_servers
def test_a_signal_drains_clients_get_1001_and_the_exit_status_is_0(
    launch: Launch, http_server: str, number: int
) -> None:
    quick = {"close_seconds": 0.3}
    # Ports that nobody else takes: the test looks whether the server has left them.
    node = launch(http_server, app=fixed_ports(), drain=quick, websocket=quick)
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(logged_in(node.ws, f"u{n}", 101)) for n in range(20)]
        anonymous = stack.enter_context(cmd_client(node.http))
        idle = stack.enter_context(Raw(node.http))
        assert idle.ask(request("/health")).status == 200
        # A client without a request so far is waited for, so it is there only once.
        mute = [stack.enter_context(Raw(node.http))] if number == signal.SIGTERM else []
        node.process.send_signal(number)
        for one in [*sessions, anonymous]:
            while (found := one.frame()).opcode == 1:
                assert found.json["cmd"] in ("enter", "exit")
            assert found.close_code == 1001
            one.send(close(1001))
            one.ended()
            one.leave()
        idle.ended()
        for each in mute:
            each.ended()
        assert node.process.wait(40) == 0
    for address in (node.http, node.ws):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=60)
