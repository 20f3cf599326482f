"""The face: the services of a node."""

from imserver.channels.channels import Subscribed
from imserver.channels.client_commands import ChannelAnswers
from imserver.channels.connections import Joined, Left
from imserver.channels.members import ChannelMember, ChannelRefused, MemberPage
from imserver.channels.streamed_messages import AppendedPiece, StreamPiece
from imserver.cluster.history import HistoryPage, Position
from imserver.cluster.nodes import ToFollowers
from imserver.core.core import Core
from imserver.core.services import (
    ChannelServices,
    ClusterServices,
    Foundation,
    IdentityServices,
    MessageServices,
    PushServices,
    SessionServices,
)
from imserver.hub.hub import USER_CHANNEL
from imserver.push.idempotency import IdReused
from imserver.sessions.presence import Presence

__all__ = [
    "USER_CHANNEL",
    "AppendedPiece",
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
    "MessageServices",
    "Position",
    "Presence",
    "PushServices",
    "SessionServices",
    "StreamPiece",
    "Subscribed",
    "ToFollowers",
]
