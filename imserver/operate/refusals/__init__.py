"""Refusals: the logins, commands and requests that were refused within an hour,
with the reasons, and the limits that refuse somebody now. One act lifts the
limits."""

from imserver.operate.refusals import api
from imserver.operate.refusals.limits import answers, build
from imserver.plugin import CommandOf, FeatureRow

FEATURE = FeatureRow(
    "refusals",
    build,
    routes=api.routes.rows,
    uses=("accounts?", "groups?"),
    answers=answers,
    commands=(
        CommandOf(
            "why",
            "imserver.operate.refusals.command:why",
            "Show why a user or client was refused, and lift the limits.",
        ),
    ),
)
"""Shows why something was refused."""
