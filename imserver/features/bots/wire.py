"""What bots say in commands, and what clients ask about them: commands, and how they are read."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import (
    MAX_TYPE_BYTES,
    Command,
    Readers,
    Refused,
    fields_of,
    id_in,
    needed_id,
    short_text,
    text_in,
    well_formed,
)

MAX_PIECES: Final = 1000
"""Limit of the pieces of one command."""
_MAX_STREAM_BYTES: Final = 64


class OpenAnswer(Command, frozen=True, gc=False):
    """Open a streamed message to the user ``to``, or in a ``conversation``."""

    to: str = ""
    conversation: int = 0
    text: str = ""
    type: str = "text"


class AppendAnswer(Command, frozen=True, gc=False):
    """Append ``pieces`` (stream, number, text) to streamed messages."""

    pieces: tuple[tuple[str, int, str], ...]


class CloseAnswer(Command, frozen=True, gc=False):
    """Close a streamed message. ``incomplete``: its text is not finished."""

    stream: str
    incomplete: bool = False


class AskBotCommands(Command, frozen=True, gc=False):
    """Request the slash commands of the bots in a conversation."""

    conversation: int


class _Piece(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    piece: int
    text: str


def _open_answer(data: bytes) -> OpenAnswer:
    fields = fields_of(data)
    to, conversation = short_text(fields, "to", MAX_USER_BYTES), id_in(fields, "conversation")
    if bool(to) == bool(conversation):
        raise Refused(ReplyCode.BAD_PARAMETER)
    kind = short_text(fields, "type", MAX_TYPE_BYTES) or "text"
    return OpenAnswer(to, conversation, text_in(fields, "text"), kind)


def _append_answer(data: bytes) -> AppendAnswer:
    try:
        pieces = msgspec.convert(fields_of(data).get("pieces"), list[_Piece])
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if not 0 < len(pieces) <= MAX_PIECES or not all(
        0 < each.piece < 2**53 and each.text and len(each.stream) <= _MAX_STREAM_BYTES for each in pieces
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return AppendAnswer(tuple([(each.stream, each.piece, well_formed(each.text)) for each in pieces]))


def _close_answer(data: bytes) -> CloseAnswer:
    fields = fields_of(data)
    stream, incomplete = short_text(fields, "stream", _MAX_STREAM_BYTES), fields.get("incomplete", False)
    if not stream or not isinstance(incomplete, bool):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return CloseAnswer(stream, incomplete)


COMMANDS: Final[Readers] = {
    "streamOpen": _open_answer,
    "streamAppend": _append_answer,
    "streamClose": _close_answer,
    "botCommands": lambda data: AskBotCommands(needed_id(fields_of(data), "conversation")),
}
