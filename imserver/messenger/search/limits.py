"""The limit for the searches of one user."""

from typing import Final

from imserver.gateway.auth.rates import Rate

SEARCH_MILLISECONDS: Final = 15_000
"""The time that the searches of one user may take in a minute."""
SEARCH_TIME: Final = Rate(
    "search_time",
    "milliseconds of searches of messages",
    "user",
    f"{SEARCH_MILLISECONDS} a minute",
    "1008, over HTTP 429",
)
