"""Notifications: people who are not looking are told of messages, on their devices and by e-mail."""

from __future__ import annotations

from typing import Final

from imserver.features.notifications import api, audience_api, token_api
from imserver.features.notifications.declared import SETTINGS, TABLES
from imserver.features.notifications.parts import build
from imserver.plugin import Feature

_COMMANDS: Final = "imserver.features.notifications.command"


FEATURE = Feature(
    "notifications",
    build,
    uses=("messages", "webhooks", "accounts"),
    settings=SETTINGS,
    operations=(*api.routes.rows, *audience_api.routes.rows, *token_api.routes.rows),
    metrics=("imserver.features.notifications.metrics", "METRICS"),
    doctor={
        "--notify": (_COMMANDS, "notify", "Send a test to the endpoints of a user.", "APP/USER"),
        "--mail": (_COMMANDS, "mail", "Send a test mail.", "ADDRESS"),
    },
    tables=TABLES,
)
