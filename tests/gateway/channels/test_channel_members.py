"""ChannelMembers and connections as services, on a node that is alone."""

import gevent
import pytest

from imserver.gateway import errors
from imserver.gateway.channels.connections import Joined, Left
from imserver.gateway.channels.members import MAX_CHANNELS_OF_A_CONNECTION, ChannelRefused, Publication
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.model import Event, Limit, Outcome
from imserver.gateway.sessions.cluster_sessions import AliveQuery
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness
from tests.gateway.hub.test_channels import texts
from tests.gateway.transport.harness import turn, until

MULTI = "102"
HELLO = Event("msg", "eve", "hello", "7")


def event(text: str) -> Event:
    return Event("msg", "eve", text, "7")


@pytest.fixture
def channels(harness: Harness) -> Channels:
    return harness.channels


# --- joining ------------------------------------------------------------------------------------------------


def test_members_receive_publications(harness: Harness, channels: Channels) -> None:
    (ann, a), (_, b) = (harness.login(MULTI, user) for user in ("ann", "bob"))
    texts(a, b)
    assert channels.publishing.publish(MULTI, "lobby", HELLO) == Outcome.NOT_SENT
    assert channels.subscriptions.join(MULTI, "lobby", ann) is True
    assert channels.subscriptions.join(MULTI, "lobby", ann) is False
    assert channels.publishing.publish(MULTI, "lobby", HELLO) == Outcome.SENT
    assert texts(a, b) == [["hello"], []]
    assert channels.members.leave(MULTI, "lobby", ann)
    assert not channels.members.leave(MULTI, "lobby", ann)
    assert channels.publishing.publish(MULTI, "lobby", HELLO) == Outcome.NOT_SENT
    assert texts(a, b) == [[], []]


def test_an_app_that_is_not_there_has_no_channels(harness: Harness, channels: Channels) -> None:
    ann, _ = harness.login(MULTI, "ann")
    assert channels.subscriptions.join("nowhere", "lobby", ann) is False
    assert channels.members.leave("nowhere", "lobby", ann) is False
    assert channels.publishing.publish("nowhere", "lobby", HELLO) == Outcome.NOT_SENT
    assert channels.members.channels("nowhere").channels == []
    assert channels.members.page("nowhere", "lobby").total == 0
    assert channels.members.count("nowhere", "lobby") == 0


