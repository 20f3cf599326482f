"""Quotas: how many pushes and stored messages an app may have in a day, and how
many it has had."""

from imserver.operate.quotas.declared import SETTINGS, TABLES
from imserver.operate.quotas.quotas import build, routes
from imserver.plugin import CommandOf, FeatureRow

FEATURE = FeatureRow(
    "quotas",
    build,
    routes=routes.rows,
    settings=SETTINGS,
    tables=TABLES,
    uses=("messages?",),
    commands=(
        CommandOf(
            "usage",
            "imserver.operate.quotas.command:usage",
            "Show how much of its quotas an app has used, by day in UTC.",
            parent="app",
        ),
    ),
)
