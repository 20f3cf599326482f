"""Webhooks as Pusher sends them: at most once, like ours of connections."""

from __future__ import annotations

import hashlib
import hmac
from time import time
from typing import Any, Final

import msgspec

from imserver.features.webhooks.requests import POST_SECONDS, Receiver, WebhookQueues
from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin.runtime import Outgoing

_OCCUPANCY: Final = frozenset({"occupied", "vacated"})
_encode = msgspec.json.Encoder().encode


class PusherReceiver(Receiver, frozen=True, kw_only=True):
    """A receiver of webhooks in Pusher's form. ``key``: that of the app."""

    key: str

    def body(self, events: bytes) -> bytes:
        return b'{"time_ms":%d,"events":[%b]}' % (int(time() * 1000), events)

    def post(self, outgoing: Outgoing, body: bytes, _delivery: str) -> int:
        signed = hmac.digest(self.secret, body, hashlib.sha256).hex()
        headers = {"X-Pusher-Key": self.key, "X-Pusher-Signature": signed}
        return outgoing.send(self.url, headers, body, POST_SECONDS)[0]


class PusherHooks:
    """Owner of the queues of these webhooks. Its calls never switch."""

    def __init__(self, webhooks: Webhooks) -> None:
        self.queues = WebhookQueues(webhooks.outgoing, webhooks.tally)
        webhooks.forms.append(self)

    def set(self, app: str, receiver: PusherReceiver | None) -> None:
        """Set the receiver of an app, also for waiting events."""
        self.queues.set(app, receiver)

    def wants(self, app: str, events: frozenset[str]) -> bool:
        """Whether the app's back end wants any of these events of channels."""
        return app in self.queues and not events.isdisjoint(_OCCUPANCY)

    def channel(self, app: str, event: str, channel: str) -> None:
        """Queue an event of a channel, if it is one of these webhooks."""
        if event in _OCCUPANCY:
            self.add(app, f"channel_{event}", channel)

    def add(self, app: str, name: str, channel: str, **facts: Any) -> None:
        """Queue an event of a channel, unless it is one of the server's own."""
        queue = self.queues.get(app)
        if queue is not None and not channel.startswith("#"):
            queue.add(_encode({"name": name, "channel": channel, **facts}))
