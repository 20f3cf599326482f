"""HTTP problems of exports."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_UNKNOWN_EXPORT: Final = HttpProblem(404, "unknown_export", "No such export, or it has been deleted.")
HTTP_EXPORT_UNFINISHED: Final = HttpProblem(
    409, "export_unfinished", "The export is not finished yet.", temporary=True
)

PROBLEMS: Final = (HTTP_UNKNOWN_EXPORT, HTTP_EXPORT_UNFINISHED)
"""All of them."""
