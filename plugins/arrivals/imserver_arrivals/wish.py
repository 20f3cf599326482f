"""The options of ``imserver arrive``."""

from pathlib import Path

from msgspec import Struct


class Wish(Struct, frozen=True, kw_only=True):
    """How an archive is imported: the options of the command."""

    path: str | None
    """Of the settings."""
    data_dir: str | None
    app: str
    files: Path | None = None
    links: Path | None = None
    mail: bool = False
    days: int = 14
    unread: bool = False
    dry_run: bool = False
    report: Path | None = None
