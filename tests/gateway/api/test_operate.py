"""State, health and kicking."""

from typing import Any

import msgspec
import pytest

from imserver.gateway.cluster.nodes import StateQuery
from imserver.gateway.cluster.registry import Lease
from tests.gateway.api.fakes import BAD_PARAMETER, FakeNode

KICK = "/user/kick"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def test_state_names_peers_only_when_asked_to(node: FakeNode) -> None:
    assert node.get("/system/state")["data"] == {"managerInfo": {"clientsLen": 2}}
    assert node.get("/system/state", isDebug="false")["data"] == {"managerInfo": {"clientsLen": 2}}
    debugged = node.get("/system/state", isDebug="true")["data"]
    assert debugged == {"managerInfo": {"clientsLen": 2, "clients": ["127.0.0.1:1"]}}


def test_the_state_of_all_nodes_is_that_of_each_with_its_lease(node: FakeNode) -> None:
    node.peers.others = [Lease("10.0.0.2:9001", 2, host="two", connections=5), Lease("10.0.0.3:9001", 3)]
    node.peers.answers = {"10.0.0.2:9001": {"state": {"managerInfo": {"clientsLen": 5}}}}
    data = node.get("/system/state", cluster="true", isDebug="true")["data"]
    assert list(data["nodes"]) == ["10.0.0.1:9001", "10.0.0.2:9001", "10.0.0.3:9001"]
    own, other, silent = data["nodes"].values()
    assert own["managerInfo"] == {"clientsLen": 2, "clients": ["127.0.0.1:1"]}
    assert (other["managerInfo"], other["lease"]["connections"]) == ({"clientsLen": 5}, 5)
    assert list(silent) == ["lease"]
    assert not {"control", "data", "fingerprint"} & other["lease"].keys(), "what only nodes need"
    assert data["missingNodes"] == ["10.0.0.3:9001"]
    assert node.peers.queries == [
        (["10.0.0.2:9001", "10.0.0.3:9001"], "state", msgspec.msgpack.encode(StateQuery(True, False)))
    ]


def test_of_two_lives_of_a_node_the_later_one_is_asked(node: FakeNode) -> None:
    node.peers.others = [Lease("10.0.0.2:9001", 7), Lease("10.0.0.2:9001", 5)]
    assert node.overview.leases()["10.0.0.2:9001"].epoch == 7


def test_head_and_options_are_answered(node: FakeNode) -> None:
    assert node.call("HEAD", "/user/list", query="appID=101") == node.call(
        "GET", "/user/list", query="appID=101"
    )
    answer = node.call("OPTIONS", "/user/sendMessage")
    assert (answer.status, answer.body) == (204, b"")


def test_health_is_always_fine_and_readiness_says_whether_the_node_can_do_its_work(node: FakeNode) -> None:
    assert node.call("GET", "/ready").status == 200
    node.is_ready = False
    assert node.call("GET", "/ready").status == 503
    answer = node.call("GET", "/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def kick(node: FakeNode, as_json: bool = False, **fields: Any) -> Any:
    whole = {"appID": 101, "userID": "马远", **fields}
    return node.post_json(KICK, whole) if as_json else node.post(KICK, **whole)


@pytest.mark.parametrize(
    ("as_json", "given"), [(False, {"banSeconds": "60"}), (False, {}), (True, {"banSeconds": 1.5})]
)
def test_a_kick_closes_the_connections_of_a_user_and_may_ban_for_a_time(
    node: FakeNode, as_json: bool, given: dict[str, Any]
) -> None:
    assert kick(node, as_json, **given)["data"] == {"kickResults": True, "kickCount": 1}
    assert kick(node, as_json, userID="nobody", **given)["data"] == {"kickResults": False, "kickCount": 0}
    seconds = float(given.get("banSeconds", 0))
    assert node.kicked == [("101", "马远", seconds), ("101", "nobody", seconds)]
    node.silent = ["192.0.2.1:9001"]
    assert kick(node, as_json, **given)["data"]["missingNodes"] == node.silent


@pytest.mark.parametrize(
    ("as_json", "seconds", "is_taken"),
    [
        *((False, seconds, True) for seconds in ("0.5", "", "31622400")),
        *((False, seconds, False) for seconds in ("x", "-1", "nan", "inf", "1e9", "31622401", "1" * 400)),
        *((True, seconds, False) for seconds in ("1", True)),
    ],
)
def test_a_ban_has_a_sensible_time(node: FakeNode, as_json: bool, seconds: object, is_taken: bool) -> None:
    assert (kick(node, as_json, banSeconds=seconds) != BAD_PARAMETER) is is_taken
    assert bool(node.kicked) is is_taken
