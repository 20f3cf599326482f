"""What the feature declares: settings, problems and tables."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.settings import Amount
from imserver.plugin.storage import Reason, Table


class InvitationLimits(Struct, frozen=True):
    """Keys of section ``accounts``. ``invitations``: the most invitations of a user that have not ended."""

    invitations: Amount = 100


SETTINGS: Final = FeatureSettings({"accounts": InvitationLimits})


TABLES: Final = (
    Table(
        name="invitation",
        key=("code",),
        of_user="member = %s",
        erase_user=("DELETE FROM invitation WHERE app = %s AND member = %s",),
        # Not the code: it lets people in.
        columns=("member", "conversation", "created", "expires_at", "uses", "max_uses", "guests"),
        imported=Reason("its code is a secret"),
    ),
)
