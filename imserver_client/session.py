"""The state of a session without I/O: a shell (threads.py, aio.py) connects, sends and waits.

A shell calls the core at these moments, and always passes the monotonic time:

1. :meth:`SessionCore.start` before it connects.
2. :meth:`SessionCore.opened` when the WebSocket is open.
3. While it is open: :meth:`SessionCore.feed` for each frame, and :meth:`SessionCore.tick` at the time of
   :attr:`SessionCore.deadline`. After each of them it sends the frames of :meth:`SessionCore.to_send`, and
   closes the connection when :attr:`SessionCore.close_code` is set.
4. :meth:`SessionCore.lost` when the connection is gone. In the state ``waiting`` it begins again at the
   deadline.

Received events are taken from the core with :meth:`SessionCore.take`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum, StrEnum, auto
from math import inf
from random import uniform
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

import msgspec

from imserver_client.errors import (
    CLOSE_NORMAL,
    CLOSE_TRY_AGAIN,
    REPLY_BAD_PARAMETER,
    REPLY_BAD_USER,
    REPLY_UNAUTHORIZED,
    ClientError,
    Closed,
    LoginRefused,
    NotConnected,
    may_reconnect,
)
from imserver_client.messages import ConversationPage, Entry, LogReset, Signal
from imserver_client.protocol import STORING, CmdCodec, Push, Reply, ServerFrame

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 10.0
"""How long the server may take to connect and to answer."""
HEARTBEAT_SECONDS: Final = 30.0
"""Time between heartbeats; the server waits for six minutes."""
MAX_WAITING: Final = 10_000
"""Events that wait to be taken; while there are so many, the shell reads no more frames."""
FINAL_REFUSALS: Final = frozenset({REPLY_BAD_PARAMETER, REPLY_BAD_USER, REPLY_UNAUTHORIZED})
"""A login that is refused with one of these is not tried again."""

T = TypeVar("T")
OnState = Callable[[str], None] | None
Future = concurrent.futures.Future[Any] | asyncio.Future[Any]


# --- The states of a session --------------------------------------------------------------------------------


class State(StrEnum):
    """The state of a session. ``connecting`` ends with the login; ``waiting`` is the pause before a retry."""

    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    ENDED = "ended"


class Step(Enum):
    """What changes the state of a session."""

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
"""All steps that exist. Any other is an error of the shell."""


class Backoff:
    """Pauses between tries: random, growing from ``first_seconds`` to ``longest_seconds`` ("full jitter"), so
    that many clients do not come back at once. Owner of the number of failures in a row."""

    LASTING_SECONDS: Final = 60.0
    """A connection of this length was a success: the next pause is short again."""

    def __init__(self, first_seconds: float = 0.5, longest_seconds: float = 30.0) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self.failures = 0

    def pause(self, connected_seconds: float = 0.0) -> float:
        """Return the seconds to wait before the next try, after a connection of this length."""
        if connected_seconds >= self.LASTING_SECONDS:
            self.failures = 0
        self.failures += 1
        return uniform(0.0, min(self._longest, self._first * 2.0 ** min(self.failures - 1, 16)))


class SessionOptions(TypedDict, total=False):
    """Arguments that all sessions take."""

    device: str
    heartbeat_seconds: float
    backoff: Backoff | None


class PendingAnswers:
    """Futures of requests without an answer, by their ``seq``; all of threads, or all of asyncio."""

    def __init__(self) -> None:
        self.futures: dict[str, Future] = {}

    def settle(self, seq: str, outcome: object) -> None:
        """Give an answer, or an error, to the request that waits for it, if any does."""
        future = self.futures.pop(seq, None)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def fail(self, text: str) -> None:
        """Raise :class:`NotConnected` in all requests that wait."""
        for seq in tuple(self.futures):
            self.settle(seq, NotConnected(text))


# --- What all sessions do -----------------------------------------------------------------------------------


class SessionCore(ABC, Generic[T]):
    """One user's session: login, heartbeats, retries, answers, and the queue of received events.

    Raises ValueError for an empty user, and for an app whose name the cmd dialect cannot carry.
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
        if not app or ":" in app:
            raise ValueError(f"{app!r} is not an app of the cmd dialect")
        if not user:
            raise ValueError("the user id is empty")
        self._login = (app, user, device)
        self._heartbeat_seconds = heartbeat_seconds
        self._backoff = backoff or Backoff()
        self._codec = CmdCodec()
        self._login_seq = ""
        self._started_at = 0.0
        self._wake_at = inf
        self._frames: list[str] = []
        self._received: deque[Any] = deque()
        self.command = self._codec.command
        self.answers = PendingAnswers()
        self.state = State.IDLE
        self.settled = False
        """The first login has succeeded, or the session has ended."""
        self.closing = False
        """The program has closed the session."""
        self.error: ClientError | None = None
        """Why the session has ended, or is about to end."""
        self.close_code = 0
        """The shell must close the connection with this code, if it is not 0."""

    # --- hooks of the kinds of sessions

    @abstractmethod
    def _read(self, frame: ServerFrame, now: float) -> None:
        """A frame has come that is not the answer to the login."""

    def _login_fields(self) -> dict[str, Any]:
        return {}

    def _logged_in(self, data: Any) -> None:
        """The login was accepted; ``data`` is that of its answer."""

    # --- the connection

    def start(self, now: float) -> None:
        """Begin a try to connect."""
        self._change(Step.START)
        self._started_at = now

    def opened(self, token: str, now: float) -> None:
        """The WebSocket is open: log in."""
        app, user, device = self._login
        self.close_code = 0
        self._login_seq, frame = self._codec.login(app, user, token, device, self._login_fields())
        self._frames = [frame]
        self._wake_at = now + ANSWER_SECONDS

    def feed(self, frame: str | bytes, now: float) -> None:
        """Process a frame. Raises ValueError if the server sends a malformed sync page."""
        read = self._codec.read(frame)
        if read is None:
            return
        if not (isinstance(read, Reply) and self._login_seq and read.seq == self._login_seq):
            self._read(read, now)
            return
        self._login_seq = ""
        if read.ok:
            self._wake_at = now + self._heartbeat_seconds
            self.settled = True
            self._change(Step.LOGGED_IN)
            self._logged_in(read.data)
        elif read.code in FINAL_REFUSALS:
            self.error = LoginRefused(read.code, read.text)
            self.close_code = CLOSE_NORMAL
        else:
            self.close_code = CLOSE_TRY_AGAIN

    @property
    def deadline(self) -> float:
        """When to call :meth:`tick`; in the state ``waiting``, when to connect again."""
        return self._wake_at

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now < self._wake_at:
            return
        if self._login_seq:
            self.close_code = CLOSE_TRY_AGAIN  # no answer to the login
            return
        self._frames.append(self.command("heartbeat")[1])
        self._wake_at = now + self._heartbeat_seconds

    def to_send(self) -> list[str]:
        """Take the frames that must be sent now."""
        frames, self._frames = self._frames, []
        return frames

    def lost(self, code: int, now: float) -> None:
        """The connection has ended with this code, or could not be made (1006)."""
        self._login_seq = ""
        self.answers.fail("the connection was lost before the answer came")
        if self.error is None and not self.closing and not may_reconnect(code):
            self.error = Closed(code)
        if self.error is not None or self.closing:
            self.end()
            return
        self._change(Step.LOST)
        self._wake_at = now + self._backoff.pause(now - self._started_at)

    def end(self, error: ClientError | None = None) -> None:
        """End the session."""
        self.error = self.error or error
        self.settled = True
        self.answers.fail("the session has ended")
        self._change(Step.END)

    def _change(self, step: Step) -> None:
        if (self.state, step) not in TRANSITIONS:
            raise RuntimeError(f"a session that is {self.state} takes no {step.name}")
        self.state = TRANSITIONS[self.state, step]

    # --- received events

    def take(self) -> T | None:
        """Take the next received event; None if none waits."""
        return self._received.popleft() if self._received else None

    @property
    def waiting(self) -> int:
        """The number of events that wait to be taken."""
        return len(self._received)

    @property
    def full(self) -> bool:
        """Whether so many events wait that no more frames must be read."""
        return len(self._received) >= MAX_WAITING

    @property
    def over(self) -> bool:
        """Whether the session has ended, or the program has closed it."""
        return self.closing or self.state is State.ENDED

    def raise_if_over(self) -> None:
        """Raise :class:`Closed`, or the error that ended the session, if it is over."""
        if self.over:
            raise self.error or Closed(CLOSE_NORMAL)


