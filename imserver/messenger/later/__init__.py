"""Messages that are sent later, at a time or when their receiver comes online,
and reminders of messages.

A reminder is a scheduled message to oneself. The rest of *saved messages*, a
conversation with oneself, is what every node with stored messages has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.messenger.later import api
from imserver.messenger.later.declared import TABLES
from imserver.messenger.later.service import ScheduledMessages, build
from imserver.plugin import FeatureRow

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric


def metrics() -> tuple[Metric, ...]:
    """Its rows of the table of metrics, at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    events = ("schedule", "send", "refuse", "cancel")
    return (
        Metric(
            "imserver_scheduled_total",
            "counter",
            "Messages that were scheduled, and what became of them. refuse: they could not be sent when due",
            lambda core: {
                event: core.service(ScheduledMessages).counts[event] for event in events
            },
            label="event",
        ),
    )


FEATURE = FeatureRow(
    "later",
    build,
    routes=api.routes.rows,
    uses=("messages",),
    metrics=metrics,
    tables=TABLES,
)
