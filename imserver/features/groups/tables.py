"""The table of groups. Their members are in those of the message log."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Table

TABLES: Final = (
    Table(
        name="removed_member",
        key=("app", "conversation", "member"),
        of_user="member = %s",
        erase_user=("DELETE FROM removed_member WHERE app = %s AND member = %s",),
        columns=("conversation", "member", "created"),
        scan=True,
    ),
)
