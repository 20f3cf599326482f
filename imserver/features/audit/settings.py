"""The setting of the audit log."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.settings import Count


class AuditSettings(Struct, frozen=True):
    """Section ``audit``."""

    days: Count = 400


SETTINGS: Final = FeatureSettings({"audit": AuditSettings})
