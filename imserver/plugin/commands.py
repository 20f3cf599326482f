"""The face: commands of ``imserver``, which no node imports."""

from imserver.commands.doctor import Finding, Findings
from imserver.config import yaml
from imserver.offline import day, key_for, opened, settings_options
from imserver.terminal import fail, qr_code, read_text

__all__ = [
    "Finding",
    "Findings",
    "day",
    "fail",
    "key_for",
    "opened",
    "qr_code",
    "read_text",
    "settings_options",
    "yaml",
]
