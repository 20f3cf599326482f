"""What keys declare: a table, and settings. Nodes without the feature read it,
too."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Count
from imserver.plugin.storage import Reason, Table

TABLES: Final = (
    Table(
        name="key_use",
        types="""minute big* out, node big*, number big*, key_id name32 out, route name200 out, app name500,
            address name64 out, answered big out, refused big out""",
        of_user=Reason("it says what back ends did, not which users"),
        imported=Reason("it counts what keys of the other server did"),
    ),
)


class KeyUsageSettings(Struct, frozen=True):
    """Section ``keys``: how long the server knows what API keys did."""

    usage_days: Count = 30
    """0: it does not record that."""


SETTINGS: Final = SettingsRow({"keys": KeyUsageSettings})
