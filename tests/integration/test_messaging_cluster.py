"""Stored messages over two real nodes and one database: told on both in the order of the log, none lost."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.processes import pause

from .clusters import Nodes, app_with, nodes_of
from .cmd import CmdClient, command, logged_in

MESSAGES = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("messaging"), 2) as two:
        yield two


def follower(stack: ExitStack, nodes: Nodes, number: int, user: str, app: int, cursor: int = 0) -> CmdClient:
    """A user on one of the nodes who is told what is stored."""
    return stack.enter_context(logged_in(nodes.ws[number], user, app, cursor=cursor))


def stream(one: CmdClient, count: int) -> list[int]:
    """The ids of the next so many pushes and acknowledgements, as they come."""
    found: list[int] = []
    while len(found) < count:
        frame = one.pushed.pop(0) if one.pushed else one.message()
        body = frame.json
        if body["cmd"] in ("message", "send"):
            assert body["response"]["code"] == 200, body
            found.append(body["response"]["data"]["id"])
    return found


def send(one: CmdClient, to: str, text: str, **more: Any) -> None:
    one.send(command("send", {"to": to, "text": text, **more}, text))


def test_a_node_that_was_paused_reads_what_it_missed(nodes: Nodes) -> None:
    app = app_with("multi")
    with ExitStack() as stack:
        ann = follower(stack, nodes, 0, "ann", app)
        bob = follower(stack, nodes, 1, "bob", app)
        paused = nodes.servers[1].process
        pause(paused.pid)
        try:
            for number in range(MESSAGES):
                send(ann, "bob", str(number))
            assert stream(ann, MESSAGES) == list(range(1, MESSAGES + 1))
            time.sleep(0.5)  # the pause itself
        finally:
            paused.send_signal(signal.SIGCONT)
        assert stream(bob, MESSAGES) == list(range(1, MESSAGES + 1))


def test_a_client_that_moves_to_the_other_node_resumes_there(nodes: Nodes) -> None:
    app = app_with("multi")
    with ExitStack() as stack:
        ann = follower(stack, nodes, 0, "ann", app)
        with ExitStack() as first:
            bob = follower(first, nodes, 0, "bob", app)
            send(ann, "bob", "1")
            assert stream(bob, 1) == [1]
        for number in range(2, 12):
            send(ann, "bob", str(number), clientMsgID=str(number))
        assert stream(ann, 11) == list(range(1, 12))
        bob = follower(stack, nodes, 1, "bob", app, cursor=1)
        assert stream(bob, 10) == list(range(2, 12))
        again = follower(stack, nodes, 1, "ann", app, cursor=11)
        send(again, "bob", "5", clientMsgID="5")
        assert stream(again, 1) == [5]


def test_typing_and_receipts_cross_nodes(nodes: Nodes) -> None:
    app = app_with("multi")
    with ExitStack() as stack:
        ann = follower(stack, nodes, 0, "ann", app)
        phone, desk = (follower(stack, nodes, number, "bob", app) for number in range(2))
        assert desk.ask_cmd("typing", {"to": "ann"})[0] == 200
        assert ann.push("typing").json["response"]["data"] == {"from": "bob", "to": "ann"}
        sent = ann.ask_cmd("send", {"to": "bob", "text": "tea"})[2]
        assert desk.ask_cmd("read", {"conversation": sent["conversation"], "id": sent["id"]})[0] == 200
        received = {"from": "bob", "conversation": sent["conversation"], "read": sent["id"]}
        for one in (ann, phone):
            assert one.push("receipt").json["response"]["data"] == received
