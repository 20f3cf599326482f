"""Rerouting: pushes that arrive at a node whose user has moved, or is just logging in."""

from itertools import count
from unittest.mock import Mock

import gevent
import pytest
from msgspec.structs import replace

from imserver.gateway.cluster.nodes import ToUser
from imserver.gateway.cluster.registry import SessionRef
from imserver.gateway.model import Event, Login, Outcome
from imserver.gateway.push import routing
from imserver.gateway.push.push import UserPush
from tests.gateway.core.cluster_harness import MULTI, NEWEST, Several, received_since
from tests.gateway.transport.harness import Client, look, until

ORIGIN = 77
_numbers = count(1)


def item(text: str, user: str = "ann") -> ToUser:
    """The next push of another node."""
    return ToUser(NEWEST, user, Event("msg", user, text, ""), origin=ORIGIN, number=next(_numbers))


def texts(nodes: Several, *clients: Client) -> list[list[str]]:
    """The messages that each client was told."""
    until(lambda: not any(node.rerouting.waiting for node in nodes.nodes.values()))
    nodes.settle(*clients)
    return [[text for kind, _, text in received_since(client) if kind == "msg"] for client in clients]


def counts(nodes: Several) -> tuple[int, int]:
    """(followed, unreached) of all nodes."""
    rerouting = [node.rerouting for node in nodes.nodes.values()]
    return sum(stray.rerouted for stray in rerouting), sum(stray.unreached for stray in rerouting)


def test_a_local_user_is_reached_without_a_query(nodes: Several) -> None:
    _, ann = nodes[1].login(NEWEST, "ann")
    nodes[1].registry.calls.clear()
    nodes[1].rerouting.deliver(item("hello"))
    assert nodes[1].registry.calls == []
    assert texts(nodes, ann) == [["hello"]]
    assert counts(nodes) == (0, 0)


def test_a_push_follows_its_user_to_the_node_they_have_moved_to(nodes: Several) -> None:
    """Looked up before the move, arrived after it."""
    _, older = nodes[1].login(NEWEST, "ann")
    nodes[3].rpc.holding = True
    assert nodes[3].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello")) == Outcome.SENT
    _, newer = nodes[2].login(NEWEST, "ann")
    nodes[3].rpc.release()
    assert texts(nodes, older, newer) == [[], ["hello"]]
    assert counts(nodes) == (1, 0)


def test_pushes_wait_in_order_for_the_login_that_the_registry_knows_of_already(nodes: Several) -> None:
    nodes[1].registry.hold()
    connection, ann = nodes[1].connect()
    login = gevent.spawn(nodes[1].sessions.login, connection, Login(NEWEST, "ann"))
    until(lambda: nodes.addressed(NEWEST, "ann") == [1])
    for text in "abc":
        assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", text, text)) == Outcome.SENT
        look()
    nodes[1].registry.release()
    assert login.get() == 200
    nodes[1].rerouting.deliver(item("d"))
    assert texts(nodes, ann) == [["a", "b", "c", "d"]]
    assert counts(nodes) == (0, 0)


def test_pushes_to_a_node_that_drains_wait_for_the_return_of_their_user(nodes: Several) -> None:
    nodes[1].rerouting.patience = routing.RETURN_SECONDS
    nodes[1].rerouting.deliver(item("a"))
    nodes[1].rerouting.deliver(item("b"))
    until(lambda: nodes[1].registry.calls.count("find") > 1)
    assert nodes[1].rerouting.waiting == 2
    _, ann = nodes[2].login(NEWEST, "ann")
    assert texts(nodes, ann) == [["a", "b"]]
    assert counts(nodes) == (2, 0)


