"""Messages from protobuf clients. A client numbers the messages of a
connection. The server stores them in this order, and each message once."""

import logging
from functools import partial
from secrets import randbits
from time import time
from typing import Final, Literal

import gevent
import msgspec

from imserver.dialects.protobuf.wire import (
    ST_GROUP,
    ST_SINGLE,
    ChatMessage,
    FullProtobufDialect,
    ProtobufDialect,
    account,
    type_name,
    uplink_ack,
)
from imserver.plugin.errors import CloseCode, StorageUnavailable
from imserver.plugin.messages import (
    Appended,
    Draft,
    Entry,
    MessageLog,
    Messaging,
    Rejected,
    RejectReason,
    StorageUnsure,
)
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.storage import Store
from imserver.plugin.wire import Connection, DialectState, Limit, app_and_user

log = logging.getLogger(__name__)


RECALL = 1
EDIT = 2
"""Kinds of messages; a plain one has the kind 0."""
UNSTORED: Final = -1
"""This number stands in place of a position if the message was acknowledged,
but not stored."""
MAX_WAITING: Final = 1000
MAX_WAITING_BYTES: Final = 1 << 20
"""Limits of the messages of one connection that wait until an earlier message
is stored. Further messages are dropped; the client may send them again."""

_END_MASK: Final = 0xFFFFFFFF
_SESSION_BITS: Final = 62
"""Number of bits in the number of an uplink session."""
_SECOND_MS: Final = 1000
_FINAL_REFUSALS: Final = (
    RejectReason.BLOCKED,
    RejectReason.REJECTED,
    RejectReason.READ_ONLY,
)
"""Refusals that are final. If such a message were not acknowledged, a client
that knows no refusals would repeat it for ever."""


class ProtobufState(DialectState, gc=False):
    """The state of this dialect for a session.

    ``last``: the client's number of the last stored or refused message, and the
    position of the message. The position is 0 if it was refused, or
    :data:`UNSTORED`. ``end_and_session``: :attr:`ends` in the lowest 32 bits,
    and :attr:`uplink_session` in the other bits. Two numbers would take 40 more
    bytes for each session.
    """

    last: tuple[int, int] = (0, 0)
    end_and_session: int = 0

    @property
    def ends(self) -> int:
        """The minute of Unix time in which the token expires; 0: it does not
        expire."""
        return self.end_and_session & _END_MASK

    @property
    def uplink_session(self) -> int:
        """The number of the uplink session; 0 if the session has begun none.

        A user has at most one uplink session that may send messages. When a new
        uplink session begins, the older sessions of the user can no longer
        send.
        """
        return self.end_and_session >> _END_MASK.bit_length()

    def begin_uplink(self, session: int) -> None:
        """Set the number of the uplink session. The number was 0 until now."""
        self.end_and_session |= session << _END_MASK.bit_length()


class _Queue(msgspec.Struct, eq=False):
    """The messages of one connection that are not stored yet.

    While some messages are being stored, the next messages wait in
    ``messages``. Later these messages are stored together.
    """

    next: int
    """The number that the client must give its next message."""
    messages: list[ChatMessage] = msgspec.field(default_factory=list)
    storing: int = 0
    """How many messages are being stored."""
    size: int = 0
    """The bytes of all messages, waiting or being stored."""
    failed: int = 0
    """The first number that could not be stored; 0: no message has failed."""


