"""Talks that are kept, over two real nodes and one database: stored on one,
told on the other, none lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .action import ActionClient, action_session
from .clusters import Nodes, nodes_of
from .cmd import cmd_client
from .sse import listening
from .v1 import good

MESSAGES = 40


def heard(one: ActionClient, number: int) -> list[str]:
    """What the next messages say; that somebody has left is passed over."""
    found: list[str] = []
    while len(found) < number:
        received = one.received()
        if received["action"] == "sendmsg":
            found.append(received["content"])
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    apps: dict[str, Any] = {
        f"action:{number}": {"keep_talks": True} for number in range(1, 7)
    }
    apps["105"] = {"same_as": "action:1"}
    with nodes_of(tmp_path_factory.mktemp("kept"), 2, apps=apps) as two:
        yield two


def test_who_comes_and_goes_between_nodes_while_others_speak_on_both_misses_nothing(
    nodes: Nodes,
) -> None:
    over = threading.Event()

    def speak(node: int) -> int:
        with action_session(nodes.ws[node], f"speaker {node}", 5, room="r") as one:
            number = 0
            last_words = False
            while not last_words:
                last_words = over.is_set()
                one.say(f"{node} {number}")
                one.pushed.clear()
                number += 1
        return number - 1

    with (
        listening(nodes.http[0], "action:5", "cid", channels="r") as cid,
        listening(nodes.http[1], "action:5", "dan", channels="r") as dan,
        action_session(nodes.ws[0], "bob", 5, room="r"),
        ThreadPoolExecutor(2) as pool,
    ):
        speaking = [pool.submit(speak, node) for node in range(2)]
        sessions = []
        for visit in range(4):
            with action_session(nodes.ws[visit % 2], "bob", 5, room="r") as bob:
                session = heard(bob, 20)
                bob.until_pinged()
                sessions.append(
                    session
                    + [each["content"] for each in bob.pushed if each["from"] != "bob"]
                )
        over.set()
        ends = [one.result() for one in speaking]
        live, other = (
            [one.message()["text"] for _ in range(sum(ends) + 2)] for one in (cid, dan)
        )
    assert live == other
    with action_session(nodes.ws[0], "bob", 5, room="r") as bob:
        last: list[str] = []
        while not all(f"{node} {end}" in last for node, end in enumerate(ends)):
            last += heard(bob, 1)
    for node, end in enumerate(ends):
        assert [text for text in live if text[0] == str(node)] == [
            f"{node} {n}" for n in range(end + 1)
        ]
        at = -1
        for session in [*sessions, last]:
            numbers = [
                int(text.split()[1]) for text in session if text.startswith(f"{node} ")
            ]
            if numbers:  # one of the two may have said all that this session heard
                assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
                assert numbers[0] <= at + 1
                at = max(at, numbers[-1])
        assert at == end


def test_clients_of_other_dialects_take_part_and_what_changed_is_as_it_is_now(
    nodes: Nodes,
) -> None:
    with (
        action_session(nodes.ws[0], "ann", 1, "bob") as ann,
        cmd_client(nodes.ws[1]) as bob,
    ):
        ann.say("hi", "voice")
        bob.login("bob", 105, cursor=0)
        received = bob.push("message").json["response"]["data"]
        assert (received["from"], received["type"], received["text"]) == (
            "ann",
            "voice",
            "hi",
        )
        ids = [
            bob.ask_cmd("send", {"to": "ann", "text": text})[2]["id"]
            for text in ("back", "helo", "bye")
        ]
        # Who has no seq is known by the number of the message.
        assert [ann.received()["msgId"] for _ in ids] == list(map(str, ids))
        for text in ("helo", "secret"):
            ids.append(bob.ask_cmd("send", {"to": "dan", "text": text})[2]["id"])
        assert bob.ask_cmd("edit", {"id": ids[-2], "text": "hello"})[0] == 200
        assert bob.ask_cmd("recall", {"id": ids[-1]})[0] == 200
        with action_session(nodes.ws[0], "dan", 1, "bob") as dan:
            dan.receives("bob", "hello", "dan")
            dan.nothing()
        push = {
            "app": "105",
            "user": "ann",
            "sender": "shop",
            "text": "kept",
            "store": True,
        }
        assert good(nodes.http[1], "push", push)["sent"] == 1
        ann.receives("shop", "kept", "ann")


def test_what_was_answered_outlives_the_node_that_stored_it(nodes: Nodes) -> None:
    with action_session(nodes.ws[0], "ann", 3, "bob") as ann:
        for number in range(MESSAGES):
            ann.say(str(number))
        nodes.servers[0].process.kill()  # this is the last test of the module
    with action_session(nodes.ws[1], "bob", 3) as bob:
        assert [bob.received()["content"] for _ in range(MESSAGES)] == [
            str(number) for number in range(MESSAGES)
        ]
