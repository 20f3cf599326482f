"""The parts of notifications on one node."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from imserver.core.core import Core, FeatureParts
from imserver.features.notifications.tokens import ActionTokens


class NotificationParts(Struct, frozen=True):
    """The services for routes and other features."""

    rows: Any
    webpush: Any
    deliveries: Any
    tokens: ActionTokens


def notifications_of(core: Core) -> NotificationParts:
    """The parts of notifications on a node."""
    parts: NotificationParts = core.features["notifications"].service
    return parts


def build(core: Core) -> FeatureParts:
    """Build them, and join them to the core."""
    tokens = ActionTokens(core.key_for("notification tokens"))
    return FeatureParts(NotificationParts(None, None, None, tokens))