class ProtobufUplink:
    """Stores the messages of each connection in their order, and each message
    once.

    A client numbers its messages. A message whose number is not the next one is
    dropped, so that the client sends it again later.
    """

    def __init__(self, messaging: Messaging, store: Store) -> None:
        self._messaging = messaging
        self._store = store
        self.queues: dict[Connection, _Queue] = {}

    def begin(self, app: str, user: str) -> int:
        """Begin an uplink session of a user, in which messages count from the
        start again.

        In the new session, messages are numbered from the start again. Returns
        the number of the uplink session. After the return, each message of the
        user's older sessions is in the log, or is never stored. This is true
        for messages that wait in this service, and even for messages on a node
        that was stopped and continues later. Switches greenlets. Raises
        StorageUnavailable.
        """
        session = randbits(_SESSION_BITS) + 1
        self._store.part(MessageLog).writer.begin_uplink(app, user, session)
        return session

    def ended(self, connection: Connection) -> None:
        """Handle the end of a connection. Never switches greenlets."""
        self.queues.pop(connection, None)

    def send(self, connection: Connection, command: ChatMessage) -> None:
        """Accept a message, which is acknowledged after the commit.

        Only the next number is accepted. If the client repeats the last number,
        it is acknowledged again. Never switches greenlets.
        """
        state = connection.dialect_state
        if not isinstance(state, ProtobufState):
            return

        queue = self.queues.get(connection)
        last_number, seq = state.last
        expected = last_number + 1 if queue is None else queue.next
        if command.number != expected:
            # Acknowledgements are sent in order, so all earlier ones were sent.
            # A refused message (0) is not acknowledged. For a message that was
            # acknowledged but not stored, the ack has 0 in place of a position.
            if command.number == last_number and queue is None and seq:
                connection.send(uplink_ack(last_number, max(seq, 0)))
            return
        if queue is None:
            queue = _Queue(command.number)
            self.queues[connection] = queue

        # If a client sends faster than its messages are stored, the server
        # drops some messages. The client sends them again.
        waiting = queue.storing + len(queue.messages)
        if waiting and (
            waiting >= MAX_WAITING
            or queue.size + len(command.content) > MAX_WAITING_BYTES
        ):
            return

        queue.next += 1
        queue.size += len(command.content)
        queue.messages.append(command)
        if not queue.storing:
            self._store_waiting(connection, queue)

    def _store_waiting(self, connection: Connection, queue: _Queue) -> None:
        """Take the waiting messages out of the queue, and store them.

        If some of them are recalls or edits, a greenlet reads their entries
        first. Never switches greenlets.
        """
        messages = queue.messages
        queue.messages = []
        queue.storing = len(messages)
        revised_ids = [each.about for each in messages if each.kind]
        if revised_ids:
            gevent.spawn(self._read_revised, connection, queue, messages, revised_ids)
        else:
            self._store_each(connection, queue, messages, {})

    def _read_revised(
        self,
        connection: Connection,
        queue: _Queue,
        messages: list[ChatMessage],
        revised_ids: list[int],
    ) -> None:
        """Read the entries that recalls and edits refer to, then store the
        messages. This is a greenlet of its own."""
        app = connection.app
        entries: dict[int, Entry] | None = None
        try:
            assert app is not None
            entries = {
                each.id: each
                for each in self._store.part(MessageLog).entries.find(app, revised_ids)
            }
        except StorageUnavailable:
            pass
        except Exception:
            log.exception("the entries of recalls and edits could not be read")
        # The connection may have ended during the query.
        if self.queues.get(connection) is queue:
            self._store_each(connection, queue, messages, entries)

    def _store_each(
        self,
        connection: Connection,
        queue: _Queue,
        messages: list[ChatMessage],
        entries: dict[int, Entry] | None,
    ) -> None:
        """Store messages, or refuse them. A refused message uses up its number.

        ``entries``: the entries that recalls and edits refer to, by their ids.
        None if they could not be read. Never switches greenlets.
        """
        app, user = app_and_user(connection)
        # GoChat acknowledges and stores messages to users who do not exist.
        to_anybody = not isinstance(connection.encoding.dialect, FullProtobufDialect)
        state = connection.dialect_state
        if isinstance(state, ProtobufState):
            session = state.uplink_session
        else:
            session = 0
        for command in messages:
            draft = draft_of(user, command, entries, to_anybody, session)
            if isinstance(draft, Draft):
                on_result = partial(self._handle_result, connection, queue, command)
                self._messaging.send_of_user(app, draft, on_result, connection)
            else:
                self._handle_result(connection, queue, command, draft)

    def _handle_result(
        self,
        connection: Connection,
        queue: _Queue,
        command: ChatMessage,
        result: Appended | Rejected | StorageUnavailable,
    ) -> None:
        """Handle the result of storing a message, which may be a refusal.

        When all messages that were being stored have a result, the waiting
        messages are stored. Never switches greenlets.
        """
        state = connection.dialect_state
        number = command.number
        # The connection has ended meanwhile.
        if self.queues.get(connection) is not queue:
            return
        if not isinstance(state, ProtobufState):
            return
        if isinstance(result, StorageUnsure):
            # The message may have been stored. The queue stays as it is until
            # this is known, so that a repeated message is not stored a second
            # time.
            result.on_known = partial(self._handle_result, connection, queue, command)
            return
        if isinstance(result, Rejected) and result.reason == RejectReason.SUPERSEDED:
            # The client has logged in on another connection and has synced
            # there. On that connection, it sends the missing messages again.
            connection.close(CloseCode.INTERNAL_ERROR)
            return

        queue.storing -= 1
        queue.size -= len(command.content)
        if isinstance(result, StorageUnavailable):
            queue.failed = min(queue.failed or number, number)
        else:
            self._settle(connection, state, number, result)
        if queue.storing:
            return
        if queue.messages and not queue.failed:
            self._store_waiting(connection, queue)
            return
        # A message could not be stored. The messages after it no longer have
        # the next number.
        del self.queues[connection]
        if queue.failed and state.last[0] > queue.failed:
            # A later message was stored, so the client could never send the
            # earlier message on this connection. Therefore it must reconnect.
            connection.close(CloseCode.INTERNAL_ERROR)

    def _settle(
        self,
        connection: Connection,
        state: ProtobufState,
        number: int,
        result: Appended | Rejected,
    ) -> None:
        """Acknowledge a message that was stored, or refuse it. In both cases
        its number is used up."""
        seq = 0  # no acknowledgement
        if isinstance(result, Appended):
            seq = result.entry.id
        else:
            dialect = connection.encoding.dialect
            assert isinstance(dialect, ProtobufDialect)
            refusal = dialect.encode_refusal(result.reply_code, number)
            if refusal is not None:
                connection.send(refusal)
            elif result.reason in _FINAL_REFUSALS:
                # A client without refusals repeats the message until it is
                # acknowledged.
                seq = UNSTORED
        if number > state.last[0]:
            state.last = (number, seq)
        if seq:
            connection.send(uplink_ack(number, max(seq, 0)))


