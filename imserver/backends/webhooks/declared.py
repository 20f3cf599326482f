"""The settings and tables of the feature."""

from typing import Final

from imserver.plugin import SettingsRow
from imserver.plugin.identity import AppSecrets, BadKey
from imserver.plugin.settings import TenantSettings
from imserver.plugin.storage import Reason, Table


def secret_of(settings: TenantSettings) -> bytes:
    """Return the secret that signs requests to the app's URLs.

    ``b""``: the app has no such URL. Raises BadKey if there is no valid secret.
    """
    urls = settings.webhook.urls or settings.back_ends.urls
    if urls:
        return AppSecrets.read("webhook", settings.webhook)
    return b""


def objection(_name: str, settings: TenantSettings) -> str:
    """Say why an app cannot have these webhooks; ``""`` if it can.

    Reads the file with the secret.
    """
    try:
        secret_of(settings)
    except BadKey as bad:
        return str(bad)
    return ""


SETTINGS: Final = SettingsRow(
    {"apps.*.webhook": None, "apps.*.back_ends": None}, objection
)


_EVENTS: Final = Reason(
    "the feature deletes them, and those of others that name the user"
)
_HEARD: Final = Reason("the back end hears of it from the server where it happened")

TABLES: Final = (
    Table(
        name="absence",
        types="app name500*, member name255* out user, conversation big* out, entry_id big out, due big out",
        imported=_HEARD,
    ),
    Table(
        name="event",
        types="""app name500*, id big* out, member name255 out user, kind name16 out, time big out,
            body blob out""",
        erase_user=_EVENTS,
        imported=_HEARD,
        scan=True,
    ),
    Table(
        name="event_retry",
        types="""number serial, app name500, event name64 out, member name255 out user, attempts int out,
            next_try big out, first_failed big out, dead small out, body blob out""",
        erase_user=_EVENTS,
        imported=_HEARD,
    ),
    Table(
        name="event_feed",
        types="""app name500*, last_id big, entry_id big, event_id big, noted_id big, owner name255,
            lease_until big""",
        of_app=Reason(
            "it stays with the last id, which is not given again if the app is created anew"
        ),
        erase_app=(
            # The feed begins again.
            "UPDATE event_feed SET event_id = last_id, owner = '', lease_until = 0 "
            "WHERE app = %s AND (lease_until <> 0 OR event_id <> last_id)",
        ),
    ),
)
"""In the order in which their rows are deleted."""
