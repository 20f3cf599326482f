"""ChannelMembers of a node: who is in them, in which order, and what they are told."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect
from imserver.gateway.model import ChannelPart, Event
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness, received
from tests.gateway.transport.harness import Client, turn

MULTI, NEWEST = "102", "101"
HELLO = Event("msg", "eve", "hello", "7")


def join(harness: Harness, connection: Connection, *channels: str) -> None:
    app = harness.hub.apps[connection.app or ""]
    for channel in channels:
        assert harness.channels.members.membership.join(app, channel, connection)


def texts(*clients: Client) -> list[list[str]]:
    """What the clients were told since the last time, without notices."""
    found = []
    turn()
    for client in clients:
        client.probe(b"settled")
        found.append([text for kind, _, text in received(client) if kind == "msg"])
        client.frames.clear()
    return found


def members(harness: Harness, channel: str, app: str = MULTI) -> list[str]:
    found = harness.hub.apps[app].channels.get(channel)
    return [] if found is None else [connection.user or "" for connection in found.members]


# --- membership ---------------------------------------------------------------------------------------------


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "all"]), st.integers(0, 3), st.sampled_from("abc")),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_both_sides_of_membership_always_agree(actions: list[tuple[str, int, str]]) -> None:
    with Harness() as harness:
        app, membership = harness.hub.apps[MULTI], harness.channels.members.membership
        connections = [harness.login(MULTI, f"u{n}")[0] for n in range(4)]
        model: dict[str, list[int]] = {}
        order: list[list[str]] = [[] for _ in connections]
        for action, who, channel in actions:
            inside = who in model.get(channel, [])
            if action == "join":
                assert (membership.join(app, channel, connections[who]) is None) is inside
                if not inside:
                    model.setdefault(channel, []).append(who)
                    order[who].append(channel)
            elif action == "leave":
                assert membership.leave(app, channel, connections[who]) is inside
                if inside:
                    model[channel].remove(who)
                    order[who].remove(channel)
            else:
                left = membership.leave_all(connections[who])
                assert [each.name for each in left] == order[who]
                for each in order[who]:
                    model[each].remove(who)
                order[who] = []
            model = {name: inside for name, inside in model.items() if inside}
            assert {name: members(harness, name) for name in app.channels} == {
                name: [f"u{n}" for n in inside] for name, inside in model.items()
            }
            for connection, names in zip(connections, order, strict=True):
                assert [each.name for each in connection.channels] == names
            assert membership.channels == len(model)
            assert membership.members == sum(map(len, model.values()))


def test_who_is_not_in_the_app_does_not_join(harness: Harness) -> None:
    elsewhere, _ = harness.login(NEWEST, "ann")
    nobody, _ = harness.connect()
    ended, _ = harness.login(MULTI, "bob")
    ended.close(1000)
    for connection in (elsewhere, nobody, ended):
        assert not harness.channels.members.membership.join(harness.hub.apps[MULTI], "lobby", connection)
        assert connection.channels == ()
    assert harness.hub.apps[MULTI].channels == {}


# --- fan-out ------------------------------------------------------------------------------------------------


def test_a_channel_gets_messages_behind_the_notices_that_wait(harness: Harness) -> None:
    ann, a = harness.login(MULTI, "ann")
    join(harness, ann, "lobby")
    turn()
    a.probe(b"settled")
    a.frames.clear()
    harness.login(MULTI, "bob")
    harness.fanout.to_channel(harness.hub.apps[MULTI].channels["lobby"], HELLO)
    turn()
    a.probe(b"settled")
    assert [kind for kind, _, _ in received(a)] == ["enter", "msg"]


def test_sessions_that_have_subscribed_get_publications_in_place_of_pushes(harness: Harness) -> None:
    pairs = [
        harness.login(MULTI, "ann", device=name, dialect=ChannelCmdDialect())
        for name in ("phone", "desk", "tablet")
    ]
    join(harness, pairs[0][0], "user:ann", "news")
    join(harness, pairs[1][0], "user:ann", "group:7")

    def heard() -> list[str]:
        """The channel in what each client was told since the last time: of a push there is none."""
        found = []
        for _, client in pairs:
            client.probe(b"settled")
            bodies = [json.decode(payload) for payload in client.payloads()]
            found += [body["response"]["data"].get("channel", "") for body in bodies]
            client.frames.clear()
        return found

    turn()
    heard()
    of_group = replace(HELLO, channel=ChannelPart("group:7"))
    for event, device, found in (
        (HELLO, None, ["user:ann", "user:ann", ""]),
        (HELLO, "desk", ["user:ann"]),
        (HELLO, "tablet", [""]),
        (of_group, None, ["user:ann", "group:7", ""]),
    ):
        assert harness.fanout.to_sessions(MULTI, "ann", event, device) == (3 if device is None else 1)
        assert heard() == found
    assert harness.fanout.to_sessions(MULTI, "ann", HELLO, "") == 0, "no device is a device too"
    for connection, _ in pairs:
        harness.channels.members.leave_all(connection)
    assert harness.fanout.to_sessions(MULTI, "ann", of_group) == 3
    assert heard() == [""] * 3


# --- who is addressed no longer -----------------------------------------------------------------------------


def test_a_session_that_is_addressed_no_longer_is_in_no_channel(harness: Harness) -> None:
    old, _ = harness.login(NEWEST, "ann")
    join(harness, old, "lobby", "garden")
    new, _ = harness.login(NEWEST, "ann")
    assert old.channels == ()
    join(harness, new, "lobby")
    assert members(harness, "lobby", NEWEST) == ["ann"]
    harness.hub.forget(new)
    assert harness.hub.apps[NEWEST].channels == {}
