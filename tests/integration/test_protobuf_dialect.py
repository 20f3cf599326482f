"""The protobuf dialect on both HTTP servers: accounts by GoChat's routes, and stored messages."""

import re

import pytest

from imserver.plugin.testing import HostAndPort
from tests.support import Server, with_constants

from . import protobuf
from .gochat import register
from .protobuf import SINGLE, SentMessage, acked, chatting, pushed, visiting
from .raw import BINARY, Raw, frame
from .setting import Launch

Account = tuple[str, str]


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """A connection has time to show that it lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    apps = {"gochat": {}, "101": {}}
    return launch(http_server, patient, apps=apps, websocket={"close_seconds": 1})


@pytest.fixture
def ann(server: Server) -> Account:
    return register(server.http)


@pytest.fixture
def bob(server: Server) -> Account:
    return register(server.http)


@pytest.mark.both_servers
def test_the_captured_bytes_of_a_login(server: Server, ann: Account) -> None:
    token = ann[1].encode()
    with Raw(server.ws) as raw:
        raw.upgrade("/ws")
        data = b"\x0a" + protobuf.varint(len(token)) + token
        raw.send(frame(BINARY, b"\x08\x01\x12" + protobuf.varint(len(data)) + data))
        found = raw.frame()
        assert found.opcode == BINARY
        assert found.payload.hex(" ") == "0a 12 08 04 10 c8 01 1a 07 53 75 63 63 65 73 73 22 02 08 03"


@pytest.mark.both_servers
@pytest.mark.parametrize("path", ["/ws", "/ws?x=1"])
def test_a_message_reaches_an_online_user(server: Server, ann: Account, bob: Account, path: str) -> None:
    """On both ports."""
    with visiting(server.ws, path) as one, chatting(server.http, bob) as two:
        one.login(ann[1])
        assert one.catch_up() == []
        sent = SentMessage(SINGLE, two.id, int(ann[0]), 1, "你好".encode(), 0, 1700000000000)
        one.send_payload(protobuf.message(1, sent))
        number, seq = acked(one.output())
        assert number == 1
        assert pushed(two.output()) == sent._replace(seq=seq)
        one.quiet()


def test_a_message_to_an_absent_user_is_found_later_by_both(
    server: Server, ann: Account, bob: Account
) -> None:
    with chatting(server.ws, ann) as one:
        one.single(1, int(bob[0]), "later")
        seq = acked(one.output())[1]
        sent = SentMessage(SINGLE, int(bob[0]), one.id, 1, b"later", seq, 7)
        assert one.catch_up() == [sent]
        with chatting(server.ws, bob) as two:
            assert two.missed == [sent]
            assert two.catch_up(seq) == []


@pytest.mark.full
def test_it_is_all_there_after_a_kill(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"gochat": {}})
    ann, bob = register(server.http), register(server.http)
    with chatting(server.ws, ann) as one:
        for number in range(1, 21):
            one.single(number, int(bob[0]), f"t{number}")
        seqs = [acked(one.output())[1] for _ in range(20)]
        server.process.kill()
        server.process.wait()
    again = Server(server.folder, config={"apps": {"gochat": {}}}, http_server=http_server)
    try:
        with chatting(again.ws, bob) as two:
            assert [each.seq for each in two.missed] == seqs
    finally:
        again.stop()


def test_the_originals_own_configuration_opens_its_ports(launch: Launch, http_server: str) -> None:
    server = launch(
        http_server,
        app={"http_server_port": 0, "websocket_server_port": 0, "worker_pool_size": 10, "heartbeattime": 600},
        mysql={"dns": "root:root@tcp(127.0.0.1:3306)/gochat"},
        log={"target": "console", "level": "debug"},
    )
    extra = re.findall(r"^  extra (\d+) +http://([0-9.]+):(\d+)", server.output, re.MULTILINE)
    http, websocket = (HostAndPort(host, int(port)) for _, host, port in extra)
    ann = register(http)
    with chatting(websocket, ann) as one:
        one.single(1, 1, "to myself or to the first")
        one.quiet()
    assert "mysql.dns has no effect" in server.log_text + server.output
