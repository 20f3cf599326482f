"""Tables of reports, mutes, and removals of messages."""

from __future__ import annotations

from typing import Final

from imserver.plugin.storage import Reason, Table

_DECIDED: Final = Reason("moderators decide it on the server where it was reported")

TABLES: Final = (
    Table(
        name="reporter",
        key=("app", "report", "member"),
        of_user="member = %s",
        erase_user=(
            "DELETE FROM reporter WHERE app = %s AND member = %s",
            "DELETE FROM reporter WHERE app = %s AND report IN (SELECT id FROM report WHERE member = %s)",
        ),
        columns=("report", "member", "created", "reason", "text"),
        imported=_DECIDED,
        scan=True,
    ),
    Table(
        name="report",
        key=("app", "id"),
        of_user="member = %s",
        erase_user=(
            "DELETE FROM report WHERE app = %s AND member = %s",
            # As Principal.label names who acts by a role. Engines join texts in different ways.
            "UPDATE report SET closed_by = '', note = '' WHERE app = %s "
            "AND closed_by = REPLACE(REPLACE('staff:@/#', '#', %s), '@', app)",
        ),
        # Not who has closed it, and what moderators wrote for each other.
        columns=("id", "message", "conversation", "member", "opened", "closed", "outcome"),
        imported=_DECIDED,
        scan=True,
    ),
    Table(
        name="mute",
        key=("app", "member"),
        of_user="member = %s",
        erase_user=("DELETE FROM mute WHERE app = %s AND member = %s",),
        columns=("member", "until", "changed", "reason"),
    ),
    Table(
        name="removal",
        key=("app", "id"),
        of_user="member = %s",
        erase_user=("DELETE FROM removal WHERE app = %s AND member = %s",),
        columns=(
            *("id", "member", "state", "since", "until", "reached", "last", "messages", "created", "ends"),
            "leased",
        ),
        imported=Reason("what was removed stays removed"),
        scan=True,
    ),
)
