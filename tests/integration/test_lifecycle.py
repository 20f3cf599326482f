"""Start, drain and stop of a real server with clients on it, through both HTTP servers."""

import contextlib
import signal
import socket

import pytest

from tests.ports import fixed_ports
from tests.support import Server

from .cmd import cmd_client, logged_in
from .raw import Raw, close, request
from .setting import Launch


@pytest.fixture
def node(launch: Launch, http_server: str) -> Server:
    """A server for one test: it will not live."""
    quick = {"close_seconds": 0.3}
    # Ports that nobody else takes: a test looks whether it has left them.
    return launch(http_server, app=fixed_ports(), drain=quick, websocket=quick)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.both_servers
def test_a_signal_drains_clients_get_1001_and_the_exit_status_is_0(node: Server, number: int) -> None:
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
    refuses(node)


def refuses(node: Server) -> None:
    """Nobody listens any more."""
    for address in (node.http, node.ws):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=60)
