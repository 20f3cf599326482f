"""Notifications: people who are not looking are told of messages, on their devices and by e-mail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from imserver.features.notifications import api, audience_api, token_api
from imserver.features.notifications.declared import SETTINGS, TABLES
from imserver.features.notifications.parts import build
from imserver.plugin import Feature

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric

_COMMANDS: Final = "imserver.features.notifications.command"


def _metrics() -> Sequence[Metric]:
    # Imported at the first scrape.
    from imserver.features.notifications.metrics import METRICS

    return METRICS


FEATURE = Feature(
    "notifications",
    build,
    uses=("messages", "webhooks", "accounts"),
    settings=SETTINGS,
    operations=(*api.routes.rows, *audience_api.routes.rows, *token_api.routes.rows),
    metrics=_metrics,
    doctor={
        "--notify": (_COMMANDS, "notify", "Send a test to the endpoints of a user.", "APP/USER"),
        "--mail": (_COMMANDS, "mail", "Send a test mail.", "ADDRESS"),
    },
    tables=TABLES,
)
