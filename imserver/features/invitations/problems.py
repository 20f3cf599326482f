"""HTTP problems of invitations."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_INVITATION: Final = HttpProblem(
    404, "unknown_invitation", "No such invitation, or it has expired or is used up."
)
HTTP_TOO_MANY_INVITATIONS: Final = HttpProblem(
    409, "too_many_invitations", "The user has made as many invitations as accounts.invitations allows."
)

PROBLEMS: Final = (
    HTTP_UNKNOWN_INVITATION,
    HTTP_TOO_MANY_INVITATIONS,
)
"""All of them."""
