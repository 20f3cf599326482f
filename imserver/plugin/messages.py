"""The face: stored messages, and their delivery to receivers."""

import warnings
from typing import Any

from imserver.cluster.history import count_fitting
from imserver.messages.api.conversations import ConversationId
from imserver.messages.api.messages import MessageApi, SendRequest
from imserver.messages.api.streamed import StreamAppended
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
from imserver.messages.log.conversations import UnreadMessages
from imserver.messages.log.message_log import MessageLog
from imserver.messages.messaging import Messaging, RefusedView
from imserver.messages.model import Ask, AskAnswer, Message
from imserver.messages.names import clean_name, is_name
from imserver.messages.receipts import ToFollowers
from imserver.messages.services import MessageServices
from imserver.messages.wire import FIELDS_OF_COMMANDS

__all__ = [
    "FIELDS_OF_COMMANDS",
    "Appended",
    "Ask",
    "AskAnswer",
    "Conversation",
    "ConversationId",
    "ConversationSummary",
    "Draft",
    "Entry",
    "GroupState",
    "Message",
    "MessageApi",
    "MessageLog",
    "MessageServices",
    "Messaging",
    "RefusedView",
    "RejectReason",
    "Rejected",
    "SendRequest",
    "StorageUnsure",
    "StreamAppended",
    "ToFollowers",
    "UnreadMessages",
    "clean_name",
    "count_fitting",
    "is_name",
]


def __getattr__(name: str) -> Any:
    """``StreamPieces`` of version 3, until 2.0."""
    if name != "StreamPieces":
        raise AttributeError(name)
    warnings.warn(f"{__name__}.{name} is deprecated: StreamAppended.Pieces", DeprecationWarning, stacklevel=2)
    return StreamAppended.Pieces
