"""ActionService of the action dialect inside one node: who is where after which
login."""

from collections.abc import Iterator

import pytest

from imserver.dialects.action.service import ActionState
from imserver.gateway.transport.connection import Connection
from tests.dialects.action.harness import ActionHarness, One
from tests.gateway.conftest import clock as clock
from tests.gateway.transport.harness import until
from tests.support import Clock

POLICIES = {
    f"action:{number}": policy
    for number, policy in enumerate(("newest", "multi", "single", "refuse"), 1)
}


def receiver(connection: Connection) -> tuple[str, str]:
    """The user, or the room, to which a connection sends."""
    state = connection.dialect_state
    assert isinstance(state, ActionState)
    return state.peer, state.room


@pytest.fixture
def harness() -> Iterator[ActionHarness]:
    stored = {"action:4": {"club": ["ann", "bob"], "empty": []}}
    with ActionHarness(policies=POLICIES, stored=stored) as one:
        yield one


@pytest.mark.parametrize("app", [1, 2, 3, 4])
def test_a_later_login_of_one_connection_ends_the_former_session_under_any_policy(
    harness: ActionHarness, app: int
) -> None:
    one = One(harness, "ann", room="r", app=app)
    assert one.login("eve", to="bob", app=app) == 200
    assert one.login("cid", to="eve", app=app) == 200
    assert harness.hub.user_names(f"action:{app}") == ["cid"]
    assert receiver(one.connection) == ("eve", "")
    assert harness.channels.members.channels_of(one.connection) == ()
    assert harness.channels.members.membership.channels == 0
    assert one.connection.is_open


def test_a_connection_that_changes_its_user_all_the_time_pays_for_the_notices(
    harness: ActionHarness, clock: Clock
) -> None:
    harness.fanout.notice_bytes = 1000
    one = One(harness, "user0", app=2)
    codes = [one.login(f"user{number}", app=2) for number in range(1, 9)]
    assert codes == [200] * 4 + [1008] * 4
    assert harness.hub.user_names("action:2") == ["user4"], (
        "a refused login changes nothing"
    )
    assert one.login("user4", app=2) == 200, "it causes no notices"
    assert One(harness, "user9", app=2)


def test_a_later_login_may_be_to_another_app_or_refused_which_leaves_the_session_as_it_is(
    harness: ActionHarness,
) -> None:
    harness.allowed = {"", "t"}
    one = One(harness, "ann", room="r")
    assert one.login("ann", room="r", app=2) == 200
    assert (harness.hub.user_names("action:1"), harness.hub.user_names("action:2")) == (
        [],
        ["ann"],
    )
    assert [harness.channels.members.count(f"action:{app}", "r") for app in (1, 2)] == [
        0,
        1,
    ]
    assert one.login("eve", token="wrong") == 1003
    assert one.login("eve", app=9) == 1003
    assert (one.connection.user, receiver(one.connection)) == ("ann", ("", "r"))
    assert harness.channels.members.channels_of(one.connection) == ("r",)
    one.connection.close(1000)
    until(lambda: harness.hub.user_names("action:2") == [])


def test_a_stored_member_is_in_their_room_with_any_receiver(
    harness: ActionHarness,
) -> None:
    ann = One(harness, "ann", to="bob", app=4)
    for login, rooms in (
        ({}, ("club",)),
        ({"user": "ann", "room": "other"}, ("other", "club")),
        ({"user": "cid", "room": "club"}, ("club",)),
    ):
        assert not login or ann.login(**login, app=4) == 200  # type: ignore[arg-type]
        assert harness.channels.members.channels_of(ann.connection) == rooms


def test_a_connection_that_is_addressed_no_longer_is_in_no_room(
    harness: ActionHarness,
) -> None:
    older = One(harness, "ann", room="r")
    One(harness, "ann", to="bob")
    assert harness.channels.members.channels_of(older.connection) == ()
    assert harness.channels.members.count("action:1", "r") == 0
    assert older.ask("heartbeat") == 200


def test_messages_are_reported_to_listeners(harness: ActionHarness) -> None:
    ann = One(harness, "ann", to="bob")
    assert ann.say("hi") == 200
    assert ann.login("ann", room="r") == 200
    assert ann.ask("sendmsg", msgType="image", message="/a.png") == 200
    assert harness.observer.messages == [
        ("action:1", "ann", {"to": "bob", "type": "text", "text": "hi"}),
        ("action:1", "ann", {"room": "r", "type": "image", "text": "/a.png"}),
    ]
