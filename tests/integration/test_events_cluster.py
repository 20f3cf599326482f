"""Event streams of two nodes: what is pushed at one reaches listeners of the other."""

from collections.abc import Iterator

import pytest

from tests.support import eventually

from .clusters import Nodes, app_with, nodes_of
from .cmd import good, is_online, json_request, logged_in, post, send_message, send_to_all, users
from .raw import Address, ask
from .sse import ask_for, end_of, listening


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("nodes"), 2) as two:
        yield two


def publish(address: Address, app: int, channel: str, text: str) -> None:
    body = {"app": str(app), "channel": channel, "text": text}
    answer = ask(address, json_request("/api/v1/push", body))
    assert answer.json["sent"] == 1, answer


@pytest.mark.full("processes")
def test_pushes_of_every_kind_cross_the_nodes_in_their_order(nodes: Nodes) -> None:
    app = app_with("multi")
    with listening(nodes.http[0], app, "ann", channels="tea") as ann:
        with listening(nodes.http[1], app, "bob", channels="tea") as bob:
            assert users(nodes.http[0], app) == users(nodes.http[1], app) == ["ann", "bob"]
            for number in range(10):
                assert send_message(nodes.http[1], app, "ann", f"one {number}") == {"sendResults": True}
                send_to_all(nodes.http[1], app, "x", f"all {number}")
                publish(nodes.http[1], app, "tea", f"channel {number}")
            wanted = [f"{what} {number}" for number in range(10) for what in ("one", "all", "channel")]
            assert [ann.message()["text"] for _ in range(30)] == wanted
            assert [bob.message()["text"] for _ in range(20)] == [w for w in wanted if "one" not in w]
        eventually(lambda: users(nodes.http[0], app) == ["ann"])


def test_a_login_on_the_other_node_replaces_a_stream_under_single(nodes: Nodes) -> None:
    app = app_with("single")
    with listening(nodes.http[0], app, "ann") as older, logged_in(nodes.ws[1], "ann", app):
        assert end_of(older)["code"] == 4500
        assert is_online(nodes.http[0], "ann", app)


def test_under_refuse_a_stream_on_the_other_node_keeps_others_out(nodes: Nodes) -> None:
    app = app_with("refuse")
    with listening(nodes.http[0], app, "ann"):
        answer = ask_for(nodes.http[1], app=str(app), user="ann")
        assert (answer.status, answer.json["code"]) == (409, "already_online")


def test_a_ban_holds_on_every_node(nodes: Nodes) -> None:
    app = app_with("multi")
    good(post(nodes.http[1], "/user/kick", appID=app, userID="bad", banSeconds=60))
    answer = ask_for(nodes.http[0], app=str(app), user="bad")
    assert (answer.status, answer.json["code"]) == (403, "banned")
