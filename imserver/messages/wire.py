"""The commands on stored messages as clients write them: JSON objects, which several dialects share.

Nearly every message is read by msgspec's typed decoder, all others as in :mod:`imserver.protocol.forgiving`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from imserver import errors
from imserver.config.settings import MAX_USER_BYTES
from imserver.messages.commands import (
    MAX_BUTTON_BYTES,
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
from imserver.model import Command, Limit
from imserver.protocol.dialect import Reader, Readers
from imserver.protocol.forgiving import Fields, Refused, well_formed

_encode = msgspec.json.Encoder().encode


def _content(fields: Fields) -> tuple[str, bytes]:
    """Type and bytes of a message, which is not empty."""
    kind, body = fields.content()
    if not body or fields.values.get("data") == "":
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return kind, body


def _meta(fields: Fields, is_new: bool = False) -> bytes:
    """``meta`` from the fields of a message. ``is_new``: it may be a question."""
    meta: dict[str, Any] = {}
    if fields.values.get("mentions"):
        meta["mentions"] = _mentions(fields.values["mentions"])
    if fields.values.get("buttons"):
        meta["buttons"] = _buttons(fields.values["buttons"])
    if is_new and fields.flag("exclusive"):
        options = list(chain.from_iterable(meta.get("buttons", ())))
        if exclusive_objection(len(options)):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        meta["ask"] = {"options": options}
    return _encode(meta) if meta else b""


def _mentions(mentions: Any) -> list[str]:
    if (
        not isinstance(mentions, list)
        or len(mentions) > Limit.MENTIONS
        or not all(isinstance(user, str) for user in mentions)
    ):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    users = [well_formed(user) for user in mentions]
    if any(len(user.encode()) > MAX_USER_BYTES for user in users) or mentions_objection(users):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return users


def _buttons(rows: Any) -> list[list[dict[str, str]]]:
    """The rows of buttons of a message. Raises :class:`Refused` 1001."""
    try:
        found = msgspec.convert(rows, list[list[_Button]])
    except (ValueError, RecursionError):
        raise Refused(errors.ReplyCode.BAD_PARAMETER) from None
    buttons = [
        [{"text": well_formed(one.text), "value": well_formed(one.value)} for one in row] for row in found
    ]
    if buttons_objection(buttons):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return buttons


class _Button(msgspec.Struct, forbid_unknown_fields=True):
    """A button under a message."""

    text: str
    value: str


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The data of nearly every ``send``, in the documented spelling."""

    text: str
    to: str = ""
    conversation: int = 0
    client_id: str = msgspec.field(default="", name="clientMsgID")


_SHORT_ID: Final = Limit.CLIENT_MSG_ID_BYTES // 4
"""Characters that never have more bytes than a ``client_msg_id`` may have."""
_MAX_ID: Final = Limit.ID
_decode_text = msgspec.json.Decoder(_Text).decode


def _send_text(data: bytes) -> Send | None:
    """Decode a plain message. None: the general path must decode it."""
    try:
        request = _decode_text(data)
    except (ValueError, RecursionError):
        return None
    to, client_id = request.to, request.client_id
    plain = (
        bool(request.text)
        and bool(to) != bool(request.conversation)
        and len(to) <= MAX_USER_BYTES // 4
        and len(client_id) <= _SHORT_ID
        and 0 <= request.conversation <= _MAX_ID
        and "\0" not in to
        and "\0" not in client_id
    )
    return Send(to, request.conversation, body=request.text.encode(), id=client_id) if plain else None


def read_send(data: bytes) -> Send:
    """Read a message. Raises :class:`Refused`."""
    return _send_text(data) or _send_anything(data)


def _send_anything(data: bytes) -> Send:
    fields = Fields.verbatim(data)
    to, conversation = fields.receiver()
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    if "forward" in fields.values:
        if not _CONTENT_FIELDS.isdisjoint(fields.values):
            raise Refused(errors.ReplyCode.BAD_PARAMETER)
        return Send(to, conversation, "forward", id=client_id, about=fields.needed_id("forward"))
    kind, body = _content(fields)
    about, thread, also = fields.id("replyto"), fields.id("thread"), fields.flag("also")
    if also and not thread:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return Send(to, conversation, "message", kind, body, client_id, about, _meta(fields, True), thread, also)


_CONTENT_FIELDS: Final = frozenset(
    {"text", "data", "type", "replyto", "mentions", "buttons", "exclusive", "thread", "also"}
)
"""Fields that a forwarded message cannot have: the server copies it."""


def _react(data: bytes) -> React:
    fields = Fields.of(data)
    emoji = fields.short_text("emoji", Limit.EMOJI_BYTES)
    return React(fields.needed_id("id"), emoji, fields.flag("remove"))


def _pin(data: bytes) -> Pin:
    fields = Fields.of(data)
    return Pin(fields.needed_id("id"), fields.flag("remove"))


def _pins(data: bytes) -> AskPins:
    fields = Fields.of(data)
    return AskPins(fields.needed_id("conversation"), fields.id("before"))


