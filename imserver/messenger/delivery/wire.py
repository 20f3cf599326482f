"""The commands on stored messages as clients write them: JSON objects, which
several dialects share.

msgspec's typed decoder reads nearly every message. All other messages are read
as in :mod:`imserver.gateway.protocol.forgiving`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Annotated, Any, Final

import msgspec

from imserver.gateway.config.settings import MAX_USER_BYTES
from imserver.gateway.errors import ReplyCode
from imserver.gateway.model import Command, Limit
from imserver.gateway.protocol.dialect import Readers
from imserver.gateway.protocol.forgiving import Fields, Refused, well_formed
from imserver.messenger.log.commands import (
    NO_FILTER,
    Ack,
    AnswerAsk,
    AskMarks,
    AskPins,
    AskReceipts,
    AskThread,
    AskThreads,
    Conversations,
    CountReceipts,
    FollowThread,
    Hide,
    History,
    Pin,
    React,
    Read,
    ReadThread,
    Received,
    Search,
    SearchFilter,
    Send,
    Sync,
    Typing,
    buttons_objection,
    exclusive_objection,
    mentions_objection,
)
from imserver.messenger.log.meta import Ask, AskOption, Button, MessageMeta


def _content(fields: Fields) -> tuple[str, bytes]:
    """Return the type and the body of a message.

    Raises :class:`Refused` with code 1001 if the message has no content.
    """
    kind, body = fields.content()
    if not body or fields.values.get("data") == "":
        raise Refused(ReplyCode.BAD_PARAMETER)
    return kind, body


def _meta(fields: Fields, is_new: bool = False) -> bytes:
    """Return the ``meta`` for the fields of a message.

    ``is_new``: whether this is a new message, which may be a question. An
    *exclusive* message is a question whose buttons are the answers.
    """
    buttons: tuple[tuple[Button, ...], ...] = ()
    rows = fields.values.get("buttons")
    if rows:
        buttons = _buttons(rows)

    ask = None
    if is_new and fields.flag("exclusive"):
        ask = _question(buttons)

    mentions: tuple[str, ...] = ()
    users = fields.values.get("mentions")
    if users:
        mentions = _mentions(users)
    return MessageMeta(mentions=mentions, buttons=buttons, ask=ask).to_bytes()


def _question(buttons: tuple[tuple[Button, ...], ...]) -> Ask:
    """Return the question whose answers are these buttons.

    Raises :class:`Refused` with code 1001 if there is no button, or too many.
    """
    options = tuple(
        AskOption(button.text, button.value) for button in chain.from_iterable(buttons)
    )
    if exclusive_objection(len(options)):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Ask(options)


def _mentions(mentions: Any) -> tuple[str, ...]:
    """Return the users that a message mentions.

    Raises :class:`Refused` with code 1001 if ``mentions`` is not a list of user
    ids.
    """
    if (
        not isinstance(mentions, list)
        or len(mentions) > Limit.MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    # JSON may have characters that cannot be stored.
    users = tuple(well_formed(user) for user in mentions)
    if any(len(user.encode()) > MAX_USER_BYTES for user in users):
        raise Refused(ReplyCode.BAD_PARAMETER)
    if mentions_objection(users):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return users


def _buttons(rows: Any) -> tuple[tuple[Button, ...], ...]:
    """Return the rows of buttons of a message.

    Raises :class:`Refused` with code 1001 if they are invalid.
    """
    try:
        raw_rows = msgspec.convert(rows, tuple[tuple[_Button, ...], ...])
    except (ValueError, RecursionError):
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    buttons = tuple(tuple(map(_well_formed_button, row)) for row in raw_rows)
    if buttons_objection(buttons):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return buttons


class _Button(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    value: str


def _well_formed_button(button: _Button) -> Button:
    """Return the button, without characters that cannot be stored."""
    return Button(text=well_formed(button.text), value=well_formed(button.value))


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_decode_text = msgspec.json.Decoder(_Text).decode


_MOST_BYTES_OF_CHARACTER: Final = 4
_SURE_USER_CHARACTERS: Final = MAX_USER_BYTES // _MOST_BYTES_OF_CHARACTER
"""A user id of this number of characters is always within its limit of
bytes."""
_SURE_ID_CHARACTERS: Final = Limit.CLIENT_MSG_ID_BYTES // _MOST_BYTES_OF_CHARACTER
"""A ``client_msg_id`` of this number of characters is always within its limit
of bytes."""


def _read_plain_text(data: bytes) -> Send | None:
    """Read a plain message quickly, such as ``{"to": "bob", "text": "hi"}``.

    Returns None if the message has other fields, another spelling, or an error.
    Then :func:`_read_any_send` must read it.
    """
    try:
        request = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to = request.to
    client_id = request.client_id
    # If a text is short enough in characters, its bytes need not be counted.
    plain = (
        bool(request.text)
        and bool(to) != bool(request.conversation)
        and len(to) <= _SURE_USER_CHARACTERS
        and len(client_id) <= _SURE_ID_CHARACTERS
        and 0 <= request.conversation <= Limit.ID
        and "\0" not in to
        and "\0" not in client_id
    )
    if plain:
        return Send(to, request.conversation, body=request.text.encode(), id=client_id)
    return None


def read_send(data: bytes) -> Send:
    """Read a message or a forward. Raises :class:`Refused`.

    Nearly all messages are plain texts, for which there is a quick way.
    """
    return _read_plain_text(data) or _read_any_send(data)


def _read_any_send(data: bytes) -> Send:
    """Read a message of any form, or a forward. Raises :class:`Refused`."""
    fields = Fields.verbatim(data)
    to, conversation = fields.receiver()
    client_id = _client_id(fields)
    # A forward has the content of another message, and no content of its own.
    if "forward" in fields.values:
        return _forward(fields, to, conversation, client_id)

    type, body = _content(fields)
    about = fields.id("replyto")
    thread = fields.id("thread")
    also = fields.flag("also")
    if also and not thread:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Send(
        to,
        conversation,
        kind="message",
        type=type,
        body=body,
        id=client_id,
        about=about,
        meta=_meta(fields, is_new=True),
        thread=thread,
        also=also,
    )


def _forward(fields: Fields, to: str, conversation: int, client_id: str) -> Send:
    """Read a forward. It names the message whose content the server copies.

    Raises :class:`Refused` if the command has content of its own.
    """
    if any(name in fields.values for name in _NOT_FORWARDED):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Send(
        to, conversation, "forward", id=client_id, about=fields.needed_id("forward")
    )


_NOT_FORWARDED: Final = (
    "text",
    "data",
    "type",
    "replyto",
    "mentions",
    "buttons",
    "exclusive",
    "thread",
    "also",
)
"""Fields of a new message. A forwarded message gets these fields from its
original."""


def _client_id(fields: Fields) -> str:
    """Return the id that the client has given its command, or ``""`` if there
    is no id."""
    return fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)


def _edit(data: bytes) -> Send:
    """Read an edit: the id of the message, and its new content."""
    fields = Fields.verbatim(data)
    kind, body = _content(fields)
    id = _client_id(fields)
    return Send(
        kind="edit",
        type=kind,
        body=body,
        id=id,
        about=fields.needed_id("id"),
        meta=_meta(fields),
    )


def _press(fields: Fields) -> Send:
    """Read the press of a button: the message, and the value of the button."""
    value = fields.short_text("value", Limit.BUTTON).encode()
    id = _client_id(fields)
    return Send(kind="press", type="", body=value, id=id, about=fields.needed_id("id"))


def _answer(fields: Fields) -> AnswerAsk:
    """Read the answer to a question.

    It is the value of an option, a text, or the indexes of options of a poll.
    Raises :class:`Refused` if it is not exactly one of these.
    """
    value = fields.short_text("value", Limit.BUTTON)
    text = fields.text("text")
    # The id is checked, but not used: the user and the value show whether an
    # answer is repeated.
    _client_id(fields)
    choices = fields.values.get("choices")
    kinds_of_answer = [bool(value), bool(text), choices is not None]
    if kinds_of_answer.count(True) != 1:
        raise Refused(ReplyCode.BAD_PARAMETER)
    if len(text) > Limit.ANSWER_CHARACTERS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    chosen = _choices(choices)
    return AnswerAsk(fields.needed_id("id"), value, text, chosen)


def _choices(choices: Any) -> tuple[int, ...] | None:
    """Return the indexes of the chosen options of a poll, or None if the answer
    is not for a poll.

    Raises :class:`Refused` with code 1001 if ``choices`` is not a list of
    indexes.
    """
    try:
        chosen = msgspec.convert(choices, tuple[_Choice, ...] | None)
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if chosen is not None and len(chosen) > Ask.Poll.MOST_OPTIONS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return chosen


_Choice = Annotated[int, msgspec.Meta(ge=0, lt=Ask.Poll.MOST_OPTIONS)]


def _types(fields: Fields) -> tuple[str, ...]:
    """Return the types of the wanted messages. An empty tuple means messages of
    all types.

    Raises :class:`Refused` with code 1001 if the field ``types`` is invalid.
    """
    types = fields.values.get("types", [])
    if not isinstance(types, list) or len(types) > Limit.TYPES:
        raise Refused(ReplyCode.BAD_PARAMETER)
    # Each name is checked like a field of its own.
    names = tuple(
        [Fields({"type": each}).short_text("type", Limit.TYPE_BYTES) for each in types]
    )
    if not all(names):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return names


def _id_or_missing(fields: Fields, key: str) -> int:
    """Return the id in a field, or -1 if the field is missing."""
    if key in fields.values:
        return fields.id(key)
    return -1


def _history(fields: Fields) -> History:
    """Read the request for a page of messages of a conversation."""
    types = _types(fields)
    after = _id_or_missing(fields, "after")
    # A page after an id has messages of all types.
    if types and after >= 0:
        raise Refused(ReplyCode.BAD_PARAMETER)
    conversation = fields.needed_id("conversation")
    before = fields.id("before")
    return History(conversation, before, fields.limit(), after, types)


def _ids(fields: Fields, most: int) -> tuple[int, ...]:
    """Return the ids in the field ``ids``. There must be at least one and at
    most ``most``.

    Otherwise raises :class:`Refused` with code 1001.
    """
    ids = fields.values.get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= most:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple([Fields({"id": each}).needed_id("id") for each in ids])


def _search(fields: Fields) -> Search:
    """Read a search. It has words, a filter, or both."""
    text = fields.short_text("text", Limit.WORDS_BYTES)
    filter = SearchFilter(
        sender=fields.short_text("from", MAX_USER_BYTES),
        types=_types(fields),
        link=fields.flag("link"),
        since=fields.id("since"),
        until=fields.id("until"),
    )
    # Without words a search needs a filter. Spaces alone are no words.
    if not text.strip() and (text or filter == NO_FILTER):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Search(
        text, fields.id("conversation"), fields.id("before"), fields.limit(), filter
    )


def _conversations(fields: Fields) -> Conversations:
    """Read the request for a page of the user's conversations."""
    return Conversations(fields.id("before"), fields.limit())


