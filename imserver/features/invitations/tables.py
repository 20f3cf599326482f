"""The table of invitations."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

TABLES: Final = (
    Table(
        name="invitation",
        key=("code",),
        of_user="member = %s",
        erase_user=("DELETE FROM invitation WHERE app = %s AND member = %s",),
        # Not the code: it lets people in.
        columns=("member", "conversation", "created", "expires_at", "uses", "max_uses", "guests"),
        imported=Reason("its code is a secret"),
    ),
)
