"""The uplink of chats: messages, counted by their client on each connection, stored in order and once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import gevent

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import ChatMessage, Command, Reply
from imserver.protocol.protobuf import ProtobufDialect, uplink_ack
from imserver.services.dialects.chat_drafts import code_of, draft_of
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.messaging import Messaging, Result
from imserver.services.messages.readers import Reader
from imserver.services.sessions.sessions import say
from imserver.storage.log.contract import BLOCKED, Appended, Draft, Entry, Rejected, StorageUnsure
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)

UNSTORED: Final = -1
"""In place of a position: the message was acknowledged, and not stored."""
MAX_WAITING: Final = 1000
MAX_WAITING_BYTES: Final = 1 << 20
"""Messages of one connection, and bytes of them, that wait for the one before to be stored; more are not
processed, and may be sent again."""


class ChatReader(Reader):
    """What is remembered of a session. ``last``: of the message that was stored or refused last, its number
    as its client counts, and where it is stored (0: it was refused; or :data:`UNSTORED`). ``ends``: the
    minute of Unix time with which its token has ended; 0: it does not."""

    last: tuple[int, int] = (0, 0)
    ends: int = 0


class RestingReader(ChatReader):
    """What sessions share that have nothing to remember but ``ends``: live, in no group, and nothing sent."""

    def own(self) -> ChatReader:
        return ChatReader(held=None, ends=self.ends)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of a session would change for others, too")


class ChatAcknowledger(Acknowledger):
    """The same of a session whose client acknowledges."""

    last: tuple[int, int] = (0, 0)
    ends: int = 0


CHAT_READERS: Final = (ChatReader, ChatAcknowledger)


class _Line:
    """The messages of one connection that are not stored yet. ``next`` is the number that comes next; those
    that wait in ``messages`` are handed over together, when none of those before is being stored."""

    __slots__ = ("failed", "messages", "next", "size", "storing")

    def __init__(self, number: int) -> None:
        self.next = number
        self.messages: deque[ChatMessage] = deque()
        self.storing = 0
        self.size = 0
        self.failed = 0
        """The first number that could not be stored."""


class Uplink:
    """Owner of the messages that wait for earlier ones of their connection, and of the numbers in
    :class:`ChatReader`. ``kept`` gives the log, or None while nothing was ever stored."""

    def __init__(self, messaging: Messaging, kept: Callable[[], MessageLog | None]) -> None:
        self._messaging = messaging
        self._kept = kept
        self._lines: dict[Connection, _Line] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be stored."""
        return not self._lines

    def ended(self, connection: Connection) -> None:
        """A connection is over. Never switches."""
        self._lines.pop(connection, None)

    def send(self, connection: Connection, command: Command) -> Reply:
        """Take a message; it is acknowledged behind the commit. Never switches.

        Only the next number is taken. A repeat of the last one is acknowledged again; those before it have
        been, for acknowledgements leave in order.
        """
        assert isinstance(command, ChatMessage)
        reader = connection.about
        if not isinstance(reader, CHAT_READERS):
            return Reply(errors.REPLY_NOT_LOGGED_IN)
        line = self._lines.get(connection)
        number, seq = reader.last
        if command.number == (number + 1 if line is None else line.next):
            self._take(connection, command, line)
        elif command.number == number and line is None and seq:
            connection.send(uplink_ack(number, max(seq, 0)))
        return Reply(errors.REPLY_OK)

    def _take(self, connection: Connection, command: ChatMessage, line: _Line | None) -> None:
        if line is None:
            line = self._lines[connection] = _Line(command.number)
        waiting = line.storing + len(line.messages)
        if waiting and (waiting >= MAX_WAITING or line.size + len(command.content) > MAX_WAITING_BYTES):
            return
        line.next += 1
        line.size += len(command.content)
        line.messages.append(command)
        if not line.storing:
            self._store(connection, line)

    def _store(self, connection: Connection, line: _Line) -> None:
        """Hand over what waits. Never switches."""
        messages, line.messages = line.messages, deque()
        line.storing = len(messages)
        abouts = [each.about for each in messages if each.kind]
        if abouts:
            gevent.spawn(self._look_up, connection, line, messages, abouts)
        else:
            self._hand_over(connection, line, messages, {})

    def _look_up(
        self, connection: Connection, line: _Line, messages: deque[ChatMessage], abouts: list[int]
    ) -> None:
        """Greenlet: hand over what waits, when it is known what the recalls and edits among it are about."""
        app = connection.app
        found: dict[int, Entry] | None = None
        try:
            kept = self._kept()
            assert app is not None
            found = {} if kept is None else {each.id: each for each in kept.entries(app, abouts)}
        except StorageUnavailable:
            pass
        except Exception:
            log.exception("looking up what was recalled or edited failed")
        if self._lines.get(connection) is line:
            self._hand_over(connection, line, messages, found)

    def _hand_over(
        self,
        connection: Connection,
        line: _Line,
        messages: deque[ChatMessage],
        found: dict[int, Entry] | None,
    ) -> None:
        """``found``: what they are about; None: that cannot be looked up. What is refused for what it is only
        uses up its number."""
        app, user = connection.app, connection.user
        assert app is not None
        assert user is not None
        for command in messages:
            made = draft_of(user, command, found)
            if isinstance(made, Draft):
                self._messaging.send(app, made, self._done(connection, line, command), connection)
            else:
                self._stored(connection, line, command, made)

    def _done(self, connection: Connection, line: _Line, command: ChatMessage) -> Callable[[Result], None]:
        return lambda result: self._stored(connection, line, command, result)

    def _stored(self, connection: Connection, line: _Line, command: ChatMessage, result: Result) -> None:
        """What became of a message. Never switches."""
        reader, number = connection.about, command.number
        if self._lines.get(connection) is not line or not isinstance(reader, CHAT_READERS):
            return
        if isinstance(result, StorageUnsure):
            # Its number is used up if it was stored: a repeat must not be stored meanwhile.
            result.on_known = self._done(connection, line, command)
            return
        line.storing -= 1
        line.size -= len(command.content)
        if isinstance(result, StorageUnavailable):
            line.failed = min(line.failed or number, number)
        else:
            seq = result.entry.id if isinstance(result, Appended) else 0
            refused = isinstance(result, Rejected) and _refuse(connection, number, result)
            if isinstance(result, Rejected) and result.reason == BLOCKED and not refused:
                # A client that knows no refusal would repeat the message until it is acknowledged.
                seq = UNSTORED
            if number > reader.last[0]:
                if isinstance(reader, RestingReader):
                    reader = connection.about = reader.own()
                reader.last = (number, seq)
            if seq:
                connection.send(uplink_ack(number, max(seq, 0)))
        if not line.storing:
            self._go_on(connection, line, reader)

    def _go_on(self, connection: Connection, line: _Line, reader: ChatReader | ChatAcknowledger) -> None:
        """All that was handed over is settled."""
        if line.messages and not line.failed:
            self._store(connection, line)
            return
        # Those behind one that could not be stored have numbers that are not due any more.
        del self._lines[connection]
        if line.failed and reader.last[0] > line.failed:
            # A later one has been stored: its client has to begin anew, or could never send the earlier one.
            say(connection, errors.CLOSE_INTERNAL_ERROR)


def _refuse(connection: Connection, number: int, why: Rejected) -> bool:
    """Say that a message is refused; False if its client has no word for that."""
    dialect = connection.encoding.dialect
    assert isinstance(dialect, ProtobufDialect)
    told = dialect.refused(code_of(why), number)
    if told is not None:
        connection.send(told)
    return told is not None
