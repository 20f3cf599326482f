"""Acknowledged delivery of the action dialect, for clients that ask for it at login.

Each message to such a client has a number. Messages that it does not acknowledge are sent again on the same
connection, then the connection is closed. When the connection ends, unstored messages become pending pushes,
and stored ones are read from the log at the next login. For ten minutes after the end, messages of other
users to the absent user become pending pushes too, on the nodes of their senders.
"""

from __future__ import annotations

from typing import Final

import gevent
from msgspec.structs import replace

from imserver.dialects.action.commands import AckNumber
from imserver.dialects.action.wire import DIALECT, AckedActionDialect
from imserver.plugin.errors import ReplyCode
from imserver.plugin.messages import Messaging
from imserver.plugin.services import PushServices
from imserver.plugin.wire import AckedState, Connection, Event, Outcome, Reply, app_and_user

_ACKED: Final = AckedActionDialect()
_OK: Final = Reply(ReplyCode.OK)


class ActionAcks:
    """Turns acknowledged delivery on and off. Stateless."""

    def __init__(self, push: PushServices, messaging: Messaging) -> None:
        self._reach = push.reach
        self._pending = push.pending
        self._catch_up = messaging.catch_up
        self._ack_tracker = messaging.ack_tracker

    # --- commands -------------------------------------------------------------------------------------------

    def turn_on(self, connection: Connection) -> None:
        """Number the messages to a connection from now on. Never switches."""
        state = connection.dialect_state
        if not isinstance(state, AckedState):
            state = connection.dialect_state = AckedState()
        if state.unacked is None:
            state.unacked = self._ack_tracker.unacked()
            connection.encoding = connection.encoding.with_dialect(_ACKED)

    def turn_off(self, connection: Connection) -> None:
        """Send messages without numbers from now on. Never switches."""
        state = connection.dialect_state
        if isinstance(state, AckedState) and state.unacked is not None:
            self.clear(connection)
            state.unacked = None
            connection.encoding = connection.encoding.with_dialect(DIALECT)

    def begin(self, connection: Connection) -> None:
        """A session has begun: after the answer to its login, it gets what waits for its user on this node.
        Never switches."""
        app, user = app_and_user(connection)
        if self._pending.waits_for(app, user):
            gevent.spawn(self._pending.deliver, app, user)

    def ack(self, connection: Connection, command: AckNumber) -> Reply:
        """A client acknowledges the messages up to a number. Never switches."""
        state = connection.dialect_state
        unacked = state.unacked if isinstance(state, AckedState) else None
        if unacked is None:
            return Reply(ReplyCode.NO_ROUTE)
        id = unacked.ack(connection, command.number)
        if id:
            self._catch_up.prove(connection, id)
        return _OK

    # --- sending --------------------------------------------------------------------------------------------

    def reach(self, app: str, user: str, event: Event) -> None:
        """Send an unstored message to a user; if the user is awaited, it waits. May switch."""
        if self._pending.waits_for(app, user):
            self._pending.deliver(app, user)
        if self._reach.to_user(app, user, event) in (Outcome.NOT_SENT, Outcome.UNKNOWN):
            self._pending.hold(app, user, event)

    # --- ends -----------------------------------------------------------------------------------------------

    def clear(self, connection: Connection) -> None:
        """A session ends or is no longer addressed: its unstored messages wait for the next one. Never
        switches."""
        state = connection.dialect_state
        unacked = state.unacked if isinstance(state, AckedState) else None
        events = [] if unacked is None else unacked.clear()
        app, user = connection.app, connection.user
        if app is not None and user is not None:
            for event in events:
                self._pending.add(app, user, replace(event, channel=None))

    def ended(self, connection: Connection, _code: int) -> None:
        """A connection has ended. Never switches."""
        if connection.user is not None and acknowledges(connection):
            self.clear(connection)
            self._pending.await_user(*app_and_user(connection))


def acknowledges(connection: Connection) -> bool:
    """Whether the client of a connection acknowledges messages."""
    state = connection.dialect_state
    return isinstance(state, AckedState) and state.unacked is not None
