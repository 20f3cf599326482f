"""ChannelMembers and connections on a node that is alone;
``test_cluster_channels`` has what several do."""

from unittest.mock import Mock

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from imserver.gateway.channels.connections import Joined
from imserver.gateway.channels.members import (
    MAX_CHANNELS_OF_A_CONNECTION,
    ChannelRefused,
    Publication,
)
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect
from imserver.gateway.model import ChannelPart, Event, Limit, Outcome
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import Topology
from tests.gateway.hub.harness import Harness, received, texts
from tests.gateway.transport.harness import turn, until

MULTI = "102"
NEWEST = "101"
HELLO = Event("msg", "eve", "hello", "7")


@pytest.fixture
def channels(harness: Harness) -> Channels:
    return harness.channels


def test_a_lone_node_reaches_members_in_order_and_knows_of_them(
    harness: Harness, channels: Channels
) -> None:
    (ann, a), (_, b) = (
        harness.login(MULTI, user, device="phone") for user in ("ann", "bob")
    )
    joins = [
        channels.subscriptions.join(MULTI, name, ann)
        for name in ("lobby", "garden", "lobby")
    ]
    assert joins == [1, 1, 0]
    each = [
        Publication(("lobby", "garden", "attic")[n % 3], replace(HELLO, text=str(n)))
        for n in range(600)
    ]
    outcomes = channels.publishing.publish_each(MULTI, each)
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 200
    assert texts(a, b) == [[str(n) for n in range(600) if n % 3 != 2], []]
    assert harness.metrics.pushes.total == 400
    connection_id = harness.connections.id_of(ann)
    info, nothing = harness.connections.about(MULTI, [connection_id, "no id"])
    assert nothing is None
    assert (info.connection, info.user, info.device, info.dialect) == (
        connection_id,
        "ann",
        "phone",
        "cmd",
    )
    found = (info.channels, info.node, info.peer, info.since)
    assert found == (("lobby", "garden"), "node", ann.peer, ann.since)
    for app in ("101", "nowhere"):
        assert channels.subscriptions.join(app, "lobby", ann) is False
        assert channels.publishing.publish(app, "lobby", HELLO) == Outcome.NOT_SENT
        assert (
            channels.members.channels(app).channels,
            channels.members.count(app, "lobby"),
        ) == ([], 0)
        assert harness.connections.find(app, connection_id) is None
    nobody, _ = harness.connect()
    assert harness.connections.find(MULTI, harness.connections.id_of(nobody)) is None, (
        "without a session"
    )


LONGEST = Limit.CHANNEL_BYTES


