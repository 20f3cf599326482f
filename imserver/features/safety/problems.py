"""HTTP problems of reports and of what moderators do."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_REPORT: Final = HttpProblem(404, "unknown_report", "No such report.")
HTTP_UNKNOWN_ACT: Final = HttpProblem(
    404, "unknown_act", "No such removal of messages, or its time to be undone is over."
)
HTTP_TOO_MANY_REPORTS: Final = HttpProblem(
    409, "too_many_reports", "The app has as many open reports as a server keeps."
)

PROBLEMS: Final = (HTTP_UNKNOWN_REPORT, HTTP_UNKNOWN_ACT, HTTP_TOO_MANY_REPORTS)
"""All of them."""
