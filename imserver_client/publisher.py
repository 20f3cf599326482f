"""Many pushes and streamed messages over one open connection
(docs/guides/batch-and-publisher.md)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeVar, Unpack, cast

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeader,
    InvalidStatus,
    InvalidURI,
)
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from imserver_client.api import (
    APPEND_PIECES,
    CLOSE_STREAM,
    OPEN_STREAM,
    StreamFields,
    decode_answer,
    end_body,
    pieces_body,
    push_body,
    stream_body,
)
from imserver_client.errors import (
    CLOSE_NORMAL,
    ClientError,
    Closed,
    NotConnected,
    RequestRefused,
)
from imserver_client.results import PieceResult, PushAnswer, StreamEnd
from imserver_client.session import ANSWER_SECONDS, PendingAnswers
from imserver_client.shell import close_in_time
from imserver_client.streams import TextStream

PATH: Final = "/api/v1/publisher"
_LOST: Final = "the connection was lost before the answer came"
_MALFORMED: Final = "malformed answer"
_NOT_ADMITTED: Final = (401, 403)
"""Statuses of a handshake whose key is missing or not sufficient."""
T = TypeVar("T")


class _Error(Struct):
    code: str
    message: str
    temporary: bool = False


class _Answer(Struct):
    """The part of an answer that all commands share."""

    seq: int
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_decode_push = msgspec.json.Decoder(PushAnswer).decode
_encode = msgspec.json.Encoder().encode


def _websocket_url(url: str) -> str:
    """The address of a publisher connection, for the URL of a server.

    The URL may be one of HTTP or of a WebSocket, or have no scheme.
    """
    if "://" not in url:
        url = f"http://{url}"
    scheme, _, rest = url.rstrip("/").partition("://")
    if scheme.lower() in ("https", "wss"):
        return f"wss://{rest}{PATH}"
    return f"ws://{rest}{PATH}"


class PublisherCore:
    """The frames and the unanswered commands of one publisher connection,
    without I/O."""

    def __init__(self, url: str, key: str) -> None:
        """Make the URL and the headers of the connection. The URL of the HTTP
        server becomes one of a WebSocket."""
        self.url = _websocket_url(url)
        self.headers: dict[str, str] = {}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.answers = PendingAnswers()
        self._numbers = count(1)
        self._kinds: dict[str, tuple[Any, str]] = {}
        """``seq`` of a command that is not a push → the type of its answer, and
        the field that has it."""

    def publish(
        self, app: str, text: str | None, fields: dict[str, Any]
    ) -> tuple[str, str]:
        """Encode a push. Returns its ``seq`` and its frame.

        ``fields``: further arguments of :meth:`Api.push`.
        """
        return self.command("publish", push_body(app, text, **fields))

    def command(
        self, name: str, body: dict[str, Any], kind: Any = None, field: str = ""
    ) -> tuple[str, str]:
        """Encode a command. Returns its ``seq`` and its frame, for example
        ``"7"`` and ``{"seq":7,"publish":{…}}``.

        ``kind``: the type of its answer; None: it is a :class:`PushAnswer`.
        ``field``: the field of the answer that has this type; ``""``: the whole
        answer.
        """
        seq = next(self._numbers)
        if kind is not None:
            self._kinds[str(seq)] = kind, field
        return str(seq), _encode({"seq": seq, name: body}).decode()

    def open_stream(
        self, app: str, channel: str, text: str, **fields: Unpack[StreamFields]
    ) -> tuple[str, str]:
        """Encode the begin of a streamed message, with the arguments of
        :meth:`Api.open_stream`. Returns ``seq`` and frame."""
        body = stream_body(app, channel, text, **fields)
        return self.command(OPEN_STREAM, body, kind=str, field="stream")

    def append_pieces(
        self, app: str, pieces: Sequence[tuple[str, int, str]]
    ) -> tuple[str, str]:
        """Encode pieces of streamed messages. Returns ``seq`` and frame."""
        body = pieces_body(app, pieces)
        kind = tuple[PieceResult, ...]
        return self.command(APPEND_PIECES, body, kind=kind, field="results")

    def close_stream(self, app: str, stream: str, incomplete: bool) -> tuple[str, str]:
        """Encode the end of a streamed message. Returns ``seq`` and frame."""
        return self.command(CLOSE_STREAM, end_body(app, stream, incomplete), StreamEnd)

    def feed(self, frame: str | bytes) -> bool:
        """Pass an answer to its command.

        Returns False if the answer is malformed: then all commands have failed,
        and you must close the connection.
        """
        try:
            self._settle(frame)
        except (ValueError, RecursionError, ClientError) as error:
            self.answers.fail(f"{_MALFORMED}: {error}")
            return False
        return True

    def _settle(self, frame: str | bytes) -> None:
        """Decode an answer, and pass it, or the error in it, to its command.

        Raises ValueError, RecursionError and ClientError if it is malformed.
        """
        answer = _decode(frame)
        seq = str(answer.seq)
        kind, field = self._kinds.pop(seq, (None, ""))
        outcome: object
        if answer.error is not None:
            error = answer.error
            # The status is 0, because the refusal is not an answer of HTTP.
            outcome = RequestRefused(0, error.code, error.message, error.temporary)
        elif kind is None:
            outcome = _decode_push(frame)
        else:
            outcome = decode_answer(frame, kind, field)
        self.answers.settle(seq, outcome)


_NO_CONNECTION: Final = (
    OSError,
    TimeoutError,
    InvalidHandshake,
    InvalidURI,
    EOFError,
    ValueError,
)


def _not_connected(error: Exception) -> NotConnected | RequestRefused:
    """The error to raise if no connection could be made.

    It is RequestRefused if the server refuses the key, and otherwise
    NotConnected.
    """
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status in _NOT_ADMITTED:
            return RequestRefused(status, "unauthorized", "the key may not push here")
    reason = str(error)
    if isinstance(error, InvalidHeader):
        # The text of the error would show the key.
        reason = f"invalid header {error.name}"
    return NotConnected(f"no publisher connection: {reason}")


def _wait(answer: Future[T]) -> T:
    """Wait for an answer. Raises :class:`NotConnected` if it does not come in
    time."""
    try:
        return answer.result(ANSWER_SECONDS)
    except TimeoutError as error:
        raise NotConnected("no answer in time") from error


class Publisher:
    """A publisher connection for threads; may be shared by them. It does not
    reconnect.

    ``url`` is that of the HTTP server, ``key`` an API key with the scope push.
    The ``results`` of an answer list only the targets that were not reached.
    Raises :class:`NotConnected` or :class:`RequestRefused`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        """Connect. A thread of the publisher reads the answers."""
        core = PublisherCore(url, key)
        self._core = core
        self._lock = threading.Lock()
        self._stack = ExitStack()

        try:
            self._connection: ClientConnection = self._stack.enter_context(
                connect(
                    core.url,
                    additional_headers=core.headers,
                    compression=None,
                    max_size=None,
                )
            )
        except _NO_CONNECTION as error:
            raise _not_connected(error) from None
        # A daemon, so that a program can end without close().
        self._thread = threading.Thread(
            target=self._read, name="imserver publisher", daemon=True
        )
        self._thread.start()

    def publish(
        self, app: str, text: str | None = None, **more: Any
    ) -> Future[PushAnswer]:
        """Send a push with the arguments of :meth:`Api.push`; return the future
        of its answer.

        The future raises :class:`RequestRefused` if the push was refused, and
        :class:`NotConnected` if the connection was lost first: the push may
        have been delivered or not. With an ``id`` it can be sent again without
        being delivered twice.
        """
        return self._send(*self._core.publish(app, text, more))

    def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """Send a push and wait for its answer.

        Raises :class:`RequestRefused` if the push was refused, and
        :class:`NotConnected` if no answer came.
        """
        return _wait(self.publish(app, text, **more))

    def stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> TextStream:
        """Begin a streamed message, as :meth:`imserver_client.Api.stream` does.

        Several threads may write their streams at once.
        """
        # Encoded here, too, so that a wrong argument is an error of this call.
        stream_body(app, channel, text, **fields)
        return TextStream(
            self, app, partial(self.open_stream, app, channel, text, **fields)
        )

    def open_stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> str:
        """Begin a streamed message, and return its id. It has the arguments of
        :meth:`imserver_client.Api.open_stream`."""
        command = self._core.open_stream(app, channel, text, **fields)
        return cast("str", _wait(self._send(*command)))

    def append_pieces(
        self, app: str, pieces: Sequence[tuple[str, int, str]]
    ) -> tuple[PieceResult, ...]:
        """Send pieces of streamed messages, as
        :meth:`imserver_client.Api.append_pieces` does."""
        results = _wait(self._send(*self._core.append_pieces(app, pieces)))
        return cast("tuple[PieceResult, ...]", results)

    def close_stream(
        self, app: str, stream: str, *, incomplete: bool = False
    ) -> StreamEnd:
        """End a streamed message, as :meth:`imserver_client.Api.close_stream`
        does."""
        command = self._core.close_stream(app, stream, incomplete)
        return cast("StreamEnd", _wait(self._send(*command)))

    def _send(self, seq: str, frame: str) -> Future[Any]:
        """Send a command, and return the future of its answer. Raises
        :class:`NotConnected`."""
        answer: Future[Any] = Future()
        # A command that was sent cannot be cancelled.
        answer.set_running_or_notify_cancel()
        with self._lock:
            self._core.answers.futures[seq] = answer
            try:
                self._connection.send(frame)
            except ConnectionClosed as error:
                self._core.answers.futures.pop(seq, None)
                raise NotConnected(f"the connection has ended: {error}") from error
        return answer

    def _read(self) -> None:
        """Pass answers to their commands until the connection ends. This is the
        function of the publisher's thread."""
        try:
            while self._core.feed(self._connection.recv()):
                pass
            self._connection.close(CloseCode.PROTOCOL_ERROR, _MALFORMED)
        except ConnectionClosed:
            pass
        finally:
            self._core.answers.fail(_LOST)

    def close(self) -> None:
        """End the connection."""
        self._stack.close()
        self._thread.join(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncPublisher:
    """A publisher connection for asyncio, which is used as :class:`Publisher`
    is, with ``await``. It does not reconnect."""

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        self._core = PublisherCore(url, key)
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect. Raises :class:`NotConnected` or :class:`RequestRefused`."""
        core = self._core
        try:
            self._connection = await connect_async(
                core.url,
                additional_headers=core.headers,
                compression=None,
                max_size=None,
            )
        except _NO_CONNECTION as error:
            raise _not_connected(error) from None
        self._task = asyncio.create_task(
            self._read(self._connection), name="imserver publisher"
        )

    async def publish(
        self, app: str, text: str | None = None, **more: Any
    ) -> asyncio.Future[PushAnswer]:
        """Send a push. Await the returned future for its answer.

        The future raises :class:`RequestRefused` if the push was refused, and
        :class:`NotConnected` if the connection was lost first.
        """
        return await self._send(*self._core.publish(app, text, more))

    async def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """Send a push and wait for its answer."""
        answer = await self._ask(*self._core.publish(app, text, more))
        return cast("PushAnswer", answer)

    async def open_stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> str:
        """Begin a streamed message, and return its id. It has the arguments of
        :meth:`imserver_client.Api.open_stream`."""
        command = self._core.open_stream(app, channel, text, **fields)
        return cast("str", await self._ask(*command))

    async def append_pieces(
        self, app: str, pieces: Sequence[tuple[str, int, str]]
    ) -> tuple[PieceResult, ...]:
        """Send pieces of streamed messages, as
        :meth:`imserver_client.Api.append_pieces` does."""
        results = await self._ask(*self._core.append_pieces(app, pieces))
        return cast("tuple[PieceResult, ...]", results)

    async def close_stream(
        self, app: str, stream: str, *, incomplete: bool = False
    ) -> StreamEnd:
        """End a streamed message, as :meth:`imserver_client.Api.close_stream`
        does."""
        end = await self._ask(*self._core.close_stream(app, stream, incomplete))
        return cast("StreamEnd", end)

    async def _send(self, seq: str, frame: str) -> asyncio.Future[Any]:
        """Send a command, and return the future of its answer. Raises
        :class:`NotConnected`, and :class:`Closed` before :meth:`connect`."""
        if self._connection is None:
            raise Closed(CLOSE_NORMAL, "not connected")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Before the frame is sent, because the answer may come at once.
        self._core.answers.futures[seq] = answer
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            self._core.answers.futures.pop(seq, None)
            raise NotConnected(f"the connection has ended: {error}") from error
        return answer

    async def _ask(self, seq: str, frame: str) -> Any:
        """Send a command and wait for its answer. Raises
        :class:`NotConnected`."""
        try:
            return await asyncio.wait_for(await self._send(seq, frame), ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotConnected("no answer in time") from error

    async def _read(self, connection: AsyncConnection) -> None:
        """Pass answers to their commands until the connection ends. This is a
        task of its own."""
        try:
            while self._core.feed(await connection.recv()):
                pass
            await connection.close(CloseCode.PROTOCOL_ERROR, _MALFORMED)
        except ConnectionClosed:
            pass
        finally:
            self._core.answers.fail(_LOST)

    async def close(self) -> None:
        """End the connection.

        If the server does not read, the connection is cut after ten seconds.
        """
        if self._connection is not None:
            await close_in_time(self._connection, ANSWER_SECONDS)
        if self._task is not None:
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
