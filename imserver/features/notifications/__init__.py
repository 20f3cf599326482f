"""Notifications: people who are not looking are told of messages, on their devices and by e-mail."""

from __future__ import annotations

from imserver.feature import Feature
from imserver.features.notifications import api, token_api
from imserver.features.notifications.parts import build
from imserver.features.notifications.problems import PROBLEMS
from imserver.features.notifications.settings import (
    NotificationSettings,
    NotifyOfApp,
    check,
    findings,
)

FEATURE = Feature(
    "notifications",
    build,
    uses=("webhooks", "accounts"),
    settings=NotificationSettings,
    app_settings=NotifyOfApp,
    check=check,
    findings=findings,
    operations=(*api.routes.rows, *token_api.routes.rows),
    problems=PROBLEMS,
)
