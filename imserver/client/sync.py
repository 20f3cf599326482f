"""A client session for ordinary code: threads, or greenlets where the process is patched for gevent."""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from imserver.client.backoff import Backoff, may_return
from imserver.client.entries import Entry, Signal
from imserver.client.errors import ClientError, Closed, LoginRefused, NotConnected
from imserver.client.inbox import Reached
from imserver.client.wire import HEARTBEAT_SECONDS, LASTING_REFUSALS, Push, Reply, Wire

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
MAX_WAITING = 10_000
"""Pushes that wait to be received; while so many do, no more are read."""
IDLE, CONNECTING, ONLINE, WAITING, ENDED = "idle", "connecting", "online", "waiting", "ended"


Heard = TypeVar("Heard")
"""What a session hands out."""


class Session(ABC, Generic[Heard]):
    """What the sessions of one user have in common. Owner of the connection, and of what waits to be taken.

    A session says what it logs in with, what it does once it is logged in, and what it hands out.
    """

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: str | Callable[[], str] = "",
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
        self._waiting: queue.Queue[Heard | Reached | None] = queue.Queue(MAX_WAITING)
        self._asked: dict[str, Future[Reply]] = {}
        self._connection: ClientConnection | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._settled = threading.Event()
        self._online = threading.Event()
        self._error: ClientError | None = None
        self.state = IDLE

    # --- what kinds of sessions differ in -------------------------------------------------------------------

    def _login_fields(self) -> dict[str, Any]:
        """What the login says besides who one is."""
        return {}

    def _logged_in(self, connection: ClientConnection, reply: Reply) -> None:
        """The login was accepted."""

    @abstractmethod
    def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        """A frame has come."""

    def _see_to(self, connection: ClientConnection, now: float) -> float:
        """Do what is due; when (monotonic) to be called again, at the latest."""
        return inf

    def _reached(self, place: int) -> None:
        """Everything before this place was taken."""

    # --- life -----------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Connect and log in; from then on the session stays.

        Raises :class:`LoginRefused`, :class:`Closed`, or :class:`NotConnected` if it took too long (then it
        is still being tried).
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="imserver client", daemon=True)
            self._thread.start()
        if not self._settled.wait(timeout_seconds):
            raise NotConnected(f"{self._url}: not logged in within {timeout_seconds:g} s")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the session."""
        self._closing.set()
        connection, thread = self._connection, self._thread
        if connection is not None:
            connection.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- using it -------------------------------------------------------------------------------------------

    def receive(self, timeout_seconds: float | None = None) -> Heard | None:
        """What comes next; None if nothing came in time. Raises :class:`Closed` when the session is over."""
        deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                heard = self._waiting.get(timeout=left)
            except queue.Empty:
                return None
            if heard is None:
                self._waiting.put(None)  # for whoever asks next
                raise self._error or Closed(1000)
            if not isinstance(heard, Reached):
                return heard
            self._reached(heard.take())

    def __iter__(self) -> Iterator[Heard]:
        """All that comes until we close the session. Raises :class:`Closed` if the server ended it."""
        while True:
            try:
                heard = self.receive()
            except Closed:
                if self._closing.is_set():
                    return
                raise
            assert heard is not None
            yield heard

    def request(self, cmd: str, data: Any = None, timeout_seconds: float = ANSWER_SECONDS) -> Reply:
        """Ask the server; its answer. Raises :class:`NotConnected` without one."""
        seq, frame = self._wire.request(cmd, data)
        return self._ask(self._connection, seq, frame, timeout_seconds)

    def ping(self) -> float:
        """How long the server takes to answer, in seconds."""
        begun = monotonic()
        self.request("ping")
        return monotonic() - begun

    def _ask(
        self, connection: ClientConnection | None, seq: str, frame: str, timeout_seconds: float
    ) -> Reply:
        if connection is None:
            raise NotConnected("there is no connection at the moment")
        answer: Future[Reply] = Future()
        self._asked[seq] = answer
        try:
            connection.send(frame)
            return answer.result(timeout_seconds)
        except (ConnectionClosed, TimeoutError) as error:
            raise NotConnected(f"no answer: {error or 'too late'}") from error
        finally:
            self._asked.pop(seq, None)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                begun = monotonic()
                code = self._live()
                if self._error is not None or self._closing.is_set():
                    break
                if not may_return(code):
                    self._error = Closed(code)
                    break
                self._tell(WAITING)
                self._closing.wait(self._backoff.pause(monotonic() - begun))
        except Exception as error:
            log.exception("the client failed")
            self._error = ClientError(f"the client failed: {error}")
        finally:
            self._tell(ENDED)
            self._settled.set()
            self._end_queue()

    def _live(self) -> int:
        """One connection from its handshake to its end; its close code (1006: lost, or never stood)."""
        self._tell(CONNECTING)
        try:
            connection = connect(self._url, compression=None, open_timeout=ANSWER_SECONDS, max_size=None)
        except InvalidURI as error:
            self._error = NotConnected(str(error))
            return 1006
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            log.debug("%s: %s", self._url, error)
            return 1006
        with connection:
            self._connection = connection
            try:
                # close() may have come while there was no connection that it could have ended.
                if not self._closing.is_set() and self._log_in(connection):
                    self._tell(ONLINE)
                    self._settled.set()
                    self._read(connection)
            except ConnectionClosed:
                pass
            finally:
                self._connection = None
                for answer in tuple(self._asked.values()):
                    if not answer.done():
                        answer.set_exception(NotConnected("the connection was lost"))
        code = connection.protocol.close_code
        return code if code is not None else 1006

    def _log_in(self, connection: ClientConnection) -> bool:
        token = self._token() if callable(self._token) else self._token
        seq, frame = self._wire.login(self._app, self._user, token, self._device, self._login_fields())
        connection.send(frame)
        deadline = monotonic() + ANSWER_SECONDS
        while (left := deadline - monotonic()) > 0:
            try:
                read = self._wire.read(connection.recv(left))
            except TimeoutError:
                break
            if isinstance(read, Reply) and read.seq == seq:
                if read.ok:
                    self._logged_in(connection, read)
                elif read.code in LASTING_REFUSALS:
                    self._error = LoginRefused(read.code, read.text)
                return read.ok
            if read is not None:
                self._hear(connection, read)
        return False

    def _read(self, connection: ClientConnection) -> None:
        beat_at = monotonic() + self._heartbeat_seconds
        while True:
            now = monotonic()
            if now >= beat_at:
                connection.send(self._wire.request("heartbeat")[1])
                beat_at = now + self._heartbeat_seconds
            wake_at = min(beat_at, self._see_to(connection, now))
            try:
                read = self._wire.read(connection.recv(max(0.001, wake_at - now)))
            except TimeoutError:
                continue
            if read is not None:
                self._hear(connection, read)

    def _answered(self, reply: Reply) -> None:
        """Give a reply to whoever waits for it."""
        answer = self._asked.get(reply.seq)
        if answer is not None and not answer.done():
            answer.set_result(reply)

    def _put(self, heard: Heard | Reached) -> None:
        while not self._closing.is_set():
            try:
                self._waiting.put(heard, timeout=1.0)
            except queue.Full:
                continue
            return

    def _end_queue(self) -> None:
        self._waiting.maxsize = 0  # there is room for the end, whoever takes what waits before it
        self._waiting.put(None)

    def _tell(self, state: str) -> None:
        if state != self.state:
            self.state = state
            if state in (ONLINE, ENDED):  # whoever waits for it waits no longer
                self._online.set()
            else:
                self._online.clear()
            if self._on_state is not None:
                self._on_state(state)


class Client(Session[Push]):
    """One user's session with the server's cmd dialect. It stays: what is lost is connected again.

    ``url`` is that of the WebSocket, ``app`` and ``user`` say whose session it is, ``token`` goes with the
    login; a function is asked for a fresh one before each. ``on_state`` is told of each change of ``state``:
    ``idle``, ``connecting``, ``online``, ``waiting`` (for the next try), ``ended``.

    One thread of its own reads and comes back; pushes wait in a queue until :meth:`receive` takes them.
    """

    def _hear(self, connection: ClientConnection, read: Push | Entry | Signal | Reply) -> None:
        if isinstance(read, Push):
            self._put(read)
        elif isinstance(read, Reply):
            self._answered(read)
