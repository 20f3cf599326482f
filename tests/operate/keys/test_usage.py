"""What keys did: counted in memory, stored by the minute, listed in pages, and
bounded."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest

from imserver.gateway.auth.authority import MAX_USES, OTHER_USES, KeyUses
from imserver.operate.keys import FEATURE
from imserver.operate.keys.usage import (
    DeprecatedUse,
    KeyUsage,
    KeyUse,
    LastUse,
    delete_before,
    uses_of,
    uses_of_routes,
)
from imserver.plugin.storage import KeyRow, Store
from imserver.plugin.testing import check_tables
from tests.stores import OpenStore
from tests.support import Clock

PUSH = "POST /api/v1/push"
NOON = 1_795_156_200
"""Seconds at the beginning of a minute."""


class Node:
    """One node with its tally."""

    def __init__(
        self, store: Store, clock: Callable[[], float], number: int = 1, days: int = 30
    ) -> None:
        self.uses = KeyUses()
        self.uses.take()
        tenants: Any = {"shop": object()}
        self.usage = KeyUsage(store, tenants, self.uses.take, number, days, clock)

    def did(
        self,
        key: str,
        app: str = "shop",
        address: str = "192.0.2.7",
        refused: bool = False,
    ) -> None:
        self.uses.add((key, PUSH, app, address), refused)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = NOON
    return clock


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    store = open_store(url)
    store.database_id()
    return store


def listed(store: Store, key: str, skip: int = 0, limit: int = 100) -> list[KeyUse]:
    return list(uses_of(store, key, 0, 2**40, skip, limit))


def test_the_rows_go_with_their_app(url: str) -> None:
    def fill(store: Store, app: str, _user: str) -> None:
        number = len(listed(store, "k"))
        row = 1, 1, number, "k", f"{PUSH} {number}", app, "192.0.2.7", 1, 0
        store.execute(
            f"INSERT INTO key_use VALUES ({', '.join(['%s'] * len(row))})", row
        )

    check_tables(FEATURE, fill, url)


def test_both_nodes_count_for_a_key(store: Store, clock: Clock) -> None:
    nodes = [Node(store, clock, number) for number in (1, 2)]
    key = store.add_key(KeyRow.make(("push",))[0]).id
    for node in nodes:
        node.did(key)
        node.did(key)
        node.did(key, refused=True)
        node.did(key, app="none")
        node.did("config:1234")
    clock.now += 60
    for node in nodes:
        node.usage.store()
        node.did(key, address="192.0.2.8")
    clock.now += 60
    for node in nodes:
        node.usage.store()
    assert listed(store, key) == [
        KeyUse(NOON + 60, PUSH, "shop", "192.0.2.8", 2, 0),
        KeyUse(NOON, PUSH, "", "192.0.2.7", 2, 0),
        KeyUse(NOON, PUSH, "shop", "192.0.2.7", 4, 2),
    ]
    assert listed(store, key, 1, 1) == listed(store, key)[1:2]
    stored = store.keys()
    (row,) = [row for row in stored if row.id == key]
    assert (row.used, row.used_from) == (NOON + 60, "192.0.2.8")
    assert nodes[0].usage.last_use("config:1234") == LastUse(NOON, "192.0.2.7")
    assert nodes[0].usage.last_use("config:none") == LastUse()


def test_a_look_at_some_routes_stores_only_if_one_of_them_was_used(
    store: Store, clock: Clock
) -> None:
    node = Node(store, clock, 1)
    node.did("k")
    node.usage.store({"GET /other"})
    assert listed(store, "k") == []
    node.usage.store({PUSH})
    assert [use.route for use in listed(store, "k")] == [PUSH]


def test_uses_of_a_route_are_added_up_over_days_and_nodes(
    store: Store, clock: Clock
) -> None:
    assert uses_of_routes(store, (PUSH,)) == (0, {})
    nodes = [Node(store, clock, number) for number in (1, 2)]
    for days in (0, 1, 9, 10):  # a store writes the minute of the one before
        clock.now = NOON + days * 86_400
        for node in nodes:
            node.did("k")
            node.did("k", refused=True)
            node.uses.add(("k", "GET /other", "", ""), False)
        nodes[0].did("demo", app="", address="")
        for node in nodes:
            node.usage.store()
    last = NOON + 9 * 86_400
    spans = [
        DeprecatedUse("demo", "", "", NOON, last, 4, 0),
        DeprecatedUse("k", "shop", "192.0.2.7", NOON, last, 8, 8),
    ]
    since, uses = uses_of_routes(store, (PUSH, "none"))
    assert (since, list(uses), sorted(uses[PUSH], key=attrgetter("key"))) == (
        NOON,
        [PUSH],
        spans,
    )


def test_rows_go_after_their_days(store: Store, clock: Clock) -> None:
    node = Node(store, clock, days=1)
    for _ in range(2):
        node.did("k")
        node.did("k", app="")
        clock.now += 86_400
        node.usage.store()
    assert [row.time for row in listed(store, "k")] == [NOON + 86_400] * 2
    delete_before(store, 2**40)
    assert listed(store, "k") == []


def test_a_minute_has_a_bounded_number_of_rows(
    clock: Clock, open_store: OpenStore
) -> None:
    node = Node(open_store(), clock)
    for number in range(MAX_USES + 10):
        node.did("k", address=str(number))
    node.did("k", address="0")
    counts = node.uses.take()
    assert len(counts) == MAX_USES + 1
    assert counts["k", OTHER_USES, "", ""] == [10, 0]
    assert counts["k", PUSH, "shop", "0"] == [2, 0]
    assert node.uses.take() == {}


def test_without_a_database_the_node_alone_knows_the_last_use(
    clock: Clock, open_store: OpenStore
) -> None:
    store = open_store()
    node = Node(store, clock)
    node.did("config:1234")
    node.usage.store()
    assert node.usage.last_use("config:1234") == LastUse(NOON, "192.0.2.7")
    assert not store.has_database


def test_nothing_is_stored_if_the_settings_say_so(store: Store, clock: Clock) -> None:
    node = Node(store, clock, days=0)
    key = store.add_key(KeyRow.make(("push",))[0]).id
    node.did(key)
    node.usage.store()
    assert listed(store, key) == []
    (row,) = store.keys()
    assert row.used == NOON


def test_a_long_text_is_not_kept_as_the_name_of_an_app() -> None:
    uses = KeyUses()
    uses.take()
    for number in range(2):
        uses.add(
            ("k", "POST /api/v1/push", f"{number}" * 1_000_000, "192.0.2.7"),
            refused=True,
        )
    assert uses.take() == {("k", "POST /api/v1/push", "", "192.0.2.7"): [0, 2]}
