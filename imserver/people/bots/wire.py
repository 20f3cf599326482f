"""The commands of bots, and the commands of clients about bots, with their
decoders."""

from typing import Any, Final

import msgspec

from imserver.plugin.errors import ReplyCode
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Command, Fields, Limit, Readers, Refused, well_formed

MAX_STOPPERS: Final = 100
"""Limit of the users whom a bot lets stop its stream."""
_MAX_STREAM_BYTES: Final = 64
_MAX_PIECES: Final = 1000
"""Limit of the pieces in one command."""
_END_OF_NUMBERS: Final = 2**53
"""The numbers of JavaScript are not exact from here on."""


class OpenAnswer(Command, frozen=True, gc=False):
    """Open a streamed message to the user ``to``, or in a ``conversation``.

    ``thread`` is a message of the conversation, in whose thread the answer is a
    reply; 0 means no thread. ``stoppers`` are the users who may stop it; None
    means all readers.
    """

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
    """Close a streamed message. ``incomplete`` says that its text is not
    finished."""

    stream: str
    incomplete: bool = False


class StopAnswer(Command, frozen=True, gc=False):
    """Stop a streamed message that the user reads."""

    stream: str


class AskBotCommands(Command, frozen=True, gc=False):
    """Request the slash commands of the bots in a conversation."""

    conversation: int


class _Piece(msgspec.Struct, forbid_unknown_fields=True):
    """One piece of a streamed message, as clients send it."""

    stream: str
    piece: int
    text: str


def _open_answer(data: bytes) -> OpenAnswer:
    """Read the data of ``streamOpen``. Raises Refused if it is not valid."""
    fields = Fields.of(data)
    to, conversation = fields.receiver()
    type = fields.short_text("type", Limit.TYPE_BYTES) or "text"
    text = fields.text("text")
    thread = fields.id("thread")
    # A missing list means that all readers may stop it. An empty one means
    # nobody.
    users = fields.values.get("stoppers")
    if users is None:
        return OpenAnswer(to, conversation, text, type, thread)
    return OpenAnswer(to, conversation, text, type, thread, _users(users))


def _users(users: Any) -> tuple[str, ...]:
    """The users in the list ``stoppers``. Raises Refused if it is not valid."""
    if not isinstance(users, list) or len(users) > MAX_STOPPERS:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return tuple(
        [Fields({"user": user}).short_text("user", MAX_USER_BYTES) for user in users]
    )


def _append_answer(data: bytes) -> AppendAnswer:
    """Read the data of ``streamAppend``. Raises Refused if it is not valid."""
    try:
        pieces = msgspec.convert(Fields.of(data).values.get("pieces"), list[_Piece])
    except ValueError:
        raise Refused(ReplyCode.BAD_PARAMETER) from None
    if not 0 < len(pieces) <= _MAX_PIECES or not all(map(_is_valid, pieces)):
        raise Refused(ReplyCode.BAD_PARAMETER)
    return AppendAnswer(
        tuple([(each.stream, each.piece, well_formed(each.text)) for each in pieces])
    )


def _is_valid(piece: _Piece) -> bool:
    """Whether the values of a piece are in their limits."""
    is_number = 0 < piece.piece < _END_OF_NUMBERS
    return is_number and piece.text != "" and len(piece.stream) <= _MAX_STREAM_BYTES


def _stream_of(fields: Fields) -> str:
    """The id of the stream in a command. Raises Refused if it is missing."""
    stream = fields.short_text("stream", _MAX_STREAM_BYTES)
    if not stream:
        raise Refused(ReplyCode.BAD_PARAMETER)
    return stream


def _close_answer(data: bytes) -> CloseAnswer:
    """Read the data of ``streamClose``. Raises Refused if it is not valid."""
    fields = Fields.of(data)
    return CloseAnswer(_stream_of(fields), fields.flag("incomplete"))


def _stop_answer(data: bytes) -> StopAnswer:
    """Read the data of ``streamStop``. Raises Refused if it is not valid."""
    return StopAnswer(_stream_of(Fields.of(data)))


def _bot_commands(data: bytes) -> AskBotCommands:
    """Read the data of ``botCommands``. Raises Refused if it is not valid."""
    return AskBotCommands(Fields.of(data).needed_id("conversation"))


COMMANDS: Final[Readers] = {
    "streamOpen": _open_answer,
    "streamAppend": _append_answer,
    "streamClose": _close_answer,
    "streamStop": _stop_answer,
    "botCommands": _bot_commands,
}
