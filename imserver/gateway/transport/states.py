"""The states of a connection, in one table of transitions. All others are
impossible."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Generic, TypeVar

State = TypeVar("State", bound=IntEnum)
Cause = TypeVar("Cause", bound=IntEnum)


class ImpossibleTransition(Exception):
    """An event has come in a state in which it cannot happen."""


class Transitions(dict[Cause, State], Generic[Cause, State]):
    """The transitions out of one state: event → the next state.

    An event that is not in this mapping raises :class:`ImpossibleTransition`.
    """

    def __init__(self, state: State, row: Mapping[Cause, State]) -> None:
        """Take the transitions of a state, which errors name."""
        super().__init__(row)
        self._state = state

    def __missing__(self, event: Cause) -> State:
        """Raise the error about an event that cannot happen in this state."""
        raise ImpossibleTransition(f"{event.name} in the state {self._state.name}")


class ConnectionState(IntEnum):
    """The state of a connection. It is in service in the states before
    ``CLOSING``: messages of its client are served."""

    CONNECTED = 0
    """It has no session. An HTTP connection in service has this state, too."""
    ADDRESSED = 1
    """It has a session that receives messages to its user."""
    UNADDRESSED = 2
    """It has a session that only gets its own answers and its channels: it has
    no user, or a newer session of the user is addressed in its place."""
    CLOSING = 3
    """The close frame, or the last answer over HTTP, is queued. Any session has
    ended."""
    DRAINING = 4
    """Everything is written, and our half of TCP is closed. The peer has to
    close its half."""
    CLOSED = 5
    """TCP has ended."""


class ConnectionEvent(IntEnum):
    """An event that changes the state of a connection."""

    JOIN = 0
    """A session begins, and is addressed."""
    ATTACH = 1
    """A session begins, and is not addressed."""
    FORGET = 2
    """The session is no longer addressed: it was replaced, but its connection
    stays."""
    LEAVE = 3
    """The session ends, but its connection stays."""
    CLOSE = 4
    """The server or its peer begins the close handshake, or the last answer
    over HTTP is queued."""
    FLUSH = 5
    """Everything is written."""
    END = 6
    """TCP ends, by the peer, by an error or by a time limit."""


CONNECTED, ADDRESSED, UNADDRESSED, CLOSING, DRAINING, CLOSED = ConnectionState
JOIN, ATTACH, FORGET, LEAVE, CLOSE, FLUSH, END = ConnectionEvent

CONNECTION_TRANSITIONS: Final = {
    state: Transitions(state, row)
    for state, row in {
        CONNECTED: {JOIN: ADDRESSED, ATTACH: UNADDRESSED, CLOSE: CLOSING, END: CLOSED},
        ADDRESSED: {FORGET: UNADDRESSED, LEAVE: CONNECTED, CLOSE: CLOSING, END: CLOSED},
        UNADDRESSED: {
            JOIN: ADDRESSED,
            ATTACH: UNADDRESSED,
            FORGET: UNADDRESSED,
            LEAVE: CONNECTED,
            CLOSE: CLOSING,
            END: CLOSED,
        },
        # While a service waits, a connection may end. Afterwards the service
        # may still leave the session of this connection.
        CLOSING: {FORGET: CLOSING, LEAVE: CLOSING, FLUSH: DRAINING, END: CLOSED},
        DRAINING: {FORGET: DRAINING, LEAVE: DRAINING, END: CLOSED},
        CLOSED: {FORGET: CLOSED, LEAVE: CLOSED, END: CLOSED},
    }.items()
}
"""State → event → the next state. The only way to change a state is
``connection.state = CONNECTION_TRANSITIONS[connection.state][event]``. There is
no function for this, because each login does it, and a call would take time."""
