"""Sessions, and the HTTP API, for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from math import inf
from time import monotonic
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from imserver_client import protocol
from imserver_client.api import TIMEOUT_SECONDS, TRIES, Api, StreamFields
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
    MAX_UNANSWERED,
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
    close_in_time,
)
from imserver_client.streams import AsyncTextStream

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Token = str | Callable[[], str | Awaitable[str]]


class AsyncSession(SessionShell[T]):
    """A session for asyncio. A task connects, reads and reconnects."""

    def __init__(
        self, core: SessionCore[T], url: str, token: Token, on_state: OnState
    ) -> None:
        super().__init__(core, url, on_state)
        self._token = token
        self._changed: asyncio.Event | None = None
        """Set at the next change of the core. None if no task waits for one."""
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------

    async def connect(self, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Connect and log in. From then on the session reconnects by itself.

        Raises :class:`LoginRefused`, :class:`Closed`, or :class:`NotConnected`
        after ``timeout_seconds``; then the session still tries to connect. A
        closed session cannot connect again: make a new one.
        """
        if self._task is None:
            self._task = asyncio.create_task(
                self._connect_until_over(), name="imserver client"
            )
        await self._wait(lambda: self._core.settled, timeout_seconds)
        self._core.raise_unless_logged_in(self._url, timeout_seconds)

    async def close(self) -> None:
        """End the session.

        If the server does not read, the connection is cut after two seconds.
        """
        self._core.close()
        self._notify()
        try:
            if self._connection is not None:
                await close_in_time(self._connection, CLOSE_SECONDS)
        finally:  # also if this call is cancelled
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._call(self._core.end)

    async def __aenter__(self) -> Self:
        """Connect, and close the session if that fails."""
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # --- use ------------------------------------------------------------------

    async def receive(self, timeout_seconds: float | None = None) -> T | None:
        """Return the next event. If the call is cancelled, no event is lost.

        Returns None if no event comes within ``timeout_seconds`` (None: no time
        limit). Raises :class:`Closed` when the session is over and all received
        events were taken.
        """
        core = self._core
        if timeout_seconds is None:
            deadline = inf
        else:
            deadline = monotonic() + timeout_seconds
        while (event := core.take()) is None:
            core.raise_if_over()
            seconds_left = deadline - monotonic()
            has_changed = await self._wait(
                lambda: core.over or core.waiting > 0, seconds_left
            )
            if not has_changed:
                return None
        self._notify()  # there is room for the next one
        return event

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield all events until this program closes the session.

        Raises :class:`Closed` if the server ended it.
        """
        while True:
            try:
                event = await self.receive()
            except Closed:
                if self._core.closing:
                    return
                raise
            assert event is not None
            yield event

    async def request(
        self, cmd: str, data: Any = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> Reply:
        """Send a command of the cmd dialect and return its answer. Raises
        :class:`NotConnected`."""
        seq, frame = self._core.command(cmd, data)
        return await self._ask(seq, frame, cmd, timeout_seconds)

    async def _ask(
        self, seq: str, frame: str, cmd: str, timeout_seconds: float
    ) -> Reply:
        """Send an encoded command, and return its answer.

        ``cmd`` is its name, for the text of an error. Raises
        :class:`NotConnected`.
        """
        connection = self._connection
        if connection is None or self._core.state is not State.ONLINE:
            raise NotConnected("there is no connection at the moment")
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._core.answers.add(seq, answer, frame)
        self._notify()  # from now on frames are read even if the queue is full
        try:
            async with asyncio.timeout(timeout_seconds):
                # Frames of the core go first: an "unsubscribe" among them must
                # not end the subscription that this command begins.
                for core_frame in self._core.to_send():
                    await connection.send(core_frame)
                await connection.send(frame)
                return await answer
        except (ConnectionClosed, TimeoutError) as error:
            reason = str(error) or "too late"
            raise NotConnected(f"{cmd}: no answer: {reason}") from error
        finally:
            self._core.answers.forget(seq)

    async def subscribe(
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
        self._core.subscriptions.add(channel, token, since)
        try:
            seq, frame = self._core.subscribe_command(channel)
            reply = await self._ask(seq, frame, "subscribe", ANSWER_SECONDS)
        except BaseException:
            self._core.give_up(channel)
            raise
        if not reply.ok:
            raise CommandRefused(
                reply.cmd, reply.code, reply.text, refused=reply.refused
            )

    async def unsubscribe(self, channel: str) -> None:
        """End a subscription. Raises :class:`NotConnected` without an answer;
        the subscription has ended nevertheless."""
        self._core.subscriptions.remove(channel)
        await self.request("unsubscribe", {"channel": channel})

    async def publish(
        self, channel: str, text: str | None = None, *, data: Any = None, type: str = ""
    ) -> None:
        """Publish to a channel, either a ``text`` or ``data`` that JSON can
        express.

        Raises :class:`CommandRefused` and :class:`NotConnected`.
        """
        await self._run_once(protocol.publish(channel, text, data=data, type=type))

    async def channel_history(
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
        return await self._run_once(
            protocol.channel_history(channel, since, limit, reverse=reverse)
        )

    async def subscribers(
        self, channel: str, after: str = "", limit: int = 50
    ) -> SubscriberPage:
        """Return a page of the subscribers of a channel.

        ``after``: the end of the previous page. Raises :class:`CommandRefused`
        and :class:`NotConnected`.
        """
        return await self._run_once(protocol.subscribers(channel, after, limit))

    async def _run_once(self, command: Command[R]) -> R:
        """Send a command once, and return what its answer contains.

        Raises :class:`CommandRefused` and :class:`NotConnected`.
        """
        return command.read(await self.request(command.cmd, command.data))

    async def ping(self) -> float:
        """Return the time of a request and its answer, in seconds."""
        started_at = monotonic()
        await self.request("ping")
        return monotonic() - started_at

    # --- the task -------------------------------------------------------------

    async def _connect_until_over(self) -> None:
        """Connect again and again until the session is over. This is a task of
        its own."""
        core = self._core
        error: ClientError | None = None
        try:
            while not core.over:
                self._call(core.start, monotonic())
                # Returns when the connection has ended.
                code = await self._connect_once()
                self._call(core.lost, code, monotonic())
                await self._wait(lambda: core.over, core.deadline - monotonic())
        except Exception as failure:
            log.exception("the client failed")
            error = ClientError(f"the client failed: {failure}")
        finally:
            self._call(core.end, error)

    async def _connect_once(self) -> int:
        """Run one connection from the handshake to its end.

        Returns its close code, or 1006 if it was lost or could not be made.
        """
        try:
            # Only the handshake of the WebSocket. The login follows.
            connection = await connect(self._url, **CONNECT_OPTIONS)
        except CONNECT_ERRORS as error:
            return self._not_connected(error)

        async with connection:
            self._connection = connection
            try:
                try:
                    token = await self._make_token()
                except Exception as error:
                    return self._no_token(error)
                self._call(
                    self._core.opened,
                    token,
                    monotonic(),
                    renewable=callable(self._token),
                )
                await self._exchange(connection)
            except ConnectionClosed:
                pass
            finally:
                self._connection = None
        code = connection.protocol.close_code
        if code is None:
            return CLOSE_LOST
        return code

    async def _make_token(self) -> str:
        """The token for a login. The program may give a text, a function, or a
        coroutine function."""
        if callable(self._token):
            token = self._token()
        else:
            token = self._token
        if inspect.isawaitable(token):
            token = await token
        return str(token)

    async def _exchange(self, connection: ClientConnection) -> None:
        """Send and read frames until the connection ends. Raises
        ConnectionClosed."""
        core = self._core
        while True:
            self._call(core.tick, monotonic())
            if not await self._send_frames(connection):
                return

            # Not longer than this, because the core must look for a silent
            # server.
            seconds_left = max(MIN_WAIT_SECONDS, core.deadline - monotonic())
            seconds = min(seconds_left, SILENT_SECONDS)
            if core.full and not core.over:
                # No frame is read before the program has taken events.
                await self._wait(lambda: core.over or not core.full, seconds)
                continue
            try:
                async with asyncio.timeout(seconds):
                    received = await connection.recv()
            except TimeoutError:
                continue
            self._call(core.feed, received, monotonic())

    async def _send_frames(self, connection: ClientConnection) -> bool:
        """Send the frames of the core. Returns False if the connection was
        closed, because the core wants that or the server does not read."""
        core = self._core
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for frame in core.to_send():
                    await connection.send(frame)
                if core.close_code:
                    await connection.close(core.close_code)
                    return False
        except TimeoutError:
            connection.transport.abort()
            return False
        return True

    def _call(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a method of the core, wake all waiting tasks, and report a new
        state."""
        old_state = self._core.state
        step(*args, **kwargs)
        self._notify()
        self._report(old_state, self._core.state)

    def _notify(self) -> None:
        """Wake all tasks that wait for a change of the core."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _wait(self, is_ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``is_ready()`` is true, at most ``seconds``.

        It is asked after each change of the core. Returns whether it is true.
        """
        limit = None if seconds == inf else max(0.0, seconds)
        try:
            async with asyncio.timeout(limit):
                while not is_ready():
                    self._changed = self._changed or asyncio.Event()
                    await self._changed.wait()
        except TimeoutError:
            return is_ready()
        return True


