"""Clients across nodes: whatever node is asked, it drives the clients of all."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from imserver.dialects.client.api import ROUTES
from tests.support import eventually

from .client import (
    OFFLINE,
    ONLINE,
    Listener,
    api,
    bind,
    done,
    groups_of,
    is_online,
    listening,
    new_system,
    online_list,
    send_to_client,
    send_to_group,
)
from .clusters import Nodes, nodes_of

PAIRS_OF_NODES = [(0, 1), (1, 0), (0, 0)]
"""Which node is asked, and which has the client."""
across = pytest.mark.parametrize(("via", "there"), PAIRS_OF_NODES)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one per HTTP server, that most tests share."""
    with nodes_of(tmp_path_factory.mktemp("cluster"), 2) as two:
        yield two


@pytest.fixture
def system(nodes: Nodes) -> str:
    """A system of this test alone, registered at the first node."""
    return new_system(nodes.http[0])


@contextmanager
def clients(nodes: Nodes, system: str, *nodes_of_clients: int) -> Iterator[list[Listener]]:
    """Clients of a system, one at each of these nodes."""
    with ExitStack() as stack:
        yield [stack.enter_context(listening(nodes.ws[node], system)) for node in nodes_of_clients]


# --- systems ------------------------------------------------------------------------------------------------


# --- one client ---------------------------------------------------------------------------------------------


def test_clients_on_several_nodes_get_the_same_message_each_once(nodes: Nodes, system: str) -> None:
    with clients(nodes, system, 0, 1, 0, 1) as some:
        ids = [one.id for one in some]
        for http in nodes.http:
            assert done(http, "send_to_clients", system, clientIds=[*ids, "x"], data="x") == []
            found = [one.received() for one in some]
            assert len({found_one["messageId"] for found_one in found}) == 1
            sent = done(http, "send_to_system", system, data="y")["messageId"]
            assert {one.received()["messageId"] for one in some} == {sent}
        for one in some:
            one.quiet()


@across
def test_a_client_is_closed_behind_all_that_it_was_sent(
    nodes: Nodes, system: str, via: int, there: int
) -> None:
    with clients(nodes, system, there) as (one,):
        assert is_online(nodes.http[via], system, one.id)
        for number in range(49):
            send_to_client(nodes.http[via], system, one.id, str(number))
        fields = {"sendUserId": "7", "code": 2**40, "msg": "m"}
        sent = send_to_client(nodes.http[via], system, one.id, {"n": 1}, **fields)
        assert done(nodes.http[via], "close_client", system, clientId=one.id) == {}
        assert [one.received()["data"] for _ in range(49)] == [str(number) for number in range(49)]
        assert one.received() == {"messageId": sent, "data": {"n": 1}, **fields}
        one.closed_by_server(4502)
        eventually(lambda: not is_online(nodes.http[via], system, one.id))
        # It is unknown now, which is no error anywhere.
        send_to_client(nodes.http[via], system, one.id)
        assert done(nodes.http[via], "close_client", system, clientId=one.id) == {}


# --- groups -------------------------------------------------------------------------------------------------


def test_members_on_all_nodes_learn_who_comes_and_goes(nodes: Nodes, system: str) -> None:
    with clients(nodes, system, 0, 1, 1) as (one, two, three):
        bind(nodes.http[1], system, one, "g", "1")
        assert one.notice() == (ONLINE, one.id, "1", "")
        bind(nodes.http[0], system, two, "g", "2")
        for each in (one, two):
            assert each.notice() == (ONLINE, two.id, "2", "")
        bind(nodes.http[0], system, three, "g", "3")
        for each in (one, two, three):
            assert each.notice() == (ONLINE, three.id, "3", "")
        for http in nodes.http:
            assert online_list(http, system, "g") == [one.id, two.id, three.id]
        bind(nodes.http[1], system, three, "g", "33", "new")
        three.leave()
        for each in (one, two):
            assert each.notice() == (OFFLINE, three.id, "33", "new")
        for _ in range(2):
            done(nodes.http[1], "unbind_from_group", system, clientId=one.id, groupName="g")
        assert two.notice() == (OFFLINE, one.id, "1", "")
        send_to_group(nodes.http[0], system, "g", "x")
        assert two.received()["data"] == "x"
        for each in (one, two):
            each.quiet()


# --- isolation ----------------------------------------------------------------------------------------------

DRIVEN = sorted({row.path.removeprefix("/api/") for row in ROUTES} - {"register"})


@across
def test_no_route_reaches_into_another_system(nodes: Nodes, system: str, via: int, there: int) -> None:
    other = new_system(nodes.http[0])
    with clients(nodes, system, there, 1 - there) as (one, two), clients(nodes, other, via) as (own,):
        for of, each, hears in ((system, one, [one]), (system, two, [one, two]), (other, own, [own])):
            bind(nodes.http[0], of, each, "g", "7", "secret")
            assert [member.notice()[1] for member in hears] == [each.id] * len(hears)
        ids = {"clientId": one.id, "clientIds": [one.id, two.id]}
        for path in DRIVEN:
            answer = api(nodes.http[via], path, {**ids, "groupName": "g", "userId": "0", "data": "x"}, other)
            assert answer.json["code"] == 0
            for secret in (one.id, two.id, "secret"):
                assert secret not in answer.body.decode()
            found = answer.json["data"]
            nothing = ([], {}, {"online": False}, {"count": 0, "list": []}, {"count": 1, "list": [own.id]})
            assert found in nothing or list(found) == ["messageId"]
        # Nothing has come, nothing has changed; and what is asked in its own system still works.
        sent = send_to_group(nodes.http[via], system, "g", "mine")
        for each in (one, two):
            assert each.received()["messageId"] == sent
            each.quiet()
        assert online_list(nodes.http[via], system, "g") == [one.id, two.id]
        assert groups_of(nodes.http[via], system, one.id) == ["g"]
        one.leave()
        assert two.notice() == (OFFLINE, one.id, "7", "secret")


# --- nodes that go ------------------------------------------------------------------------------------------
