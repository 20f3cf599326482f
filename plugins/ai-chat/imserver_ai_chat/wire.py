"""The wire format: an answer as chunks of the AI SDK, and each chunk as an
event of AG-UI or TanStack.

AI SDK 7: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol. AG-UI 1:
https://docs.ag-ui.com/concepts/events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import gevent
import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from imserver.plugin.errors import CloseCode, ReplyCode
from imserver.plugin.http import ApiProblem
from imserver.plugin.messages import Message
from imserver.plugin.wire import (
    BadFrame,
    Command,
    Connection,
    Dialect,
    DialectState,
    Event,
    Reply,
    Request,
    StreamEncoding,
)

NAME: Final = "ai_chat"
"""Name of the feature and its dialect. Also the type of messages whose text is
chunks, one on each line."""
PING: Final = b": ping\n\n"
_ADDED_BY_SERVER: Final = ("start", "finish", "abort")
"""Chunks at the beginning and the end of a message. The server adds them, so
chunks of a producer with these types are left out."""
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

Chunk = dict[str, Any]
"""A part of an answer, in the words of the AI SDK."""
_MOST_DIGITS: Final = 15
"""Number of digits up to which JavaScript's numbers are exact."""


def chunk_of(line: str) -> Chunk | None:
    """Read the chunk on a line of a producer. None if the line is not a chunk.

    A *producer* is the program that writes the answers of a bot. It sends
    ``{"type": "text-delta", "id": "1", "delta": "Hel"}``, for example.
    """
    try:
        chunk = _decode(line)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(chunk, dict)
        or not isinstance(chunk.get("type"), str)
        or chunk["type"] in _ADDED_BY_SERVER
    ):
        return None
    return chunk


def metadata_of(message: Message) -> dict[str, Any]:
    """Return the facts about a message that a page may show.

    ``incomplete``: the producer has not finished it. ``stopped``: the reader
    who has stopped it. Both are missing for a usual message.
    """
    metadata = {"id": message.id, "from": message.sender, "time": message.time_ms}
    extras = message.message_meta()
    if extras.incomplete:
        metadata["incomplete"] = True
    if extras.stopped:
        metadata["stopped"] = extras.stopped
    return metadata


