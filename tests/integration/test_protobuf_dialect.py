"""The protobuf dialect on both HTTP servers: accounts by GoChat's routes, and stored messages."""

import re
from contextlib import ExitStack
from time import monotonic, sleep

import pytest

from imserver.plugin.testing import HostAndPort
from tests.support import Server, eventually, with_constants

from . import protobuf, v1
from .gochat import form, register
from .protobuf import GROUP, SINGLE, SentMessage, acked, chatting, pushed, visiting
from .raw import BINARY, Raw, ask, frame, request
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


def new_group(server: Server, owner: Account, *members: Account) -> int:
    fields = {"name": "us", "ids": [id for id, _ in members]}
    return int(form(server.http, "/group/create", fields, owner[1]).json["data"]["id"])


@pytest.mark.parametrize("path", ["/ws", "/ws?x=1"])
def test_a_bare_ws_speaks_it_on_both_ports(server: Server, ann: Account, path: str) -> None:
    for address in (server.ws, server.http):
        with visiting(address, path) as one:
            one.login(ann[1])
        eventually(lambda: not online(server, ann))


def online(server: Server, account: Account) -> bool:
    """Whether an account's user is online."""
    answer = ask(server.http, request("/system/state?isDebug=true")).json["data"]["managerInfo"]
    return f"gochat_{account[0]}" in answer["users"]


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
def test_a_message_reaches_an_online_user(server: Server, ann: Account, bob: Account) -> None:
    with chatting(server.ws, ann) as one, chatting(server.http, bob) as two:
        sent = SentMessage(SINGLE, two.id, one.id, 1, "你好".encode(), 0, 1700000000000)
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


def test_group_members_receive_messages_and_only_members_may_send(
    server: Server, ann: Account, bob: Account
) -> None:
    eve = register(server.http)
    group = new_group(server, ann, bob)
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(chatting(server.ws, each)) for each in (ann, bob, eve))
        three.group(1, group, "let me in")
        one.group(1, group, "us")
        seq = acked(one.output())[1]
        assert pushed(two.output()) == SentMessage(GROUP, group, one.id, 1, b"us", seq, 7)
        two.group(1, group, "too")
        assert acked(two.output())[0] == 1
        assert pushed(one.output()).text == "too"
        three.quiet()
        assert three.catch_up() == []
        later = new_group(server, eve, bob, ann)
        three.group(2, later, "mine")
        assert acked(three.output())[0] == 2
        assert pushed(one.output()).receiver == later, "a group that was made while its members are online"
        assert pushed(two.output()).text == "mine"


def test_a_message_to_a_group_does_not_reach_a_conversation_of_two(
    server: Server, ann: Account, bob: Account
) -> None:
    """The conversation of ann and bob has a number below that of a later group."""
    with chatting(server.ws, ann) as one, chatting(server.ws, bob) as two:
        one.single(1, two.id, "hi")
        acked(one.output())
        pushed(two.output())
        group = new_group(server, ann, bob)
        for number in range(1, group):
            one.group(number + 1, number, "for a group")
        one.single(group + 1, two.id, "bye")
        acked(one.output())
        assert pushed(two.output()).text == "bye"
        one.quiet()
        two.quiet()


def test_a_back_end_pushes_to_a_user_and_stores_nothing(server: Server, ann: Account) -> None:
    with chatting(server.ws, ann) as one:
        v1.good(server.http, "push", {"app": "gochat", "user": ann[0], "sender": "shop", "text": "now"})
        found = pushed(one.output())
        assert (found.text, found.seq, found.sender) == ("now", 0, 0)
        assert one.catch_up() == []


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


@pytest.mark.full
def test_a_connection_through_which_nothing_passes_is_closed(launch: Launch, http_server: str) -> None:
    server = launch(
        http_server,
        apps={"gochat": {}},
        websocket={"protobuf_silent_seconds": 8.0, "sweep_seconds": 0.2, "close_seconds": 1},
    )
    ann, bob = register(server.http), register(server.http)
    with chatting(server.ws, ann) as one, chatting(server.ws, bob) as two:
        began = monotonic()
        number = 0
        while monotonic() < began + 10:
            number += 1
            two.single(number, one.id, "still here")
            acked(two.output())
            pushed(one.output())
            sleep(0.1)
        one.closed(4001)
        two.closed(4001)
