"""What the feature declares: settings and tables."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.settings import Count
from imserver.plugin.storage import Reason, Table


class AuditSettings(Struct, frozen=True):
    """Section ``audit``."""

    days: Count = 400


SETTINGS: Final = FeatureSettings({"audit": AuditSettings})


_ACT: Final = Reason("an act stays, to prove what was done; whom it names stands in audit_name")
_HEAD: Final = Reason("it says where the chain ends")

TABLES: Final = (
    Table(
        name="audit_name",
        key=("number", "part"),
        of_user="member = %s",
        erase_user=("DELETE FROM audit_name WHERE app = %s AND member = %s",),
        columns=("number", "part", "text"),
        imported=Reason("acts stay in the log of the server where they were done"),
    ),
    Table(name="audit", key=("number",), of_app=_ACT, of_user=_ACT, erase_user=_ACT, columns=_ACT),
    Table(name="audit_head", key=("one",), of_app=_HEAD, of_user=_HEAD, erase_user=_HEAD, columns=_HEAD),
)
"""In the order of their deletion."""
