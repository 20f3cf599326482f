"""Channels and connections over three real nodes: reached from each of them, in order, isolated by app."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway import errors
from tests.support import eventually

from .clusters import Nodes, app_with, nodes_of
from .cmd import CmdClient, logged_in
from .raw import Address
from .v1 import call, good, sessions_of

_channels = itertools.count()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("channels"), 3) as three:
        yield three


@pytest.fixture
def app() -> int:
    return app_with("multi")


@pytest.fixture
def channel() -> str:
    return f"channel {next(_channels)}"


def subscribe(address: Address, app: int, channel: str, *users: str) -> list[str]:
    """Subscribe the connections of users; what became of each."""
    found = good(address, "channels/subscribe", {"app": str(app), "channel": channel, "users": list(users)})
    assert found["missing_nodes"] == []
    return [each["status"] for each in found["results"]]


def publish(address: Address, app: int, channel: str, text: str, **more: Any) -> Any:
    """Publish to a channel; the answer."""
    return good(address, "channels/publish", {"app": str(app), "channel": channel, "text": text, **more})


def texts(one: CmdClient, count: int) -> list[str]:
    """The next so many messages, notices left out."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


def nothing(*speakers: CmdClient) -> None:
    """None of them was told anything more."""
    for one in speakers:
        one.no_push("msg")


def subscribers(address: Address, app: int, channel: str) -> list[str]:
    found = good(address, "channels/presence", app=app, channel=channel)
    assert found["missing_nodes"] == []
    assert found["count"] == len(found["subscribers"])
    return [each["user"] for each in found["subscribers"]]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_subscribers_on_every_node_are_reached_from_every_node(
    nodes: Nodes, app: int, channel: str, where: int
) -> None:
    with ExitStack() as stack:
        people = [stack.enter_context(logged_in(nodes.ws[n % 3], f"u{n}", app)) for n in range(6)]
        outside = stack.enter_context(logged_in(nodes.ws[2], "outside", app))
        assert subscribe(nodes.http[where], app, channel, *(f"u{n}" for n in range(6))) == ["subscribed"] * 6
        for address in nodes.http:
            publish(address, app, channel, "hello")
        for one in people:
            assert texts(one, 3) == ["hello"] * 3
        nothing(outside, *people)


@pytest.mark.full
def test_everybody_who_has_subscribed_receives_what_is_published_after_while_others_come_and_go(
    nodes: Nodes, app: int, channel: str
) -> None:
    stop = threading.Event()
    rounds = [0] * 6

    def come_and_go(index: int) -> None:
        """Subscribe, hear one message that was published after, leave; over and over, on one node."""
        user = f"u{index}"
        with logged_in(nodes.ws[index % 3], user, app) as one:
            while not stop.is_set():
                subscribe(nodes.http[(index + 1) % 3], app, channel, user)
                word = f"{user} {rounds[index]}"
                publish(nodes.http[(index + 2) % 3], app, channel, word)
                while texts(one, 1) != [word]:
                    pass
                good(
                    nodes.http[index % 3],
                    "channels/unsubscribe",
                    {"app": str(app), "channel": channel, "users": [user]},
                )
                rounds[index] += 1

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(come_and_go, index) for index in range(6)]
        try:
            eventually(lambda: min(rounds) > 10 or any(each.done() for each in running), 120)
        finally:
            stop.set()
        for each in running:
            each.result(timeout=120)
    assert min(rounds) > 10


def test_subscribers_and_channels_are_listed_alike_by_every_node(nodes: Nodes, app: int) -> None:
    with ExitStack() as stack:
        order = [f"u{number}" for number in (3, 0, 2, 1)]
        for user in order:
            stack.enter_context(logged_in(nodes.ws[int(user[1]) % 3], user, app))
            subscribe(nodes.http[0], app, "b", user)
        subscribe(nodes.http[1], app, "a", "u1")
        for address in nodes.http:
            assert subscribers(address, app, "b") == order
            listed = good(address, "channels/list", app=app)
            assert [(each["channel"], each["subscribers"]) for each in listed["channels"]] == [
                ("a", 1),
                ("b", 4),
            ]
            first = good(address, "channels/presence", app=app, channel="b", limit=3)
            rest = good(address, "channels/presence", app=app, channel="b", limit=3, cursor=first["next"])
            assert [each["user"] for each in (*first["subscribers"], *rest["subscribers"])] == order
            counted = good(address, "counts", app=app)["apps"][0]
            assert (counted["users"], counted["sessions"], counted["channels"]) == (4, 4, 2)


def test_a_connection_that_ends_is_out_of_its_channels_at_once(nodes: Nodes, app: int, channel: str) -> None:
    with logged_in(nodes.ws[0], "ann", app) as ann:
        with logged_in(nodes.ws[1], "bob", app):
            for user in ("ann", "bob"):
                subscribe(nodes.http[2], app, channel, user)
            assert subscribers(nodes.http[0], app, channel) == ["ann", "bob"]
        eventually(lambda: subscribers(nodes.http[0], app, channel) == ["ann"])
        publish(nodes.http[2], app, channel, "hello")
        assert texts(ann, 1) == ["hello"]
    eventually(lambda: subscribers(nodes.http[2], app, channel) == [])
    eventually(lambda: publish(nodes.http[2], app, channel, "nobody")["status"] == "absent")


def test_a_connection_is_reached_and_closed_by_its_id_from_any_node(nodes: Nodes, app: int) -> None:
    with (
        logged_in(nodes.ws[0], "ann", app, device="phone") as phone,
        logged_in(nodes.ws[0], "ann", app) as desk,
    ):
        sessions = sessions_of(nodes.http[2], app, "ann")
        assert {each["device"] for each in sessions} == {"phone", ""}
        [connection_id] = [each["connection"] for each in sessions if each["device"] == "phone"]
        for address in nodes.http:
            assert (
                good(address, "push", {"app": str(app), "connection": connection_id, "text": "hello"})["sent"]
                == 1
            )
            assert good(address, "connections/show", app=app, connection=connection_id)["user"] == "ann"
        assert texts(phone, 3) == ["hello"] * 3
        nothing(desk)
        good(nodes.http[1], "disconnect", {"app": str(app), "connections": [connection_id]})
        phone.closed(errors.CloseCode.KICKED)
        eventually(
            lambda: call(nodes.http[2], "connections/show", app=app, connection=connection_id).status == 404
        )
        nothing(desk)
