"""The settings and tables that the feature declares."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Count
from imserver.plugin.storage import Reason, Table


class AuditSettings(Struct, frozen=True):
    """Section ``audit``."""

    days: Count = 400


SETTINGS: Final = SettingsRow({"audit": AuditSettings})

TABLES: Final = (
    Table(
        name="audit_name",
        types="""number big* out, part name16* out, app name500, member name255 user, text blob out,
            salt bytes16""",
        imported=Reason("acts stay in the log of the server where they were done"),
    ),
    Table(
        name="audit",
        types="""number big*, time big, name name100, kind name16, app name500, request name64, names blob,
            hash name64, previous name64""",
        of_app=Reason(
            "an act stays, to prove what was done; whom it names stands in audit_name"
        ),
    ),
    Table(
        name="audit_head",
        types="one small*, number big, time big, hash name64, anchor big, anchor_hash name64",
        of_app=Reason("it says where the chain ends"),
    ),
)
"""In the order in which their rows are deleted."""
