"""The metrics of notifications."""

from __future__ import annotations

from typing import Any, Final

from imserver.features.notifications.parts import notifications_of
from imserver.metric_table import Metric, counter


def _results(node: Any) -> dict[tuple[str, str], int]:
    return dict(notifications_of(node).results)


METRICS: Final[tuple[Metric, ...]] = (
    counter(
        "imserver_notifications_total",
        "Notifications by kind, and what became of them",
        lambda node: _results(node),
        label="kind result",
    ),
    counter(
        "imserver_notifications_lost_total",
        "Users for whom the notification of a push could not be stored",
        lambda node: notifications_of(node).pushes.lost,
    ),
)
