"""The hub: who is addressed under which policy, against a model of lists;
states of a connection."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.hub.hub import App, Hub
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import (
    ADDRESSED,
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTION_TRANSITIONS,
    DRAINING,
    UNADDRESSED,
    ConnectionState,
    ImpossibleTransition,
)
from imserver.gateway.transport.states import ConnectionEvent as Cause
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import turn
from tests.support import POLICIES, ROOT


class Session:
    """As much of a connection as the hub touches."""

    app = user = device = ""
    state = CONNECTED


def make(policy: str) -> tuple[Hub, App]:
    hub = Hub({"101": policy, "102": "newest"}, set())
    return hub, hub.apps["101"]


def join(hub: Hub, app: App, user: str, device: str = "") -> Connection:
    session: Connection = Session()  # type: ignore[assignment]
    hub.join(app, session, user, device)
    return session


@settings(deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["join", "leave"]), st.integers(0, 3), st.integers(0, 5)
        )
    ),
)
def test_the_hub_agrees_with_a_model_of_lists(
    policy: str, steps: list[tuple[str, int, int]]
) -> None:
    hub, app = make(policy)
    addressed: dict[str, list[Connection]] = {}
    everybody: dict[str, list[Connection]] = {}
    for step, number, which in steps:
        user = f"u{number}"
        if step == "join":
            session = join(hub, app, user)
            everybody.setdefault(user, []).append(session)
            addressed[user] = (
                [session] if policy == "newest" else [*addressed.get(user, []), session]
            )
        elif everybody.get(user):
            session = everybody[user].pop(which % len(everybody[user]))
            before = bool(addressed.get(user))
            addressed[user] = [
                one for one in addressed.get(user, []) if one is not session
            ]
            assert hub.leave(session) is (before and not addressed[user])
            assert hub.leave(session) is False, "an end counts once"
        online = {
            name: tuple(sessions) for name, sessions in addressed.items() if sessions
        }
        assert {name: app.sessions_of(name) for name in hub.user_names("101")} == online
        assert len(hub.user_names("101")) == len(online)
        assert len(list(hub.sessions())) == sum(map(len, online.values()))
        assert app.several == sum(len(sessions) > 1 for sessions in online.values())
        for name, sessions in everybody.items():
            assert all(
                (one.state is ADDRESSED) == (one in app.sessions_of(name))
                for one in sessions
            )


def test_an_unregistered_app_goes_with_its_last_user_unless_it_is_registered_meanwhile() -> (
    None
):
    hub, app = make("newest")
    assert hub.open("101", "multi", is_registered=False) is app
    hub.close_unregistered("101")
    assert hub.apps["101"] is app, "it is configured"
    unregistered = hub.open("system:shop", "multi", is_registered=False)
    assert hub.open("system:shop", "multi", is_registered=False) is unregistered
    assert unregistered not in hub.registered()
    members = [join(hub, unregistered, user) for user in ("a", "b")]
    found = {
        name: hub.is_online(name, "a") for name in ("system:shop", "101", "no such app")
    }
    assert found == {"system:shop": True, "101": False, "no such app": False}
    for member in members:
        hub.close_unregistered("system:shop")
        assert hub.apps["system:shop"] is unregistered
        hub.leave(member)
    for _ in range(2):
        hub.close_unregistered("system:shop")
        assert "system:shop" not in hub.apps
    assert hub.leave(members[1]) is False, "its app is gone"
    registered = hub.open("system:shop", "multi", is_registered=False)
    assert hub.open("system:shop", "multi") is registered
    assert registered in hub.registered()
    hub.close_unregistered("system:shop")
    assert hub.apps["system:shop"] is registered


def test_a_policy_that_changes_holds_for_who_joins_from_then_on() -> None:
    hub, app = make("multi")
    older = [join(hub, app, "ann") for _ in range(2)]
    assert app.several == 1
    hub.set_policy(app.name, "newest")
    assert app.sessions_of("ann") == tuple(older)
    newest = join(hub, app, "ann")
    assert (app.sessions_of("ann"), app.several) == ((newest,), 0)
    assert not any(hub.leave(connection) for connection in older)
    assert hub.leave(newest)


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


CAUSES: dict[Cause, Callable[[Harness, Connection], object]] = {
    Cause.JOIN: lambda node, connection: node.hub.join(
        node.hub.apps["102"], connection, "bob", ""
    ),
    Cause.ATTACH: lambda node, connection: node.hub.attach(
        node.hub.apps["102"], connection, "bob", ""
    ),
    Cause.FORGET: lambda node, connection: node.hub.forget(connection),
    Cause.LEAVE: lambda node, connection: node.sessions.leave(connection),
    Cause.CLOSE: lambda _, connection: connection.close(1000),
    Cause.FLUSH: lambda _, connection: connection.flushed(),
    Cause.END: lambda _, connection: connection.lost(),
}
CHECKED_BEFORE = {Cause.CLOSE, Cause.FLUSH, Cause.END}
"""What may come at any time. In states in which it changes nothing, it is
ignored."""
PAIRS = [(state, event) for state in ConnectionState for event in Cause]


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda each: each.name)
def test_what_the_table_has_happens_and_nothing_else(
    state: ConnectionState, event: Cause
) -> None:
    with Harness() as node:
        connection = connection_in(node, state)
        assert connection.state is state
        after = CONNECTION_TRANSITIONS[state].get(event)
        if after is None and event not in CHECKED_BEFORE:
            with pytest.raises(
                ImpossibleTransition, match=f"{event.name} in the state {state.name}"
            ):
                CAUSES[event](node, connection)
        else:
            CAUSES[event](node, connection)
        assert connection.state is (state if after is None else after)
        assert connection.is_open is (
            connection.state in (CONNECTED, ADDRESSED, UNADDRESSED)
        )
        assert connection.is_addressed is (connection in node.hub.sessions())


def test_a_state_is_changed_by_the_table_only() -> None:
    changes = [
        line.strip()
        for folder in (
            "transport",
            "hub",
            "sessions",
            "auth",
            "channels",
            "push",
            "node",
        )
        for path in (ROOT / "imserver" / "gateway" / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s+\w+\.state = ", line)
    ]
    begins = [line for line in changes if line == "self.state = CONNECTED"]
    by_table = re.compile(r"(\w+)\.state = CONNECTION_TRANSITIONS\[\1\.state\]\[\w+\]")
    assert len(begins) == 2
    assert [
        line for line in changes if line not in begins and not by_table.fullmatch(line)
    ] == []
