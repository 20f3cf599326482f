"""Pusher's Python library for back ends, and pysher, a client in Python,
unmodified."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pusher
import pysher
import pytest

from tests.conftest import StartServer
from tests.support import Server, eventually

PUSHER = {"app_id": "7", "key": "shopkey", "secret": "the secret of the shop"}


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(config={"apps": {"shop": {"pusher": PUSHER}}})


@pytest.fixture
def back_end(server: Server) -> pusher.Pusher:
    host = "127.0.0.1"
    port = server.http.port
    return pusher.Pusher(**PUSHER, host=host, port=port, ssl=False, timeout=60)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    answer = Client(server)
    yield answer
    answer.pusher.disconnect(5)


class Client:
    """A connected client, and the events that it has received."""

    def __init__(self, server: Server) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self.pusher = pysher.Pusher(
            PUSHER["key"],
            secure=False,
            secret=PUSHER["secret"],
            custom_host="127.0.0.1",
            port=server.ws.port,
            user_data={"user_id": "ann", "user_info": {"name": "Ann"}},
            log_level=logging.ERROR,
        )
        self.pusher.connection.event_handler = self.take
        self.pusher.connect()
        eventually(
            lambda: self.pusher.connection.state == "connected", what="connected"
        )

    def take(self, name: str, data: Any, channel: str) -> None:
        """Remember an event. One may come before its channel is bound."""
        self.events.append((channel, name, data))

    def subscribe(self, channel: str) -> None:
        self.pusher.subscribe(channel)
        eventually(
            lambda: self.received(channel, "pusher_internal:subscription_succeeded")
        )

    def received(self, channel: str, name: str) -> list[Any]:
        return [
            data
            for where, what, data in self.events
            if (where, what) == (channel, name)
        ]


def test_events_arrive(client: Client, back_end: pusher.Pusher) -> None:
    for channel in ("news", "private-a", "presence-a"):
        client.subscribe(channel)
    assert back_end.trigger(["news", "private-a"], "sold", {"n": 1}) == {}
    assert (
        back_end.trigger_batch(
            [{"channel": "presence-a", "name": "sold", "data": "text"}]
        )
        == {}
    )
    for channel, wanted in {
        "news": '{"n": 1}',
        "private-a": '{"n": 1}',
        "presence-a": "text",
    }.items():
        assert eventually(lambda channel=channel: client.received(channel, "sold")) == [
            wanted
        ]


def test_what_a_back_end_asks(client: Client, back_end: pusher.Pusher) -> None:
    client.subscribe("presence-b")
    wanted = {"presence-b": {"user_count": 1}}
    assert back_end.channels_info("presence-b", ["user_count"]) == {"channels": wanted}
    info = back_end.channel_info("presence-b", ["user_count", "subscription_count"])
    assert info == {"occupied": True, "user_count": 1, "subscription_count": 1}
    assert back_end.users_info("presence-b") == {"users": [{"id": "ann"}]}
    state = json.loads(
        client.received("presence-b", "pusher_internal:subscription_succeeded")[0]
    )
    assert state == {
        "presence": {"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "Ann"}}}
    }
