"""Bots: accounts of programs, with tokens, webhooks, slash commands and
streamed answers."""

from imserver.people.bots import answers_api, api, incoming, parts
from imserver.people.bots.declared import SETTINGS, TABLES
from imserver.people.bots.rows import BotStore
from imserver.people.bots.wire import COMMANDS
from imserver.plugin import FeatureRow

__all__ = ["FEATURE", "BotStore"]

FEATURE = FeatureRow(
    "bots",
    parts.build,
    routes=(
        *incoming.ROUTES,
        *api.routes.rows,
        *incoming.routes.rows,
        *answers_api.routes.rows,
    ),
    wire={"cmd": COMMANDS, "centrifuge": COMMANDS},
    uses=("messages", "webhooks", "accounts", "groups"),
    settings=SETTINGS,
    tables=TABLES,
)