def _read(fields: Fields) -> Read:
    """Read up to which message the user has read a conversation."""
    return Read(fields.needed_id("conversation"), fields.needed_id("id"))


def _hide(fields: Fields) -> Hide:
    """Read which entries the user hides."""
    return Hide(_ids(fields, Limit.HIDDEN))


def _ack(fields: Fields) -> Ack:
    """Read up to which entry the client has received everything."""
    return Ack(fields.needed_id("id"))


def _received(fields: Fields) -> Received:
    """Read up to which message a device has received a conversation."""
    return Received(fields.needed_id("conversation"), fields.needed_id("id"))


def _receipts(fields: Fields) -> AskReceipts:
    """Read the request for the receipts of a conversation."""
    conversation = fields.needed_id("conversation")
    after = fields.short_text("after", MAX_USER_BYTES)
    return AskReceipts(conversation, after, fields.limit(), fields.id("message"))


def _marks(fields: Fields) -> AskMarks:
    """Read the request for the user's marks after a version."""
    return AskMarks(fields.id("version"))


def _typing(fields: Fields) -> Typing:
    """Read to whom the user is typing."""
    to, conversation = fields.receiver()
    return Typing(to, conversation)


def _recall(fields: Fields) -> Send:
    """Read which message the user recalls."""
    client_id = _client_id(fields)
    return Send(kind="recall", id=client_id, about=fields.needed_id("id"))


