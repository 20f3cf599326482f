"""The state of a session without I/O: a shell (shell.py, threads.py, aio.py)
connects, sends and waits.

A shell calls the core at these moments, and always passes the monotonic time:

1. :meth:`SessionCore.start` before it connects.
2. :meth:`SessionCore.opened` when the WebSocket is open.
3. While it is open: :meth:`SessionCore.feed` for each frame, and
   :meth:`SessionCore.tick` at the time of :attr:`SessionCore.deadline`, and
   after :data:`SILENT_SECONDS` without a frame. After each of them it sends the
   frames of :meth:`SessionCore.to_send`, and closes the connection when
   :attr:`SessionCore.close_code` is set.
4. :meth:`SessionCore.lost` when the connection is gone. In the state
   ``waiting`` it begins again at the deadline.

Received events are taken from the core with :meth:`SessionCore.take`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, StrEnum, auto
from itertools import count
from math import inf
from random import uniform
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

import msgspec
from msgspec.structs import replace

from imserver_client.errors import (
    CLOSE_LOST,
    CLOSE_NORMAL,
    CLOSE_RATE_LIMIT,
    CLOSE_TOKEN_INVALID,
    CLOSE_TOO_LARGE,
    CLOSE_TRY_AGAIN,
    REPLY_BAD_PARAMETER,
    REPLY_BAD_USER,
    REPLY_NOT_STORED,
    REPLY_UNAUTHORIZED,
    ClientError,
    Closed,
    LoginRefused,
    NotConnected,
    may_reconnect,
)
from imserver_client.messages import ConversationPage, Entry, LogReset, Signal
from imserver_client.protocol import (
    STORING,
    AccountFrame,
    ChannelEvent,
    ChannelFrame,
    ChannelNotice,
    CmdCodec,
    Command,
    Position,
    Publication,
    Push,
    Reply,
    ServerFrame,
    StreamFrame,
    StreamUpdate,
    is_final,
)

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 10.0
"""Time limit for the server to accept a connection, and to answer logins and
heartbeats."""
MIN_WAIT_SECONDS: Final = 0.001
"""The least time that a shell waits for a frame."""
SILENT_SECONDS: Final = 5.0
"""If a request waits and no frame comes for this time, the client sends a
heartbeat."""
HEARTBEAT_SECONDS: Final = 30.0
"""Time between two heartbeats. The server closes a silent connection after six
minutes."""
MAX_WAITING: Final = 10_000
"""Limit of the queue of received events. While the queue is full, the shell
reads no frames."""
MAX_WAITING_FOR_ANSWER: Final = 100_000
"""The limit while a request waits. Its answer comes after events that the
server has already sent, and the answer to ``send`` comes after the last page of
a sync."""
FINAL_REFUSALS: Final = frozenset(
    {REPLY_BAD_PARAMETER, REPLY_BAD_USER, REPLY_UNAUTHORIZED}
)
"""Codes of refusals after which a login is not tried again."""

T = TypeVar("T")
OnState = Callable[[str], None] | None
Future = concurrent.futures.Future[Any] | asyncio.Future[Any]


# --- The states of a session --------------------------------------------------


class State(StrEnum):
    """The state of a session.

    ``connecting`` lasts until the login has succeeded. ``waiting`` is the pause
    before the next try.
    """

    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    ENDED = "ended"


class Step(Enum):
    """A change of the state of a session."""

    START = auto()
    LOGGED_IN = auto()
    LOST = auto()
    END = auto()


TRANSITIONS: Final = {
    (State.IDLE, Step.START): State.CONNECTING,
    (State.IDLE, Step.END): State.ENDED,
    (State.CONNECTING, Step.LOGGED_IN): State.ONLINE,
    (State.CONNECTING, Step.LOST): State.WAITING,
    (State.CONNECTING, Step.END): State.ENDED,
    (State.ONLINE, Step.LOST): State.WAITING,
    (State.ONLINE, Step.END): State.ENDED,
    (State.WAITING, Step.START): State.CONNECTING,
    (State.WAITING, Step.END): State.ENDED,
    (State.ENDED, Step.END): State.ENDED,
}
"""All valid steps. Any other step is an error of the shell."""


class Backoff:
    """The pauses between tries to connect.

    They are random and grow from ``first_seconds`` to ``longest_seconds``
    ("full jitter"), so that many clients do not come back at once. ``failures``
    is the number of failures in a row.
    """

    LASTING_SECONDS: Final = 60.0
    """After a connection of this length, the next pause is short again."""
    _MOST_DOUBLINGS: Final = 16
    """Limit of the doublings, because more would make too large a number."""

    def __init__(
        self, first_seconds: float = 0.5, longest_seconds: float = 30.0
    ) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self.failures = 0

    def pause(self, connected_seconds: float = 0.0) -> float:
        """Return the seconds to wait before the next try.

        ``connected_seconds``: how long the last connection existed. After a
        long one the pauses are short again.
        """
        if connected_seconds >= self.LASTING_SECONDS:
            self.failures = 0
        self.failures += 1
        doublings = min(self.failures - 1, self._MOST_DOUBLINGS)
        return uniform(0.0, min(self._longest, self._first * 2.0**doublings))


class SessionOptions(TypedDict, total=False):
    """Arguments of all sessions."""

    device: str
    heartbeat_seconds: float
    backoff: Backoff | None


class PendingAnswers:
    """The requests that wait for their answers, by their ``seq``.

    Each has a future, which gets the answer. All futures belong to threads, or
    all to asyncio.
    """

    def __init__(self) -> None:
        self.futures: dict[str, Future] = {}
        self._sizes: dict[str, int] = {}

    def add(self, seq: str, future: Future, frame: str) -> None:
        """Add a request that is sent as ``frame``."""
        self._sizes[seq] = len(frame.encode())
        self.futures[seq] = future

    def forget(self, seq: str) -> None:
        """Remove a request, if it still waits."""
        self.futures.pop(seq, None)
        self._sizes.pop(seq, None)

    def settle(self, seq: str, outcome: object) -> None:
        """Pass an answer, or an error, to the request with this number.

        Does nothing if the request does not wait any more.
        """
        future = self.futures.pop(seq, None)
        self._sizes.pop(seq, None)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
            future.exception()  # nobody may wait any more; asyncio would log it
        else:
            future.set_result(outcome)

    def fail(self, text: str) -> None:
        """Raise :class:`NotConnected` in all waiting requests."""
        for seq in tuple(self.futures):
            self.settle(seq, NotConnected(text))

    def fail_largest(self, error: ClientError) -> None:
        """Raise ``error`` in the waiting request with the longest frame, if
        there is one."""
        sizes = dict(self._sizes)
        if sizes:
            self.settle(max(sizes, key=sizes.__getitem__), error)


# --- Channels -----------------------------------------------------------------

INSUFFICIENT_STATE: Final = 2500
"""Code of an ended subscription whose publications are missing. The session
subscribes again."""
ChannelToken = str | Callable[[], str]
MAX_SUBSCRIBING: Final = 20
"""The most ``subscribe`` commands that wait for an answer at the same time,
when a session reconnects."""
MAX_UNANSWERED: Final = 200
"""The most commands of a messenger that wait for an answer at the same time.
The server reviews only so many messages of a connection, and refuses others for
the moment."""
SPACING_SECONDS: Final = 0.05
"""Time between two commands on stored messages, or two ``subscribe`` commands,
after the server has closed a connection for its rate of messages.

