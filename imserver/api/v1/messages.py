"""Writing as a user: send, edit and recall messages; mark them as read, received or hidden."""

from __future__ import annotations

from time import time
from typing import Annotated, Any, Final

import msgspec
from gevent.event import AsyncResult
from msgspec import UNSET, Meta, Struct, UnsetType, field

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import ApiProblem
from imserver.api.v1.conversations import MAX_ID, MessageId, Place, log_of
from imserver.api.v1.field import Acting
from imserver.api.v1.operation import ACTOR_PROBLEMS, Operation
from imserver.api.v1.push_request import Data, Text
from imserver.api.v1.wire import reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.errors import StorageUnavailable
from imserver.model import SYSTEM_PREFIX
from imserver.protocol.cmd import (
    MAX_CLIENT_MSG_ID_BYTES,
    MAX_HIDDEN,
    MAX_MENTIONS,
    MAX_RECEIVER_BYTES,
    MAX_TYPE_BYTES,
)
from imserver.services.messages.message_commands import revision
from imserver.storage.log.contract import BLOCKED, INVALID, MUTED, RECALLED, Appended, Draft, Noted, Rejected
from imserver.transport.exchange import HttpResponse

OwnId = Annotated[
    str,
    Meta(
        max_length=MAX_CLIENT_MSG_ID_BYTES,
        description="Your own id of it: what comes again from the user under the same id is not stored "
        "again.",
    ),
]


class Content(Acting, kw_only=True):
    """Sender and content: give one of `text` and `data`."""

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
        Meta(max_length=MAX_MENTIONS, description="Mentioned users."),
    ] = field(default_factory=list)