def _sync(fields: Fields) -> Sync:
    """Read the request for missed entries after a cursor."""
    cursor = fields.id("cursor")
    return Sync(cursor, fields.limit(), _id_or_missing(fields, "version"))


def _react(fields: Fields) -> React:
    """Read a reaction, or its withdrawal."""
    id = fields.needed_id("id")
    emoji = fields.short_text("emoji", Limit.EMOJI_BYTES)
    return React(id, emoji, fields.flag("remove"))


def _pin(fields: Fields) -> Pin:
    """Read which message is pinned or unpinned."""
    return Pin(fields.needed_id("id"), fields.flag("remove"))


def _pins(fields: Fields) -> AskPins:
    """Read the request for the pinned messages of a conversation."""
    return AskPins(fields.needed_id("conversation"), fields.id("before"))


def _receipt_counts(fields: Fields) -> CountReceipts:
    """Read the request for the numbers of readers of messages."""
    conversation = fields.needed_id("conversation")
    return CountReceipts(conversation, _ids(fields, Limit.PAGE))


def _thread(fields: Fields) -> AskThread:
    """Read the request for the replies in a thread."""
    thread = fields.needed_id("thread")
    return AskThread(thread, fields.id("before"), fields.limit())


def _threads(fields: Fields) -> AskThreads:
    """Read the request for the threads that the user follows."""
    return AskThreads(fields.id("before"), fields.limit())


