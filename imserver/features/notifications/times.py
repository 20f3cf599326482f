"""Times of the day of a user: quiet hours, and when mails are due. All in Unix milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from imserver.features.notifications.contract import QuietHours, Wishes

SOON_SECONDS: Final = 900
"""How long a user has time to read a message before the mail."""
DAILY_MINUTES: Final = 8 * 60
"""When the daily mail is due, in minutes of the day."""


def quiet_until(quiet: QuietHours, now_ms: int) -> int:
    """The end of the quiet hours that a moment is in; the moment itself if it is in none."""
    if quiet.begin == quiet.end:
        return now_ms
    local = datetime.fromtimestamp(now_ms / 1000, zone_of(quiet.zone))
    minutes = local.hour * 60 + local.minute
    is_quiet = (
        quiet.begin <= minutes < quiet.end
        if quiet.begin < quiet.end
        else minutes >= quiet.begin or minutes < quiet.end
    )
    return _next(quiet.end, local) if is_quiet else now_ms


def mail_due(wishes: Wishes, now_ms: int) -> int:
    """When a mail about a message of this moment is due; 0: the user wants none."""
    if wishes.mail == "never":
        return 0
    due = now_ms + SOON_SECONDS * 1000
    if wishes.mail == "daily":
        due = _next(DAILY_MINUTES, datetime.fromtimestamp(now_ms / 1000, zone_of(wishes.quiet.zone)))
    return quiet_until(wishes.quiet, due)


def _next(minutes: int, local: datetime) -> int:
    """The next moment after ``local`` at which clocks show this minute of the day."""
    day = local.date()
    while True:
        moment = datetime(day.year, day.month, day.day, minutes // 60, minutes % 60, tzinfo=local.tzinfo)
        found = int(moment.timestamp() * 1000)
        if found > int(local.timestamp() * 1000):
            return found
        day += timedelta(days=1)


@lru_cache(512)
def zone_of(name: str) -> tzinfo:
    """A time zone by its name; UTC if there is none of this name."""
    try:
        return ZoneInfo(name)
    except (ValueError, LookupError, OSError):
        return UTC
