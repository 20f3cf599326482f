"""Pushes that are held for absent users: for how long, in which order, within
which bounds."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count, product
from typing import Any

import gevent
import pytest
from msgspec.msgpack import decode, encode

from imserver.gateway.cluster.nodes import ToPending
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.model import Event, Outcome
from imserver.gateway.push.pending import PendingPushes
from tests.support import until


class Users:
    """Who is here, on which devices; who was told what. With ``slow`` telling
    takes a turn of the loop. ``then`` is called with the app behind each push
    that arrived."""

    def __init__(self) -> None:
        self.devices: dict[tuple[str, str], set[str]] = {}
        self.received: list[tuple[str, str]] = []
        self.calls = 0
        self.slow = False
        self.now = 1000.0
        self.then: Callable[[str], object] = lambda _: None

    def to_user(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> Outcome:
        if self.slow:
            gevent.sleep(0)
        devices = self.devices.get((app, user), set())
        if not (bool(devices) if device is None else device in devices):
            return Outcome.NOT_SENT
        self.received.append((user, event.text))
        self.then(app)
        return Outcome.SENT

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        self.calls += len(users)
        return [bool(self.devices.get((app, user))) for user in users]

    def come(self, user: str, device: str = "", app: str = "101") -> None:
        self.devices.setdefault((app, user), set()).add(device)


@pytest.fixture
def users() -> Users:
    return Users()


def pending_of(users: Users, pushes: int = 100, size: int = 100_000) -> PendingPushes:
    return PendingPushes(users.to_user, users, pushes, size, lambda: users.now)


def words(text: str) -> Event:
    return Event("msg", "shop", text)


@pytest.mark.parametrize(
    ("adds", "seconds", "devices", "received", "expired"),
    [
        (
            [("one", 10, None), ("two", 10, None), ("three", 10, None)],
            9,
            [""],
            ["one", "two", "three"],
            0,
        ),
        ([("short", 5, None), ("long", 50, None)], 5, [""], ["long"], 1),
        ([("phone", 10, "phone"), ("any", 10, None)], 0, ["tablet"], ["any"], 0),
        (
            [("phone", 10, "phone"), ("any", 10, None)],
            0,
            ["tablet", "phone"],
            ["phone", "any"],
            0,
        ),
    ],
)
def test_a_user_who_logs_in_in_time_gets_the_pushes_in_order(
    users: Users,
    adds: list[Any],
    seconds: int,
    devices: list[str],
    received: list[str],
    expired: int,
) -> None:
    pending = pending_of(users)
    for text, ttl, device in adds:
        assert pending.add("101", "ann", words(text), ttl, device)
    users.come("ann", app="102")
    pending.deliver_to_present()
    assert users.received == []
    assert pending.waits_for("101", "ann")
    users.now += seconds
    for device in devices:
        users.come("ann", device)
    pending.deliver("101", "ann")
    assert users.received == [("ann", text) for text in received], (
        "not even before what is expired is removed"
    )
    pending.deliver_to_present()
    left = len(adds) - len(received) - expired
    assert (pending.count, pending.expired, pending.waits_for("101", "ann")) == (
        left,
        expired,
        left > 0,
    )
    assert (pending.bytes > 0) == (left > 0)


class Wire:
    """In place of the messages between nodes, each the pending pushes of
    one."""

    def __init__(self, *draining: bool) -> None:
        self.peer_wires: dict[int, Wire] = {}
        self.leases = [
            Lease(f"n{epoch}", epoch, draining=each)
            for epoch, each in enumerate(draining)
        ]

    broadcast: Callable[[Any], object]

    def handle(self, handlers: Mapping[type, Any]) -> None:
        self.handlers = handlers

    def peers(self) -> list[Lease]:
        return self.leases

    def send(self, epoch: int, message: ToPending) -> bool:
        self.peer_wires[epoch].handlers[ToPending](
            decode(encode(message), type=ToPending)
        )
        return True


def wired(users: Users, wire: Wire) -> PendingPushes:
    return PendingPushes(users.to_user, users, 100, 100_000, lambda: users.now, wire)  # type: ignore[arg-type]


def test_a_node_that_stops_passes_its_pushes_to_nodes_that_do_not(users: Users) -> None:
    wire = Wire(False, True, False)
    wire.peer_wires = {0: Wire(), 2: Wire()}
    nodes = {epoch: wired(users, each) for epoch, each in wire.peer_wires.items()}
    pending = wired(users, wire)
    for add in ("ann one", "ann two", "bob one", "bob two"):
        pending.add("101", add[:3], words(add[4:]), 10)
    pending.add("101", "bob", words("three"), 10, "phone")
    pending.add("101", "bob", words("short"), 1)
    users.now += 5
    pending.pass_on()
    assert (pending.count, pending.bytes) == (0, 0)
    assert {epoch: node.count for epoch, node in nodes.items()} == {0: 2, 2: 3}
    users.come("bob", "phone")
    nodes[2].deliver_to_present()
    assert users.received == [("bob", "one"), ("bob", "two"), ("bob", "three")]
    users.now += 5
    nodes[0].deliver_to_present()
    assert nodes[0].expired == 2
    alone = wired(users, Wire(True))
    alone.add("101", "ann", words("one"), 10)
    alone.pass_on()
    assert alone.count == 1, "there is no other node"


def test_pushes_of_a_deleted_app_are_forgotten_also_during_their_delivery(
    users: Users,
) -> None:
    pending = pending_of(users)
    for text, app in product(("one", "two"), ("101", "102")):
        assert pending.add(app, "ann", words(text), 10)
    users.come("ann")
    users.then = pending.forget
    pending.deliver_to_present()
    assert users.received == [("ann", "one")]
    assert (pending.count, pending.waits_for("101", "ann")) == (2, False)
    pending.forget("102")
    assert (pending.count, pending.bytes) == (0, 0)


def test_pushes_of_an_erased_user_are_forgotten_on_all_nodes(users: Users) -> None:
    here = Wire()
    there = Wire()
    here.broadcast = lambda message: there.handlers[type(message)](message)
    nodes = [wired(users, wire) for wire in (here, there)]
    for node, user in product(nodes, ("ann", "bob")):
        node.add("101", user, words("one"), 10)
    nodes[0].forget_user("101", "ann")
    assert [(node.count, node.waits_for("101", "ann")) for node in nodes] == [
        (1, False),
        (1, False),
    ]


@pytest.mark.parametrize(
    ("pushes", "size", "texts", "added"),
    [
        (0, 100_000, [1], [False]),
        (3, 100_000, [1, 1, 1], [True, True, False]),
        (100, 13_000, [10_000, 9_000, 9_000], [False, True, False]),
    ],
)
def test_at_most_so_many_and_so_many_bytes_are_held(
    users: Users, pushes: int, size: int, texts: list[int], added: list[bool]
) -> None:
    pending = pending_of(users, pushes, size)
    found = [
        pending.add("101", f"u{n}", words("x" * length), 10)
        for n, length in enumerate(texts)
    ]
    assert found == added
    assert not pending.add(
        "101", "ann", Event("msg", "", "", data=b"[" + b"1" * size + b"]"), 10
    )
    for number in range(len(texts)):
        users.come(f"u{number}")
    pending.deliver_to_present()
    assert pending.add("101", "u", words("x"), 10) is any(added)


def test_no_app_locks_the_others_out_or_takes_all_bytes(users: Users) -> None:
    pending = pending_of(users, pushes=100, size=1_000_000)

    def fill(app: str, text: str = "x") -> int:
        return next(
            n for n in count() if not pending.add(app, f"u{n}", words(text), 10)
        )

    assert [fill(app) for app in ("101", "102", "103")] == [75, 18, 5]
    assert pending.count == 98
    users.now += 10
    pending.deliver_to_present()
    assert fill("104") == 75, "what has expired counts no longer"
    pending = pending_of(users, size=40_000)
    fill("101", "x" * 1_000)
    assert pending.bytes <= 30_000
    assert pending.add("102", "bob", words("x" * 1_000), 10)


def test_concurrent_deliveries_send_each_push_once_and_in_order_and_the_rest_waits(
    users: Users,
) -> None:
    pending = pending_of(users)
    texts = [str(number) for number in range(20)]
    for text in texts:
        pending.add("101", "ann", words(text), 10)
    users.come("ann")
    users.then = lambda _: len(users.received) == 7 and users.devices.clear()
    users.slow = True
    for expected in (texts[:7], texts):
        gevent.joinall(
            [gevent.spawn(pending.deliver, "101", "ann") for _ in range(3)], timeout=60
        )
        assert users.received == [("ann", text) for text in expected]
        users.come("ann")


def test_nothing_is_looked_at_without_pending_pushes(users: Users) -> None:
    pending = pending_of(users)
    looking = gevent.spawn(pending.run)
    try:
        for text in ("a", "b"):
            gevent.sleep(0)
            looks = users.calls
            pending.add("101", "ann", words(text), 60)
            until(lambda looks=looks: users.calls > looks)
            assert users.calls - looks < 5, "there is a pause between two looks"
            users.come("ann")
            until(lambda: not pending.count)
            users.devices.clear()
    finally:
        looking.kill()
    assert users.received == [("ann", "a"), ("ann", "b")]