It doubles at each further close, up to :data:`MAX_SPACING_SECONDS`.
"""
MAX_SPACING_SECONDS: Final = 1.0
MIN_SPACING_SECONDS: Final = 0.005
"""Lower limit of this time. It is halved when no command waits, and below the
limit it becomes 0."""


class _Subscription(msgspec.Struct):
    """The subscription of a session to one channel."""

    token: ChannelToken
    position: Position | None
    """The position of the last publication that was received; None: not known,
    or the channel has no history."""
    begun: bool = False
    """Whether the server has accepted it before."""
    streams: dict[str, tuple[int, StreamUpdate]] = {}
    """Id of an open streamed message → number of its last piece, and its state
    so far."""


class _Subscribed(msgspec.Struct):
    """The data of the answer 200 to a ``subscribe``.

    ``recovered``: no publication is missing. ``publications``: those after the
    position that the request has named.
    """

    channel: str
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: tuple[Publication, ...] = ()


class Pace:
    """The time between two commands.

    It grows each time the server closes a connection for its rate of messages.
    It is halved when no command waits.
    """

    def __init__(self) -> None:
        self._spacing = 0.0

    def lost(self, code: int) -> None:
        """Handle the end of the connection, with this close code."""
        if code == CLOSE_RATE_LIMIT:
            longer = max(2 * self._spacing, SPACING_SECONDS)
            self._spacing = min(longer, MAX_SPACING_SECONDS)

    def shorten(self) -> None:
        """Shorten the time, because no command waits."""
        shorter = self._spacing / 2
        if shorter >= MIN_SPACING_SECONDS:
            self._spacing = shorter
        else:
            self._spacing = 0.0


class CommandTurns(Pace):
    """The commands on stored messages that wait until they can be sent.

    They are sent in the order of their numbers, and more slowly if the server
    limits the rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()
        self._waiting: dict[int, Future] = {}
        self._next_at = 0.0
        """The time of the last turn on this connection; 0: no command had a turn
        yet."""

    def add(self, number: int, turn: Future) -> None:
        """Add a command. ``turn`` gets, as its result, the time at which the
        command can be sent."""
        self._waiting[number] = turn

    def forget(self, number: int) -> None:
        """Remove a command, if it still waits."""
        self._waiting.pop(number, None)

    def give(self, now: float) -> None:
        """Give turns to all commands that wait, one after the other.

        Between two of them is the time that :class:`Pace` keeps.
        """
        for number in sorted(self._waiting):
            turn = self._waiting.pop(number)
            if turn.done():
                continue
            # If the last turn was long ago, no command has waited since.
            if 0.0 < self._next_at < now - self._spacing:
                self.shorten()
            self._next_at = max(now, self._next_at + self._spacing)
            turn.set_result(self._next_at)

    def lost(self, code: int) -> None:
        """Handle the end of the connection. The next one begins without a
        pause."""
        super().lost(code)
        self._next_at = 0.0


