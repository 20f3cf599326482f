"""A client session for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from imserver.client.backoff import Backoff, may_return
from imserver.client.entries import Entry, Signal
from imserver.client.errors import ClientError, Closed, LoginRefused, NotConnected
from imserver.client.inbox import Reached
from imserver.client.sync import (
    ANSWER_SECONDS,
    CONNECTING,
    ENDED,
    IDLE,
    MAX_WAITING,
    ONLINE,
    WAITING,
    Heard,
)
from imserver.client.wire import HEARTBEAT_SECONDS, LASTING_REFUSALS, Push, Reply, Wire

log = logging.getLogger(__name__)

Token = str | Callable[[], str | Awaitable[str]]


class AsyncSession(ABC, Generic[Heard]):
    """See :class:`imserver.client.sync.Session`: the same for asyncio, in one task."""

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: Token = "",
        *,
        device: str = "",
        on_state: Callable[[str], None] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._app = app
        self._user = user
        self._token = token
        self._device = device
        self._on_state = on_state
        self._heartbeat_seconds = heartbeat_seconds
        self._backoff = backoff or Backoff()
        self._wire = Wire()
        self._waiting: asyncio.Queue[Heard | Reached] = asyncio.Queue(MAX_WAITING)
        self._given_back: deque[Heard | Reached] = deque()
        self._asked: dict[str, asyncio.Future[Reply]] = {}
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._online = asyncio.Event()
        self._closing = False
        self._error: ClientError | None = None
        self.state = IDLE

    # --- what kinds of sessions differ in -------------------------------------------------------------------

    def _login_fields(self) -> dict[str, Any]:
        """What the login says besides who one is."""
        return {}

    async def _logged_in(self, connection: ClientConnection, reply: Reply) -> None:
        """The login was accepted."""

    @abstractmethod
    async def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        """A frame has come."""

    async def _tend(self, connection: ClientConnection) -> None:
        """Do what is due, for as long as the connection stands."""

    def _reached(self, place: int) -> None:
        """Everything before this place was taken."""

    # --- life -----------------------------------------------------------------------------------------------

    async def connect(self, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Connect and log in; from then on the session stays. Raises as :meth:`Client.connect` does."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="imserver client")
        try:
            await asyncio.wait_for(self._settled.wait(), timeout_seconds)
        except TimeoutError:
            raise NotConnected(f"{self._url}: not logged in within {timeout_seconds:g} s") from None
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """End the session."""
        self._closing = True
        if self._connection is not None:
            await self._connection.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- using it -------------------------------------------------------------------------------------------

    async def receive(self, timeout_seconds: float | None = None) -> Heard | None:
        """What comes next; None if nothing came in time. Raises :class:`Closed` when the session is over."""
        deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
        while True:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            heard = await self._next(left)
            if not isinstance(heard, Reached):
                return heard
            self._reached(heard.take())

    async def _next(self, timeout_seconds: float | None) -> Heard | Reached | None:
        if self._given_back:
            return self._given_back.popleft()
        if not self._waiting.empty():
            return self._waiting.get_nowait()
        if self._task is None or self._task.done():
            raise self._error or Closed(1000)
        getting = asyncio.ensure_future(self._waiting.get())
        try:
            done, _ = await asyncio.wait(
                [getting, self._task], timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            # Whoever gives up loses nothing: not what has just come, and nothing to a getter left behind.
            if not getting.cancel():
                self._given_back.append(getting.result())
            raise
        if getting in done:
            return getting.result()
        getting.cancel()
        if self._task in done:
            raise self._error or Closed(1000)
        return None

    async def __aiter__(self) -> AsyncIterator[Heard]:
        """All that comes until we close the session. Raises :class:`Closed` if the server ended it."""
        while True:
            try:
                heard = await self.receive()
            except Closed:
                if self._closing:
                    return
                raise
            assert heard is not None
            yield heard

    async def request(self, cmd: str, data: Any = None, timeout_seconds: float = ANSWER_SECONDS) -> Reply:
        """Ask the server; its answer. Raises :class:`NotConnected` without one."""
        connection = self._connection
        if connection is None:
            raise NotConnected("there is no connection at the moment")
        seq, frame = self._wire.request(cmd, data)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[seq] = answer
        try:
            await connection.send(frame)
            return await asyncio.wait_for(answer, timeout_seconds)
        except (ConnectionClosed, TimeoutError) as error:
            raise NotConnected(f"no answer: {error or 'too late'}") from error
        finally:
            self._asked.pop(seq, None)

    async def ping(self) -> float:
        """How long the server takes to answer, in seconds."""
        begun = monotonic()
        await self.request("ping")
        return monotonic() - begun

    # --- the task -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._closing:
                begun = monotonic()
                code = await self._live()
                if self._error is not None or self._closing:
                    break
                if not may_return(code):
                    self._error = Closed(code)
                    break
                self._tell(WAITING)
                await asyncio.sleep(self._backoff.pause(monotonic() - begun))
        except Exception as error:
            log.exception("the client failed")
            self._error = ClientError(f"the client failed: {error}")
        finally:
            self._tell(ENDED)
            self._settled.set()

    async def _live(self) -> int:
        """One connection from its handshake to its end; its close code (1006: lost, or never stood)."""
        self._tell(CONNECTING)
        try:
            connection = await connect(
                self._url, compression=None, open_timeout=ANSWER_SECONDS, max_size=None
            )
        except InvalidURI as error:
            self._error = NotConnected(str(error))
            return 1006
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            log.debug("%s: %s", self._url, error)
            return 1006
        async with connection:
            self._connection = connection
            try:
                if await self._log_in(connection):
                    self._tell(ONLINE)
                    self._settled.set()
                    await self._stay(connection)
            except ConnectionClosed:
                pass
            finally:
                self._connection = None
                for answer in self._asked.values():
                    if not answer.done():
                        answer.set_exception(NotConnected("the connection was lost"))
        code = connection.protocol.close_code
        return code if code is not None else 1006

    async def _log_in(self, connection: ClientConnection) -> bool:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        seq, frame = self._wire.login(self._app, self._user, str(token), self._device, self._login_fields())
        await connection.send(frame)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while True:
                    read = self._wire.read(await connection.recv())
                    if isinstance(read, Reply) and read.seq == seq:
                        if read.ok:
                            await self._logged_in(connection, read)
                        elif read.code in LASTING_REFUSALS:
                            self._error = LoginRefused(read.code, read.text)
                        return read.ok
                    if read is not None:
                        await self._hear(connection, read)
        except TimeoutError:
            return False

    async def _stay(self, connection: ClientConnection) -> None:
        beside = [asyncio.create_task(each) for each in (self._beat(connection), self._tend(connection))]
        try:
            while True:
                read = self._wire.read(await connection.recv())
                if read is not None:
                    await self._hear(connection, read)
        finally:
            for task in beside:
                task.cancel()

    def _answered(self, reply: Reply) -> None:
        """Give a reply to whoever waits for it."""
        answer = self._asked.get(reply.seq)
        if answer is not None and not answer.done():
            answer.set_result(reply)

    async def _beat(self, connection: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            try:
                await connection.send(self._wire.request("heartbeat")[1])
            except ConnectionClosed:
                return

    def _tell(self, state: str) -> None:
        if state != self.state:
            self.state = state
            if state in (ONLINE, ENDED):  # whoever waits for it waits no longer
                self._online.set()
            else:
                self._online.clear()
            if self._on_state is not None:
                self._on_state(state)


class AsyncClient(AsyncSession[Push]):
    """See :class:`~imserver.client.Client`: the same for asyncio, in one task. ``token`` may be a coroutine
    function."""

    async def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        if isinstance(read, Push):
            await self._waiting.put(read)
        elif isinstance(read, Reply):
            self._answered(read)
