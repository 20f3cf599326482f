"""What the feature declares: settings and tables."""

from __future__ import annotations

from typing import Final

from imserver.plugin import FeatureSettings
from imserver.plugin.identity import AppSecrets, BadKey
from imserver.plugin.settings import TenantSettings
from imserver.plugin.storage import Reason, Table


def secret_of(settings: TenantSettings) -> bytes:
    """The secret that signs requests to the app's URLs; ``b""`` if there are none. Raises BadKey."""
    urls = settings.webhook.urls or settings.back_ends.urls
    return AppSecrets.read("webhook", settings.webhook) if urls else b""


def objection(_name: str, settings: TenantSettings) -> str:
    """Why an app cannot have these webhooks; ``""`` if it can. Reads the file of the secret."""
    try:
        secret_of(settings)
    except BadKey as bad:
        return str(bad)
    return ""


SETTINGS: Final = FeatureSettings(core_keys=("webhook", "back_ends"), objection=objection)


_EVENTS: Final = Reason("the feature deletes them, and those of others that name the user")
_FEED: Final = Reason("it stays with the last id, which is not given again if the app is created anew")
_HEARD: Final = Reason("the back end hears of it from the server where it happened")

TABLES: Final = (
    Table(
        name="absence",
        key=("app", "member", "conversation"),
        of_user="member = %s",
        erase_user=("DELETE FROM absence WHERE app = %s AND member = %s",),
        columns=("member", "conversation", "entry_id", "due"),
        imported=_HEARD,
    ),
    Table(
        name="event",
        key=("app", "id"),
        of_user="member = %s",
        erase_user=_EVENTS,
        columns=("id", "member", "kind", "time", "body"),
        imported=_HEARD,
        scan=True,
    ),
    Table(
        name="event_retry",
        key=("number",),
        of_user="member = %s",
        erase_user=_EVENTS,
        columns=("event", "member", "attempts", "next_try", "first_failed", "dead", "body"),
        imported=_HEARD,
    ),
    Table(
        name="event_feed",
        key=("app",),
        of_app=_FEED,
        of_user=_FEED,
        erase_user=_FEED,
        erase_app=(
            # The feed begins anew.
            "UPDATE event_feed SET event_id = last_id, owner = '', lease_until = 0 "
            "WHERE app = %s AND (lease_until <> 0 OR event_id <> last_id)",
        ),
        columns=_FEED,
    ),
)
"""In the order of their deletion."""
