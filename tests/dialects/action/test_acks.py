"""Acknowledged delivery of the action dialect: what is sent again, to whom, for
how long."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.msgpack import encode

from imserver.dialects.action.acks import AWAIT_SECONDS, ActionAcks
from imserver.gateway import errors
from imserver.gateway.cluster.nodes import NodeMessages
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.model import Event
from imserver.messenger.delivery import acks
from imserver.messenger.delivery.acks import ACK_SECONDS
from imserver.messenger.delivery.catch_up import PAGE
from tests.dialects.action.harness import APP, ActionHarness, One
from tests.dialects.action.test_messages import Keeping
from tests.gateway.transport.harness import turn, until


class Acking(One):
    """A client that asks at its login for numbers."""

    def login(self, user: str, to: str = "0", room: str = "0", **more: Any) -> int:
        return super().login(user, to, room, **{"acks": True, **more})

    def ack(self, number: int) -> None:
        assert self.ask("ack", ackId=number) == 200

    def numbers(self) -> list[tuple[int, str]]:
        """The number and the text of each message so far."""
        bodies = [body["data"] for body in self.bodies() if "code" in body]
        return [(body["ackId"], body["content"]) for body in bodies]

    def gets(self, *rows: tuple[int, str]) -> None:
        """Wait until exactly these messages have come."""
        self.client.probe(f"p{next(self._seqs)}".encode())
        assert self.numbers() == list(rows)


def pass_time(node: ActionHarness, seconds: float) -> None:
    """Let time go by, and let the node look after unacknowledged messages and
    absent users."""
    for _ in range(int(seconds)):
        node.ack_tracker.turn()
        turn()
    node.now += seconds
    node.pending.deliver_to_present()
    turn()


@pytest.fixture(name="node")
def _node() -> Any:
    with ActionHarness(policies={APP: "newest"}) as node:
        yield node


def test_only_the_client_that_asked_gets_numbers_and_the_others_get_the_frames_of_the_original(
    node: ActionHarness,
) -> None:
    plain = One(node, "ann", room="r")
    acking = Acking(node, "bob", room="r")
    assert acking.bodies()[-1]["response"]["data"] == {"acks": True}
    assert plain.bodies()[-1]["response"]["data"] is None
    for text in ("1", "2"):
        assert plain.say(text) == 200
    acking.gets((1, "1"), (2, "2"))
    pairs = [
        [each for each in one.client.payloads() if each.startswith(b'{"code"')]
        for one in (plain, acking)
    ]
    for number, (original, numbered) in enumerate(zip(*pairs, strict=True), 1):
        changed = original.replace(b'"to":"ann"', b'"to":"bob"')
        assert numbered == changed[:-2] + b',"ackId":%d}}' % number
    assert plain.ask("ack", ackId=1) == errors.ReplyCode.NO_ROUTE


@pytest.mark.parametrize("wrong", ["1", -1, 1.5, True, 2**32])
def test_a_number_of_another_type_is_refused(node: ActionHarness, wrong: Any) -> None:
    assert Acking(node, "bob").ask("ack", ackId=wrong) == errors.ReplyCode.BAD_PARAMETER


def test_a_later_login_of_the_connection_decides_anew_and_numbers_go_on(
    node: ActionHarness,
) -> None:
    ann = One(node, "ann", "bob")
    bob = Acking(node, "bob")
    ann.say("1")
    bob.ack(1)
    assert bob.login("bob") == 200
    ann.say("2")
    bob.gets((1, "1"), (2, "2"))
    node.allowed = set()
    assert bob.login("bob", acks=False) != 200
    ann.say("3")
    bob.gets((1, "1"), (2, "2"), (3, "3"))
    bob.ack(3)
    node.allowed = None
    assert bob.login("bob", acks=False) == 200
    ann.say("4")
    until(lambda: bob.received()[-1] == "4")
    assert "ackId" not in bob.bodies()[-1]["data"]
    assert bob.ask("ack", ackId=4) == errors.ReplyCode.NO_ROUTE


@pytest.mark.parametrize(
    ("limit", "most"), [("MAX_MESSAGES", 3), ("MAX_BYTES", 3 * 200), ("", 5 * 200)]
)
def test_too_much_that_is_not_acknowledged_ends_the_connection(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many messages or bytes of the connection, or too many bytes of the
    node."""
    if limit:
        monkeypatch.setattr(acks, limit, most)
    with ActionHarness(
        policies={APP: "newest"}, ack_bytes=1_000_000 if limit else most
    ) as node:
        ann = One(node, "ann", "bob")
        bob = Acking(node, "bob")
        other = Acking(node, "eve")
        One(node, "cid", "eve").say("kept")
        for _ in range(3):
            ann.say("x" * 30)
        node.ack_tracker.turn()
        assert bob.ask("heartbeat") == 200
        for _ in range(2):
            ann.say("x" * 30)
        node.ack_tracker.turn()
        assert bob.client.close_code() == errors.CloseCode.ACK_TIMEOUT
        assert other.ask("heartbeat") == 200
        again = Acking(node, "bob")
        node.pending.deliver_to_present()
        until(lambda: len(again.numbers()) >= 3)


