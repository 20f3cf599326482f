"""The face: the services of a node."""

from imserver.channels.channels import (
    CLOSE_INSUFFICIENT_STATE,
    INSUFFICIENT,
    SERVER_UNSUBSCRIBE,
    Channels,
    Subscribed,
    check_known,
)
from imserver.channels.client_commands import (
    MAX_PRESENCE,
    ChannelAnswers,
    ChannelCommands,
    check_user,
    history_since,
    set_info,
)
from imserver.channels.connections import Connections, Joined, Left
from imserver.channels.consent import ChannelConsent, disconnect
from imserver.channels.members import (
    MAX_NAME_BYTES,
    ChannelMember,
    ChannelNames,
    ChannelRefused,
    MemberPage,
    check_name,
    encode_tags,
    needs_token,
)
from imserver.channels.stored import Published
from imserver.channels.streamed_messages import AppendedPiece, StreamPiece
from imserver.cluster.history import HistoryPage, Position
from imserver.cluster.nodes import Awaited, NodeMessages, NodeQueries, OtherNodes, ToFollowers, ToUser, read
from imserver.cluster.registry import Lease
from imserver.core.core import Core
from imserver.core.services import (
    ClusterServices,
    Foundation,
    IdentityServices,
    MessageServices,
    SessionServices,
)
from imserver.hub.hub import RESERVED, USER_CHANNEL, Hub
from imserver.push.idempotency import IdReused
from imserver.push.pending import PendingPushes
from imserver.push.push import Publishing, Reach, nothing_accepted
from imserver.push.user_channels import has_channel
from imserver.sessions.connection_ids import NAMED_BY_ID, ConnectionIds, ConnectionTable
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions

__all__ = [
    "CLOSE_INSUFFICIENT_STATE",
    "INSUFFICIENT",
    "MAX_NAME_BYTES",
    "MAX_PRESENCE",
    "NAMED_BY_ID",
    "RESERVED",
    "SERVER_UNSUBSCRIBE",
    "USER_CHANNEL",
    "AppendedPiece",
    "Awaited",
    "ChannelAnswers",
    "ChannelCommands",
    "ChannelConsent",
    "ChannelMember",
    "ChannelNames",
    "ChannelRefused",
    "Channels",
    "ClusterServices",
    "ConnectionIds",
    "ConnectionTable",
    "Connections",
    "Core",
    "Foundation",
    "HistoryPage",
    "Hub",
    "IdReused",
    "IdentityServices",
    "Joined",
    "Lease",
    "Left",
    "MemberPage",
    "MessageServices",
    "NodeMessages",
    "NodeQueries",
    "OtherNodes",
    "PendingPushes",
    "Position",
    "Presence",
    "Published",
    "Publishing",
    "Reach",
    "SessionServices",
    "Sessions",
    "StreamPiece",
    "Subscribed",
    "ToFollowers",
    "ToUser",
    "check_known",
    "check_name",
    "check_user",
    "disconnect",
    "encode_tags",
    "has_channel",
    "history_since",
    "needs_token",
    "nothing_accepted",
    "read",
    "set_info",
]
