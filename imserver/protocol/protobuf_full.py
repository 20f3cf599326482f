"""The ``protobuf`` dialect of clients that log in with a cursor: it has words for all that is stored.

The same frames and the same numbers as in :mod:`imserver.protocol.protobuf`, and new ones beside them.
Clients that do not ask for these never get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Raw, Struct

from imserver import errors
from imserver.model import Event, Message, Reply, Request, Signal
from imserver.protocol.cmd_stored import Shown
from imserver.protocol.protobuf import (
    CT_ACK,
    CT_MESSAGE,
    CT_SYNC,
    LOGIN_ACK,
    ST_GROUP,
    ST_SINGLE,
    ProtobufDialect,
    account,
    message,
    number,
    output,
    type_number,
)
from imserver.protocol.protobuf_asks import (
    CT_CONVERSATIONS,
    CT_HIDE,
    CT_HISTORY,
    CT_MARKS,
    CT_READ,
    CT_RECEIPTS,
    CT_RECEIVED,
    CT_SEARCH,
    CT_SIGNAL,
    CT_TYPING,
    FULL_COMMANDS,
)
from imserver.protocol.varints import lengthy, varint

AT_REFUSED: Final = 4
"""What is said instead of an ack."""
KINDS: Final = ("message", "recall", "edit", "group", "join", "leave")
"""Kinds of entries in the order of their numbers from 0."""
SIGNALS: Final = ("typing", "receipt", "hidden")
"""Kinds of signals in the order of their numbers from 1."""


class Recovered(Struct, frozen=True):
    """What a login with a cursor is told: all that was missed comes right behind, or has to be asked for,
    from the cursor on or from the beginning."""

    recovered: bool
    begin_anew: bool = False


# --- what the server says -----------------------------------------------------------------------------------


def refusal(code: int, request: int, chat_number: int = 0) -> bytes:
    """The output that refuses a login or a message (by its kind, and its client's number for it)."""
    data = b"\x08%c%b%b" % (AT_REFUSED, number(0x10, chat_number), number(0x30, request))
    return output(CT_ACK, data, code)


def as_full_message(stored: Message) -> bytes:
    """Something stored, of whatever kind, as a ``Message`` with all that is known of it."""
    sender, to = account(stored.sender), account(stored.to)
    spoken = stored.kind in ("message", "edit")
    return b"".join(
        (
            message(
                ST_SINGLE if stored.to else ST_GROUP,
                to if stored.to else stored.conversation,
                sender,
                type_number(stored.type) if spoken else 0,
                stored.body,
                stored.id,
                stored.time_ms,
            ),
            number(0x40, KINDS.index(stored.kind)),
            number(0x48, stored.about),
            number(0x50, stored.conversation),
            number(0x58, stored.seq),
            _text(0x62, stored.client_msg_id),
            _bytes(0x6A, stored.meta),
            _text(0x72, "" if sender else stored.sender),
            _text(0x7A, "" if to else stored.to),
        )
    )


def full_page(messages: Iterable[bytes], more: bool, begin_anew: bool, kind: int = CT_SYNC) -> bytes:
    """Messages in order, whether there are more, and whether those that the client has are void."""
    data = b"".join([lengthy(0x0A, each) for each in messages])
    return output(kind, data + _flag(0x10, more) + _flag(0x18, begin_anew))


def _text(tag: int, text: str) -> bytes:
    return lengthy(tag, text.encode()) if text else b""


def _bytes(tag: int, data: bytes) -> bytes:
    return lengthy(tag, data) if data else b""


def _flag(tag: int, value: bool) -> bytes:
    return b"%c\x01" % tag if value else b""


def _numbers(tag: int, values: Iterable[int]) -> bytes:
    return _bytes(tag, b"".join(map(varint, values)))


def _user(tag: int, text_tag: int, user: str) -> bytes:
    """A user: the number of an account, or whatever else it is as text."""
    return number(tag, account(user)) or _text(text_tag, user)


def _signal(event: Signal) -> bytes:
    return output(
        CT_SIGNAL,
        b"".join(
            (
                number(0x08, SIGNALS.index(event.kind) + 1),
                _user(0x10, 0x42, event.sender),
                _user(0x18, 0x4A, event.to),
                number(0x20, event.conversation),
                number(0x28, event.read),
                number(0x30, event.received),
                _numbers(0x3A, event.ids),
            )
        ),
    )


# --- answers, made of what the services answer --------------------------------------------------------------


def _shown(entry: Shown) -> bytes:
    """An entry that was made ready for clients of JSON."""
    body = entry.base64 or b""
    if entry.text is not None:
        body = entry.text.encode()
    elif entry.data is not None:
        body = bytes(entry.data)
    return as_full_message(
        Message(
            entry.id,
            entry.conversation,
            entry.seq,
            entry.sender,
            entry.to,
            entry.kind,
            entry.type or "text",
            body,
            entry.client_msg_id,
            entry.time,
            entry.about,
            bytes(entry.meta) if isinstance(entry.meta, Raw) else b"",
        )
    )


def _entries(messages: Iterable[Shown], more: bool) -> bytes:
    return b"".join([lengthy(0x0A, _shown(each)) for each in messages]) + _flag(0x10, more)


def _history(data: Any) -> bytes:
    return _entries(data.messages, data.more)


def _search(data: Any) -> bytes:
    return _entries(data.messages, data.has_more) + number(0x18, data.before)


def _conversation(found: Any) -> bytes:
    return b"".join(
        (
            number(0x08, found.id),
            number(0x10, ST_SINGLE if found.kind == "user" else ST_GROUP),
            number(0x18, max(found.unread, 0)),
            number(0x20, max(found.read, 0)),
            _text(0x2A, found.role),
            _user(0x30, 0x4A, found.peer),
            _text(0x3A, found.name),
            b"" if found.last is None else lengthy(0x42, _shown(found.last)),
            number(0x50, found.place or (found.last.id if found.last else 0)),
        )
    )


def _conversations(data: Any) -> bytes:
    return b"".join([lengthy(0x0A, _conversation(each)) for each in data.conversations]) + _flag(
        0x10, data.more
    )


def _receipt(found: Any, conversation: int = 0) -> bytes:
    return b"".join(
        (
            _user(0x08, 0x2A, found.user),
            number(0x10, found.read),
            number(0x18, found.received),
            number(0x20, conversation),
        )
    )


def _receipts(data: Any) -> bytes:
    return b"".join([lengthy(0x0A, _receipt(each)) for each in data.receipts]) + _flag(0x10, data.has_more)


def _marks(data: Any) -> bytes:
    reads = [lengthy(0x12, number(0x08, each.conversation) + number(0x10, each.id)) for each in data.read]
    peers = [lengthy(0x22, _receipt(each, each.conversation)) for each in data.receipts]
    return b"".join((number(0x08, data.version), *reads, _numbers(0x1A, data.hidden), *peers))


_ANSWERS: Final[dict[int, Callable[[Any], bytes]]] = {
    CT_READ: lambda _: b"",
    CT_RECEIVED: lambda _: b"",
    CT_TYPING: lambda _: b"",
    CT_HIDE: lambda _: b"",
    CT_HISTORY: _history,
    CT_CONVERSATIONS: _conversations,
    CT_RECEIPTS: _receipts,
    CT_MARKS: _marks,
    CT_SEARCH: _search,
}
"""What makes the data of an answer of what was answered, by kind."""
_KIND_OF: Final = {name: kind for kind, (name, _) in FULL_COMMANDS.items()}


class FullProtobufDialect(ProtobufDialect):
    """Codec of the clients that log in with a cursor; see :class:`imserver.protocol.dialect.Dialect`."""

    commands = FULL_COMMANDS

    def unreadable(self, name: str) -> Request:
        """What becomes of a command that cannot be read: it is refused."""
        return Request("", name, None, errors.REPLY_BAD_PARAMETER)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """An answer has the kind of its request; a login is acknowledged, or refused."""
        kind = _KIND_OF.get(request.name, 0)
        if kind in _ANSWERS:
            said = b"" if reply.data is None else _ANSWERS[kind](reply.data)
            return output(kind, said, reply.code)
        if request.name != "login":
            return None
        if reply.code != errors.REPLY_OK:
            return refusal(reply.code, kind)
        found = reply.data
        if not isinstance(found, Recovered):
            return LOGIN_ACK
        data = b"\x08\x03" + _flag(0x20, found.recovered) + _flag(0x28, found.begin_anew)
        return output(CT_ACK, data)

    def encode_event(self, event: Event) -> bytes | None:
        """A push that is not kept, or a signal."""
        return _signal(event) if isinstance(event, Signal) else super().encode_event(event)

    def shown(self, stored: Message) -> bytes:
        """Something stored as a ``Message``: these clients are shown everything."""
        return as_full_message(stored)

    def page(self, messages: Iterable[bytes], more: bool, begin_anew: bool) -> bytes:
        """The answer to a sync."""
        return full_page(messages, more, begin_anew)

    def refused(self, code: int, chat_number: int) -> bytes:
        """What is said of a message that is refused: its number is used up."""
        return refusal(code, CT_MESSAGE, chat_number)
