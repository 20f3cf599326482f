"""The face: commands of ``imserver``, which no node imports."""

from typing import Literal

from msgspec import Struct

from imserver.config.yaml import read_yaml, write_yaml
from imserver.offline import ServerApi, key_for, opened, push_services_of, record_act, settings_options
from imserver.terminal import fail, table

__all__ = [
    "Finding",
    "ServerApi",
    "fail",
    "key_for",
    "opened",
    "push_services_of",
    "read_yaml",
    "record_act",
    "settings_options",
    "table",
    "write_yaml",
]


class Finding(Struct, frozen=True):
    """The result of one check. ``meaning`` and ``mend`` are empty if there is nothing to do."""

    level: Literal["ok", "warn", "fail"]
    name: str
    found: str
    meaning: str = ""
    mend: str = ""
