"""The parts of notifications on one node."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from imserver.config.settings import settings_of
from imserver.core.core import Core, FeatureParts
from imserver.features.notifications.settings import NotificationSettings
from imserver.features.notifications.tokens import ActionTokens
from imserver.features.notifications.webpush import WebPush
from imserver.transport.public_requests import PublicRequests


class NotificationParts(Struct, frozen=True):
    """The services for routes and other features."""

    rows: Any
    webpush: WebPush
    deliveries: Any
    tokens: ActionTokens


def notifications_of(core: Core) -> NotificationParts:
    """The parts of notifications on a node."""
    parts: NotificationParts = core.features["notifications"].service
    return parts


def build(core: Core) -> FeatureParts:
    """Build them, and join them to the core."""
    settings = settings_of(core.config, NotificationSettings)
    requests = PublicRequests(settings.allow_loopback)
    webpush = WebPush(requests, settings, core.key_for("vapid"), core.config.app.http_url)
    tokens = ActionTokens(core.key_for("notification tokens"))
    return FeatureParts(NotificationParts(None, webpush, None, tokens), stop=webpush.close)
