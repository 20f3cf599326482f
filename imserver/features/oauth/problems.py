"""HTTP problems of logins with providers."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_LOGIN_REFUSED: Final = HttpProblem(
    403, "login_refused", "The provider or the user has refused this login; start a new one."
)
HTTP_UNKNOWN_PROVIDER: Final = HttpProblem(
    404, "unknown_provider", "The app has no such login provider, or the account is not linked with it."
)
HTTP_UNKNOWN_LOGIN: Final = HttpProblem(
    404, "unknown_login", "No such login with a provider, or it has expired or was finished."
)
HTTP_LINK_TAKEN: Final = HttpProblem(
    409,
    "link_taken",
    "This identity is linked with another account, or the account with another identity of this provider.",
)
HTTP_LAST_LOGIN: Final = HttpProblem(
    409, "last_login", "Without this link nobody could log in to the account any more."
)
HTTP_PROVIDER_UNAVAILABLE: Final = HttpProblem(
    503, "provider_unavailable", "The login provider does not answer.", temporary=True
)

PROBLEMS: Final = (
    HTTP_LOGIN_REFUSED,
    HTTP_UNKNOWN_PROVIDER,
    HTTP_UNKNOWN_LOGIN,
    HTTP_LINK_TAKEN,
    HTTP_LAST_LOGIN,
    HTTP_PROVIDER_UNAVAILABLE,
)
"""All of them."""