class PushCore(SessionCore[Push]):
    """A session that receives pushes."""

    def _read(self, frame: ServerFrame, now: float) -> None:
        if isinstance(frame, Push):
            self._received.append(frame)
        elif isinstance(frame, Reply):
            self.answers.settle(frame.seq, frame)


# --- Stored messages ----------------------------------------------------------------------------------------

MessengerEvent = Push | Entry | Signal | LogReset
"""What a messenger receives."""
PAGE_ENTRIES: Final = 200
"""Entries of one page of a sync, the most that the server gives."""
ACK_SECONDS: Final = 1.0
"""How long a received entry may wait for its ack; the server waits for ten seconds."""
ACK_ENTRIES: Final = 500
"""After so many entries an ack is sent at once."""

Question = tuple[str, dict[str, Any]]
"""A command and its data."""


class _SyncPage(msgspec.Struct):
    messages: tuple[Entry, ...]
    more: bool = msgspec.field(name="hasMore")
    reset: bool = msgspec.field(default=False, name="beginAnew")


class SyncTracker:
    """Owner of the sync cursor: the greatest id that was received. ``None`` means "from now on".

    The login has the cursor. The server then sends the missing entries by itself, or the client asks for them
    page by page. While pages are missing, live entries are ignored: a page brings them.
    """

    def __init__(self, cursor: int | None) -> None:
        self.cursor = cursor
        self.live = False
        self._acks = False
        self._unacked = 0
        self._oldest_at = 0.0

    def login_fields(self) -> dict[str, Any]:
        """Begin a login; return its additional fields."""
        self.live, self._acks, self._unacked = False, self.cursor is not None, 0
        return {"cursor": self.cursor, "acks": True} if self._acks else {}

    def logged_in(self, data: Any) -> Question | None:
        """Return the first question, if one is needed; ``data`` is that of the answer to the login."""
        if self.cursor is None:
            return "conversations", {"limit": 1}
        if isinstance(data, dict) and data.get("recovered") is True:
            self.live = True
            return None
        return self._sync()

    def answered(self, cmd: str, data: Any, now: float) -> tuple[list[Entry | LogReset], Question | None]:
        """Return what the answer to a question brings, and the next question. Raises ValueError."""
        if cmd == "conversations":
            newest = msgspec.convert(data, ConversationPage).conversations
            self.cursor = newest[0].before if newest else 0
            return [], self._sync()
        page = msgspec.convert(data, _SyncPage)
        if page.reset and self.cursor:
            self.cursor = 0
            return [LogReset()], self._sync()
        entries: list[Entry | LogReset] = [entry for entry in page.messages if self._is_new(entry, now)]
        if page.more and entries:
            return entries, self._sync()
        self.live = True
        return entries, None

    def received(self, entry: Entry, now: float) -> bool:
        """Note a live entry; return whether it is new and in order."""
        return self.live and self._is_new(entry, now)

    def stored(self, id: int) -> bool:
        """Note that our own message has this id; return whether everything before it was received."""
        if self.live:
            self.cursor = max(self.cursor or 0, id)
        return self.live

    @property
    def ack_at(self) -> float:
        """When the next ack is due."""
        if not self._acks or not self._unacked:
            return inf
        return self._oldest_at + ACK_SECONDS if self._unacked < ACK_ENTRIES else -inf

    def ack(self, now: float) -> Question | None:
        """Return the ack of everything that was received, if it is due."""
        if now < self.ack_at:
            return None
        self._unacked = 0
        return "ack", {"id": self.cursor}

    def _is_new(self, entry: Entry, now: float) -> bool:
        # An entry that comes twice needs an ack again: the first one came too late.
        if not self._unacked:
            self._oldest_at = now
        self._unacked += 1
        if entry.id <= (self.cursor or 0):
            return False
        self.cursor = entry.id
        return True

    def _sync(self) -> Question:
        return "sync", {"cursor": self.cursor or 0, "limit": PAGE_ENTRIES}