def _press(data: bytes) -> Send:
    fields = Fields.of(data)
    value = fields.short_text("value", MAX_BUTTON_BYTES).encode()
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    return Send(kind="press", type="", body=value, id=client_id, about=fields.needed_id("id"))


def _answer(data: bytes) -> AnswerAsk:
    fields = Fields.of(data)
    value, text = fields.short_text("value", MAX_BUTTON_BYTES), fields.text("text")
    fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)  # the user and the answer say that it repeats
    if bool(value) == bool(text) or len(text) > Limit.ANSWER_CHARACTERS:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return AnswerAsk(fields.needed_id("id"), value, text)


def _recall(data: bytes) -> Send:
    fields = Fields.of(data)
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    return Send(kind="recall", id=client_id, about=fields.needed_id("id"))


def _edit(data: bytes) -> Send:
    fields = Fields.verbatim(data)
    kind, body = _content(fields)
    client_id = fields.short_text("clientmsgid", Limit.CLIENT_MSG_ID_BYTES)
    about = fields.needed_id("id")
    return Send(kind="edit", type=kind, body=body, id=client_id, about=about, meta=_meta(fields))


def _thread(data: bytes) -> AskThread:
    fields = Fields.of(data)
    return AskThread(fields.needed_id("thread"), fields.id("before"), fields.limit())


def _threads(data: bytes) -> AskThreads:
    fields = Fields.of(data)
    return AskThreads(fields.id("before"), fields.limit())


def _follow_thread(data: bytes) -> FollowThread:
    fields = Fields.of(data)
    return FollowThread(fields.needed_id("thread"), fields.flag("remove"))


def _read_thread(data: bytes) -> ReadThread:
    fields = Fields.of(data)
    return ReadThread(fields.needed_id("thread"), fields.needed_id("id"))


def _sync(data: bytes) -> Sync:
    fields = Fields.of(data)
    version = fields.id("version") if "version" in fields.values else -1
    return Sync(fields.id("cursor"), fields.limit(), version)


def _types(fields: Fields) -> tuple[str, ...]:
    """``types`` of content. Raises :class:`Refused` 1001."""
    types = fields.values.get("types", [])
    if not isinstance(types, list) or len(types) > Limit.TYPES:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    names = tuple([Fields({"type": each}).short_text("type", Limit.TYPE_BYTES) for each in types])
    if not all(names):
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return names


def _history(fields: Fields) -> History:
    names = _types(fields)
    after = fields.id("after") if "after" in fields.values else -1
    if names and after >= 0:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    conversation, before = fields.needed_id("conversation"), fields.id("before")
    return History(conversation, before, fields.limit(), after, names)


def _conversations(fields: Fields) -> Conversations:
    return Conversations(fields.id("before"), fields.limit())


def _read(fields: Fields) -> Read:
    return Read(fields.needed_id("conversation"), fields.needed_id("id"))


def _ack(fields: Fields) -> Ack:
    return Ack(fields.needed_id("id"))


def _ids(fields: Fields, most: int) -> tuple[int, ...]:
    """``ids``, at least one. Raises :class:`Refused` 1001."""
    ids = fields.values.get("ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= most:
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return tuple([Fields({"id": each}).needed_id("id") for each in ids])


def _hide(fields: Fields) -> Hide:
    return Hide(_ids(fields, Limit.HIDDEN))


def _received(fields: Fields) -> Received:
    return Received(fields.needed_id("conversation"), fields.needed_id("id"))


def _receipts(fields: Fields) -> AskReceipts:
    after = fields.short_text("after", MAX_USER_BYTES)
    message = fields.id("message")
    return AskReceipts(fields.needed_id("conversation"), after, fields.limit(), message)


def _count_receipts(data: bytes) -> CountReceipts:
    fields = Fields.of(data)
    return CountReceipts(fields.needed_id("conversation"), _ids(fields, Limit.PAGE))


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
        raise Refused(errors.ReplyCode.BAD_PARAMETER)
    return Search(text, fields.id("conversation"), fields.id("before"), fields.limit(), filter)


FIELDS_OF_COMMANDS: Final[Mapping[str, Callable[[Fields], Command]]] = {
    "history": _history,
    "conversations": _conversations,
    "read": _read,
    "hide": _hide,
    "ack": _ack,
    "received": _received,
    "receipts": _receipts,
    "marks": lambda fields: AskMarks(fields.id("version")),
    "typing": lambda fields: Typing(*fields.receiver()),
    "search": _search,
}
"""The commands on stored messages that other codecs have, too: name → the function that makes one from its
fields, which raises :class:`Refused`."""


def _from_json(make: Callable[[Fields], Command]) -> Reader:
    return lambda data: make(Fields.of(data))


MESSAGE_COMMANDS: Final[Readers] = {
    "send": read_send,
    "recall": _recall,
    "edit": _edit,
    "press": _press,
    "answer": _answer,
    "sync": _sync,
    "react": _react,
    "pin": _pin,
    "pins": _pins,
    "receiptCounts": _count_receipts,
    "thread": _thread,
    "threads": _threads,
    "followThread": _follow_thread,
    "readThread": _read_thread,
    **{name: _from_json(make) for name, make in FIELDS_OF_COMMANDS.items()},
}
"""The commands on stored messages."""
