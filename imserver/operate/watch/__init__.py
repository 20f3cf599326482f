"""What is slow on the nodes, traces of it, and how much their logs say for a
while."""

from typing import Any

from imserver.operate.watch import api
from imserver.operate.watch.declared import SETTINGS
from imserver.operate.watch.slow import build
from imserver.plugin import FeatureRow


def _commands() -> dict[str, Any]:
    from imserver.operate.watch.command import log, slow

    return {"log": log, "slow": slow}


FEATURE = FeatureRow(
    "watch", build, routes=api.routes.rows, settings=SETTINGS, commands=_commands
)
