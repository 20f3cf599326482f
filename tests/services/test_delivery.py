"""Delivery: the number of sessions reached, before a byte is written."""

from imserver.model import Event
from tests.hub.world import World, told
from tests.transport.rig import Socket, turn

HELLO = Event("msg", "eve", "hello", "7")


def test_delivery_returns_before_anything_is_written() -> None:
    with World() as world:
        connection, client = world.login("101", "ann")
        turn()
        assert isinstance(connection.sock, Socket)
        connection.sock.sends.clear()
        assert world.delivery.to_user("101", "ann", HELLO) == 1
        assert world.delivery.to_app("101", HELLO) == 1
        assert connection.sock.sends == []
        turn()
        assert len(connection.sock.sends) == 1
        assert told(client) == [("msg", "eve", "hello")] * 2


def test_an_unknown_app_or_user_is_reached_by_nothing() -> None:
    with World() as world:
        assert world.delivery.to_user("999", "ann", HELLO) == 0
        assert world.delivery.to_user("101", "ann", HELLO) == 0
        assert world.delivery.to_app("999", HELLO) == 0
        assert world.delivery.to_app("101", HELLO) == 0
