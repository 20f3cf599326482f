"""The settings of exports, and their rate."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount, Duration

DAY_SECONDS: Final = 86_400.0
EXPORTS: Final = Rate("exports", "exports", "user; app", "exports.per_day a day", "429")


class ExportSettings(Struct, frozen=True):
    """Section ``exports``."""

    directory: str = ""
    """``""``: ``exports`` in the data folder."""
    retention_seconds: Duration = DAY_SECONDS
    per_day: Amount = 5


SETTINGS: Final = FeatureSettings({"exports": ExportSettings})
