"""Members of Pusher's presence channels on one node: each goes once, whatever
happens at the same time. Which events of channels its webhooks send."""

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from imserver.backends.webhooks.parts import Occupancy
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.dialects.pusher.apps import PusherApp, PusherHooks, PusherReceiver
from imserver.dialects.pusher.declared import PusherSettings
from imserver.dialects.pusher.service import PusherService
from imserver.dialects.pusher.wire import (
    PusherDialect,
    PusherSubscribe,
    PusherUnsubscribe,
)
from imserver.gateway.channels.members import (
    MAX_CHANNELS_OF_A_CONNECTION,
    ChannelRefused,
)
from imserver.gateway.transport.connection import Connection
from tests.backends.webhooks.conftest import constants, quick
from tests.dialects.pusher.harness import Hooks, apps_of
from tests.gateway.core.back_end import AwayStore, BackEnd
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import Client, turn
from tests.support import until

__all__ = ["constants", "quick"]

APP = "102"
ROOM = "presence-room"
NEWS = "news"
SHOP = PusherApp(APP, b"the secret of the shop", PusherSettings("7", "shopkey"))


class PusherHarness(Harness):
    """Clients of the pusher dialect in one app."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str]] = []
        """Webhooks about members: event, user."""
        self.pusher = PusherService(
            self.core(logins=Mock(), consent=Mock(), channel_commands=Mock()),
            apps_of(SHOP),
            Hooks(lambda name, facts: self.sent.append((name, facts["user_id"]))),
        )

    def client(self) -> tuple[Connection, Client]:
        connection, client = self.connect(dialect=PusherDialect())
        self.hub.attach(self.hub.apps[APP], connection, "", "")
        return connection, client

    def subscribe(self, connection: Connection, user: str, info: str = "") -> None:
        data = json.dumps({"user_id": user, "user_info": info})
        signed = f"{self.pusher.socket_id(connection)}:{ROOM}:{data}"
        auth = f"shopkey:{SHOP.sign(signed)}"
        self.pusher.subscribe(connection, PusherSubscribe(ROOM, auth, data))


@pytest.fixture
def harness() -> Iterator[PusherHarness]:
    with PusherHarness() as harness:
        yield harness


def test_a_user_is_removed_once_with_the_last_connection(
    harness: PusherHarness,
) -> None:
    (first, _), (second, _) = harness.client(), harness.client()
    for connection in (first, second):
        harness.subscribe(connection, "ann")
    harness.pusher.unsubscribe(first, PusherUnsubscribe(ROOM))
    turn()
    assert harness.sent == [("member_added", "ann")]
    harness.subscribe(first, "ann")
    for connection in (first, second):
        connection.lost()
    turn()
    assert harness.sent == [("member_added", "ann"), ("member_removed", "ann")]


@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_user_who_leaves_during_or_before_a_subscription_that_is_refused_is_removed(
    harness: PusherHarness, meanwhile: bool
) -> None:
    (first, _), (second, _) = harness.client(), harness.client()
    harness.subscribe(first, "ann")
    if not meanwhile:
        harness.pusher.unsubscribe(first, PusherUnsubscribe(ROOM))

    def refuse(*_arguments: Any) -> Any:
        if meanwhile:
            harness.pusher.unsubscribe(first, PusherUnsubscribe(ROOM))
        turn()
        assert harness.sent == [("member_added", "ann")]
        raise ChannelRefused("full")

    harness.channels.subscriptions.subscribe = refuse  # type: ignore[method-assign, assignment]
    harness.subscribe(second if meanwhile else first, "ann")
    turn()
    assert harness.sent == [("member_added", "ann"), ("member_removed", "ann")]


def test_a_user_who_was_refused_is_not_removed(harness: PusherHarness) -> None:
    connection, _ = harness.client()
    for number in range(MAX_CHANNELS_OF_A_CONNECTION):
        harness.channels.subscriptions.join(APP, f"news-{number}", connection)
    harness.subscribe(connection, "ann")
    turn()
    assert harness.sent == []


def test_a_member_that_comes_and_goes_all_the_time_disconnects_no_other_one(
    harness: PusherHarness,
) -> None:
    (other, unread), (connection, client) = harness.client(), harness.client()
    harness.subscribe(other, "bob")
    for _ in range(1000):
        harness.subscribe(connection, "ann", "i" * 5000)
        harness.pusher.unsubscribe(connection, PusherUnsubscribe(ROOM))
        turn()
        client.read()
    assert other.is_open
    answers = [json.loads(payload) for payload in client.payloads()]
    refused = [
        json.loads(each["data"])
        for each in answers
        if each["event"] == "pusher:subscription_error"
    ]
    assert {each["status"] for each in refused} == {429}
    assert any(b"member_added" in payload for payload in unread.payloads())


def test_a_back_end_receives_which_channels_have_subscribers_but_not_those_of_the_server(
    quick: None,
) -> None:
    with Harness() as harness:
        sent: list[bytes] = []
        back_end = BackEnd()
        back_end.send = lambda _url, _headers, body, _seconds: (
            sent.append(body) or (200, b"")
        )  # type: ignore[attr-defined]
        webhooks = Webhooks(
            back_end, harness.table.id_of, lambda: "node:1", AwayStore()
        )  # type: ignore[arg-type]
        hooks = PusherHooks(webhooks)
        hooks.queues.set(
            APP, PusherReceiver(APP, "http://back.end", b"s", frozenset(), key="k")
        )
        Occupancy(harness.channels, harness.table.id_of, webhooks)
        ann, _ = harness.login(APP, "ann")
        bob, _ = harness.login(APP, "bob")
        harness.channels.subscriptions.join(APP, NEWS, ann)
        harness.channels.subscriptions.join(APP, "#bob", bob)
        harness.channels.members.leave(APP, NEWS, ann)
        until(lambda: len(sent) == 2)
        assert b'"name":"channel_occupied","channel":"news"' in sent[0]
        assert b'"name":"channel_vacated","channel":"news"' in sent[1]
        assert b"#bob" not in b"".join(sent)
