"""Clients inside one node: what begins them, what groups are told, and what
nodes that are silent cost."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from imserver.dialects.client.api import (
    DONE,
    TAKEN,
    TOO_MANY_SYSTEMS,
    UNKNOWN_SYSTEM,
    register,
)
from imserver.dialects.client.service import ClientService, Label
from imserver.dialects.client.wire import ClientDialect
from imserver.gateway.auth.rules import BAD_TOKEN, LoginDecision
from imserver.gateway.auth.tenants import BadTenant, TooManyTenants
from imserver.gateway.channels.connections import Joined, Left
from imserver.gateway.cluster.nodes import NodeQueries
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import Head
from imserver.gateway.transport.http1 import HttpResponse
from imserver.gateway.transport.states import CLOSED
from tests.gateway.hub.harness import Admitting, Harness
from tests.gateway.transport.harness import Client, until

CLIENT = ClientDialect()


class Directory(Admitting):
    """Systems in memory, with other names for some; ``tokens`` demands one."""

    takes_unregistered = True

    def __init__(self) -> None:
        super().__init__(
            lambda app, _user, token: app != "system:tokens" or token == "good"
        )
        self.names = {"system:known", "system:tokens"}
        self.others = {"system:alias": "system:known"}
        self.decision = LoginDecision()
        self.before_decision = lambda connection: None

    def get(self, name: str) -> object | None:
        return name if name in self.names or name in self.others else None

    find = get

    def resolve(self, name: str) -> str:
        return self.others.get(name, name)

    def register(self, name: str) -> bool:
        if name == "system:full":
            raise TooManyTenants
        if name == "system:deleted":
            raise BadTenant
        fresh = name not in self.names
        self.names.add(name)
        return fresh

    def check(
        self,
        app: str,
        user: str,
        token: str,
        dialect: str,
        connection: Any,
        device: str = "",
    ) -> LoginDecision:
        self.before_decision(connection)
        decision = super().check(app, user, token, dialect, connection)
        if not decision.ok:
            self.refused("token", app, user, connection.peer)
        return self.decision if decision.ok else decision


class ClientHarness(Harness):
    """A node with clients."""

    def __init__(self, notice_members: int = 1000) -> None:
        super().__init__(notice_members=notice_members)
        self.directory = Directory()
        self.queries = NodeQueries()
        config = SimpleNamespace(hub=SimpleNamespace(notice_members=notice_members))
        directory = {"tenants": self.directory, "logins": self.directory}
        core = self.core(queries=self.queries, config=config, **directory)
        self.clients_service = ClientService(core)
        self.connections.queries = self.queries

    def on_ended(self, connection: Connection, code: int) -> None:
        self.channels.members.ended(connection, code)
        super().on_ended(connection, code)
        self.clients_service.ended(connection, code)

    def open(self, query: str) -> tuple[Any, Client]:
        """A connection that has begun with this query."""
        connection, client = self.connect(dialect=CLIENT)
        head = Head("GET", "/ws", "1.1", "127.0.0.1", 1, {}, query)
        self.clients_service.opened(connection, head)
        return connection, client


@pytest.fixture
def harness() -> Iterator[ClientHarness]:
    with ClientHarness() as one:
        yield one


def frames(client: Client, count: int) -> list[Any]:
    """So many frames, decoded."""
    until(lambda: len(client.payloads()) >= count)
    return [json.loads(payload) for payload in client.payloads()]


@pytest.mark.parametrize("system", ["known", "alias"])
def test_a_client_is_a_user_of_its_system_under_its_own_id(
    harness: ClientHarness, system: str
) -> None:
    connection, client = harness.open(f"systemId={system}")
    assert harness.clients_service.app_of(system) == "system:known"
    assert harness.clients_service.is_registered(system)
    (welcome,) = frames(client, 1)
    client_id = welcome["data"]["clientId"]
    assert (connection.app, connection.user) == ("system:known", client_id)
    assert harness.connections.find("system:known", client_id) is connection
    assert harness.connections.id_of(connection) == client_id
    assert harness.connections.find("system:other", client_id) is None
    assert [each for each, _ in harness.directory.began_with] == [connection]
    assert harness.metrics.logins.total == 1
    connection.lost()
    assert "system:known" in harness.hub.apps, "a registered app stays"


def test_clients_of_an_unregistered_system_have_no_login_rule(
    harness: ClientHarness,
) -> None:
    harness.directory.decision = BAD_TOKEN
    connection, client = harness.open("systemId=unknown")
    assert frames(client, 1)[0]["code"] == 0
    assert not harness.hub.apps["system:unknown"].is_registered
    connection.lost()
    assert "system:unknown" not in harness.hub.apps


@pytest.mark.parametrize(
    ("query", "code", "close"),
    [
        ("", -1001, 4505),
        ("systemId=", -1001, 4505),
        ("systemId=%20x", -1001, 4505),
        ("systemId=tokens", -1003, 4504),
        ("systemId=tokens&token=bad", -1003, 4504),
    ],
)
def test_a_refused_client_gets_the_reason_and_is_closed(
    harness: ClientHarness, query: str, code: int, close: int
) -> None:
    connection, client = harness.open(query)
    assert client.close_code() == close
    assert [frame["code"] for frame in frames(client, 1)] == [code]
    assert connection.user is None
    assert harness.directory.reasons == ["app" if code == -1001 else "token"]


def test_a_connection_that_ends_during_the_back_ends_decision_is_no_client(
    harness: ClientHarness,
) -> None:
    harness.directory.before_decision = lambda connection: connection.lost()
    connection, _ = harness.open("systemId=known")
    assert connection.state == CLOSED
    assert not harness.hub.user_names("system:known")
    assert not harness.directory.began_with


@pytest.mark.parametrize("anew", [False, True])
def test_a_system_that_is_deleted_during_the_back_ends_decision_gets_no_client(
    harness: ClientHarness, anew: bool
) -> None:
    harness.hub.open("system:known", "multi")

    def delete(_connection: Connection) -> None:
        harness.hub.retire("system:known")
        if anew:
            harness.hub.open("system:known", "multi")

    harness.directory.before_decision = delete
    connection, client = harness.open("systemId=known")
    assert client.close_code() == 4506
    assert connection.user is None
    assert harness.directory.reasons == ["deleted"]
    assert ("system:known" in harness.hub.apps) is anew
    assert not harness.directory.began_with


@pytest.mark.parametrize(
    ("system", "answer"),
    [
        ("new", DONE),
        ("x" * 184, DONE),
        ("known", TAKEN),
        ("deleted", TAKEN),
        ("full", TOO_MANY_SYSTEMS),
        *((name, UNKNOWN_SYSTEM) for name in (" x", "x" * 185, "a\nb")),
    ],
)
def test_a_back_end_hears_why_a_system_is_not_registered(
    harness: ClientHarness, system: str, answer: HttpResponse
) -> None:
    api: Any = SimpleNamespace(service=harness.clients_service)
    call: Any = SimpleNamespace(input=system)
    assert register(api, call) is answer


def test_members_that_speak_another_dialect_are_in_a_group_without_a_word(
    harness: ClientHarness,
) -> None:
    listener, client = harness.open("systemId=known")
    other, _ = harness.connect(dialect=CmdDialect())
    harness.hub.join(harness.hub.apps["system:known"], other, "ann", "")
    harness.clients_service.bind("system:known", listener.user, "g", Label("7"))
    frames(client, 2)
    assert (
        harness.connections.join("system:known", harness.connections.id_of(other), "g")
        is Joined.JOINED
    )
    other.lost()
    client.probe()
    assert len(client.payloads()) == 2


def test_notices_to_groups_have_the_latest_label(harness: ClientHarness) -> None:
    (one, first), (two, second) = (
        harness.open("systemId=known"),
        harness.open("systemId=known"),
    )
    clients = harness.clients_service
    assert (
        clients.bind("system:known", one.user, "g", Label("7", "vip")) is Joined.JOINED
    )
    assert clients.bind("system:known", two.user, "g", Label("8")) is Joined.JOINED
    assert (
        clients.bind("system:known", two.user, "g", Label("9", "new")) is Joined.MEMBER
    )
    heard = frames(second, 2)[1]
    two.lost()
    received = frames(first, 4)[1:]
    assert [frame["code"] for frame in received] == [1001, 1001, 1002]
    members = [json.loads(frame["data"]) for frame in received]
    assert members[2] == {"clientId": two.user, "extend": "new", "userId": "9"}
    assert [member["userId"] for member in members] == ["7", "8", "9"]
    assert len({frame["messageId"] for frame in received}) == 3
    # The newcomer heard of itself, by the same frame as the other.
    assert heard == received[1]


def test_a_client_that_is_unbound_stays_and_the_group_is_informed_once(
    harness: ClientHarness,
) -> None:
    (one, first), (two, _) = (
        harness.open("systemId=known"),
        harness.open("systemId=known"),
    )
    clients = harness.clients_service
    for connection in (one, two):
        clients.bind("system:known", connection.user, "g", Label())
    assert clients.unbind("system:known", two.user, "g") is Left.LEFT
    assert clients.unbind("system:known", two.user, "g") is Left.ABSENT
    assert clients.unbind("system:other", one.user, "g") is Left.UNKNOWN
    assert clients.unbind("system:known", "no id", "g") is Left.UNKNOWN
    assert [frame["code"] for frame in frames(first, 4)[1:]] == [1001, 1001, 1002]
    assert two.is_open


def test_a_silent_node_is_distinguished_from_a_dead_one(harness: ClientHarness) -> None:
    stranger = harness.connections.ids.id_of(4711)
    harness.connections.query = Mock(return_value=None)  # type: ignore[method-assign]
    harness.connections.leave = Mock(side_effect=[Left.FAILED, Left.UNKNOWN])  # type: ignore[method-assign]
    for answer in (Left.FAILED, Left.UNKNOWN):
        assert harness.clients_service.unbind("system:known", stranger, "g") is answer


def test_a_large_group_gets_no_notices() -> None:
    with ClientHarness(notice_members=1) as harness:
        (one, first), (two, _) = (
            harness.open("systemId=known"),
            harness.open("systemId=known"),
        )
        for connection in (one, two):
            harness.clients_service.bind("system:known", connection.user, "g", Label())
        first.probe()
        assert len(first.payloads()) == 2
        two.lost()
        assert frames(first, 3)[2]["code"] == 1002
