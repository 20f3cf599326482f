"""Logins under each policy, kicks and bans: the same on one node, and with the sessions of a user on two."""

import gevent
import pytest

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Event, Login
from imserver.gateway.sessions.sessions import ENTER_TEXT, EXIT_TEXT
from tests.gateway.core.cluster_harness import MULTI, NEWEST, REFUSE, SINGLE, Several, Topology
from tests.gateway.hub.harness import Harness
from tests.gateway.sessions.conftest import answer_pings
from tests.gateway.transport.harness import Client, turn, until

ENTER_ANN = ("enter", "ann", ENTER_TEXT)
EXIT_ANN = ("exit", "ann", EXIT_TEXT)


# --- newest -------------------------------------------------------------------------------------------------


def test_under_newest_the_older_connection_stays_open_and_its_end_is_no_exit(topology: Topology) -> None:
    _, bob = topology.here.login(NEWEST, "bob")
    older, first = topology.here.login(NEWEST, "ann", "phone")
    newer, second = topology.there.login(NEWEST, "ann", "phone")
    topology.there.fanout.to_sessions(NEWEST, "ann", Event("msg", "eve", "hello", "7"))
    assert topology.news_of(second) == [("msg", "eve", "hello")]
    assert topology.news_of(first) == []
    assert (older.is_open, newer.is_open) == (True, True)
    topology.news_of(bob)
    older.lost()
    assert topology.news_of(bob) == []
    assert topology.addressed(NEWEST, "ann") == 1
    newer.lost()
    assert topology.news_of(bob) == [EXIT_ANN]
    assert topology.addressed(NEWEST, "ann") == 0


def test_under_newest_the_end_of_the_newest_is_the_exit_although_an_older_one_lives(
    topology: Topology,
) -> None:
    older, _ = topology.here.login(NEWEST, "ann")
    newer, _ = topology.there.login(NEWEST, "ann")
    _, bob = topology.here.login(NEWEST, "bob")
    newer.lost()
    assert topology.news_of(bob) == [EXIT_ANN]
    topology.here.sessions.heartbeat(older)
    assert older.is_open
    assert topology.addressed(NEWEST, "ann") == 0
    older.lost()
    assert topology.news_of(bob) == []


# --- multi, single ------------------------------------------------------------------------------------------


def test_under_multi_the_end_of_the_last_session_is_the_exit(topology: Topology) -> None:
    nodes = (topology.here, topology.there, topology.here)
    devices = ("phone", "phone", "laptop")
    sessions = [node.login(MULTI, "ann", each)[0] for node, each in zip(nodes, devices, strict=True)]
    _, bob = topology.there.login(MULTI, "bob")
    for number, connection in enumerate(sessions):
        assert topology.news_of(bob) == []
        assert topology.addressed(MULTI, "ann") == 3 - number
        connection.lost()
    assert topology.news_of(bob) == [EXIT_ANN]


def test_under_single_a_login_closes_the_session_of_that_device_with_4500(topology: Topology) -> None:
    older, first = topology.here.login(SINGLE, "ann", "phone")
    laptop, _ = topology.here.login(SINGLE, "ann", "laptop")
    _, bob = topology.here.login(SINGLE, "bob")
    newer, _ = topology.there.login(SINGLE, "ann", "phone")
    assert first.close_code() == 4500
    first.hang_up()
    until(lambda: older in [connection for connection, _ in topology.here.ended])
    assert (laptop.is_open, newer.is_open) == (True, True)
    assert topology.news_of(bob) == [ENTER_ANN], "no exit: the user is still there"
    assert topology.addressed(SINGLE, "ann") == 2
    assert topology.here.metrics.closes == {4500: 1}


class SlowDecisions(set[str]):
    """Tokens about which somebody else is asked."""

    def __contains__(self, token: object) -> bool:
        gevent.sleep(0)
        return True


def test_under_single_logins_that_are_decided_at_once_leave_one_session(topology: Topology) -> None:
    nodes = (topology.here, topology.here, topology.there)
    topology.here.allowed = topology.there.allowed = SlowDecisions()
    connections = [node.connect()[0] for node in nodes]
    logins = [
        gevent.spawn(node.sessions.login, connection, Login(SINGLE, "ann", "token"))
        for node, connection in zip(nodes, connections, strict=True)
    ]
    gevent.joinall(logins)
    until(lambda: sum(connection.is_open for connection in connections) == 1)
    assert topology.addressed(SINGLE, "ann") == 1


# --- refuse -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_under_refuse_the_newer_connection_is_closed_with_4501_while_the_older_answers(
    topology: Topology,
) -> None:
    older, first = topology.here.login(REFUSE, "ann", "phone")
    newer, second = topology.there.connect()
    login = gevent.spawn(topology.there.sessions.login, newer, Login(REFUSE, "ann", device="phone"))
    until(lambda: answer_pings(first))
    assert second.close_code() == 4501
    assert login.get() == 1009
    assert (older.is_open, newer.user) == (True, None)
    assert topology.addressed(REFUSE, "ann") == 1


@pytest.mark.usefixtures("hasty")
def test_under_refuse_an_older_connection_that_shows_no_life_gives_way(topology: Topology) -> None:
    dead, first = topology.here.login(REFUSE, "ann")
    newer, _ = topology.there.connect()
    assert topology.there.sessions.login(newer, Login(REFUSE, "ann")) == 200
    assert first.close_code() == 4500
    assert (dead.is_open, newer.user) == (False, "ann")
    assert topology.addressed(REFUSE, "ann") == 1


def test_under_refuse_another_device_logs_in_at_once(topology: Topology) -> None:
    older, _ = topology.here.login(REFUSE, "ann", "phone")
    newer, _ = topology.there.login(REFUSE, "ann", "laptop")
    assert (older.is_open, newer.is_open) == (True, True)
    assert topology.addressed(REFUSE, "ann") == 2


