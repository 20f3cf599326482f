"""The face: the services of a node."""

from imserver.channels.channels import Subscribed
from imserver.channels.client_commands import ChannelAnswers
from imserver.channels.connections import Joined, Left
from imserver.channels.members import ChannelMember, ChannelRefused, MemberPage
from imserver.cluster.history import HistoryPage, Position
from imserver.cluster.nodes import ToFollowers
from imserver.core.core import Core
from imserver.core.services import (
    ChannelServices,
    ClusterServices,
    Foundation,
    IdentityServices,
    PushServices,
    SessionServices,
)
from imserver.hub.hub import USER_CHANNEL
from imserver.push.idempotency import IdReused
from imserver.sessions.presence import Presence

__all__ = [
    "USER_CHANNEL",
    "ChannelAnswers",
    "ChannelMember",
    "ChannelRefused",
    "ChannelServices",
    "ClusterServices",
    "Core",
    "Foundation",
    "HistoryPage",
    "IdReused",
    "IdentityServices",
    "Joined",
    "Left",
    "MemberPage",
    "Position",
    "Presence",
    "PushServices",
    "SessionServices",
    "Subscribed",
    "ToFollowers",
]
