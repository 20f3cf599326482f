"""Rerouting: pushes that arrive at a node whose user has moved or is just
logging in, and their order."""

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
from imserver.gateway.push.routing import (
    ARRIVED_SECONDS,
    GUARD_SECONDS,
    MAX_ROUTES,
    REROUTE_SECONDS,
    ReorderDelay,
    ReorderGuard,
)
from tests.gateway.core.cluster_harness import MULTI, NEWEST, Several, received_since
from tests.gateway.transport.harness import look, until
from tests.support import Clock

ORIGIN = 77
_numbers = count(1)


def item(text: str, user: str = "ann") -> ToUser:
    """The next push of another node."""
    return ToUser(
        NEWEST, user, Event("msg", user, text, ""), origin=ORIGIN, number=next(_numbers)
    )


def counts(nodes: Several) -> tuple[int, int]:
    """(followed, unreached) of all nodes."""
    rerouting = [node.rerouting for node in nodes.nodes.values()]
    return sum(stray.rerouted for stray in rerouting), sum(
        stray.unreached for stray in rerouting
    )


def test_a_push_follows_its_user_to_the_node_they_have_moved_to(nodes: Several) -> None:
    """Looked up before the move, arrived after it."""
    _, older = nodes[1].login(NEWEST, "ann")
    nodes[3].rpc.holding = True
    assert (
        nodes[3].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "hello"))
        == Outcome.SENT
    )
    _, newer = nodes[2].login(NEWEST, "ann")
    nodes[3].rpc.release()
    assert nodes.texts(older, newer) == [[], ["hello"]]
    assert counts(nodes) == (1, 0)


def test_pushes_wait_in_order_for_the_login_that_the_registry_knows_of_already(
    nodes: Several,
) -> None:
    nodes[1].registry.hold()
    connection, ann = nodes[1].connect()
    login = gevent.spawn(nodes[1].sessions.login, connection, Login(NEWEST, "ann"))
    until(lambda: nodes.addressed(NEWEST, "ann") == [1])
    for text in "abc":
        assert (
            nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", text, text))
            == Outcome.SENT
        )
        look()
    nodes[1].registry.release()
    assert login.get() == 200
    nodes[1].rerouting.deliver(item("d"))
    assert nodes.texts(ann) == [["a", "b", "c", "d"]]
    assert counts(nodes) == (0, 0)


def test_pushes_to_a_node_that_drains_wait_for_the_return_of_their_user(
    nodes: Several,
) -> None:
    nodes[1].rerouting.patience = routing.RETURN_SECONDS
    for text in "ab":
        nodes[1].rerouting.deliver(item(text))
    until(lambda: nodes[1].registry.calls.count("find") > 1)
    assert nodes[1].rerouting.waiting == 2
    _, ann = nodes[2].login(NEWEST, "ann")
    assert nodes.texts(ann) == [["a", "b"]]
    assert counts(nodes) == (2, 0)


def test_later_pushes_stay_behind_a_rerouted_one_but_not_those_of_another_user(
    nodes: Several,
) -> None:
    (_, ann), (_, bob) = nodes[2].login(NEWEST, "ann"), nodes[1].login(NEWEST, "bob")
    nodes[1].registry.calls.clear()
    nodes[1].registry.hold()
    for text, user in (
        ("a", "ann"),
        ("b", "ann"),
        ("x", "bob"),
        ("y", "cid"),
        ("c", "ann"),
    ):
        nodes[1].rerouting.deliver(item(text, user))
        look()
    assert nodes[1].registry.calls == ["find"] * 2, (
        "a user who is here costs no question"
    )
    until(lambda: received_since(bob)[-1:] == [("msg", "bob", "x")])
    nodes[1].registry.release()
    assert nodes.texts(ann) == [["a", "b", "c"]]
    assert counts(nodes) == (3, 1)


@pytest.mark.parametrize("fault", ["absent", "registry", "cut"])
def test_an_undeliverable_push_is_counted_and_reported_if_nobody_has_it(
    nodes: Several, fault: str
) -> None:
    heard: list[tuple[str, str, str]] = []
    nodes[1].rerouting.report_to(
        lambda app, user, event: heard.append((app, user, event.text))
    )
    nodes[1].registry.away = fault == "registry"
    if fault == "cut":
        nodes[2].login(NEWEST, "ann")
        nodes[1].rpc.cut.add(2)
    nodes[1].rerouting.deliver(item("lost"))
    nodes[1].rerouting.deliver(replace(item("other nodes have it, too"), alone=False))
    assert nodes.texts() == []
    assert heard == [(NEWEST, "ann", "lost")]
    assert counts(nodes) == (0, 2)


