"""Stored messages of the action dialect: where an app wants it, what users send to one other user or to a
room is stored, and delivered at the next login of users who were away.

The messages of a room are delivered from the log, as they are stored: so everything that a connection
receives has one order, and a message that is sent while somebody logs in arrives exactly once. A user
belongs to a room by having a position in it: its stored members from the first, everybody else from their
first login to it on.

What was sent and not proved to have arrived (:class:`imserver.services.messages.acks.PongTracker`) is sent
again at the next login.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, time
from typing import Final

import gevent
from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import DialectState, Message, Reply, Say
from imserver.protocol.action import as_said, with_seq
from imserver.services.messages.deliverer import Result, wait_until_sent
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.subscriptions import PongSubscription, Positions, app_and_user
from imserver.services.rooms.rooms import Publication, Rooms
from imserver.storage.log.contract import INVALID, Appended, Draft, Entry, Rejected, message_of
from imserver.storage.store import Store
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

PAGE: Final = 200
"""Missed messages that are sent at a time; the next follow when these have left."""
RETRY_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05

Answer = Callable[[Reply], None]


def publish_stored(rooms: Rooms, app: str, entry: Entry) -> None:
    """A client has sent an entry: if it is in a room, deliver it to the members that do not receive it from
    the log. Never switches."""
    if entry.room:
        event = as_said(message_of(entry))
        gevent.spawn(rooms.publish_each, app, (Publication(entry.room, event, kept=True),))


class _Stay(Struct, frozen=True):
    """A login: which user, to which ``room`` (``""``: none), in which ``rooms`` as a stored member, and
    when, in Unix seconds."""

    app: str
    user: str
    room: str
    rooms: Collection[str]
    time: int


class ActionMessages:
    """Delivers missed messages, and stores new ones. Owner of the numbers of messages that are being stored.

    ``is_storing`` says whether an app stores these messages.
    """

    def __init__(self, messaging: Messaging, is_storing: Callable[[str], bool], store: Store) -> None:
        self._messaging = messaging
        self._catch_up = messaging.catch_up
        self._pongs = messaging.pongs
        self._store = store
        self.is_storing = is_storing
        self._sending: dict[Connection, int] = {}
        """How many messages of connections are being stored."""

    # --- catch-up -------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, room: str, rooms: Collection[str]) -> None:
        """A session has begun, in ``room`` (``""``: none) and, as a stored member, in ``rooms``: deliver
        what was missed, behind the answer to its login.

        It switches for a login to a room: messages that are sent there after it returns will be delivered.
        """
        state, (app, user) = connection.dialect_state, app_and_user(connection)
        stay = _Stay(app, user, room, rooms, int(time()))
        positions: Positions | None = None
        if room and room not in rooms:
            with suppress(StorageUnavailable):
                positions = self._positions_of(stay)
        if state is not None and connection.dialect_state is state:
            gevent.spawn(self._run, connection, state, stay, positions)

    def _run(
        self, connection: Connection, state: DialectState, stay: _Stay, positions: Positions | None
    ) -> None:
        """Greenlet: deliver all that a user has missed, and then new messages. It tries again as long as
        storage is away, and ends when the connection logs in again."""
        subscription: PongSubscription | None = None
        while connection.state == OPEN and connection.dialect_state is state:
            try:
                if subscription is None:
                    positions = positions or self._positions_of(stay, late=True)
                    if connection.dialect_state is not state:
                        return
                    subscription = self._subscribe(connection, positions)
                if connection.subscription is subscription:
                    self._send_missed(connection, subscription)
                return
            except StorageUnavailable:
                gevent.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("missed messages could not be sent", extra={"connection": connection.peer})
                code = errors.CLOSE_INTERNAL_ERROR
                connection.close(code, errors.CLOSE[code].name)

    def _subscribe(self, connection: Connection, positions: Positions) -> PongSubscription:
        subscription = PongSubscription(number=next(self._pongs.numbers), positions=positions)
        subscription.acked = subscription.delivered = min(positions.values())
        self._catch_up.subscribe(connection, subscription, live=False)
        return subscription

    def _positions_of(self, stay: _Stay, late: bool = False) -> Positions:
        """A user's positions, in their rooms too. A first login to a room begins a position there as of the
        login; ``late``: that was a while ago, when storage was away."""
        app, user, room = stay.app, stay.user, stay.room
        names = dict.fromkeys([*stay.rooms, room] if room else stay.rooms)
        positions = self._pongs.get(app, user, names)
        if room and room not in positions:
            positions[room] = 0 if room in stay.rooms else self._now(stay, late)
            self._pongs.begin(app, user, room, positions[room])
        return dict.fromkeys(stay.rooms, 0) | positions

    def _now(self, stay: _Stay, late: bool) -> int:
        """The greatest id at a login."""
        stored = self._store.existing_log()
        if stored is None:
            return 0
        return stored.stored_before(stay.app, stay.time) if late else stored.head(stay.app)

    def _send_missed(self, connection: Connection, subscription: PongSubscription) -> None:
        """Send it page after page, unless the subscription ends: then the next login does."""
        after: int | None = subscription.delivered

        def page(app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
            stored = self._store.existing_log()
            if stored is None:
                return [], False
            return stored.catch_up(app, user, after, limit, subscription.positions)

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal after
            self._messaging.deliverer.send(connection, messages)
            after = messages[-1].id if more and messages else None
            return after is None

        while after is not None and connection.subscription is subscription:
            self._catch_up.sync(connection, after, PAGE, answer, read=page)
            if after is not None:
                wait_until_sent(connection)

    # --- sending --------------------------------------------------------------------------------------------

    def send(
        self, connection: Connection, command: Say, answer: Answer, *, to: str = "", room: str = ""
    ) -> None:
        """Store a message to a user or to a room; answered behind the commit. Never switches."""
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

        def done(result: Result) -> None:
            self._sending[connection] -= 1
            if not self._sending[connection]:
                del self._sending[connection]
            answer(_reply_to(result))

        self._messaging.send(connection.app or "", draft, done, connection)

    def finish(self, connection: Connection) -> None:
        """A connection has ended: wait, for at most a second, until its messages were delivered, so that its
        exit is not announced before them."""
        deadline = monotonic() + FINISH_SECONDS
        while connection in self._sending and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)


def _reply_to(result: Result) -> Reply:
    if isinstance(result, Appended):
        return Reply(errors.REPLY_OK)
    if isinstance(result, Rejected):
        return Reply(errors.REPLY_BAD_PARAMETER if result.reason == INVALID else errors.REPLY_UNAUTHORIZED)
    return Reply(errors.REPLY_NOT_STORED)
