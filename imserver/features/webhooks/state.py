"""The state of the webhooks of apps, over all nodes: what waits, the last answers, dead events."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import Annotated

import msgspec
from msgspec import Struct

from imserver.features.webhooks.requests import MOST_ANSWERS
from imserver.features.webhooks.webhooks import QUERY, NodePart, Webhooks
from imserver.plugin.http import about
from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements


class AnswerShown(Struct):
    """What the receiver has answered to a request."""

    time: Annotated[int, about("When, in Unix seconds.")]
    status: Annotated[int, about("The status of the answer; 0: there was none.")]
    problem: Annotated[str, about("Why it failed; empty: the receiver took the events.")]
    seconds: Annotated[float, about("How long it took.")]
    events: Annotated[int, about("The number of events in the request.")]


class WebhookShown(Struct):
    """The webhook of an app."""

    app: str
    url: Annotated[str, about("The address of the receiver; empty: the back end reads the events itself.")]
    events: Annotated[list[str], about("The events that it wants.")]
    failing: Annotated[bool, about("Whether the last request of a node has failed.")]
    waiting: Annotated[int, about("Events that wait in memory.")]
    stored: Annotated[int, about("Durable events that have to be delivered, as far as it is known.")]
    aside: Annotated[int, about("Events that were refused and are tried again, or wait behind such a one.")]
    dead: Annotated[int, about("Events that the receiver did not take for three days.")]
    answers: Annotated[list[AnswerShown], about("The last answers of all nodes, the newest first.")]


class WebhookStates:
    """Reads the states. Calls switch, unless their docstring says otherwise."""

    def __init__(self, core: Core, webhooks: Webhooks) -> None:
        self._core = core
        self._webhooks = webhooks

    def apps(self) -> list[str]:
        """The apps with a receiver, in order. Never switches."""
        return sorted(self._webhooks.feeds.feeds)

    def of(self, apps: Sequence[str]) -> tuple[list[WebhookShown], list[str]]:
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
                WebhookShown(
                    app,
                    receivers[app].url,
                    sorted(receivers[app].events),
                    any(part.failing for part in own),
                    sum(part.waiting for part in own),
                    sum(part.stored for part in own),
                    aside,
                    dead,
                    msgspec.convert(newest[:MOST_ANSWERS], list[AnswerShown], from_attributes=True),
                )
            )
        return states, missing

    def test(self, app: str) -> AnswerShown | None:
        """Send an event ``test`` at once, beside the queue; None: the app has no receiver."""
        feed, answers = self._webhooks.feeds.feeds.get(app), self._webhooks.feeds.answers
        if feed is None or not feed.receiver.url:
            return None
        body = feed.receiver.body(self._webhooks.event(app, "test", {}))
        feed.receiver.attempt(self._webhooks.outgoing, body, token_hex(16), answers, 1)
        return msgspec.convert(answers.of(app)[-1], AnswerShown, from_attributes=True)

    def _counts(self, apps: Sequence[str]) -> dict[str, tuple[int, int]]:
        """App → events that were put aside, and dead ones."""
        statement = "SELECT dead, count(*) FROM event_retry WHERE app = %s GROUP BY dead"

        def work(sql: PooledStatements) -> dict[str, tuple[int, int]]:
            counts: dict[str, dict[int, int]] = {app: dict(sql.query(statement, (app,))) for app in apps}
            return {app: (of_app.get(0, 0), of_app.get(1, 0)) for app, of_app in counts.items()}

        return self._core.storage.store.read_or({}, work)


_decode = msgspec.msgpack.Decoder(list[NodePart]).decode
