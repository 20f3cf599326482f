"""Delivery: the number of sessions reached before a byte is written; pushes that are cut off."""

from typing import Any
from unittest.mock import Mock

import gevent
import pytest

from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event, Outcome
from imserver.gateway.push.idempotency import Idempotency
from imserver.gateway.push.push import LocalReach, Pushes, UserPush
from tests.gateway.hub.harness import Harness, received
from tests.gateway.transport.harness import Socket, turn

HELLO = Event("msg", "eve", "hello", "7")


def test_delivery_returns_before_anything_is_written() -> None:
    with Harness() as harness:
        connection, client = harness.login("101", "ann")
        turn()
        assert isinstance(connection.sock, Socket)
        connection.sock.sends.clear()
        assert harness.fanout.to_sessions("101", "ann", HELLO) == 1
        assert harness.fanout.to_app("101", HELLO) == 1
        assert connection.sock.sends == []
        turn()
        assert len(connection.sock.sends) == 1
        assert received(client) == [("msg", "eve", "hello")] * 2


class BrokenFanout:
    """Reaches everybody up to a user whose turn fails."""

    def to_sessions(self, app: str, user: str, event: Event, device: str | None = None) -> int:
        if user == "broken":
            raise RuntimeError(user)
        return 1

    def to_app(self, *_: Any) -> int:
        return 0


@pytest.mark.parametrize(
    ("users", "again"), [(["ann", "broken"], None), (["broken", "ann"], [Outcome.SENT])], ids=str
)
def test_an_interrupted_push_to_many_is_accepted_if_a_user_was_reached(
    users: list[str], again: list[Outcome] | None
) -> None:
    ids = Idempotency(100, 60)
    reach = LocalReach(ids, BrokenFanout(), Metrics())  # type: ignore[arg-type]
    pushes = Pushes(ids, reach, Metrics())
    with pytest.raises(RuntimeError):
        pushes.to_many("101", users, "m1", "hello")
    assert pushes.to_many("101", ["ann"], "m1", "hello") == again


@pytest.mark.parametrize("how", ["each", "many", "to channels"])
def test_others_are_served_during_a_large_push(how: str) -> None:
    ids, metrics, served = Idempotency(100, 60), Metrics(), list[str]()
    channels: Any = Mock(push=lambda *_: Outcome.SENT, apps={"101"}) if how == "to channels" else None
    pushes = Pushes(ids, LocalReach(ids, BrokenFanout(), metrics), metrics, channels)  # type: ignore[arg-type]
    gevent.spawn(served.append, "another")
    users = ["ann"] * 2000
    if how == "each":
        found = pushes.to_each("101", [UserPush(user, "", "x") for user in users])
    else:
        found = pushes.to_many("101", users, "m1", "x")
    assert (found, served) == ([Outcome.SENT] * 2000, ["another"])
    assert metrics.pushes.total == (0 if channels else 2000)
