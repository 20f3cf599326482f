"""Streamed answers: a bot opens a message in a conversation, appends pieces to
it, closes it."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.people.bots.answers import StreamedAnswers
from imserver.people.bots.api import CHAPTER
from imserver.people.bots.parts import bots_of
from imserver.people.bots.wire import MAX_STOPPERS, OpenAnswer
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about, one_of
from imserver.plugin.identity import Needs
from imserver.plugin.messages import Rejected, RejectReason, StreamAppended
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Limit

StreamId = Annotated[
    str, about("The id of a streamed message.", min_length=1, max_length=64)
]


class AnswerOpened(Struct):
    """The id of the new stream. Its first piece has the number 1."""

    stream: StreamId


class AnswerStopped(Struct):
    """The result of stopping a streamed answer."""

    stream: StreamId
    status: Annotated[
        str,
        about(
            "`closed`: the stream is closed now. `repeated`: it was closed before. "
            "`unknown`: the stream does not exist, or its node has ended."
        ),
    ]


class AnswerClosed(Struct):
    """The result of closing a streamed answer."""

    stream: StreamId
    status: Annotated[
        str,
        about(
            "`closed`: the stream is closed now. `repeated`: it was closed before. "
            "`unknown`: the bot has no such stream, or the node of the stream has "
            "ended."
        ),
    ]
    id: Annotated[int, about("The id of the stored message.")] | UnsetType = UNSET


_NOT_STORED: Final = (
    Problems.UNKNOWN_ACCOUNT,
    Problems.UNKNOWN_CONVERSATION,
    Problems.MUTED,
)


routes = Resource(
    "bots",
    service=lambda core, _: bots_of(core).answers,
    base=Acting,
    hot=False,
    chapter=CHAPTER,
    refusals=StreamAppended.REFUSALS,
    need=Needs.ADMIN_OR_BOT,
    act="",
)


@routes.post(
    "/messages/stream/open",
    schema=(
        "AnswerOpenRequest",
        "The message to begin. Give either `to` or `conversation`.",
    ),
    rules=one_of("to", "conversation"),
    problems=(Problems.TOO_MANY_STREAMS, *_NOT_STORED),
)
def open_stream(
    answers: StreamedAnswers,
    call: Call,
    to: Annotated[
        str, about("The receiver. They may be offline.", max_length=MAX_USER_BYTES)
    ] = "",
    conversation: Annotated[
        int, about("A conversation or group, instead of `to`.", ge=0, le=Limit.ID)
    ] = 0,
    thread: Annotated[
        int,
        about(
            "A message of the conversation. The answer becomes a reply in the thread "
            "of this message.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0,
    text: Annotated[
        str, about("The beginning of the text, if you already have it.")
    ] = "",
    stoppers: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=MAX_USER_BYTES)]],
            about(
                "The users who may stop the answer. If you leave this out, everybody "
                "who reads it may stop it.",
                max_length=MAX_STOPPERS,
            ),
        ]
        | UnsetType
    ) = UNSET,
    type: Annotated[
        str,
        about(
            "The type of the message: `text`, or your own word.",
            min_length=1,
            max_length=Limit.TYPE_BYTES,
        ),
    ] = "text",
) -> AnswerOpened:
    """Open a streamed answer of a bot.

    For text that comes in pieces, such as the tokens of a language model.
    Connected users of the conversation receive the beginning, then each piece.
    At the end, the whole text is stored as one message. Its `client_msg_id` is
    the id of the stream. If no new piece comes for `limits.stream_seconds`, the
    server closes the stream, and `meta` of the message has `incomplete`.
    """
    users: tuple[str, ...] | None = None
    if stoppers is not UNSET:
        users = tuple(stoppers)
    command = OpenAnswer(
        to=to,
        conversation=conversation,
        text=text,
        type=type,
        thread=thread,
        stoppers=users,
    )
    stream = answers.open(call.app, call.user, command, is_back_end=call.is_back_end)
    if isinstance(stream, Rejected):
        if stream.reason == RejectReason.NOT_BOT:
            raise ApiProblem(Problems.UNKNOWN_ACCOUNT, "There is no such bot")
        raise ApiProblem(stream.problem, stream.explanation)
    return AnswerOpened(stream)


@routes.post(
    "/messages/stream/append",
    schema=(
        "AnswerAppendRequest",
        "Pieces of one or several streams of the bot, in the order of their numbers.",
    ),
    problems=(Problems.NOT_ACCEPTED,),
)
def append(
    answers: StreamedAnswers, call: Call, pieces: StreamAppended.Pieces
) -> StreamAppended:
    """Append pieces to streamed answers of a bot.

    A request may have many pieces of many streams. The server ignores a piece
    whose number the stream already has, so you may repeat a request.
    """

    def append_part(
        part: Sequence[tuple[str, int, str]],
    ) -> Sequence[tuple[str, int]]:
        """Append pieces of the bot who makes the request."""
        return answers.append(call.app, call.user, part, call.is_back_end)

    return StreamAppended.to(pieces, append_part)


@routes.post(
    "/messages/stream/close",
    schema=("AnswerCloseRequest", "The streamed answer to close."),
    problems=(Problems.NOT_ACCEPTED, *_NOT_STORED),
)
def close(
    answers: StreamedAnswers,
    call: Call,
    stream: StreamId,
    incomplete: Annotated[
        bool,
        about("Whether the text will stay unfinished. Clients may show that."),
    ] = False,
) -> AnswerClosed:
    """Close a streamed answer of a bot.

    The whole text is stored as one message. A stream without text ends without
    a message. Even if the message is refused, the stream is closed.
    """
    closed = answers.texts.close_text(call.app, stream, incomplete, call.user)
    if isinstance(closed, Rejected):
        raise ApiProblem(closed.problem, closed.explanation)
    status, id = closed
    return AnswerClosed(stream, status, id or UNSET)


@routes.post(
    "/messages/stream/stop",
    Needs.ADMIN_OR_USER,
    schema=("AnswerStopRequest", "The streamed answer to stop."),
    problems=(Problems.NOT_ACCEPTED,),
)
def stop(answers: StreamedAnswers, call: Call, stream: StreamId) -> AnswerStopped:
    """Stop a streamed answer that the user reads.

    The text so far is stored. Its `meta` has `incomplete`, and in `stopped` the
    user who stopped it. The bot receives this message, also at its webhook. The
    answer to its next piece is `closed`.
    """
    status = answers.texts.stop(call.app, stream, call.user).status
    if status == "not_allowed":
        raise ApiProblem(Problems.NOT_ALLOWED, "Others may stop this message")
    return AnswerStopped(stream, status)
