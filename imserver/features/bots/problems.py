"""HTTP problems of bots and their webhooks."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_HOOK: Final = HttpProblem(404, "unknown_hook", "No such webhook, or it was revoked.")
HTTP_TOO_MANY_BOTS: Final = HttpProblem(
    409, "too_many_bots", "The user has made as many bots as accounts.bots allows."
)

PROBLEMS: Final = (
    HTTP_UNKNOWN_HOOK,
    HTTP_TOO_MANY_BOTS,
)
"""All of them."""
