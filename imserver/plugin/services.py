"""The face: the services of a node."""

from typing import Any

from imserver.channels.client_commands import ChannelAnswers as ChannelAnswers
from imserver.channels.connections import Joined as Joined
from imserver.channels.connections import Left as Left
from imserver.channels.members import ChannelMember as ChannelMember
from imserver.channels.members import ChannelRefused as ChannelRefused
from imserver.channels.subscriptions import Channels as Channels
from imserver.channels.subscriptions import Subscribed as Subscribed
from imserver.cluster.history import Position as Position
from imserver.core.core import Core as Core
from imserver.sessions.presence import Presence as Presence
from imserver.sessions.sessions import Sessions as Sessions


def __getattr__(name: str) -> Any:
    if name not in ("ChannelServices", "ClusterServices", "Foundation", "PushServices", "SessionServices"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imserver.plugin import deprecated

    deprecated.warn(f"{__name__}.{name} is deprecated: its services are attributes of core")
    return deprecated.RoomyCore if name == "Foundation" else deprecated.Room
