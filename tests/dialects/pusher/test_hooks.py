"""Pusher's webhooks: which events of channels they send, and what they sign."""

from imserver.backends.webhooks.parts import Occupancy
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.dialects.pusher.apps import PusherHooks, PusherReceiver
from tests.backends.webhooks.conftest import constants, quick
from tests.gateway.core.back_end import AwayStore, BackEnd
from tests.gateway.hub.harness import Harness
from tests.support import until

__all__ = ["constants", "quick"]

APP, NEWS = "102", "news"


def test_a_back_end_receives_which_channels_have_subscribers_but_not_those_of_the_server(quick: None) -> None:
    with Harness() as harness:
        sent: list[bytes] = []
        back_end = BackEnd()
        back_end.send = lambda _url, _headers, body, _seconds: sent.append(body) or (200, b"")  # type: ignore[attr-defined]
        webhooks = Webhooks(back_end, harness.table.id_of, lambda: "node:1", AwayStore())  # type: ignore[arg-type]
        hooks = PusherHooks(webhooks)
        hooks.queues.set(APP, PusherReceiver(APP, "http://back.end", b"s", frozenset(), key="k"))
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
