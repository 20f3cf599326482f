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
            "Let the nodes log or trace more for a while.",
        ),
        CommandOf(
            "slow",
            "imserver.operate.watch.command:slow",
            "Show what took longest, on all nodes.",
        ),
    ),
)
