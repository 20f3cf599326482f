"""What bots say in commands, and what clients ask about them: commands, and how
they are read."""

from typing import Any, Final

import msgspec

from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Command, Fields, Limit, Readers, Refused, well_formed

MAX_STOPPERS: Final = 100
"""Limit of the users whom a bot lets stop its stream."""
_MAX_STREAM_BYTES: Final = 64


class OpenAnswer(Command, frozen=True, gc=False):
    """Open a streamed message to the user ``to``, or in a ``conversation``.
    ``thread``: a message of it, in whose thread the answer is a reply (0:
    none). ``stoppers``: who may stop it; None: all readers."""

    to: str = ""
    conversation: int = 0
    text: str = ""
    type: str = "text"
    thread: int = 0
    stoppers: tuple[str, ...] | None = None


class AppendAnswer(Command, frozen=True, gc=False):
    """Append ``pieces`` (stream, number, text) to streamed messages."""

    pieces: tuple[tuple[str, int, str], ...]


class CloseAnswer(Command, frozen=True, gc=False):
    """Close a streamed message. ``incomplete``: its text is not finished."""

    stream: str
    incomplete: bool = False


class StopAnswer(Command, frozen=True, gc=False):
    """Stop a streamed message that the user reads."""

    stream: str


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
    stoppers = fields.values.get("stoppers")
    return OpenAnswer(
        to,
        conversation,
        fields.text("text"),
        kind,
        fields.id("thread"),
        None if stoppers is None else _users(stoppers),
    )


def _users(users: Any) -> tuple[str, ...]:
    if not isinstance(users, list) or len(users) > MAX_STOPPERS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple(
        [Fields({"user": user}).short_text("user", MAX_USER_BYTES) for user in users]
    )


def _append_answer(data: bytes) -> AppendAnswer:
    try:
        pieces = msgspec.convert(Fields.of(data).values.get("pieces"), list[_Piece])
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if not 0 < len(pieces) <= 1000 or not all(
        0 < each.piece < 2**53 and each.text and len(each.stream) <= _MAX_STREAM_BYTES
        for each in pieces
    ):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return AppendAnswer(
        tuple([(each.stream, each.piece, well_formed(each.text)) for each in pieces])
    )


def _stream_of(fields: Fields) -> str:
    stream = fields.short_text("stream", _MAX_STREAM_BYTES)
    if not stream:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return stream


COMMANDS: Final[Readers] = {
    "streamOpen": _open_answer,
    "streamAppend": _append_answer,
    "streamClose": lambda data: CloseAnswer(
        _stream_of(fields := Fields.of(data)), fields.flag("incomplete")
    ),
    "streamStop": lambda data: StopAnswer(_stream_of(Fields.of(data))),
    "botCommands": lambda data: AskBotCommands(
        Fields.of(data).needed_id("conversation")
    ),
}
