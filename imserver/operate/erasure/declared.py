"""The table of erasures that are to begin, and why one cannot be undone."""

from typing import Final

from imserver.plugin.errors import HttpProblem
from imserver.plugin.storage import Reason, Table

HTTP_NOT_WAITING: Final = HttpProblem(
    409, "not_waiting", "No erasure of this user is to begin, or it has begun: it cannot be undone."
)
MOST_SECONDS: Final = 3600
"""For so long an erasure may be put off."""

TABLES: Final = (
    Table(
        name="erasure_due",
        types="""app name255*, id name255* out user, created big out, ends big out, leased big out,
            banned small out, reason name1000 words""",
        imported=Reason("who is to be erased is erased where somebody wants it"),
    ),
)
