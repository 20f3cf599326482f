"""Notifications of messages, on the devices of users and by e-mail.

The house stands on people (whose addresses and cards it reads), on back ends
(whose consumers deliver) and on the messenger. Its chapter is
``docs/houses/notifications.md``. Its tables are in ``declared.py`` and
``steps.py``, its tests in ``tests/notifications/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.notifications import api, audience_api, token_api
from imserver.notifications.declared import SETTINGS, TABLES
from imserver.notifications.parts import build, notifications_of
from imserver.notifications.webpush import retry_after
from imserver.plugin import CommandOf, FeatureRow

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric

__all__ = ["FEATURE", "retry_after"]


def metrics() -> tuple[Metric, ...]:
    """Its rows of the table of metrics, at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
        Metric(
            "imserver_notifications_total",
            "counter",
            "Notifications by kind, and what became of them",
            lambda node: {
                **notifications_of(node).deliveries.counts,
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


FEATURE = FeatureRow(
    "notifications",
    build,
    uses=("messages", "webhooks", "accounts"),
    settings=SETTINGS,
    routes=(*api.routes.rows, *audience_api.routes.rows, *token_api.routes.rows),
    metrics=metrics,
    commands=(
        CommandOf(
            "--notify",
            "imserver.notifications.command:notify",
            "Send a test notification to the endpoints of a user.",
            parent="doctor",
            metavar="APP/USER",
        ),
        CommandOf(
            "--mail",
            "imserver.notifications.command:mail",
            "Send a test mail.",
            parent="doctor",
            metavar="ADDRESS",
        ),
    ),
    tables=TABLES,
)
