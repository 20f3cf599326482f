"""The table of what apps have used."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_NOBODY: Final = Reason("it counts for the whole app, and names no user")

TABLES: Final = (
    Table(
        name="app_usage",
        key=("app", "day"),
        of_user=_NOBODY,
        erase_user=_NOBODY,
        columns=("day", "pushes", "messages"),
    ),
)
