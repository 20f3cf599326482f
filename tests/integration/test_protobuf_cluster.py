"""The protobuf dialect across nodes: whoever is connected where, each is told once, and in order."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import eventually, with_constants

from .clusters import Nodes, nodes_of
from .gochat import form, register
from .protobuf import acked, chatting, pushed, visiting
from .protobuf import login as login_frame
from .raw import PING, PONG, frame


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one per HTTP server; one folder of data. A connection has time to show that it lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    with nodes_of(tmp_path_factory.mktemp("cluster"), 0, apps={"gochat": {}}) as two:
        two.start_many(2, command=patient)
        yield two


@pytest.mark.full
def test_a_group_gets_messages_on_all_nodes_each_member_once_and_in_one_order(nodes: Nodes) -> None:
    accounts = [register(nodes.http[index % 2]) for index in range(6)]
    fields = {"name": "us", "ids": [id for id, _ in accounts]}
    with ExitStack() as stack:
        chatters = [
            stack.enter_context(chatting(nodes.ws[index % 2], account))
            for index, account in enumerate(accounts)
        ]
        answer = form(nodes.http[0], "/group/create", fields, accounts[0][1]).json
        group = int(answer["data"]["id"])
        for number in range(1, 11):
            for one in chatters:
                one.group(number, group, f"{one.id}: {number}")
        streams = []
        for one in chatters:
            stream = []
            while len(stream) < 60:
                output = one.output()
                stream.append(pushed(output).seq if output.kind == 3 else acked(output)[1])
            one.quiet()
            streams.append(stream)
        assert all(stream == streams[0] == sorted(set(stream)) for stream in streams)


@pytest.mark.full
def test_a_user_who_is_online_on_one_node_is_refused_on_the_other(nodes: Nodes) -> None:
    ann = register(nodes.http[0])
    with chatting(nodes.ws[0], ann) as one, visiting(nodes.ws[1]) as two:
        one.answers_pings = False
        two.send_payload(login_frame(ann[1]))
        assert one.frame().opcode == PING
        one.send(frame(PONG, b""))
        two.closed(4501)
        one.quiet()

    def comes() -> bool:
        with visiting(nodes.ws[1]) as three:
            three.send_payload(login_frame(ann[1]))
            return three.frame().opcode == 2

    eventually(comes)
