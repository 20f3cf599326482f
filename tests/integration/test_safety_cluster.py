"""What moderators do acts on all nodes at once."""

from collections.abc import Iterator

import pytest

from .clusters import Nodes, app_with, nodes_of
from .cmd import logged_in
from .test_safety import entries
from .v1 import good


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("safety"), 2) as two:
        yield two


def test_a_removal_and_a_mute_act_on_the_other_node(nodes: Nodes) -> None:
    app = app_with("multi")
    named = {"app": str(app), "user": "ann"}
    first, second = nodes.servers
    with (
        logged_in(nodes.ws[0], "ann", app, cursor=0) as ann,
        logged_in(nodes.ws[1], "ann", app, cursor=0) as elsewhere,
        logged_in(nodes.ws[1], "bob", app, cursor=0) as bob,
    ):
        for number in range(3):
            assert ann.ask_cmd("send", {"to": "bob", "text": str(number)})[0] == 200
        sent = [each["id"] for each in entries(bob, 3)]
        act = good(first.http, "moderation/clear", named)
        assert (act["messages"], act["done"]) == (3, True)
        assert [each["about"] for each in entries(bob, 3)] == sent
        assert good(second.http, "moderation/undo", {"app": str(app), "act": act["act"]})["done"] is True
        assert [each["text"] for each in entries(bob, 3)] == ["0", "1", "2"]

        good(first.http, "moderation/mute", {**named, "seconds": 60, "reason": "spam"})
        assert entries(elsewhere, 10)[-1]["meta"]["moderation"]["act"] == "mute"
        code, _, data = elsewhere.ask_cmd("send", {"to": "bob", "text": "more"})
        assert (code, data["refused"]) == (1003, "muted")
        good(second.http, "moderation/unmute", named)
        good(first.http, "moderation/warn", {**named, "reason": "once more"})
        assert elsewhere.ask_cmd("send", {"to": "bob", "text": "more"})[0] == 200
