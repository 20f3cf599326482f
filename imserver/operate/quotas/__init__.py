"""Quotas: how many pushes and stored messages an app may have in a day, and how
many it had."""

from typing import Any

from imserver.operate.quotas.declared import SETTINGS, TABLES
from imserver.operate.quotas.quotas import build, routes
from imserver.plugin import FeatureRow


def _commands() -> dict[str, Any]:
    from imserver.operate.quotas.command import usage

    return {"app usage": usage}


FEATURE = FeatureRow(
    "quotas",
    build,
    routes=routes.rows,
    settings=SETTINGS,
    tables=TABLES,
    uses=("messages?",),
    commands=_commands,
)
