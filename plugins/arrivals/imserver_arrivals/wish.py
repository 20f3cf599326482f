"""The options of ``imserver arrive``."""

from pathlib import Path
from typing import Final

from msgspec import Struct

DAY_SECONDS: Final = 86_400


class Wish(Struct, frozen=True, kw_only=True):
    """How an archive is imported: the options of the command."""

    path: str | None
    """The path of the settings."""
    data_dir: str | None
    app: str
    files: Path | None = None
    links: Path | None = None
    mail: bool = False
    valid_seconds: int = 14 * DAY_SECONDS
    """How long the links are valid."""
    unread: bool = False
    dry_run: bool = False
    report: Path | None = None

    @property
    def days(self) -> int:
        """For how many whole days the links are valid."""
        return self.valid_seconds // DAY_SECONDS
