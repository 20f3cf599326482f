"""ChannelMembers and connections of several nodes: who is reached from where,
and in which order."""

from functools import partial
from time import monotonic
from typing import Any
from unittest.mock import Mock

import gevent
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.channels.connections import (
    IDS_PER_QUERY,
    Connections,
    Joined,
    Left,
)
from imserver.gateway.channels.members import ChannelRefused, Publication
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import FENCE_SECONDS, FencedQuery
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.model import Event, Outcome
from imserver.gateway.sessions.cluster_sessions import AliveQuery
from tests.gateway.core.cluster_harness import (
    MULTI,
    NEWEST,
    ClusterHarness,
    Several,
    Topology,
)
from tests.gateway.hub.harness import texts
from tests.gateway.transport.harness import Client, turn, until

HELLO = Event("msg", "eve", "hello", "7")
LOBBY = "lobby"


@pytest.fixture(autouse=True)
def reports_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node reports its channels by itself."""
    monkeypatch.setattr("imserver.gateway.channels.registrar.REPORT_SECONDS", 3600)


def event(text: str) -> Event:
    return Event("msg", "eve", text, "7")


def publish(
    node: ClusterHarness, channel: str = LOBBY, what: Event = HELLO, **options: Any
) -> Outcome:
    return node.channels.publishing.publish(
        options.pop("app", MULTI), channel, what, **options
    )


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


# --- publishing ---------------------------------------------------------------


@pytest.mark.parametrize("publisher", [1, 2, 3])
def test_members_are_reached_from_any_node_and_no_other_node_gets_it(
    nodes: Several, publisher: int
) -> None:
    a = joined(nodes[1], "ann", LOBBY)
    b = joined(nodes[2], "bob", LOBBY)
    other = joined(nodes[2], "cid", "garden")
    node = nodes[publisher]
    for calls in (node.registry.calls, node.rpc.sent):
        calls.clear()
    assert [publish(node, "attic"), publish(node, app="nowhere")] == [
        Outcome.NOT_SENT
    ] * 2
    assert publish(node) == Outcome.SENT
    assert sorted(epoch for epoch, _ in node.rpc.sent) == sorted({1, 2} - {publisher})
    each = [
        Publication((LOBBY, "garden", "attic")[n % 3], event(str(n))) for n in range(90)
    ]
    outcomes = node.channels.publishing.publish_each(MULTI, each)
    assert outcomes == [Outcome.SENT, Outcome.SENT, Outcome.NOT_SENT] * 30
    assert node.registry.calls == ["find_channels"] * 4, (
        "many publications are one question"
    )
    lobby, garden = ([str(n) for n in range(first, 90, 3)] for first in (0, 1))
    assert texts(a, b, other) == [["hello", *lobby], ["hello", *lobby], garden]


def test_users_and_a_connection_are_left_out_wherever_they_are(nodes: Several) -> None:
    pairs = []
    for epoch, user in ((1, "ann"), (2, "bob"), (2, "cid"), (3, "ann")):
        pairs.append(nodes[epoch].login(MULTI, user))
        nodes[epoch].channels.subscriptions.join(MULTI, LOBBY, pairs[-1][0])
    bob = nodes[2].connections.id_of(pairs[1][0])
    for epoch, options, received in (
        (3, {"except_users": ("ann", "cid")}, [0, 1, 0, 0]),
        (3, {"except_connection": bob}, [1, 0, 1, 1]),
        (2, {"except_connection": bob}, [1, 0, 1, 1]),
        (2, {"except_connection": "no such id"}, [1, 1, 1, 1]),
        (1, {"except_users": ("cid",), "except_connection": pairs[0][0]}, [0, 1, 0, 1]),
    ):
        publish(nodes[epoch], **options)
        assert texts(*(client for _, client in pairs)) == [
            ["hello"] * each for each in received
        ]


def test_members_of_other_nodes_count_when_there_may_be_so_many_only(
    nodes: Several,
) -> None:
    clients = [joined(nodes[epoch], f"u{epoch}", LOBBY) for epoch in (1, 2, 3)]
    for node in nodes.nodes.values():
        found = [publish(node, at_most=most) for most in (0, 2, 3)]
        assert found == [Outcome.NOT_SENT, Outcome.NOT_SENT, Outcome.SENT]
    assert texts(*clients) == [["hello"] * 3] * 3


def test_a_node_that_does_not_get_it_is_reported_of(nodes: Several) -> None:
    publishing = nodes[1].channels.publishing
    a = joined(nodes[1], "ann", LOBBY)
    joined(nodes[2], "bob", LOBBY)
    joined(nodes[3], "cid", "garden")
    nodes[1].rpc.cut = {2, 3}
    assert [publish(nodes[1]), publish(nodes[1], "garden")] == [
        Outcome.PARTLY,
        Outcome.FAILED,
    ]
    with pytest.raises(ChannelRefused, match="do not answer") as refused:
        publishing.publish_event(MULTI, "garden", HELLO)
    assert refused.value.reason == "unavailable"
    assert texts(a) == [["hello"]]
    nodes[1].channel_settings = {
        "*": ChannelSettings(history_size=2, history_seconds=60)
    }
    for channel in (LOBBY, "garden"):
        found = publishing.publish_event(MULTI, channel, HELLO)
        assert (found.outcome, found.position is None) == (Outcome.PARTLY, False), (
            "it is in the history"
        )


# --- order --------------------------------------------------------------------


def test_publications_of_one_node_arrive_in_the_order_of_the_calls_but_for_cancelled(
    nodes: Several,
) -> None:
    """Even where the registry answers some of them at once and others late, or
    not at all."""
    here = joined(nodes[1], "ann", LOBBY)
    there = joined(nodes[2], "bob", LOBBY)
    registry = nodes[1].registry
    under_way = []
    registry.hold()
    for number in range(30):
        registry.away = 10 < number <= 20
        under_way.append(gevent.spawn(publish, nodes[1], what=event(str(number))))
        turn()
    under_way[0].kill()
    registry.release()
    gevent.joinall(under_way, timeout=60)
    assert texts(here, there) == [[str(number) for number in range(1, 30)]] * 2
    assert nodes[1].channel_nodes._turns == {}


# --- joining ------------------------------------------------------------------


def test_a_join_is_not_answered_before_the_registry_knows(nodes: Several) -> None:
    """Nor are later ones; those after it ask nothing."""
    (connection, client), *others = (
        nodes[2].login(MULTI, f"u{number}") for number in range(5)
    )
    registry = nodes[2].registry
    join = nodes[2].channels.subscriptions.join
    registry.calls.clear()
    registry.hold()
    joining = [
        gevent.spawn(join, MULTI, LOBBY, each) for each in (connection, others[0][0])
    ]
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
    for each, _ in ((connection, client), *others):
        each.lost()
    until_known(nodes, {})
    assert publish(nodes[1]) == Outcome.NOT_SENT


@pytest.mark.parametrize("during", ["removal", "report", "flush"])
def test_who_leaves_and_joins_again_is_reached_while_the_registry_learns(
    nodes: Several, during: str
) -> None:
    (connection, client), node = nodes[2].login(MULTI, "bob"), nodes[2]
    join = partial(node.channels.subscriptions.join, MULTI, LOBBY, connection)
    if during == "report":  # of the join: the member leaves before it is answered
        node.registry.hold()
    joining = gevent.spawn(join)
    (turn if during == "report" else joining.get)()
    node.channels.members.leave(MULTI, LOBBY, connection)
    # the registry is told that the last member has left, and has not answered
    if during == "removal":
        node.registry.hold()
        node.registry.calls.clear()
        node.registrar.wake()
        until(lambda: node.registry.calls == ["report_channels"])
        joining = gevent.spawn(join)
    elif during == "flush":
        nodes.book.flush()
    node.registrar.wake()
    turn()
    node.registry.release()
    joining.join(60)
    until(lambda: during != "flush" or not node.registrar.unsettled())
    assert during == "removal" or join()
    for _ in range(2):
        assert known(nodes) == {2: 1}
        assert publish(nodes[1]) == Outcome.SENT
        assert texts(client) == [["hello"]]
        node.registrar.wake()
        turn()


@pytest.mark.full("load")
@settings(max_examples=40, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("jlpw")), max_size=25)
)
def test_members_are_reached_once_whatever_happened_before(
    moves: list[tuple[int, str]],
) -> None:
    """Moves of a user: join, leave, publish, and wake what reports to the
    registry."""
    with Several(3) as nodes:
        people = [nodes[1 + n % 3].login(MULTI, f"u{n}") for n in range(6)]
        inside = set[int]()
        for who, move in moves:
            node, (connection, _) = nodes[1 + who % 3], people[who]
            if move == "j":
                assert node.channels.subscriptions.join(MULTI, LOBBY, connection) is (
                    who not in inside
                )
                inside.add(who)
            elif move == "l":
                assert node.channels.members.leave(MULTI, LOBBY, connection) is (
                    who in inside
                )
                inside.discard(who)
            elif move == "w":
                node.registrar.wake()
            else:
                assert publish(node) == Outcome.SENT or not inside
                received = texts(*(client for _, client in people))
                assert received == [["hello"] if n in inside else [] for n in range(6)]


# --- without the registry -----------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["away", "one away", "deaf", "flush", "cleared", "epoch"]
)
def test_members_are_reached_and_reported_whatever_the_registry_missed(
    nodes: Several, fault: str
) -> None:
    early = joined(nodes[1], "ann", LOBBY)
    away = {"away": (1, 2, 3), "one away": (2,)}.get(fault, ())
    for epoch in away:
        nodes[epoch].registry.away = True
    nodes[2].registry.deaf = fault == "deaf"
    late = joined(nodes[2], "bob", LOBBY)
    expected = {1: 1, 2: 1}
    nodes[2].registry.deaf = False
    if fault == "flush":
        nodes.book.flush()
        assert all(node.registrar.unsettled() for node in nodes.nodes.values())
    elif fault == "cleared":  # no node has noticed it
        nodes.book.channels.clear()
    elif fault == "epoch":
        node = nodes.nodes.pop(2)
        nodes.nodes[12] = node
        node.take_new_epoch(12)
        expected = {1: 1, 12: 1}
    if fault in ("flush", "epoch"):
        until_known(nodes, expected)
    publishers = [nodes[1]] if fault == "cleared" else [*nodes.nodes.values()]
    assert {publish(node) for node in publishers} == {Outcome.SENT}
    assert texts(early, late) == [["hello"] * len(publishers)] * 2
    for epoch in away:
        nodes[epoch].registry.away = False
    if fault != "cleared":
        until_known(nodes, expected)
        until(
            lambda: not any(node.registrar.unsettled() for node in nodes.nodes.values())
        )
        late.hang_up()
        until_known(nodes, {1: 1})


# --- being asked --------------------------------------------------------------


def test_members_of_all_nodes_are_in_the_order_of_joining_and_users_count_once(
    nodes: Several,
) -> None:
    order = [f"u{number % 19:02}" for number in range(20)]
    for number, user in enumerate(order):
        joined(nodes[1 + number * 7 % 3], user, LOBBY)
    until_known(nodes, {1: 7, 2: 7, 3: 6})
    for node in nodes.nodes.values():
        members = node.channels.members
        seen = []
        after = ""
        for _ in range(4):
            page = members.page(MULTI, LOBBY, after, 6)
            assert (page.total, page.missing) == (20, ())
            seen += [member.user for member in page.members]
            after = page.next
        assert (seen, after) == (order, "")
        counts = [
            members.count_users(MULTI, *most)
            for most in ((LOBBY, 30), (LOBBY, 19), ("nobody's", 2))
        ]
        assert counts == [(20, 19), (20, 20), (0, 0)]


def test_channels_of_all_nodes_are_listed_with_all_their_members(
    nodes: Several,
) -> None:
    for epoch, channels in ((1, (LOBBY, "attic")), (2, (LOBBY,)), (3, ("garden",))):
        joined(nodes[epoch], f"u{epoch}", *channels)
    list_channels = nodes[2].channels.members.channels
    every = [("attic", 1), ("garden", 1), (LOBBY, 2)]
    whole = list_channels(MULTI)
    first = list_channels(MULTI, limit=2)
    rest = list_channels(MULTI, "garden", 2)
    for page, expected in ((whole, every), (first, every[:2]), (rest, every[2:])):
        assert [(each.channel, each.members) for each in page.channels] == expected
    assert (whole.total, whole.more, whole.missing, first.more) == (3, False, (), True)


def test_a_silent_node_is_named_and_members_of_a_killed_one_leave_without_a_report(
    nodes: Several,
) -> None:
    a = joined(nodes[1], "ann", LOBBY)
    one = nodes[1].channels.members
    joined(nodes[2], "bob", LOBBY)
    heard: list[str] = []
    for node in nodes.nodes.values():
        node.channels.members.report_to(
            left=lambda connection, _: heard.append(connection.user or "")
        )
    nodes[1].rpc.cut = {2}
    for missing in (("127.0.0.1:9002",), ()):
        page = one.page(MULTI, LOBBY)
        assert ([member.user for member in page.members], page.missing) == (
            ["ann"],
            missing,
        )
        assert one.channels(MULTI).missing == missing
        nodes.book.leases.pop(2, None)
    assert publish(nodes[1]) == Outcome.SENT
    assert one.count(MULTI, LOBBY) == 1
    assert (texts(a), heard) == ([["hello"]], [])


# --- connections --------------------------------------------------------------


def test_a_connection_joins_channels_is_pushed_to_and_closed_from_any_node(
    topology: Topology,
) -> None:
    here = topology.here
    there = topology.there
    (ann, a), (_, b) = (there.login(MULTI, "ann") for _ in range(2))
    connections = here.connections
    connection_id = there.connections.id_of(ann)
    heard: list[tuple[str, bytes, bool, Position | None]] = []
    there.connections.report_to(lambda _, *what: heard.append(what))
    assert connections.push(MULTI, connection_id, HELLO) == Outcome.SENT
    assert connections.push(MULTI, "no id", HELLO) == Outcome.NOT_SENT
    assert connections.join(MULTI, connection_id, LOBBY, b"first") == Joined.JOINED
    assert (
        here.channels.publishing.publish(MULTI, LOBBY, event("to all")) == Outcome.SENT
    )
    assert texts(a, b) == [["hello", "to all"], []]
    there.max_channels = 1
    assert connections.join(MULTI, connection_id, "garden") == Joined.FULL
    assert (
        there.connections.join(MULTI, connection_id, LOBBY, b"again") == Joined.MEMBER
    )
    assert heard == [(LOBBY, b"first", True, None), (LOBBY, b"again", False, None)]
    assert [
        each and each.channels for each in connections.about(MULTI, [connection_id])
    ] == [(LOBBY,)]
    found = [
        connections.leave(MULTI, name, LOBBY)
        for name in (connection_id, connection_id, "no id")
    ]
    assert found == [Left.LEFT, Left.ABSENT, Left.UNKNOWN]
    with pytest.raises(ChannelRefused):
        connections.join(MULTI, connection_id, "")
    rpc = here.rpc if isinstance(here, ClusterHarness) else Mock()
    rpc.holding = True
    connections.push(MULTI, connection_id, event("last"))
    assert (
        connections.close(MULTI, connection_id, errors.CloseCode.KICKED, "sold out")
        == Outcome.SENT
    )
    rpc.release()
    assert a.close_code() == errors.CloseCode.KICKED
    assert a.frames[-1].payload[2:] == b"sold out"
    assert any(b"last" in frame.payload for frame in a.frames)


def test_a_connection_of_another_app_or_of_a_dead_or_unreachable_node_is_not_reached(
    nodes: Several,
) -> None:
    ann, a = nodes[2].login(MULTI, "ann")
    connection_id = nodes[2].connections.id_of(ann)

    def tried(connections: Connections, app: str) -> list[Any]:
        one = (app, connection_id)
        found = [
            connections.push(*one, HELLO),
            connections.close(*one, errors.CloseCode.KICKED),
        ]
        return [*found, connections.join(*one, LOBBY), connections.leave(*one, LOBBY)]

    for epoch in (1, 2):
        assert tried(nodes[epoch].connections, NEWEST)[2:] == [
            Joined.UNKNOWN,
            Left.UNKNOWN,
        ]
        assert nodes[epoch].connections.about(NEWEST, [connection_id]) == [None]
    assert texts(a) == [[]]
    assert nodes[2].connections.unreached == 1
    connections = nodes[1].connections
    nodes[1].rpc.cut = {2}
    assert tried(connections, MULTI) == [
        Outcome.FAILED,
        Outcome.FAILED,
        Joined.FAILED,
        Left.FAILED,
    ]
    assert connections.about(MULTI, [connection_id]) == [None]
    nodes.book.leases = {epoch: nodes.book.leases[epoch] for epoch in (1, 3)}
    assert tried(connections, MULTI)[::2] == [Outcome.NOT_SENT, Joined.UNKNOWN]


def test_many_connections_join_and_leave_with_one_question_to_each_node_if_they_fit(
    nodes: Several,
) -> None:
    """What they are has the order of the question."""
    names = [f"u{number}" for number in range(2 * IDS_PER_QUERY + 5)]
    clients = []
    ids = []
    for number, user in enumerate(names):
        connection, client = nodes[1 + number % 3].login(MULTI, user)
        clients.append(client)
        ids.append(nodes[1 + number % 3].connections.id_of(connection))
    queries: list[tuple[str, str, int]] = []
    connections = nodes[1].connections
    rpc = nodes[1].rpc
    some = ids[:12]
    ask = nodes[1].rpc.query

    def listening(lease: Lease, kind: str, body: bytes, timeout: float = 1.0) -> bytes:
        queries.append(
            (kind, msgspec.msgpack.decode(body, type=FencedQuery).kind, lease.epoch)
        )
        return ask(lease, kind, body, timeout)

    rpc.query = listening  # type: ignore[method-assign, assignment]
    expected = [Joined.JOINED, Joined.UNKNOWN, *[Joined.JOINED] * 12]
    assert connections.join_each(MULTI, [some[0], "no id", *some], LOBBY) == expected
    assert sorted(queries) == [("behind", "join", 2), ("behind", "join", 3)]
    publish(nodes[1])
    assert texts(*clients[:12]) == [["hello"]] * 12
    rest = len(ids) - 12
    assert (
        connections.join_each(MULTI, ids, LOBBY)
        == [Joined.MEMBER] * 12 + [Joined.JOINED] * rest
    )
    assert connections.join_each(MULTI, [], LOBBY) == []
    rpc.query = ask  # type: ignore[method-assign, assignment]
    abouts = connections.about(MULTI, [ids[3], "no id", *ids])
    found = [each and (each.user, each.node[-1]) for each in abouts]
    assert found == [
        ("u3", "1"),
        None,
        *((user, str(1 + n % 3)) for n, user in enumerate(names)),
    ]
    rpc.cut = {3}
    assert (
        connections.leave_each(MULTI, some, LOBBY)
        == [Left.LEFT, Left.LEFT, Left.FAILED] * 4
    )


def test_a_question_goes_to_the_node_of_its_connection(nodes: Several) -> None:
    connection, _ = nodes[2].login(MULTI, "ann")
    connection_id = nodes[2].connections.id_of(connection)
    for epoch, node in nodes.nodes.items():
        node.queries.add(
            "echo",
            AliveQuery,
            lambda query, epoch=epoch: epoch * 100 + query.session_id,
        )
    for node in nodes.nodes.values():
        assert (
            node.connections.query(
                connection_id, "echo", AliveQuery(MULTI, "ann", 7), int
            )
            == 207
        )
    assert (
        nodes[1].connections.query(
            connection_id, "echo", AliveQuery(MULTI, "ann", 7), str
        )
        is None
    )
    assert (
        nodes[1].connections.query("no id", "echo", AliveQuery(MULTI, "ann", 7), int)
        is None
    )


# --- users that are connections -----------------------------------------------


def test_a_leaving_member_gets_earlier_publications_and_waits_a_limited_time_for_them(
    nodes: Several,
) -> None:
    (connection, client), one = nodes[2].login(MULTI, "ann"), nodes[1]
    where = MULTI, nodes[2].connections.id_of(connection), LOBBY
    assert one.connections.join(*where) is Joined.JOINED
    one.rpc.holding = True
    assert publish(one) is Outcome.SENT
    leaving = gevent.spawn(one.connections.leave, *where)
    gevent.sleep(0.02)
    assert not leaving.ready(), "the question waits for what was sent before it"
    one.rpc.release()
    assert leaving.get() is Left.LEFT
    assert texts(client) == [["hello"]]
    one.rpc.holding = True
    began = monotonic()
    assert one.connections.join(*where) is Joined.JOINED
    assert monotonic() - began >= FENCE_SECONDS
