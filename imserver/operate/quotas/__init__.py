"""Quotas: how many pushes and stored messages an app may have in a day, and how many it had."""

from imserver.operate.quotas.declared import SETTINGS, TABLES
from imserver.operate.quotas.quotas import build, routes
from imserver.plugin import FeatureRow

FEATURE = FeatureRow(
    "quotas", build, routes=routes.rows, settings=SETTINGS, tables=TABLES, uses=("messages?",)
)