# --- drafts -------------------------------------------------------------------


def draft_of(
    user: str,
    command: ChatMessage,
    entries: dict[int, Entry] | None,
    to_anybody: bool,
    session: int,
) -> Draft | Rejected | StorageUnavailable:
    """The draft with which a message of a client is stored.

    If it cannot be stored, returns the refusal, or the error of the database.
    ``entries``: the entries to which recalls and edits refer; None if they
    could not be read. ``to_anybody``: the receiver need not exist. ``session``:
    the number of the uplink session; 0 if the user has not begun one.
    """
    sender = command.sender
    # The frame names its sender, who must be the user of the session.
    if not sender or sender != account(user):
        return Rejected(RejectReason.NOT_MEMBER)
    receiver: tuple[str, int] | Rejected | StorageUnavailable
    if command.kind == 0:
        receiver = _receiver(sender, command)
    else:
        receiver = _receiver_of_revised(user, command, entries)
    if not isinstance(receiver, tuple):
        return receiver
    meta = _meta_from(command.meta)
    if meta is None:
        return Rejected(RejectReason.INVALID)

    to_user, conversation = receiver
    time_ms = command.sent_ms
    if not Limit.MIN_TIME_MS <= time_ms <= Limit.TIME_MS:  # no page could show it
        time_ms = int(time() * _SECOND_MS)
    kind: Literal["message", "edit", "recall"] = "message"
    content_type = type_name(command.type)
    body = command.content
    if command.kind == EDIT:
        kind = "edit"
    elif command.kind == RECALL:
        kind = "recall"
        # A recall has no content of its own.
        content_type = "text"
        body = b""
        meta = b""
    return Draft(
        sender=user,
        kind=kind,
        type=content_type,
        body=body,
        client_msg_id=command.client_msg_id,
        time_ms=time_ms,
        about=command.about,
        meta=meta,
        to_user=to_user,
        to_anybody=to_anybody,
        conversation=conversation,
        group=conversation != 0,
        uplink_session=session,
    )


def _receiver_of_revised(
    user: str, command: ChatMessage, entries: dict[int, Entry] | None
) -> tuple[str, int] | Rejected | StorageUnavailable:
    """The receiver of a recall or an edit.

    This is the receiver of the entry that the recall or the edit changes.

    Returns a user and a conversation. The conversation is 0 for a message
    between two users. If the change is refused, returns the reason instead.
    """
    if command.kind not in (RECALL, EDIT):
        return Rejected(RejectReason.INVALID)
    if entries is None:
        return StorageUnavailable("the entry could not be read")
    entry = entries.get(command.about)
    if entry is None or not entry.may_be_revised(user):
        return Rejected(RejectReason.NOT_MEMBER)
    # Only a message between two users has ``members``.
    conversation = 0 if entry.members else entry.conversation
    return entry.peer(user), conversation


def _receiver(sender: int, command: ChatMessage) -> tuple[str, int] | Rejected:
    """The receiver of a plain message: ``("", group)`` for a group, and
    ``(user, 0)`` for a user. If the message is refused, returns the reason
    instead."""
    receiver = command.receiver
    if not 0 < receiver <= Limit.ID:
        return Rejected(RejectReason.INVALID)
    if command.session_type == ST_GROUP:
        return "", receiver
    if command.session_type == ST_SINGLE and receiver != sender:
        return str(receiver), 0
    return Rejected(RejectReason.INVALID)


class _GivenMeta(msgspec.Struct):
    """The JSON that a client may send with a message. Only mentions are
    stored."""

    mentions: list[str] = []


def _meta_from(given: bytes) -> bytes | None:
    """The mentions of a message in the stored form; ``b""`` without mentions.

    ``given`` is JSON such as ``{"mentions":["7"]}``. Other keys are ignored.
    Returns None if the mentions cannot be read, or are too many or too long.
    """
    if not given:
        return b""
    try:
        mentions = msgspec.json.decode(given, type=_GivenMeta).mentions
    except (ValueError, RecursionError):
        return None
    if len(mentions) > Limit.MENTIONS:
        return None
    if any(len(each.encode()) > MAX_USER_BYTES for each in mentions):
        return None
    return Draft.Meta(mentions=tuple(mentions)).to_bytes()
