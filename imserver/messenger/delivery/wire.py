"""The commands on stored messages as clients write them: JSON objects, which
several dialects share.

Nearly every message is read by msgspec's typed decoder, all others as in
:mod:`imserver.gateway.protocol.forgiving`.
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
    kind, body = fields.content()
    if not body or fields.values.get("data") == "":
        raise Refused(ReplyCode.BAD_PARAMETER)
    return kind, body


def _meta(fields: Fields, is_new: bool = False) -> bytes:
    """``meta`` from the fields of a message. ``is_new``: it may be a
    question."""
    mentions = fields.values.get("mentions")
    rows = fields.values.get("buttons")
    buttons = _buttons(rows) if rows else ()
    ask = None
    if is_new and fields.flag("exclusive"):
        options = tuple(
            AskOption(button.text, button.value)
            for button in chain.from_iterable(buttons)
        )
        if exclusive_objection(len(options)):
            raise Refused(ReplyCode.BAD_PARAMETER)
        ask = Ask(options)
    meta = MessageMeta(
        mentions=_mentions(mentions) if mentions else (), buttons=buttons, ask=ask
    )
    return meta.to_bytes()


def _mentions(mentions: Any) -> tuple[str, ...]:
    if (
        not isinstance(mentions, list)
        or len(mentions) > Limit.MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    users = tuple(well_formed(user) for user in mentions)
    if any(len(user.encode()) > MAX_USER_BYTES for user in users) or mentions_objection(
        users
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return users


def _buttons(rows: Any) -> tuple[tuple[Button, ...], ...]:
    """The rows of buttons of a message. Raises :class:`Refused` 1001."""
    try:
        given = msgspec.convert(rows, tuple[tuple[_Button, ...], ...])
    except (ValueError, RecursionError):
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    buttons = tuple(
        tuple(
            Button(text=well_formed(one.text), value=well_formed(one.value))
            for one in row
        )
        for row in given
    )
    if buttons_objection(buttons):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return buttons


class _Button(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    value: str


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_decode_text = msgspec.json.Decoder(_Text).decode


def _send_text(data: bytes) -> Send | None:
    """Decode a plain message. None: the general path must decode it."""
    try:
        request = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to = request.to
    client_id = request.client_id
    plain = (
        bool(request.text)
        and bool(to) != bool(request.conversation)
        and len(to) <= MAX_USER_BYTES // 4
        and len(client_id) <= Limit.CLIENT_MSG_ID_BYTES // 4
        and 0 <= request.conversation <= Limit.ID
        and "\0" not in to
        and "\0" not in client_id
    )
    if plain:
        return Send(to, request.conversation, body=request.text.encode(), id=client_id)
    return None


def read_send(data: bytes) -> Send:
    """Read a message. Raises :class:`Refused`."""
    return _send_text(data) or _send_anything(data)


def _send_anything(data: bytes) -> Send:
    fields = Fields.verbatim(data)
    to, conversation = fields.receiver()
    client_id = _client_id(fields)
    if "forward" in fields.values:
        copied = (
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
        if any(name in fields.values for name in copied):
            raise Refused(ReplyCode.BAD_PARAMETER)
        return Send(
            to, conversation, "forward", id=client_id, about=fields.needed_id("forward")
        )
    kind, body = _content(fields)
    about = fields.id("replyto")
    thread = fields.id("thread")
    also = fields.flag("also")
    if also and not thread:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Send(
        to,
        conversation,
        "message",
        kind,
        body,
        client_id,
        about,
        _meta(fields, True),
        thread,
        also,
    )


def _client_id(fields: Fields) -> str:
    return fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)


def _edit(data: bytes) -> Send:
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
    value = fields.short_text("value", Limit.BUTTON).encode()
    id = _client_id(fields)
    return Send(kind="press", type="", body=value, id=id, about=fields.needed_id("id"))


def _answer(fields: Fields) -> AnswerAsk:
    value = fields.short_text("value", Limit.BUTTON)
    text = fields.text("text")
    _client_id(fields)  # the user and the answer say that it repeats
    choices = fields.values.get("choices")
    if [bool(value), bool(text), choices is not None].count(True) != 1 or len(
        text
    ) > Limit.ANSWER_CHARACTERS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    try:
        chosen = msgspec.convert(choices, tuple[_Choice, ...] | None)
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if chosen is not None and len(chosen) > Ask.Poll.MOST_OPTIONS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return AnswerAsk(fields.needed_id("id"), value, text, chosen)


_Choice = Annotated[int, msgspec.Meta(ge=0, lt=Ask.Poll.MOST_OPTIONS)]


def _types(fields: Fields) -> tuple[str, ...]:
    """``types`` of content. Raises :class:`Refused` 1001."""
    types = fields.values.get("types", [])
    if not isinstance(types, list) or len(types) > Limit.TYPES:
        raise Refused(ReplyCode.BAD_PARAMETER)
    names = tuple(
        [Fields({"type": each}).short_text("type", Limit.TYPE_BYTES) for each in types]
    )
    if not all(names):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return names


def _id_or_none(fields: Fields, key: str) -> int:
    """The id of a field; -1: it is not there."""
    if key in fields.values:
        return fields.id(key)
    return -1


def _history(fields: Fields) -> History:
    names = _types(fields)
    after = _id_or_none(fields, "after")
    if names and after >= 0:
        raise Refused(ReplyCode.BAD_PARAMETER)
    conversation = fields.needed_id("conversation")
    before = fields.id("before")
    return History(conversation, before, fields.limit(), after, names)


def _ids(fields: Fields, most: int) -> tuple[int, ...]:
    """``ids``, at least one. Raises :class:`Refused` 1001."""
    ids = fields.values.get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= most:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple([Fields({"id": each}).needed_id("id") for each in ids])


def _search(fields: Fields) -> Search:
    text = fields.short_text("text", Limit.WORDS_BYTES)
    filter = SearchFilter(
        fields.short_text("from", MAX_USER_BYTES),
        _types(fields),
        fields.flag("link"),
        fields.id("since"),
        fields.id("until"),
    )
    if not text.strip() and (text or filter == NO_FILTER):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return Search(
        text, fields.id("conversation"), fields.id("before"), fields.limit(), filter
    )


def _from_json(make: Callable[[Fields], Command], data: bytes) -> Command:
    return make(Fields.of(data))


FIELDS_OF_COMMANDS: Final[Mapping[str, Callable[[Fields], Command]]] = {
    "history": _history,
    "conversations": lambda fields: Conversations(fields.id("before"), fields.limit()),
    "read": lambda fields: Read(
        fields.needed_id("conversation"), fields.needed_id("id")
    ),
    "hide": lambda fields: Hide(_ids(fields, Limit.HIDDEN)),
    "ack": lambda fields: Ack(fields.needed_id("id")),
    "received": lambda fields: Received(
        fields.needed_id("conversation"), fields.needed_id("id")
    ),
    "receipts": lambda fields: AskReceipts(
        fields.needed_id("conversation"),
        fields.short_text("after", MAX_USER_BYTES),
        fields.limit(),
        fields.id("message"),
    ),
    "marks": lambda fields: AskMarks(fields.id("version")),
    "typing": lambda fields: Typing(*fields.receiver()),
    "search": _search,
}
"""The commands on stored messages that other codecs have, too: name → the
function that makes one from its fields, which raises :class:`Refused`."""
_OF_JSON: Final[Mapping[str, Callable[[Fields], Command]]] = {
    **FIELDS_OF_COMMANDS,
    "recall": lambda fields: Send(
        kind="recall", id=_client_id(fields), about=fields.needed_id("id")
    ),
    "press": _press,
    "answer": _answer,
    "sync": lambda fields: Sync(
        fields.id("cursor"), fields.limit(), _id_or_none(fields, "version")
    ),
    "react": lambda fields: React(
        fields.needed_id("id"),
        fields.short_text("emoji", Limit.EMOJI_BYTES),
        fields.flag("remove"),
    ),
    "pin": lambda fields: Pin(fields.needed_id("id"), fields.flag("remove")),
    "pins": lambda fields: AskPins(
        fields.needed_id("conversation"), fields.id("before")
    ),
    "receiptCounts": lambda fields: CountReceipts(
        fields.needed_id("conversation"), _ids(fields, Limit.PAGE)
    ),
    "thread": lambda fields: AskThread(
        fields.needed_id("thread"), fields.id("before"), fields.limit()
    ),
    "threads": lambda fields: AskThreads(fields.id("before"), fields.limit()),
    "followThread": lambda fields: FollowThread(
        fields.needed_id("thread"), fields.flag("remove")
    ),
    "readThread": lambda fields: ReadThread(
        fields.needed_id("thread"), fields.needed_id("id")
    ),
}
MESSAGE_COMMANDS: Final[Readers] = {
    "send": read_send,
    "edit": _edit,
    **{name: partial(_from_json, make) for name, make in _OF_JSON.items()},
}
"""The commands on stored messages."""
