"""Sessions for threads, or for greenlets in a process that is patched for
gevent."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from imserver_client import protocol
from imserver_client.errors import (
    CLOSE_LOST,
    ClientError,
    Closed,
    CommandRefused,
    NotConnected,
)
from imserver_client.messages import OpenedAnswer
from imserver_client.protocol import (
    ChannelHistory,
    Command,
    Position,
    Reply,
    SubscriberPage,
)
from imserver_client.session import (
    ANSWER_SECONDS,
    MIN_WAIT_SECONDS,
    SILENT_SECONDS,
    Attempts,
    ChannelToken,
    MessengerCore,
    MessengerEvent,
    OnState,
    PushCore,
    PushEvent,
    SessionCore,
    SessionOptions,
    State,
)
from imserver_client.shell import (
    CLOSE_SECONDS,
    CONNECT_ERRORS,
    CONNECT_OPTIONS,
    SessionShell,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class ThreadSession(SessionShell[T]):
    """A session for threads. A thread of its own connects, reads and
    reconnects."""

    def __init__(
        self,
        core: SessionCore[T],
        url: str,
        token: str | Callable[[], str],
        on_state: OnState,
    ) -> None:
        super().__init__(core, url, on_state)
        self._token = token
        self._changed = threading.Condition()
        """Guards the core; notified after each change."""
        self._writer = threading.Lock()
        """The lock of the thread that takes frames from the core and writes
        them. It is acquired before ``_changed``."""
        self._connection: ClientConnection | None = None
        self._thread: threading.Thread | None = None

    # --- life -----------------------------------------------------------------

    def connect(self, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Connect and log in. From then on the session reconnects by itself.

        Raises :class:`LoginRefused`, :class:`Closed`, or :class:`NotConnected`
        after ``timeout_seconds``; then the session still tries to connect. A
        closed session cannot connect again: make a new one.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._connect_until_over, name="imserver client", daemon=True
            )
            self._thread.start()
        self._wait(lambda: self._core.settled, timeout_seconds)
        self._core.raise_unless_logged_in(self._url, timeout_seconds)

    def close(self) -> None:
        """End the session."""
        thread = self._thread
        with self._changed:
            self._core.close()
            self._changed.notify_all()
            connection = self._connection
        if thread is None:
            self._call(self._core.end)
        if connection is not None:
            with suppress(TimeoutError), self._writing(connection, CLOSE_SECONDS):
                connection.close()
        if thread is not None and thread is not threading.current_thread():
            # A callback of the session may close it, and cannot wait for
            # itself.
            thread.join(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        """Connect, and close the session if that fails."""
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- use ------------------------------------------------------------------

    def receive(self, timeout_seconds: float | None = None) -> T | None:
        """Return the next event.

        Returns None if no event comes within ``timeout_seconds`` (None: no time
        limit). Raises :class:`Closed` when the session is over and all received
        events were taken.
        """
        if timeout_seconds is None:
            deadline = inf
        else:
            deadline = monotonic() + timeout_seconds
        # The lock is given up while this waits.
        with self._changed:
            while True:
                event = self._core.take()
                if event is not None:
                    self._changed.notify_all()  # there is room for the next one
                    return event
                self._core.raise_if_over()
                seconds_left = deadline - monotonic()
                if seconds_left <= 0:
                    return None
                limit = None if seconds_left == inf else seconds_left
                self._changed.wait(limit)

    def __iter__(self) -> Iterator[T]:
        """Yield all events until this program closes the session.

        Raises :class:`Closed` if the server ended it.
        """
        while True:
            try:
                event = self.receive()
            except Closed:
                if self._core.closing:
                    return
                raise
            assert event is not None
            yield event

    def request(
        self, cmd: str, data: Any = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> Reply:
        """Send a command of the cmd dialect and return its answer. Raises
        :class:`NotConnected`."""
        seq, frame = self._core.command(cmd, data)
        return self._ask(seq, frame, cmd, timeout_seconds)

    def _ask(self, seq: str, frame: str, cmd: str, timeout_seconds: float) -> Reply:
        """Send an encoded command, and return its answer.

        ``cmd`` is its name, for the text of an error. Raises
        :class:`NotConnected`.
        """
        answer: Future[Reply] = Future()
        with self._changed:
            connection = self._connection
            if connection is None or self._core.state is not State.ONLINE:
                raise NotConnected("there is no connection at the moment")
            self._core.answers.add(seq, answer, frame)
            # From now on frames are read even if the queue is full.
            self._changed.notify_all()
        try:
            self._write(connection, frame)
            return answer.result(timeout_seconds)
        except (ConnectionClosed, TimeoutError) as error:
            reason = str(error) or "too late"
            raise NotConnected(f"{cmd}: no answer: {reason}") from error
        finally:
            self._core.answers.forget(seq)

    def subscribe(
        self, channel: str, token: ChannelToken = "", *, since: Position | None = None
    ) -> None:
        """Subscribe to a channel, now and after each reconnect. :meth:`receive`
        returns its events.

        ``token``: a channel token, or a function that returns a fresh one; it
        must not block. ``since``: the position that you have; you receive the
        publications after it first. Raises :class:`CommandRefused`, and
        :class:`NotConnected` without a connection or an answer; ValueError if
        the channel has a subscription.
        """
        # Before the command is sent, because publications may come before the
        # answer.
        self._core.subscriptions.add(channel, token, since)
        try:
            with self._changed:
                seq, frame = self._core.subscribe_command(channel)
            reply = self._ask(seq, frame, "subscribe", ANSWER_SECONDS)
        except BaseException:
            self._call(self._core.give_up, channel)
            raise
        if not reply.ok:
            raise CommandRefused(
                reply.cmd, reply.code, reply.text, refused=reply.refused
            )

    def unsubscribe(self, channel: str) -> None:
        """End a subscription. Raises :class:`NotConnected` without an answer;
        the subscription has ended nevertheless."""
        self._core.subscriptions.remove(channel)
        self.request("unsubscribe", {"channel": channel})

    def publish(
        self, channel: str, text: str | None = None, *, data: Any = None, type: str = ""
    ) -> None:
        """Publish to a channel, either a ``text`` or ``data`` that JSON can
        express.

        Raises :class:`CommandRefused` and :class:`NotConnected`.
        """
        self._run_once(protocol.publish(channel, text, data=data, type=type))

    def channel_history(
        self,
        channel: str,
        since: Position | None = None,
        limit: int = 50,
        *,
        reverse: bool = False,
    ) -> ChannelHistory:
        """Return publications of a channel, and the position of its newest one.

        ``since``: the position after which they begin. ``reverse``: the
        publications before it, the newest first. Raises :class:`CommandRefused`
        and :class:`NotConnected`.
        """
        return self._run_once(
            protocol.channel_history(channel, since, limit, reverse=reverse)
        )

    def subscribers(
        self, channel: str, after: str = "", limit: int = 50
    ) -> SubscriberPage:
        """Return a page of the subscribers of a channel.

        ``after``: the end of the previous page. Raises :class:`CommandRefused`
        and :class:`NotConnected`.
        """
        return self._run_once(protocol.subscribers(channel, after, limit))

    def _run_once(self, command: Command[R]) -> R:
        """Send a command once, and return what its answer contains.

        Raises :class:`CommandRefused` and :class:`NotConnected`.
        """
        return command.read(self.request(command.cmd, command.data))

    def ping(self) -> float:
        """Return the time of a request and its answer, in seconds."""
        started_at = monotonic()
        self.request("ping")
        return monotonic() - started_at

    # --- the thread -----------------------------------------------------------

    def _connect_until_over(self) -> None:
        """Connect again and again until the session is over. This is the
        function of the session's thread."""
        core = self._core
        try:
            while not core.over:
                self._call(core.start, monotonic())
                # Returns when the connection has ended.
                code = self._connect_once()
                self._call(core.lost, code, monotonic())
                self._wait(lambda: core.over, core.deadline - monotonic())
            self._call(core.end)
        except Exception as error:
            log.exception("the client failed")
            self._call(core.end, ClientError(f"the client failed: {error}"))

    def _connect_once(self) -> int:
        """Run one connection from the handshake to its end.

        Returns its close code, or 1006 if it was lost or could not be made.
        """
        try:
            connection = connect(self._url, **CONNECT_OPTIONS)
        except CONNECT_ERRORS as error:
            return self._not_connected(error)

        with connection:
            self._connection = connection
            try:
                # The program may have called close() while no connection
                # existed.
                if not self._core.closing:
                    try:
                        token = self._make_token()
                    except Exception as error:
                        return self._no_token(error)
                    self._call(
                        self._core.opened,
                        token,
                        monotonic(),
                        renewable=callable(self._token),
                    )
                    self._exchange(connection)
            except (ConnectionClosed, TimeoutError):
                pass
            finally:
                self._connection = None
        code: int | None = connection.protocol.close_code
        if code is None:
            return CLOSE_LOST
        return code

    def _make_token(self) -> str:
        """The token for a login. The program may give a text or a function."""
        if callable(self._token):
            return self._token()
        return self._token

    def _exchange(self, connection: ClientConnection) -> None:
        """Send and read frames until the connection ends. Raises
        ConnectionClosed, and TimeoutError if the server does not read."""
        core = self._core
        while True:
            self._call(core.tick, monotonic())
            self._write(connection)
            if core.close_code:
                with self._writing(connection, CLOSE_SECONDS):
                    connection.close(core.close_code)
                return

            # Not longer than this, because the core must look for a silent
            # server.
            seconds_left = max(MIN_WAIT_SECONDS, core.deadline - monotonic())
            seconds = min(seconds_left, SILENT_SECONDS)
            if core.full and not core.over:
                # No frame is read before the program has taken events.
                self._wait(lambda: core.over or not core.full, seconds)
                continue
            try:
                received = connection.recv(seconds)
            except TimeoutError:
                continue
            self._call(core.feed, received, monotonic())

    def _write(self, connection: ClientConnection, *frames_after: str) -> None:
        """Write the frames of the core, then ``frames_after``.

        Raises TimeoutError if another thread writes and is blocked.
        """
        with self._writing(connection, ANSWER_SECONDS):
            with self._changed:
                if connection is not self._connection:
                    return  # the frames of the core are for the next connection
                frames = [*self._core.to_send(), *frames_after]
            for frame in frames:
                connection.send(frame)

    @contextmanager
    def _writing(self, connection: ClientConnection, seconds: float) -> Iterator[None]:
        """A context in which no other thread writes.

        If another thread is blocked in a write for ``seconds``, the server does
        not read: then the connection ends, and TimeoutError is raised.
        """
        if not self._writer.acquire(timeout=seconds):
            # The method of the SSL socket would let other threads write without
            # TLS.
            with suppress(OSError):
                socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)
            raise TimeoutError
        try:
            yield
        finally:
            self._writer.release()

    def _call(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a method of the core, wake all waiting threads, and report a new
        state."""
        with self._changed:
            old_state = self._core.state
            step(*args, **kwargs)
            new_state = self._core.state
            self._changed.notify_all()
        # Without the lock, because ``on_state`` may call the session.
        self._report(old_state, new_state)

    def _wait(self, is_ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``is_ready()`` is true, at most ``seconds``.

        It is asked after each change of the core. Returns whether it is true.
        """
        with self._changed:
            return self._changed.wait_for(is_ready, max(0.0, seconds))


class Client(ThreadSession[PushEvent]):
    """One user's session with the server's cmd dialect. It receives pushes and
    reconnects by itself.

    ``url``: address of the WebSocket. ``app`` and ``user``: who logs in.
    ``token``: session token, or a function that returns a fresh one for each
    login; if it raises, it is called again after a pause. ``on_state`` is
    called with each new :attr:`state`. ``options``: ``device``,
    ``heartbeat_seconds`` and ``backoff`` (pauses between tries).

    Pushes wait in a queue until :meth:`receive` takes them. Raises ValueError
    if ``app`` or ``user`` is empty or malformed.
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
    """Return a method that takes the arguments of ``make``, and executes the
    command that ``make`` returns.

    It has the name and the docstring of ``make``.
    """

    def run(self: Messenger, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.execute(make(*args, **kwargs))

    run.__name__ = make.__name__
    run.__doc__ = make.__doc__
    return run


class Messenger(ThreadSession[MessengerEvent]):
    """One user's session that loses no stored message
    (docs/reference/protocol.md, "Stored messages").

    Arguments are as for :class:`Client`, and ``cursor``: the last id that this
    device has. 0 means all stored messages. None means new ones only: then
    :attr:`cursor` becomes a number soon after the login. After each login the
    messenger fetches what is missing. It acknowledges each entry and returns it
    once and in order, as :class:`Entry`. Save :attr:`cursor` together with the
    entries, and pass it at the next start.

    The client tries to send a message over as many connections as needed. The
    server stores it once.
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
        super().__init__(
            MessengerCore(app, user, cursor, **options), url, token, on_state
        )

    @property
    def cursor(self) -> int | None:
        """The greatest id that :meth:`receive` has returned, your own messages
        before it included."""
        return self._core.cursor

    send = _command(protocol.send)
    edit = _command(protocol.edit)
    recall = _command(protocol.recall)
    forward = _command(protocol.forward)
    react = _command(protocol.react)
    pin = _command(protocol.pin)
    pins = _command(protocol.pins)
    press = _command(protocol.press)
    answer = _command(protocol.answer)
    bot_commands = _command(protocol.bot_commands)
    stream_append = _command(protocol.stream_append)
    stream_close = _command(protocol.stream_close)
    stream_stop = _command(protocol.stream_stop)
    read = _command(protocol.read)
    received = _command(protocol.received)
    hide = _command(protocol.hide)
    threads = _command(protocol.threads)
    thread = _command(protocol.thread)
    follow_thread = _command(protocol.follow_thread)
    read_thread = _command(protocol.read_thread)
    arrange = _command(protocol.arrange)
    arrangements = _command(protocol.arrangements)
    set_folders = _command(protocol.set_folders)
    report = _command(protocol.report)
    marks = _command(protocol.marks)
    receipts = _command(protocol.receipts)
    receipt_counts = _command(protocol.receipt_counts)
    conversations = _command(protocol.conversations)
    history = _command(protocol.history)
    search = _command(protocol.search)

    def typing(self, to: str = "", *, conversation: int = 0) -> None:
        """Show that you are writing. It is sent once. Raises
        :class:`NotConnected`."""
        command = protocol.typing(to, conversation=conversation)
        command.read(self.request(command.cmd, command.data))

    def stream_open(
        self,
        to: str = "",
        *,
        conversation: int = 0,
        text: str = "",
        type: str = "",
        thread: int = 0,
        stoppers: Sequence[str] | None = None,
    ) -> OpenedAnswer:
        """Begin a streamed message; see
        :func:`imserver_client.protocol.stream_open`. It is sent once, so that
        no second stream is opened. Raises :class:`NotConnected`."""
        command = protocol.stream_open(
            to,
            conversation=conversation,
            text=text,
            type=type,
            thread=thread,
            stoppers=stoppers,
        )
        return command.read(self.request(command.cmd, command.data))

    def execute(self, command: Command[R]) -> R:
        """Send a command until its answer is final, and return what the answer
        contains.

        A command is sent over as many connections as needed. Raises
        :class:`CommandRefused`, :class:`Closed`, and :class:`NotConnected`
        after the time of the command.
        """
        attempts = Attempts(self._core, command, monotonic())
        while True:
            self._await_turn(attempts)
            seconds = attempts.answer_seconds(monotonic())
            try:
                reply = self.request(command.cmd, command.data, seconds)
            except NotConnected as error:
                # Perhaps the server has carried it out. Doing it twice does no
                # harm.
                attempts.failed(error, monotonic())
                self._wait(attempts.is_gone, attempts.seconds_left(monotonic()))
                continue
            if attempts.is_final(reply, monotonic()):
                return command.read(reply)
            self._wait(lambda: self._core.over, attempts.pause())

    def _await_turn(self, attempts: Attempts) -> None:
        """Wait until the command can be sent, or until its time is over."""
        turn: Future[float] = Future()
        with self._changed:
            attempts.begin(turn, monotonic())
        seconds_left = attempts.seconds_left(monotonic())
        try:
            turn_at = turn.result(max(0.0, seconds_left))
        except TimeoutError:
            return
        finally:
            with self._changed:
                attempts.forget_turn()
        seconds = min(turn_at - monotonic(), seconds_left)
        if seconds > 0:
            # If the connection is lost meanwhile, the turn has no meaning.
            core = self._core
            self._wait(lambda: core.state is not State.ONLINE, seconds)
