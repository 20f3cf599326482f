"""The settings of invitations."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.settings import Amount


class InvitationLimits(Struct, frozen=True):
    """Keys of section ``accounts``. ``invitations``: the most invitations of a user that have not ended."""

    invitations: Amount = 100


SETTINGS: Final = FeatureSettings({"accounts": InvitationLimits})
