"""Quiet hours, and when mails are due, in the zone of the user."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from imserver.notifications.contract import QuietHours, Wishes
from imserver.notifications.decisions import mail_due, quiet_until, zone_of

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "begin", "end", "until"),
    [
        ("2026-11-25 21:59", 22 * 60, 7 * 60, ""),
        ("2026-11-25 22:00", 22 * 60, 7 * 60, "2026-11-26 07:00"),
        ("2026-11-26 06:59", 22 * 60, 7 * 60, "2026-11-26 07:00"),
        ("2026-11-26 07:00", 22 * 60, 7 * 60, ""),
        ("2026-11-25 12:30", 12 * 60, 13 * 60, "2026-11-25 13:00"),
        ("2026-11-25 13:30", 12 * 60, 13 * 60, ""),
        ("2026-11-25 12:30", 0, 0, ""),
        # The night in which clocks go back lasts an hour longer, the other one an hour less.
        ("2026-10-24 23:00", 22 * 60, 7 * 60, "2026-10-25 07:00"),
        ("2026-03-28 23:00", 22 * 60, 7 * 60, "2026-03-29 07:00"),
        # Clocks never show 02:30 in this night.
        ("2026-03-29 01:00", 0, 2 * 60 + 30, "2026-03-29 03:30"),
    ],
)
def test_quiet_hours_last_until_their_end(now: str, begin: int, end: int, until: str) -> None:
    assert quiet_until(QuietHours(begin, end, BERLIN), at(now)) == (at(until) if until else 0)


def test_a_mail_is_due_soon_or_at_eight() -> None:
    zone = QuietHours(zone=BERLIN)
    now = at("2026-11-25 07:30")
    assert mail_due(Wishes(), now) == 0
    assert mail_due(Wishes(mail="soon", quiet=zone), now) == at("2026-11-25 07:45")
    assert mail_due(Wishes(mail="daily", quiet=zone), now) == at("2026-11-25 08:00")
    assert mail_due(Wishes(mail="daily", quiet=zone), at("2026-11-25 08:00")) == at("2026-11-26 08:00")


def test_an_unknown_zone_is_utc() -> None:
    for name in ("Nowhere/City", "../etc/passwd", "", "a\0b"):
        assert zone_of(name).utcoffset(datetime.now()) == zone_of("UTC").utcoffset(datetime.now())
