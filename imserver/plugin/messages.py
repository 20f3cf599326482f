"""The face: stored messages, and their delivery to receivers."""

from imserver.cluster.history import count_fitting
from imserver.messages.annotations import RefusedView
from imserver.messages.log.contract import (
    Appended,
    Conversation,
    ConversationSummary,
    Draft,
    Entry,
    GroupState,
    Rejected,
    RejectReason,
    StorageUnsure,
)
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log.unread import UnreadMessages
from imserver.messages.log_window import LogWindow
from imserver.messages.messaging import Messaging
from imserver.messages.node_messages import ToFollowers
from imserver.messages.receipts import Signals
from imserver.messages.services import MessageServices
from imserver.streams.consumer import Consumer, DeliveryLease, Failure, NotOwner
from imserver.streams.leased import LeasedWork

__all__ = [
    "Appended",
    "Consumer",
    "Conversation",
    "ConversationSummary",
    "DeliveryLease",
    "Draft",
    "Entry",
    "Failure",
    "GroupState",
    "LeasedWork",
    "LogWindow",
    "MessageLog",
    "MessageServices",
    "Messaging",
    "NotOwner",
    "RefusedView",
    "RejectReason",
    "Rejected",
    "Signals",
    "StorageUnsure",
    "ToFollowers",
    "UnreadMessages",
    "count_fitting",
]
