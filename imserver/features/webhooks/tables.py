"""Tables of webhooks: events for back ends, and users who are away."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

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
