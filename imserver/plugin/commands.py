"""The face: commands of ``imserver``, which no node imports."""

from imserver.commands.doctor import Finding
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