class Turns(Pace):
    """The channels to which a session must still subscribe on this connection.

    Few of these commands wait for an answer at a time, and they are sent more
    slowly if the server limits the rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._channels: deque[str] = deque()
        """The channels whose commands were not sent yet."""
        self._unanswered: set[str] = set()
        """The channels whose commands were sent and have no answer yet."""
        self.due_at = inf
        """When the next channel has its turn. Infinite if no channel waits, or
        too many commands have no answer yet."""

    def begin(self, channels: Iterable[str], now: float) -> None:
        """Begin with these channels, on a new connection."""
        self._channels = deque(channels)
        self._unanswered.clear()
        self._set_due(now)

    def add(self, channel: str, now: float) -> None:
        """Put a channel behind the others."""
        self._channels.append(channel)
        self._set_due(now)

    def take(self, now: float) -> list[str]:
        """Take the channels that have their turn now. Their commands count as
        sent."""
        if now < self.due_at:
            return []
        # After a close for the rate, one command follows the answer to another.
        if self._spacing:
            free_slots = 1
        else:
            free_slots = MAX_SUBSCRIBING - len(self._unanswered)
        number = min(free_slots, len(self._channels))
        channels = [self._channels.popleft() for _ in range(number)]
        self._unanswered.update(channels)
        self._set_due(now + self._spacing)
        return channels

    def answered(self, channel: str, now: float) -> None:
        """Note that the command of a channel has its answer, or needs none."""
        if channel in self._unanswered:
            self._unanswered.remove(channel)
            self._set_due(now + self._spacing)
            if not self._channels and not self._unanswered:
                self.shorten()

    def lost(self, code: int) -> None:
        """Handle the end of the connection."""
        super().lost(code)
        self.due_at = inf

    def _set_due(self, due_at: float) -> None:
        """Set the time of the next turn, if a channel waits and its command may
        be sent."""
        most = 1 if self._spacing else MAX_SUBSCRIBING
        if self._channels and len(self._unanswered) < most:
            self.due_at = due_at
        else:
            self.due_at = inf


class Subscriptions:
    """The channels of a session, with the position of each.

    A session that reconnects subscribes to them again, from their positions.
    Each publication is returned once.
    """

    def __init__(self) -> None:
        self._channels: dict[str, _Subscription] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the channels. They may change meanwhile."""
        return iter(tuple(self._channels))

    def add(self, channel: str, token: ChannelToken, since: Position | None) -> None:
        """Begin a subscription. Raises ValueError if the channel has one
        already."""
        if channel in self._channels:
            raise ValueError(f"already subscribed to {channel}")
        self._channels[channel] = _Subscription(token, since)

    def remove(self, channel: str) -> None:
        """End a subscription, if there is one."""
        self._channels.pop(channel, None)

    def fields(self, channel: str) -> dict[str, Any]:
        """Return the data of the command ``subscribe``: the channel, its token,
        and the position from which to continue."""
        subscription = self._channels[channel]
        # A function makes a fresh token for each connection.
        if callable(subscription.token):
            token = subscription.token()
        else:
            token = subscription.token
        fields: dict[str, Any] = {"channel": channel}
        if token:
            fields["token"] = token
        position = subscription.position
        if position is not None:
            fields["epoch"] = position.epoch
            fields["offset"] = position.offset
        return fields

    def subscribed(self, data: Any) -> list[ChannelEvent]:
        """Process the answer 200 to a ``subscribe``, whose data are ``data``.

        Returns the events for the program: publications that were missing, or
        the notice that the channel must be loaded again. Raises ValueError if
        the answer is malformed.
        """
        answer = msgspec.convert(data, _Subscribed)
        subscription = self._channels.get(answer.channel)
        if subscription is None:
            return []

        events: list[ChannelEvent] = []
        had_position = subscription.begun or subscription.position is not None
        if had_position and not answer.recovered:
            events.append(ChannelNotice("reload", answer.channel))
        # The server sends the streamed messages that are still open again.
        subscription.streams = {}
        for publication in answer.publications:
            events += self.received(publication)
        if answer.epoch:
            subscription.position = Position(answer.epoch, answer.offset)
        else:
            subscription.position = None
        subscription.begun = True
        return events

    def received(self, event: ChannelFrame) -> list[ChannelEvent]:
        """Process a frame of a channel, and return the events for the program.

        The list is empty if the frame brings nothing new.
        """
        subscription = self._channels.get(event.channel)
        if isinstance(event, StreamFrame):
            if subscription is None:
                return []
            return self._received_piece(subscription, event)
        if not isinstance(event, Publication) or subscription is None:
            return [event]

        if _is_repeated(event, subscription.position):
            return []
        subscription.position = event.position or subscription.position
        if not event.stream:
            return [event]
        # The publication is the end of a streamed message.
        subscription.streams.pop(event.stream, None)
        return [_end_of_stream(event), event]

    def _received_piece(
        self, subscription: _Subscription, frame: StreamFrame
    ) -> list[ChannelEvent]:
        """Process a piece of a streamed message, and return the new state of
        the message.

        The list is empty if the piece was received before, or if pieces before
        it are missing: then the server sends the whole text later.
        """
        last_piece, message = subscription.streams.get(frame.stream, (-1, None))
        # The whole text so far, after a reconnection or a lost piece.
        if frame.whole:
            update = msgspec.convert(frame, StreamUpdate, from_attributes=True)
        elif message is not None and frame.piece == last_piece + 1:
            update = replace(message, text=message.text + frame.text)
        else:
            return []
        if frame.done:
            subscription.streams.pop(frame.stream, None)
        else:
            subscription.streams[frame.stream] = frame.piece, update
        return [update]


def _is_repeated(event: Publication, position: Position | None) -> bool:
    """Whether the program has a publication already, because the channel is at
    this position."""
    if event.position is None or position is None:
        return False
    return position.epoch == event.epoch and event.offset <= position.offset


def _end_of_stream(event: Publication) -> StreamUpdate:
    """The last state of a streamed message. The publication ``event`` ends it,
    and has its whole text."""
    return StreamUpdate(
        channel=event.channel,
        stream=event.stream,
        text=event.text or "",
        done=True,
        incomplete=event.incomplete,
        type=event.type,
        sender=event.sender,
        tags=event.tags,
    )


# --- What all sessions do -----------------------------------------------------


