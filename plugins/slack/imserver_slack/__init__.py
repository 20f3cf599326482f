"""Slack's export: the command ``imserver slack-import``. A node has nothing of it."""

from __future__ import annotations

from typing import Final

from imserver.plugin import Feature, FeatureParts

FEATURE: Final = Feature(
    "slack",
    lambda _core: FeatureParts(),
    uses=("messages", "accounts", "uploads"),
    commands={
        "slack-import": (
            "imserver_slack.command",
            "slack_import",
            "Import an export of Slack: people, channels, messages, files.",
        )
    },
)
