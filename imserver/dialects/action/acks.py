"""Acknowledged delivery in the action dialect, for clients that request it at
login.

Each message to such a client has a number. If the client does not acknowledge a
message, the server sends it again on the same connection, and then closes the
connection. When the connection ends, unstored messages become pending pushes.
Stored messages are read from the log at the next login. For ten minutes all
nodes await the user: messages of other users become pending pushes too, on the
nodes of their senders.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from msgspec import Struct
from msgspec.structs import replace

from imserver.dialects.action.wire import DIALECT, AckedActionDialect, AckNumber
from imserver.plugin.errors import ReplyCode
from imserver.plugin.runtime import Service
from imserver.plugin.services import Core
from imserver.plugin.wire import (
    AckedState,
    Connection,
    Event,
    Outcome,
    Reply,
    app_and_user,
)

if TYPE_CHECKING:
    from imserver.plugin.messages import Messaging

AWAIT_SECONDS: Final = 600
"""How long a user is awaited after the connection has ended. Unstored messages
are kept for the same time."""
MOST_AWAITED: Final = 100_000

_ACKED: Final = AckedActionDialect()


class Awaited(Struct, frozen=True, gc=False, tag="w", array_like=True):
    """Tells the other nodes to await a user."""

    app: str
    user: str


class ActionAcks(Service, dict=True):
    """Turns acknowledged delivery on and off for connections.

    With acknowledged delivery, each message to a client has a number, which the
    client must acknowledge. The service also *awaits* users after their
    connection has ended. Messages to such a user are kept for ten minutes, in
    case the user comes back.
    """

    core: Core
    messaging: Messaging | None
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        """Register for the reports that this service needs: which users other
        nodes await, and which pushes have not reached their user."""
        self._reach = self.core.reach
        self._pending = self.core.pending
        self._awaited: dict[tuple[str, str], float] = {}
        """(app, user) → monotonic time until which the user is awaited."""
        self._node_messages = self.core.node_messages
        # A node without a cluster has no other nodes that could await its
        # users.
        if self._node_messages is not None:
            self._node_messages.handle({Awaited: self._await})
        if self.core.rerouting is not None:
            self.core.rerouting.report_to(self._unreached)

    # --- commands -------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether clients may acknowledge messages. On a node without stored
        messages they may not."""
        return self.messaging is not None

    def turn_on(self, connection: Connection) -> None:
        """Number the messages to a connection from now on.

        Does nothing on a node without stored messages, or if messages to this
        connection are already numbered. Never switches greenlets.
        """
        if self.messaging is None:
            return
        state = connection.dialect_state
        if not isinstance(state, AckedState):
            state = AckedState()
            connection.dialect_state = state
        if state.unacked is None:
            state.unacked = self.messaging.ack_tracker.unacked()
            connection.encoding = connection.encoding.with_dialect(_ACKED)

    def turn_off(self, connection: Connection) -> None:
        """Send messages without numbers to a connection from now on.

        Messages that the client has not acknowledged are kept for its next
        session. Never switches greenlets.
        """
        state = acked_state(connection)
        if state.unacked is not None:
            self.clear(connection)
            state.unacked = None
            connection.encoding = connection.encoding.with_dialect(DIALECT)

    def begin(self, connection: Connection) -> None:
        """Deliver the messages that wait for a user on this node, in a greenlet
        of its own.

        The messages follow the reply to the login. This function does not wait
        for that reply. Never switches greenlets.
        """
        app, user = app_and_user(connection)
        if self._pending.waits_for(app, user):
            gevent.spawn(self._pending.deliver, app, user)

    def ack(self, connection: Connection, command: AckNumber) -> Reply:
        """Handle an acknowledgement: the client has all messages up to a
        number.

        The reply is an error if the connection has no numbers. Never switches
        greenlets.
        """
        unacked = acked_state(connection).unacked
        if unacked is None or self.messaging is None:
            return Reply(ReplyCode.NO_ROUTE)
        id = unacked.ack(connection, command.number)
        if id:
            # The acknowledged message is the newest stored message that has
            # arrived. The next login begins after this message.
            self.messaging.catch_up.prove(connection, id)
        return Reply.OK

    # --- sending --------------------------------------------------------------

    def reach(self, app: str, user: str, event: Event) -> None:
        """Send an unstored message to a user. If the user is awaited, the
        message waits.

        Earlier messages that wait here are delivered first, to keep the order.
        May switch greenlets.
        """
        if self._pending.waits_for(app, user):
            self._pending.deliver(app, user)
        if self._reach.to_user(app, user, event) in (Outcome.NOT_SENT, Outcome.UNKNOWN):
            self._hold_if_awaited(app, user, event)

    def _unreached(self, app: str, user: str, event: Event) -> None:
        """Keep a push that was on its way to this node when its user left.
        Never switches greenlets."""
        if event.kind == "msg":
            self._hold_if_awaited(app, user, event)

    def _hold_if_awaited(self, app: str, user: str, event: Event) -> None:
        """Keep a message that has not reached its user, for as long as the user
        is awaited.

        If nobody awaits the user, the message is lost. Never switches
        greenlets.
        """
        seconds = self._awaited.get((app, user), 0.0) - self.clock()
        if seconds > 0:
            self._pending.add(app, user, event, seconds)

    # --- ends -----------------------------------------------------------------

    def clear(self, connection: Connection) -> None:
        """Keep the unacknowledged messages of a session that ends, for the next
        session of its user.

        Stored messages are not kept here, because the log has them. Never
        switches greenlets.
        """
        unacked = acked_state(connection).unacked
        if unacked is None:
            return
        events = unacked.clear()
        app = connection.app
        user = connection.user
        if app is None or user is None:
            return
        # The next session has its own numbers, so the number of this session is
        # removed.
        for event in events:
            self._pending.add(app, user, replace(event, channel=None), AWAIT_SECONDS)

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection: await its user, if the client
        acknowledged messages. Never switches greenlets."""
        if connection.user is not None and acked_state(connection).unacked is not None:
            self.clear(connection)
            self.await_user(*app_and_user(connection))

    def await_user(self, app: str, user: str) -> None:
        """Await a user on all nodes for :data:`AWAIT_SECONDS`. Never
        switches greenlets."""
        awaited = Awaited(app, user)
        self._await(awaited)
        if self._node_messages is not None:
            self._node_messages.broadcast(awaited)

    def _await(self, awaited: Awaited) -> None:
        """Note on this node that a user is awaited for :data:`AWAIT_SECONDS`
        from now.

        Users whose time is over are forgotten. If more than
        :data:`MOST_AWAITED` users are left, the oldest are forgotten, too.
        Never switches greenlets.
        """
        key = (awaited.app, awaited.user)
        now = self.clock()
        # Remove the key first, so that it becomes the last key of the dict. So
        # the dict stays in the order of the times.
        self._awaited.pop(key, None)
        self._awaited[key] = now + AWAIT_SECONDS
        while (
            len(self._awaited) > MOST_AWAITED
            or next(iter(self._awaited.values())) <= now
        ):
            del self._awaited[next(iter(self._awaited))]

    def forget(self, app: str) -> None:
        """Stop to await users of a deleted app. Never switches greenlets."""
        of_app = [key for key in self._awaited if key[0] == app]
        for key in of_app:
            del self._awaited[key]


def acked_state(connection: Connection) -> AckedState:
    """The messages that the client of a connection must acknowledge.

    If ``unacked`` of the result is None, the client does not acknowledge
    messages.
    """
    state = connection.dialect_state
    if isinstance(state, AckedState):
        return state
    return AckedState()
