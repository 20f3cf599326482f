"""The table of arrangements."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Table

TABLES: Final = (
    Table(
        name="arrangement",
        key=("app", "member", "conversation"),
        of_user="member = %s",
        erase_user=("DELETE FROM arrangement WHERE app = %s AND member = %s",),
        columns=("member", "conversation", "pinned", "archived", "marked", "draft", "version"),
    ),
)
