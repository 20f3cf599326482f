"""Talks that are kept, over two real nodes and one database: stored on one, told on the other, none lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import eventually

from .action import action_session
from .clusters import Nodes, nodes_of
from .sse import listening
from .test_stored_conversations import heard

MESSAGES = 40


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    apps = {f"action:{number}": {"keep_talks": True} for number in range(1, 7)}
    with nodes_of(tmp_path_factory.mktemp("kept"), 2, apps=apps) as two:
        yield two


@pytest.mark.full
def test_what_was_delivered_on_one_node_is_not_delivered_again_on_the_other(nodes: Nodes) -> None:
    with action_session(nodes.ws[0], "ann", 2, "bob") as ann:
        ann.say("one")
        with action_session(nodes.ws[1], "bob", 2) as bob:
            bob.receives("ann", "one", "bob")
            bob.until_pinged()

        def nothing_is_delivered() -> bool:
            # What was delivered is written down within a second.
            with action_session(nodes.ws[0], "bob", 2) as again:
                again.deaf = True
                ann.say("mark")
                return again.received()["content"] == "mark"

        eventually(nothing_is_delivered)


def test_a_room_on_two_nodes_receives_all_in_one_order(nodes: Nodes) -> None:
    with (
        action_session(nodes.ws[0], "ann", 4, room="r") as ann,
        action_session(nodes.ws[1], "bob", 4, room="r") as bob,
    ):
        for number in range(MESSAGES):
            ann.say(f"a{number}")
            bob.say(f"b{number}")
        here, there = heard(ann, 2 * MESSAGES), heard(bob, 2 * MESSAGES)
        assert here == there
        assert [text for text in here if text[0] == "a"] == [f"a{number}" for number in range(MESSAGES)]
        assert [text for text in here if text[0] == "b"] == [f"b{number}" for number in range(MESSAGES)]
        ann.ask_action("nothing")
        assert ann.pushed == []


def test_who_comes_and_goes_between_nodes_while_others_speak_on_both_misses_nothing(nodes: Nodes) -> None:
    over = threading.Event()

    def speak(node: int) -> int:
        with action_session(nodes.ws[node], f"speaker {node}", 5, room="r") as one:
            number, last_words = 0, False
            while not last_words:
                last_words = over.is_set()
                one.say(f"{node} {number}")
                one.pushed.clear()
                number += 1
        return number - 1

    with action_session(nodes.ws[0], "bob", 5, room="r"), ThreadPoolExecutor(2) as pool:
        speaking = [pool.submit(speak, node) for node in range(2)]
        sessions = []
        for visit in range(4):
            with action_session(nodes.ws[visit % 2], "bob", 5, room="r") as bob:
                session = heard(bob, 20)
                bob.until_pinged()
                sessions.append(session + [each["content"] for each in bob.pushed if each["from"] != "bob"])
        over.set()
        ends = [one.result() for one in speaking]
    with action_session(nodes.ws[0], "bob", 5, room="r") as bob:
        last: list[str] = []
        while not all(f"{node} {end}" in last for node, end in enumerate(ends)):
            last += heard(bob, 1)
    for node, end in enumerate(ends):
        at = -1
        for session in [*sessions, last]:
            numbers = [int(text.split()[1]) for text in session if text.startswith(f"{node} ")]
            if numbers:  # one of the two may have said all that this session heard
                assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
                assert numbers[0] <= at + 1
                at = max(at, numbers[-1])
        assert at == end


def test_who_receives_the_room_live_on_another_node_receives_it_once(nodes: Nodes) -> None:
    """Back ends put connections of other dialects into rooms, and those are told of what is kept as of all
    else."""
    with (
        action_session(nodes.ws[0], "ann", 6, room="r") as ann,
        listening(nodes.http[1], "action:6", "bob", channels="r") as bob,
    ):
        ann.say("one")
        ann.say("two")
        received = [bob.message() for _ in range(2)]
        assert [each["text"] for each in received] == ["one", "two"]


def test_what_was_answered_outlives_the_node_that_stored_it(nodes: Nodes) -> None:
    with action_session(nodes.ws[0], "ann", 3, "bob") as ann:
        for number in range(MESSAGES):
            ann.say(str(number))
        nodes.servers[0].process.kill()
    with action_session(nodes.ws[1], "bob", 3) as bob:
        assert [bob.received()["content"] for _ in range(MESSAGES)] == [
            str(number) for number in range(MESSAGES)
        ]
