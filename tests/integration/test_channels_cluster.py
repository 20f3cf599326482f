"""Channels and connections over three real nodes: reached from each of them, in order, isolated by app."""

import itertools
from collections.abc import Iterator
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


def test_subscribers_on_every_node_are_listed_and_reached_from_every_node_while_they_are_connected(
    nodes: Nodes, app: int, channel: str
) -> None:
    users = [f"u{number}" for number in range(6)]
    with ExitStack() as stack:
        with ExitStack() as leaving:
            people = [
                (leaving if n else stack).enter_context(logged_in(nodes.ws[n % 3], user, app))
                for n, user in enumerate(users)
            ]
            outside = stack.enter_context(logged_in(nodes.ws[2], "outside", app))
            for number, address in enumerate(nodes.http):
                mine = users[2 * number : 2 * number + 2]
                assert subscribe(address, app, channel, *mine) == ["subscribed"] * 2
            for address in nodes.http:
                publish(address, app, channel, "hello")
                assert sorted(subscribers(address, app, channel)) == users
                listed = good(address, "channels/list", app=app)["channels"]
                assert [(each["channel"], each["subscribers"]) for each in listed] == [(channel, 6)]
                counted = good(address, "counts", app=app)["apps"][0]
                assert (counted["users"], counted["sessions"], counted["channels"]) == (7, 7, 1)
            for one in people:
                assert texts(one, 3) == ["hello"] * 3
            nothing(outside, *people)
        eventually(lambda: subscribers(nodes.http[1], app, channel) == ["u0"])
        publish(nodes.http[2], app, channel, "still here")
        assert texts(people[0], 1) == ["still here"]
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
            push = {"app": str(app), "connection": connection_id, "text": "hello"}
            assert good(address, "push", push)["sent"] == 1
            assert good(address, "connections/show", app=app, connection=connection_id)["user"] == "ann"
        assert texts(phone, 3) == ["hello"] * 3
        nothing(desk)
        good(nodes.http[1], "disconnect", {"app": str(app), "connections": [connection_id]})
        phone.closed(errors.CloseCode.KICKED)
        eventually(
            lambda: call(nodes.http[2], "connections/show", app=app, connection=connection_id).status == 404
        )
        nothing(desk)
