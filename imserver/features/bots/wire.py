"""What bots say in commands, and what clients ask about them: commands, and how they are read."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver.plugin.errors import ReplyCode
from imserver.plugin.wire import (
    Command,
    Fields,
    Limit,
    Readers,
    Refused,
    well_formed,
)

MAX_PIECES: Final = 1000
"""Limit of the pieces of one command."""
_MAX_STREAM_BYTES: Final = 64


class OpenAnswer(Command, frozen=True, gc=False):
    """Open a streamed message to the user ``to``, or in a ``conversation``. ``thread``: a message of it, in
    whose thread the answer is a reply (0: none)."""

    to: str = ""
    conversation: int = 0
    text: str = ""
    type: str = "text"
    thread: int = 0


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
    fields = Fields.of(data)
    to, conversation = fields.receiver()
    kind = fields.short_text("type", Limit.TYPE_BYTES) or "text"
    return OpenAnswer(to, conversation, fields.text("text"), kind, fields.id("thread"))


def _append_answer(data: bytes) -> AppendAnswer:
    try:
        pieces = msgspec.convert(Fields.of(data).values.get("pieces"), list[_Piece])
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if not 0 < len(pieces) <= MAX_PIECES or not all(
        0 < each.piece < 2**53 and each.text and len(each.stream) <= _MAX_STREAM_BYTES for each in pieces
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return AppendAnswer(tuple([(each.stream, each.piece, well_formed(each.text)) for each in pieces]))


def _close_answer(data: bytes) -> CloseAnswer:
    fields = Fields.of(data)
    stream = fields.short_text("stream", _MAX_STREAM_BYTES)
    if not stream:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return CloseAnswer(stream, fields.flag("incomplete"))


COMMANDS: Final[Readers] = {
    "streamOpen": _open_answer,
    "streamAppend": _append_answer,
    "streamClose": _close_answer,
    "botCommands": lambda data: AskBotCommands(Fields.of(data).needed_id("conversation")),
}
