"""The metrics of notifications."""

from __future__ import annotations

from typing import Final

from imserver.features.notifications.parts import notifications_of
from imserver.metric_table import Metric, counter

METRICS: Final[tuple[Metric, ...]] = (
    counter(
        "imserver_notifications_total",
        "Notifications by kind, and what became of them",
        lambda node: dict(notifications_of(node).deliveries.counts),
        label="kind result",
    ),
    counter(
        "imserver_notifications_lost_total",
        "Users for whom the notification of a push could not be stored",
        lambda node: notifications_of(node).pushes.lost,
    ),
)
