"""The declarations of the feature: settings and problems."""

from typing import Final

from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate

MOST_WAIT_SECONDS: Final = 60
REMINDER_SECONDS: Final = 60.0
ASK_REMINDERS: Final = Rate(
    "ask_reminders", "reminders of a question", "question", "1 a minute"
)

HTTP_QUESTION_CLOSED: Final = HttpProblem(
    409, "question_closed", "The question is answered, cancelled or expired."
)
