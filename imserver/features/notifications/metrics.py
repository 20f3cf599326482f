"""The metrics of notifications."""

from __future__ import annotations

from typing import Final

from imserver.features.notifications.parts import NotificationParts, notifications_of
from imserver.plugin.metrics import Metric


def _by_kind(parts: NotificationParts) -> dict[tuple[str, str, str], int]:
    """(app, kind, result) → notifications and mails."""
    return {**dict(parts.deliveries.counts.items()), **parts.mails.counts}


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "imserver_notifications_total",
        "counter",
        "Notifications by kind, and what became of them",
        lambda node: _by_kind(notifications_of(node)),
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
