"""The face: all names of the gateway that other houses and plug-ins may import.
This module has the row with which a feature joins.

It imports the gateway; :mod:`imserver.plugin.messages` has names of the
messenger, too. It has no tables. Its chapter is ``docs/houses/plugin.md``, its
tests are in ``tests/plugin/``.
"""

from collections.abc import Mapping
from typing import Any, Final

from imserver.gateway import feature
from imserver.gateway.command_rows import CommandOf as CommandOf
from imserver.gateway.core.core import Parts as Parts
from imserver.gateway.feature import FeatureRow as FeatureRow
from imserver.gateway.feature import SettingsRow as SettingsRow

VERSION: Final = feature.VERSION
SINCE: Final[Mapping[str, int]] = {
    "Act": 2,
    "Denial": 2,
    "KeyRow": 2,
    "ServerApi": 2,
    "record_act": 2,
    "on_one_line": 2,
    "PushNotice": 3,
    "PushResult": 3,
    "PushService": 3,
    "Ask": 3,
    "Holder": 4,
    "LogImport": 4,
    "RowsOf": 4,
    "Runner": 4,
    "ServiceRefused": 4,
    "Threads": 4,
    "every": 4,
    "view": 4,
    "ArchivedFiles": 4,
    "offline_parts": 4,
    "on_several_machines": 4,
    "CommandLine": 4,
    "JsonWebToken": 4,
    "base64url": 4,
    "CommandOf": 4,
    "NumberedRooms": 4,
    "AccountLookup": 4,
    "BackEnds": 4,
    "Observer": 4,
    "Parts": 4,
    "Reviews": 4,
}
"""Name of the face → the version in which it was added, for names that are
newer than version 1."""


def __getattr__(name: str) -> Any:
    """Return a name of an earlier version, with a warning."""
    # For plug-ins that were made for an earlier version.
    from imserver.plugin.deprecated import form_of

    return form_of(__name__, name)
