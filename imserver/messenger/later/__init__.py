"""Scheduled messages, which are sent at a given time or when their receiver
comes online, and reminders of messages.

A reminder is a scheduled message to oneself. Reminders are sent to *saved
messages*, the conversation of a user with themselves. This conversation exists
on every node with stored messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.messenger.later import api
from imserver.messenger.later.declared import TABLES
from imserver.messenger.later.service import ScheduledMessages, build
from imserver.plugin import FeatureRow

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric
    from imserver.plugin.services import Core


def metrics() -> tuple[Metric, ...]:
    """Return the metrics of scheduled messages. The first scrape calls this
    function."""
    # Most nodes start without a scrape, so the table is imported only at the
    # first scrape.
    from imserver.plugin.metrics import Metric

    def counts(core: Core) -> dict[str, int]:
        """Return how often this node has done each act."""
        counts = core.service(ScheduledMessages).counts
        return {
            "schedule": counts["schedule"],
            "send": counts["send"],
            "refuse": counts["refuse"],
            "cancel": counts["cancel"],
        }

    return (
        Metric(
            "imserver_scheduled_total",
            "counter",
            "Messages that were scheduled, and what became of them. refuse: they "
            "could not be sent when due",
            counts,
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