def test_what_was_not_acknowledged_and_what_came_while_absent_arrive_at_the_next_login(
    node: ActionHarness,
) -> None:
    ann = One(node, "ann", "bob")
    bob = Acking(node, "bob", room="r")
    for text in "123":
        ann.say(text)
    bob.ack(1)
    bob.connection.close(1000)
    for text in "45":
        assert ann.say(text) == 200
    bob = Acking(node, "bob", room="r")
    ann.say("6")
    bob.gets((1, "2"), (2, "3"), (3, "4"), (4, "5"), (5, "6"))
    bob.ack(5)
    assert ann.login("ann", room="r") == 200
    ann.say("to the room")
    bob.gets(*bob.numbers()[:5], (6, "to the room"))
    bob.connection.close(1000)
    bob = Acking(node, "bob")
    node.pending.deliver_to_present()
    bob.gets((1, "to the room"))


def test_a_newer_connection_takes_over_what_the_older_has_not_acknowledged(
    node: ActionHarness,
) -> None:
    ann = One(node, "ann", "bob")
    older = Acking(node, "bob")
    ann.say("1")
    newer = Acking(node, "bob")
    node.pending.deliver_to_present()
    newer.gets((1, "1"))
    older.gets((1, "1"))
    older.ack(1)  # too late, and harmless
    newer.connection.close(1000)
    newer = Acking(node, "bob")
    node.pending.deliver_to_present()
    newer.gets((1, "1"))


def test_nobody_waits_for_users_who_never_acknowledged_or_stay_away(
    node: ActionHarness,
) -> None:
    ann = One(node, "ann", "bob")
    bob = One(node, "bob")
    bob.connection.close(1000)
    ann.say("lost")
    bob = Acking(node, "bob")
    bob.connection.close(1000)
    ann.say("expires")
    pass_time(node, AWAIT_SECONDS)
    ann.say("lost")
    bob = Acking(node, "bob")
    node.pending.deliver_to_present()
    bob.gets()
    assert node.pending.count == 0


def test_what_waits_for_users_of_a_deleted_app_is_forgotten(
    node: ActionHarness,
) -> None:
    ann = One(node, "ann", "bob")
    bob = Acking(node, "bob")
    ann.say("1")
    bob.connection.close(1000)
    assert node.pending.count == 1
    node.acks.forget(APP)
    node.pending.forget(APP)
    ann.say("2")
    assert node.pending.count == 0


def test_all_nodes_await_a_user_also_those_of_an_older_version(
    node: ActionHarness,
) -> None:
    sent: list[bytes] = []
    registry: Any = SimpleNamespace(
        lease=Lease("own", 1), reachable=lambda: {2: Lease("other", 2)}
    )
    messages = NodeMessages(registry)
    messages.attach(SimpleNamespace(send=lambda _lease, data: sent.append(data)))  # type: ignore[arg-type]
    rerouting = SimpleNamespace(report_to=Mock())
    core = node.core(
        reach=node.reach,
        pending=node.pending,
        rerouting=rerouting,
        node_messages=messages,
    )
    messaging: Any = SimpleNamespace(
        catch_up=node.catch_up, ack_tracker=node.ack_tracker
    )
    of_node = ActionAcks(core, messaging, lambda: node.now)
    of_node.await_user(APP, "ann")
    assert sent == [encode(["w", APP, "ann"])]
    messages.received(2, [encode(["w", APP, "bob"])])
    assert messages.unreadable == 0
    of_node.reach(APP, "bob", Event("msg", "ann", "1"))
    (unreached,) = rerouting.report_to.call_args.args
    unreached(APP, "bob", Event("msg", "ann", "2"))
    unreached(APP, "bob", Event("enter", "ann", ""))
    unreached(APP, "eve", Event("msg", "ann", "3"))
    assert node.pending.count == 2


def test_acknowledgements_are_the_position_of_the_next_login_and_nobody_is_pinged() -> (
    None
):
    with Keeping() as node:
        ann = One(node, "ann", "bob")
        bob = Acking(node, "bob")
        for text in "123":
            assert ann.say(text) == 200
        bob.gets((1, "1"), (2, "2"), (3, "3"))
        node.pass_second()
        assert node.positions.known == {}
        bob.ack(2)
        node.pass_second()
        assert node.positions.known == {(APP, "bob", ""): 2}
        pass_time(node, ACK_SECONDS + 1)
        bob.gets((1, "1"), (2, "2"), (3, "3"), (3, "3"))
        bob.connection.close(1000)
        assert ann.say("4") == 200
        bob = Acking(node, "bob")
        until(lambda: len(bob.numbers()) == 2)
        bob.gets((1, "3"), (2, "4"))
        assert bob.pings(0) == []
        assert node.pending.count == 0


def test_missed_pages_follow_the_acknowledgement_of_the_one_before() -> None:
    with Keeping() as node:
        ann = One(node, "ann", "bob")
        count = 2 * PAGE + 1
        for number in range(count):
            assert ann.say(str(number)) == 200
        bob = Acking(node, "bob")
        for last in (PAGE, 2 * PAGE):
            until(lambda last=last: len(bob.numbers()) == last)
            bob.gets(*[(number + 1, str(number)) for number in range(last)])
            bob.ack(last)
        until(lambda: len(bob.numbers()) == count)
        assert ann.say("new") == 200
        until(lambda: bob.numbers()[-1] == (count + 1, "new"))
