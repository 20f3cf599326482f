"""Stored messages of the action dialect: messages that users have missed, and
messages that users send.

Messages of a room are delivered from the log. Therefore all messages of a
connection have one order, and a message sent during a login arrives exactly
once. A user belongs to a room if the user has a position in it. A stored member
has a position from the first message on, another user from the first login to
the room. A message without proof of arrival (the pong to a ping after it) is
sent again at the next login.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Final

import gevent

from imserver.dialects.action.acks import acked_state
from imserver.dialects.action.wire import Say
from imserver.plugin.errors import CloseCode, ReplyCode, StorageUnavailable
from imserver.plugin.messages import (
    Appended,
    Draft,
    MessageLog,
    Messaging,
    Rejected,
    RejectReason,
)
from imserver.plugin.storage import Store
from imserver.plugin.wire import Connection, DialectState, Reply, app_and_user

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.05
_FINISH_SECONDS: Final = 1.0
_SECOND_MS: Final = 1000


class ActionMessages:
    """Delivers the stored messages that users have missed, and stores the
    messages that they send."""

    def __init__(self, messaging: Messaging, store: Store) -> None:
        self._messaging = messaging
        self._catch_up = messaging.catch_up
        self._positions = messaging.positions
        self._store = store
        self.sending: dict[Connection, int] = {}
        """Connection → the number of its messages that are being stored."""

    # --- catch-up -------------------------------------------------------------

    def begin(self, connection: Connection, room: str, rooms: Collection[str]) -> None:
        """Deliver missed messages after the reply to a login, in a greenlet of
        its own.

        These are the messages of the ``room`` of the login (``""``: no room),
        and of the ``rooms`` in which the user is a stored member. Switches
        greenlets if the login names a room. Messages that are sent to the room
        after the return are delivered, too.
        """
        state = connection.dialect_state
        app, user = app_and_user(connection)
        read_positions = partial(self._positions_of, app, user, room, rooms)
        read_positions_at_login = partial(read_positions, login_time=int(time()))
        # If the database does not answer now, the positions are read later, as
        # they were at the time of this login.
        positions: dict[str, int] | None = None
        # The first login to a room creates a position. The position is created
        # before the return. So messages that are sent after the return come
        # after this position.
        if room and room not in rooms:
            with suppress(StorageUnavailable):
                positions = read_positions()
        # The client may have logged in again during the query.
        if state is not None and connection.dialect_state is state:
            gevent.spawn(
                self._deliver_missed,
                connection,
                state,
                positions,
                read_positions_at_login,
            )

    def _deliver_missed(
        self,
        connection: Connection,
        state: DialectState,
        positions: dict[str, int] | None,
        read_positions: Callable[[], dict[str, int]],
    ) -> None:
        """Deliver all missed messages, and then new ones, as soon as the
        database answers. This is a greenlet of its own.

        The greenlet ends if the connection logs in again, which replaces
        ``state``. ``positions``: where to begin in the log. If ``positions`` is
        None, ``read_positions`` reads them.
        """
        log_subscription = None
        while connection.is_open and connection.dialect_state is state:
            try:
                if log_subscription is None:
                    positions = positions or read_positions()
                    # The client has logged in again during the query.
                    if connection.dialect_state is not state:
                        return
                    log_subscription = self._catch_up.subscribe_from(
                        connection,
                        positions,
                        pinged=acked_state(connection).unacked is None,
                    )
                # A later login may have replaced the subscription.
                if connection.log_subscription is log_subscription:
                    self._catch_up.send_missed(
                        connection, log_subscription.delivered, _wait_until_read
                    )
                return
            except StorageUnavailable:
                gevent.sleep(RETRY_SECONDS)
            except Exception:
                log.exception(
                    "missed messages could not be sent",
                    extra={"connection": connection.peer},
                )
                connection.close(CloseCode.INTERNAL_ERROR)

    def _positions_of(
        self,
        app: str,
        user: str,
        room: str,
        rooms: Collection[str],
        login_time: int | None = None,
    ) -> dict[str, int]:
        """The positions of a user: channel of the log → the last entry that the
        user has.

        The first login to a room makes a position in it. ``login_time`` is the
        time of that login in Unix seconds; None means now. It is given only if
        the database did not answer at the login. May switch greenlets. Raises
        StorageUnavailable.
        """
        wanted = [*rooms, room] if room else rooms
        positions = self._positions.get(app, user, dict.fromkeys(wanted))
        if room and room not in positions:
            # A stored member gets the messages of the room from the first one
            # on. Another user gets the messages since the first login.
            if room in rooms:
                positions[room] = 0
            else:
                positions[room] = self._log_end(app, login_time)
            self._positions.begin(app, user, room, positions[room])
        # A stored member without a position has read nothing of the room.
        return dict.fromkeys(rooms, 0) | positions

    def _log_end(self, app: str, login_time: int | None) -> int:
        """The end of the log of an app at a time in Unix seconds; None means
        now."""
        entries = self._store.part(MessageLog).entries
        if login_time is None:
            return entries.head(app)
        return entries.stored_before(app, login_time)

    # --- sending --------------------------------------------------------------

    def send(
        self,
        connection: Connection,
        command: Say,
        answer: Callable[[Reply], None],
        *,
        to: str = "",
        room: str = "",
    ) -> None:
        """Store a message to a user (``to``) or to a room.

        ``answer`` sends the reply after the commit. Never switches greenlets.
        """
        draft = Draft(
            sender=connection.user or "",
            type=command.type,
            body=command.text.encode(),
            time_ms=int(time() * _SECOND_MS),
            meta=Draft.Meta(seq=command.id).to_bytes(),
            to_user=to,
            room=room,
        )
        # The message is counted, so that the notice that the user has left can
        # wait for the last messages.
        self.sending[connection] = self.sending.get(connection, 0) + 1

        def finish_one(result: Appended | Rejected | StorageUnavailable) -> None:
            """Count the message as stored, and answer its sender."""
            self.sending[connection] -= 1
            if not self.sending[connection]:
                del self.sending[connection]
            answer(_reply_to(result))

        self._messaging.send_of_user(
            connection.app or "", draft, finish_one, connection
        )

    def finish(self, connection: Connection) -> None:
        """Wait, at most a second, until the messages of an ended connection are
        delivered. The messages must arrive before the notice that its user has
        left."""
        deadline = monotonic() + _FINISH_SECONDS
        while connection in self.sending and monotonic() < deadline:
            gevent.sleep(_POLL_SECONDS)


def _reply_to(result: Appended | Rejected | StorageUnavailable) -> Reply:
    """The reply to the sender of a message, for the result of storing it.

    A rejection may come from the reviews of the back end, or from a mute, which
    has an end (``until``).
    """
    if isinstance(result, Appended):
        return Reply.OK
    if not isinstance(result, Rejected):
        return Reply(ReplyCode.NOT_STORED)
    if result.reason == RejectReason.REJECTED:
        return Reply(ReplyCode.UNAUTHORIZED, {"reason": result.detail})
    # If the rejection comes from a mute or a ban, the client shows its end.
    if result.until:
        data = {"reason": result.detail, "until": result.until}
        return Reply(result.reply_code, data)
    return Reply(result.reply_code)


def _wait_until_read(connection: Connection) -> None:
    """Wait until a client has a page of missed messages, before the next page.

    The page must have left the outbox. A client that acknowledges messages must
    have acknowledged it.
    """
    connection.wait_until_sent()
    unacked = acked_state(connection).unacked
    while unacked is not None and unacked.waiting and connection.is_open:
        gevent.sleep(_POLL_SECONDS)
