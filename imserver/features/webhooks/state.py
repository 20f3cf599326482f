"""The state of the webhooks of apps, over all nodes: what waits, the last answers, dead events."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from time import monotonic

import msgspec
from msgspec import Struct

from imserver.features.webhooks.answers import MOST_ANSWERS, QUERY, LastAnswer, NodePart
from imserver.features.webhooks.requests import Receiver
from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin.runtime import Unreachable
from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements


class WebhookState(Struct, frozen=True):
    """The webhook of an app. ``aside``: events that were refused, or wait behind such a one; ``dead``: those
    that are not tried any more."""

    app: str
    receiver: Receiver
    waiting: int
    stored: int
    failing: bool
    aside: int
    dead: int
    answers: list[LastAnswer]


class WebhookStates:
    """Reads the states. Calls switch, unless their docstring says otherwise."""

    def __init__(self, core: Core, webhooks: Webhooks) -> None:
        self._core = core
        self._webhooks = webhooks

    def apps(self) -> list[str]:
        """The apps with a receiver, in order. Never switches."""
        return sorted(self._webhooks.feeds.feeds)

    def of(self, apps: Sequence[str]) -> tuple[list[WebhookState], list[str]]:
        """The states of apps that have a receiver, and the nodes that did not answer. Raises
        StorageUnavailable."""
        feeds = self._webhooks.feeds.feeds
        named = [app for app in apps if app in feeds]
        receivers = {app: feeds[app].receiver for app in named}
        parts, missing = [self._webhooks.parts_of(named)], list[str]()
        if self._core.cluster.others is not None:
            answers, missing = self._core.cluster.others.query(QUERY, named)
            for data in answers.values():
                try:
                    parts.append(_decode(data))
                except (ValueError, RecursionError):
                    continue  # a node of another version
        counts = self._counts(named)
        states = []
        for app, own in zip(named, zip(*parts, strict=True), strict=True):
            newest = sorted((answer for part in own for answer in part.answers), key=lambda one: -one.time)
            aside, dead = counts.get(app, (0, 0))
            states.append(
                WebhookState(
                    app,
                    receivers[app],
                    sum(part.waiting for part in own),
                    sum(part.stored for part in own),
                    any(part.failing for part in own),
                    aside,
                    dead,
                    newest[:MOST_ANSWERS],
                )
            )
        return states, missing

    def test(self, app: str) -> LastAnswer | None:
        """Send an event ``test`` at once, beside the queue; None: the app has no receiver."""
        feed = self._webhooks.feeds.feeds.get(app)
        if feed is None or not feed.receiver.url:
            return None
        receiver, began = feed.receiver, monotonic()
        event = self._webhooks.event(app, "test", {})
        status, problem = 0, ""
        try:
            status = receiver.post(self._webhooks.outgoing, receiver.body(event), token_hex(16))
            if not 200 <= status < 300:
                problem = f"it answered with status {status}"
        except Unreachable as error:
            problem = str(error)
        return self._webhooks.feeds.answers.note(app, status, problem, began, 1)

    def _counts(self, apps: Sequence[str]) -> dict[str, tuple[int, int]]:
        """App → events that were put aside, and dead ones."""
        statement = "SELECT dead, count(*) FROM event_retry WHERE app = %s GROUP BY dead"

        def work(sql: PooledStatements) -> dict[str, tuple[int, int]]:
            counts: dict[str, dict[int, int]] = {app: dict(sql.query(statement, (app,))) for app in apps}
            return {app: (of_app.get(0, 0), of_app.get(1, 0)) for app, of_app in counts.items()}

        return self._core.storage.store.read_or({}, work)


_decode = msgspec.msgpack.Decoder(list[NodePart]).decode
