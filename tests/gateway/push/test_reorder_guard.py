"""Order of pushes to users who move: what a sender and a receiver remember."""

import pytest

from imserver.gateway.push.routing import (
    ARRIVED_SECONDS,
    GUARD_SECONDS,
    MAX_ROUTES,
    REROUTE_SECONDS,
    ReorderDelay,
    ReorderGuard,
)
from tests.support import Clock

APP, C, D = "101", 3, 4
ANN, OWN = "101 ann", "101 zoe"
AFTER_A_MOVE = (REROUTE_SECONDS / 2, ANN, 2, 0.5), (REROUTE_SECONDS, ANN, 2, 0), (0, ANN, 1, 1)


class Hub:
    """Those who are online."""

    def __init__(self, *users: str) -> None:
        self.users = set(users)

    def user_names(self, app: str) -> list[str]:
        return sorted(self.users)

    def is_online(self, app: str, user: str) -> bool:
        return user in self.users


# --- the sender ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        [(0.1, "101 ann", 1, 0), (0, "101 bob", 2, 0), (0, "102 ann", 3, 0)] * 5,
        # After a move all pushes wait until the same moment, and after a second one again.
        [(0, ANN, 1, 0), (ARRIVED_SECONDS / 2, ANN, 2, 1), *AFTER_A_MOVE],
        [(0, ANN, 1, 0), (0, ANN, 2, 1), (REROUTE_SECONDS + ARRIVED_SECONDS * 0.9, ANN, 1, 1)],
        [(0, ANN, 1, 0), (ARRIVED_SECONDS, ANN, 2, 0)],  # a push of long ago is not waited for
        # One to a user of this node is only waited for if an earlier one has left it.
        [(0, OWN, 1, 0), (0, OWN, 2, 0), (0, OWN, 1, 1), (0, OWN, 2, 1)],
    ],
)
def test_a_push_waits_for_earlier_ones_to_another_node(steps: list[tuple[float, str, int, float]]) -> None:
    """Each step: seconds that pass, app and user, the node of the push, and how long it waits."""
    clock = Clock()
    routes = ReorderDelay(clock)
    for seconds, who, epoch, share in steps:
        clock.now += seconds
        app, user = who.split()
        waits = routes.wait_seconds(app, user, epoch, own=1 if who == OWN else 0)
        assert abs(waits - share * REROUTE_SECONDS) < 1e-6


def test_the_routes_are_bounded_and_those_of_long_ago_leave_first() -> None:
    routes = ReorderDelay(Clock())
    assert not routes.may_be_elsewhere(APP, "ann")
    for user in ("ann", "bob", *(f"u{number}" for number in range(MAX_ROUTES - 2)), "ann", "cid"):
        routes.wait_seconds(APP, user, 2, own=1)
    assert routes.may_be_elsewhere(APP, "ann")
    assert routes.may_be_elsewhere(APP, "bob"), "unknown, as it was forgotten"
    assert routes.wait_seconds(APP, "ann", 1) > 0
    assert routes.wait_seconds(APP, "bob", 1) == 0, "forgotten"


# --- the receiver -------------------------------------------------------------------------------------------


def test_a_follower_is_overtaken_by_a_later_push_of_its_origin() -> None:
    reorder_guard = ReorderGuard(Hub("ann"), Clock())
    reorder_guard.logged_in(APP, "ann")
    assert not reorder_guard.is_overtaken(APP, "ann", C, 1)
    reorder_guard.reached(APP, "ann", C, 5)
    reorder_guard.reached(APP, "ann", D, 9)
    assert [reorder_guard.is_overtaken(APP, "ann", C, number) for number in (4, 5, 6, 9)] == [
        True,
        True,
        False,
        False,
    ]


def test_delivered_pushes_are_remembered_at_the_next_login_and_for_a_while() -> None:
    clock, hub = Clock(), Hub("ann", "bob")
    reorder_guard = ReorderGuard(hub, clock)
    reorder_guard.logged_in(APP, "ann")
    reorder_guard.reached(APP, "ann", C, 5)
    clock.now += GUARD_SECONDS * 0.9
    reorder_guard.logged_in(APP, "ann")
    clock.now += GUARD_SECONDS * 0.9
    reorder_guard.logged_in(APP, "bob")
    assert reorder_guard.is_overtaken(APP, "ann", C, 4)
    assert not reorder_guard.is_overtaken(APP, "ann", C, 6)
    clock.now += GUARD_SECONDS + 1
    assert reorder_guard.is_overtaken(APP, "ann", C, 6), "everything is too late"
    for user in ("bob", "ann"):
        reorder_guard.logged_in(APP, user)
    assert not reorder_guard.is_overtaken(APP, "ann", C, 4), "nothing is remembered"
    reorder_guard.reached(APP, "ann", C, 5)
    hub.users.clear()
    assert not reorder_guard.is_overtaken(APP, "ann", C, 4), "nobody is there"
