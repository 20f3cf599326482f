"""What clients of the ``protobuf`` dialect may ask that log in with a cursor."""

from __future__ import annotations

from typing import Final

from imserver.model import (
    Ack,
    AskMarks,
    AskReceipts,
    ChatSync,
    Command,
    Conversations,
    Hide,
    History,
    Read,
    Received,
    Search,
    Typing,
)
from imserver.protocol.cmd_signals import MAX_WORDS_BYTES
from imserver.protocol.cmd_stored import MAX_HIDDEN, MAX_PAGE, MAX_RECEIVER_BYTES
from imserver.protocol.protobuf import (
    AT_PUSH,
    COMMANDS,
    CT_ACK,
    CT_SYNC,
    MAX_ID,
    Row,
    bytes_in,
    int_in,
    text_in,
)
from imserver.protocol.varints import Broken, Fields, read_fields, read_numbers

(
    CT_READ,
    CT_RECEIVED,
    CT_TYPING,
    CT_HIDE,
    CT_HISTORY,
    CT_CONVERSATIONS,
    CT_RECEIPTS,
    CT_MARKS,
    CT_SEARCH,
    CT_SIGNAL,
) = range(6, 16)
"""Kinds of frames that the original does not know."""
_PAGE: Final = 50


def _id(fields: Fields, tag: int) -> int:
    return min(int_in(fields, tag), MAX_ID)


def _needed(fields: Fields, tag: int) -> int:
    found = _id(fields, tag)
    if not found:
        raise Broken
    return found


def _limit(fields: Fields, tag: int) -> int:
    return min(int_in(fields, tag) or _PAGE, MAX_PAGE)


def _read_ack(data: bytes) -> Command:
    fields = read_fields(data)
    if int_in(fields, 0x08) != AT_PUSH:
        raise Broken
    return Ack(_id(fields, 0x18))


def _read_sync(data: bytes) -> Command:
    fields = read_fields(data)
    return ChatSync(int_in(fields, 0x08), _limit(fields, 0x10))


def _read_read(data: bytes) -> Command:
    fields = read_fields(data)
    return Read(_needed(fields, 0x08), _needed(fields, 0x10))


def _read_received(data: bytes) -> Command:
    fields = read_fields(data)
    return Received(_needed(fields, 0x08), _needed(fields, 0x10))


def _read_typing(data: bytes) -> Command:
    fields = read_fields(data)
    to, conversation = int_in(fields, 0x08), _id(fields, 0x10)
    if bool(to) == bool(conversation) or to > MAX_ID:
        raise Broken
    return Typing(str(to) if to else "", conversation)


def _read_hide(data: bytes) -> Command:
    ids = read_numbers(bytes_in(read_fields(data), 0x0A), MAX_HIDDEN)
    if not ids or not all(0 < each <= MAX_ID for each in ids):
        raise Broken
    return Hide(ids)


def _read_history(data: bytes) -> Command:
    fields = read_fields(data)
    return History(_needed(fields, 0x08), _id(fields, 0x10), _limit(fields, 0x18))


def _read_conversations(data: bytes) -> Command:
    fields = read_fields(data)
    return Conversations(_id(fields, 0x08), _limit(fields, 0x10))


def _read_receipts(data: bytes) -> Command:
    fields = read_fields(data)
    return AskReceipts(_needed(fields, 0x08), text_in(fields, 0x12, MAX_RECEIVER_BYTES), _limit(fields, 0x18))


def _read_marks(data: bytes) -> Command:
    return AskMarks(_id(read_fields(data), 0x08))


def _read_search(data: bytes) -> Command:
    fields = read_fields(data)
    text = text_in(fields, 0x0A, MAX_WORDS_BYTES)
    if not text.strip():
        raise Broken
    return Search(text, _id(fields, 0x10), _id(fields, 0x18), _limit(fields, 0x20))


FULL_COMMANDS: Final[dict[int, Row]] = {
    **COMMANDS,
    CT_ACK: ("ack", _read_ack),
    CT_SYNC: ("sync", _read_sync),
    CT_READ: ("read", _read_read),
    CT_RECEIVED: ("received", _read_received),
    CT_TYPING: ("typing", _read_typing),
    CT_HIDE: ("hide", _read_hide),
    CT_HISTORY: ("history", _read_history),
    CT_CONVERSATIONS: ("conversations", _read_conversations),
    CT_RECEIPTS: ("receipts", _read_receipts),
    CT_MARKS: ("marks", _read_marks),
    CT_SEARCH: ("search", _read_search),
}
"""Every command of these clients."""
