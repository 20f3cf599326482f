"""Logins and webhooks on two nodes: one token for all, one story for the back end."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jwt
import pytest

from tests.gateway.commands.test_token import create
from tests.support import Server, eventually

from .clusters import Nodes, nodes_of
from .cmd import fresh, good, logged_in, login_code
from .raw import CLOSE, ask, request
from .receiver import Receiver

KEY = [("Authorization", "Bearer admin-key-of-the-tests")]
SECRET = "a secret that is long enough to be one"


class Harness(NamedTuple):
    """Two nodes, and the back end of app 101, 102 and of the system ``shop``."""

    nodes: Nodes
    receiver: Receiver


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Receiver() as receiver:
        apps = {
            "101": {"webhook": receiver.settings, "jwt": [{"key": SECRET}]},
            "102": {"open": True, "webhook": receiver.settings, "login_policy": "single"},
            "103": {"jwt": [{}]},
            "104": {"open": True, "max_connections": 1, "login_policy": "multi"},
            "system:shop": {"open": True, "webhook": receiver.settings},
        }
        keys = {"keys": [{"key": "admin-key-of-the-tests", "scopes": ["admin"]}]}
        with nodes_of(tmp_path_factory.mktemp("logins"), 2, apps=apps, api=keys) as nodes:
            yield Harness(nodes, receiver)


@pytest.fixture
def harness(running: Harness) -> Harness:
    running.receiver.forget()
    return running


def events_of(harness: Harness, name: str, user: str) -> list[dict[str, Any]]:
    """The events of a user, among which those of an earlier test may still come."""
    return [event for event in harness.receiver.events(name) if event["user"] == user]


def test_a_token_is_good_on_every_node(harness: Harness) -> None:
    user = fresh()
    proof = jwt.encode({"sub": user, "app": "101", "exp": time.time() + 60}, SECRET, "HS256")
    for ws in harness.nodes.ws:
        assert login_code(ws, user, 101, serviceToken=proof) == 200
        assert login_code(ws, fresh(), 101, serviceToken=proof) == 1003


def test_a_secret_that_is_derived_is_the_same_on_every_node(harness: Harness) -> None:
    file = str(harness.nodes.servers[1].config_file)
    proof = create(file, app="103")
    for ws in harness.nodes.ws:
        assert login_code(ws, "ann", 103, serviceToken=proof) == 200


@pytest.mark.full
def test_each_node_reports_its_own_connections_and_one_node_reports_who_is_absent(harness: Harness) -> None:
    first, second = harness.nodes.servers
    user = fresh()
    headers = [*KEY, ("Content-Type", "application/x-www-form-urlencoded")]
    with logged_in(second.ws, user, 102):
        eventually(lambda: events_of(harness, "login", user))
        missing = fresh()
        for receiver in (user, missing):
            body = f"appID=102&userID={receiver}&msgID={fresh()}&message=hi".encode()
            assert (
                ask(
                    first.http, request("/user/sendMessage", method="POST", headers=headers, body=body)
                ).status
                == 200
            )
        eventually(lambda: events_of(harness, "absent", missing))
    (connect,) = events_of(harness, "connect", user)
    (login,) = events_of(harness, "login", user)
    (absent,) = harness.receiver.events("absent")
    assert connect["node"] == login["node"] == named(second)
    assert absent["node"] in {named(first), named(second)}, (
        "the node that holds the lease of the feed delivers it"
    )


def named(server: Server) -> str:
    """The node's name."""
    state = good(ask(server.http, request("/system/state?cluster=true", headers=KEY)))
    return str(next(iter(state["nodes"])))


def test_who_is_replaced_from_another_node_is_reported_as_gone(harness: Harness) -> None:
    first, second = harness.nodes.servers
    user = fresh()
    with logged_in(first.ws, user, 102) as one, logged_in(second.ws, user, 102):
        while (closed := one.frame()).opcode != CLOSE:
            pass  # those of an earlier test leave
        assert closed.close_code == 4500
        gone = eventually(lambda: events_of(harness, "disconnect", user))
        assert [(event["code"], event["node"]) for event in gone] == [(4500, named(first))]
