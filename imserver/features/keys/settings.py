"""The settings of keys."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.settings import Count


class KeyUsageSettings(Struct, frozen=True):
    """Section ``keys``: how long the server knows what API keys did."""

    usage_days: Count = 30
    """0: it does not record that."""


SETTINGS: Final = FeatureSettings({"keys": KeyUsageSettings})
