"""The face: stored messages, and their delivery to receivers."""

import warnings
from typing import Any

from imserver.gateway.cluster.history import count_fitting as count_fitting
from imserver.messenger.delivery.messaging import Messaging as Messaging
from imserver.messenger.delivery.messaging import RefusedView as RefusedView
from imserver.messenger.delivery.receipts import ToFollowers as ToFollowers
from imserver.messenger.delivery.wire import FIELDS_OF_COMMANDS as FIELDS_OF_COMMANDS
from imserver.messenger.log.contract import Appended as Appended
from imserver.messenger.log.contract import Conversation as Conversation
from imserver.messenger.log.contract import (
    ConversationSummary as ConversationSummary,
)
from imserver.messenger.log.contract import Draft as Draft
from imserver.messenger.log.contract import Entry as Entry
from imserver.messenger.log.contract import GroupState
from imserver.messenger.log.contract import Rejected as Rejected
from imserver.messenger.log.contract import RejectReason as RejectReason
from imserver.messenger.log.contract import StorageUnsure as StorageUnsure
from imserver.messenger.log.conversations import (
    UnreadMessages as UnreadMessages,
)
from imserver.messenger.log.log_import import LogImport as LogImport
from imserver.messenger.log.message_log import MessageLog as MessageLog
from imserver.messenger.log.meta import Ask as Ask
from imserver.messenger.log.meta import AskAnswer
from imserver.messenger.log.model import Message as Message
from imserver.messenger.log.names import clean_name as clean_name
from imserver.messenger.log.names import is_name as is_name
from imserver.messenger.messages.api.conversations import (
    ConversationId as ConversationId,
)
from imserver.messenger.messages.api.messages import MessageApi as MessageApi
from imserver.messenger.messages.api.messages import SendRequest as SendRequest
from imserver.messenger.messages.api.streamed import StreamAppended as StreamAppended
from imserver.messenger.messages.services import MessageServices as MessageServices


def __getattr__(name: str) -> Any:
    """Return a name of an earlier version, with a warning, until 2.0.

    They are ``StreamPieces`` of version 3, ``AskAnswer`` and ``GroupState`` of
    version 4.
    """
    if name in ("AskAnswer", "GroupState"):
        warnings.warn(
            f"{__name__}.{name} is deprecated: "
            "nothing in its place, only the messenger makes one",
            DeprecationWarning,
            stacklevel=2,
        )
        if name == "AskAnswer":
            return AskAnswer
        return GroupState
    if name != "StreamPieces":
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: StreamAppended.Pieces",
        DeprecationWarning,
        stacklevel=2,
    )
    return StreamAppended.Pieces
