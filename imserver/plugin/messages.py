"""The face: stored messages, and their delivery to receivers."""

from imserver.messages.annotations import RefusedView, code_of
from imserver.messages.catch_up import CatchUp
from imserver.messages.deliverer import Result, wait_until_sent
from imserver.messages.log_subscriptions import users_of
from imserver.messages.messaging import Messaging, RejectedView, make_draft, may_be_revised
from imserver.messages.receipts import Signals
from imserver.storage.action_positions import Positions
from imserver.storage.log.bots import bots_of
from imserver.storage.log.contract import (
    OPTIONS,
    Appended,
    Change,
    Conversation,
    ConversationSummary,
    Draft,
    Entry,
    Ground,
    GroupOption,
    GroupText,
    Membership,
    Rejected,
    RejectReason,
    Right,
    StorageUnsure,
    fitting,
    options_of,
)
from imserver.storage.log.message_log import MessageLog
from imserver.storage.log.unread import UnreadMessages
from imserver.streams.consumer import LEASE_SECONDS, Consumer, DeliveryLease, Failure, NotOwner
from imserver.streams.leased import LeasedWork
from imserver.streams.sources import LogWindow

__all__ = [
    "LEASE_SECONDS",
    "OPTIONS",
    "Appended",
    "CatchUp",
    "Change",
    "Consumer",
    "Conversation",
    "ConversationSummary",
    "DeliveryLease",
    "Draft",
    "Entry",
    "Failure",
    "Ground",
    "GroupOption",
    "GroupText",
    "LeasedWork",
    "LogWindow",
    "Membership",
    "MessageLog",
    "Messaging",
    "NotOwner",
    "Positions",
    "RefusedView",
    "RejectReason",
    "Rejected",
    "RejectedView",
    "Result",
    "Right",
    "Signals",
    "StorageUnsure",
    "UnreadMessages",
    "bots_of",
    "code_of",
    "fitting",
    "make_draft",
    "may_be_revised",
    "options_of",
    "users_of",
    "wait_until_sent",
]
