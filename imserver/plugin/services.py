"""The face: the services of a node."""

from typing import Any

from imserver.channels.client_commands import ChannelAnswers
from imserver.channels.connections import Joined, Left
from imserver.channels.members import ChannelMember, ChannelRefused
from imserver.channels.subscriptions import Channels, Subscribed
from imserver.cluster.history import Position
from imserver.core.core import Core
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions

__all__ = [
    "ChannelAnswers",
    "ChannelMember",
    "ChannelRefused",
    "Channels",
    "Core",
    "Joined",
    "Left",
    "Position",
    "Presence",
    "Sessions",
    "Subscribed",
]


def __getattr__(name: str) -> Any:
    if name not in ("ChannelServices", "ClusterServices", "Foundation", "PushServices", "SessionServices"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imserver.plugin import deprecated

    deprecated.warn(f"{__name__}.{name} is deprecated: its services are attributes of core")
    return deprecated.RoomyCore if name == "Foundation" else deprecated.Room
