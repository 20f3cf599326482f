"""The face: stored messages, and their delivery to receivers."""

import warnings
from typing import Any

from imserver.gateway.cluster.history import count_fitting as count_fitting
from imserver.messenger.messages.api.conversations import (
    ConversationId as ConversationId,
)
from imserver.messenger.messages.api.messages import MessageApi as MessageApi
from imserver.messenger.messages.api.messages import SendRequest as SendRequest
from imserver.messenger.messages.api.streamed import StreamAppended as StreamAppended
from imserver.messenger.messages.log.contract import Appended as Appended
from imserver.messenger.messages.log.contract import Conversation as Conversation
from imserver.messenger.messages.log.contract import (
    ConversationSummary as ConversationSummary,
)
from imserver.messenger.messages.log.contract import Draft as Draft
from imserver.messenger.messages.log.contract import Entry as Entry
from imserver.messenger.messages.log.contract import GroupState as GroupState
from imserver.messenger.messages.log.contract import Rejected as Rejected
from imserver.messenger.messages.log.contract import RejectReason as RejectReason
from imserver.messenger.messages.log.contract import StorageUnsure as StorageUnsure
from imserver.messenger.messages.log.conversations import (
    UnreadMessages as UnreadMessages,
)
from imserver.messenger.messages.log.message_log import MessageLog as MessageLog
from imserver.messenger.messages.messaging import Messaging as Messaging
from imserver.messenger.messages.messaging import RefusedView as RefusedView
from imserver.messenger.messages.model import Ask as Ask
from imserver.messenger.messages.model import AskAnswer as AskAnswer
from imserver.messenger.messages.model import Message as Message
from imserver.messenger.messages.names import clean_name as clean_name
from imserver.messenger.messages.names import is_name as is_name
from imserver.messenger.messages.receipts import ToFollowers as ToFollowers
from imserver.messenger.messages.services import MessageServices as MessageServices
from imserver.messenger.messages.wire import FIELDS_OF_COMMANDS as FIELDS_OF_COMMANDS


def __getattr__(name: str) -> Any:
    """``StreamPieces`` of version 3, until 2.0."""
    if name != "StreamPieces":
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: StreamAppended.Pieces",
        DeprecationWarning,
        stacklevel=2,
    )
    return StreamAppended.Pieces
