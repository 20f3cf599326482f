"""The settings of the inbox, and the rate of its changes."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount

CHANGES: Final = 300
CHANGE_SECONDS: Final = 60.0
INBOX_CHANGES: Final = Rate(
    "inbox_changes",
    "changes of pins, archived conversations, marks and drafts",
    "user",
    f"{CHANGES} a minute",
    "1008, over HTTP 429",
)


class InboxSettings(Struct, frozen=True):
    """Section ``inbox``: limits of a user."""

    pins: Amount = 20
    """Most conversations that are pinned."""
    drafts: Amount = 100
    """Most conversations with a draft."""


SETTINGS: Final = FeatureSettings({"inbox": InboxSettings})
