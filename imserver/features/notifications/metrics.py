"""The metrics of notifications."""

from __future__ import annotations

from typing import Final

from imserver.features.notifications.parts import notifications_of
from imserver.plugin.metrics import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "imserver_notifications_total",
        "counter",
        "Notifications by kind, and what became of them",
        lambda node: {
            **dict(notifications_of(node).deliveries.counts.items()),
            **notifications_of(node).mails.counts,
        },
        label="app kind result",
    ),
    Metric(
        "imserver_notification_audiences",
        "gauge",
        "Audiences that have not ended, on the node that goes through them",
        lambda node: notifications_of(node).audiences.active,
        label="app",
    ),
    Metric(
        "imserver_notifications_lost_total",
        "counter",
        "Users for whom the notification of a push could not be stored",
        lambda node: notifications_of(node).pushes.lost,
        label="app",
    ),
)
