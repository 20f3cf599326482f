"""Features that use stored messages where there are any, on a node without the
messenger."""

import json

import pytest

from imserver.messenger.messages import FEATURE as MESSENGER
from imserver.plugin.testing import check_absent
from tests.conftest import StartServer
from tests.gateway.test_gateway import (  # noqa: F401
    APPS,
    ann,
    started,
    test_nothing_of_the_messenger_is_there,
    test_pushes_reach_users_connections_channels_and_all,
)
from tests.integration.action import action_session
from tests.integration.client import listening, send_to_client
from tests.integration.cmd import logged_in
from tests.integration.pusher import SHOP, trigger
from tests.integration.pusher import Client as PusherClient
from tests.integration.receiver import Receiver
from tests.support import Server, eventually

PUSH = "push-key-of-the-gateway"
FEATURES = ["webhooks", "client", "action", "centrifuge", "pusher", "pages"]


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return started(start_shared_server, FEATURES)


def test_nothing_of_the_messenger_is_served(server: Server) -> None:
    check_absent(server, MESSENGER)


def test_the_dialects_of_the_originals_are_served(start_server: StartServer) -> None:
    with Receiver() as receiver:
        apps = {
            **APPS,
            "7": {**APPS["7"], "webhook": receiver.settings, "pusher": SHOP},
            "action:1": {"open": True},
            "system:shop": {"open": True},
        }
        keys = [{"key": PUSH, "scopes": ["push"]}]
        server = started(
            start_server,
            FEATURES,
            apps=apps,
            centrifuge={"app": "7"},
            api={"keys": keys},
        )
        with (
            action_session(server.ws, "ann", to="bob") as ann,
            action_session(server.ws, "bob") as bob,
        ):
            ann.say("tea?")
            bob.receives("ann", "tea?", "bob")
        with listening(server.ws, "shop") as one:
            send_to_client(server.http, "shop", one.id, key=PUSH)
            assert one.received()["data"] == "hello"
        with PusherClient(server.ws) as client:
            client.subscribes("news")
            trigger(server, "news")
            assert client.event("e", "news") == "x"
        with server.connect("/connection/websocket") as client:
            client.send(json.dumps({"id": 1, "connect": {}}))
            assert json.loads(client.recv())["id"] == 1
        with logged_in(server.ws, "ann", 7):
            eventually(lambda: receiver.posts, what="the webhook of a login")
        assert server.get("/").status == 200