class SendRequest(Content, kw_only=True):
    """Sender, receiver and content: give one of `to` and `conversation`, and one of `text` and `data`."""

    to: Annotated[
        str, Meta(max_length=MAX_RECEIVER_BYTES, description="The receiver. They need not be online.")
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
    """The position of the stored message."""

    id: Annotated[int, Meta(description="Its place in the log of the app.")]
    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    seq: Annotated[int, Meta(description="Its place in the conversation.")]
    repeated: Annotated[bool, Meta(description="It had been stored before; this is the first answer again.")]


class ReadRequest(Acting, kw_only=True):
    """How far a user has read a conversation."""

    conversation: Place
    id: MessageId


class ReadAnswer(Struct):
    """How far the user is now."""

    conversation: Annotated[int, Meta(description="The conversation.")]
    read: Annotated[int, Meta(description="The last message that was read.")]


class ReceivedRequest(Acting, kw_only=True):
    """How far a device of a user has received a conversation."""

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


_read_any: Final = msgspec.json.Decoder()
_encode: Final = msgspec.json.Encoder().encode


# --- writing ------------------------------------------------------------------------------------------------


def send(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/send``."""
    asked: SendRequest = call.asked
    if call.app.startswith(SYSTEM_PREFIX):
        raise ApiProblem(errors.HTTP_STORE_UNAVAILABLE)
    if bool(asked.to) == bool(asked.conversation):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "Give one of `to` and `conversation`")
    if asked.to == call.user:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`to`: the receiver is the sender")
    kind, body = _content(api, call, asked)
    draft = Draft(
        sender=call.user,
        type=kind,
        body=body,
        client_msg_id=asked.client_msg_id,
        time_ms=int(time() * 1000),
        about=asked.reply_to,
        meta=_mentions(asked),
        to_user=asked.to,
        conversation=asked.conversation,
    )
    return _store(api, call, draft)


def _content(api: Api, call: Call, asked: Content) -> tuple[str, bytes]:
    """Type and bytes of what is said."""
    if (asked.text is UNSET) == (asked.data is UNSET):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "Give one of `text` and `data`")
    if asked.text is not UNSET:
        kind, body = asked.type or "text", _bytes("text", str.encode, asked.text)
    else:
        kind, data = asked.type or "custom", bytes(asked.data)  # type: ignore[arg-type]
        if kind == "text":
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`type`: `data` is no text")
        try:
            _read_any.decode(data)  # what was skipped over so far, so that nobody is sent what is no JSON
            body = msgspec.json.format(data, indent=-1)
        except (ValueError, RecursionError) as error:
            raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"{error} - at `$.data`") from None
    if len(body) > (api.push_characters if call.is_back_end else api.message_bytes):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "The message is too long")
    return kind, body


def _mentions(asked: Content) -> bytes:
    return _bytes("mentions", _encode, {"mentions": asked.mentions}) if asked.mentions else b""


def _bytes(name: str, encode: Any, value: Any) -> bytes:
    try:
        encoded: bytes = encode(value)
    except UnicodeEncodeError:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"`{name}`: it is no text") from None
    return encoded


def recall(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/recall``."""
    asked: RecallRequest = call.asked
    draft = revision(log_of(api), call.app, call.user, asked.id, "recall", client_msg_id=asked.client_msg_id)
    return _revise(api, call, draft)


def edit(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/edit``."""
    asked: EditRequest = call.asked
    kind, body = _content(api, call, asked)
    draft = revision(
        log_of(api),
        call.app,
        call.user,
        asked.id,
        "edit",
        type=kind,
        body=body,
        client_msg_id=asked.client_msg_id,
        meta=_mentions(asked),
    )
    return _revise(api, call, draft)


def _revise(api: Api, call: Call, draft: Draft | None) -> HttpResponse:
    if draft is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_MESSAGE)
    return _store(api, call, draft)


def _store(api: Api, call: Call, draft: Draft) -> HttpResponse:
    """Have it stored; a back end is told of what an account did. Switches. Raises :class:`ApiProblem`."""
    messaging = api.services.messaging
    if not call.is_back_end:
        if api.sessions.is_banned(call.app, call.user):
            raise ApiProblem(errors.HTTP_BANNED)
        api.talk_rates.require(call.app, call.user)
    settled: AsyncResult[Any] = AsyncResult()
    messaging.send(call.app, draft, settled.set)
    result: Appended | Rejected | StorageUnavailable | None = settled.get()
    if isinstance(result, StorageUnavailable):
        raise result
    if isinstance(result, Rejected):
        raise _problem_of(result)
    assert result is not None
    entry = result.entry
    if not (call.is_back_end or result.repeated):
        messaging.sent(call.app, entry)
    return reply(call, StoredAnswer(entry.id, entry.conversation, entry.seq, result.repeated))


def _problem_of(why: Rejected) -> ApiProblem:
    if why.reason == INVALID:
        return ApiProblem(errors.HTTP_INVALID_REQUEST, why.detail)
    if why.reason == BLOCKED:
        return ApiProblem(errors.HTTP_NOT_ALLOWED, "The receiver does not allow it")
    if why.reason == MUTED:
        return ApiProblem(errors.HTTP_SILENCED)
    if why.reason == RECALLED:
        return ApiProblem(errors.HTTP_UNKNOWN_MESSAGE)
    return ApiProblem(errors.HTTP_UNKNOWN_CONVERSATION)


# --- as they are declared -----------------------------------------------------------------------------------

ON_BEHALF: Final = {"app": "101", "user": "ann"}
_STORED: Final = {"id": 8, "conversation": 1, "seq": 4, "repeated": False}
_ONE_CONTENT: Final = {"oneOf": [{"required": ["text"]}, {"required": ["data"]}]}


def row(word: str, function: Any, summary: str, description: str, **more: Any) -> Operation:
    """A route by which a user changes something of what is stored."""
    path = f"/api/v1/messages/{word}"
    problems = (*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_CONVERSATION, *more.pop("problems", ()))
    return Operation(
        "POST",
        path,
        ADMIN_OR_ACCOUNT,
        function,
        "conversations",
        summary,
        description,
        problems=problems,
        hot=False,
        **more,
    )


def mark_read(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/read``."""
    asked: ReadRequest = call.asked
    noted = _noted(api, call, asked.conversation, read=asked.id)
    return reply(call, ReadAnswer(asked.conversation, noted.receipt.read))


def mark_received(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/received``."""
    asked: ReceivedRequest = call.asked
    noted = _noted(api, call, asked.conversation, received=asked.id)
    return reply(call, ReceivedAnswer(asked.conversation, noted.receipt.received))


def _noted(api: Api, call: Call, conversation: int, read: int = 0, received: int = 0) -> Noted:
    noted = api.services.receipts.note(call.app, call.user, conversation, read=read, received=received)
    if noted is None:
        raise ApiProblem(errors.HTTP_UNKNOWN_CONVERSATION)
    return noted


def hide(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/messages/hide``."""
    asked: HideRequest = call.asked
    version = api.services.receipts.hide_from(call.app, call.user, tuple(asked.ids))
    return reply(call, HiddenAnswer(version))


OPERATIONS: Final = (
    row(
        "send",
        send,
        "Send a message as a user",
        "It is stored before the answer, and told to everybody who may read it: at once to those who are "
        "connected, to the others when they come. Back ends that send to many push with `store`.",
        body=SendRequest,
        answer=StoredAnswer,
        rules={
            "allOf": [
                _ONE_CONTENT,
                {
                    "oneOf": [
                        {"required": ["to"], "properties": {"to": {"minLength": 1}}},
                        {"required": ["conversation"], "properties": {"conversation": {"minimum": 1}}},
                    ]
                },
            ]
        },
        problems=(
            errors.HTTP_STORE_UNAVAILABLE,
            errors.HTTP_SILENCED,
            errors.HTTP_NOT_ALLOWED,
            errors.HTTP_BANNED,
            errors.HTTP_TOO_MANY_REQUESTS,
        ),
        example_body={**ON_BEHALF, "to": "bob", "text": "tea?", "client_msg_id": "a-1"},
        example_answer=_STORED,
    ),
    row(
        "recall",
        recall,
        "Take a message back",
        "Nobody can read the message any more. The recall is an entry of its own, sent to everybody who "
        "may read the message.",
        body=RecallRequest,
        answer=StoredAnswer,
        problems=(errors.HTTP_UNKNOWN_MESSAGE, errors.HTTP_BANNED, errors.HTTP_TOO_MANY_REQUESTS),
        example_body={**ON_BEHALF, "id": 7},
        example_answer=_STORED,
        user="optional",
    ),
    row(
        "edit",
        edit,
        "Let a message say something else",
        "Nobody can read the old content any more. The edit is an entry of its own, sent to everybody who "
        "may read the message. A recalled message cannot be edited.",
        body=EditRequest,
        answer=StoredAnswer,
        rules=_ONE_CONTENT,
        problems=(errors.HTTP_UNKNOWN_MESSAGE, errors.HTTP_BANNED, errors.HTTP_TOO_MANY_REQUESTS),
        example_body={**ON_BEHALF, "id": 7, "text": "tea!"},
        example_answer=_STORED,
        user="optional",
    ),
    row(
        "read",
        mark_read,
        "A user has read a conversation up to a message",
        "The position never moves back. The senders of the messages are notified.",
        body=ReadRequest,
        answer=ReadAnswer,
        example_body={**ON_BEHALF, "conversation": 1, "id": 7},
        example_answer={"conversation": 1, "read": 7},
    ),
    row(
        "received",
        mark_received,
        "A device of a user has a conversation up to a message",
        "The position never moves back. The senders of the messages are notified.",
        body=ReceivedRequest,
        answer=ReceivedAnswer,
        example_body={**ON_BEHALF, "conversation": 1, "id": 7},
        example_answer={"conversation": 1, "received": 7},
    ),
    row(
        "hide",
        hide,
        "Do not show messages to a user any more",
        "Nobody else is concerned. Messages that the user may not read, or that do not exist, are passed "
        "over.",
        body=HideRequest,
        answer=HiddenAnswer,
        example_body={**ON_BEHALF, "ids": [6]},
        example_answer={"version": 5},
    ),
)
