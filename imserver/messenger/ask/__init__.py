"""Questions to people: asked by back ends, bots and users, answered exactly
once, with a deadline.

The log decides which answer counts, and every node with stored messages lets
users answer (:mod:`imserver.messenger.log.asks`). This feature asks,
waits for answers, and closes questions at their deadlines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imserver.messenger.ask import api
from imserver.messenger.ask.parts import AskParts, build
from imserver.plugin import FeatureRow
from imserver.plugin.messages import MessageLog

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric
    from imserver.plugin.services import Core


def metrics() -> tuple[Metric, ...]:
    """Return the metrics of questions. The first scrape calls this function."""
    # Most nodes start without a scrape, so the table is imported only at the
    # first scrape.
    from imserver.plugin.metrics import Metric

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

    def counts(core: Core) -> dict[str, int]:
        """Return how often this node has done each act."""
        counts: Mapping[Any, int] = core.store.part(MessageLog).asks.counts
        return {event: counts[event] for event in events}

    def waits(core: Core) -> int:
        """Return the number of requests that wait now."""
        return core.service(AskParts).waits.count

    return (
        Metric(
            "imserver_asks_total",
            "counter",
            "Questions asked over HTTP, and what happened to questions. refuse: an "
            "answer came too late",
            counts,
            label="event",
        ),
        Metric(
            "imserver_ask_waits",
            "gauge",
            "Requests that wait for an answer to a question",
            waits,
        ),
    )


FEATURE = FeatureRow(
    "ask", build, routes=api.routes.rows, uses=("messages",), metrics=metrics
)
