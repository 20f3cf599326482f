"""ChannelMembers and connections of several nodes: who is reached from where, and in which order."""

from time import monotonic
from typing import Any

import gevent
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.channels.connections import IDS_PER_QUERY, Joined, Left
from imserver.gateway.channels.members import ChannelRefused, Publication
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import FENCE_SECONDS, Fence, FencedQuery, ToChannel, ToConnection
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.model import Event, Outcome
from imserver.gateway.sessions.cluster_sessions import AliveQuery
from imserver.gateway.sessions.connection_ids import NAMED_BY_ID
from tests.gateway.core.cluster_harness import MULTI, NEWEST, ClusterHarness, Several
from tests.gateway.hub.test_channels import texts
from tests.gateway.protocol.line import PingedDialect
from tests.gateway.transport.harness import Client, turn, until

HELLO = Event("msg", "eve", "hello", "7")
LOBBY = "lobby"


@pytest.fixture(autouse=True)
def reports_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node reports its channels by itself."""
    monkeypatch.setattr("imserver.gateway.channels.registrar.REPORT_SECONDS", 3600)


def event(text: str) -> Event:
    return Event("msg", "eve", text, "7")


def publish(node: ClusterHarness, channel: str = LOBBY, what: Event = HELLO, **options: Any) -> Outcome:
    return node.channels.publishing.publish(options.pop("app", MULTI), channel, what, **options)


def joined(node: ClusterHarness, user: str, *channels: str, app: str = MULTI) -> Client:
    """A session in these channels."""
    connection, client = node.login(app, user)
    for channel in channels:
        assert node.channels.subscriptions.join(app, channel, connection)
    return client


def known(nodes: Several, channel: str = LOBBY, app: str = MULTI) -> dict[int, int]:
    """What the registry says of a channel."""
    return nodes.book.where(app, channel)


def until_known(nodes: Several, members: dict[int, int], app: str = MULTI) -> None:
    """Let the nodes report until the registry says this of the lobby."""

    def reported() -> bool:
        for node in nodes.nodes.values():
            node.registrar.wake()
        return known(nodes, app=app) == members

    until(reported)


# --- publishing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("publisher", [1, 2, 3])
def test_members_are_reached_from_any_node_and_no_other_node_is_sent_anything(
    nodes: Several, publisher: int
) -> None:
    a, b = joined(nodes[1], "ann", LOBBY), joined(nodes[2], "bob", LOBBY)
    other = joined(nodes[2], "cid", "garden")
    node = nodes[publisher]
    texts(a, b, other)
    node.rpc.sent.clear()
    node.registry.calls.clear()
    assert publish(node) == Outcome.SENT
    assert node.registry.calls == ["find_channels"]
    assert {epoch for epoch, _ in node.rpc.sent} == {1, 2} - {publisher}
    assert texts(a, b, other) == [["hello"], ["hello"], []]
    node.rpc.sent.clear()
    assert [publish(node, "attic"), publish(node, app="nowhere")] == [Outcome.NOT_SENT] * 2
    assert node.rpc.sent == []
    node.registry.calls.clear()
    each = [Publication((LOBBY, "garden", "attic")[n % 3], HELLO) for n in range(90)]
    outcomes = node.channels.publishing.publish_each(MULTI, each)
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 30
    assert node.registry.calls == ["find_channels"], "many publications are one question"


def test_a_lone_node_makes_no_queries() -> None:
    with Several(1) as nodes:
        a = joined(nodes[1], "ann", LOBBY)
        texts(a)
        nodes[1].registry.calls.clear()
        assert publish(nodes[1]) == Outcome.SENT
        assert nodes[1].registry.calls == []
        assert texts(a) == [["hello"]]


def test_users_and_a_connection_are_left_out_wherever_they_are(nodes: Several) -> None:
    connections, clients = [], []
    for epoch, user in ((1, "ann"), (2, "bob"), (2, "cid"), (3, "ann")):
        connection, client = nodes[epoch].login(MULTI, user)
        nodes[epoch].channels.subscriptions.join(MULTI, LOBBY, connection)
        connections.append(connection)
        clients.append(client)
    bob = nodes[2].connections.id_of(connections[1])
    texts(*clients)
    for epoch, options, received in (
        (3, {"except_users": ("ann", "cid")}, [0, 1, 0, 0]),
        (3, {"except_connection": bob}, [1, 0, 1, 1]),
        (2, {"except_connection": bob}, [1, 0, 1, 1]),
        (2, {"except_connection": "no such id"}, [1, 1, 1, 1]),
        (1, {"except_users": ("cid",), "except_connection": connections[0]}, [0, 1, 0, 1]),
    ):
        publish(nodes[epoch], **options)
        assert texts(*clients) == [["hello"] * each for each in received]


def test_members_of_other_nodes_count_when_there_may_be_so_many_only(nodes: Several) -> None:
    clients = [joined(nodes[epoch], f"u{epoch}", LOBBY) for epoch in (1, 2, 3)]
    texts(*clients)
    for node in nodes.nodes.values():
        node.registry.calls.clear()
        found = [publish(node, at_most=most) for most in (0, 2, 3)]
        assert found == [Outcome.NOT_SENT, Outcome.NOT_SENT, Outcome.SENT]
        assert node.registry.calls == ["find_channels"] * 3
    assert texts(*clients) == [["hello"] * 3] * 3


def test_a_node_that_does_not_get_it_is_reported_of(nodes: Several) -> None:
    a = joined(nodes[1], "ann", LOBBY)
    joined(nodes[2], "bob", LOBBY)
    joined(nodes[3], "cid", "garden")
    texts(a)
    nodes[1].rpc.cut = {2, 3}
    assert publish(nodes[1]) == Outcome.PARTLY
    assert nodes[1].channels.publishing.publish(MULTI, "garden", HELLO) == Outcome.FAILED
    with pytest.raises(ChannelRefused, match="do not answer") as refused:
        nodes[1].channels.publishing.publish_event(MULTI, "garden", HELLO)
    assert refused.value.reason == "unavailable"
    assert texts(a) == [["hello"]]
    nodes[1].channel_settings = {"*": ChannelSettings(history_size=2, history_seconds=60)}
    for channel in (LOBBY, "garden"):
        found = nodes[1].channels.publishing.publish_event(MULTI, channel, HELLO)
        assert (found.outcome, found.position is None) == (Outcome.PARTLY, False), "it is in the history"


# --- order --------------------------------------------------------------------------------------------------


def test_publications_of_one_node_arrive_in_the_order_of_the_calls(nodes: Several) -> None:
    """Even where the registry answers some of them at once and others late, or not at all."""
    here, there = joined(nodes[1], "ann", LOBBY), joined(nodes[2], "bob", LOBBY)
    texts(here, there)
    registry = nodes[1].registry
    registry.hold()
    under_way = []
    for number in range(30):
        under_way.append(gevent.spawn(nodes[1].channels.publishing.publish, MULTI, LOBBY, event(str(number))))
        turn()
        if number == 10:
            registry.away = True
        elif number == 20:
            registry.away = False
    registry.release()
    gevent.joinall(under_way, timeout=60)
    expected = [str(number) for number in range(30)]
    assert texts(here, there) == [expected, expected]


def test_a_cancelled_call_does_not_delay_others(nodes: Several) -> None:
    there = joined(nodes[2], "bob", LOBBY)
    texts(there)
    nodes[1].registry.hold()
    first = gevent.spawn(nodes[1].channels.publishing.publish, MULTI, LOBBY, event("first"))
    second = gevent.spawn(nodes[1].channels.publishing.publish, MULTI, LOBBY, event("second"))
    turn()
    first.kill()
    nodes[1].registry.release()
    second.join(60)
    assert texts(there) == [["second"]]
    assert nodes[1].channel_nodes._turns == {}


# --- joining ------------------------------------------------------------------------------------------------


def test_a_join_is_not_answered_before_the_registry_knows(nodes: Several) -> None:
    """Nor are later ones; those after it ask nothing."""
    (connection, client), *others = (nodes[2].login(MULTI, f"u{number}") for number in range(5))
    texts(client)
    registry, join = nodes[2].registry, nodes[2].channels.subscriptions.join
    registry.calls.clear()
    registry.hold()
    joining = [gevent.spawn(join, MULTI, LOBBY, each) for each in (connection, others[0][0])]
    turn()
    turn()
    assert not any(each.ready() for each in joining)
    registry.release()
    assert [each.get(timeout=60) for each in joining] == [True, True]
    assert all(join(MULTI, LOBBY, each) for each, _ in others[1:])
    assert registry.calls == ["report_channels"]
    assert publish(nodes[1]) == Outcome.SENT
    assert texts(client) == [["hello"]]
    until_known(nodes, {2: 5})
    assert nodes[1].channels.members.count(MULTI, LOBBY) == 5


def test_a_channel_that_is_left_is_forgotten_soon(nodes: Several) -> None:
    for user in ("ann", "bob"):
        joined(nodes[2], user, LOBBY).hang_up()
    until_known(nodes, {})
    assert publish(nodes[1]) == Outcome.NOT_SENT


def test_a_join_during_the_removal_of_the_channel_is_reached(nodes: Several) -> None:
    """The last member leaves, the registry is told, and somebody joins before it has answered."""
    connection, client = nodes[2].login(MULTI, "bob")
    node = nodes[2]
    node.channels.subscriptions.join(MULTI, LOBBY, connection)
    node.channels.members.leave(MULTI, LOBBY, connection)
    texts(client)
    node.registry.hold()
    node.registry.calls.clear()
    node.registrar.wake()
    until(lambda: node.registry.calls == ["report_channels"])
    joining = gevent.spawn(node.channels.subscriptions.join, MULTI, LOBBY, connection)
    turn()
    node.registry.release()
    joining.join(60)
    for _ in range(2):
        assert known(nodes) == {2: 1}
        assert publish(nodes[1]) == Outcome.SENT
        assert texts(client) == [["hello"]]
        node.registrar.wake()
        turn()


def test_leaving_during_the_report_of_the_join_does_not_affect_the_next_join(nodes: Several) -> None:
    connection, client = nodes[2].login(MULTI, "bob")
    node = nodes[2]
    texts(client)
    node.registry.hold()
    joining = gevent.spawn(node.channels.subscriptions.join, MULTI, LOBBY, connection)
    turn()
    node.channels.members.leave(MULTI, LOBBY, connection)
    node.registrar.wake()
    turn()
    node.registry.release()
    joining.join(60)
    assert node.channels.subscriptions.join(MULTI, LOBBY, connection)
    assert publish(nodes[1]) == Outcome.SENT
    assert texts(client) == [["hello"]]


def test_a_replaced_session_is_in_no_channel_on_its_old_node(nodes: Several) -> None:
    old = joined(nodes[1], "ann", LOBBY, app=NEWEST)
    new = joined(nodes[2], "ann", LOBBY, app=NEWEST)
    texts(old, new)
    nodes[3].channels.publishing.publish(NEWEST, LOBBY, HELLO)
    assert texts(old, new) == [[], ["hello"]]
    until_known(nodes, {2: 1}, NEWEST)


MOVES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["join", "leave", "publish", "tell"])), max_size=25
)


@pytest.mark.full
@settings(max_examples=40, deadline=None)
@given(moves=MOVES)
def test_each_member_is_reported_exactly_once_in_a_random_history(moves: list[tuple[int, str]]) -> None:
    with Several(3) as nodes:
        people = [nodes[1 + n % 3].login(MULTI, f"u{n}") for n in range(6)]
        clients = [client for _, client in people]
        inside: set[int] = set()
        texts(*clients)
        for who, move in moves:
            node, (connection, _) = nodes[1 + who % 3], people[who]
            if move == "join":
                assert node.channels.subscriptions.join(MULTI, LOBBY, connection) is (who not in inside)
                inside.add(who)
            elif move == "leave":
                assert node.channels.members.leave(MULTI, LOBBY, connection) is (who in inside)
                inside.discard(who)
            elif move == "tell":
                node.registrar.wake()
            else:
                outcome = publish(node)
                assert outcome == Outcome.SENT or not inside
                assert texts(*clients) == [["hello"] if n in inside else [] for n in range(6)]


# --- without the registry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["away", "one away", "deaf", "flush", "cleared", "epoch"])
def test_members_are_reached_whatever_the_registry_has_missed_and_are_reported_later(
    nodes: Several, fault: str
) -> None:
    early = joined(nodes[1], "ann", LOBBY)
    away = {"away": (1, 2, 3), "one away": (2,)}.get(fault, ())
    for epoch in away:
        nodes[epoch].registry.away = True
    nodes[2].registry.deaf = fault == "deaf"
    late, expected = joined(nodes[2], "bob", LOBBY), {1: 1, 2: 1}
    nodes[2].registry.deaf = False
    if fault == "flush":
        nodes.book.flush()
        assert all(node.registrar.unsettled() for node in nodes.nodes.values())
        until_known(nodes, expected)
    elif fault == "cleared":  # no node has noticed it
        nodes.book.channels.clear()
    elif fault == "epoch":
        node = nodes.nodes[12] = nodes.nodes.pop(2)
        node.take_new_epoch(12)
        expected = {1: 1, 12: 1}
        until_known(nodes, expected)
    texts(early, late)
    publishers = [nodes[1]] if fault == "cleared" else [*nodes.nodes.values()]
    assert {publish(node) for node in publishers} == {Outcome.SENT}
    assert texts(early, late) == [["hello"] * len(publishers)] * 2
    for epoch in away:
        nodes[epoch].registry.away = False
    if fault == "cleared":
        return
    until_known(nodes, expected)
    until(lambda: not any(node.registrar.unsettled() for node in nodes.nodes.values()))
    late.hang_up()
    until_known(nodes, {1: 1})


def test_a_channel_left_before_a_flush_is_reported_when_it_is_joined_after(nodes: Several) -> None:
    connection, client = nodes[2].login(MULTI, "bob")
    nodes[2].channels.subscriptions.join(MULTI, LOBBY, connection)
    nodes[2].channels.members.leave(MULTI, LOBBY, connection)
    nodes.book.flush()
    nodes[2].registrar.wake()
    until(lambda: not nodes[2].registrar.unsettled())
    texts(client)
    assert nodes[2].channels.subscriptions.join(MULTI, LOBBY, connection)
    assert known(nodes) == {2: 1}
    assert publish(nodes[1]) == Outcome.SENT
    assert texts(client) == [["hello"]]


def test_members_of_a_killed_node_are_removed_without_a_report(nodes: Several) -> None:
    a, b = joined(nodes[1], "ann", LOBBY), joined(nodes[2], "bob", LOBBY)
    heard: list[str] = []
    for node in nodes.nodes.values():
        node.channels.members.report_to(left=lambda connection, _: heard.append(connection.user or ""))
    texts(a, b)
    del nodes.book.leases[2]
    assert publish(nodes[1]) == Outcome.SENT
    assert [member.user for member in nodes[1].channels.members.page(MULTI, LOBBY).members] == ["ann"]
    assert nodes[1].channels.members.count(MULTI, LOBBY) == 1
    assert texts(a) == [["hello"]]
    assert heard == []


# --- being asked --------------------------------------------------------------------------------------------


def test_members_of_all_nodes_are_in_the_order_of_joining(nodes: Several) -> None:
    order = []
    for number in range(20):
        epoch = 1 + number * 7 % 3
        joined(nodes[epoch], f"u{number:02}", LOBBY)
        order.append(f"u{number:02}")
    for node in nodes.nodes.values():
        seen, after, pages = [], "", 0
        while pages == 0 or after:
            page = node.channels.members.page(MULTI, LOBBY, after, 6)
            assert (page.total, page.missing) == (20, ())
            seen += [member.user for member in page.members]
            after, pages = page.next, pages + 1
        assert (seen, pages) == (order, 4)


def test_users_on_several_nodes_count_once(nodes: Several) -> None:
    for node, users in zip(nodes.nodes.values(), (["ann", "bob"], ["ann"], []), strict=True):
        for user in users:
            joined(node, user, LOBBY)
    until_known(nodes, {1: 2, 2: 1})
    for node in nodes.nodes.values():
        assert node.channels.members.count_users(MULTI, LOBBY, 10) == (3, 2)
        assert node.channels.members.count_users(MULTI, LOBBY, 2) == (3, 3)
        assert node.channels.members.count_users(MULTI, "nobody's", 2) == (0, 0)


def test_channels_of_all_nodes_are_listed_with_all_their_members(nodes: Several) -> None:
    joined(nodes[1], "ann", LOBBY, "attic")
    joined(nodes[2], "bob", LOBBY)
    joined(nodes[3], "cid", "garden")
    page = nodes[2].channels.members.channels(MULTI)
    assert [(each.channel, each.members) for each in page.channels] == [
        ("attic", 1),
        ("garden", 1),
        (LOBBY, 2),
    ]
    assert (page.total, page.more, page.missing) == (3, False, ())
    first = nodes[2].channels.members.channels(MULTI, limit=2)
    assert ([each.channel for each in first.channels], first.more) == (["attic", "garden"], True)
    rest = nodes[2].channels.members.channels(MULTI, "garden", 2)
    assert [(each.channel, each.members) for each in rest.channels] == [(LOBBY, 2)]


def test_a_node_that_is_silent_is_named(nodes: Several) -> None:
    joined(nodes[1], "ann", LOBBY)
    joined(nodes[2], "bob", LOBBY)
    nodes[1].rpc.cut = {2}
    members = nodes[1].channels.members.page(MULTI, LOBBY)
    assert ([member.user for member in members.members], members.missing) == (["ann"], ("127.0.0.1:9002",))
    assert nodes[1].channels.members.channels(MULTI).missing == ("127.0.0.1:9002",)


def test_where_users_are_is_reported_by_every_node(nodes: Several) -> None:
    connection, _ = nodes[1].login(MULTI, "ann", "phone")
    nodes[2].login(MULTI, "ann", "desk")
    nodes[3].login(MULTI, "bob")
    for node in nodes.nodes.values():
        found = node.presence.sessions(MULTI, ["ann", "nobody", "bob", ""])
        assert found.missing == ()
        ann, nobody, bob, empty = found.sessions
        assert (nobody, empty) == ([], [])
        assert sorted((each.device, each.node) for each in ann) == [
            ("desk", "127.0.0.1:9002"),
            ("phone", "127.0.0.1:9001"),
        ]
        assert [(each.device, each.dialect, each.node) for each in bob] == [("", "cmd", "127.0.0.1:9003")]
        [phone] = [each for each in ann if each.device == "phone"]
        assert (phone.connection, phone.since) == (nodes[1].connections.id_of(connection), connection.since)


def test_counts_add_up_and_a_channel_on_two_nodes_is_one(nodes: Several) -> None:
    joined(nodes[1], "ann", LOBBY, "attic")
    joined(nodes[2], "bob", LOBBY)
    nodes[2].login(MULTI, "bob")
    counted = nodes[3].presence.counts([MULTI, NEWEST, "nowhere"])
    assert counted.missing == ()
    found = counted.apps[MULTI]
    assert (found.users, found.sessions, found.channels) == (2, 3, 2)
    assert [counted.apps[app].users for app in (NEWEST, "nowhere")] == [0, 0]
    nodes[3].rpc.cut = {2}
    assert nodes[3].presence.counts([MULTI]).missing == ("127.0.0.1:9002",)


# --- connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_connection_is_pushed_to_and_closed_after_it_from_any_node(nodes: Several, epoch: int) -> None:
    (ann, a), (_, b) = (nodes[2].login(MULTI, "ann") for _ in range(2))
    connections, connection_id = nodes[epoch].connections, nodes[2].connections.id_of(ann)
    texts(a, b)
    assert connections.push(MULTI, connection_id, HELLO) == Outcome.SENT
    assert texts(a, b) == [["hello"], []]
    assert connections.push(MULTI, "no id", HELLO) == Outcome.NOT_SENT
    nodes[epoch].rpc.holding = True
    connections.push(MULTI, connection_id, event("last"))
    assert connections.close(MULTI, connection_id, errors.CloseCode.KICKED, "sold out") == Outcome.SENT
    nodes[epoch].rpc.release()
    assert a.close_code() == errors.CloseCode.KICKED
    assert a.frames[-1].payload[2:] == b"sold out"
    assert any(b"last" in frame.payload for frame in a.frames)


def test_a_connection_of_another_app_is_not_reached(nodes: Several) -> None:
    ann, a = nodes[2].login(MULTI, "ann")
    connection_id = nodes[2].connections.id_of(ann)
    texts(a)
    for epoch in (1, 2):
        nodes[epoch].connections.push(NEWEST, connection_id, HELLO)
        nodes[epoch].connections.close(NEWEST, connection_id, errors.CloseCode.KICKED)
        assert nodes[epoch].connections.join(NEWEST, connection_id, LOBBY) == Joined.UNKNOWN
        assert nodes[epoch].connections.about(NEWEST, [connection_id]) == [None]
    assert texts(a) == [[]]
    assert nodes[2].connections.unreached == 1


def test_a_dead_or_unreachable_node_gets_no_pushes(nodes: Several) -> None:
    ann, _ = nodes[2].login(MULTI, "ann")
    connection_id = nodes[2].connections.id_of(ann)
    nodes[1].rpc.cut = {2}
    assert nodes[1].connections.push(MULTI, connection_id, HELLO) == Outcome.FAILED
    assert nodes[1].connections.close(MULTI, connection_id, errors.CloseCode.KICKED) == Outcome.FAILED
    assert nodes[1].connections.join(MULTI, connection_id, LOBBY) == Joined.FAILED
    assert nodes[1].connections.leave(MULTI, connection_id, LOBBY) == Left.FAILED
    assert nodes[1].connections.about(MULTI, [connection_id]) == [None]
    nodes.book.leases = {epoch: lease for epoch, lease in nodes.book.leases.items() if epoch != 2}
    assert nodes[1].connections.push(MULTI, connection_id, HELLO) == Outcome.NOT_SENT
    assert nodes[1].connections.join(MULTI, connection_id, LOBBY) == Joined.UNKNOWN


@pytest.mark.parametrize("epoch", [1, 2])
def test_connections_join_channels_from_any_node_and_are_reached_at_once(nodes: Several, epoch: int) -> None:
    ann, a = nodes[2].login(MULTI, "ann")
    connections, connection_id = nodes[epoch].connections, nodes[2].connections.id_of(ann)
    heard: list[tuple[str, bytes, bool, Position | None]] = []
    nodes[2].connections.report_to(lambda _, *what: heard.append(what))
    texts(a)
    assert connections.join(MULTI, connection_id, LOBBY, b"first") == Joined.JOINED
    assert publish(nodes[3]) == Outcome.SENT
    assert texts(a) == [["hello"]]
    nodes[2].max_channels = 1
    assert connections.join(MULTI, connection_id, "garden") == Joined.FULL
    assert nodes[3].connections.join(MULTI, connection_id, LOBBY, b"again") == Joined.MEMBER
    assert heard == [(LOBBY, b"first", True, None), (LOBBY, b"again", False, None)]
    assert [each and each.channels for each in connections.about(MULTI, [connection_id])] == [(LOBBY,)]
    found = [connections.leave(MULTI, name, LOBBY) for name in (connection_id, connection_id, "no id")]
    assert found == [Left.LEFT, Left.ABSENT, Left.UNKNOWN]
    with pytest.raises(ChannelRefused):
        connections.join(MULTI, connection_id, "")


def test_many_connections_join_and_leave_with_one_question_to_each_node(nodes: Several) -> None:
    connection_ids, clients = [], []
    for number in range(12):
        node = nodes[1 + number % 3]
        connection, client = node.login(MULTI, f"u{number}")
        connection_ids.append(node.connections.id_of(connection))
        clients.append(client)
    queries: list[str] = []
    ask = nodes[1].rpc.query

    def listening(lease: Lease, kind: str, body: bytes, timeout: float = 1.0) -> bytes:
        assert kind == "behind"
        queries.append(f"{msgspec.msgpack.decode(body, type=FencedQuery).kind} {lease.epoch}")
        return ask(lease, kind, body, timeout)

    nodes[1].rpc.query = listening  # type: ignore[method-assign, assignment]
    texts(*clients)
    ids = [connection_ids[0], "no id", *connection_ids]
    expected = [Joined.JOINED, Joined.UNKNOWN, *[Joined.JOINED] * 12]
    assert nodes[1].connections.join_each(MULTI, ids, LOBBY) == expected
    assert sorted(queries) == ["join 2", "join 3"]
    publish(nodes[1])
    assert texts(*clients) == [["hello"]] * 12
    assert nodes[1].connections.join_each(MULTI, connection_ids, LOBBY) == [Joined.MEMBER] * 12
    nodes[1].rpc.cut = {3}
    left = nodes[1].connections.leave_each(MULTI, connection_ids, LOBBY)
    assert left == [Left.LEFT, Left.LEFT, Left.FAILED] * 4
    assert nodes[1].connections.join_each(MULTI, [], LOBBY) == []


def test_more_connections_than_fit_into_a_question_are_asked_about_in_turns(nodes: Several) -> None:
    connection_ids = []
    for number in range(2 * IDS_PER_QUERY + 5):
        connection, _ = nodes[2].login(MULTI, f"u{number}")
        connection_ids.append(nodes[2].connections.id_of(connection))
    assert nodes[1].connections.join_each(MULTI, connection_ids, LOBBY) == [Joined.JOINED] * len(
        connection_ids
    )
    users = [info.user for info in nodes[1].connections.about(MULTI, connection_ids) if info is not None]
    assert users == [f"u{number}" for number in range(len(connection_ids))]


def test_the_data_of_connections_has_the_order_of_the_query(nodes: Several) -> None:
    connection_ids = []
    for epoch, user in ((1, "ann"), (2, "bob"), (3, "cid"), (2, "dan")):
        connection, _ = nodes[epoch].login(MULTI, user)
        connection_ids.append(nodes[epoch].connections.id_of(connection))
    found = nodes[1].connections.about(MULTI, [connection_ids[3], "no id", *connection_ids])
    assert [each and (each.user, each.node) for each in found] == [
        ("dan", "127.0.0.1:9002"),
        None,
        ("ann", "127.0.0.1:9001"),
        ("bob", "127.0.0.1:9002"),
        ("cid", "127.0.0.1:9003"),
        ("dan", "127.0.0.1:9002"),
    ]


def test_a_question_goes_to_the_node_of_its_connection(nodes: Several) -> None:
    connection, _ = nodes[2].login(MULTI, "ann")
    connection_id = nodes[2].connections.id_of(connection)
    for epoch, node in nodes.nodes.items():
        node.queries.add("echo", AliveQuery, lambda query, epoch=epoch: epoch * 100 + query.session_id)
    for node in nodes.nodes.values():
        assert node.connections.query(connection_id, "echo", AliveQuery(MULTI, "ann", 7), int) == 207
    assert nodes[1].connections.query(connection_id, "echo", AliveQuery(MULTI, "ann", 7), str) is None
    assert nodes[1].connections.query("no id", "echo", AliveQuery(MULTI, "ann", 7), int) is None


# --- on the wire --------------------------------------------------------------------------------------------


def test_items_for_channels_and_connections_that_are_not_here_cost_nothing(nodes: Several) -> None:
    node_messages, peer = nodes[1].node_messages, nodes[2]
    client = joined(peer, "bob", LOBBY)
    texts(client)
    for app in (MULTI, NEWEST, "nowhere"):
        node_messages.send(2, ToChannel(app, "no such channel", HELLO))
        node_messages.send(2, ToConnection(app, "no such id", HELLO))
        node_messages.send(2, ToConnection(app, "no such id", None, 4502))
    assert texts(client) == [[]]
    assert peer.connections.unreached == 3
    assert peer.node_messages.unreadable == 0


# --- users that are connections -----------------------------------------------------------------------------


def browser(node: ClusterHarness, app: str = "system:shop") -> tuple[str, Client]:
    """A connection whose user is its own id."""
    dialect = PingedDialect()
    dialect.name = NAMED_BY_ID
    connection, client = node.connect(dialect=dialect)
    connection_id = node.connections.ids.id_of(node.connections.ids.next_number())
    node.hub.join(node.hub.open(app, "multi"), connection, connection_id, "")
    return connection_id, client


def test_users_that_are_connections_are_found_by_their_ids(nodes: Several) -> None:
    ann, _ = browser(nodes[1])
    bob, _ = browser(nodes[2])
    for node in nodes.nodes.values():
        node.registry.calls.clear()
        found = node.presence.sessions("system:shop", [bob, "nobody", ann])
        assert [[(each.connection, each.node) for each in sessions] for sessions in found.sessions] == [
            [(bob, "127.0.0.1:9002")],
            [],
            [(ann, "127.0.0.1:9001")],
        ]
        assert node.presence.are_online("system:shop", [ann, bob, "nobody", ""]) == [True, True, False, False]
        assert node.presence.are_online("system:other", [ann, bob]) == [False, False]
        assert node.registry.calls == []


def test_a_leaving_member_gets_earlier_publications_and_waits_a_limited_time_for_them(nodes: Several) -> None:
    connection, client = nodes[2].login(MULTI, "ann")
    name = nodes[2].connections.id_of(connection)
    assert nodes[1].connections.join(MULTI, name, LOBBY) is Joined.JOINED
    texts(client)
    nodes[1].rpc.holding = True
    assert publish(nodes[1]) is Outcome.SENT
    leaving = gevent.spawn(nodes[1].connections.leave, MULTI, name, LOBBY)
    gevent.sleep(0.02)
    assert not leaving.ready(), "the question waits for what was sent before it"
    nodes[1].rpc.release()
    assert leaving.get() is Left.LEFT
    assert texts(client) == [["hello"]]
    nodes[1].rpc.holding = True
    began = monotonic()
    assert nodes[1].connections.join(MULTI, name, LOBBY) is Joined.JOINED
    assert monotonic() - began >= FENCE_SECONDS


def test_fences_of_lives_that_are_over_are_forgotten(nodes: Several) -> None:
    fence = msgspec.msgpack.encode(Fence(7))
    for epoch in (1, *range(101, 357)):
        nodes[2].node_messages.received(epoch, [fence])
    assert set(nodes[2].node_messages._passed) == {1, 356}