# --- kicking and banning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("app", "addressed"), [(NEWEST, 1), (MULTI, 2), (SINGLE, 2), (REFUSE, 2)])
def test_a_kick_closes_all_connections_of_a_user_with_4502(
    topology: Topology, app: str, addressed: int
) -> None:
    _, phone = topology.here.login(app, "ann", "phone")
    _, laptop = topology.there.login(app, "ann", "laptop")
    bob, listener = topology.there.login(app, "bob")
    other_app, _ = topology.here.login(MULTI if app == NEWEST else NEWEST, "ann")
    assert topology.there.sessions.close(app, ["ann"]).total == addressed
    assert (phone.close_code(), laptop.close_code()) == (4502, 4502)
    assert (bob.is_open, other_app.is_open) == (True, True)
    until(lambda: topology.addressed(app, "ann") == 0)
    assert topology.news_of(listener) == [EXIT_ANN]
    assert topology.here.login(app, "ann")[0].is_open, "kicked is not banned"


@pytest.mark.parametrize("app", [NEWEST, MULTI])
def test_a_banned_user_is_closed_with_4503_and_stays_out_until_the_ban_is_lifted(
    topology: Topology, app: str
) -> None:
    here, there = topology.here, topology.there
    _, client = here.login(app, "ann")
    assert there.sessions.close(app, ["ann", "zoe"], ban_seconds=600).total == 1
    assert client.close_code() == 4503
    for node in (here, there):
        for user in ("ann", "zoe"):  # zoe was absent
            connection, again = node.connect()
            assert node.sessions.login(connection, Login(app, user)) == 1003
            assert again.close_code() == 4503
    assert topology.addressed(app, "ann") == 0
    assert here.login(SINGLE, "ann")[0].is_open, "a ban is of one app"
    assert here.sessions.unban(app, ["ann", "was never banned"]) == ()
    assert [
        node.is_banned(app, user) for node in (here.sessions, there.sessions) for user in ("ann", "zoe")
    ] == [False, True] * 2
    assert here.sessions.close(NEWEST, ["nobody"]).total == 0
    assert here.sessions.close("no such app", ["ann"], ban_seconds=60).total == 0
    here.sessions.close_app(app)
    assert not here.sessions.is_banned(app, "zoe"), "a deleted app has no bans"


LONG = 3600


def codes(*clients: Client) -> list[int | None]:
    turn()
    return [client.close_code() for client in clients]


def may_login(harness: Harness, app: str, user: str) -> bool:
    connection, _ = harness.connect()
    return harness.sessions.login(connection, Login(app, user)) == 200


def test_the_sessions_of_each_user_are_closed_and_counted_or_those_of_one_device(harness: Harness) -> None:
    gone = [harness.login(MULTI, user)[1] for user in ("ann", "ann", "bob")]
    stays = [harness.login(*who)[0] for who in ((MULTI, "eve"), ("103", "ann"), (MULTI, "zoe", "phone"))]
    nameless, _ = harness.login(MULTI, "zoe")
    _, web = harness.login(MULTI, "zoe", "web")
    removed = harness.sessions.close(MULTI, ["bob", "nobody", "ann"])
    assert (removed.closed, removed.missing, removed.lasting) == ([1, 0, 2], (), True)
    assert codes(*gone) == [4502] * 3
    assert harness.sessions.close(MULTI, ["zoe"], "web").closed == [1]
    assert (codes(web), nameless.is_open) == ([4502], True)
    assert harness.sessions.close(MULTI, ["zoe"], "").closed == [1], "no name is a name, too"
    assert not nameless.is_open
    assert all(connection.is_open for connection in stays)


def test_a_ban_under_newest_closes_older_connections_too(harness: Harness) -> None:
    _, older = harness.login(NEWEST, "ann")
    newest, _ = harness.login(NEWEST, "ann")
    newest.lost()
    assert harness.sessions.close(NEWEST, ["ann"], None, LONG).closed == [0]
    assert codes(older) == [4503]


def test_a_node_that_is_silent_is_named(nodes: Several) -> None:
    sessions = nodes[1].sessions
    nodes[1].login(MULTI, "ann")
    nodes[1].rpc.cut.add(2)
    removed = sessions.close(MULTI, ["ann"])
    assert (removed.closed, removed.missing) == ([1], ("127.0.0.1:9002",))
    assert sessions.unban(MULTI, ["ann"]) == ("127.0.0.1:9002",)


@pytest.mark.parametrize(
    ("fault", "lasting"), [("registry", True), ("database", False), ("no database", False)]
)
def test_a_ban_holds_where_nodes_run_whatever_is_away(nodes: Several, fault: str, lasting: bool) -> None:
    """A node makes no database that nodes elsewhere do not find: nodes with different ones refuse to run."""
    sessions, store = nodes[1].sessions, nodes.book.store
    _, ann = nodes[2].login(MULTI, "ann")
    nodes[1].registry.away = fault == "registry"
    store.away, store.has_database = fault == "database", fault != "no database"
    removed = sessions.close(MULTI, ["ann"], None, LONG)
    assert (removed.closed, removed.lasting) == ([1], lasting)
    assert codes(ann) == [4503]
    assert store.seconds == ({(MULTI, "ann"): LONG} if lasting else {})
    assert not any(may_login(nodes[epoch], MULTI, "ann") for epoch in (1, 2))
    if fault == "database":
        with pytest.raises(StorageUnavailable):
            sessions.unban(MULTI, ["ann"])
        assert not may_login(nodes[2], MULTI, "ann")
    else:
        assert sessions.unban(MULTI, ["ann"]) == ()
        assert may_login(nodes[2], MULTI, "ann")
