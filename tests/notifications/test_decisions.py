"""What is decided about a user who may have to be notified, as a table."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from imserver.messenger.messages.log.conversations import UnreadMessages
from imserver.notifications.contract import MUTED_FOR_GOOD, ConversationWish, Due, QuietHours, Wishes
from imserver.notifications.decisions import Decision, decide, mail_due, quiet_until, zone_of
from imserver.notifications.declared import AppNotifySettings

NOW = 1_000_000_000
QUIET_END = NOW - NOW % 86_400_000 + 23 * 3600_000
"""23:00 of that day."""
ORDINARY = Wishes()
AFTER, AGAIN = 10_000, 60_000
RULES = AppNotifySettings(after_seconds=AFTER / 1000, again_seconds=AGAIN / 1000)
NOTIFY, STAY, CLOSE, END = (Decision(each) for each in ("notify", "stay", "close", "end"))  # type: ignore[arg-type]


def wait(due: int, entry: int) -> Decision:
    return Decision("wait", due, entry)


def messages(*ids: int, ago: int = AFTER, read: int = 0, **more: Any) -> UnreadMessages:
    """Messages of ``ann``, and how far ``zoe`` has read them."""
    return UnreadMessages({"zoe": read}, [(id, "ann", NOW - ago) for id in ids], **more)


def due(entry: int, notified: int = 0, ago: int = AGAIN) -> Due:
    return Due("zoe", 1, entry, NOW, notified, NOW - ago if notified else 0)


@pytest.mark.parametrize(
    ("row", "unread", "decision"),
    [
        # Not notified before.
        (due(5), messages(5), NOTIFY),
        (due(5), messages(5, 6, 7), NOTIFY),
        (due(5), messages(5, ago=-3600_000), NOTIFY),
        (due(5), messages(5, read=5), END),
        (due(5), messages(), END),
        (due(5), messages(5, hidden=[("zoe", 5)]), END),
        (due(5), UnreadMessages({"zoe": 0}, [(5, "zoe", NOW)]), END),
        (due(5), UnreadMessages({"ann": 0}, [(5, "ann", NOW)]), END),
        (due(5), None, END),
        # Read along: what came since has its own time.
        (due(5), messages(5, 6, ago=4_000, read=5), wait(NOW + 6_000, 6)),
        (due(5), messages(5, 6, ago=AFTER, read=5), NOTIFY),
        (due(5), messages(5, 6, ago=-3600_000, read=5), wait(NOW + AFTER, 6)),
        # Notified before.
        (due(6, 5), messages(5, 6), NOTIFY),
        (due(6, 5), messages(5, 6, read=6), CLOSE),
        (due(6, 5), messages(5, read=5), CLOSE),
        (due(6, 5), messages(5), STAY),
        (due(6, 5), messages(4), CLOSE),
        (due(6, 5), None, CLOSE),
        (due(6, 5), UnreadMessages({}, ()), CLOSE),
        # Read elsewhere, perhaps in part: the entry is 0.
        (due(0, 5), messages(5), STAY),
        (due(0, 5), messages(5, read=5), CLOSE),
        (due(0, 5, ago=20_000), messages(5, 6, read=5), wait(NOW + 40_000, 6)),
        (due(0, 5, ago=AGAIN), messages(5, 6, ago=4_000, read=5), wait(NOW + 6_000, 6)),
        (due(0, 5, ago=AGAIN), messages(5, 6, read=5), NOTIFY),
    ],
)
def test_what_is_unread_decides(row: Due, unread: UnreadMessages | None, decision: Decision) -> None:
    assert decide(row, unread, RULES, Wishes(), ConversationWish(1), True, NOW) == decision


def test_newer_messages_do_not_put_off_what_is_still_unread() -> None:
    """Only the newest messages are known: these are newer than the one that the user waits for."""
    cut = messages(50, 51, ago=0, is_cut=True)
    assert decide(due(5), cut, RULES, Wishes(), ConversationWish(1), True, NOW) == NOTIFY
    read = messages(50, 51, ago=0, read=5, is_cut=True)
    assert decide(due(5), read, RULES, Wishes(), ConversationWish(1), True, NOW) == wait(NOW + AFTER, 50)


@pytest.mark.parametrize("step", [-3600_000, 3600_000])
def test_a_clock_that_was_set_puts_nothing_off(step: int) -> None:
    """Dues go on evenly; times of messages and of the day are those of the clock."""

    def decided(row: Due, unread: UnreadMessages, wishes: Wishes = ORDINARY) -> Decision:
        return decide(row, unread, RULES, wishes, ConversationWish(1), True, NOW + step, -step)

    assert decided(due(5), messages(5)) == NOTIFY
    assert decided(due(6, 5, ago=20_000), messages(5, 7, ago=-step)) == wait(NOW + 40_000, 7)
    assert decided(due(6, 5, ago=-3600_000), messages(5, 7, ago=-step)) == wait(NOW + AGAIN, 7)
    assert decided(due(5), messages(5, 6, read=5)).due <= NOW + AFTER
    end = QUIET_END - step
    assert decided(due(5), messages(5), Wishes(quiet=QuietHours(0, 23 * 60))) == wait(end, 5)


MENTIONED = {"mentions": [("zoe", 5)]}


@pytest.mark.parametrize(
    ("wish", "unread", "decision"),
    [
        (ConversationWish(1, "all"), messages(5), NOTIFY),
        (ConversationWish(1, "nothing"), messages(5, **MENTIONED), END),
        (ConversationWish(1, "mentions"), messages(5), END),
        (ConversationWish(1, "mentions"), messages(5, 6, **MENTIONED), NOTIFY),
        (ConversationWish(1, "mentions"), messages(5, 6, mentions=[("", 6)], ago=0), wait(NOW + AFTER, 6)),
        (ConversationWish(1, "mentions"), messages(5, 6, read=5, **MENTIONED), END),
        (ConversationWish(1, "mentions"), messages(5, mentions=[("eve", 5)]), END),
        (ConversationWish(1, "all", NOW // 1000 + 1), messages(5, **MENTIONED), END),
        (ConversationWish(1, "all", MUTED_FOR_GOOD), messages(5), END),
        (ConversationWish(1, "all", NOW // 1000 - 1), messages(5), NOTIFY),
    ],
)
def test_wishes_for_a_conversation(
    wish: ConversationWish, unread: UnreadMessages, decision: Decision
) -> None:
    assert decide(due(5), unread, RULES, Wishes(), wish, True, NOW) == decision


@pytest.mark.parametrize("wish", [ConversationWish(1, "nothing"), ConversationWish(1, "all", MUTED_FOR_GOOD)])
def test_a_notification_before_a_conversation_was_muted_is_closed_when_it_is_read(
    wish: ConversationWish,
) -> None:
    for unread, decision in ((messages(5, 6), STAY), (messages(5, 6, read=6), CLOSE)):
        assert decide(due(6, 5), unread, RULES, Wishes(), wish, True, NOW) == decision


@pytest.mark.parametrize("rules", [None, AppNotifySettings(enabled=False)])
def test_an_app_without_notifications(rules: AppNotifySettings | None) -> None:
    assert decide(due(5), messages(5), rules, Wishes(), ConversationWish(1), True, NOW) == END
    assert decide(due(6, 5), messages(5, 6), rules, Wishes(), ConversationWish(1), True, NOW) == STAY


def test_a_user_who_has_switched_all_devices_off() -> None:
    assert decide(due(5), messages(5), RULES, Wishes(), ConversationWish(1), False, NOW) == END


def test_quiet_hours_put_off_what_is_still_unread() -> None:
    wishes = Wishes(quiet=QuietHours(0, 23 * 60))
    assert decide(due(5), messages(5, 6), RULES, wishes, ConversationWish(1), True, NOW) == wait(QUIET_END, 5)
    assert decide(due(5), messages(5, read=5), RULES, wishes, ConversationWish(1), True, NOW) == END
    read = messages(5, 6, read=6)
    assert decide(due(6, 5), read, RULES, wishes, ConversationWish(1), True, NOW) == CLOSE


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
