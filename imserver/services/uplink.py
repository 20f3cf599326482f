"""The uplink of chats: messages of a connection, counted by its client, are stored one by one, each once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import ChatMessage, Command, Reply
from imserver.protocol.protobuf import MAX_ID, ST_GROUP, ST_SINGLE, account, type_name, uplink_ack
from imserver.services.messaging import Messaging, Result
from imserver.services.readers import Reader
from imserver.storage.log_contract import Appended, Draft, Rejected
from imserver.transport.connection import Connection

MAX_WAITING: Final = 1000
MAX_WAITING_BYTES: Final = 1 << 20
"""Messages of one connection, and bytes of them, that wait for the one before to be stored; more are not
processed, and may be sent again."""


class ChatReader(Reader):
    """What is remembered of a session. ``last``: of the message that was stored or refused last, its number
    as its client counts, and where it is stored (0: it was refused). ``ends``: the minute of Unix time with
    which its token has ended; 0: it does not."""

    last: tuple[int, int] = (0, 0)
    ends: int = 0


class _Line:
    """The messages of one connection that are not stored yet, in order; the first is being stored."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: deque[ChatMessage] = deque()
        self.size = 0


class Uplink:
    """Owner of the messages that wait for earlier ones of their connection, and of the numbers in
    :class:`ChatReader`."""

    def __init__(self, messaging: Messaging) -> None:
        self._messaging = messaging
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
        if not isinstance(reader, ChatReader):
            return Reply(errors.REPLY_NOT_LOGGED_IN)
        line = self._lines.get(connection)
        waiting = 0 if line is None else len(line.messages)
        number, seq = reader.last
        if command.number == number and not waiting and seq:
            connection.send(uplink_ack(number, seq))
        elif command.number == number + waiting + 1:
            self._take(connection, command, line)
        return Reply(errors.REPLY_OK)

    def _take(self, connection: Connection, command: ChatMessage, line: _Line | None) -> None:
        if line is None:
            line = self._lines[connection] = _Line()
        elif len(line.messages) >= MAX_WAITING or line.size + len(command.content) > MAX_WAITING_BYTES:
            return
        line.messages.append(command)
        line.size += len(command.content)
        if len(line.messages) == 1:
            self._store_next(connection, line)

    def _store_next(self, connection: Connection, line: _Line) -> None:
        """Store the first message of a line; those that are refused for what they are use up their number."""
        reader: ChatReader = connection.about
        while line.messages:
            draft = _draft(connection.user or "", line.messages[0])
            if draft is not None:
                app = connection.app
                assert app is not None
                self._messaging.send(app, draft, self._done(connection, line), connection)
                return
            self._use_up(reader, line, 0)
        if self._lines.get(connection) is line:
            del self._lines[connection]

    def _done(self, connection: Connection, line: _Line) -> Callable[[Result], None]:
        return lambda result: self._stored(connection, line, result)

    def _stored(self, connection: Connection, line: _Line, result: Result) -> None:
        """What became of the first message of a line. Never switches."""
        reader = connection.about
        if self._lines.get(connection) is not line or not isinstance(reader, ChatReader):
            return
        if isinstance(result, StorageUnavailable):
            # Those behind it have numbers that are not due any more.
            del self._lines[connection]
            return
        if isinstance(result, Appended):
            self._use_up(reader, line, result.entry.id)
            connection.send(uplink_ack(*reader.last))
        else:
            assert isinstance(result, Rejected)
            self._use_up(reader, line, 0)
        self._store_next(connection, line)

    def _use_up(self, reader: ChatReader, line: _Line, seq: int) -> None:
        done = line.messages.popleft()
        line.size -= len(done.content)
        reader.last = (done.number, seq)


def _draft(user: str, command: ChatMessage) -> Draft | None:
    """What is to be stored; None for what nobody may send."""
    sender, receiver = command.sender, command.receiver
    if not sender or sender != account(user) or not 0 < receiver <= MAX_ID:
        return None
    if command.session_type == ST_GROUP:
        to_user, conversation = "", receiver
    elif command.session_type == ST_SINGLE and receiver != sender:
        to_user, conversation = str(receiver), 0
    else:
        return None
    return Draft(
        sender=user,
        type=type_name(command.type),
        body=command.content,
        client_msg_id=command.client_msg_id,
        time_ms=command.sent_ms,
        to_user=to_user,
        conversation=conversation,
    )
