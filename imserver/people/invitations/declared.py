"""The declarations of the feature: settings, problems and tables."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount
from imserver.plugin.storage import Reason, Table

INVITED_ADDRESSES: Final = Rate(
    "invitation_mails",
    "e-mail addresses that are invited",
    "app",
    "accounts.invitation_mails a day",
)
DAY_SECONDS: Final = 86400.0


class InvitationLimits(Struct, frozen=True):
    """Keys of section ``accounts``.

    ``invitations`` is the most invitations of a user that have not ended,
    without invitations by e-mail. ``invitation_mails`` is the most addresses of
    an app that are invited within a day.
    """

    invitations: Amount = 100
    invitation_mails: Amount = 1000


SETTINGS: Final = SettingsRow({"accounts": InvitationLimits})

TABLES: Final = (
    Table(
        name="invitation_mail",
        types="""app name500*, id name32*, member name255 out user, conversation big out, email name254 out,
            language name16 out, state small out, reason string200 out, created big out, expires_at big out,
            leased big""",
        imported=Reason("its code is a secret"),
        scan=True,
    ),
    Table(
        name="invitation",
        types="""code name32*, app name500, member name255 out user, conversation big out, created big out,
            expires_at big out, uses big out, max_uses big out, guests small=0 out""",
        # Not the code: it lets people in.
        imported=Reason("its code is a secret"),
    ),
)
