"""Writing as a user: send, edit, recall, react to and pin messages; mark them
as read, received or hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from imserver.gateway.api.v1.push import notify_bytes
from imserver.gateway.api.v1.push_request import Data, StoredAt, Text
from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.declared import about
from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.core.core import Core
from imserver.gateway.errors import Problems, StorageUnavailable
from imserver.gateway.http.call import Api, Call
from imserver.gateway.http.field import Acting
from imserver.gateway.http.limits import Limits, Rates
from imserver.gateway.http.operation import Resource, one_of
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.model import SYSTEM_PREFIX, Limit
from imserver.gateway.notify import Notify, NotifyField
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.messaging import Messaging
from imserver.messenger.delivery.receipts import Receipts
from imserver.messenger.log.annotations import emoji_objection
from imserver.messenger.log.asks import AskChange
from imserver.messenger.log.commands import (
    MAX_BUTTON_ROWS,
    MAX_BUTTONS,
    Send,
    buttons_objection,
    exclusive_objection,
    mentions_objection,
)
from imserver.messenger.log.contract import (
    Change,
    Draft,
    MarkResult,
    Rejected,
    RejectReason,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.meta import (
    Ask,
    AskOption,
    Button,
    MessageMeta,
    with_more,
)
from imserver.messenger.log.model import TooManyMessages
from imserver.messenger.log.rows import objection
from imserver.messenger.messages.api.conversations import ConversationId, MessageId
from imserver.messenger.messages.services import MessageServices

OwnId = Annotated[
    str,
    about(
        "Your own id of the message. The server does not store a repeated request of "
        "the user with the same id again.",
        max_length=Limit.CLIENT_MSG_ID_BYTES,
    ),
]


ButtonValue = Annotated[
    str,
    about(
        "The value of the button: 1 to 64 bytes of UTF-8.",
        min_length=1,
        max_length=Limit.BUTTON,
    ),
]


class ButtonShape(Struct, forbid_unknown_fields=True):
    """A button under a message."""

    text: Annotated[
        str, about("The text on the button.", min_length=1, max_length=Limit.BUTTON)
    ]
    value: ButtonValue


Forwarded = Annotated[
    int,
    about(
        "A message that the user can read. The server copies its content to the new "
        "message.",
        ge=1,
        le=Limit.ID,
    ),
]


class Content(Acting, kw_only=True):
    """Sender and content: give one of `text` and `data`."""

    type: Annotated[
        str,
        about(
            "The type of the content: `picture`, `voice`, `video`, `file`, "
            "`location`, `custom` or your own word. The default is `text`, or "
            "`custom` for a message with `data`.",
            max_length=Limit.TYPE_BYTES,
        ),
    ] = ""
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    client_msg_id: OwnId = ""
    mentions: Annotated[
        list[Annotated[str, Meta(max_length=MAX_USER_BYTES)]],
        about(
            "Mentioned users, and handles of groups after an `@`. To mention "
            "everybody in the conversation, give only `all`.",
            max_length=Limit.MENTIONS,
        ),
    ] = field(default_factory=list)
    buttons: Annotated[
        list[Annotated[list[ButtonShape], Meta(min_length=1, max_length=MAX_BUTTONS)]],
        about("Rows of buttons under a message of a bot.", max_length=MAX_BUTTON_ROWS),
    ] = field(default_factory=list)


class SendRequest(Content, kw_only=True):
    """The sender, the receiver and the content. Give either `to` or
    `conversation`, and one of `text`, `data` and `forward`."""

    to: Annotated[
        str,
        about(
            "The receiver, who may be offline. To save a message, give the user "
            "themselves.",
            max_length=MAX_USER_BYTES,
        ),
    ] = ""
    conversation: Annotated[
        int, about("A conversation or group, instead of `to`.", ge=0, le=Limit.ID)
    ] = 0
    reply_to: Annotated[
        int, about("The message to which the new message replies.", ge=0, le=Limit.ID)
    ] = 0
    thread: Annotated[
        int,
        about(
            "A message of the conversation. The new message is a reply in its thread.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    also: Annotated[bool, about("Whether the conversation also shows the reply.")] = (
        False
    )
    exclusive: Annotated[
        bool,
        about(
            "Whether the message is a question whose buttons (at most "
            f"{Limit.OPTIONS}) are the answers. Only the first answer counts. An edit "
            "does not change this."
        ),
    ] = False
    forward: Forwarded | UnsetType = UNSET
    notify: NotifyField | UnsetType = UNSET


class EditRequest(Content, kw_only=True):
    """The message to edit, and its new content as `text` or `data`. A back end
    that names no `user` may edit any message.
    """

    id: MessageId


class AnnotatedAnswer(Struct):
    """The entry of the reaction or pin."""

    conversation: Annotated[int, about("The conversation of the message.")]
    id: Annotated[int, about("The id of the new entry; 0: nothing changed.")]


class StoredAnswer(StoredAt):
    """The position of the stored message."""

    repeated: Annotated[
        bool,
        about(
            "True if the message was stored before. Then the position is that of the "
            "stored message."
        ),
    ]


class ReadRequest(Acting, kw_only=True):
    """A conversation and the last message that the user has read."""

    conversation: ConversationId
    id: MessageId


class ReadAnswer(Struct):
    """The resulting read position."""

    conversation: Annotated[int, about("The conversation.")]
    read: Annotated[int, about("The last message that was read.")]


class ReceivedAnswer(Struct):
    """The resulting received position."""

    conversation: Annotated[int, about("The conversation.")]
    received: Annotated[
        int, about("The last message that one of the user's devices received.")
    ]


class HiddenAnswer(Struct):
    """Done."""

    version: Annotated[int, about("The version of the user's marks after the change.")]


_ANNOTATING: Final = (
    Problems.UNKNOWN_MESSAGE,
    Problems.MUTED,
)
_NOT_CHANGED: Final = (Problems.UNKNOWN_MESSAGE,)
_NOT_REVIEWED: Final = (Problems.REJECTED, Problems.REVIEW_UNAVAILABLE)


class MessageApi(Struct, frozen=True):
    """The services that the routes use.

    ``rates``: of the messages of accounts. ``wants_account`` returns whether
    the receiver of a first message in an app must be an account. Its second
    parameter is False for a message of a back end.
    """

    store: Store
    messaging: Messaging
    receipts: Receipts
    rates: Rates
    limits: Limits
    wants_account: Callable[[str, bool], bool]

    @staticmethod
    def of(core: Core, api: Api) -> MessageApi:
        """Make the services for a node."""
        services = core.service(MessageServices)
        return MessageApi(
            store=core.store,
            messaging=services.messaging,
            receipts=services.receipts,
            rates=api.rates,
            limits=api.limits,
            wants_account=core.logins.wants_account,
        )

    def send(
        self,
        call: Call,
        request: SendRequest,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> StoredAnswer:
        """Store and deliver a message of the acting user. ``more``: further
        keys of its ``meta``. Switches greenlets. Raises :class:`ApiProblem`."""
        return _store(self, call, self._command_of(call, request, more))

    def draft(self, call: Call, request: SendRequest) -> Draft:
        """The draft of a message that is sent later, with the checks of a
        message that is sent now. Switches greenlets. Raises
        :class:`ApiProblem`."""
        draft = _draft_of(self, call, self._command_of(call, request))
        wrong = objection(draft)
        if wrong:
            raise ApiProblem.invalid(wrong)
        return draft

    def _command_of(
        self,
        call: Call,
        request: SendRequest,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> Send:
        """Return the command for a message, or for a forward.

        ``more`` has further keys for the ``meta`` of the message. Raises
        :class:`ApiProblem`.
        """
        _check_target(call, request)
        if request.notify is not UNSET and not call.is_back_end:
            _check_notify(call, request.notify)
        if request.forward is not UNSET:
            return _forward(request, request.forward)
        if request.also and not request.thread:
            raise ApiProblem.invalid("`also`: only a reply in a `thread` has it")

        type, body = _content(self, call, request)
        # Exclusive buttons are the answers to a question.
        ask = None
        if request.exclusive:
            ask = _question(request)
        notify: Raw | UnsetType = UNSET
        if request.notify is not UNSET:
            notify = Raw(notify_bytes(request.notify))
        meta = _meta(request, MessageMeta(ask=ask, notify=notify), more)
        return Send(
            to=request.to,
            conversation=request.conversation,
            type=type,
            body=body,
            id=request.client_msg_id,
            about=request.reply_to,
            meta=meta,
            thread=request.thread,
            also=request.also,
        )


def _check_target(call: Call, request: SendRequest) -> None:
    """Raise ApiProblem unless a request names one target for its message.

    The target is a user or a conversation. Apps of the server itself store no
    messages.
    """
    if call.app.startswith(SYSTEM_PREFIX):
        raise ApiProblem(Problems.STORE_UNAVAILABLE)
    if bool(request.to) == bool(request.conversation):
        raise ApiProblem.invalid("Give one of `to` and `conversation`")


def _check_notify(call: Call, notify: NotifyField) -> None:
    """Raise ApiProblem unless a user may set this notification.

    Only bots may set a notification, and only one that cannot mislead its
    reader.
    """
    if call.principal.kind != "bot":
        raise ApiProblem(
            Problems.NOT_ALLOWED, "`notify`: only bots and back ends may set it"
        )
    if isinstance(notify, Notify) and not _leads_nowhere_else(notify):
        raise ApiProblem(
            Problems.NOT_ALLOWED,
            "`notify`: only back ends may set a `title`, `time_sensitive`, and "
            "addresses that are no path of your page",
        )


def _question(request: SendRequest) -> Ask:
    """Return the question whose answers are the buttons of a message.

    Raises ApiProblem if there are no buttons, or too many.
    """
    buttons = chain.from_iterable(request.buttons)
    options = tuple(AskOption(button.text, button.value) for button in buttons)
    wrong = exclusive_objection(len(options))
    if wrong:
        raise ApiProblem.invalid(f"`exclusive`: {wrong}")
    return Ask(options)


routes = Resource(
    "conversations",
    service=MessageApi.of,
    base=Acting,
    hot=False,
    problems=(Problems.UNKNOWN_CONVERSATION,),
    need=Needs.ADMIN_OR_MEMBER,
    act="",
)


@routes.post(
    "/messages/send",
    rules={
        "allOf": [
            one_of("text", "data", "forward"),
            {
                "oneOf": [
                    {"required": ["to"], "properties": {"to": {"minLength": 1}}},
                    {
                        "required": ["conversation"],
                        "properties": {"conversation": {"minimum": 1}},
                    },
                ]
            },
        ]
    },
    problems=(
        Problems.STORE_UNAVAILABLE,
        Problems.MUTED,
        Problems.UNKNOWN_MESSAGE,
        Problems.UNKNOWN_ACCOUNT,
        *_NOT_REVIEWED,
    ),
)
def send(api: MessageApi, call: Call, request: SendRequest) -> StoredAnswer:
    """Send a message as a user.

    The server stores the message before it answers. Online users who may read
    the message receive it at once. Offline users receive it when they
    reconnect. To send a message to many users, push with `store`.
    """
    return api.send(call, request)


def _forward(request: SendRequest, id: int) -> Send:
    """Return the command that forwards the message ``id``.

    Raises :class:`ApiProblem` if the request has content of its own.
    """
    has_content = request.text is not UNSET or request.data is not UNSET
    has_details = (
        request.type
        or request.reply_to
        or request.mentions
        or request.buttons
        or request.exclusive
        or request.notify is not UNSET
        or request.thread
    )
    if has_content or has_details:
        raise ApiProblem.invalid("`forward`: the server copies the content")
    return Send(
        to=request.to,
        conversation=request.conversation,
        kind="forward",
        id=request.client_msg_id,
        about=id,
    )


def _content(api: MessageApi, call: Call, request: Content) -> tuple[str, bytes]:
    """Return the type and the body of a message.

    Raises :class:`ApiProblem` if the content is not valid, empty, or too long.
    """
    if (request.text is UNSET) == (request.data is UNSET):
        raise ApiProblem.invalid("Give one of `text` and `data`")

    if call.is_back_end:
        most_bytes = api.limits.push_characters
    else:
        most_bytes = api.limits.message_bytes

    if request.text is not UNSET:
        type = request.type or "text"
        body = _bytes("text", str.encode, request.text)
    else:
        type = request.type or "custom"
        data = bytes(request.data)  # type: ignore[arg-type]
        if type == "text":
            raise ApiProblem.invalid("`type`: `text` needs `text`, not `data`")
        body = _json_body(call, data, most_bytes)
    if len(body) > most_bytes:
        raise ApiProblem.invalid("The message is too long")
    return type, body


def _json_body(call: Call, data: bytes, most_bytes: int) -> bytes:
    """Return JSON without spaces, for the body of a message.

    Raises :class:`ApiProblem` if the JSON is invalid, or is an empty text. JSON
    of more than ``most_bytes`` is not checked, because the caller refuses it.
    """
    try:
        body = msgspec.json.format(data, indent=-1)
        if len(body) <= most_bytes:
            # The decoder of the request has not checked this JSON, and clients
            # must get valid JSON.
            call.check_json(body)
    except (ValueError, RecursionError) as error:
        raise ApiProblem.invalid(f"{error} - at `$.data`") from None
    if body == b'""':
        raise ApiProblem.invalid("The message is empty: give `text` or `data`")
    return body


_NO_META: Final = MessageMeta()


def _meta(
    request: Content,
    of_new: MessageMeta = _NO_META,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """Return the ``meta`` of a message, as bytes.

    ``of_new`` has the keys of a new message, which an edit does not have.
    ``more`` has further keys. Raises :class:`ApiProblem`.
    """
    if request.mentions:
        wrong = mentions_objection(request.mentions)
        if wrong:
            raise ApiProblem.invalid(f"`mentions`: {wrong}")

    buttons: tuple[tuple[Button, ...], ...] = ()
    if request.buttons:
        buttons = _stored_buttons(request.buttons)
    meta = replace(of_new, mentions=tuple(request.mentions), buttons=buttons)
    stored = _bytes("mentions", MessageMeta.to_bytes, meta)
    if not more:
        return stored
    return _bytes("mentions", partial(with_more, stored), more)


def _stored_buttons(
    rows: Iterable[Iterable[ButtonShape]],
) -> tuple[tuple[Button, ...], ...]:
    """Return rows of buttons as the log stores them.

    Raises :class:`ApiProblem` if they are not valid.
    """
    buttons = tuple(tuple(map(_stored_button, row)) for row in rows)
    # This checks the buttons, so that an error names this field.
    _bytes("buttons", msgspec.json.encode, buttons)
    wrong = buttons_objection(buttons)
    if wrong:
        raise ApiProblem.invalid(f"`buttons`: {wrong}")
    return buttons


def _stored_button(button: ButtonShape) -> Button:
    """Return a button as the log stores it."""
    return Button(text=button.text, value=button.value)


def _bytes(name: str, encode: Any, value: Any) -> bytes:
    """Encode the value of a field.

    Raises :class:`ApiProblem` if the value is not valid Unicode. ``name`` is
    the name of the field, for the error.
    """
    try:
        encoded: bytes = encode(value)
    except UnicodeEncodeError:
        raise ApiProblem.invalid(f"`{name}`: not valid Unicode") from None
    return encoded


@routes.post(
    "/messages/recall",
    schema=(
        "RecallRequest",
        "The message to recall. A back end that names no `user` may recall any "
        "message.",
    ),
    problems=_NOT_CHANGED,
    user="optional",
    act=None,
)
def recall(
    api: MessageApi, call: Call, id: MessageId, client_msg_id: OwnId = ""
) -> StoredAnswer:
    """Recall a message.

    Nobody can read the message any more. The recall is a separate entry, sent
    to everybody who may read the message.
    """
    if call.user:
        call.act = ""
    return _store(api, call, Send(kind="recall", about=id, id=client_msg_id))


@routes.post(
    "/messages/edit",
    rules=one_of("text", "data"),
    problems=(Problems.MUTED, *_NOT_CHANGED, *_NOT_REVIEWED),
    user="optional",
    act=None,
)
def edit(api: MessageApi, call: Call, request: EditRequest) -> StoredAnswer:
    """Edit a message.

    Nobody can read the old content any more. The edit is a separate entry, sent
    to everybody who may read the message. You cannot edit a recalled message, a
    message that was edited 100 times, or a question with an answer.
    """
    if call.user:
        call.act = ""
    type, body = _content(api, call, request)
    edited = Send(
        kind="edit",
        type=type,
        body=body,
        id=request.client_msg_id,
        about=request.id,
        meta=_meta(request),
    )
    return _store(api, call, edited)


@routes.post(
    "/messages/press",
    schema=("PressRequest", "A message of a bot, and one of its buttons."),
    problems=_NOT_CHANGED,
)
def press(
    api: MessageApi,
    call: Call,
    id: MessageId,
    value: ButtonValue,
    client_msg_id: OwnId = "",
) -> StoredAnswer:
    """Press a button under a message of a bot.

    The bot receives an entry of the kind `press` in its conversation with the
    user. The entry has the value as `text` and the message as `about`. If the
    message has no such button, the server answers that it is unknown. If the
    buttons are exclusive, the first press counts.
    """
    body = _bytes("value", str.encode, value)
    pressed = api.messaging.answer(call.app, call.user, id, value)
    if pressed is None:
        # The button does not belong to a question, so its bot gets an entry.
        entry_for_bot = Send(
            kind="press", type="", body=body, id=client_msg_id, about=id
        )
        return _store(api, call, entry_for_bot)

    _require_may_write(api, call)
    if isinstance(pressed, Rejected):
        raise ApiProblem(pressed.problem, pressed.explanation)
    return _shown_press(pressed)


def _shown_press(pressed: AskChange) -> StoredAnswer:
    """Return the answer to a press that has answered a question."""
    entry = pressed.entry
    if entry is None:
        # The user has given this answer before.
        return StoredAnswer(
            id=0, conversation=pressed.conversation, seq=0, repeated=True
        )
    return StoredAnswer(
        id=entry.id,
        conversation=pressed.conversation,
        seq=entry.seq,
        repeated=False,
    )


def _store(api: MessageApi, call: Call, command: Send) -> StoredAnswer:
    """Store the draft of a command, and return the answer. Switches greenlets.

    Raises :class:`ApiProblem` and StorageUnavailable.
    """
    draft = _draft_of(api, call, command)
    _require_may_write(api, call)
    to_account = api.wants_account(call.app, not call.is_back_end)
    result = api.messaging.store(
        call.app, draft, by_user=not call.is_back_end, to_account=to_account
    )
    if isinstance(result, StorageUnavailable | Rejected):
        raise _refusal_of(result)
    entry = result.entry
    return StoredAnswer(
        id=entry.id,
        conversation=entry.conversation,
        seq=entry.seq,
        repeated=result.repeated,
    )


def _refusal_of(result: StorageUnavailable | Rejected) -> Exception:
    """Return the error of a message that was not stored."""
    if isinstance(result, TooManyMessages):
        # The rate of the user allows another message soon.
        return ApiProblem(Problems.TOO_MANY_REQUESTS, headers=(("Retry-After", "1"),))
    if isinstance(result, StorageUnavailable):
        return result
    return ApiProblem(result.problem, result.explanation)


def _draft_of(api: MessageApi, call: Call, command: Send) -> Draft:
    """Return the draft of a command.

    Raises :class:`ApiProblem` if the user may not do this with the message that
    the command is about.
    """
    draft = api.messaging.draft_of(call.app, call.user, command)
    if draft is None:
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    return draft


def _require_may_write(api: MessageApi, call: Call) -> None:
    """Raise :class:`ApiProblem` if the user has sent too many messages.

    Back ends have no limit.
    """
    if not call.is_back_end:
        api.rates.require_message(call.app, call.user)


@routes.post(
    "/messages/react",
    schema=("ReactRequest", "A message and an emoji."),
    voice=lambda request: not request.remove,
    problems=_ANNOTATING,
)
def react(
    api: MessageApi,
    call: Call,
    id: MessageId,
    emoji: Annotated[
        str,
        about(
            "The emoji: 1 to 32 bytes of UTF-8.",
            min_length=1,
            max_length=Limit.EMOJI_BYTES,
            examples=["+1"],
        ),
    ],
    remove: Annotated[
        bool, about("Whether to remove the reaction of the user.")
    ] = False,
) -> AnnotatedAnswer:
    """React to a message.

    The reaction is a separate entry, sent to everybody who may read the
    message. Messages have the totals as `reactions`. A user can react only once
    with the same emoji. A message has at most 20 different emoji.
    """
    wrong = emoji_objection(emoji)
    if wrong:
        raise ApiProblem.invalid(f"`{wrong.replace(':', '`:', 1)}")

    def change(log: MessageLog) -> Change | Rejected:
        return log.annotations.react(call.app, call.user, id, emoji, remove=remove)

    return _annotated(api, call, change)


@routes.post(
    "/messages/pin",
    schema=(
        "PinRequest",
        "The message to pin. A back end that names no `user` may pin any message.",
    ),
    voice=True,
    problems=(*_ANNOTATING, Problems.ROLE_TOO_LOW),
    user="optional",
    act=None,
)
def pin(
    api: MessageApi,
    call: Call,
    id: MessageId,
    remove: Annotated[bool, about("Whether to remove the pin.")] = False,
) -> AnnotatedAnswer:
    """Pin a message in its conversation.

    In a group, the option `pin` sets who may pin messages: by default the owner
    and admins. In a conversation of two users, both may pin. The pin is a
    separate entry, sent to everybody who may read the message. A conversation
    has at most 100 pinned messages.
    """
    if call.user:
        call.act = ""

    def change(log: MessageLog) -> Change | Rejected:
        return log.annotations.pin(call.app, call.user, id, remove=remove)

    return _annotated(api, call, change)


def _annotated(
    api: MessageApi, call: Call, change: Callable[[MessageLog], Change | Rejected]
) -> AnnotatedAnswer:
    """Store a reaction or pin, and return the answer. Switches greenlets.

    ``change`` writes the reaction or pin to the log. If nothing had to change,
    the id in the answer is 0. Raises :class:`ApiProblem`.
    """
    _require_may_write(api, call)
    if not api.store.has_database:
        # There is no message, and a change would create the database.
        refusal = Rejected(RejectReason.UNKNOWN_MESSAGE)
        raise ApiProblem(refusal.problem, refusal.explanation)
    result = change(api.store.part(MessageLog))
    if isinstance(result, Rejected):
        raise ApiProblem(result.problem, result.explanation)
    id = 0
    if result.entry is not None:
        id = result.entry.id
    return AnnotatedAnswer(result.conversation, id)


@routes.post("/messages/read")
def mark_read(api: MessageApi, call: Call, request: ReadRequest) -> ReadAnswer:
    """Mark a conversation as read up to a message.

    The position never moves back. The senders of the messages are notified.
    """
    result = _mark(api, call, request.conversation, read=request.id)
    return ReadAnswer(request.conversation, result.receipt.read)


@routes.post(
    "/messages/received",
    schema=(
        "ReceivedRequest",
        "A conversation and the last message that a device has received.",
    ),
    base=ReadRequest,
)
def mark_received(
    api: MessageApi, call: Call, conversation: ConversationId, id: MessageId
) -> ReceivedAnswer:
    """Mark a conversation as received up to a message.

    The position never moves back. The senders of the messages are notified.
    """
    result = _mark(api, call, conversation, received=id)
    return ReceivedAnswer(conversation, result.receipt.received)


def _mark(
    api: MessageApi, call: Call, conversation: int, read: int = 0, received: int = 0
) -> MarkResult:
    """Store that the user has read, or received, a conversation up to an id.

    Raises :class:`ApiProblem` if the user is not in this conversation.
    """
    result = api.receipts.note(
        call.app, call.user, conversation, read=read, received=received
    )
    if result is None:
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)
    return result


@routes.post(
    "/messages/hide", schema=("HideRequest", "The messages to hide from the user.")
)
def hide(
    api: MessageApi,
    call: Call,
    ids: Annotated[
        list[MessageId],
        about("Ids of messages.", min_length=1, max_length=Limit.HIDDEN),
    ],
) -> HiddenAnswer:
    """Hide messages from a user.

    The messages are hidden only from this user. Messages that do not exist or
    that the user may not read are ignored.
    """
    return HiddenAnswer(api.receipts.hide_from(call.app, call.user, tuple(ids)))


def _leads_nowhere_else(notify: Notify) -> bool:
    """Tell whether a notification is harmless.

    A harmless notification names no other sender, leads to no other site, and
    has no special urgency. So it can neither mislead nor disturb its reader.
    """
    if notify.title or notify.time_sensitive:
        return False
    addresses = [notify.url, notify.icon]
    addresses += [action.url for action in notify.actions]
    return all(not address or notify.is_path(address) for address in addresses)