@pytest.mark.parametrize("name", ["", "x" * (LONGEST + 1), "马" * (LONGEST // 3 + 1)])
def test_empty_and_long_names_are_refused_others_not(
    harness: Harness, channels: Channels, name: str
) -> None:
    ann, _ = harness.login(MULTI, "ann")
    with pytest.raises(ChannelRefused, match="1 to 255 bytes") as refused:
        channels.subscriptions.join(MULTI, name, ann)
    assert refused.value.reason == "name"
    names = ("x" * LONGEST, "马" * (LONGEST // 3), "\ud800", "\0")
    assert all(channels.subscriptions.join(MULTI, each, ann) for each in names)
    assert channels.members.channels_of(ann) == names


def test_connections_and_apps_have_so_many_channels_and_no_more(
    harness: Harness, channels: Channels
) -> None:
    join, (ann, bob) = (
        channels.subscriptions.join,
        (harness.login(MULTI, user)[0] for user in ("ann", "bob")),
    )
    assert all(
        join(MULTI, f"r{number}", ann) for number in range(MAX_CHANNELS_OF_A_CONNECTION)
    )

    def refuse(channel: str, connection: Connection) -> None:
        with pytest.raises(
            ChannelRefused, match=f"{MAX_CHANNELS_OF_A_CONNECTION} channels"
        ) as refused:
            join(MULTI, channel, connection)
        assert refused.value.reason == "full"

    refuse("one more", ann)
    assert join(MULTI, "r0", ann) is False
    channels.members.leave(MULTI, "r7", ann)
    assert join(MULTI, "one more", ann)
    harness.max_channels = MAX_CHANNELS_OF_A_CONNECTION
    refuse("attic", bob)
    assert join(MULTI, "r0", bob)
    assert (
        harness.connections.join(MULTI, harness.connections.id_of(bob), "attic")
        == Joined.FULL
    )


def test_a_page_goes_on_behind_the_last_though_members_left(
    harness: Harness, channels: Channels
) -> None:
    people = [harness.login(MULTI, f"u{n}")[0] for n in range(6)]
    for connection in people:
        channels.subscriptions.join(MULTI, "lobby", connection)
    first = channels.members.page(MULTI, "lobby", limit=3)
    for connection in people[1:4]:
        channels.members.leave(MULTI, "lobby", connection)
    rest = channels.members.page(MULTI, "lobby", first.next, 3)
    assert [member.user for member in rest.members] == ["u4", "u5"]
    assert (rest.total, rest.next) == (3, "")


@pytest.mark.parametrize(
    "after", ["nonsense", "-", "1-", "nan-1", "inf-zz", "-1", "\ud800"]
)
def test_a_wrong_cursor_begins_at_the_first_member(
    harness: Harness, channels: Channels, after: str
) -> None:
    ann, _ = harness.login(MULTI, "ann")
    channels.subscriptions.join(MULTI, "lobby", ann)
    assert [
        member.user for member in channels.members.page(MULTI, "lobby", after).members
    ] == ["ann"]


def test_who_ends_leaves_all_channels_and_listeners_get_them(
    harness: Harness, channels: Channels
) -> None:
    """They hear of connections in channels, and not of who has left them all
    before."""
    heard: list[tuple[str, tuple[str, ...]]] = []
    empty: list[tuple[str, str]] = []
    channels.members.report_to(
        left=lambda connection, names: heard.append((connection.user or "", names)),
        emptied=lambda app, channel: empty.append((app, channel)),
    )
    people = {user: harness.login(MULTI, user) for user in ("ann", "bob", "cid", "dan")}
    for user, channel in (
        ("ann", "garden"),
        ("ann", "lobby"),
        ("bob", "lobby"),
        ("cid", "lobby"),
    ):
        channels.subscriptions.join(MULTI, channel, people[user][0])
    assert channels.members.leave_all(people["cid"][0]) == ("lobby",)
    for user in ("ann", "cid", "dan"):
        people[user][1].hang_up()
    until(lambda: heard == [("ann", ("garden", "lobby"))])
    assert [
        member.user for member in channels.members.page(MULTI, "lobby").members
    ] == ["bob"]
    people["bob"][0].close(1000)
    people["bob"][0].lost()
    until(lambda: not any(harness.hub.is_online(MULTI, user) for user in people))
    turn()
    assert heard[1:] == [("bob", ("lobby",))]
    assert empty == [(MULTI, "garden"), (MULTI, "lobby")]


def test_a_listener_of_ended_connections_may_block_and_may_fail(
    harness: Harness, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def send_event(connection: Connection, _names: tuple[str, ...]) -> None:
        gevent.sleep(0.01)
        heard.append(connection.user or "")

    for listener in (Mock(side_effect=RuntimeError("on purpose")), send_event):
        channels.members.report_to(left=listener)
    connections = {
        user: harness.login(MULTI, user)[0] for user in (f"u{n:02}" for n in range(40))
    }
    for connection in connections.values():
        channels.subscriptions.join(MULTI, "lobby", connection)
    for connection in connections.values():
        connection.lost()
    until(lambda: sorted(heard) == [*connections])
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["a listener of ended channel members failed"] * 40


# --- membership ---------------------------------------------------------------


def join(harness: Harness, connection: Connection, *channels: str) -> None:
    app = harness.hub.apps[connection.app or ""]
    for channel in channels:
        assert harness.channels.members.membership.join(app, channel, connection)


def members(harness: Harness, channel: str, app: str = MULTI) -> list[str]:
    found = harness.hub.apps[app].channels.get(channel)
    return (
        [] if found is None else [connection.user or "" for connection in found.members]
    )


ACTIONS = st.tuples(
    st.sampled_from(["join", "leave", "all"]), st.integers(0, 3), st.sampled_from("abc")
)


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_both_sides_of_membership_always_agree(
    actions: list[tuple[str, int, str]],
) -> None:
    with Harness() as harness:
        app = harness.hub.apps[MULTI]
        membership = harness.channels.members.membership
        connections = [harness.login(MULTI, f"u{n}")[0] for n in range(4)]
        model: dict[str, list[int]] = {}
        order: list[list[str]] = [[] for _ in connections]
        for action, who, channel in actions:
            inside = who in model.get(channel, [])
            if action == "join":
                assert (
                    membership.join(app, channel, connections[who]) is None
                ) is inside
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
        assert not harness.channels.members.membership.join(
            harness.hub.apps[MULTI], "lobby", connection
        )
        assert connection.channels == ()
    assert harness.hub.apps[MULTI].channels == {}


# --- fan-out ------------------------------------------------------------------


def test_a_channel_gets_messages_behind_the_notices_that_wait(harness: Harness) -> None:
    ann, a = harness.login(MULTI, "ann")
    join(harness, ann, "lobby")
    texts(a)
    harness.login(MULTI, "bob")
    harness.fanout.to_channel(harness.hub.apps[MULTI].channels["lobby"], HELLO)
    turn()
    a.probe(b"settled")
    assert [kind for kind, _, _ in received(a)] == ["enter", "msg"]


def test_sessions_that_have_subscribed_get_publications_in_place_of_pushes(
    harness: Harness,
) -> None:
    dialect = ChannelCmdDialect()
    devices = ("phone", "desk", "tablet")
    pairs = [
        harness.login(MULTI, "ann", device=name, dialect=dialect) for name in devices
    ]
    join(harness, pairs[0][0], "user:ann", "news")
    join(harness, pairs[1][0], "user:ann", "group:7")
    of_group = replace(HELLO, channel=ChannelPart("group:7"))
    turn()

    def heard(event: Event, device: str | None = None) -> list[str]:
        """The channel in what each client is told then: of a push there is
        none."""
        found = []
        assert harness.fanout.to_sessions(MULTI, "ann", event, device) == (
            3 if device is None else 1
        )
        for _, client in pairs:
            client.probe(b"settled")
            bodies = [
                json.decode(payload)["response"]["data"]
                for payload in client.payloads()
            ]
            found += [body.get("channel", "") for body in bodies]
            client.frames.clear()
        return found

    assert heard(HELLO) == ["user:ann", "user:ann", ""]
    assert heard(HELLO, "desk") == ["user:ann"]
    assert heard(HELLO, "tablet") == [""]
    assert heard(of_group) == ["user:ann", "group:7", ""]
    assert harness.fanout.to_sessions(MULTI, "ann", HELLO, "") == 0, (
        "no device is a device too"
    )
    for connection, _ in pairs:
        harness.channels.members.leave_all(connection)
    assert heard(of_group) == [""] * 3


# --- who is addressed no longer -----------------------------------------------


def test_a_session_that_is_addressed_no_longer_is_in_no_channel(
    topology: Topology,
) -> None:
    here = topology.here
    there = topology.there
    old, a = here.login(NEWEST, "ann")
    assert here.channels.subscriptions.join(NEWEST, "lobby", old)
    new, b = there.login(NEWEST, "ann")
    assert there.channels.subscriptions.join(NEWEST, "lobby", new)
    assert old.channels == ()
    assert here.channels.publishing.publish(NEWEST, "lobby", HELLO) == Outcome.SENT
    assert texts(a, b) == [[], ["hello"]]
    there.hub.forget(new)
    assert there.hub.apps[NEWEST].channels == {}
