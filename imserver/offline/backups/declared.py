"""The settings that the feature declares."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Duration


class BackupSettings(Struct, frozen=True):
    """Section ``backups``: the backups that ``imserver backup`` makes when it
    is called without a file."""

    folder: Annotated[
        str,
        Meta(
            pattern="^(/.*)?$",
            description="an absolute path, as /var/backups/imserver (from / on)",
        ),
    ] = ""
    """Absolute: the server, a timer and people at a terminal run in different
    folders."""
    count: Annotated[int, Meta(ge=1)] = 7
    max_age_seconds: Duration = 93_600.0


SETTINGS: Final = SettingsRow({"backups": BackupSettings})
