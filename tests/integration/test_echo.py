"""The echo path that only a debug setting opens."""

from tests.conftest import StartServer
from tests.integration.raw import Raw, frame, handshake


def test_without_the_setting_there_is_no_echo(start_server: StartServer) -> None:
    with Raw(start_server().ws) as raw:
        raw.send(handshake("/echo"))
        assert raw.response().status == 404


def test_the_echo_path_has_room_for_its_own_largest_message(start_server: StartServer) -> None:
    """A message may be larger there than an outbox, and that is no sign of a slow reader."""
    server = start_server(config={"debug": {"echo_path": "/echo"}})
    message = bytes(3 << 20)
    with Raw(server.ws) as raw:
        raw.upgrade("/echo")
        raw.send(frame(2, message))
        assert raw.frame().payload == message
        raw.send(frame(9))
        assert raw.frame().opcode == 10