def test_a_push_does_not_follow_for_ever(nodes: Several) -> None:
    """Each node's look says that the user is at the other."""
    nodes.book.refs[NEWEST, "ann"] = [SessionRef(1, 10**9, 1), SessionRef(2, 10**9, 1)]
    nodes[1].rerouting.deliver(item("a"))
    nodes.texts()
    assert counts(nodes) == (routing.MAX_HOPS, 1)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_push_follows_to_all_who_came_unless_others_got_it(
    nodes: Several, elsewhere: bool
) -> None:
    """Under multi: sent to all places, and one is gone when it arrives."""
    first, _ = nodes[1].login(MULTI, "ann")
    clients = [nodes[2].login(MULTI, "ann")[1]] if elsewhere else []
    nodes[3].rpc.holding = True
    assert (
        nodes[3].pushes.from_back_end(MULTI, UserPush("ann", "m1", "hello"))
        == Outcome.SENT
    )
    first.lost()
    until(lambda: nodes.addressed(MULTI, "ann") == [2] * elsewhere)
    clients += [
        nodes[epoch].login(MULTI, "ann")[1]
        for epoch in ((3,) if elsewhere else (2, 2, 3))
    ]
    nodes[3].rpc.release()
    assert nodes.texts(*clients) == ([["hello"], []] if elsewhere else [["hello"]] * 3)


def test_a_follower_that_was_overtaken_by_pushes_of_its_node_is_dropped_and_counted(
    nodes: Several,
) -> None:
    _, ann = nodes[2].login(NEWEST, "ann")
    late = item("late")
    later = item("later")
    other = replace(item("of another"), origin=ORIGIN + 1)
    for direct in (later, replace(other, number=10**6)):
        nodes[2].rerouting.deliver(direct)
    for follower in (late, replace(other, event=later.event), item("next")):
        nodes[1].rerouting.deliver(follower)
    assert nodes.texts(ann) == [["later", "of another", "next"]]
    assert counts(nodes) == (3, 2)


def test_a_follower_is_overtaken_by_pushes_of_the_own_node_too(nodes: Several) -> None:
    """The node that the user has come to had pushed to where they were, and
    pushes again."""
    older, _ = nodes[1].login(NEWEST, "ann")
    session = nodes[1].session_of(older)
    nodes[2].rpc.holding = True
    assert (
        nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m1", "late"))
        == Outcome.SENT
    )
    _, ann = nodes[2].login(NEWEST, "ann")
    assert (
        nodes[2].pushes.from_back_end(NEWEST, UserPush("ann", "m2", "later"))
        == Outcome.SENT
    )
    nodes[1].sessions.replaced(NEWEST, "ann", session.id)
    nodes[2].rpc.release()
    assert nodes.texts(ann) == [["later"]]
    assert counts(nodes) == (1, 1)


def test_a_push_to_one_of_several_devices_is_overtaken_as_well(nodes: Several) -> None:
    phone, pad = (
        nodes[epoch].login(MULTI, "ann", device=name)[0]
        for epoch, name in ((1, "phone"), (3, "pad"))
    )
    nodes[2].rpc.holding = True
    late = Event("msg", "ann", "late", "")
    assert nodes[2].reach.to_user(MULTI, "ann", late, "phone") == Outcome.SENT
    nodes[1].sessions.ended(phone, 1000)
    nodes[3].sessions.ended(pad, 1000)
    until(lambda: not nodes.addressed(MULTI, "ann"))
    _, ann = nodes[2].login(MULTI, "ann", device="phone")
    assert (
        nodes[2].pushes.from_back_end(MULTI, UserPush("ann", "m2", "later"))
        == Outcome.SENT
    )
    nodes[2].rpc.release()
    assert nodes.texts(ann) == [["later"]]
    assert counts(nodes) == (1, 1)


@pytest.mark.parametrize("how", ["one", "each", "many", "without an id"])
def test_a_push_waits_for_rerouted_ones(
    nodes: Several, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("REROUTE_SECONDS", 1.0), ("ARRIVED_SECONDS", 60.0)):
        monkeypatch.setattr(routing, name, seconds)
    nodes[1].login(NEWEST, "ann")
    nodes[3].rpc.holding = True
    pushes = nodes[3].pushes
    assert pushes.from_back_end(NEWEST, UserPush("ann", "m1", "first")) == Outcome.SENT
    _, ann = nodes[2].login(NEWEST, "ann")
    call, what = {
        "one": (pushes.from_back_end, [UserPush("ann", "m2", "second")]),
        "each": (pushes.to_each, [[UserPush("ann", "m2", "second")]]),
        "many": (pushes.to_many, [["ann"], "m2", "second"]),
        "without an id": (pushes.from_back_end, [UserPush("ann", "", "second")]),
    }[how]
    second = gevent.spawn(call, NEWEST, *what)
    gevent.sleep(0.05)
    assert not second.ready()
    nodes[3].rpc.release()
    second.get()
    assert nodes.texts(ann) == [["first", "second"]]
    assert counts(nodes) == (1, 0)


