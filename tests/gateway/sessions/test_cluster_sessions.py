"""Sessions of several nodes: what the registry decides, and what nodes do when
it does not answer."""

import time

import gevent
import pytest

from imserver.gateway.cluster.nodes import Replaced
from imserver.gateway.model import Login
from imserver.gateway.sessions import cluster_sessions as departures
from imserver.gateway.sessions.sessions import ENTER_TEXT, EXIT_TEXT
from imserver.gateway.storage.contract import BanRow, Changes
from tests.gateway.core.cluster_harness import (
    LEASE_LAG,
    MULTI,
    NEWEST,
    REFUSE,
    SINGLE,
    ClusterHarness,
    Several,
    received_since,
)
from tests.gateway.transport.harness import Client, look, turn, until

ENTER_ANN = ("enter", "ann", ENTER_TEXT)
EXIT_ANN = ("exit", "ann", EXIT_TEXT)


def begin_login(node: ClusterHarness, app: str, user: str, device: str = "") -> tuple:  # type: ignore[type-arg]
    """A login under way: its greenlet, connection and client."""
    connection, client = node.connect()
    greenlet = gevent.spawn(
        node.sessions.login, connection, Login(app, user, device=device)
    )
    via = len(node.registry.calls)
    until(lambda: len(node.registry.calls) > via or node.hub.is_online(app, user))
    return greenlet, connection, client


def news_of(nodes: Several, *clients: Client) -> list[list[tuple[str, str, str]]]:
    """What each client was told unasked since it was last asked, when all has
    been told."""
    nodes.settle(*clients)
    return [received_since(client) for client in clients]


# --- logging in ---------------------------------------------------------------


@pytest.mark.parametrize("end", ["leave", "lost"])
def test_a_login_is_registered_first_and_a_logout_says_the_last_heartbeat(
    nodes: Several, end: str
) -> None:
    connection, _ = nodes[1].login(NEWEST, "ann", "phone")
    (ref,), session = nodes.book.live(NEWEST, "ann"), nodes[1].session_of(connection)
    assert (ref.epoch, ref.id, ref.number, ref.device) == (
        1,
        session.id,
        session.number,
        "phone",
    )
    assert nodes[1].registry.calls == ["register"], "one question a login"
    assert session.heartbeat_time == 0
    connection.last_seen = time.monotonic() - 100
    nodes[1].sessions.leave(connection) if end == "leave" else connection.lost()
    assert 99 <= time.time() - session.heartbeat_time <= 160


@pytest.mark.parametrize("app", [NEWEST, MULTI])
def test_enter_and_exit_notices_reach_the_other_users_on_all_nodes_once(
    nodes: Several, app: str
) -> None:
    clients = [nodes[epoch].login(app, f"b{epoch}")[1] for epoch in (1, 2)]
    _, elsewhere = nodes[2].login("104", "bob")
    news_of(nodes, *clients)
    first, ann = nodes[1].login(app, "ann")
    assert news_of(nodes, *clients, elsewhere) == [[ENTER_ANN], [ENTER_ANN], []]
    second, _ = nodes[2].login(app, "ann")
    assert news_of(nodes, *clients, ann) == [[ENTER_ANN], [ENTER_ANN], []], (
        "not the sessions of the same user"
    )
    for connection, expected in ((first, []), (second, [EXIT_ANN])):
        connection.lost()
        assert news_of(nodes, *clients) == [expected, expected]


def test_users_of_notices_count_until_the_leases_have_them_and_in_a_large_app_no_notice_travels() -> (
    None
):
    with Several(2, notice_members=3) as nodes:
        _, bob = nodes[1].login(NEWEST, "bob")
        for name in ("ann", "zoe"):
            nodes[2].login(NEWEST, name)
        nodes.settle(bob)
        app = nodes[1].hub.apps[NEWEST]
        sent = len(nodes[1].rpc.sent)
        for _ in range(LEASE_LAG):
            nodes[1].elsewhere.count()
            assert app.elsewhere == 2, "the lease of the other node says 0"
        received_since(bob)
        cat, _ = nodes[1].login(NEWEST, "cat")
        nodes.settle(bob)
        nodes[1].elsewhere.count()
        assert app.elsewhere == 0, "what the leases do not confirm is dropped"
        nodes.book.leases[2].counts[NEWEST] = 4
        nodes[1].elsewhere.count()
        cat.lost()
        assert news_of(nodes, bob) == [[]]
        assert len(nodes[1].rpc.sent) == sent


