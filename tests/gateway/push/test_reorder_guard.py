"""Order of pushes to users who move: what a sender and a receiver remember."""

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


class Hub:
    """Those who are online."""

    def __init__(self, *users: str) -> None:
        self.users = set(users)

    def user_names(self, app: str) -> list[str]:
        return sorted(self.users)

    def is_online(self, app: str, user: str) -> bool:
        return user in self.users


# --- the sender ---------------------------------------------------------------------------------------------


def test_pushes_to_one_node_never_wait() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    for _ in range(5):
        assert routes.wait_seconds(APP, "ann", 1) == 0
        assert routes.wait_seconds(APP, "bob", 2) == 0
        assert routes.wait_seconds("102", "ann", 3) == 0
        clock.now += 0.1


def test_after_a_move_all_pushes_wait_until_the_same_moment() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    routes.wait_seconds(APP, "ann", 1)
    clock.now += ARRIVED_SECONDS / 2
    assert abs(routes.wait_seconds(APP, "ann", 2) - REROUTE_SECONDS) < 1e-6
    clock.now += REROUTE_SECONDS / 2
    assert abs(routes.wait_seconds(APP, "ann", 2) - REROUTE_SECONDS / 2) < 1e-6
    clock.now += REROUTE_SECONDS
    assert routes.wait_seconds(APP, "ann", 2) == 0


def test_a_second_move_causes_a_second_wait() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    routes.wait_seconds(APP, "ann", 1)
    routes.wait_seconds(APP, "ann", 2)
    clock.now += REROUTE_SECONDS + ARRIVED_SECONDS * 0.9
    assert abs(routes.wait_seconds(APP, "ann", 1) - REROUTE_SECONDS) < 1e-6


def test_a_push_to_a_user_of_this_node_makes_later_ones_wait_only_if_an_earlier_one_left() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    assert routes.wait_seconds(APP, "ann", 1, own=1) == 0
    assert routes.wait_seconds(APP, "ann", 2, own=1) == 0
    assert abs(routes.wait_seconds(APP, "ann", 1, own=1) - REROUTE_SECONDS) < 1e-6
    assert abs(routes.wait_seconds(APP, "ann", 2, own=1) - REROUTE_SECONDS) < 1e-6


def test_a_push_of_long_ago_is_not_waited_for() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    routes.wait_seconds(APP, "ann", 1)
    clock.now += ARRIVED_SECONDS
    assert routes.wait_seconds(APP, "ann", 2) == 0


def test_the_routes_are_bounded_and_those_of_long_ago_leave_first() -> None:
    clock = Clock()
    routes = ReorderDelay(clock)
    routes.wait_seconds(APP, "ann", 1)
    routes.wait_seconds(APP, "bob", 1)
    for number in range(MAX_ROUTES - 2):
        routes.wait_seconds(APP, f"u{number}", 1)
    routes.wait_seconds(APP, "ann", 1)
    routes.wait_seconds(APP, "cid", 1)
    assert len(routes._routes) == MAX_ROUTES
    assert routes.wait_seconds(APP, "ann", 2) > 0
    assert routes.wait_seconds(APP, "bob", 2) == 0, "forgotten"


def test_a_push_may_be_elsewhere_only_if_an_earlier_one_went_to_another_node() -> None:
    routes = ReorderDelay(Clock())
    assert not routes.may_be_elsewhere(APP, "ann")
    routes.wait_seconds(APP, "ann", 2, own=1)
    assert routes.may_be_elsewhere(APP, "ann")
    assert not routes.may_be_elsewhere(APP, "bob")
    for number in range(MAX_ROUTES):
        routes.wait_seconds(APP, f"u{number}", 2, own=1)
    assert routes.may_be_elsewhere(APP, "ann"), "unknown, as it was forgotten"


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


def test_pushes_of_an_absent_user_are_not_overtaken() -> None:
    reorder_guard = ReorderGuard(Hub(), Clock())
    reorder_guard.logged_in(APP, "ann")
    reorder_guard.reached(APP, "ann", C, 5)
    assert not reorder_guard.is_overtaken(APP, "ann", C, 4)


def test_delivered_pushes_are_remembered_at_the_next_login() -> None:
    clock = Clock()
    reorder_guard = ReorderGuard(Hub("ann", "bob"), clock)
    reorder_guard.logged_in(APP, "ann")
    reorder_guard.reached(APP, "ann", C, 5)
    clock.now += GUARD_SECONDS * 0.9
    reorder_guard.logged_in(APP, "ann")
    clock.now += GUARD_SECONDS * 0.9
    reorder_guard.logged_in(APP, "bob")
    assert reorder_guard.is_overtaken(APP, "ann", C, 4)
    assert not reorder_guard.is_overtaken(APP, "ann", C, 6)


def test_after_a_while_everything_is_too_late_and_nothing_is_remembered() -> None:
    clock = Clock()
    reorder_guard = ReorderGuard(Hub("ann", "bob"), clock)
    reorder_guard.logged_in(APP, "ann")
    reorder_guard.reached(APP, "ann", C, 5)
    clock.now += GUARD_SECONDS + 1
    assert reorder_guard.is_overtaken(APP, "ann", C, 6)
    reorder_guard.logged_in(APP, "bob")
    assert (len(reorder_guard._guards), len(reorder_guard._ends)) == (1, 1)


def test_old_logins_cost_no_memory() -> None:
    reorder_guard = ReorderGuard(Hub("ann"), Clock())
    reorder_guard.reached(APP, "ann", C, 5)
    assert not reorder_guard._guards