def test_later_pushes_stay_behind_a_rerouted_one(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    nodes[1].registry.hold()
    for text in "abc":
        nodes[1].rerouting.deliver(item(text))
        look()
    nodes[1].registry.release()
    assert texts(nodes, ann) == [["a", "b", "c"]]
    assert counts(nodes) == (3, 0)


def test_rerouted_pushes_of_one_user_do_not_hold_up_those_of_another(nodes: Several) -> None:
    _, bob = nodes[1].login(NEWEST, "bob")
    nodes[1].registry.hold()
    nodes[1].rerouting.deliver(item("a"))
    nodes[1].rerouting.deliver(item("b", "bob"))
    nodes[1].rerouting.deliver(item("c", "cid"))
    until(lambda: nodes[1].registry.calls.count("find") == 2)
    nodes[1].registry.release()
    assert texts(nodes, bob) == [["b"]]


@pytest.mark.parametrize("fault", ["absent", "registry", "cut"])
def test_an_undeliverable_push_is_counted_and_reported_if_no_other_node_has_it(
    nodes: Several, fault: str
) -> None:
    heard: list[tuple[str, str, str]] = []
    nodes[1].rerouting.report_to(lambda app, user, event: heard.append((app, user, event.text)))
    nodes[1].registry.away = fault == "registry"
    if fault == "cut":
        nodes[2].login(NEWEST, "ann")
        nodes[1].rpc.cut.add(2)
    nodes[1].rerouting.deliver(item("lost"))
    nodes[1].rerouting.deliver(replace(item("other nodes have it, too"), alone=False))
    assert texts(nodes) == []
    assert heard == [(NEWEST, "ann", "lost")]
    assert counts(nodes) == (0, 2)


def test_a_push_does_not_follow_for_ever(nodes: Several) -> None:
    """Each node's look says that the user is at the other."""
    nodes.book.refs[NEWEST, "ann"] = [SessionRef(1, 10**9, 1), SessionRef(2, 10**9, 1)]
    nodes[1].rerouting.deliver(item("a"))
    texts(nodes)
    assert counts(nodes) == (routing.MAX_HOPS, 1)


def test_a_push_that_sessions_elsewhere_have_got_does_not_follow(nodes: Several) -> None:
    """Under multi: sent to both places, and one is gone when it arrives."""
    first, _ = nodes[1].login(MULTI, "ann")
    _, second = nodes[2].login(MULTI, "ann")
    nodes[3].rpc.holding = True
    assert nodes[3].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello")) == Outcome.SENT
    first.lost()
    until(lambda: nodes.addressed(MULTI, "ann") == [2])
    nodes[3].rpc.release()
    assert texts(nodes, second) == [["hello"]]


def test_a_push_to_the_only_session_follows_to_all_that_have_come_instead(nodes: Several) -> None:
    first, _ = nodes[1].login(MULTI, "ann")
    nodes[3].rpc.holding = True
    assert nodes[3].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello")) == Outcome.SENT
    first.lost()
    until(lambda: nodes.addressed(MULTI, "ann") == [])
    clients = [nodes[epoch].login(MULTI, "ann")[1] for epoch in (2, 2, 3)]
    nodes[3].rpc.release()
    assert texts(nodes, *clients) == [["hello"]] * 3


def test_a_follower_that_was_overtaken_by_pushes_of_its_node_is_dropped_and_counted(nodes: Several) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    late, later, other = item("late"), item("later"), replace(item("of another"), origin=ORIGIN + 1)
    for direct in (later, replace(other, number=10**6)):
        nodes[2].rerouting.deliver(direct)
    for follower in (late, replace(other, event=later.event), item("next")):
        nodes[1].rerouting.deliver(follower)
    assert texts(nodes, ann) == [["later", "of another", "next"]]
    assert counts(nodes) == (3, 2)


def test_a_follower_is_overtaken_by_pushes_of_the_own_node_too(nodes: Several) -> None:
    """The node that the user has come to had pushed to where they were, and pushes again."""
    older, _ = nodes[1].login(NEWEST, "ann")
    session = nodes[1].session_of(older)
    nodes[2].rpc.holding = True
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "late")) == Outcome.SENT
    _, ann = nodes[2].login(NEWEST, "ann")
    assert nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m2", "later")) == Outcome.SENT
    nodes[1].sessions.replaced(NEWEST, "ann", session.id)
    nodes[2].rpc.release()
    assert texts(nodes, ann) == [["later"]]
    assert counts(nodes) == (1, 1)


def test_a_push_to_one_of_several_devices_is_overtaken_as_well(nodes: Several) -> None:
    phone, _ = nodes[1].login(MULTI, "ann", device="phone")
    pad, _ = nodes[3].login(MULTI, "ann", device="pad")
    nodes[2].rpc.holding = True
    late = Event("msg", "ann", "late", "")
    assert nodes[2].reach.to_user(MULTI, "ann", late, "phone") == Outcome.SENT
    nodes[1].sessions.ended(phone, 1000)
    nodes[3].sessions.ended(pad, 1000)
    until(lambda: not nodes.addressed(MULTI, "ann"))
    _, ann = nodes[2].login(MULTI, "ann", device="phone")
    assert nodes[2].pushes.from_back_end(MULTI, UserPush("ann", "m2", "later")) == Outcome.SENT
    nodes[2].rpc.release()
    assert texts(nodes, ann) == [["later"]]
    assert counts(nodes) == (1, 1)


@pytest.mark.parametrize("how", ["one", "each", "many", "without an id"])
def test_a_push_waits_for_earlier_ones_that_follow_a_user_who_has_moved(
    nodes: Several, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("REROUTE_SECONDS", 1.0), ("ARRIVED_SECONDS", 60.0)):
        monkeypatch.setattr(routing, name, seconds)
    nodes[1].login(NEWEST, "ann")
    nodes[3].rpc.holding = True
    assert nodes[3].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "first")) == Outcome.SENT
    _, ann = nodes[2].login(NEWEST, "ann")
    pushes = nodes[3].pushes
    call, *arguments = {
        "one": (pushes.from_back_end, NEWEST, UserPush("ann", "m2", "second")),
        "each": (pushes.to_each, NEWEST, [UserPush("ann", "m2", "second")]),
        "many": (pushes.to_many, NEWEST, ["ann"], "m2", "second"),
        "without an id": (pushes.from_back_end, NEWEST, UserPush("ann", "", "second")),
    }[how]
    second = gevent.spawn(call, *arguments)
    gevent.sleep(0.05)
    assert not second.ready()
    nodes[3].rpc.release()
    second.get()
    assert texts(nodes, ann) == [["first", "second"]]
    assert counts(nodes) == (1, 0)


def test_rerouted_pushes_are_bounded(nodes: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_REROUTED", 5)
    _, ann = nodes[2].login(NEWEST, "ann")
    nodes[1].registry.hold()
    for number in range(8):
        nodes[1].rerouting.deliver(item(str(number)))
    nodes[1].registry.release()
    assert texts(nodes, ann) == [[*"01234"]]
    assert counts(nodes) == (5, 3)
    nodes[1].rerouting.deliver(item("again"))
    assert texts(nodes, ann) == [["again"]]


def test_an_internal_error_is_counted_and_does_not_stop_later_pushes(
    nodes: Several, caplog: pytest.LogCaptureFixture
) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    registry = nodes[1].registry
    registry.find = Mock(side_effect=RuntimeError("a fault of ours"))  # type: ignore[method-assign]
    for _ in range(2):
        nodes[1].rerouting.deliver(item("a"))
    assert texts(nodes, ann) == [[]]
    del registry.find
    assert counts(nodes) == (0, 2)
    assert "rerouting pushes of ann in 101 failed" in caplog.text
    nodes[1].rerouting.deliver(item("b"))
    assert texts(nodes, ann) == [["b"]]
