"""Many pushes at once over one open connection, each with its answer (docs/guides/batch-and-publisher.md)."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from typing import Any, Final, Self

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from imserver_client.api import push_body
from imserver_client.errors import CLOSE_NORMAL, Closed, NotConnected, RequestRefused
from imserver_client.results import PushAnswer, PushResult
from imserver_client.session import ANSWER_SECONDS, PendingAnswers

PATH: Final = "/api/v1/publisher"
_LOST: Final = "the connection was lost before the answer came"


class _Error(Struct):
    code: str
    message: str
    temporary: bool = False


class _Answer(Struct):
    seq: int
    sent: int = 0
    results: tuple[PushResult, ...] = ()
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class PublisherCore:
    """The frames and the unanswered pushes of one publisher connection. No I/O."""

    def __init__(self, url: str, key: str) -> None:
        scheme, _, rest = url.rstrip("/").partition("://")
        self.url = f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{rest}{PATH}"
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.answers = PendingAnswers()
        self._numbers = count(1)

    def publish(self, app: str, text: str | None, more: dict[str, Any]) -> tuple[str, str]:
        """Encode a push; return its ``seq`` and its frame."""
        seq = next(self._numbers)
        return str(seq), _encode({"seq": seq, "publish": push_body(app, text, **more)}).decode()

    def feed(self, frame: str | bytes) -> None:
        """Pass an answer to its push."""
        answer = _decode(frame)
        outcome: PushAnswer | RequestRefused = PushAnswer(answer.sent, answer.results)
        if answer.error is not None:
            error = answer.error
            outcome = RequestRefused(0, error.code, error.message, error.temporary)
        self.answers.settle(str(answer.seq), outcome)


def _not_connected(error: Exception) -> NotConnected | RequestRefused:
    if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
        return RequestRefused(error.response.status_code, "unauthorized", "the key may not push here")
    return NotConnected(f"no publisher connection: {error}")


class Publisher:
    """A publisher connection for threads; may be shared by them. It does not reconnect.

    ``url`` is that of the HTTP server, ``key`` an API key with the scope push. The ``results`` of an answer
    list only the targets that were not reached. Raises :class:`NotConnected` or :class:`RequestRefused`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        self._core = core = PublisherCore(url, key)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        try:
            self._connection: ClientConnection = self._stack.enter_context(
                connect(core.url, additional_headers=core.headers, compression=None, max_size=None)
            )
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise _not_connected(error) from error
        self._thread = threading.Thread(target=self._read, name="imserver publisher", daemon=True)
        self._thread.start()

    def publish(self, app: str, text: str | None = None, **more: Any) -> Future[PushAnswer]:
        """Send a push with the arguments of :meth:`Api.push`; return the future of its answer.

        The future raises :class:`RequestRefused` if the push was refused, and :class:`NotConnected` if the
        connection was lost first: the push may have been delivered or not. With an ``id`` it can be sent
        again without being delivered twice.
        """
        answer: Future[PushAnswer] = Future()
        answer.set_running_or_notify_cancel()  # a push that was sent cannot be cancelled
        with self._lock:
            seq, frame = self._core.publish(app, text, more)
            self._core.answers.futures[seq] = answer
            try:
                self._connection.send(frame)
            except ConnectionClosed as error:
                self._core.answers.futures.pop(seq, None)
                raise NotConnected(f"the connection has ended: {error}") from error
        return answer

    def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """Send a push and wait for its answer; see :meth:`publish`."""
        try:
            return self.publish(app, text, **more).result(ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotConnected("no answer in time") from error

    def _read(self) -> None:
        try:
            while True:
                self._core.feed(self._connection.recv())
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
    """A publisher connection for asyncio; see :class:`Publisher`."""

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        self._core = PublisherCore(url, key)
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect. Raises :class:`NotConnected` or :class:`RequestRefused`."""
        core = self._core
        try:
            self._connection = await connect_async(
                core.url, additional_headers=core.headers, compression=None, max_size=None
            )
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise _not_connected(error) from error
        self._task = asyncio.create_task(self._read(self._connection), name="imserver publisher")

    async def publish(self, app: str, text: str | None = None, **more: Any) -> asyncio.Future[PushAnswer]:
        """Send a push; await the returned future for its answer. See :meth:`Publisher.publish`."""
        if self._connection is None:
            raise Closed(CLOSE_NORMAL, "not connected")
        answer: asyncio.Future[PushAnswer] = asyncio.get_running_loop().create_future()
        seq, frame = self._core.publish(app, text, more)
        self._core.answers.futures[seq] = answer
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            self._core.answers.futures.pop(seq, None)
            raise NotConnected(f"the connection has ended: {error}") from error
        return answer

    async def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """Send a push and wait for its answer."""
        try:
            return await asyncio.wait_for(await self.publish(app, text, **more), ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotConnected("no answer in time") from error

    async def _read(self, connection: AsyncConnection) -> None:
        try:
            while True:
                self._core.feed(await connection.recv())
        except ConnectionClosed:
            pass
        finally:
            self._core.answers.fail(_LOST)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
