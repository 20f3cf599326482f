"""The protobuf dialect across nodes: whoever is connected where, each is told once, and in order."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import eventually, with_constants
from tests.users import PASSWORD, User

from .clusters import Nodes, nodes_of
from .gochat import form, register
from .protobuf import acked, chatting, pushed, visiting
from .protobuf import login as login_frame
from .raw import PING, PONG, frame
from .v1 import good, refused

NODES = [(0, 1), (1, 0), (0, 0)]
"""Where the sender is connected, and where the receiver."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one per HTTP server; one folder of data. A connection has time to show that it lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    with nodes_of(tmp_path_factory.mktemp("cluster"), 0, apps={"gochat": {}}) as two:
        two.start_many(2, command=patient)
        yield two


@pytest.mark.full
@pytest.mark.parametrize(("here", "there"), NODES)
def test_one_sends_to_another_on_whichever_node(nodes: Nodes, here: int, there: int) -> None:
    ann, bob = register(nodes.http[here]), register(nodes.http[there])
    with chatting(nodes.ws[here], ann) as one, chatting(nodes.ws[there], bob) as two:
        for number in range(1, 31):
            one.single(number, two.id, f"t{number}")
        seqs = [acked(one.output())[1] for _ in range(30)]
        received = [pushed(two.output()) for _ in range(30)]
        assert [each.seq for each in received] == seqs == sorted(seqs)
        assert [each.text for each in received] == [f"t{number}" for number in range(1, 31)]
        two.quiet()


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


def test_what_was_sent_on_one_node_is_found_on_the_other(nodes: Nodes) -> None:
    ann, bob = register(nodes.http[0]), register(nodes.http[1])
    with chatting(nodes.ws[0], ann) as one:
        one.single(1, int(bob[0]), "later")
        seq = acked(one.output())[1]
    with chatting(nodes.ws[1], bob) as two:
        assert [(each.seq, each.text) for each in two.missed] == [(seq, "later")]


def test_a_logout_everywhere_on_one_node_closes_on_all_and_voids_tokens(nodes: Nodes) -> None:
    ann = register(nodes.http[0])
    bob = User.register(nodes.servers[0], device="phone")
    other = {"phone": bob.phone, "password": PASSWORD, "device": "pad"}
    pad = good(nodes.http[1], "accounts/login", other)["token"]
    user = bob.user
    with (
        chatting(nodes.ws[0], ann, "here") as here,
        chatting(nodes.ws[1], ann, "there") as there,
        chatting(nodes.ws[1], (user, bob.token), "phone") as on_phone,
        chatting(nodes.ws[0], (user, pad), "pad") as on_pad,
    ):
        assert good(nodes.http[0], "accounts/logout", {}, key=ann[1]) == {"user": ann[0]}
        here.closed(4502)
        there.closed(4502)
        rows = {row["name"]: row for row in good(nodes.http[0], "accounts/devices", key=pad)["devices"]}
        assert all(row["online"] for row in rows.values())
        good(nodes.http[0], "accounts/devices/logout", {"device": rows["phone"]["device"]}, key=pad)
        on_phone.closed(4502)
        on_pad.quiet()
        good(nodes.http[1], "accounts/delete", {"password": "correct horse"}, key=pad)
        on_pad.closed(4502)
    for address in nodes.http:
        for token in (ann[1], bob.token, pad):
            assert refused(address, "accounts/show", key=token)[:2] == (401, "token_invalid")
