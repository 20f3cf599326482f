"""ChannelMembers and connections on a node that is alone; ``test_cluster_channels`` has what several do."""

import gevent
import pytest
from msgspec.structs import replace

from imserver.gateway.channels.connections import Joined
from imserver.gateway.channels.members import MAX_CHANNELS_OF_A_CONNECTION, ChannelRefused, Publication
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.model import Event, Limit, Outcome
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness
from tests.gateway.hub.test_channels import texts
from tests.gateway.transport.harness import turn, until

MULTI = "102"
HELLO = Event("msg", "eve", "hello", "7")


@pytest.fixture
def channels(harness: Harness) -> Channels:
    return harness.channels


def test_a_node_that_is_alone_reaches_the_members_of_a_channel_in_order_and_tells_of_them(
    harness: Harness, channels: Channels
) -> None:
    (ann, a), (_, b) = (harness.login(MULTI, user, device="phone") for user in ("ann", "bob"))
    texts(a, b)
    assert [channels.subscriptions.join(MULTI, name, ann) for name in ("lobby", "garden", "lobby")] == [
        1,
        1,
        0,
    ]
    each = [Publication(("lobby", "garden", "attic")[n % 3], replace(HELLO, text=str(n))) for n in range(600)]
    outcomes = channels.publishing.publish_each(MULTI, each)
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 200
    assert texts(a, b) == [[str(n) for n in range(600) if n % 3 != 2], []]
    assert harness.metrics.pushes.total == 400
    connection_id = harness.connections.id_of(ann)
    info, nothing = harness.connections.about(MULTI, [connection_id, "no id"])
    assert (info and info.channels, nothing) == (("lobby", "garden"), None)
    assert info is not None
    assert (info.connection, info.user, info.device, info.dialect) == (connection_id, "ann", "phone", "cmd")
    assert (info.node, info.peer, info.since) == ("node", ann.peer, ann.since)
    assert [channels.members.leave(MULTI, "lobby", ann) for _ in range(2)] == [True, False]
    for app in ("101", "nowhere"):
        assert channels.subscriptions.join(app, "lobby", ann) is False
        assert channels.publishing.publish(app, "lobby", HELLO) == Outcome.NOT_SENT
        assert (channels.members.channels(app).channels, channels.members.count(app, "lobby")) == ([], 0)
        assert harness.connections.find(app, connection_id) is None
    a.hang_up()
    until(lambda: harness.connections.find(MULTI, connection_id) is None)
    nobody, _ = harness.connect()
    assert harness.connections.find(MULTI, harness.connections.id_of(nobody)) is None, "without a session"


GOOD_NAMES = ("x" * Limit.CHANNEL_BYTES, "马" * (Limit.CHANNEL_BYTES // 3), "\ud800", "\0")


def test_a_name_that_is_empty_or_too_long_is_refused_and_any_other_a_channel(
    harness: Harness, channels: Channels
) -> None:
    ann, _ = harness.login(MULTI, "ann")
    for name in ("", "x" * (Limit.CHANNEL_BYTES + 1), "马" * (Limit.CHANNEL_BYTES // 3 + 1)):
        with pytest.raises(ChannelRefused, match="1 to 255 bytes") as refused:
            channels.subscriptions.join(MULTI, name, ann)
        assert refused.value.reason == "name"
    assert all(channels.subscriptions.join(MULTI, name, ann) for name in GOOD_NAMES)
    assert channels.members.channels_of(ann) == GOOD_NAMES


def test_a_connection_may_be_in_so_many_channels_and_an_app_may_have_so_many_and_no_more(
    harness: Harness, channels: Channels
) -> None:
    join, (ann, bob) = channels.subscriptions.join, (harness.login(MULTI, user)[0] for user in ("ann", "bob"))
    assert all(join(MULTI, f"r{number}", ann) for number in range(MAX_CHANNELS_OF_A_CONNECTION))
    with pytest.raises(ChannelRefused) as refused:
        join(MULTI, "one more", ann)
    assert refused.value.reason == "full"
    assert join(MULTI, "r0", ann) is False
    channels.members.leave(MULTI, "r7", ann)
    assert join(MULTI, "one more", ann)
    harness.max_channels = MAX_CHANNELS_OF_A_CONNECTION
    with pytest.raises(ChannelRefused, match=f"{harness.max_channels} channels") as refused:
        join(MULTI, "attic", bob)
    assert refused.value.reason == "full"
    assert join(MULTI, "r0", bob)
    assert harness.connections.join(MULTI, harness.connections.id_of(bob), "attic") == Joined.FULL


def test_a_page_goes_on_where_the_last_ended_though_members_have_left(
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


@pytest.mark.parametrize("after", ["nonsense", "-", "1-", "nan-1", "inf-zz", "-1", "\ud800"])
def test_a_cursor_that_is_none_begins_with_the_first_member(
    harness: Harness, channels: Channels, after: str
) -> None:
    ann, _ = harness.login(MULTI, "ann")
    channels.subscriptions.join(MULTI, "lobby", ann)
    assert [member.user for member in channels.members.page(MULTI, "lobby", after).members] == ["ann"]


def test_an_ended_connection_leaves_all_channels_and_listeners_get_their_names(
    harness: Harness, channels: Channels
) -> None:
    """They hear of connections in channels, and not of who has left them all before."""
    heard: list[tuple[str, tuple[str, ...]]] = []
    empty: list[tuple[str, str]] = []
    channels.members.report_to(
        left=lambda connection, names: heard.append((connection.user or "", names)),
        emptied=lambda app, channel: empty.append((app, channel)),
    )
    people = {user: harness.login(MULTI, user) for user in ("ann", "bob", "cid", "dan")}
    for user, channel in (("ann", "garden"), ("ann", "lobby"), ("bob", "lobby"), ("cid", "lobby")):
        channels.subscriptions.join(MULTI, channel, people[user][0])
    assert channels.members.leave_all(people["cid"][0]) == ("lobby",)
    for user in ("ann", "cid", "dan"):
        people[user][1].hang_up()
    until(lambda: heard == [("ann", ("garden", "lobby"))])
    assert [member.user for member in channels.members.page(MULTI, "lobby").members] == ["bob"]
    assert channels.members.count(MULTI, "garden") == 0
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

    def fail(_connection: Connection, _names: tuple[str, ...]) -> None:
        raise RuntimeError("on purpose")

    def send_event(connection: Connection, _names: tuple[str, ...]) -> None:
        gevent.sleep(0.01)
        heard.append(connection.user or "")

    for listener in (fail, send_event):
        channels.members.report_to(left=listener)
    users = [f"u{n:02}" for n in range(40)]
    connections = [harness.login(MULTI, user)[0] for user in users]
    for connection in connections:
        channels.subscriptions.join(MULTI, "lobby", connection)
    for connection in connections:
        connection.lost()
    until(lambda: sorted(heard) == users)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["a listener of ended channel members failed"] * 40


# --- connections --------------------------------------------------------------------------------------------
