"""The face: the services of a node."""

from typing import Any

from imserver.gateway.channels.client_commands import ChannelAnswers as ChannelAnswers
from imserver.gateway.channels.connections import Joined as Joined
from imserver.gateway.channels.connections import Left as Left
from imserver.gateway.channels.members import ChannelMember as ChannelMember
from imserver.gateway.channels.members import ChannelRefused as ChannelRefused
from imserver.gateway.channels.subscriptions import Channels as Channels
from imserver.gateway.channels.subscriptions import Subscribed as Subscribed
from imserver.gateway.cluster.history import Position as Position
from imserver.gateway.core.core import Core as Core
from imserver.gateway.sessions.presence import Presence as Presence
from imserver.gateway.sessions.sessions import Sessions as Sessions


def __getattr__(name: str) -> Any:
    """Return a type of 1.0, with a warning, until 2.0.

    They are the types of rooms: of groups of services in the core of 1.0.
    """
    if name not in (
        "ChannelServices",
        "ClusterServices",
        "Foundation",
        "PushServices",
        "SessionServices",
    ):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imserver.plugin import deprecated

    deprecated.warn(
        f"{__name__}.{name} is deprecated: its services are attributes of core"
    )
    if name == "Foundation":
        return deprecated.RoomyCore
    return deprecated.Room
