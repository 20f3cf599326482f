"""Invitation links: a code with which others join a group, or become a friend of its maker."""

from __future__ import annotations

from imserver.features.invitations import api
from imserver.features.invitations.declared import SETTINGS, TABLES
from imserver.features.invitations.invitations import Invitations
from imserver.plugin import Feature, FeatureParts

FEATURE = Feature(
    "invitations",
    lambda core: FeatureParts((Invitations(core),)),
    routes=api.routes.rows,
    uses=("messages", "accounts", "groups"),
    settings=SETTINGS,
    commands={
        "chat": (
            "imserver.features.invitations.command",
            "chat",
            "Make a chat for people; print links to it.",
        )
    },
    tables=TABLES,
)