class AsyncClient(AsyncSession[PushEvent]):
    """One user's session that receives pushes, for asyncio.

    It is used as :class:`imserver_client.Client` is, with ``await``. ``token``
    may also be a coroutine function.
    """

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: Token = "",
        *,
        on_state: OnState = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(PushCore(app, user, **options), url, token, on_state)


def _command(
    make: Callable[P, Command[R]],
) -> Callable[Concatenate[AsyncMessenger, P], Coroutine[Any, Any, R]]:
    """Return a method that takes the arguments of ``make``, and executes the
    command that ``make`` returns.

    It has the name and the docstring of ``make``.
    """

    async def run(self: AsyncMessenger, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.execute(make(*args, **kwargs))

    run.__name__ = make.__name__
    run.__doc__ = make.__doc__
    return run


class AsyncMessenger(AsyncSession[MessengerEvent]):
    """One user's session that loses no stored message, for asyncio.

    It is used as :class:`imserver_client.Messenger` is, with ``await``.
    ``token`` may also be a coroutine function.
    """

    _core: MessengerCore

    def __init__(
        self,
        url: str,
        app: str,
        user: str,
        token: Token = "",
        *,
        cursor: int | None = 0,
        on_state: OnState = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(
            MessengerCore(app, user, cursor, **options), url, token, on_state
        )
        self._unanswered = asyncio.Semaphore(MAX_UNANSWERED)

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

    async def typing(self, to: str = "", *, conversation: int = 0) -> None:
        """Show that you are writing. It is sent once. Raises
        :class:`NotConnected`."""
        command = protocol.typing(to, conversation=conversation)
        command.read(await self.request(command.cmd, command.data))

    async def stream_open(
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
        return command.read(await self.request(command.cmd, command.data))

    async def execute(self, command: Command[R]) -> R:
        """Send a command until its answer is final, and return what the answer
        contains.

        A command is sent over as many connections as needed. Raises
        :class:`CommandRefused`, :class:`Closed`, and :class:`NotConnected`
        after the time of the command.
        """
        # The time of the command begins now, also if too many others wait.
        attempts = Attempts(self._core, command, monotonic())
        try:
            async with asyncio.timeout(command.timeout_seconds):
                await self._unanswered.acquire()
        except TimeoutError:
            raise attempts.too_late() from None
        try:
            return await self._execute(command, attempts)
        finally:
            self._unanswered.release()

    async def _execute(self, command: Command[R], attempts: Attempts) -> R:
        """Send a command until its answer is final, in one or more attempts."""
        while True:
            await self._await_turn(attempts)
            seconds = attempts.answer_seconds(monotonic())
            try:
                reply = await self.request(command.cmd, command.data, seconds)
            except NotConnected as error:
                # Perhaps the server has carried it out. Doing it twice does no
                # harm.
                attempts.failed(error, monotonic())
                await self._wait(attempts.is_gone, attempts.seconds_left(monotonic()))
                continue
            if attempts.is_final(reply, monotonic()):
                return command.read(reply)
            await self._wait(lambda: self._core.over, attempts.pause())

    async def _await_turn(self, attempts: Attempts) -> None:
        """Wait until the command can be sent, or until its time is over."""
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        attempts.begin(turn, monotonic())
        seconds_left = attempts.seconds_left(monotonic())
        try:
            async with asyncio.timeout(seconds_left):
                turn_at = await turn
        except TimeoutError:
            return
        finally:
            attempts.forget_turn()
        seconds = min(turn_at - monotonic(), seconds_left)
        if seconds > 0:
            # If the connection is lost meanwhile, the turn has no meaning.
            core = self._core
            await self._wait(lambda: core.state is not State.ONLINE, seconds)


# --- the HTTP API -------------------------------------------------------------


def _in_thread(
    method: Callable[Concatenate[Api, P], R],
) -> Callable[Concatenate[AsyncApi, P], Coroutine[Any, Any, R]]:
    """Return a coroutine method that runs a method of :class:`Api` in a thread.

    It has the name and the docstring of the method.
    """

    async def run(self: AsyncApi, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.api, *args, **kwargs)

    run.__name__ = method.__name__
    run.__doc__ = method.__doc__
    return run


class AsyncApi:
    """The calls of an :class:`imserver_client.Api`, each in a thread of the
    loop's pool.

    ``api`` is that object. For many pushes per second use
    :class:`imserver_client.AsyncPublisher`, which needs no threads.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
    ) -> None:
        self.api = Api(url, key, timeout_seconds=timeout_seconds, tries=tries)

    async def close(self) -> None:
        """End the connections."""
        self.api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def all_users(self, app: str) -> AsyncIterator[str]:
        """Yield all users who are online, page after page."""
        page = await self.users(app)
        while True:
            for user in page.users:
                yield user
            if not page.next:
                return
            page = await self.users(app, page.next)

    def stream(
        self, app: str, channel: str, text: str = "", **fields: Unpack[StreamFields]
    ) -> AsyncTextStream:
        """Begin a streamed message, as :meth:`imserver_client.Api.stream` does.

        Use the result with ``async with`` and ``await``.
        """
        return AsyncTextStream(self.api.stream(app, channel, text, **fields))

    call = _in_thread(Api.call)
    push = _in_thread(Api.push)
    publish = _in_thread(Api.publish)
    batch = _in_thread(Api.batch)
    presence = _in_thread(Api.presence)
    presences = _in_thread(Api.presences)
    users = _in_thread(Api.users)
    counts = _in_thread(Api.counts)
    broadcast = _in_thread(Api.broadcast)
    history = _in_thread(Api.history)
    remove_history = _in_thread(Api.remove_history)
    open_stream = _in_thread(Api.open_stream)
    append_pieces = _in_thread(Api.append_pieces)
    close_stream = _in_thread(Api.close_stream)
    channel = _in_thread(Api.channel)
    channels = _in_thread(Api.channels)
    subscribers = _in_thread(Api.subscribers)
    subscribe = _in_thread(Api.subscribe)
    unsubscribe = _in_thread(Api.unsubscribe)
    disconnect = _in_thread(Api.disconnect)
    ban = _in_thread(Api.ban)
    moderate = _in_thread(Api.moderate)
    unban = _in_thread(Api.unban)
    apps = _in_thread(Api.apps)
    create_app = _in_thread(Api.create_app)
    set_app = _in_thread(Api.set_app)
    claim = _in_thread(Api.claim)
    renew = _in_thread(Api.renew)
    ack = _in_thread(Api.ack)
    nack = _in_thread(Api.nack)
