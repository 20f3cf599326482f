"""What users write and mark, as requests and answers of ``/api/v1`` have it."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from imserver.api.v1.actor import Acting
from imserver.api.v1.conversation import MAX_ID, MessageId, Place
from imserver.api.v1.message import Data, Text
from imserver.protocol.cmd_stored import (
    MAX_CLIENT_MSG_ID_BYTES,
    MAX_HIDDEN,
    MAX_MENTIONS,
    MAX_RECEIVER_BYTES,
    MAX_TYPE_BYTES,
)

OwnId = Annotated[
    str,
    Meta(
        max_length=MAX_CLIENT_MSG_ID_BYTES,
        description="Your own id of it: what comes again from the user under the same id is not stored "
        "again.",
    ),
]


class Content(Acting, kw_only=True):
    """Who says what: give one of `text` and `data`."""

    type: Annotated[
        str,
        Meta(
            max_length=MAX_TYPE_BYTES,
            description="What it is: `picture`, `voice`, `video`, `file`, `location`, `custom` or a word of "
            "your own; `text`, or `custom` with `data`, unless given.",
        ),
    ] = ""
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    client_msg_id: OwnId = ""
    mentions: Annotated[
        list[Annotated[str, Meta(max_length=MAX_RECEIVER_BYTES)]],
        Meta(max_length=MAX_MENTIONS, description="Users who are named."),
    ] = field(default_factory=list)


class SendRequest(Content, kw_only=True):
    """Who says what, to whom: give one of `to` and `conversation`, and one of `text` and `data`."""

    to: Annotated[
        str, Meta(max_length=MAX_RECEIVER_BYTES, description="The receiver, who need not be online.")
    ] = ""
    conversation: Annotated[
        int, Meta(ge=0, le=MAX_ID, description="Instead of `to`: a group, or a conversation that is known.")
    ] = 0
    reply_to: Annotated[int, Meta(ge=0, le=MAX_ID, description="The message that this replies to.")] = 0


class EditRequest(Content, kw_only=True):
    """Which message says something else now, given as `text` or `data`. A back end that names no `user` may
    change anybody's."""

    id: MessageId


class RecallRequest(Acting, kw_only=True):
    """Which message is taken back. A back end that names no `user` may take back anybody's."""

    id: MessageId
    client_msg_id: OwnId = ""


class StoredAnswer(Struct):
    """Where the message is kept."""

    id: Annotated[int, Meta(description="Its place in the log of the app.")]
    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    seq: Annotated[int, Meta(description="Its place in the conversation.")]
    repeated: Annotated[bool, Meta(description="It had been stored before; this is the first answer again.")]


class ReadRequest(Acting, kw_only=True):
    """Who has read a conversation up to a message."""

    conversation: Place
    id: MessageId


class ReadAnswer(Struct):
    """How far the user is now."""

    conversation: Annotated[int, Meta(description="The conversation.")]
    read: Annotated[int, Meta(description="The last message that was read.")]


class ReceivedRequest(Acting, kw_only=True):
    """Who has received a conversation up to a message, on one of their devices."""

    conversation: Place
    id: MessageId


class ReceivedAnswer(Struct):
    """How far the user's devices are now."""

    conversation: Annotated[int, Meta(description="The conversation.")]
    received: Annotated[int, Meta(description="The last message that one of them received.")]


class HideRequest(Acting, kw_only=True):
    """Which messages the user does not want to see any more."""

    ids: Annotated[list[MessageId], Meta(min_length=1, max_length=MAX_HIDDEN, description="The messages.")]


class HiddenAnswer(Struct):
    """It is done."""

    version: Annotated[int, Meta(description="The version of the user's marks that has it.")]
