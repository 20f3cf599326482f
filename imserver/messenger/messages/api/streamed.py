"""Routes for stored messages of channels, and for streamed messages: open a
message, append pieces to it, close it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import time
from typing import Annotated, ClassVar, Final

from msgspec import UNSET, Struct, UnsetType, field

from imserver.gateway.api.v1.channels import HistoryPosition, Tags
from imserver.gateway.api.v1.push_request import Kind
from imserver.gateway.auth.principal import Needs
from imserver.gateway.channels.members import ChannelRefused, encode_tags
from imserver.gateway.config.declared import about
from imserver.gateway.errors import Problems
from imserver.gateway.http.call import Call
from imserver.gateway.http.field import App, ChannelName
from imserver.gateway.http.operation import Resource
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.model import ChannelPart, Event
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.api.conversations import (
    Before,
    MessagesAnswer,
    PageLimit,
    shown_entry,
)
from imserver.messenger.messages.services import MessageServices
from imserver.messenger.streams.streamed_messages import Piece, StreamedMessages

StreamId = Annotated[
    str, about("The id of a streamed message.", min_length=1, max_length=64)
]


class StreamOpenRequest(Struct, forbid_unknown_fields=True):
    """A new streamed message."""

    app: App
    channel: ChannelName
    text: Annotated[str, about("The beginning of the text, if it already exists.")] = ""
    type: Kind = "text"
    sender: Annotated[str, about("The sender, as clients show it.", max_length=512)] = (
        ""
    )
    tags: Tags = field(default_factory=dict)


class StreamOpened(Struct):
    """The id of the new stream. Its first piece has the number 1."""

    stream: StreamId
    channel: str


class PieceRequest(Struct, forbid_unknown_fields=True):
    """A piece of a stream."""

    stream: StreamId
    piece: Annotated[
        int,
        about(
            "The number of the piece: 1, 2, 3 and so on within its stream.",
            ge=1,
            lt=2**53,
        ),
    ]
    text: Annotated[str, about("The text of the piece.", min_length=1)]


class PieceResult(Struct):
    """The result for one piece."""

    stream: StreamId
    piece: Annotated[
        int,
        about(
            "The number of the last piece of the stream; 0: the stream has no pieces "
            "or is unknown.",
            ge=0,
        ),
    ]
    status: Annotated[
        str,
        about(
            "`appended`. `repeated`: the stream already has this piece. `gap`: "
            "earlier pieces are missing; first append the pieces after `piece`. "
            "`too_long`: the message would be too long; close the stream. `closed`: "
            "the stream is closed. `unknown`: the stream does not exist, or its node "
            "has ended. `failed`: the node of the stream does not answer, but the "
            "node of another piece does; append the piece again with the same number."
        ),
    ]


def _refused(error: ChannelRefused) -> ApiProblem:
    """Return the problem of a request that the streams have refused."""
    if error.reason == "unavailable":
        return ApiProblem(Problems.NOT_ACCEPTED)
    if error.reason == "full":
        problem = Problems.TOO_MANY_STREAMS
    else:
        problem = Problems.INVALID_REQUEST
    return ApiProblem(problem, str(error))


class StreamAppended(Struct):
    """The results, in the order of the pieces."""

    results: list[PieceResult]

    REFUSALS: ClassVar[
        dict[type[Exception], Callable[[ChannelRefused], ApiProblem]]
    ] = {ChannelRefused: _refused}
    """The refusals of a ``Resource`` of streamed messages."""
    Pieces = Annotated[
        list[PieceRequest], about("The pieces.", min_length=1, max_length=1000)
    ]
    """The type of a field: pieces that a request appends to streamed texts."""

    @classmethod
    def to(
        cls,
        requests: Sequence[PieceRequest],
        append: Callable[[list[Piece]], Sequence[tuple[str, int]]],
    ) -> StreamAppended:
        """Append the pieces of a request, and return the answer.

        ``append`` returns for each piece its status, and the number of the last
        piece of its stream.
        """
        pieces = [(each.stream, each.piece, each.text) for each in requests]
        results = []
        for request, (status, last) in zip(requests, append(pieces), strict=True):
            results.append(PieceResult(request.stream, last, status))
        return cls(results)


class StreamClosed(HistoryPosition):
    """The result of closing a streamed message.

    `offset` and `epoch` are the position of the message in the history of the
    channel.
    """

    stream: StreamId
    status: Annotated[
        str,
        about(
            "`closed`. `repeated`: the stream was closed before. `unknown`: the "
            "stream does not exist, or its node has ended."
        ),
    ]
    channel: str | UnsetType = UNSET


routes = Resource(
    "channels",
    service=lambda core, _: core.service(MessageServices).channel_streams,
    refusals=StreamAppended.REFUSALS,
    need=Needs.PUSH,
    act="",
)


@routes.post(
    "/channels/stream/open", on_publisher=True, problems=(Problems.TOO_MANY_STREAMS,)
)
def open_stream(
    streams: StreamedMessages, call: Call, request: StreamOpenRequest
) -> StreamOpened:
    """Open a streamed message.

    Use a streamed message for text that is produced in pieces, such as the
    tokens of a language model. Subscribers of the channel receive the
    beginning, then each piece. At the end they receive a publication with the
    whole text, which the server also adds to the history of the channel. If no
    new piece arrives for `limits.stream_seconds`, the server closes the stream
    as incomplete. A repeated request opens another stream.
    """
    part = ChannelPart(request.channel, tags=encode_tags(request.tags))
    head = Event(
        "stream", request.sender, "", type=request.type, time=int(time()), channel=part
    )
    return StreamOpened(streams.open(call.app, head, request.text), request.channel)


@routes.post(
    "/channels/stream/append",
    schema=(
        "StreamAppendRequest",
        "Pieces of one or several streams, in the order of their numbers.",
    ),
    on_publisher=True,
    problems=(Problems.NOT_ACCEPTED,),
)
def append(
    streams: StreamedMessages, call: Call, app: App, pieces: StreamAppended.Pieces
) -> StreamAppended:
    """Append pieces to streamed messages.

    A request may have many pieces of many streams. You can send it to any node.
    The server ignores a piece whose number the stream already has, so you may
    repeat a request.
    """
    return StreamAppended.to(pieces, partial(streams.append, call.app))


@routes.post(
    "/channels/stream/close",
    schema=("StreamCloseRequest", "The end of a streamed message."),
    on_publisher=True,
    problems=(Problems.NOT_ACCEPTED,),
)
def close(
    streams: StreamedMessages,
    call: Call,
    app: App,
    stream: StreamId,
    incomplete: Annotated[
        bool,
        about(
            "Whether the text is incomplete for good. Clients may show that the text "
            "is incomplete."
        ),
    ] = False,
) -> StreamClosed:
    """Close a streamed message.

    Subscribers receive the whole text as a publication. If the channel has a
    history, the history receives only this publication. A message without any
    text is not added to a history.
    """
    closed = streams.close(call.app, stream, incomplete)
    answer = StreamClosed(stream, closed.status, closed.channel or UNSET)
    if closed.offset:
        answer.offset = closed.offset
        answer.epoch = closed.epoch
    return answer


_stored = Resource(
    "channels", service=lambda core, _: core.service(MessageServices).log
)


@_stored.get("/channels/messages", Needs.ADMIN, hot=False)
def messages(
    log: MessageLog,
    call: Call,
    app: App,
    channel: ChannelName,
    before: Before = 0,
    limit: PageLimit = 50,
) -> MessagesAnswer:
    """List the stored messages of a channel, the newest page first.

    Lists the publications of a stored channel. In apps with
    `store_conversations`, it also lists the messages of the room of the
    `action` dialect with this name.
    """
    page = log.entries.channel_page(
        call.app, channel, before or None, limit, reverse=True, revisions=True
    )
    rows = [shown_entry(each) for each in reversed(page.entries)]
    next_before = 0
    if page.more:
        next_before = rows[0].id
    return MessagesAnswer(rows, next_before)


ROWS: Final = (*_stored.rows, *routes.rows)