def _follow_thread(fields: Fields) -> FollowThread:
    """Read whether the user follows or mutes a thread."""
    return FollowThread(fields.needed_id("thread"), fields.flag("remove"))


def _read_thread(fields: Fields) -> ReadThread:
    """Read up to which reply the user has read a thread."""
    return ReadThread(fields.needed_id("thread"), fields.needed_id("id"))


def _from_json(make: Callable[[Fields], Command], data: bytes) -> Command:
    """Read a command from JSON. ``make`` makes it from its fields."""
    return make(Fields.of(data))


FIELDS_OF_COMMANDS: Final[Mapping[str, Callable[[Fields], Command]]] = {
    "history": _history,
    "conversations": _conversations,
    "read": _read,
    "hide": _hide,
    "ack": _ack,
    "received": _received,
    "receipts": _receipts,
    "marks": _marks,
    "typing": _typing,
    "search": _search,
}
"""The commands on stored messages that other codecs have, too: name → the
function that makes one from its fields, which raises :class:`Refused`."""
_OF_JSON: Final[Mapping[str, Callable[[Fields], Command]]] = {
    **FIELDS_OF_COMMANDS,
    "recall": _recall,
    "press": _press,
    "answer": _answer,
    "sync": _sync,
    "react": _react,
    "pin": _pin,
    "pins": _pins,
    "receiptCounts": _receipt_counts,
    "thread": _thread,
    "threads": _threads,
    "followThread": _follow_thread,
    "readThread": _read_thread,
}
MESSAGE_COMMANDS: Final[Readers] = {
    "send": read_send,
    "edit": _edit,
    **{name: partial(_from_json, make) for name, make in _OF_JSON.items()},
}
"""The commands on stored messages."""
