"""Why something was refused: the logins, commands and requests that were
refused within an hour, and what refuses somebody now. One act lifts it.
"""

from typing import Any

from imserver.operate.refusals import api
from imserver.operate.refusals.limits import answers, build
from imserver.plugin import FeatureRow


def _commands() -> dict[str, Any]:
    from imserver.operate.refusals.command import why

    return {"why": why}


FEATURE = FeatureRow(
    "refusals",
    build,
    routes=api.routes.rows,
    uses=("accounts?", "groups?"),
    answers=answers,
    commands=_commands,
)
"""Why something was refused."""
