"""Commands of the ``cmd`` dialect about who is typing, has read and has received, and how a client is told of
it; and the one that finds what was said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from imserver import errors
from imserver.model import AskMarks, AskReceipts, Command, Received, Search, Signal, Typing
from imserver.protocol.cmd_stored import MAX_RECEIVER_BYTES, id_in, limit_in, needed_id, short_text
from imserver.protocol.forgiving import Refused, fields_of

MAX_WORDS_BYTES: Final = 256
"""Bytes of what is looked for."""

_encode = msgspec.json.Encoder().encode


def _received(data: bytes) -> Received:
    fields = fields_of(data)
    return Received(needed_id(fields, "conversation"), needed_id(fields, "id"))


def _receipts(data: bytes) -> AskReceipts:
    fields = fields_of(data)
    after = short_text(fields, "after", MAX_RECEIVER_BYTES)
    return AskReceipts(needed_id(fields, "conversation"), after, limit_in(fields))


def _marks(data: bytes) -> AskMarks:
    return AskMarks(id_in(fields_of(data), "version"))


def _typing(data: bytes) -> Typing:
    fields = fields_of(data)
    to, conversation = short_text(fields, "to", MAX_RECEIVER_BYTES), id_in(fields, "conversation")
    if bool(to) == bool(conversation):
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Typing(to, conversation)


def _search(data: bytes) -> Search:
    fields = fields_of(data)
    text = short_text(fields, "text", MAX_WORDS_BYTES)
    if not text.strip():
        raise Refused(errors.REPLY_BAD_PARAMETER)
    return Search(text, id_in(fields, "conversation"), id_in(fields, "before"), limit_in(fields))


SIGNAL_COMMANDS: Final[dict[str, Callable[[bytes], Command]]] = {
    "received": _received,
    "receipts": _receipts,
    "marks": _marks,
    "typing": _typing,
    "search": _search,
}


def told(signal: Signal) -> bytes:
    """The ``data`` of a pushed frame, as JSON; what is empty is left out."""
    if signal.kind == "hidden":
        return _encode({"ids": signal.ids})
    shown: dict[str, Any] = {"from": signal.sender}
    for key in ("to", "conversation", "read", "received"):
        if value := getattr(signal, key):
            shown[key] = value
    return _encode(shown)
