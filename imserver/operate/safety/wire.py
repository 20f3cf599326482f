"""The command with which clients report, and its decoder."""

from typing import Final

from imserver.operate.safety.declared import REASON_BYTES
from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Command, Fields, Readers, Refused

TEXT_CHARACTERS: Final = 1000
"""The most characters of a reporter's text."""


class Report(Command, frozen=True, gc=False):
    """Report a message, or (``message`` 0) a user, for one of the reasons of
    the app."""

    message: int
    user: str
    reason: str
    text: str = ""


def _report(data: bytes) -> Report:
    """Decode the command.

    Raises Refused unless it names either a message or a user.
    """
    fields = Fields.of(data)
    report = Report(
        message=fields.id("id"),
        user=fields.short_text("user", MAX_USER_BYTES),
        reason=fields.short_text("reason", REASON_BYTES),
        text=fields.text("text"),
    )
    names_both_or_none = bool(report.message) == bool(report.user)
    if names_both_or_none or len(report.text) > TEXT_CHARACTERS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return report


COMMANDS: Final[Readers] = {"report": _report}
