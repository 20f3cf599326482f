"""HTTP problems of the inbox."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_TOO_MANY_PINS: Final = HttpProblem(
    409, "too_many_pins", "The user has pinned as many conversations as inbox.pins allows."
)
HTTP_TOO_MANY_DRAFTS: Final = HttpProblem(
    409, "too_many_drafts", "The user has as many drafts as inbox.drafts allows."
)

PROBLEMS: Final = (HTTP_TOO_MANY_PINS, HTTP_TOO_MANY_DRAFTS)
"""All of them."""
