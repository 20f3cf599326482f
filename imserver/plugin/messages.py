"""The face: stored messages, and their delivery to receivers."""

import warnings
from typing import Any

from imserver.cluster.history import count_fitting as count_fitting
from imserver.messages.api.conversations import ConversationId as ConversationId
from imserver.messages.api.messages import MessageApi as MessageApi
from imserver.messages.api.messages import SendRequest as SendRequest
from imserver.messages.api.streamed import StreamAppended as StreamAppended
from imserver.messages.log.contract import Appended as Appended
from imserver.messages.log.contract import Conversation as Conversation
from imserver.messages.log.contract import ConversationSummary as ConversationSummary
from imserver.messages.log.contract import Draft as Draft
from imserver.messages.log.contract import Entry as Entry
from imserver.messages.log.contract import GroupState as GroupState
from imserver.messages.log.contract import Rejected as Rejected
from imserver.messages.log.contract import RejectReason as RejectReason
from imserver.messages.log.contract import StorageUnsure as StorageUnsure
from imserver.messages.log.conversations import UnreadMessages as UnreadMessages
from imserver.messages.log.message_log import MessageLog as MessageLog
from imserver.messages.messaging import Messaging as Messaging
from imserver.messages.messaging import RefusedView as RefusedView
from imserver.messages.model import Ask as Ask
from imserver.messages.model import AskAnswer as AskAnswer
from imserver.messages.model import Message as Message
from imserver.messages.names import clean_name as clean_name
from imserver.messages.names import is_name as is_name
from imserver.messages.receipts import ToFollowers as ToFollowers
from imserver.messages.services import MessageServices as MessageServices
from imserver.messages.wire import FIELDS_OF_COMMANDS as FIELDS_OF_COMMANDS


def __getattr__(name: str) -> Any:
    """``StreamPieces`` of version 3, until 2.0."""
    if name != "StreamPieces":
        raise AttributeError(name)
    warnings.warn(f"{__name__}.{name} is deprecated: StreamAppended.Pieces", DeprecationWarning, stacklevel=2)
    return StreamAppended.Pieces