def test_while_the_registry_is_away_a_login_and_the_last_end_count_on_their_node(
    nodes: Several,
) -> None:
    nodes[1].registry.away = True
    _, bob = nodes[2].login(MULTI, "bob")
    first, _ = nodes[1].login(MULTI, "ann")
    assert news_of(nodes, bob) == [[ENTER_ANN]], (
        "nodes reach each other without a registry"
    )
    assert nodes[1].hub.is_online(MULTI, "ann")
    assert nodes[1].session_of(first).number == 0
    second, _ = nodes[1].login(MULTI, "ann")
    news_of(nodes, bob)
    for connection, expected in ((first, []), (second, [EXIT_ANN])):
        connection.lost()
        assert news_of(nodes, bob) == [expected]


@pytest.mark.parametrize("fault", ["away", "deaf"])
def test_where_the_registry_is_required_a_login_without_it_is_1004_and_may_be_repeated(
    fault: str,
) -> None:
    """It leaves nothing behind, though it was registered and only the answer
    was lost."""
    with Several(1, require_registry=True) as nodes:
        node = nodes[1]
        node.registry.away = fault == "away"
        node.registry.deaf = fault == "deaf"
        connection, _ = node.connect()
        assert node.sessions.login(connection, Login(NEWEST, "ann")) == 1004
        assert (connection.is_open, connection.user) == (True, None)
        assert not node.hub.is_online(NEWEST, "ann")
        until(lambda: nodes.addressed(NEWEST, "ann") == [])
        node.registry.away = node.registry.deaf = False
        assert node.sessions.login(connection, Login(NEWEST, "ann")) == 200


def test_a_node_learns_the_bans_that_it_has_not_heard_of(nodes: Several) -> None:
    node = nodes[1]
    learn = nodes[1].sessions.learn
    (_, ann), (bob, _) = node.login(NEWEST, "ann"), node.login(MULTI, "bob")
    bans = {(NEWEST, "ann"): 60, (MULTI, "bob"): -1, ("later", "ann"): 60}
    learn(
        Changes(1, bans=tuple(BanRow(*who, seconds) for who, seconds in bans.items()))
    )
    assert ann.close_code() == 4503
    assert bob.is_open, "this ban has ended"
    banned = [node.sessions.is_banned(*who) for who in bans]
    assert banned == [True, False, True], (
        "also in an app that this node does not know yet"
    )
    node.sessions.close_here = None  # type: ignore[method-assign, assignment]  # it would walk over all again
    for version, seconds in ((2, 90), (3, -1)):
        learn(Changes(version, bans=(BanRow(NEWEST, "ann", seconds),)))
    assert not node.sessions.is_banned(NEWEST, "ann"), "it was lifted"


# --- races --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "code"), [("ends", 1009), ("deaf", 1009), ("kick", 1003)]
)
@pytest.mark.parametrize("policy", [NEWEST, MULTI, SINGLE, REFUSE])
def test_an_end_during_registration_leaves_no_state(
    nodes: Several, policy: str, how: str, code: int
) -> None:
    nodes[1].registry.hold()
    login, connection, client = begin_login(nodes[1], policy, "ann")
    assert nodes.addressed(policy, "ann") == [1], (
        "registered, and the answer is on its way"
    )
    nodes[1].registry.deaf = how == "deaf"
    if how == "kick":
        nodes[2].sessions.close(policy, ["ann"])
    else:
        client.hang_up()
        until(lambda: not connection.is_open)
    nodes[1].registry.release()
    assert login.get() == code
    assert how != "kick" or client.close_code() == 4502
    until(lambda: nodes.addressed(policy, "ann") == [])
    assert not nodes[1].hub.is_online(policy, "ann")


@pytest.mark.parametrize("forgets", [False, True])
def test_a_login_overtaken_on_its_node_is_answered_but_not_addressed(
    nodes: Several, forgets: bool
) -> None:
    """Also if the registry ``forgets`` it before the later one comes, and so
    replaces nothing."""
    nodes[1].registry.hold()
    slow, older, _ = begin_login(nodes[1], NEWEST, "ann")
    if forgets:
        nodes.book.refs.clear()
    delayed = nodes[1].registry.pass_later()
    newer, _ = nodes[1].login(NEWEST, "ann")
    delayed.set()
    assert slow.get() == 200
    assert (older.is_open, older.user) == (True, "ann")
    assert nodes[1].hub.apps[NEWEST].sessions_of("ann") == (newer,)
    older.lost()
    nodes.settle()
    assert nodes[1].hub.is_online(NEWEST, "ann")
    assert nodes.addressed(NEWEST, "ann") == [1]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("policy", [NEWEST, SINGLE])
def test_a_login_replaced_before_its_answer_is_not_stale(
    nodes: Several, policy: str, is_late: bool
) -> None:
    """Before node 1 knows of it, a login on node 2 has replaced it and said so,
    or was carried out first."""
    if is_late:
        nodes[2].login(policy, "ann")
    nodes.book.is_late = is_late
    nodes[1].registry.hold()
    slow, older, client = begin_login(nodes[1], policy, "ann")
    if not is_late:
        nodes[2].login(policy, "ann")
    assert nodes.addressed(policy, "ann") == [2]
    nodes[1].registry.release()
    slow.get()
    nodes.settle()
    assert nodes.listed(policy) == ["ann"], "addressed on node 2 alone"
    assert client.close_code() == 4500 if policy == SINGLE else older.is_open