class SessionCore(ABC, Generic[T]):
    """One user's session: login, heartbeats, retries, answers, and the queue of
    received events.

    It does no I/O: a shell passes it frames and the time, and sends its frames.
    Raises ValueError for an empty user, and for an app whose name the cmd
    dialect cannot express.
    """

    def __init__(
        self,
        app: str,
        user: str,
        *,
        device: str = "",
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        """Begin in the state ``idle``. ``device``: the name of the device; the
        server may allow one connection of each (``""``: no name)."""
        # Names with a colon belong to apps of other dialects.
        if not app or ":" in app:
            raise ValueError(f"{app!r} is not an app of the cmd dialect")
        if not user:
            raise ValueError("the user id is empty")
        self._login = (app, user, device)
        self._heartbeat_seconds = heartbeat_seconds
        self._backoff = backoff or Backoff()
        self._codec = CmdCodec()
        self._login_seq = ""
        """The number of the login that has no answer yet; ``""``: no login
        waits."""
        self._renewable = False
        """Whether the next login gets another token."""
        self._started_at = 0.0
        """When the last try to connect began."""
        self._wake_at = inf
        """When something is due: the next heartbeat, the end of the time for the
        login, or the next try to connect."""
        self._last_frame_at = 0.0
        self._lost_at = inf
        """The time after which the connection counts as lost if no frame
        comes."""
        self._frames: deque[str] = deque()
        """Frames that the shell must send."""
        self._received: deque[Any] = deque()
        """Events that the program has not taken."""
        self.command = self._codec.command
        self.answers = PendingAnswers()
        self.subscriptions = Subscriptions()
        self.commands = CommandTurns()
        self._turns = Turns()
        self._subscribing: dict[str, str] = {}
        """``seq`` of a ``subscribe`` command without an answer → its channel."""
        self.state = State.IDLE
        self.logins = 0
        """The number of logins that the server has accepted."""
        self.settled = False
        """Whether the first login has succeeded, or the session has ended."""
        self.closing = False
        """Whether the program has closed the session."""
        self.failure = ""
        """The reason why the last attempt to connect and log in has failed."""
        self.error: ClientError | None = None
        """The error with which the session has ended, or is about to end."""
        self.close_code = 0
        """If it is not 0, the shell must close the connection with this
        code."""

    # --- hooks of the kinds of sessions

    @abstractmethod
    def _read(self, frame: ServerFrame, now: float) -> None:
        """Handle a frame that is not the answer to the login."""

    def _login_fields(self) -> dict[str, Any]:
        """The additional fields of a login, which depend on the kind of
        session."""
        return {}

    def _logged_in(self, data: Any, now: float) -> None:
        """Handle the accepted login. ``data`` comes from its answer."""

    # --- the connection

    def start(self, now: float) -> None:
        """Begin a try to connect."""
        self._change(Step.START)
        self._started_at = now

    def opened(self, token: str, now: float, *, renewable: bool = False) -> None:
        """Log in on the open WebSocket.

        ``renewable``: the next login gets another token, so the session goes on
        when this one expires.
        """
        self._renewable = renewable
        app, user, device = self._login
        self.close_code = 0
        self._login_seq, frame = self._codec.login(
            app, user, token, device, self._login_fields()
        )
        self._frames = deque([frame])
        self._wake_at = now + ANSWER_SECONDS

    def feed(self, frame: str | bytes, now: float) -> None:
        """Process a frame from the server.

        Frames of channels and answers to ``subscribe`` are handled here, all
        others by the kind of session. A malformed frame is ignored. Raises
        ValueError if the server sends a malformed sync page.
        """
        self._last_frame_at = now
        self._lost_at = inf
        read = self._codec.read(frame)
        if read is None:  # malformed
            return
        if isinstance(read, ChannelFrame):
            self._read_channel(read, now)
        elif not isinstance(read, Reply):
            self._read(read, now)
        elif self._login_seq and read.seq == self._login_seq:
            # The answer to an older login does not count.
            self._read_login(read, now)
        elif read.cmd == "subscribe":
            self._read_subscribed(read, now)
        else:
            self._read(read, now)

    def _read_login(self, answer: Reply, now: float) -> None:
        """Handle the answer to the login.

        After 200 the work of the connection begins. Otherwise the shell closes
        the connection, and a refusal that is not final is tried again.
        """
        self._login_seq = ""
        if answer.ok:
            self._wake_at = now + self._heartbeat_seconds
            self.settled = True
            self._change(Step.LOGGED_IN)
            self.logins += 1
            self._logged_in(answer.data, now)
            self._resume_subscriptions(now)
            self.commands.give(now)
        else:
            self._read_refusal(answer)

    def _read_refusal(self, answer: Reply) -> None:
        """Handle the refusal of a login, after which the shell closes the
        connection."""
        refused = LoginRefused(answer.code, answer.text)
        if answer.code in FINAL_REFUSALS:
            # Another try would get the same answer.
            self.error = refused
            self.close_code = CLOSE_NORMAL
        else:
            self.failure = refused.text
            self.close_code = CLOSE_TRY_AGAIN

    def _resume_subscriptions(self, now: float) -> None:
        """Subscribe again to all channels, on a new connection."""
        # Answers to commands of the last connection cannot come any more.
        self._subscribing.clear()
        self._turns.begin(self.subscriptions, now)
        self._subscribe_next(now)

    # --- channels

    def subscribe_command(self, channel: str) -> tuple[str, str]:
        """Encode ``subscribe`` for a channel of :attr:`subscriptions`. Returns
        its ``seq`` and the frame.

        The frame must be sent after the frames of :meth:`to_send`.
        """
        earlier_seqs = [
            seq for seq, name in self._subscribing.items() if name == channel
        ]
        for earlier_seq in earlier_seqs:
            # An earlier subscription was given up before its answer came. This
            # answer must not count for the new one.
            del self._subscribing[earlier_seq]
            self._unsubscribe(channel)
        seq, frame = self.command("subscribe", self.subscriptions.fields(channel))
        self._subscribing[seq] = channel
        return seq, frame

    def give_up(self, channel: str) -> None:
        """End a subscription whose command was cancelled or got no answer in
        time. It ends on the server, too."""
        self.subscriptions.remove(channel)
        # If the answer has not come yet, _read_subscribed ends the subscription
        # on the server.
        if channel not in self._subscribing.values():
            self._unsubscribe(channel)

    def _unsubscribe(self, channel: str) -> None:
        """Let the shell send an ``unsubscribe``."""
        _, frame = self.command("unsubscribe", {"channel": channel})
        self._frames.append(frame)

    def _subscribe_next(self, now: float) -> None:
        """Subscribe again to the channels that have their turn now.

        If the program cannot make a token, the connection is closed, and
        everything is tried again on the next one.
        """
        for channel in self._turns.take(now):
            try:
                if channel in self.subscriptions:
                    _, frame = self.subscribe_command(channel)
                    self._frames.append(frame)
                else:
                    # The program has unsubscribed meanwhile.
                    self._turns.answered(channel, now)
            except Exception as error:
                log.warning(
                    "there is no token for %s, trying again: %r", channel, error
                )
                self.close_code = CLOSE_TRY_AGAIN

    def _read_subscribed(self, reply: Reply, now: float) -> None:
        """Handle the answer to a ``subscribe``, and subscribe to the next
        channels.

        The program has sent the command, or this core after a reconnection.
        """
        channel = self._subscribing.pop(reply.seq, "")
        self._turns.answered(channel, now)
        is_awaited = reply.seq in self.answers.futures
        self.answers.settle(reply.seq, reply)
        if not channel:
            # The subscription was given up, and perhaps begun anew.
            return

        if reply.ok:
            if channel not in self.subscriptions:  # given up before the answer came
                self._unsubscribe(channel)
            self._received += self.subscriptions.subscribed(reply.data)
        elif is_awaited:
            # The program gets the refusal as the result of its call.
            self.subscriptions.remove(channel)
        else:
            self._read_refused_subscription(channel, reply)
        self._subscribe_next(now)

    def _read_refused_subscription(self, channel: str, reply: Reply) -> None:
        """Handle the refusal of a subscription that this core has begun again
        after a reconnection."""
        if reply.code == REPLY_NOT_STORED:
            # For the moment only, so all is tried again on another connection.
            self.close_code = CLOSE_TRY_AGAIN
        elif channel in self.subscriptions:
            self.subscriptions.remove(channel)
            self._received.append(
                ChannelNotice("ended", channel, code=reply.code, refused=reply.refused)
            )

    def _read_channel(self, event: ChannelFrame, now: float) -> None:
        """Handle a frame of a channel.

        The server ends a subscription if publications are missing. The session
        then subscribes again, and the program gets no notice.
        """
        if (
            isinstance(event, ChannelNotice)
            and event.kind == "ended"
            and event.channel in self.subscriptions
        ):
            if event.code == INSUFFICIENT_STATE:
                self._turns.add(event.channel, now)
                self._subscribe_next(now)
                return
            self.subscriptions.remove(event.channel)
        self._received += self.subscriptions.received(event)

    # --- time

    @property
    def deadline(self) -> float:
        """When to call :meth:`tick`; in the state ``waiting``, when to connect
        again."""
        return min(self._wake_at, self._lost_at, self._turns.due_at)

    def tick(self, now: float) -> None:
        """Do all work that is due: subscribe, send a heartbeat, or notice that
        the connection is lost."""
        self._subscribe_next(now)
        if self.full:
            # No frame is read now, so the answer to a heartbeat cannot come.
            self._lost_at = inf
        elif self._is_silent_too_long(now):
            # A back end may take long to answer. Only a heartbeat tells whether
            # the connection is lost.
            self._wake_at = now
        if now < min(self._wake_at, self._lost_at):
            return

        if self._login_seq or now >= self._lost_at:
            # No answer to the login, or to the heartbeat, has come in time.
            self.close_code = CLOSE_TRY_AGAIN
            return
        self._frames.append(self.command("heartbeat")[1])
        self._wake_at = now + self._heartbeat_seconds
        if not self.full:
            self._lost_at = min(self._lost_at, now + ANSWER_SECONDS)

    def _is_silent_too_long(self, now: float) -> bool:
        """Whether a request waits, no frame has come for some time, and no
        heartbeat was sent to find out why."""
        return (
            self.state is State.ONLINE
            and bool(self.answers.futures)
            and self._lost_at == inf
            and now >= self._last_frame_at + SILENT_SECONDS
        )

    def to_send(self) -> Iterator[str]:
        """Take the frames that must be sent now.

        They are taken one by one, so that a cancelled sender loses none.
        """
        while self._frames:
            yield self._frames.popleft()

    def lost(self, code: int, now: float) -> None:
        """Handle the end of a connection.

        ``code`` is its close code; 1006 also stands for a failed attempt to
        connect. Then the session waits before the next try, or ends if a try
        cannot help.
        """
        self._login_seq = ""
        self._lost_at = inf
        self._turns.lost(code)
        self.commands.lost(code)
        self._fail_answers(code)
        if self.error is None and not self.closing and self._is_final(code):
            self.error = Closed(code)
        # An error or the program has decided before that the session ends.
        if self.error is not None or self.closing:
            self.end()
            return
        self._change(Step.LOST)
        self._wake_at = now + self._backoff.pause(now - self._started_at)

    def _fail_answers(self, code: int) -> None:
        """End the waits for answers on a connection that ended with this close
        code."""
        if code == CLOSE_TOO_LARGE:
            # The server does not say which request was too large. If it were
            # sent again, it would end the next connection, too.
            self.answers.fail_largest(Closed(code))
        if code not in (CLOSE_LOST, CLOSE_TRY_AGAIN):
            self.failure = Closed(code).text
        self.answers.fail("the connection was lost before the answer came")

    def _is_final(self, code: int) -> bool:
        """Whether the session must not connect again after this close code."""
        # A token that expires after its login is renewed; one that is refused
        # at the login is not.
        is_renewed = (
            code == CLOSE_TOKEN_INVALID
            and self._renewable
            and self.state is State.ONLINE
        )
        return not is_renewed and not may_reconnect(code)

    def close(self) -> None:
        """Note that the program closes the session."""
        self.closing = True
        # Commands that wait end at once, with an error.
        self.commands.give(0.0)

    def end(self, error: ClientError | None = None) -> None:
        """End the session.

        ``error``: the reason for the end; None: the program has closed the
        session. A reason that was noted before stays.
        """
        self.error = self.error or error
        self.settled = True
        self.answers.fail("the session has ended")
        self._change(Step.END)
        # Commands that still wait end with an error now.
        self.commands.give(0.0)

    def _change(self, step: Step) -> None:
        """Change the state. Raises RuntimeError if the shell has made a
        mistake."""
        if (self.state, step) not in TRANSITIONS:
            raise RuntimeError(f"a session that is {self.state} takes no {step.name}")
        self.state = TRANSITIONS[self.state, step]

    # --- received events

    def take(self) -> T | None:
        """Take the next received event. Returns None if no event waits."""
        if self._received:
            event: T = self._received.popleft()
            return event
        return None

    @property
    def waiting(self) -> int:
        """The number of events that wait to be taken."""
        return len(self._received)

    @property
    def full(self) -> bool:
        """Whether so many events wait that no more frames may be read.

        The answer to the login is always read.
        """
        if self.answers.futures:
            limit = MAX_WAITING_FOR_ANSWER
        else:
            limit = MAX_WAITING
        return self.state is State.ONLINE and self.waiting >= limit

    @property
    def over(self) -> bool:
        """Whether the session has ended, or the program has closed it."""
        return self.closing or self.state is State.ENDED

    def raise_unless_logged_in(self, url: str, timeout_seconds: float) -> None:
        """Raise the error of the first login, or :class:`NotConnected` if it
        has not ended in time.

        ``url`` and ``timeout_seconds`` are for the text of the error.
        """
        if not self.settled and not self.over:
            text = f"{url}: not logged in within {timeout_seconds:g} s"
            if self.failure:
                text = f"{text}: {self.failure}"
            raise NotConnected(text)
        self.raise_if_over()

    def raise_if_over(self) -> None:
        """Raise the error that has ended the session, or :class:`Closed`, if
        the session is over."""
        if self.over:
            raise self.error or Closed(CLOSE_NORMAL)


PushEvent = Push | ChannelEvent
"""The events of a session that receives pushes."""


class PushCore(SessionCore[PushEvent]):
    """A session that receives pushes."""

    def _read(self, frame: ServerFrame, now: float) -> None:
        """Queue a push for the program, and pass an answer to its request."""
        if isinstance(frame, Push):
            self._received.append(frame)
        elif isinstance(frame, Reply):
            self.answers.settle(frame.seq, frame)


# --- Stored messages ----------------------------------------------------------

MessengerEvent = Push | ChannelEvent | Entry | Signal | AccountFrame | LogReset
"""The events of a messenger."""
PAGE_ENTRIES: Final = 200
"""Entries on one page of a sync: the most that the server gives."""
ACK_SECONDS: Final = 1.0
"""How long a received entry may wait for its ack. The server waits for ten
seconds."""
ACK_ENTRIES: Final = 500
"""Number of entries after which an ack is sent at once."""
ROOM_SECONDS: Final = 1.0
"""How often the client checks whether the queue has room for the next page of a
sync."""
FIRST_ATTEMPT_SECONDS: Final = 0.1
LONGEST_ATTEMPT_SECONDS: Final = 2.0
"""The longest pause between two attempts to execute a command."""

Request = tuple[str, dict[str, Any]]
"""A command and its data."""


class _SyncPage(msgspec.Struct):
    """The data of the answer to ``sync``.

    ``reset``: the cursor is not valid any more, so the client must begin again.
    """

    messages: tuple[Entry, ...]
    more: bool = msgspec.field(name="hasMore")
    reset: bool = msgspec.field(default=False, name="beginAnew")


class SyncTracker:
    """The sync cursor: the greatest id of a stored message that was received.
    ``None`` means "from now on".

    The login sends the cursor. Then the server sends the missing entries by
    itself, or the client requests them page by page. While pages are missing,
    live entries are ignored, because a page brings them.
    """

    def __init__(self, cursor: int | None) -> None:
        self.cursor = cursor
        self.live = False
        """Whether no page is missing, so that live entries count."""
        self._acks = False
        """Whether the server waits for acks."""
        self._unacked = 0
        """The number of received entries without an ack."""
        self._oldest_at = 0.0
        """When the oldest of these entries was received."""

    def login_fields(self) -> dict[str, Any]:
        """Begin a login, and return its additional fields."""
        self.live = False
        self._acks = self.cursor is not None
        self._unacked = 0
        if self._acks:
            return {"cursor": self.cursor, "acks": True}
        return {}

    def logged_in(self, data: Any) -> Request | None:
        """Return the first sync request, or None if the server sends the
        missing entries by itself.

        ``data`` comes from the answer to the login.
        """
        if self.cursor is None:
            # The newest conversation tells the greatest id so far.
            return "conversations", {"limit": 1}
        if isinstance(data, dict) and data.get("recovered") is True:
            self.live = True
            return None
        return self._sync_request()

    def answered(
        self, cmd: str, data: Any, now: float
    ) -> tuple[list[Entry | LogReset], Request | None]:
        """Process the answer to a sync request.

        ``cmd``: the command that is answered. Returns the new entries in it,
        and the next request, or None if no page is missing. Raises ValueError
        if the answer is malformed.
        """
        if cmd == "conversations":
            newest = msgspec.convert(data, ConversationPage).conversations
            # The first entry that is missing has a greater id than all so far.
            self.cursor = newest[0].before if newest else 0
            return [], self._sync_request()

        return self._read_page(msgspec.convert(data, _SyncPage), now)

    def _read_page(
        self, page: _SyncPage, now: float
    ) -> tuple[list[Entry | LogReset], Request | None]:
        """Process a page of a sync. Returns its new entries and the next
        request, as :meth:`answered` does."""
        if page.reset and self.cursor:
            self.cursor = 0
            return [LogReset()], self._sync_request()
        entries: list[Entry | LogReset] = [
            entry for entry in page.messages if self._is_new(entry, now)
        ]
        if page.more and entries:
            return entries, self._sync_request()
        self.live = True
        return entries, None

    def received(self, entry: Entry, now: float) -> bool:
        """Note a live entry. Returns whether it is new and in order."""
        return self.live and self._is_new(entry, now)

    def stored(self, id: int) -> bool:
        """Note that our own message was stored with this id.

        Returns whether all entries before it were received.
        """
        if self.live:
            self.cursor = max(self.cursor or 0, id)
        return self.live

    @property
    def ack_at(self) -> float:
        """The time of the next ack. Infinite if no ack is needed."""
        if not self._acks or not self._unacked:
            return inf
        if self._unacked < ACK_ENTRIES:
            return self._oldest_at + ACK_SECONDS
        return -inf  # so many wait that they are acknowledged at once

    def ack(self, now: float) -> Request | None:
        """Return the ack of all received entries, or None if it is not due."""
        if now < self.ack_at:
            return None
        self._unacked = 0
        return "ack", {"id": self.cursor}

    def _is_new(self, entry: Entry, now: float) -> bool:
        """Count a received entry for the next ack, and move the cursor to it.

        Returns False if the entry was received before.
        """
        # An entry that arrives twice needs another ack, because the first one
        # came too late.
        if not self._unacked:
            self._oldest_at = now
        self._unacked += 1
        if entry.id <= (self.cursor or 0):
            return False
        self.cursor = entry.id
        return True

    def _sync_request(self) -> Request:
        """The request for the entries after the cursor."""
        return "sync", {"cursor": self.cursor or 0, "limit": PAGE_ENTRIES}


class Attempts:
    """The attempts to execute one command, which may take several connections.

    In each attempt a shell waits for the turn of the command (:meth:`begin`)
    and sends it. If no answer comes, the shell waits until the connection
    :meth:`is_gone`. If the answer is not final (:meth:`is_final`), it waits for
    :meth:`pause` seconds. Then the next attempt begins.
    """

    def __init__(
        self, core: SessionCore[Any], command: Command[Any], now: float
    ) -> None:
        """Begin the time of the command, which has its time limit in
        ``command``."""
        self._core = core
        self._command = command
        self._deadline = now + command.timeout_seconds
        self._backoff = Backoff(FIRST_ATTEMPT_SECONDS, LONGEST_ATTEMPT_SECONDS)
        self._number = next(core.commands.numbers)
        self._login = 0
        """The number of the login on whose connection the command was sent."""

    def begin(self, turn: Future, now: float) -> None:
        """Begin to wait for the turn of the command.

        ``turn`` gets, as its result, the time at which the command can be sent.
        It also gets a result when the session is over; then
        :meth:`answer_seconds` raises the error.
        """
        self._core.commands.add(self._number, turn)
        if self._core.over or self._core.state is State.ONLINE:
            self._core.commands.give(now)

    def forget_turn(self) -> None:
        """Stop waiting for the turn."""
        self._core.commands.forget(self._number)

    def is_gone(self) -> bool:
        """Whether the next attempt can begin, because the connection of the
        last one is lost."""
        core = self._core
        return core.over or core.state is not State.ONLINE or core.logins != self._login

    def seconds_left(self, now: float) -> float:
        """Return how much time the command has left, in seconds."""
        return self._deadline - now

    def answer_seconds(self, now: float) -> float:
        """Return how long to wait for the answer to this attempt, in seconds.

        From now on :meth:`is_gone` is about the present connection. Raises
        :class:`NotConnected` after the time of the command, and the error of a
        session that is over.
        """
        self._core.raise_if_over()
        if self.seconds_left(now) <= 0:
            raise self.too_late()
        self._login = self._core.logins
        return self.seconds_left(now)

    def too_late(self) -> NotConnected:
        """The error that ends a command after its time."""
        command = self._command
        text = f"{command.cmd}: no answer within {command.timeout_seconds:g} s"
        if self._core.state is State.IDLE:
            text = f"{text}: connect() was not called"
        return NotConnected(text)

    def failed(self, error: NotConnected, now: float) -> None:
        """Note an attempt without an answer. Raises ``error`` if the time of
        the command is over."""
        if self.seconds_left(now) <= 0:
            raise error

    def is_final(self, reply: Reply, now: float) -> bool:
        """Return whether this answer ends the attempts.

        It does if another attempt would get the same answer, or if there is no
        time for one.
        """
        return is_final(reply) or self.seconds_left(now) <= 0

    def pause(self) -> float:
        """Return the seconds to wait before the next attempt."""
        return self._backoff.pause()


class _CursorMark:
    """An item in the queue of received events that the program never sees.

    When it is taken, the cursor moves to our own message at ``id``.
    """

    def __init__(self, id: int) -> None:
        self.id = id


class MessengerCore(SessionCore[MessengerEvent]):
    """A session that receives stored messages, each once and in order.

    ``cursor`` is the greatest id that was taken. It includes our own messages
    before it.
    """

    def __init__(
        self, app: str, user: str, cursor: int | None, **options: Unpack[SessionOptions]
    ) -> None:
        """Begin with the cursor of an earlier session; None: from now on."""
        super().__init__(app, user, **options)
        self._tracker = SyncTracker(cursor)
        self._sync_seq = ""
        """The number of the sync request that has no answer yet; ``""``: no
        request waits."""
        self._next_request: Request | None = None
        """The next sync request, which is sent when the queue has room for its
        answer; None: no request is needed."""
        self._check_room_at = inf
        """When to check again whether the queue has room."""
        self.cursor = cursor

    def take(self) -> MessengerEvent | None:
        """Take the next received event, and move the cursor. Returns None if no
        event waits."""
        while self._received:
            item: MessengerEvent | _CursorMark = self._received.popleft()
            if isinstance(item, Entry | _CursorMark):
                self.cursor = max(self.cursor or 0, item.id)
            elif isinstance(item, LogReset):
                self.cursor = 0
            if not isinstance(item, _CursorMark):
                return item
        return None

    @property
    def deadline(self) -> float:
        """When to call :meth:`tick`; in the state ``waiting``, when to connect
        again."""
        if self.state is not State.ONLINE:
            return super().deadline
        return min(super().deadline, self._tracker.ack_at, self._check_room_at)

    def tick(self, now: float) -> None:
        """Do all work that is due.

        Beyond the work of every session, acknowledge entries and request the
        next page.
        """
        super().tick(now)
        ack = self._tracker.ack(now)
        if ack is not None:
            _, frame = self.command(*ack)
            self._frames.append(frame)
        self._send_next_request(now)

    def _login_fields(self) -> dict[str, Any]:
        """The cursor, if there is one."""
        return self._tracker.login_fields()

    def _logged_in(self, data: Any, now: float) -> None:
        """Begin to sync on a new connection."""
        self._sync_seq = ""
        self._next_request = self._tracker.logged_in(data)
        self._send_next_request(now)

    def _read(self, frame: ServerFrame, now: float) -> None:
        """Queue an entry, a push or a signal for the program, or handle an
        answer."""
        if isinstance(frame, Entry):
            # An entry may come twice, or out of order while pages are missing.
            if self._tracker.received(frame, now):
                self._received.append(frame)
        elif not isinstance(frame, Reply):
            self._received.append(frame)
        elif frame.seq == self._sync_seq:
            self._read_page(frame, now)
        else:
            if frame.ok and frame.cmd in STORING:
                self._note_own_entry(frame.data["id"])
            self.answers.settle(frame.seq, frame)

    def _note_own_entry(self, id: int) -> None:
        """Move the cursor to our own entry, which the server has stored."""
        # While pages are missing, one of them brings our own message.
        if self._tracker.stored(id):
            self._add_cursor_mark(id)

    def _send_next_request(self, now: float) -> None:
        """Send the next sync request, if there is one and the queue has room
        for its answer. Otherwise check again later."""
        self._check_room_at = inf
        if self._next_request is None or self.state is not State.ONLINE:
            return
        # While a request waits, pages alone must not stop the reading: its
        # answer would not be read.
        if self.answers.futures:
            limit = MAX_WAITING_FOR_ANSWER - PAGE_ENTRIES
        else:
            limit = MAX_WAITING
        if self.waiting >= limit:
            self._check_room_at = now + ROOM_SECONDS
            return

        self._sync_seq, frame = self.command(*self._next_request)
        self._next_request = None
        self._frames.append(frame)

    def _read_page(self, reply: Reply, now: float) -> None:
        """Handle the answer to a sync request: queue its entries, and request
        the next page.

        After a refusal, all is tried again on another connection.
        """
        if not reply.ok:
            log.info("%s failed with code %d; reconnecting", reply.cmd, reply.code)
            self.close_code = CLOSE_TRY_AGAIN
            return
        events, self._next_request = self._tracker.answered(reply.cmd, reply.data, now)
        # The session began "from now on". Now this is a number.
        if self.cursor is None:
            self.cursor = self._tracker.cursor
        self._received += events
        self._sync_seq = ""
        self._send_next_request(now)

    def _add_cursor_mark(self, id: int) -> None:
        """Let the cursor move to our own message once the events before it are
        taken."""
        # Several marks in a row become one, because a program that only sends
        # must not fill the queue.
        last = self._received[-1] if self._received else None
        if isinstance(last, _CursorMark):
            last.id = max(last.id, id)
        else:
            self._received.append(_CursorMark(id))