@pytest.mark.parametrize("name", ["", "x" * (Limit.CHANNEL_BYTES + 1), "马" * (Limit.CHANNEL_BYTES // 3 + 1)])
def test_a_name_that_is_empty_or_too_long_is_refused(harness: Harness, channels: Channels, name: str) -> None:
    ann, _ = harness.login(MULTI, "ann")
    with pytest.raises(ChannelRefused, match="1 to 255 bytes") as refused:
        channels.subscriptions.join(MULTI, name, ann)
    assert refused.value.reason == "name"


@pytest.mark.parametrize(
    "name", ["x" * Limit.CHANNEL_BYTES, "马" * (Limit.CHANNEL_BYTES // 3), "\ud800", "\0"]
)
def test_any_other_name_is_a_channel(harness: Harness, channels: Channels, name: str) -> None:
    ann, _ = harness.login(MULTI, "ann")
    assert channels.subscriptions.join(MULTI, name, ann)
    assert channels.members.channels_of(ann) == (name,)


def test_a_connection_may_be_in_so_many_and_no_more(harness: Harness, channels: Channels) -> None:
    ann, _ = harness.login(MULTI, "ann")
    for number in range(MAX_CHANNELS_OF_A_CONNECTION):
        assert channels.subscriptions.join(MULTI, f"r{number}", ann)
    with pytest.raises(ChannelRefused) as refused:
        channels.subscriptions.join(MULTI, "one more", ann)
    assert refused.value.reason == "full"
    assert channels.subscriptions.join(MULTI, "r0", ann) is False
    channels.members.leave(MULTI, "r7", ann)
    assert channels.subscriptions.join(MULTI, "one more", ann)


def test_an_app_may_have_so_many_channels_and_no_more(harness: Harness, channels: Channels) -> None:
    ann, bob = (harness.login(MULTI, user)[0] for user in ("ann", "bob"))
    harness.max_channels = 2
    assert channels.subscriptions.join(MULTI, "lobby", ann)
    assert channels.subscriptions.join(MULTI, "garden", ann)
    with pytest.raises(ChannelRefused, match="2 channels") as refused:
        channels.subscriptions.join(MULTI, "attic", bob)
    assert refused.value.reason == "full"
    assert channels.subscriptions.join(MULTI, "lobby", bob)
    assert harness.connections.join(MULTI, harness.connections.id_of(bob), "attic") == Joined.FULL


# --- publishing ---------------------------------------------------------------------------------------------


def test_publications_arrive_in_their_order(harness: Harness, channels: Channels) -> None:
    ann, a = harness.login(MULTI, "ann")
    channels.subscriptions.join(MULTI, "lobby", ann)
    channels.subscriptions.join(MULTI, "garden", ann)
    texts(a)
    outcomes = channels.publishing.publish_each(
        MULTI, [Publication(("lobby", "garden", "attic")[n % 3], event(str(n))) for n in range(600)]
    )
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 200
    assert texts(a) == [[str(n) for n in range(600) if n % 3 != 2]]
    assert harness.metrics.pushes.total == 400


def test_users_and_the_publishers_connection_are_left_out(harness: Harness, channels: Channels) -> None:
    people = [harness.login(MULTI, user) for user in ("ann", "bob", "cid")]
    clients = [client for _, client in people]
    for connection, _ in people:
        channels.subscriptions.join(MULTI, "lobby", connection)
    texts(*clients)
    channels.publishing.publish(MULTI, "lobby", HELLO, ("ann",), people[1][0])
    assert texts(*clients) == [[], [], ["hello"]]
    channels.publishing.publish(
        MULTI, "lobby", HELLO, except_connection=harness.connections.id_of(people[2][0])
    )
    assert texts(*clients) == [["hello"], ["hello"], []]
    channels.publishing.publish(MULTI, "lobby", HELLO, except_connection="no such id")
    assert texts(*clients) == [["hello"]] * 3


def test_a_channel_with_too_many_members_receives_nothing(harness: Harness, channels: Channels) -> None:
    people = [harness.login(MULTI, user) for user in ("ann", "bob")]
    for connection, _ in people:
        channels.subscriptions.join(MULTI, "lobby", connection)
    client = people[0][1]
    texts(client)
    received = {
        most: channels.publishing.publish(MULTI, "lobby", HELLO, at_most=most) for most in (0, 1, 2, None)
    }
    assert received == {0: Outcome.NOT_SENT, 1: Outcome.NOT_SENT, 2: Outcome.SENT, None: Outcome.SENT}
    assert texts(client) == [["hello"] * 2]


# --- being asked --------------------------------------------------------------------------------------------


def test_members_are_paged_in_the_order_of_joining(harness: Harness, channels: Channels) -> None:
    people = [harness.login(MULTI, f"u{n:02}", device="phone")[0] for n in range(25)]
    for connection in reversed(people):
        channels.subscriptions.join(MULTI, "lobby", connection)
    seen, after, pages = [], "", 0
    while pages == 0 or after:
        page = channels.members.page(MULTI, "lobby", after, 10)
        assert page.total == 25
        seen += page.members
        after, pages = page.next, pages + 1
    assert pages == 3
    assert [member.user for member in seen] == [f"u{n:02}" for n in reversed(range(25))]
    assert [member.connection for member in seen] == [harness.connections.id_of(c) for c in reversed(people)]
    assert {(member.device, member.dialect) for member in seen} == {("phone", "cmd")}
    assert [member.joined for member in seen] == sorted(member.joined for member in seen)


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


def test_channels_are_paged_by_name(harness: Harness, channels: Channels) -> None:
    ann, bob = (harness.login(MULTI, user)[0] for user in ("ann", "bob"))
    for name in ("b", "马", "a", "c"):
        channels.subscriptions.join(MULTI, name, ann)
    channels.subscriptions.join(MULTI, "c", bob)
    first = channels.members.channels(MULTI, limit=2)
    assert ([(each.channel, each.members) for each in first.channels], first.total) == (
        [("a", 1), ("b", 1)],
        4,
    )
    assert first.more
    rest = channels.members.channels(MULTI, "b", 2)
    assert [(each.channel, each.members) for each in rest.channels] == [("c", 2), ("马", 1)]
    assert not rest.more


# --- leaving ------------------------------------------------------------------------------------------------


def test_an_ended_connection_leaves_all_channels_and_listeners_get_their_names(
    harness: Harness, channels: Channels
) -> None:
    heard: list[tuple[str, tuple[str, ...]]] = []
    channels.members.report_to(left=lambda connection, names: heard.append((connection.user or "", names)))
    (ann, a), (bob, _) = (harness.login(MULTI, user) for user in ("ann", "bob"))
    channels.subscriptions.join(MULTI, "garden", ann)
    channels.subscriptions.join(MULTI, "lobby", ann)
    channels.subscriptions.join(MULTI, "lobby", bob)
    a.hang_up()
    until(lambda: heard == [("ann", ("garden", "lobby"))])
    assert [member.user for member in channels.members.page(MULTI, "lobby").members] == ["bob"]
    assert channels.members.count(MULTI, "garden") == 0
    bob.close(1000)
    bob.lost()
    until(lambda: heard[1:] == [("bob", ("lobby",))])


def test_listeners_are_not_called_for_a_connection_without_channels(
    harness: Harness, channels: Channels
) -> None:
    heard: list[Connection] = []
    channels.members.report_to(left=lambda connection, _: heard.append(connection))
    (_, a), (bob, b) = (harness.login(MULTI, user) for user in ("ann", "bob"))
    channels.subscriptions.join(MULTI, "lobby", bob)
    a.hang_up()
    b.hang_up()
    until(lambda: heard == [bob])


def test_leaving_everything_is_silent(harness: Harness, channels: Channels) -> None:
    heard: list[Connection] = []
    channels.members.report_to(left=lambda connection, _: heard.append(connection))
    ann, a = harness.login(MULTI, "ann")
    channels.subscriptions.join(MULTI, "lobby", ann)
    channels.subscriptions.join(MULTI, "garden", ann)
    assert channels.members.leave_all(ann) == ("lobby", "garden")
    assert channels.members.channels_of(ann) == ()
    a.hang_up()
    until(lambda: not harness.hub.is_online(MULTI, "ann"))
    turn()
    assert heard == []


def test_a_listener_of_ended_connections_may_block_and_may_fail(
    harness: Harness, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(_connection: Connection, _names: tuple[str, ...]) -> None:
        raise RuntimeError("on purpose")

    def send_event(connection: Connection, _names: tuple[str, ...]) -> None:
        gevent.sleep(0.01)
        heard.append(connection.user or "")

    channels.members.report_to(left=fail)
    channels.members.report_to(left=send_event)
    people = [harness.login(MULTI, f"u{n:02}") for n in range(40)]
    for connection, _ in people:
        channels.subscriptions.join(MULTI, "lobby", connection)
    for connection, _ in people:
        connection.lost()
    until(lambda: sorted(heard) == [f"u{n:02}" for n in range(40)])
    assert [record.getMessage() for record in caplog.records] == [
        "a listener of ended channel members failed"
    ] * 40


# --- connections --------------------------------------------------------------------------------------------


def test_a_connection_is_found_by_its_id_in_its_app_while_it_lives(harness: Harness) -> None:
    ann, a = harness.login(MULTI, "ann")
    connection_id = harness.connections.id_of(ann)
    assert harness.connections.id_of(ann) == connection_id
    assert harness.connections.find(MULTI, connection_id) is ann
    for app in ("101", "nowhere"):
        assert harness.connections.find(app, connection_id) is None
    a.hang_up()
    until(lambda: harness.connections.find(MULTI, connection_id) is None)
    assert harness.connections.id_of(ann) == connection_id


def test_a_connection_without_a_session_is_nowhere(harness: Harness) -> None:
    nobody, _ = harness.connect()
    assert harness.connections.find(MULTI, harness.connections.id_of(nobody)) is None


def test_ids_that_were_never_asked_for_cost_nothing(harness: Harness) -> None:
    for number in range(5):
        harness.login(MULTI, f"u{number}")
    assert not harness.table._by_number
    ann, a = harness.login(MULTI, "ann")
    harness.connections.id_of(ann)
    assert list(harness.table._by_number) == [ann.number]
    a.hang_up()
    until(lambda: not harness.table._by_number)


def test_connections_are_pushed_to_one_by_one(harness: Harness) -> None:
    (ann, a), (_, b) = (harness.login(MULTI, "ann") for _ in range(2))
    connection_id = harness.connections.id_of(ann)
    texts(a, b)
    assert harness.connections.push(MULTI, connection_id, HELLO) == Outcome.SENT
    assert texts(a, b) == [["hello"], []]
    pushes = {name: harness.connections.push(MULTI, name, event("again")) for name in ("", connection_id)}
    assert pushes == {"": Outcome.NOT_SENT, connection_id: Outcome.SENT}
    assert harness.connections.push("101", connection_id, HELLO) == Outcome.NOT_SENT
    assert texts(a, b) == [["again"], []]


def test_a_connection_is_closed_after_earlier_pushes(harness: Harness) -> None:
    ann, a = harness.login(MULTI, "ann")
    connection_id = harness.connections.id_of(ann)
    texts(a)
    harness.connections.push(MULTI, connection_id, HELLO)
    assert harness.connections.close("101", connection_id, errors.CloseCode.KICKED) == Outcome.NOT_SENT
    assert harness.connections.close(MULTI, connection_id, errors.CloseCode.KICKED) == Outcome.SENT
    assert a.close_code() == errors.CloseCode.KICKED
    assert [frame.payload for frame in a.frames if b"hello" in frame.payload]
    assert harness.connections.close(MULTI, connection_id, errors.CloseCode.KICKED) == Outcome.NOT_SENT


def test_connections_join_and_leave_by_their_ids(harness: Harness) -> None:
    ann, a = harness.login(MULTI, "ann")
    connection_id = harness.connections.id_of(ann)
    heard: list[tuple[Connection, str, bytes, bool, object]] = []
    harness.connections.report_to(lambda *what: heard.append(what))
    texts(a)
    assert harness.connections.join(MULTI, connection_id, "lobby", b"first") == Joined.JOINED
    assert harness.connections.join(MULTI, connection_id, "lobby", b"again") == Joined.MEMBER
    assert heard == [(ann, "lobby", b"first", True, None), (ann, "lobby", b"again", False, None)]
    assert harness.channels.members.channels_of(ann) == ("lobby",)
    harness.channels.publishing.publish(MULTI, "lobby", HELLO)
    assert texts(a) == [["hello"]]
    assert harness.connections.leave(MULTI, connection_id, "lobby") == Left.LEFT
    assert harness.connections.leave(MULTI, connection_id, "lobby") == Left.ABSENT
    assert harness.channels.members.channels_of(ann) == ()
    for app, unknown in (("101", connection_id), (MULTI, "no id"), ("nowhere", connection_id)):
        assert harness.connections.join(app, unknown, "lobby") == Joined.UNKNOWN
        assert harness.connections.leave(app, unknown, "lobby") == Left.UNKNOWN
        assert harness.connections.about(app, [unknown]) == [None]
    assert len(heard) == 2
    with pytest.raises(ChannelRefused):
        harness.connections.join(MULTI, connection_id, "")


def test_the_data_of_a_connection_is_returned(harness: Harness) -> None:
    ann, _ = harness.login(MULTI, "ann", device="phone")
    connection_id = harness.connections.id_of(ann)
    harness.channels.subscriptions.join(MULTI, "lobby", ann)
    info, nothing = harness.connections.about(MULTI, [connection_id, "no id"])
    assert nothing is None
    assert info is not None
    assert (info.connection, info.user, info.device, info.dialect) == (connection_id, "ann", "phone", "cmd")
    assert (info.node, info.channels, info.peer) == ("node", ("lobby",), ann.peer)
    assert info.since == ann.since


def test_a_question_about_a_connection_is_put_to_its_node(harness: Harness) -> None:
    ann, _ = harness.login(MULTI, "ann")
    connection_id = harness.connections.id_of(ann)
    harness.connections.queries.add("alive", AliveQuery, lambda query: query.session_id + 1)
    assert harness.connections.query(connection_id, "alive", AliveQuery(MULTI, "ann", 41), int) == 42
    assert harness.connections.query("no id", "alive", AliveQuery(MULTI, "ann", 41), int) is None