# --- policies across nodes ----------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_under_refuse_a_login_is_1004_if_nobody_knows_whether_the_older_session_lives(
    nodes: Several,
) -> None:
    """One of a silent node is not."""
    older, _ = nodes[1].login(REFUSE, "ann")
    nodes[2].rpc.busy = True
    newer, _ = nodes[2].connect()
    assert nodes[2].sessions.login(newer, Login(REFUSE, "ann")) == 1004
    assert (older.is_open, newer.is_open, newer.user) == (True, True, None)
    assert nodes.addressed(REFUSE, "ann") == [1]
    nodes[2].rpc.busy = False
    nodes[2].rpc.cut.add(1)
    assert nodes[2].sessions.login(newer, Login(REFUSE, "ann")) == 200
    assert nodes.addressed(REFUSE, "ann") == [2]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("epochs", [(1, 1), (1, 2), (1, 1, 2, 2, 1)])
def test_under_refuse_of_several_at_once_the_first_is_taken(
    nodes: Several, epochs: tuple[int, ...]
) -> None:
    clients = [nodes[epoch].connect() for epoch in epochs]
    logins = [
        gevent.spawn(nodes[epoch].sessions.login, connection, Login(REFUSE, "ann"))
        for epoch, (connection, _) in zip(epochs, clients, strict=True)
    ]
    until(
        lambda: (
            [client.answer_pings() for _, client in clients]
            and all(login.ready() for login in logins)
        )
    )
    assert [login.get() for login in logins] == [200] + [1009] * (len(epochs) - 1)
    assert clients[0][0].is_open
    assert nodes.listed(REFUSE) == ["ann"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("epoch", [1, 2])
def test_under_refuse_a_session_that_waits_for_the_registry_is_alive(
    nodes: Several, epoch: int
) -> None:
    nodes[1].registry.hold()
    older, _, _ = begin_login(nodes[1], REFUSE, "ann")
    delayed = nodes[1].registry.pass_later()
    newer, second = nodes[epoch].connect()
    assert nodes[epoch].sessions.login(newer, Login(REFUSE, "ann")) == 1009
    assert second.close_code() == 4501
    delayed.set()
    assert older.get() == 200
    assert nodes.addressed(REFUSE, "ann") == [1]


@pytest.mark.parametrize("policy", [NEWEST, SINGLE])
def test_a_late_repeated_or_foreign_replacement_changes_nothing_else(
    nodes: Several, policy: str
) -> None:
    """What ``on_replaced`` of the registry does, if the word of the other node
    was lost, or came too."""
    older, client = nodes[1].login(policy, "ann")
    id = nodes[1].session_of(older).id
    replaced = nodes[1].sessions.replaced
    for which in (("999", "ann", id), (policy, "bob", id), (policy, "ann", id + 1)):
        replaced(*which)
    assert nodes[1].hub.is_online(policy, "ann")
    nodes[2].rpc.cut.add(1)
    nodes[2].login(policy, "ann")
    assert nodes.listed(policy) == ["ann", "ann"], "for a moment"
    nodes[2].rpc.cut.clear()
    assert nodes[2].node_messages.send(1, Replaced(policy, "ann", id))
    for _ in range(2):
        replaced(policy, "ann", id)
    assert nodes.listed(policy) == ["ann"]
    assert client.close_code() == 4500 if policy == SINGLE else older.is_open


# --- leaving ------------------------------------------------------------------


def test_a_crowd_of_departures_asks_the_registry_for_a_bounded_number_at_once_and_again_after_faults(
    nodes: Several, caplog: pytest.LogCaptureFixture
) -> None:
    """All workers meet the failure, and go on."""
    registry = nodes[1].registry
    calls = nodes[1].registry.calls
    connections = [nodes[1].login(NEWEST, f"u{number}")[0] for number in range(200)]
    calls.clear()
    registry.hold()
    for connection in connections:
        connection.lost()
    for _ in range(5):
        turn()
    assert calls == ["unregister"] * departures.WORKERS
    registry.release()
    until(lambda: calls == ["unregister"] * 200)
    nodes[1].login(MULTI, "ann")
    nodes[1].sessions.forget_app(MULTI)
    nodes[1].hub.close_unregistered(MULTI)
    nodes.settle()
    assert nodes.addressed(MULTI, "ann") == [], (
        "those of a deleted app are reported, too"
    )
    assert "was not reported" not in caplog.text
    registry.fails = "unregister"
    for connection in [
        nodes[1].login(NEWEST, f"v{number}")[0]
        for number in range(departures.WORKERS + 5)
    ]:
        connection.lost()
    nodes.settle()
    assert "the logout of v0 in 101 was not reported" in caplog.text
    registry.fails = ""
    nodes[1].login(NEWEST, "ann")[0].lost()
    until(lambda: nodes.addressed(NEWEST, "ann") == [])


def test_a_flush_waits_for_departures_that_the_registry_has_not_answered_yet(
    nodes: Several,
) -> None:
    (ann, _), (_, bob) = nodes[1].login(NEWEST, "ann"), nodes[2].login(NEWEST, "bob")
    nodes[1].registry.hold()
    ann.lost()
    look()
    assert not nodes[1].sessions.flush(0.05), "it gives up in time"
    gevent.spawn_later(0.05, nodes[1].registry.release)
    nodes[1].sessions.flush(60)
    nodes[1].sessions.stop()
    assert news_of(nodes, bob) == [[EXIT_ANN]]


# --- registering again --------------------------------------------------------


def restored(node: ClusterHarness, everything: bool) -> None:
    node.sessions.reregister(everything)
    assert gevent.wait([node.sessions._reregistration], 60)


@pytest.mark.parametrize("lost", ["away", "deaf", "flush", "epoch"])
def test_sessions_unknown_to_the_registry_are_registered_later_and_once(
    nodes: Several, lost: str
) -> None:
    node = nodes[1]
    is_all = lost in ("flush", "epoch")
    users = [f"u{number}" for number in range(20)]
    node.login(NEWEST, "bob")
    node.registry.away = lost == "away"
    node.registry.deaf = lost == "deaf"
    connections = [node.login(NEWEST, user)[0] for user in users]
    node.registry.away = node.registry.deaf = False
    if lost == "flush":
        nodes.book.flush()
    elif lost == "epoch":
        nodes.nodes[7] = node
        node.take_new_epoch(7)
        assert nodes.addressed(NEWEST, "u0") == []
    node.registry.calls.clear()
    restored(node, everything=is_all)
    assert len(node.registry.calls) == (21 if is_all else 20), (
        "the others are registered already"
    )
    found = {tuple(nodes.addressed(NEWEST, user)) for user in (*users, "bob")}
    assert found == {(7,) if lost == "epoch" else (1,)}
    assert all(
        node.registry.registered(node.session_of(connection))
        for connection in connections
    )
    nodes.nodes.pop(7, None)


@pytest.mark.parametrize(
    ("policy", "code"), [(NEWEST, None), (SINGLE, 4500), (REFUSE, 4500)]
)
def test_a_session_replaced_meanwhile_is_unregistered_or_closed_and_one_without_the_registry_replaces_later(
    nodes: Several, policy: str, code: int | None
) -> None:
    (_, bob), (connection, client) = (
        nodes[2].login(policy, "bob"),
        nodes[1].login(policy, "ann"),
    )
    nodes.nodes[7] = nodes[1]
    nodes[1].take_new_epoch(7)
    _, older = nodes[2].login(policy, "ann")
    restored(nodes[1], everything=True)
    assert nodes[2].hub.is_online(policy, "ann")
    assert not nodes[1].hub.is_online(policy, "ann")
    assert nodes.addressed(policy, "ann") == [2]
    assert connection.is_open if code is None else client.close_code() == code
    connection.lost()
    assert EXIT_ANN not in news_of(nodes, bob)[0]
    if policy == SINGLE:
        nodes[1].registry.away = True
        nodes[1].login(SINGLE, "ann")
        nodes[1].registry.away = False
        restored(nodes[1], everything=False)
        assert older.close_code() == 4500
        assert nodes.addressed(SINGLE, "ann") == [7]
    del nodes.nodes[7]


@pytest.mark.parametrize("ends", [True, False])
def test_an_end_at_re_registration_leaves_no_state_and_no_wish_is_lost(
    nodes: Several, ends: bool
) -> None:
    """First some are registered, then (after a flush) all: the second has to
    happen too."""
    node = nodes[1]
    node.login(NEWEST, "bob")
    node.registry.away = True
    connection, _ = node.login(NEWEST, "ann")
    node.registry.away = False
    node.registry.hold()
    node.sessions.reregister(False)
    until(lambda: nodes.addressed(NEWEST, "ann") == [1])
    if ends:
        connection.lost()
        look()
    else:
        nodes.book.flush()
        node.sessions.reregister(True)
    node.registry.release()
    for user, epochs in (("ann", [] if ends else [1]), ("bob", [1])):
        until(lambda user=user, epochs=epochs: nodes.addressed(NEWEST, user) == epochs)  # type: ignore[misc]
