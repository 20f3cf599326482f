"""HTTP problems of keys."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_KEY: Final = HttpProblem(404, "unknown_key", "There is no such API key.")

PROBLEMS: Final = (HTTP_UNKNOWN_KEY,)
"""All of them."""
