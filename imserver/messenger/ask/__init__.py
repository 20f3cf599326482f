"""Questions to people: asked by back ends, bots and users, answered exactly
once, with a deadline.

The log decides which answer counts, and every node with stored messages lets
users answer (:mod:`imserver.messenger.log.asks`). This feature asks,
waits for answers, and closes questions at their deadlines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.messenger.ask import api
from imserver.messenger.ask.parts import AskParts, build
from imserver.plugin import FeatureRow
from imserver.plugin.messages import MessageLog

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


def metrics() -> tuple[Metric, ...]:
    """Its rows of the table of metrics, at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    events = (
        "ask",
        "answer",
        "vote",
        "refuse",
        "cancel",
        "expire",
        "escalate",
        "remind",
        "tally",
    )
    return (
        Metric(
            "imserver_asks_total",
            "counter",
            "Questions asked over HTTP, and what happened to questions. refuse: an answer came too late",
            lambda core: {
                event: core.store.part(MessageLog).asks.counts[event]
                for event in events
            },
            label="event",
        ),
        Metric(
            "imserver_ask_waits",
            "gauge",
            "Requests that wait for an answer to a question",
            lambda core: core.service(AskParts).waits.count,
        ),
    )


FEATURE = FeatureRow(
    "ask", build, routes=api.routes.rows, uses=("messages",), metrics=metrics
)
