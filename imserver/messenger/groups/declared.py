"""The declarations of the feature: settings, problems and tables."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount
from imserver.plugin.storage import Table

NEW_GROUPS: Final = Rate(
    "groups",
    "groups created or joined",
    "user",
    "accounts.groups_per_user within accounts.rate_seconds",
)
SEARCH_MILLISECONDS: Final = 15_000
"""The time that one user's searches of members may take in a minute."""
SEARCH_TIME: Final = Rate(
    "member_search_time",
    "milliseconds of searches of members",
    "user",
    f"{SEARCH_MILLISECONDS} a minute",
)


class GroupLimits(Struct, frozen=True):
    """Keys of section ``accounts``.

    ``groups_per_user``: the most groups that a user creates or joins within
    ``rate_seconds``. ``group_members``: the most members of a group.
    """

    groups_per_user: Amount = 200
    group_members: Annotated[int, Meta(ge=1, le=100_000)] = 10000


SETTINGS: Final = SettingsRow({"accounts": GroupLimits})

TABLES: Final = (
    Table(
        name="removed_member",
        types=(
            "app name500*, conversation big* out, member name255* out user, "
            "created big out"
        ),
        scan=True,
    ),
)
