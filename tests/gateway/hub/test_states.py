"""The table of the states of a connection: each transition happens, and no other."""

import re
from collections.abc import Callable

import pytest

from imserver.gateway.auth.rules import ALLOWED
from imserver.gateway.model import Login
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import (
    ADDRESSED,
    ATTACH,
    CLOSE,
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTION_TRANSITIONS,
    DRAINING,
    END,
    FLUSH,
    FORGET,
    JOIN,
    LEAVE,
    UNADDRESSED,
    ConnectionEvent,
    ConnectionState,
    ImpossibleTransition,
)
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import turn
from tests.support import ROOT


def connection_in(node: Harness, state: ConnectionState) -> Connection:
    """One that has come to this state."""
    if state is CONNECTED:
        return node.connect()[0]
    connection, _ = node.login("101" if state is UNADDRESSED else "102", "ann")
    if state is UNADDRESSED:
        node.login("101", "ann")
    elif state in (CLOSING, DRAINING):
        connection.close(1000)
    elif state is CLOSED:
        connection.lost()
    if state is DRAINING:
        turn()
    return connection


CAUSES: dict[ConnectionEvent, Callable[[Harness, Connection], object]] = {
    JOIN: lambda node, connection: node.hub.join(node.hub.apps["102"], connection, "bob", ""),
    ATTACH: lambda node, connection: node.hub.attach(node.hub.apps["102"], connection, "bob", ""),
    FORGET: lambda node, connection: node.hub.forget(connection),
    LEAVE: lambda node, connection: node.sessions.leave(connection),
    CLOSE: lambda _, connection: connection.close(1000),
    FLUSH: lambda _, connection: connection.flushed(),
    END: lambda _, connection: connection.lost(),
}
CHECKED_BEFORE = {CLOSE, FLUSH, END}
"""What may come at any time. In states in which it changes nothing, it is ignored."""
PAIRS = [(state, event) for state in ConnectionState for event in ConnectionEvent]


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda each: each.name)
def test_what_the_table_has_happens_and_nothing_else(state: ConnectionState, event: ConnectionEvent) -> None:
    with Harness() as node:
        connection = connection_in(node, state)
        assert connection.state is state
        after = CONNECTION_TRANSITIONS[state].get(event)
        if after is None and event not in CHECKED_BEFORE:
            with pytest.raises(ImpossibleTransition, match=f"{event.name} in the state {state.name}"):
                CAUSES[event](node, connection)
        else:
            CAUSES[event](node, connection)
        assert connection.state is (state if after is None else after)
        assert connection.is_open is (connection.state in (CONNECTED, ADDRESSED, UNADDRESSED))
        assert connection.is_addressed is (connection in node.hub.sessions())


def test_a_session_without_a_user_is_not_addressed_and_may_become_one_of_a_user() -> None:
    with Harness() as node:
        connection, _ = node.connect()
        assert node.sessions.begin_without_user(connection, "102", ALLOWED) == 200
        assert connection.state is UNADDRESSED
        assert node.sessions.login(connection, Login("102", "ann"), again=True) == 200
        assert connection.state is ADDRESSED


def test_a_state_is_changed_by_the_table_only() -> None:
    changes = [
        line.strip()
        for folder in ("transport", "hub", "sessions", "auth", "channels", "push", "node")
        for path in (ROOT / "imserver" / "gateway" / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s+\w+\.state = ", line)
    ]
    begins = [line for line in changes if line == "self.state = CONNECTED"]
    by_table = re.compile(r"(\w+)\.state = CONNECTION_TRANSITIONS\[\1\.state\]\[\w+\]")
    assert len(begins) == 2
    assert [line for line in changes if line not in begins and not by_table.fullmatch(line)] == []
