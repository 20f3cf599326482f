"""The declarations of the feature: its limits, a rate, problems and its
table."""

from typing import Final

from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.storage import Reason, Table

MOST_WAITING: Final = 200
"""Limit of the scheduled messages of a user: messages that wait, and refused
messages that are still in the list."""
MOST_SECONDS: Final = 366 * 86_400
"""How far in the future a message may be scheduled."""
CHANGES: Final = 60
CHANGE_SECONDS: Final = 60.0
SCHEDULE_CHANGES: Final = Rate(
    "schedule_changes",
    "messages that are scheduled, changed and cancelled, and reminders",
    "user",
    f"{CHANGES} a minute",
)

HTTP_TOO_MANY_SCHEDULED: Final = HttpProblem(
    409,
    "too_many_scheduled",
    f"The user has {MOST_WAITING} scheduled messages, which is the limit.",
)
HTTP_UNKNOWN_SCHEDULED: Final = HttpProblem(
    404,
    "unknown_scheduled",
    "The user has no such scheduled message, or it was cancelled.",
)
HTTP_ALREADY_SENT: Final = HttpProblem(
    409, "already_sent", "The scheduled message was sent already."
)

TABLES: Final = (
    Table(
        name="scheduled_message",
        types="""app name500*, member name255* out user, id name64* out, version big out, state small out,
            due big out, look big, created big out, awaits small out, to_user name255 out user,
            conversation big out, reminds big out, type name64 out, body blob out words, meta blob out words,
            about big out, thread big out, also small out, reason name64 out""",
        erase_user=(
            "DELETE FROM scheduled_message WHERE app = %s AND member = %s",
            "UPDATE scheduled_message SET to_user = '', awaits = 0, state = 1, "
            "version = version + 1, reason = 'unknown_account' WHERE awaits IN (0, 1) "
            "AND app = %s AND to_user = %s",
        ),
        imported=Reason("what another server was to send, that server sends"),
    ),
)
