"""The face: the services of a node."""

from imserver.channels.client_commands import ChannelAnswers
from imserver.channels.connections import Joined, Left
from imserver.channels.members import ChannelMember, ChannelRefused
from imserver.channels.subscriptions import Subscribed
from imserver.cluster.history import Position
from imserver.core.core import Core
from imserver.core.services import ChannelServices, ClusterServices, Foundation, PushServices, SessionServices

__all__ = [
    "ChannelAnswers",
    "ChannelMember",
    "ChannelRefused",
    "ChannelServices",
    "ClusterServices",
    "Core",
    "Foundation",
    "Joined",
    "Left",
    "Position",
    "PushServices",
    "SessionServices",
    "Subscribed",
]
