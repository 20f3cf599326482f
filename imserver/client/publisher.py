"""One connection for many pushes, each acknowledged (docs/guides/batch-and-publisher.md)."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from imserver.client.answers import PushAnswer, PushResult
from imserver.client.api import push_body
from imserver.client.errors import Closed, NotConnected, RequestRefused

PATH: Final = "/api/v1/publisher"
ANSWER_SECONDS: Final = 10.0


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


def _address(url: str) -> str:
    """The WebSocket's address on the HTTP server at ``url``."""
    scheme, _, rest = url.rstrip("/").partition("://")
    return f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{rest}{PATH}"


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _command(seq: int, app: str, text: str | None, more: dict[str, Any]) -> str:
    return _encode({"seq": seq, "publish": push_body(app, text, **more)}).decode()


def _outcome(answer: _Answer) -> PushAnswer | RequestRefused:
    if answer.error is not None:
        error = answer.error
        return RequestRefused(0, error.code, error.message, error.temporary)
    return PushAnswer(answer.sent, answer.results)


def _lost(error: Exception) -> NotConnected | RequestRefused:
    if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
        return RequestRefused(error.response.status_code, "unauthorized", "the key may not push here")
    return NotConnected(f"no publisher connection: {error}")


class Publisher:
    """A publisher connection for ordinary code. Safe to share by threads; it does not come back by itself.

    ``url`` is that of the HTTP server, ``key`` an API key with the scope push. Of an answer ``results`` names
    the targets that were not reached.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        self._numbers = count(1)
        self._waiting: dict[int, Future[PushAnswer]] = {}
        self._lock = threading.Lock()
        self._stack = ExitStack()
        try:
            self._connection: ClientConnection = self._stack.enter_context(
                connect(_address(url), additional_headers=_headers(key), compression=None, max_size=None)
            )
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise _lost(error) from error
        self._thread = threading.Thread(target=self._read, name="imserver publisher", daemon=True)
        self._thread.start()

    def publish(self, app: str, text: str | None = None, **more: Any) -> Future[PushAnswer]:
        """Send a push, as :meth:`~imserver.client.api.Api.push` takes it; its answer comes to the future.

        The future raises :class:`RequestRefused` if the push was refused, and :class:`NotConnected` if the
        connection was lost first: then nobody knows whether it was delivered, unless it had an ``id`` under
        which it may be sent again.
        """
        answer: Future[PushAnswer] = Future()
        # What is sent cannot be called back, and a cancelled future would end the thread that reads.
        answer.set_running_or_notify_cancel()
        with self._lock:
            seq = next(self._numbers)
            self._waiting[seq] = answer
            try:
                self._connection.send(_command(seq, app, text, more))
            except ConnectionClosed as error:
                del self._waiting[seq]
                raise NotConnected(f"the connection is gone: {error}") from error
        return answer

    def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """The same, waiting for the answer."""
        try:
            return self.publish(app, text, **more).result(ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotConnected("no answer in time") from error

    def _read(self) -> None:
        try:
            while True:
                answer = _decode(self._connection.recv())
                waiting = self._waiting.pop(answer.seq, None)
                if waiting is not None:
                    outcome = _outcome(answer)
                    if isinstance(outcome, RequestRefused):
                        waiting.set_exception(outcome)
                    else:
                        waiting.set_result(outcome)
        except ConnectionClosed:
            pass
        finally:
            while self._waiting:
                _, waiting = self._waiting.popitem()
                waiting.set_exception(NotConnected("the connection was lost before the answer came"))

    def close(self) -> None:
        """End the connection."""
        self._stack.close()
        self._thread.join(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncPublisher:
    """A publisher connection for asyncio; see :class:`Publisher`."""

    def __init__(self, url: str = "http://127.0.0.1:8080", key: str = "") -> None:
        self._url = url
        self._key = key
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[PushAnswer]] = {}
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect. Raises :class:`NotConnected` or :class:`RequestRefused`."""
        try:
            self._connection = await connect_async(
                _address(self._url), additional_headers=_headers(self._key), compression=None, max_size=None
            )
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise _lost(error) from error
        self._task = asyncio.create_task(self._read(self._connection), name="imserver publisher")

    async def publish(self, app: str, text: str | None = None, **more: Any) -> asyncio.Future[PushAnswer]:
        """Send a push; await the future for its answer. See :meth:`Publisher.publish`."""
        if self._connection is None:
            raise Closed(1000, "not connected")
        seq = next(self._numbers)
        answer: asyncio.Future[PushAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = answer
        try:
            await self._connection.send(_command(seq, app, text, more))
        except ConnectionClosed as error:
            self._waiting.pop(seq, None)
            raise NotConnected(f"the connection is gone: {error}") from error
        return answer

    async def push(self, app: str, text: str | None = None, **more: Any) -> PushAnswer:
        """The same, waiting for the answer."""
        try:
            return await asyncio.wait_for(await self.publish(app, text, **more), ANSWER_SECONDS)
        except TimeoutError as error:
            raise NotConnected("no answer in time") from error

    async def _read(self, connection: AsyncConnection) -> None:
        try:
            while True:
                answer = _decode(await connection.recv())
                waiting = self._waiting.pop(answer.seq, None)
                if waiting is not None and not waiting.done():
                    outcome = _outcome(answer)
                    if isinstance(outcome, RequestRefused):
                        waiting.set_exception(outcome)
                    else:
                        waiting.set_result(outcome)
        except ConnectionClosed:
            pass
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(NotConnected("the connection was lost before the answer came"))
            self._waiting.clear()

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
