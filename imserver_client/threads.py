"""Sessions for threads, or for greenlets where the process is patched for gevent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from math import inf
from time import monotonic
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from imserver_client import protocol
from imserver_client.errors import CLOSE_LOST, ClientError, Closed, NotConnected
from imserver_client.protocol import Command, Push, Reply
from imserver_client.session import (
    ANSWER_SECONDS,
    Backoff,
    MessengerCore,
    MessengerEvent,
    OnState,
    PushCore,
    SessionCore,
    SessionOptions,
    State,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class ThreadSession(Generic[T]):
    """The thread shell around a session core. One thread of its own connects, reads and reconnects."""

    def __init__(
        self, core: SessionCore[T], url: str, token: str | Callable[[], str], on_state: OnState
    ) -> None:
        self._core = core
        self._url = url
        self._token = token
        self._on_state = on_state
        self._changed = threading.Condition()
        """Guards the core; notified after each change."""
        self._connection: ClientConnection | None = None
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        """``idle``, ``connecting``, ``online``, ``waiting`` (for the next try) or ``ended``."""
        return self._core.state

    # --- life -----------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Connect and log in. From then on the session reconnects by itself.

        Raises :class:`LoginRefused`, :class:`Closed`, or :class:`NotConnected` after ``timeout_seconds``; the
        session then still tries.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="imserver client", daemon=True)
            self._thread.start()
        if not self._wait(lambda: self._core.settled, timeout_seconds):
            raise NotConnected(f"{self._url}: not logged in within {timeout_seconds:g} s")
        if self._core.error is not None:
            raise self._core.error

    def close(self) -> None:
        """End the session."""
        thread = self._thread
        with self._changed:
            self._core.closing = True
            if thread is None:
                self._core.end()
            self._changed.notify_all()
            connection = self._connection
        if connection is not None:
            connection.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- use ------------------------------------------------------------------------------------------------

    def receive(self, timeout_seconds: float | None = None) -> T | None:
        """Return the next event; None after ``timeout_seconds``. Raises :class:`Closed` when the session is
        over and everything that came was taken."""
        deadline = inf if timeout_seconds is None else monotonic() + timeout_seconds
        with self._changed:
            while True:
                event = self._core.take()
                if event is not None:
                    self._changed.notify_all()  # there is room for the next one
                    return event
                self._core.raise_if_over()
                left = deadline - monotonic()
                if left <= 0:
                    return None
                self._changed.wait(None if left == inf else left)

    def __iter__(self) -> Iterator[T]:
        """Yield all events until this program closes the session. Raises :class:`Closed` if the server ended
        it."""
        while True:
            try:
                event = self.receive()
            except Closed:
                if self._core.closing:
                    return
                raise
            assert event is not None
            yield event

    def request(self, cmd: str, data: Any = None, timeout_seconds: float = ANSWER_SECONDS) -> Reply:
        """Send a command of the cmd dialect and return its answer. Raises :class:`NotConnected`."""
        connection = self._connection
        if connection is None:
            raise NotConnected("there is no connection at the moment")
        seq, frame = self._core.command(cmd, data)
        answer: Future[Reply] = Future()
        pending = self._core.answers.futures
        pending[seq] = answer
        try:
            connection.send(frame)
            return answer.result(timeout_seconds)
        except (ConnectionClosed, TimeoutError) as error:
            raise NotConnected(f"{cmd}: no answer: {error or 'too late'}") from error
        finally:
            pending.pop(seq, None)

    def ping(self) -> float:
        """Return the time of a request and its answer, in seconds."""
        begun = monotonic()
        self.request("ping")
        return monotonic() - begun

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        core = self._core
        try:
            while not core.over:
                self._call(core.start, monotonic())
                code = self._connect_once()
                self._call(core.lost, code, monotonic())
                self._wait(lambda: core.over, core.deadline - monotonic())
            self._call(core.end)
        except Exception as error:
            log.exception("the client failed")
            self._call(core.end, ClientError(f"the client failed: {error}"))

    def _connect_once(self) -> int:
        """Run one connection from handshake to end; return its close code (1006: lost, or not made)."""
        try:
            connection = connect(self._url, compression=None, open_timeout=ANSWER_SECONDS, max_size=None)
        except InvalidURI as error:
            self._core.error = NotConnected(str(error))
            return CLOSE_LOST
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            log.debug("%s: %s", self._url, error)
            return CLOSE_LOST
        with connection:
            self._connection = connection
            try:
                if not self._core.closing:  # close() may have come while there was no connection to end
                    token = self._token() if callable(self._token) else self._token
                    self._call(self._core.opened, token, monotonic())
                    self._exchange(connection)
            except ConnectionClosed:
                pass
            finally:
                self._connection = None
        code = connection.protocol.close_code
        return CLOSE_LOST if code is None else code

    def _exchange(self, connection: ClientConnection) -> None:
        """Send and read until the connection ends."""
        core = self._core
        while True:
            self._call(core.tick, monotonic())
            for frame in core.to_send():
                connection.send(frame)
            if core.close_code:
                connection.close(core.close_code)
                return
            seconds = max(0.001, core.deadline - monotonic())
            if core.full and not core.over:
                self._wait(lambda: core.over or not core.full, seconds)
                continue
            try:
                received = connection.recv(seconds)
            except TimeoutError:
                continue
            self._call(core.feed, received, monotonic())

    def _call(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the core, wake all waiting threads, and report a new state (without the lock)."""
        with self._changed:
            before = self._core.state
            step(*args, **kwargs)
            after = self._core.state
            self._changed.notify_all()
        if after is not before and self._on_state is not None:
            self._on_state(after)

    def _wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``ready()``; return whether it came in time."""
        with self._changed:
            return self._changed.wait_for(ready, max(0.0, seconds))


class Client(ThreadSession[Push]):
    """One user's session with the server's cmd dialect. It receives pushes and reconnects by itself.

    ``url``: address of the WebSocket. ``app`` and ``user``: who logs in. ``token``: session token, or a
    function that returns a fresh one for each login. ``on_state`` is called with each new :attr:`state`.
    ``options``: ``device``, ``heartbeat_seconds`` and ``backoff`` (pauses between tries).

    Pushes wait in a queue until :meth:`receive` takes them. Raises ValueError if ``app`` or ``user`` is
    empty or malformed.
    """

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: str | Callable[[], str] = "",
        *,
        on_state: OnState = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(PushCore(app, user, **options), url, token, on_state)


def _command(make: Callable[P, Command[R]]) -> Callable[Concatenate[Messenger, P], R]:
    """Return a method that executes the command that ``make`` returns, with the same arguments."""

    def run(self: Messenger, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.execute(make(*args, **kwargs))

    run.__name__, run.__doc__ = make.__name__, make.__doc__
    return run


class Messenger(ThreadSession[MessengerEvent]):
    """One user's session that loses no stored message (docs/reference/protocol.md, "Stored messages").

    Arguments as for :class:`Client`, and ``cursor``: the last id that this device has; 0 for all stored
    messages, None for new ones only. After each login the messenger fetches what is missing. It acknowledges
    each entry and returns it once and in order, as :class:`Entry`. Save :attr:`cursor` together with the
    entries, and pass it at the next start.

    A message that you send is tried over as many connections as needed, and stored once.
    """

    _core: MessengerCore

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: str | Callable[[], str] = "",
        *,
        cursor: int | None = 0,
        on_state: OnState = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(MessengerCore(app, user, cursor, **options), url, token, on_state)

    @property
    def cursor(self) -> int | None:
        """The greatest id that :meth:`receive` has returned, your own messages before it included."""
        return self._core.cursor

    send = _command(protocol.send)
    edit = _command(protocol.edit)
    recall = _command(protocol.recall)
    read = _command(protocol.read)
    received = _command(protocol.received)
    hide = _command(protocol.hide)
    marks = _command(protocol.marks)
    receipts = _command(protocol.receipts)
    conversations = _command(protocol.conversations)
    history = _command(protocol.history)
    search = _command(protocol.search)

    def typing(self, to: str = "", *, conversation: int = 0) -> None:
        """Show that you are writing. It is sent once. Raises :class:`NotConnected`."""
        command = protocol.typing(to, conversation=conversation)
        command.read(self.request(command.cmd, command.data))

    def execute(self, command: Command[R]) -> R:
        """Send a command until its answer is final. Raises :class:`CommandRefused`, :class:`Closed`, and
        :class:`NotConnected` after the time of the command."""
        core, backoff = self._core, Backoff(0.1, 2.0)
        deadline = monotonic() + command.timeout_seconds
        while True:
            if not self._wait(lambda: core.over or core.state is State.ONLINE, deadline - monotonic()):
                raise NotConnected(f"{command.cmd}: no answer within {command.timeout_seconds:g} s")
            core.raise_if_over()
            try:
                left = min(deadline - monotonic(), ANSWER_SECONDS)
                reply = self.request(command.cmd, command.data, left)
            except NotConnected:
                if monotonic() >= deadline:
                    raise
            else:
                if protocol.is_final(reply) or monotonic() >= deadline:
                    return command.read(reply)
            self._wait(lambda: core.over, backoff.pause())
