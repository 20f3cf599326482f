"""The face: all of the gateway that other houses and plug-ins import. Here is
the row with which one joins.

It stands on the gateway; :mod:`imserver.plugin.messages` has names of the
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
    **dict.fromkeys(
        (
            "Act",
            "Denial",
            "KeyRow",
            "ServerApi",
            "record_act",
            "on_one_line",
        ),
        2,
    ),
    **dict.fromkeys(("PushNotice", "PushResult", "PushService", "Ask"), 3),
    **dict.fromkeys(
        ("Holder", "LogImport", "RowsOf", "Runner", "ServiceRefused", "Threads"), 4
    ),
    **dict.fromkeys(
        ("every", "view", "ArchivedFiles", "offline_parts", "on_several_machines"), 4
    ),
    **dict.fromkeys(
        (
            "CommandLine",
            "JsonWebToken",
            "base64url",
            "CommandOf",
            "NumberedRooms",
            "AccountLookup",
            "BackEnds",
            "Observer",
            "Parts",
            "Reviews",
        ),
        4,
    ),
}
"""Name of the face → the version since when it exists, for those that are newer
than version 1."""


def __getattr__(name: str) -> Any:
    # for plug-ins that were made for an earlier version
    from imserver.plugin.deprecated import form_of

    return form_of(__name__, name)