def test_rerouted_pushes_are_bounded_and_after_an_internal_error_later_ones_go_on(
    nodes: Several, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routing, "MAX_REROUTED", 5)
    (_, ann), registry, deliver = (
        nodes[2].login(NEWEST, "ann"),
        nodes[1].registry,
        nodes[1].rerouting.deliver,
    )
    registry.hold()
    for number in range(8):
        deliver(item(str(number)))
    registry.release()
    assert nodes.texts(ann) == [[*"01234"]]
    assert counts(nodes) == (5, 3)
    registry.fails = "find"
    for _ in range(2):
        deliver(item("a"))
    assert nodes.texts(ann) == [[]]
    registry.fails = ""
    assert counts(nodes) == (5, 5)
    assert "rerouting pushes of ann in 101 failed" in caplog.text
    deliver(item("b"))
    assert nodes.texts(ann) == [["b"]]


APP = "101"
ANN = "101 ann"
OWN = "101 zoe"
AFTER_A_MOVE = (
    (REROUTE_SECONDS / 2, ANN, 2, 0.5),
    (REROUTE_SECONDS, ANN, 2, 0),
    (0, ANN, 1, 1),
)


# --- the sender ---------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        [(0.1, "101 ann", 1, 0), (0, "101 bob", 2, 0), (0, "102 ann", 3, 0)] * 5,
        # After a move all pushes wait until the same moment, and after a second
        # one again.
        [(0, ANN, 1, 0), (ARRIVED_SECONDS / 2, ANN, 2, 1), *AFTER_A_MOVE],
        [
            (0, ANN, 1, 0),
            (0, ANN, 2, 1),
            (REROUTE_SECONDS + ARRIVED_SECONDS * 0.9, ANN, 1, 1),
        ],
        # a push of long ago is not waited for
        [(0, ANN, 1, 0), (ARRIVED_SECONDS, ANN, 2, 0)],
        # One to a user of this node is only waited for if an earlier one has
        # left it.
        [(0, OWN, 1, 0), (0, OWN, 2, 0), (0, OWN, 1, 1), (0, OWN, 2, 1)],
    ],
)
def test_a_push_waits_for_earlier_ones_to_another_node(
    steps: list[tuple[float, str, int, float]],
) -> None:
    """Each step: seconds that pass, app and user, the node of the push, and how
    long it waits."""
    clock = Clock()
    routes = ReorderDelay(clock)
    for seconds, who, epoch, share in steps:
        clock.now += seconds
        app, user = who.split()
        waits = routes.record_push(app, user, epoch, own=1 if who == OWN else 0)
        assert abs(waits - share * REROUTE_SECONDS) < 1e-6


def test_the_routes_are_bounded_and_those_of_long_ago_leave_first() -> None:
    routes = ReorderDelay(Clock())
    assert not routes.may_be_elsewhere(APP, "ann")
    for user in (
        "ann",
        "bob",
        *(f"u{number}" for number in range(MAX_ROUTES - 2)),
        "ann",
        "cid",
    ):
        routes.record_push(APP, user, 2, own=1)
    assert [routes.may_be_elsewhere(APP, user) for user in ("ann", "bob")] == [
        True
    ] * 2, "bob is unknown"
    assert routes.record_push(APP, "ann", 1) > 0
    assert routes.record_push(APP, "bob", 1) == 0, "forgotten"


# --- the receiver -------------------------------------------------------------


def test_delivered_pushes_are_remembered_at_the_next_login_and_for_a_while() -> None:
    clock = Clock()
    users = {"ann", "bob"}
    hub = Mock(
        user_names=lambda _app: sorted(users),
        is_online=lambda _app, user: user in users,
    )
    guard = ReorderGuard(hub, clock)

    def overtaken(number: int) -> bool:
        return guard.is_overtaken(APP, "ann", 3, number)

    guard.logged_in(APP, "ann")
    guard.reached(APP, "ann", 3, 5)
    for user in ("ann", "bob"):
        clock.now += GUARD_SECONDS * 0.9
        guard.logged_in(APP, user)
    assert [overtaken(4), overtaken(6)] == [True, False]
    clock.now += GUARD_SECONDS + 1
    assert overtaken(6), "everything is too late"
    for user in ("bob", "ann"):
        guard.logged_in(APP, user)
    assert not overtaken(4), "nothing is remembered"
    guard.reached(APP, "ann", 3, 5)
    users.clear()
    assert not overtaken(4), "nobody is there"
