"""Decides who is notified, about which messages, and when. No other module does
this. The functions are pure: from facts they make a decision."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from imserver.notifications.contract import (
    MINUTES_AN_HOUR,
    SECOND_MS,
    ConversationWish,
    Due,
    QuietHours,
    Wishes,
)
from imserver.notifications.declared import AppNotifySettings
from imserver.plugin.messages import UnreadMessages

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

SOON_MINUTES: Final = 15
"""How long after a notification a mail may follow, for users who wish it
soon."""
DAILY_HOUR: Final = 8
"""When daily mails are sent, in the zone of the user."""

_MINUTE_MS: Final = 60_000
_HOURS_A_DAY: Final = 24


class Decision(Struct, frozen=True):
    """The decision about a due, which is a user who may have to be notified.

    - ``notify``: the user is notified.
    - ``wait``: decide again at ``due`` (Unix milliseconds), about the messages
      from ``entry`` on.
    - ``stay``: the last notification is still valid.
    - ``close``: the message of the last notification was read, or is gone.
    - ``end``: the user is not notified, and was not notified before.
    """

    outcome: Literal["notify", "wait", "stay", "close", "end"]
    due: int = 0
    entry: int = 0


_CLOSE: Final = Decision("close")


def nothing_new(due: Due, unread: UnreadMessages | None) -> Decision:
    """Decide about a due if there is no new message for the user.

    ``unread``: the unread messages of the conversation; None: the conversation
    is gone. A notification of an unread message stays, any other one is closed.
    """
    if not due.notified:
        return Decision("end")
    # A user who is not among ``reads`` has left the conversation.
    if unread is None or due.user not in unread.reads:
        return _CLOSE
    if unread.is_unread(due.user, due.notified):
        return Decision("stay")
    return _CLOSE


def decide(
    due: Due,
    unread: UnreadMessages | None,
    rules: AppNotifySettings | None,
    wishes: Wishes,
    wish: ConversationWish,
    is_reachable: bool,
    now: int,
    offset: int = 0,
) -> Decision:
    """Decide whether the user of a due is notified now, later, or not at all.

    ``unread``: the unread messages of the conversation; None: the conversation
    is gone. ``rules``: of the app; None: the app is gone. ``wishes``: of the
    user for all conversations; ``wish``: for this conversation.
    ``is_reachable``: whether the user has an endpoint that is on, or gets mail.

    ``now``: Unix milliseconds. ``offset``: dues have times of another clock,
    which nobody can set; this is its time minus ``now``.
    """
    if (
        rules is None
        or not rules.enabled
        or unread is None
        # A user who is not among ``reads`` has left the conversation.
        or due.user not in unread.reads
    ):
        return nothing_new(due, unread)
    if _is_muted(wish, now) or not is_reachable:
        return nothing_new(due, unread)

    mentions = wish.level == "mentions"
    oldest = next(unread.among(due.user, due.notified, mentions), None)
    if oldest is None:
        return nothing_new(due, unread)
    entry = unread.ids[oldest]
    # ``unread`` has only the newest messages. The message of the due may be an
    # older one that is not among them.
    may_be_unread = due.entry > unread.reads[due.user] and unread.has_older(
        due.user, mentions
    )
    if due.entry < entry and not may_be_unread:
        # The message of the due was read, so the first message since then has a
        # time of its own.
        stored_at = unread.times[oldest]
        ready_at = _ready_at(due, stored_at, rules, now, offset)
        if ready_at > now + offset:
            return Decision("wait", ready_at, entry)

    quiet_end = quiet_until(wishes.quiet, now)
    if quiet_end > now:
        return Decision("wait", quiet_end + offset, entry)
    return Decision("notify")


def _ready_at(
    due: Due, stored_at: int, rules: AppNotifySettings, now: int, offset: int
) -> int:
    """Return when a user may be notified of a message, in the time of dues.

    ``stored_at``: when the message was stored, in Unix milliseconds.
    ``offset``: the time of dues minus ``now``.
    """
    # Clocks of nodes differ, and can be set, so both times are limited to now.
    ready_at = min(stored_at, now) + offset + int(rules.after_seconds * SECOND_MS)
    if not due.notified:
        return ready_at
    notified_at = min(due.notified_at, now + offset)
    return max(ready_at, notified_at + int(rules.again_seconds * SECOND_MS))


def may_notify(
    due: Due,
    unread: UnreadMessages | None,
    rules: AppNotifySettings | None,
    wishes: Wishes,
    wish: ConversationWish,
    is_reachable: bool,
    now: int,
) -> bool:
    """Whether a user may be notified of a conversation now.

    ``unread``: the unread messages; None: the conversation is gone. ``rules``:
    of the app; None: the app is gone. ``wishes``: of the user for all
    conversations; ``wish``: for this conversation. ``now``: Unix milliseconds.
    """
    if (
        rules is None
        or not rules.enabled
        or unread is None
        # A user who is not among ``reads`` has left the conversation.
        or due.user not in unread.reads
    ):
        return False
    return (
        is_reachable and not _is_muted(wish, now) and not quiet_until(wishes.quiet, now)
    )


def _is_muted(wish: ConversationWish, now: int) -> bool:
    """Whether a user wants no notification of a conversation now."""
    return wish.level == "nothing" or wish.muted_until * SECOND_MS > now


def quiet_until(quiet: QuietHours, now: int) -> int:
    """Return when the quiet hours that ``now`` is in end (Unix milliseconds).

    0: ``now`` is not in quiet hours. They are minutes of the day in the zone of
    the user, and may span midnight, such as 22:00 to 07:30.
    """
    # Both are the same: there are no quiet hours.
    if quiet.begin == quiet.end:
        return 0
    local = datetime.fromtimestamp(now / SECOND_MS, zone_of(quiet.zone))
    minute = local.hour * MINUTES_AN_HOUR + local.minute
    if not _is_in(quiet, minute):
        return 0

    day = local.date()
    # The hours span midnight: in the evening, they end tomorrow.
    if quiet.end < quiet.begin <= minute:
        day += timedelta(days=1)
    hour, minutes = divmod(quiet.end, MINUTES_AN_HOUR)
    # ``time`` does not accept the hour 24.
    end = datetime.combine(day, time(hour % _HOURS_A_DAY, minutes), local.tzinfo)
    # Where clocks go back, the end may be before ``now`` in its first hour.
    return max(int(end.timestamp() * SECOND_MS), now + _MINUTE_MS)


def _is_in(quiet: QuietHours, minute: int) -> bool:
    """Whether a minute of the day is in quiet hours, which may span midnight."""
    if quiet.begin < quiet.end:
        return quiet.begin <= minute < quiet.end
    return minute >= quiet.begin or minute < quiet.end


def mail_due(wishes: Wishes, now: int) -> int:
    """Return when a user who is notified at ``now`` may need a mail, too.

    The times are Unix milliseconds; 0: never. With ``daily``, it is the next
    morning in the zone of the user.
    """
    if wishes.mail == "never":
        return 0
    if wishes.mail == "soon":
        return now + SOON_MINUTES * _MINUTE_MS
    local = datetime.fromtimestamp(now / SECOND_MS, zone_of(wishes.quiet.zone))
    day = local.date()
    # After the hour of today's mails, the next ones are tomorrow's.
    if local.hour >= DAILY_HOUR:
        day += timedelta(days=1)
    next_mail = datetime.combine(day, time(DAILY_HOUR), local.tzinfo)
    return int(next_mail.timestamp() * SECOND_MS)


def find_zone(name: str) -> ZoneInfo | None:
    """Return the time zone of this name, such as ``Asia/Tokyo``.

    None: this machine does not know it.
    """
    # loaded for the first user who is notified: it takes 0.2 MB
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this name; UTC if it is not known here."""
    from zoneinfo import ZoneInfo  # as above

    return find_zone(name) or ZoneInfo("UTC")
