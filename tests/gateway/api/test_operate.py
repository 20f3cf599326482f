"""State, health and kicking."""

import msgspec
import pytest

from imserver.gateway.cluster.nodes import StateQuery
from imserver.gateway.cluster.registry import Lease
from tests.gateway.api.fakes import BAD_PARAMETER, FakeNode, decoded

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
    assert data["missingNodes"] == ["10.0.0.3:9001"]
    assert node.peers.queries == [
        (["10.0.0.2:9001", "10.0.0.3:9001"], "state", msgspec.msgpack.encode(StateQuery(True, False)))
    ]


def test_a_lease_is_shown_without_what_only_nodes_need(node: FakeNode) -> None:
    data = node.get("/system/state", cluster="true")["data"]
    lease = data["nodes"]["10.0.0.1:9001"]["lease"]
    assert list(lease) == [
        "node",
        "epoch",
        "host",
        "startedAt",
        "connections",
        "counts",
        "draining",
        "publicWsUrl",
        "version",
    ]


def test_of_two_lives_of_a_node_the_later_one_is_asked(node: FakeNode) -> None:
    node.peers.others = [Lease("10.0.0.2:9001", 7), Lease("10.0.0.2:9001", 5)]
    assert node.overview.leases()["10.0.0.2:9001"].epoch == 7


def test_health_is_always_fine(node: FakeNode) -> None:
    node.is_ready = False
    answer = node.call("GET", "/health")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def test_ready_says_whether_the_node_can_do_its_work(node: FakeNode) -> None:
    assert node.call("GET", "/ready").status == 200
    node.is_ready = False
    assert node.call("GET", "/ready").status == 503


def test_head_and_options_are_answered(node: FakeNode) -> None:
    assert node.call("HEAD", "/user/list", query="appID=101") == node.call(
        "GET", "/user/list", query="appID=101"
    )
    answer = node.call("OPTIONS", "/user/sendMessage")
    assert (answer.status, answer.body) == (204, b"")


def test_a_kick_closes_the_connections_of_a_user(node: FakeNode) -> None:
    assert node.post(KICK, appID=101, userID="马远")["data"] == {"kickResults": True, "kickCount": 1}
    assert node.post(KICK, appID=101, userID="nobody")["data"] == {"kickResults": False, "kickCount": 0}
    assert node.kicked == [("101", "马远", 0), ("101", "nobody", 0)]


@pytest.mark.parametrize("seconds", ["60", "0.5", "", "31622400"])
def test_a_kick_may_ban_for_a_time(node: FakeNode, seconds: str) -> None:
    assert node.post(KICK, appID=101, userID="马远", banSeconds=seconds)["data"]["kickResults"]
    assert node.kicked == [("101", "马远", float(seconds or 0))]


def test_a_ban_in_json_is_a_number(node: FakeNode) -> None:
    assert node.post_json(KICK, {"appID": 101, "userID": "马远", "banSeconds": 1.5})["data"]["kickResults"]
    assert node.kicked == [("101", "马远", 1.5)]
    assert node.post_json(KICK, {"appID": 101, "userID": "马远", "banSeconds": "1"}) == BAD_PARAMETER
    assert node.post_json(KICK, {"appID": 101, "userID": "马远", "banSeconds": True}) == BAD_PARAMETER


@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "inf", "1e9", "31622401", "1" * 400])
def test_a_ban_of_no_sensible_time_is_refused_with_1001(node: FakeNode, seconds: str) -> None:
    assert node.post(KICK, appID=101, userID="马远", banSeconds=seconds) == BAD_PARAMETER
    assert node.kicked == []


@pytest.mark.parametrize("form", ["userID=马远", "appID=0&userID=马远", "appID=101", "appID=101&userID="])
def test_a_kick_needs_an_app_and_a_user(node: FakeNode, form: str) -> None:
    answer = node.call("POST", KICK, form.encode())
    assert decoded(answer)["data"] == {"kickResults": False, "kickCount": 0}
    assert node.kicked == []


def test_a_kick_names_the_nodes_that_did_not_answer(node: FakeNode) -> None:
    node.silent = ["192.0.2.1:9001"]
    answer = node.post("/user/kick", appID=101, userID="马远")
    assert answer["data"] == {"kickResults": True, "kickCount": 1, "missingNodes": ["192.0.2.1:9001"]}
