"""Why something was refused: the logins, commands and requests that were refused within an hour, and what
refuses somebody now. One act lifts it.
"""

from __future__ import annotations

from imserver.features.refusals import api
from imserver.features.refusals.limits import answers, build
from imserver.plugin import Feature

FEATURE = Feature(
    "refusals",
    build,
    routes=api.routes.rows,
    uses=("accounts?",),
    answers=answers,
    commands={
        "why": ("imserver.features.refusals.command", "why", "Say why somebody was refused, and lift it.")
    },
)
"""Why something was refused."""
