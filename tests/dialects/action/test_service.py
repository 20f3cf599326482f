"""ActionService of the action dialect inside one node: who is where after which login."""

import json
from typing import Any

import pytest

from imserver.dialects.action.service import ActionState
from imserver.dialects.action.wire import ActionDialect
from imserver.gateway.transport.connection import Connection
from tests.dialects.action.harness import ActionHarness
from tests.gateway.conftest import clock as clock
from tests.gateway.transport.harness import Client, until
from tests.integration.raw import TEXT, frame
from tests.support import Clock

ACTION = ActionDialect()
POLICIES = {
    f"action:{number}": policy for number, policy in enumerate(("newest", "multi", "single", "refuse"), 1)
}


def connect(harness: ActionHarness) -> tuple[Connection, Client]:
    """A connection that has been welcomed."""
    connection, client = harness.connect(dialect=ACTION)
    harness.action_service.opened(connection, None)  # type: ignore[arg-type]
    return connection, client


def ask(client: Client, action: str, probe: str, **data: Any) -> int:
    """The code of the answer to a request."""
    client.send(frame(TEXT, json.dumps({"seq": probe, "action": action, "data": data})))
    client.probe(probe.encode())
    answers = [json.loads(payload) for payload in client.payloads()]
    return int(next(each for each in answers if each.get("seq") == probe)["response"]["code"])


def login(client: Client, probe: str, user: str, app: int = 1, to: str = "0", room: str = "0") -> int:
    return ask(client, "login", probe, userId=user, appId=app, toUid=to, groupsId=room)


def received(client: Client) -> list[tuple[str, str, str, str]]:
    """What a client was told: action, sender, content, receiver."""
    bodies = (json.loads(payload) for payload in client.payloads())
    pushed = (body["data"] for body in bodies if "code" in body)
    return [(each["action"], each["from"], each["content"], each["to"]) for each in pushed][1:]


def receiver(connection: Connection) -> tuple[str, str]:
    """The user, or the room, to which a connection sends."""
    state = connection.dialect_state
    assert isinstance(state, ActionState)
    return state.peer, state.room


@pytest.mark.parametrize("app", [1, 2, 3, 4])
def test_a_later_login_of_one_connection_ends_the_former_session_under_any_policy(app: int) -> None:
    with ActionHarness(policies=POLICIES) as harness:
        connection, client = connect(harness)
        assert login(client, "1", "ann", app, room="r") == 200
        assert login(client, "2", "ann", app, to="bob") == 200
        assert login(client, "3", "bob", app, to="ann") == 200
        assert harness.hub.user_names(f"action:{app}") == ["bob"]
        assert receiver(connection) == ("ann", "")
        assert harness.channels.members.channels_of(connection) == ()
        assert harness.channels.members.membership.channels == 0
        assert connection.is_open


def test_a_connection_that_changes_its_user_all_the_time_pays_for_the_notices(clock: Clock) -> None:
    with ActionHarness(policies=POLICIES) as harness:
        harness.fanout.notice_bytes = 1000
        _, client = connect(harness)
        codes = [login(client, str(number), f"user{number}", 2) for number in range(9)]
        assert codes == [200] * 5 + [1008] * 4
        assert harness.hub.user_names("action:2") == ["user4"], "a refused login changes nothing"
        assert login(client, "same", "user4", 2) == 200, "it causes no notices"
        _, other = connect(harness)
        assert login(other, "1", "user9", 2) == 200


def test_a_later_login_may_be_to_another_app() -> None:
    with ActionHarness(policies=POLICIES) as harness:
        connection, client = connect(harness)
        assert login(client, "1", "ann", 1, room="r") == 200
        assert login(client, "2", "ann", 2, room="r") == 200
        assert (harness.hub.user_names("action:1"), harness.hub.user_names("action:2")) == ([], ["ann"])
        assert harness.channels.members.count("action:1", "r") == 0
        assert harness.channels.members.count("action:2", "r") == 1
        connection.close(1000)
        until(lambda: harness.hub.user_names("action:2") == [])


def test_a_later_login_that_is_refused_leaves_the_session_as_it_is() -> None:
    with ActionHarness(policies=POLICIES) as harness:
        harness.allowed = {"", "t"}
        connection, client = connect(harness)
        assert login(client, "1", "ann", 1, room="r") == 200
        assert ask(client, "login", "2", userId="eve", appId=1, token="wrong") == 1003
        assert login(client, "3", "eve", 9) == 1003
        assert (connection.user, receiver(connection)) == ("ann", ("", "r"))
        assert harness.channels.members.channels_of(connection) == ("r",)


def test_a_stored_member_is_in_their_room_with_any_receiver() -> None:
    stored = {"action:1": {"club": ["ann", "bob"], "empty": []}}
    with ActionHarness(policies=POLICIES, stored=stored) as harness:
        ann, client = connect(harness)
        assert login(client, "1", "ann", to="bob") == 200
        assert harness.channels.members.channels_of(ann) == ("club",)
        assert login(client, "2", "ann", room="other") == 200
        assert harness.channels.members.channels_of(ann) == ("other", "club")
        assert login(client, "3", "cid", room="club") == 200
        assert harness.channels.members.channels_of(ann) == ("club",)


def test_a_connection_that_is_addressed_no_longer_is_in_no_room() -> None:
    with ActionHarness(policies=POLICIES) as harness:
        older, first = connect(harness)
        _, second = connect(harness)
        assert login(first, "1", "ann", room="r") == 200
        assert login(second, "1", "ann", to="bob") == 200
        assert harness.channels.members.channels_of(older) == ()
        assert harness.channels.members.count("action:1", "r") == 0
        assert ask(first, "heartbeat", "2") == 200


def test_messages_are_reported_to_listeners() -> None:
    with ActionHarness(policies=POLICIES) as harness:
        _, client = connect(harness)
        assert login(client, "1", "ann", to="bob") == 200
        assert ask(client, "sendmsg", "2", msgType="text", message="hi") == 200
        assert login(client, "3", "ann", room="r") == 200
        assert ask(client, "sendmsg", "4", msgType="image", message="/a.png") == 200
    assert harness.observer.messages == [
        ("action:1", "ann", {"to": "bob", "type": "text", "text": "hi"}),
        ("action:1", "ann", {"room": "r", "type": "image", "text": "/a.png"}),
    ]
