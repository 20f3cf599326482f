"""What holds for each user of the consumer: order, the lease, restarts; no
receiver holds up others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imserver.gateway.errors import StorageUnavailable
from tests.backends.webhooks.consumer_users import (
    AbsenceNode,
    FeedNode,
    Node,
    Receivers,
)
from tests.gateway.transport.harness import turn, until

StartNode = Callable[..., Node]


def owned(node: Node) -> bool:
    """Whether a node delivers to all receivers."""
    return len(node.consumers()) == 2 and all(lease.is_owned for lease in node.leases())


def at_rest(node: Node) -> bool:
    """Whether a node has nothing to do, and has stored where it is."""
    return owned(node) and not any(each.is_busy for each in node.consumers())


def stored_positions(node: Node) -> list[Any]:
    def work(sql: Any) -> list[Any]:
        feeds = sql.query(
            "SELECT app, entry_id, event_id, noted_id FROM event_feed ORDER BY app"
        )
        return [*feeds, *sql.query("SELECT id, hook_entry FROM bot ORDER BY id")]

    return node.store.read(work)


class DurableContract:
    """A user of the consumer, with a lease and a stored position. Some of it is
    tried on each engine."""

    user: ClassVar[Callable[[Receivers, str], Node]]

    @pytest.fixture(autouse=True)
    def _soon(self, quick: None) -> None:
        """Short pauses."""

    @pytest.fixture
    def nodes(self) -> Iterator[list[Node]]:
        started: list[Node] = []
        yield started
        for node in started:
            node.kill()

    @pytest.fixture
    def start(self, nodes: list[Node]) -> StartNode:
        def start_node(receivers: Receivers, name: str = "n1") -> Node:
            nodes.append(self.user(receivers, name))
            return nodes[-1]

        return start_node

    @pytest.fixture
    def receivers(self, tmp_path: Path) -> Receivers:
        return Receivers(str(tmp_path))

    def test_a_receiver_that_hangs_holds_up_nobody_else(
        self, receivers: Receivers, start: StartNode
    ) -> None:
        node = start(receivers)
        receivers.hang("one")
        node.send("one", "a", "b")
        node.send("two", "a")
        until(lambda: receivers.tried["one"])
        for count, text in enumerate("bcd", 2):
            node.send("two", text)
            until(lambda count=count: len(receivers.order("two")) == count)
        assert receivers.order("two") == list("abcd")
        assert not receivers.taken["one"]
        receivers.end_hanging("one")
        until(lambda: receivers.order("one") == ["a", "b"])

    def test_after_an_absence_of_the_database_nothing_is_missed(
        self, receivers: Receivers, start: StartNode
    ) -> None:
        node = start(receivers)
        node.send("one", "a")
        until(lambda: receivers.taken["one"] and at_rest(node))
        node.store.away = 8
        node.send("one", "b", "c")
        until(lambda: node.store.away <= 0)
        until(lambda: receivers.order("one") == ["a", "b", "c"])

    def test_a_node_goes_on_where_a_killed_one_has_ended(
        self, url: str, tmp_path: Path, start: StartNode
    ) -> None:
        receivers = Receivers(str(tmp_path), url)
        first = start(receivers)
        first.send("one", "a")
        first.send("two", "a")
        until(
            lambda: receivers.taken["one"] and receivers.taken["two"] and at_rest(first)
        )
        receivers.hang("one")
        first.send("one", "b", "c")
        until(lambda: receivers.tried["one"][-1:] != ["a"])
        first.kill()
        receivers.end_hanging("one")
        assert receivers.order("one") == ["a"]
        second = start(receivers)
        until(lambda: receivers.order("one") == ["a", "b", "c"])
        second.send("one", "d")
        until(lambda: receivers.order("one") == ["a", "b", "c", "d"])
        assert receivers.taken["one"].count("a") == 1, "its position was stored"
        assert receivers.taken["two"] == ["a"]

    def test_one_node_delivers_and_another_takes_over_when_the_lease_is_given_back(
        self, url: str, tmp_path: Path, start: StartNode
    ) -> None:
        receivers = Receivers(str(tmp_path), url)
        one = start(receivers, "n1")
        one.send("one", "a")
        until(lambda: receivers.taken["one"] and owned(one))
        two = start(receivers, "n2")
        two.send("one", "of the other node")
        until(lambda: len(receivers.taken["one"]) == 2)
        assert set(receivers.by) == {"n1"}
        assert not any(lease.is_owned for lease in two.leases())
        one.stop()
        two.send("one", "after")
        until(lambda: len(receivers.taken["one"]) == 3)
        assert receivers.by[-1] == "n2"
        assert receivers.taken["one"] == ["a", "of the other node", "after"], (
            "nothing came twice"
        )

    def test_another_node_takes_over_when_the_lease_of_a_killed_one_has_ended(
        self, receivers: Receivers, start: StartNode
    ) -> None:
        one = start(receivers, "n1")
        one.send("one", "a")
        until(lambda: receivers.taken["one"] and at_rest(one))
        one.kill()
        two = start(receivers, "n2")
        two.send("one", "b")
        turn()
        assert receivers.order("one") == ["a"]
        two.expire_leases()
        until(lambda: receivers.order("one") == ["a", "b"])
        assert receivers.by[-1] == "n2"

    def test_a_node_that_has_lost_its_lease_delivers_nothing_more(
        self, url: str, tmp_path: Path, start: StartNode
    ) -> None:
        receivers = Receivers(str(tmp_path), url)
        node = start(receivers)
        node.send("one", "a")
        until(lambda: receivers.taken["one"] and at_rest(node))
        positions = stored_positions(node)
        node.expire_leases("thief")
        until(
            lambda: (
                not any(lease.is_owned for lease in node.leases())
                and not node.consumers()
            )
        )
        node.send("one", "b")
        until(lambda: not node.consumers())
        assert stored_positions(node) == positions
        assert receivers.order("one") == ["a"]

    def test_after_a_pause_that_was_longer_than_the_lease_a_node_begins_at_the_stored_position(
        self, receivers: Receivers, start: StartNode
    ) -> None:
        def pause(*_given: Any) -> Any:
            raise StorageUnavailable("the node stands still")

        node = start(receivers)
        node.send("one", "a")
        until(lambda: receivers.taken["one"] and at_rest(node))
        before = node.consumers()
        node.events.instead["claim"] = pause
        for lease in node.leases():
            lease.until = 0.0
        # Meanwhile another node delivered "b".
        node.send("one", "b")
        node.store.write(lambda sql: sql.execute("UPDATE bot SET hook_entry = 2"))
        node.store.write(
            lambda sql: sql.execute("UPDATE event_feed SET entry_id = 2, noted_id = 2")
        )
        del node.events.instead["claim"]
        until(
            lambda: (
                owned(node)
                and not set(map(id, before)) & set(map(id, node.consumers()))
            )
        )
        node.send("one", "c")
        until(lambda: "c" in receivers.taken["one"])
        assert receivers.taken["one"] == ["a", "c"]


class TestFeeds(DurableContract):
    user = FeedNode


class TestAbsence(DurableContract):
    user = AbsenceNode
