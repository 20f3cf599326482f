"""Bots: accounts of programs, with tokens, webhooks, slash commands and streamed answers."""

from __future__ import annotations

from imserver.features.bots import answers_api, api, incoming, parts
from imserver.features.bots.declared import SETTINGS, TABLES
from imserver.features.bots.rows import BotStore
from imserver.features.bots.wire import COMMANDS
from imserver.plugin import FeatureRow

__all__ = ["FEATURE", "BotStore"]

FEATURE = FeatureRow(
    "bots",
    parts.build,
    routes=(*incoming.ROUTES, *api.routes.rows, *incoming.routes.rows, *answers_api.routes.rows),
    wire={"cmd": COMMANDS, "centrifuge": COMMANDS},
    uses=("messages", "webhooks", "accounts", "groups"),
    settings=SETTINGS,
    tables=TABLES,
)
