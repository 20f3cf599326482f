"""The slowest work on the nodes, traces, and a temporary change of how much the
nodes log."""

from imserver.operate.watch import api
from imserver.operate.watch.declared import SETTINGS
from imserver.operate.watch.slow import build
from imserver.plugin import CommandOf, FeatureRow

FEATURE = FeatureRow(
    "watch",
    build,
    routes=api.routes.rows,
    settings=SETTINGS,
    commands=(
        CommandOf(
            "log",
            "imserver.operate.watch.command:log",
            "Let all nodes log or trace more for a limited time.",
        ),
        CommandOf(
            "slow",
            "imserver.operate.watch.command:slow",
            "Show the slowest requests and jobs of all nodes.",
        ),
    ),
)
