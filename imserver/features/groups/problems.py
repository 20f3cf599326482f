"""HTTP problems of groups."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_GROUP: Final = HttpProblem(404, "unknown_group", "No such group, or the user is not a member.")
HTTP_UNKNOWN_MEMBER: Final = HttpProblem(404, "unknown_member", "The group has no such member.")
HTTP_TOO_MANY_MEMBERS: Final = HttpProblem(
    409, "too_many_members", "The group would have more members than accounts.group_members."
)

PROBLEMS: Final = (
    HTTP_UNKNOWN_GROUP,
    HTTP_UNKNOWN_MEMBER,
    HTTP_TOO_MANY_MEMBERS,
)
"""All of them."""
