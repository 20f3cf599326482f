"""The action dialect: a user sends messages to one other user, or to a room.

If an app stores these messages (:class:`ActionMessages`), absent users receive them at their next login.
Messages of a room are delivered from the log. So all messages of a connection have one order, and a message
that is sent during a login arrives exactly once. A user belongs to a room if the user has a position in it.
Stored members have one from the first message, other users from their first login to the room. A message
without proof of arrival (the pong to a ping after it) is sent again at the next login.
Clients that acknowledge are in :mod:`imserver.dialects.action.acks`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any, Final

import gevent

from imserver.dialects.action.acks import ActionAcks, acknowledges
from imserver.dialects.action.commands import AckNumber, ActionLogin, Say
from imserver.dialects.action.wire import ActionDialect, with_seq
from imserver.plugin.errors import CloseCode, ReplyCode, StorageUnavailable
from imserver.plugin.identity import Relations, Reviews
from imserver.plugin.messages import (
    Appended,
    Draft,
    MessageLog,
    Messaging,
    Rejected,
    RejectReason,
)
from imserver.plugin.services import ChannelRefused, ChannelServices, SessionServices
from imserver.plugin.storage import Store
from imserver.plugin.wire import (
    AckedState,
    CommandRow,
    CommandTable,
    Connection,
    DialectState,
    Event,
    Head,
    Outcome,
    Reply,
    app_and_user,
)

log = logging.getLogger(__name__)

LEFT_TEXT: Final = "用户已经离开"

RETRY_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05

Members = Callable[[str], Mapping[str, Sequence[str]]]
"""App → its rooms with stored members, and these members."""


class ActionState(AckedState, gc=False):
    """The receiver of a connection's messages, set by its latest login: the user ``peer``, or ``room``. The
    connection may not be in the room yet. Both empty: no receiver. Stored messages of rooms come from the
    log.
    """

    peer: str = ""
    room: str = ""


_OK: Final = Reply(ReplyCode.OK)
_ACKED: Final = Reply(ReplyCode.OK, {"acks": True})
_FAILED: Final = Reply(ReplyCode.FAILED)
_NOT_STORED: Final = Reply(ReplyCode.NOT_STORED)
_BLOCKED: Final = Reply(Rejected(RejectReason.BLOCKED).reply_code)


class ActionMessages:
    """Delivers missed messages, and stores new ones. Owner of the counts of messages that wait for their
    commit.
    """

    def __init__(self, messaging: Messaging, store: Store) -> None:
        self._messaging = messaging
        self._catch_up = messaging.catch_up
        self._positions = messaging.positions
        self._store = store
        self._sending: dict[Connection, int] = {}
        """How many messages of connections are being stored."""

    # --- catch-up -------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, room: str, rooms: Collection[str]) -> None:
        """Deliver missed messages after the answer to a login, for its ``room`` (``""``: none) and for the
        ``rooms`` in which the user is a stored member.

        Switches for a login to a room. Messages that are sent there after the return are delivered.
        """
        state, (app, user) = connection.dialect_state, app_and_user(connection)
        read = partial(self._positions_of, app, user, room, rooms)
        late = partial(read, int(time()))
        positions: dict[str, int] | None = None
        if room and room not in rooms:
            with suppress(StorageUnavailable):
                positions = read()
        if state is not None and connection.dialect_state is state:
            gevent.spawn(self._run, connection, state, positions, late)

    def _run(
        self,
        connection: Connection,
        state: DialectState,
        positions: dict[str, int] | None,
        read_positions: Callable[[], dict[str, int]],
    ) -> None:
        """Greenlet: deliver all missed messages, and then new ones. Tries again while the database does not
        answer. Ends when the connection logs in again.
        """
        log_subscription = None
        while connection.is_open and connection.dialect_state is state:
            try:
                if log_subscription is None:
                    positions = positions or read_positions()
                    if connection.dialect_state is not state:
                        return
                    log_subscription = self._catch_up.subscribe_from(
                        connection, positions, pinged=not acknowledges(connection)
                    )
                if connection.log_subscription is log_subscription:
                    self._catch_up.send_missed(connection, log_subscription.delivered, _wait_until_read)
                return
            except StorageUnavailable:
                gevent.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("missed messages could not be sent", extra={"connection": connection.peer})
                connection.close(CloseCode.INTERNAL_ERROR)

    def _positions_of(
        self, app: str, user: str, room: str, rooms: Collection[str], login_time: int | None = None
    ) -> dict[str, int]:
        """A user's positions, also in the user's rooms. The first login to a room creates a position at the
        time of the login: now, or ``login_time`` in Unix seconds if the database did not answer then.
        """
        positions = self._positions.get(app, user, dict.fromkeys([*rooms, room] if room else rooms))
        if room and room not in positions:
            stored = self._store.part(MessageLog)
            if room in rooms:
                positions[room] = 0
            elif login_time is None:
                positions[room] = stored.entries.head(app)
            else:
                positions[room] = stored.entries.stored_before(app, login_time)
            self._positions.begin(app, user, room, positions[room])
        return dict.fromkeys(rooms, 0) | positions

    # --- sending --------------------------------------------------------------------------------------------

    def send(
        self,
        connection: Connection,
        command: Say,
        answer: Callable[[Reply], None],
        *,
        to: str = "",
        room: str = "",
    ) -> None:
        """Store a message to a user or to a room. The answer follows the commit. Never switches."""
        draft = Draft(
            sender=connection.user or "",
            type=command.type,
            body=command.text.encode(),
            time_ms=int(time() * 1000),
            meta=with_seq(command.id),
            to_user=to,
            room=room,
        )
        self._sending[connection] = self._sending.get(connection, 0) + 1

        def done(result: Appended | Rejected | StorageUnavailable) -> None:
            self._sending[connection] -= 1
            if not self._sending[connection]:
                del self._sending[connection]
            answer(_reply_to(result))

        self._messaging.send_of_user(connection.app or "", draft, done, connection)

    def finish(self, connection: Connection) -> None:
        """Wait at most a second until the messages of an ended connection are delivered, so that its exit is
        not announced before them.
        """
        deadline = monotonic() + FINISH_SECONDS
        while connection in self._sending and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)


def _reply_to(result: Appended | Rejected | StorageUnavailable) -> Reply:
    if isinstance(result, Appended):
        return _OK
    if isinstance(result, Rejected) and result.reason == RejectReason.REJECTED:
        return _rejected(result.detail)
    if isinstance(result, Rejected):
        return Reply(result.reply_code)
    return _NOT_STORED


def _rejected(reason: str) -> Reply:
    return Reply(ReplyCode.UNAUTHORIZED, {"reason": reason})


class ActionService:
    """Carries out the commands of the action dialect. Owner of :class:`ActionState`.

    All sessions of a stored member are in the member's rooms, whatever their receiver is. A room with more
    than ``notice_members`` members gets no notice when one leaves. ``report`` hears of messages that are not
    stored.
    """

    def __init__(
        self,
        sessions: SessionServices,
        channels: ChannelServices,
        members: Members,
        notice_members: int,
        messages: ActionMessages,
        reviews: Reviews,
        report: Callable[[str, str, Mapping[str, Any]], object],
        acks: ActionAcks,
        relations: Relations,
    ) -> None:
        self._sessions = sessions.sessions
        self._channels = channels.channels
        self._members = members
        self._notice_members = notice_members
        self._messages = messages
        self._reviews = reviews
        self._report = report
        self._acks = acks
        self._relations = relations
        self._channels.members.on_left.append(self.left)

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            ActionLogin: CommandRow(self.login, needs_session=False),
            Say: CommandRow(self.send, answers=True),
            AckNumber: CommandRow(self.ack),
        }

    def opened(self, connection: Connection, _head: Head) -> None:
        """Send the first message of a connection, as this dialect requires."""
        dialect = connection.encoding.dialect
        assert isinstance(dialect, ActionDialect)
        connection.send(dialect.greet())

    def login(self, connection: Connection, command: ActionLogin) -> Reply:
        """Begin a session and enter the room. A connection may log in again. May switch.

        After the answer 200, messages to the user and to the room reach this connection.
        """
        acked = acknowledges(connection)
        if command.acks:
            self._acks.turn_on(connection)
        code = self._sessions.login(connection, command, again=True)
        if not (command.acks if code == ReplyCode.OK else acked):
            self._acks.turn_off(connection)
        if code != ReplyCode.OK:
            return Reply(code)
        app, user = app_and_user(connection)
        storing, rooms = self._channels.options.stores_conversations(app), self._rooms_of(app, user)
        state = connection.dialect_state
        # Nobody has an id that is too long.
        reachable = not command.room and self._sessions.takes_user(app, command.peer)
        connection.dialect_state = ActionState(
            unacked=state.unacked if isinstance(state, AckedState) else None,
            channels_from_log=storing,
            peer=command.peer if reachable else "",
            room=command.room,
        )
        try:
            self._enter(connection, dict.fromkeys([command.room, *rooms] if command.room else rooms))
        except ChannelRefused as refused:
            log.info(
                "%s cannot enter the room: %s", command.user, refused, extra={"connection": connection.peer}
            )
            self._sessions.leave(connection)
            return _FAILED
        if storing:
            self._messages.begin(connection, command.room, rooms)
        if not command.acks:
            return _OK
        self._acks.begin(connection)
        return _ACKED

    def _enter(self, connection: Connection, rooms: Iterable[str]) -> None:
        app, _ = app_and_user(connection)
        for name in rooms:
            if not connection.is_addressed:
                return
            self._channels.subscriptions.join(app, name, connection)
        if not connection.is_addressed:
            # A later login came during the query to the registry.
            self._channels.members.leave_all(connection)

    def _rooms_of(self, app: str, user: str) -> list[str]:
        """The rooms of which a user is a stored member."""
        return [name for name, users in self._members(app).items() if user in users]

    def send(self, connection: Connection, command: Say, answer: Callable[[Reply], None]) -> Reply | None:
        """Send a message to the session's receiver. The answer does not say whether anybody received it. May
        switch.

        Stored messages are answered after the commit: all of an app that stores them, except messages to
        oneself, and those to stored channels. The back end reviews the message first, if the app wants that.
        """
        app, user = app_and_user(connection)
        state = connection.dialect_state
        peer, room = (state.peer, state.room) if isinstance(state, ActionState) else ("", "")
        storing = self._channels.options.stores_conversations(app)
        if (storing and peer not in ("", user)) or (
            room and (storing or self._channels.options.is_stored(app, room))
        ):
            self._messages.send(connection, command, answer, to=peer, room=room)
            return None
        if peer and not self._relations.may_reach(app, user, peer):
            return _BLOCKED
        to = {"room": room} if room else {"to": peer}
        kind, text = command.type, command.text
        if app in self._reviews.apps:
            facts = {"kind": "message", "sender": user, **to, "type": kind, "text": text}
            decision = self._reviews.decide(app, facts)
            if decision.action == "reject":
                return _rejected(decision.reason)
            if decision.action == "undecided":
                return _NOT_STORED
            if decision.action == "replace":
                kind, text = decision.type, decision.body.decode()
        event = Event("msg", user, text, command.id, kind, time=int(time()))
        if room:
            if self._channels.publishing.publish(app, room, event) is Outcome.FAILED:
                return _NOT_STORED
        elif peer:
            self._acks.reach(app, peer, event)
        self._report(app, user, {**to, "type": kind, "text": text})
        return _OK

    def ack(self, connection: Connection, command: AckNumber) -> Reply:
        """Take the acknowledgement of a client that asked for numbers at its login."""
        return self._acks.ack(connection, command)

    def left(self, connection: Connection, rooms: Sequence[str]) -> None:
        """Handle the end of a connection that was in these rooms (the rooms' ``on_left``). May switch."""
        app, user, state = connection.app, connection.user, connection.dialect_state
        if not isinstance(state, ActionState) or state.room not in rooms or connection.is_open:
            return
        assert app is not None
        assert user is not None
        self._messages.finish(connection)
        event = Event("left", user, LEFT_TEXT, time=int(time()))
        self._channels.publishing.publish(
            app, state.room, event, except_users=(user,), at_most=self._notice_members
        )


def _wait_until_read(connection: Connection) -> None:
    """Wait until a page of missed messages has left the outbox, and was acknowledged by a client that does
    so."""
    connection.wait_until_sent()
    state = connection.dialect_state
    unacked = state.unacked if isinstance(state, AckedState) else None
    while unacked is not None and unacked.waiting and connection.is_open:
        gevent.sleep(_LOOK_SECONDS)
