"""The settings of the protobuf dialect."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Duration


class ProtobufSettings(Struct, frozen=True):
    """Keys of section ``websocket``. A session without traffic for so many
    seconds is closed."""

    protobuf_silent_seconds: Duration = 600.0


SETTINGS: Final = SettingsRow({"websocket": ProtobufSettings})
