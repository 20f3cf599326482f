"""HTTP problems of notifications."""

from __future__ import annotations

from typing import Final

from imserver.plugin.errors import HttpProblem

HTTP_NOTIFICATIONS_OFF: Final = HttpProblem(
    403, "notifications_off", "This app sends no notifications (notify.enabled)."
)
HTTP_UNKNOWN_ENDPOINT: Final = HttpProblem(404, "unknown_endpoint", "The user has no such endpoint.")
HTTP_UNKNOWN_NOTIFICATION: Final = HttpProblem(
    404,
    "unknown_notification",
    "The token is wrong or expired, or its endpoint is gone.",
)
HTTP_UNKNOWN_AUDIENCE: Final = HttpProblem(
    404, "unknown_audience", "The app has no such audience, or it ended long ago."
)

PROBLEMS: Final = (
    HTTP_NOTIFICATIONS_OFF,
    HTTP_UNKNOWN_ENDPOINT,
    HTTP_UNKNOWN_NOTIFICATION,
    HTTP_UNKNOWN_AUDIENCE,
)
"""All of them."""
