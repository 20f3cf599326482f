"""Talks that are kept, over two real nodes and one database: stored on one, told on the other, none lost."""

from collections.abc import Iterator

import pytest

from tests.support import eventually

from .action import talking
from .clusters import Nodes, nodes_of

MESSAGES = 40


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the portable door."""
    apps = {f"action:{number}": {"keep_talks": True} for number in (1, 2, 3)}
    with nodes_of(tmp_path_factory.mktemp("kept"), 2, apps=apps) as two:
        yield two


def test_two_on_two_nodes_hear_each_other_in_one_order(nodes: Nodes) -> None:
    with talking(nodes.ws[0], "ann", 1, "bob") as ann, talking(nodes.ws[1], "bob", 1, "ann") as bob:
        for number in range(MESSAGES):
            ann.say(f"a{number}")
            bob.say(f"b{number}")
        there = [bob.told()["content"] for _ in range(MESSAGES)]
        here = [ann.told()["content"] for _ in range(MESSAGES)]
        assert there == [f"a{number}" for number in range(MESSAGES)]
        assert here == [f"b{number}" for number in range(MESSAGES)]


def test_what_was_delivered_on_one_node_is_not_told_again_on_the_other(nodes: Nodes) -> None:
    with talking(nodes.ws[0], "ann", 2, "bob") as ann:
        ann.say("one")
        with talking(nodes.ws[1], "bob", 2) as bob:
            bob.hears("ann", "one", "bob")
            bob.until_pinged()

        def nothing_is_told() -> bool:
            # What was delivered is written down within a second.
            with talking(nodes.ws[0], "bob", 2) as again:
                again.deaf = True
                ann.say("mark")
                return again.told()["content"] == "mark"

        eventually(nothing_is_told)


def test_what_was_answered_outlives_the_node_that_stored_it(nodes: Nodes) -> None:
    with talking(nodes.ws[0], "ann", 3, "bob") as ann:
        for number in range(MESSAGES):
            ann.say(str(number))
        nodes.servers[0].process.kill()
    with talking(nodes.ws[1], "bob", 3) as bob:
        assert [bob.told()["content"] for _ in range(MESSAGES)] == [str(number) for number in range(MESSAGES)]
