"""The table of erasures that are to begin, and why one cannot be undone."""

from typing import Final

from imserver.plugin.errors import HttpProblem, ServiceRefused
from imserver.plugin.storage import Reason, Table

HTTP_NOT_WAITING: Final = HttpProblem(
    409,
    "not_waiting",
    "No erasure is scheduled, or it has begun and cannot be cancelled.",
)


class NotWaiting(ServiceRefused, problem=HTTP_NOT_WAITING):
    """Nothing is to begin that could be undone."""


MOST_SECONDS: Final = 3600
"""The longest time for which an erasure may be put off, in seconds."""

TABLES: Final = (
    Table(
        name="erasure_due",
        # The row of a whole app is removed when its deletion has ended. So a
        # deletion that was interrupted can continue.
        of_app="app = %s AND id <> ''",
        types="""app name255*, id name255* out user, created big out, ends big out, leased big out,
            banned small out, reason name1000 words""",
        imported=Reason("who is to be erased is erased where somebody wants it"),
    ),
)
