"""The face: stored messages, and their delivery to receivers."""

from imserver.messages.annotations import RefusedView
from imserver.messages.messaging import Messaging
from imserver.messages.receipts import Signals
from imserver.storage.log.contract import (
    Appended,
    Conversation,
    ConversationSummary,
    Draft,
    Entry,
    GroupState,
    Rejected,
    RejectReason,
    count_fitting,
)
from imserver.storage.log.message_log import MessageLog
from imserver.storage.log.unread import UnreadMessages
from imserver.streams.consumer import Consumer, DeliveryLease, Failure, NotOwner
from imserver.streams.leased import LeasedWork
from imserver.streams.sources import LogWindow

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
    "Messaging",
    "NotOwner",
    "RefusedView",
    "RejectReason",
    "Rejected",
    "Signals",
    "UnreadMessages",
    "count_fitting",
]
