"""What the feature declares: settings, problems and tables."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Amount
from imserver.plugin.storage import Reason, Table


class InvitationLimits(Struct, frozen=True):
    """Keys of section ``accounts``. ``invitations``: the most invitations of a user that have not ended."""

    invitations: Amount = 100


SETTINGS: Final = SettingsRow({"accounts": InvitationLimits})

TABLES: Final = (
    Table(
        name="invitation",
        types="""code name32*, app name500, member name255 out user, conversation big out, created big out,
            expires_at big out, uses big out, max_uses big out, guests small=0 out""",
        # Not the code: it lets people in.
        imported=Reason("its code is a secret"),
    ),
)