def is_number(text: str) -> bool:
    """Whether a text can be the id of a message, or a position in an answer."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def whole_chunks(message: Message) -> list[Chunk]:
    """Return the content of a stored message as chunks.

    A text becomes three chunks: its start, all of it, and its end. A message
    of another type, such as a picture, becomes one ``data-…`` chunk.
    """
    if message.type == NAME:
        # Not splitlines, because a chunk may contain U+2028.
        lines = message.body.decode("utf-8", "replace").split("\n")
        return [chunk for chunk in map(chunk_of, lines) if chunk is not None]
    if message.type == "text":
        text = message.body.decode("utf-8", "replace")
        return [_text("start"), {**_text("delta"), "delta": text}, _text("end")]
    return [_data_chunk(message)]


def _data_chunk(message: Message) -> Chunk:
    """Return a message that is neither a text nor chunks as one chunk."""
    view = message.view()
    content = view.text or view.data or view.base64
    return {"type": f"data-{message.type}", "id": str(message.id), "data": content}


def _text(step: str) -> Chunk:
    """Return a chunk of text: its ``start``, a ``delta`` (a piece of it) or its
    ``end``."""
    return {"type": f"text-{step}", "id": "text"}


class Answer(DialectState, kw_only=True, gc=True):
    """The answer that a connection receives, and how much of it was sent.

    A bot streams its answer in *pieces* of text. At its end the answer is
    stored as a message. Both come as events of the connection's user, and this
    object chooses the events that belong to the answer.
    """

    connection: Connection
    close: Callable[[], object]
    """Is called after the end of the answer."""
    encode: Callable[[Answer, Chunk], bytes]
    """Makes the bytes of a chunk."""
    user: str
    bot: str
    conversation: int
    channel: str
    """The channel of its conversation; open streams name it."""
    skipped: frozenset[str]
    """Ids of streams that are no answer to the question."""
    stream: str = ""
    """The id of its stream; ``""`` means the first stream of the bot that is
    not skipped."""
    run: str = ""
    thread: str = ""
    request: str = ""
    """The id of the request, if a connection gets several answers."""
    sequence: int = 0
    """The number of its next chunk, or the position after the last event
    (:func:`run_line`)."""
    passed: int = 0
    """The position up to which the client has the answer."""
    type: str = "text"
    begun: bool = False
    over: bool = False
    length: int = 0
    """How many characters were sent."""
    piece: int = -1
    """The number of the last piece; -1 if none has come."""
    incomplete_line: str = ""
    """The characters after the last line end."""

    def is_of(self, message: Message) -> bool:
        """Whether a stored message is a message of the bot in this
        conversation."""
        if message.kind != "message" or message.sender != self.bot:
            return False
        if self.conversation:
            return message.conversation == self.conversation and not message.members
        return self.user in message.members

    def take_piece(self, event: Event) -> bytes:
        """Return the bytes that the connection gets for a piece of a stream.

        ``b""`` if the piece belongs to another answer, is repeated, or comes
        before the connection has the text so far.
        """
        part = event.channel
        if self.over or part is None or part.stream is None or event.sender != self.bot:
            return b""
        stream = part.stream
        is_other = self.stream not in ("", stream.id)
        if is_other or part.name != self.channel or stream.id in self.skipped:
            return b""
        self.stream = stream.id
        self.type = event.type
        if stream.done:  # the stream has ended without a message
            return self._joined((*self._begin(), *self._end({"incomplete": True})))
        # The first piece for this connection has the whole text so far. Only
        # then do the numbers of further pieces tell which text is new.
        if stream.whole:
            text = event.text[self.length :]
        elif self.piece < 0 or stream.piece <= self.piece:
            return b""
        else:
            text = event.text
        self.piece = stream.piece
        return self._joined((*self._begin(), *self._more(text)))

    def take_message(self, message: Message) -> bytes:
        """Return the bytes that the connection gets for a stored message.

        It is the end of a streamed answer, or a whole answer that was not
        streamed. ``b""`` if the message is not the answer.
        """
        # The message of a stream has the id of the stream.
        stream = message.client_msg_id or str(message.id)
        if self.over or not self.is_of(message):
            return b""
        if self.stream not in ("", stream) or stream in self.skipped:
            return b""
        if self.begun:
            # The last pieces may not have come.
            text = message.body.decode("utf-8", "replace")
            chunks = self._more(text[self.length :])
            return self._joined((*chunks, *self._end(metadata_of(message))))

        self.stream = stream
        return self._joined(
            (
                *self._start(),
                *whole_chunks(message),
                *self._finish(metadata_of(message)),
            )
        )

    def _begin(self) -> Iterable[Chunk]:
        """Return the chunks at the beginning, unless they were sent."""
        if self.begun:
            return ()
        if self.type == NAME:
            return self._start()
        return (*self._start(), _text("start"))

    def _start(self) -> Iterable[Chunk]:
        """Return the first chunk, which tells the client the id of the
        answer."""
        self.begun = True
        return ({"type": "start", "messageId": self.stream},)

    def _more(self, text: str) -> Iterable[Chunk]:
        """Return the chunks for the next text.

        If the producer sends chunks, one on each line, the last line waits
        until it is complete.
        """
        self.length += len(text)
        if self.type != NAME:
            if text:
                return ({**_text("delta"), "delta": text},)
            return ()
        *lines, self.incomplete_line = (self.incomplete_line + text).split("\n")
        return [chunk for chunk in map(chunk_of, lines) if chunk is not None]

    def _end(self, metadata: dict[str, Any]) -> Iterable[Chunk]:
        """Return the chunks at the end.

        They are the last line of a producer, if it is complete now, and the
        finish.
        """
        if self.type != NAME:
            return (_text("end"), *self._finish(metadata))
        last = chunk_of(self.incomplete_line)
        if last is None:
            return self._finish(metadata)
        return (last, *self._finish(metadata))

    def _finish(self, metadata: dict[str, Any]) -> Iterable[Chunk]:
        """Return the last chunk, and end the answer.

        ``close`` is called by another greenlet, after the caller has sent the
        chunk.
        """
        self.over = True
        gevent.spawn(self.close)
        if "incomplete" in metadata:
            reason = "interrupted"
        else:
            reason = "stop"
        return (
            {"type": "finish", "finishReason": reason, "messageMetadata": metadata},
        )

    def _joined(self, chunks: Iterable[Chunk]) -> bytes:
        """Return chunks as bytes for the connection."""
        return b"".join([self.encode(self, chunk) for chunk in chunks])


class Socket(DialectState, kw_only=True, gc=True):
    """The answers that a WebSocket receives.

    Each answer sends its frames itself, so both methods return ``b""``.
    """

    authorization: str
    """The token in the URL, as a header of HTTP would have it."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Id of a request → the answer to it."""

    def take_piece(self, event: Event) -> bytes:
        """Give a piece of a stream to all answers."""
        return b"".join(
            [answer.take_piece(event) for answer in tuple(self.answers.values())]
        )

    def take_message(self, message: Message) -> bytes:
        """Give a stored message to all answers."""
        return b"".join(
            [answer.take_message(message) for answer in tuple(self.answers.values())]
        )


