"""The settings that the feature declares."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Url


class TracingSettings(Struct, frozen=True):
    """Section ``tracing``: where traces of OpenTelemetry are sent to, and of
    which share of calls."""

    endpoint: Url = ""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0


SETTINGS: Final = SettingsRow({"tracing": TracingSettings})