class _CursorMark:
    """Stands between received events: when it is reached, the cursor moves to our own message at ``id``."""

    def __init__(self, id: int) -> None:
        self.id = id


class MessengerCore(SessionCore[MessengerEvent]):
    """A session that receives stored messages, each once and in order.

    ``cursor`` is the greatest id that was taken, our own messages before it included.
    """

    def __init__(self, app: str, user: str, cursor: int | None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(app, user, **options)
        self._tracker = SyncTracker(cursor)
        self._sync_seq = ""
        self.cursor = cursor

    def take(self) -> MessengerEvent | None:
        """Take the next received event, and move the cursor; None if none waits."""
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
        """When to call :meth:`tick`; in the state ``waiting``, when to connect again."""
        return min(self._wake_at, self._tracker.ack_at) if self.state is State.ONLINE else self._wake_at

    def tick(self, now: float) -> None:
        """Do what is due."""
        super().tick(now)
        if (ack := self._tracker.ack(now)) is not None:
            self._frames.append(self.command(*ack)[1])

    def _login_fields(self) -> dict[str, Any]:
        return self._tracker.login_fields()

    def _logged_in(self, data: Any) -> None:
        self._ask(self._tracker.logged_in(data))

    def _read(self, frame: ServerFrame, now: float) -> None:
        if isinstance(frame, Entry):
            if self._tracker.received(frame, now):
                self._received.append(frame)
        elif not isinstance(frame, Reply):
            self._received.append(frame)
        elif frame.seq == self._sync_seq:
            self._synced(frame, now)
        else:
            if frame.ok and frame.cmd in STORING and self._tracker.stored(frame.data["id"]):
                self._mark(frame.data["id"])
            self.answers.settle(frame.seq, frame)

    def _ask(self, question: Question | None) -> None:
        self._sync_seq = ""
        if question is not None:
            self._sync_seq, frame = self.command(*question)
            self._frames.append(frame)

    def _synced(self, reply: Reply, now: float) -> None:
        if not reply.ok:
            log.info("%s failed with code %d; reconnecting", reply.cmd, reply.code)
            self.close_code = CLOSE_TRY_AGAIN
            return
        events, question = self._tracker.answered(reply.cmd, reply.data, now)
        self._received += events
        self._ask(question)

    def _mark(self, id: int) -> None:
        """Move the cursor to our own message once the events before it are taken. Marks in a row are one: a
        program that only sends must not fill the queue."""
        if self._received and isinstance(self._received[-1], _CursorMark):
            self._received[-1].id = max(self._received[-1].id, id)
        else:
            self._received.append(_CursorMark(id))