class AnswerDialect(Dialect):
    """The codec of answers over HTTP.

    ``done``: the bytes that follow an answer that has ended.
    """

    name = NAME
    logs_in = False
    pinged = True
    ping = PING

    def __init__(self, done: bytes = b"") -> None:
        self._done = done

    def encode_event(
        self, event: Event
    ) -> Callable[[str, DialectState | None], bytes] | None:
        """Return the function that encodes a piece of a streamed message for a
        connection.

        None for other events, because clients of chats get only answers.
        """
        if event.kind != "piece":
            return None

        def encode(_user: str, state: DialectState | None) -> bytes:
            if isinstance(state, Answer | Socket):
                return state.take_piece(event)
            return b""

        return encode

    def encode_message(
        self, message: Message
    ) -> Callable[[str, DialectState | None], bytes]:
        """Return the function that encodes a stored message for a
        connection."""

        def encode(_user: str, state: DialectState | None) -> bytes:
            if isinstance(state, Answer | Socket):
                return state.take_message(message)
            return b""

        return encode

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Return the last bytes of a connection.

        None if it closes before the answer has ended. Then the client comes
        back.
        """
        if code == CloseCode.NORMAL:
            return self._done
        return None


class Asking(Command, frozen=True):
    """A request on a WebSocket: send a message, get the open answer, or stop
    it.

    Two clients send such requests: ``WebSocketChatTransport`` of the AI SDK,
    and ``webSocket()`` of TanStack.
    """

    kind: Literal["send", "resume", "abort"]
    request: str
    """The id of the request; for TanStack, that of the run."""
    chat: str
    authorization: str
    body: bytes
    is_run: bool = False
    """Whether it comes from TanStack."""
    offset: str | None = None
    """The position of the client in a run that continues: ``-1``, or the id of
    its last event. None for other requests."""

    def position(self) -> tuple[str, int]:
        """The id of the stream, and the position in it, up to which the client
        has a run.

        ``s1:42`` is position 42 in stream ``s1``. ``("", 0)`` if no stream has
        begun. Raises ApiProblem.
        """
        if self.offset in (None, "-1"):
            return "", 0
        stream, mark, passed = str(self.offset).rpartition(":")
        if not mark or not is_number(passed):
            raise ApiProblem.invalid("`offset` is -1, or the id of an event")
        return stream, int(passed)

    def refusal(self, why: str) -> bytes:
        """Return the frame that the client gets in place of an answer."""
        if self.is_run:
            return _encode({"type": "RUN_ERROR", "message": why})
        return socket_frame("error", self.request, errorText=why)


class _Frame(Struct, rename="camel"):
    """A frame of a client, such as ``{"type": "send", "requestId": "r1", "id":
    "7", …}``."""

    type: Literal["send", "resume", "abort"] = "send"
    request_id: Annotated[str, Meta(max_length=255)] = ""
    run_id: Annotated[str, Meta(max_length=255)] = ""
    id: str = ""
    headers: dict[str, str] = {}
    offset: str | None = None


_read_frame: Final = msgspec.json.Decoder(_Frame).decode


class SocketDialect(AnswerDialect):
    """The codec of WebSockets of the AI SDK and of TanStack.

    One WebSocket gets answers to several requests. Requests of TanStack have
    the ids of their runs.
    """

    path = "/ai-chat/socket"
    ping = b""

    def decode(self, payload: bytes) -> Request:
        """Decode a request. Raises BadFrame."""
        try:
            frame = _read_frame(payload)
        except (ValueError, RecursionError):
            raise BadFrame(None, CloseCode.POLICY) from None
        request = frame.request_id or frame.run_id
        if not request:
            raise BadFrame(None, CloseCode.POLICY)
        # TanStack has names for its runs, but not for requests.
        is_run = not frame.request_id
        asking = Asking(
            kind=frame.type,
            request=request,
            chat=frame.id,
            authorization=_authorization_in(frame.headers),
            body=payload,
            is_run=is_run,
        )
        if is_run:
            asking = replace(asking, offset=frame.offset)
        return Request(request, frame.type, asking)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        """Return the frame for a refused request. None if the request was not
        refused."""
        assert isinstance(request.command, Asking)
        if reply.code == ReplyCode.OK:
            return None
        return request.command.refusal("refused")

    def encode_close(self, code: int, reason: str) -> bytes | None:
        """Return None, because the close frame of a WebSocket is enough."""
        return None


def _authorization_in(headers: Mapping[str, str]) -> str:
    """Return the header with the token, whose name may have any case, or
    ``""``.

    A browser cannot set headers of a WebSocket, so its frames have them.
    """
    for name, text in headers.items():
        if name.lower() == "authorization":
            return text
    return ""


def resume_frame(parameters: Mapping[str, str]) -> bytes:
    """Return the request in the parameters of a URL, as a frame would have it.

    A run of TanStack continues after the parameter ``offset``.
    """
    run = parameters.get("runId", "")
    chat = parameters.get("chat", "")
    return _encode(
        {"type": "resume", "runId": run, "id": chat, "offset": parameters["offset"]}
    )


def socket_frame(type: str, request: str, **more: object) -> bytes:
    """Return a frame for ``WebSocketChatTransport``, such as ``{"type": "end",
    "requestId": "r1"}``."""
    return _encode({"type": type, "requestId": request, **more})


def socket_line(answer: Answer, chunk: Chunk) -> bytes:
    """Send a chunk to ``WebSocketChatTransport``, in a separate frame.

    Returns ``b""``, because the caller need not send anything.
    """
    sequence = answer.sequence
    answer.sequence += 1
    answer.connection.send(
        socket_frame("chunk", answer.request, sequence=sequence, chunk=chunk)
    )
    return b""


class ChunkedEncoding(StreamEncoding):
    """Sends payloads in the chunks of HTTP/1.1.

    The last chunk comes only after the end of the answer, so that clients know
    whether more will come.
    """

    def frame(self, payload: bytes, _opcode: int = 0) -> bytes:
        """Return the payload as a chunk of HTTP: its length in hexadecimal, and
        its bytes."""
        if payload:
            return b"%x\r\n%b\r\n" % (len(payload), payload)
        return b""

    def close_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        """Return the last payload, and the end of the body if the answer has
        ended."""
        last = super().close_frames(code, reason, as_given)
        if code == CloseCode.NORMAL:
            return last + b"0\r\n\r\n"
        return last


def ui_line(_answer: Answer, chunk: Chunk) -> bytes:
    """Return a chunk for the AI SDK: an event of server-sent events with its
    JSON."""
    return b"data: %b\n\n" % _encode(chunk)


def _renamed_fields(
    *names: tuple[str, str], **more: str
) -> Callable[[Answer, Chunk], Chunk]:
    """Make a function that makes the fields of an event of AG-UI from a chunk.

    ``names``: (name in the chunk, name in the event). ``more``: constant
    fields.
    """

    def fields(_answer: Answer, chunk: Chunk) -> Chunk:
        renamed = {new: chunk.get(old, "") for old, new in names}
        return {**renamed, **more}

    return fields


def _run_of(answer: Answer, _chunk: Chunk) -> Chunk:
    """Return the fields of an event about a whole run."""
    return {"threadId": answer.thread, "runId": answer.run}


def _tool_result_of(answer: Answer, chunk: Chunk) -> Chunk:
    """Return the fields of the event with the result of a tool that the bot has
    used."""
    call = chunk.get("toolCallId", "")
    return {
        "messageId": f"{answer.stream}-{call}",
        "toolCallId": call,
        "content": _content(chunk),
        "role": "tool",
    }


def _content(chunk: Chunk) -> str:
    """Return the result of a tool as a text, which is JSON if it was no
    text."""
    output = chunk.get("output", chunk.get("errorText", ""))
    if isinstance(output, str):
        return output
    return _encode(output).decode()


_ID: Final = ("id", "messageId")
_CALL: Final = ("toolCallId", "toolCallId")
AG_UI: Final[dict[str, tuple[str, Callable[[Answer, Chunk], Chunk]]]] = {
    "start": ("RUN_STARTED", _run_of),
    "finish": ("RUN_FINISHED", _run_of),
    "error": ("RUN_ERROR", lambda _, chunk: {"message": chunk.get("errorText", "")}),
    "text-start": ("TEXT_MESSAGE_START", _renamed_fields(_ID, role="assistant")),
    "text-delta": ("TEXT_MESSAGE_CONTENT", _renamed_fields(_ID, ("delta", "delta"))),
    "text-end": ("TEXT_MESSAGE_END", _renamed_fields(_ID)),
    "tool-input-start": (
        "TOOL_CALL_START",
        _renamed_fields(_CALL, ("toolName", "toolCallName")),
    ),
    "tool-input-delta": (
        "TOOL_CALL_ARGS",
        _renamed_fields(_CALL, ("inputTextDelta", "delta")),
    ),
    "tool-input-available": ("TOOL_CALL_END", _renamed_fields(_CALL)),
    "tool-output-available": ("TOOL_CALL_RESULT", _tool_result_of),
}
"""Type of a chunk → its event of AG-UI, and the function that makes its fields.
Data parts become CUSTOM; other chunks are left out."""


def _ag_ui_event(answer: Answer, chunk: Chunk) -> dict[str, Any] | None:
    """Convert a chunk to an event of AG-UI. None if AG-UI has no event for it.

    ``{"type": "text-delta", "id": "1", "delta": "Hel"}`` becomes ``{"type":
    "TEXT_MESSAGE_CONTENT", "messageId": "s1-1", "delta": "Hel"}``.
    """
    kind = chunk["type"]
    if kind.startswith("data-"):
        name = kind.removeprefix("data-")
        event = {"type": "CUSTOM", "name": name, "value": chunk.get("data")}
    elif kind in AG_UI:
        name, make_fields = AG_UI[kind]
        event = {"type": name, **make_fields(answer, chunk)}
    else:
        return None
    # Ids of texts are unique only within an answer.
    if "messageId" in event and kind.startswith("text-"):
        event["messageId"] = f"{answer.stream}-{event['messageId']}"
    return event


def ag_ui_line(answer: Answer, chunk: Chunk) -> bytes:
    """Return a chunk for clients of AG-UI; ``b""`` if AG-UI has no event for
    it."""
    event = _ag_ui_event(answer, chunk)
    if event is None:
        return b""
    return b"data: %b\n\n" % _encode(event)


def run_line(answer: Answer, chunk: Chunk) -> bytes:
    """Send a chunk to ``webSocket()`` of TanStack, as an event with an id.

    The id tells the position of the client after the event, such as ``s1:42``.
    The position counts characters of text, and 1 for any other chunk. Therefore
    it does not depend on the pieces of an answer. Text that the client has
    already is left out. Returns ``b""``: the caller need not send anything.
    """
    if chunk["type"] == "error":
        answer.connection.send(_encode(_ag_ui_event(answer, chunk)))
        return b""

    delta = None
    if chunk["type"] == "text-delta":
        delta = chunk.get("delta")
    chunk_start = answer.sequence
    if isinstance(delta, str) and delta:
        answer.sequence += len(delta)
    else:
        answer.sequence += 1
    if answer.sequence <= answer.passed:
        return b""

    if isinstance(delta, str) and chunk_start < answer.passed:
        # The client has the first characters of this chunk.
        chunk = {**chunk, "delta": delta[answer.passed - chunk_start :]}
    event = _ag_ui_event(answer, chunk)
    if event is not None:
        answer.connection.send(
            _encode({"id": f"{answer.stream}:{answer.sequence}", "chunk": event})
        )
    return b""
