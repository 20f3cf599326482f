"""Tables of notifications: endpoints and wishes of users, and what is due."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_POSITION: Final = Reason("how far the log of the app was looked through")
_AUDIENCE: Final = Reason("names of users go with them, or when it has ended, and the rest a week later")
_QUEUE: Final = Reason("it is due, and is gone when it is sent")

TABLES: Final = (
    Table(
        name="notify_app",
        key=("app",),
        of_user=_POSITION,
        erase_user=_POSITION,
        columns=_POSITION,
    ),
    Table(
        name="notify_endpoint",
        key=("id",),
        of_user="member = %s",
        erase_user=("DELETE FROM notify_endpoint WHERE app = %s AND member = %s",),
        # Not the address and the keys: who has them notifies the user.
        columns=("id", "member", "device", "language", "enabled", "login", "created"),
        imported=Reason("the device subscribes again: without its keys nothing can be sent to it"),
    ),
    Table(
        name="notify_person",
        key=("app", "member"),
        of_user="member = %s",
        erase_user=("DELETE FROM notify_person WHERE app = %s AND member = %s",),
        columns=("member", "wishes", "mail", "mailed"),
        imported=(("mail_due", 0), ("mailed_id", 0), ("mailed_marks", 0)),
    ),
    Table(
        name="notify_conversation",
        key=("app", "member", "conversation"),
        of_user="member = %s",
        erase_user=("DELETE FROM notify_conversation WHERE app = %s AND member = %s",),
        columns=("member", "conversation", "level", "muted_until"),
    ),
    Table(
        name="notify_due",
        key=("app", "member", "conversation"),
        of_user="member = %s",
        erase_user=("DELETE FROM notify_due WHERE app = %s AND member = %s",),
        columns=("member", "conversation", "entry_id", "due", "notified_id", "notified_at"),
        imported=_QUEUE,
    ),
    Table(
        name="notify_audience",
        key=("id",),
        of_user=_AUDIENCE,
        erase_user=_AUDIENCE,
        columns=_AUDIENCE,
    ),
    Table(
        name="notify_delivery",
        key=("id",),
        of_user=_QUEUE,
        erase_user=("DELETE FROM notify_delivery WHERE app = %s AND member = %s",),
        columns=_QUEUE,
    ),
)
"""In the order of their deletion."""
