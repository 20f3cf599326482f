"""Logins under each policy, kicks and bans: on one node, and the same with the
sessions of a user on two."""

from itertools import product
from time import monotonic

import gevent
import pytest

from imserver.gateway.auth.rules import ALLOWED
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Event, Login
from imserver.gateway.sessions import sessions as module
from imserver.gateway.sessions.sessions import (
    ENTER_TEXT,
    EXIT_TEXT,
    MAX_BANS,
    MAX_KICKS,
    RecentKicks,
)
from tests.gateway.core.cluster_harness import (
    MULTI,
    NEWEST,
    REFUSE,
    SINGLE,
    Several,
    Topology,
)
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import look, until

ENTER_ANN = ("enter", "ann", ENTER_TEXT)
EXIT_ANN = ("exit", "ann", EXIT_TEXT)


# --- who may ------------------------------------------------------------------


def test_a_second_login_of_a_connection_is_1009_and_the_first_stays(
    harness: Harness,
) -> None:
    connection, _ = harness.login(NEWEST, "ann")
    assert harness.sessions.login(connection, Login(NEWEST, "ann")) == 1009
    assert harness.sessions.login(connection, Login(MULTI, "bob")) == 1009
    assert (connection.app, connection.user) == (NEWEST, "ann")
    assert not harness.hub.is_online(MULTI, "bob")
    assert harness.sessions.login(connection, Login("999", "ann")) == 1003, (
        "the app is looked at first"
    )
    assert (harness.metrics.logins.total, harness.metrics.logins_refused.total) == (
        1,
        3,
    )


def test_a_wrong_token_or_app_is_1003_and_tried_again_until_the_connection_closes(
    harness: Harness,
) -> None:
    harness.allowed = {"secret"}
    connection, _ = harness.connect()
    for login in (Login(NEWEST, "ann", "wrong"), Login("999", "ann", "secret")):
        assert harness.sessions.login(connection, login) == 1003
        assert (connection.is_open, connection.user) == (True, None)
    assert harness.sessions.login(connection, Login(NEWEST, "ann", "secret")) == 200
    closing, _ = harness.connect()
    closing.close(1000)
    assert harness.sessions.login(closing, Login(NEWEST, "bob", "secret")) != 200
    assert not harness.hub.is_online(NEWEST, "bob")
    assert harness.metrics.closes == {1000: 1}


# --- refuse -------------------------------------------------------------------


def test_under_refuse_an_older_connection_that_ends_makes_room_at_once(
    harness: Harness,
) -> None:
    (old, _), (new, _) = harness.login(REFUSE, "ann"), harness.connect()
    login = gevent.spawn(harness.sessions.login, new, Login(REFUSE, "ann"))
    look()
    assert not login.ready()
    old.lost()
    assert login.get() == 200


@pytest.mark.usefixtures("hasty")
def test_under_refuse_of_many_that_wait_for_a_slot_one_gets_it_but_none_that_goes(
    harness: Harness,
) -> None:
    harness.login(REFUSE, "ann")
    rivals = [harness.connect() for _ in range(10)]
    logins = [
        gevent.spawn(harness.sessions.login, one, Login(REFUSE, "ann"))
        for one, _ in rivals
    ]
    look()
    rivals[0][1].hang_up()
    codes = [login.get() for login in logins]
    assert (codes[0], sorted(codes)) == (1009, [200] + [1009] * 9)
    assert len(harness.hub.apps[REFUSE].sessions_of("ann")) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("own", "device", "ban_seconds"),
    [
        ("phone", None, 0),
        ("phone", "phone", 0),
        ("phone/1", "phone", 0),
        ("phone", None, 60),
    ],
)
def test_a_kick_or_ban_that_comes_while_a_login_waits_holds_for_it(
    harness: Harness, own: str, device: str | None, ban_seconds: int
) -> None:
    harness.login(REFUSE, "ann", own)
    new, client = harness.connect()
    login = gevent.spawn(harness.sessions.login, new, Login(REFUSE, "ann", device=own))
    look()
    harness.sessions.close(REFUSE, ["ann"], "laptop")
    harness.sessions.close(REFUSE, ["bob"], "phone")
    harness.sessions.close(REFUSE, ["ann"], device, ban_seconds)
    assert login.get() == 1003
    assert client.close_code() == (4503 if ban_seconds else 4502)
    assert not harness.hub.is_online(REFUSE, "ann")
    if ban_seconds:
        assert harness.logins.reasons == ["banned"]
    else:
        assert harness.login(REFUSE, "ann", "phone")[0].is_open, "kicked is not banned"


def test_kicks_of_others_do_not_end_a_login_and_are_forgotten() -> None:
    kicks = RecentKicks()
    for number in range(MAX_KICKS + 5):
        kicks.note(REFUSE, f"u{number}")
    found = [
        kicks.since(0, REFUSE, f"u{number}", "phone")
        for number in (4, 5, MAX_KICKS + 4, MAX_KICKS + 5)
    ]
    assert found == [False, True, True, False], "long ago, or not at all"
    assert not kicks.since(kicks.count, REFUSE, "u9", "phone")
    assert not kicks.since(kicks.count - 1, REFUSE, "u9", "phone")


# --- kicking and banning ------------------------------------------------------


@pytest.mark.parametrize("user", ["ann", ""])
def test_a_decision_about_a_deleted_app_does_not_count_in_a_new_one(
    harness: Harness, user: str
) -> None:
    connection, client = harness.connect()
    kicks = harness.sessions.kicks.count
    harness.sessions.forget_app(MULTI)
    harness.hub.open(MULTI, "multi")

    def begin(kicks: int) -> int:
        if user:
            return harness.sessions.login(
                connection, Login(MULTI, user), decision=ALLOWED, kicks=kicks
            )
        return harness.sessions.begin_without_user(connection, MULTI, ALLOWED, kicks)

    assert begin(kicks) == 1003
    assert client.close_code() == 4506
    assert not harness.hub.is_online(MULTI, "ann")
    assert connection.app is None or not connection.is_open
    connection, _ = harness.connect()
    assert begin(harness.sessions.kicks.count) == 200


def test_a_ban_ends_at_its_time_or_that_of_a_later_one_and_the_oldest_leave_when_they_are_too_many(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ban(*users: str, seconds: int = 600) -> None:
        harness.sessions.close(NEWEST, users, ban_seconds=seconds)

    def may_login(user: str) -> bool:
        return harness.sessions.login(harness.connect()[0], Login(NEWEST, user)) == 200

    for user, seconds in (("ann", 600), ("bob", 6000), ("bob", 60)):
        ban(user, seconds=seconds)
    assert not may_login("ann")
    assert harness.logins.reasons == ["banned"]
    for after, users in ((61, ["bob"]), (601, ["ann", "bob"])):
        monkeypatch.setattr(
            module, "monotonic", lambda after=after: monotonic() + after
        )
        assert [user for user in ("ann", "bob") if may_login(user)] == users
    others = [f"u{number}" for number in range(MAX_BANS - 1)]
    for banned in (["ann"], ["bob"], ["ann"], others):
        ban(*banned)
    found = [
        harness.sessions.is_banned(NEWEST, user) for user in ("ann", "bob", others[-1])
    ]
    assert found == [True, False, True], "one that is renewed is the newest"


# --- newest -------------------------------------------------------------------


@pytest.mark.parametrize("older_first", [True, False])
def test_under_newest_the_older_stays_and_the_newest_is_the_exit(
    topology: Topology, older_first: bool
) -> None:
    _, bob = topology.here.login(NEWEST, "bob")
    older, first = topology.here.login(NEWEST, "ann", "phone")
    newer, second = topology.there.login(NEWEST, "ann", "phone")
    topology.there.fanout.to_sessions(NEWEST, "ann", Event("msg", "eve", "hello", "7"))
    assert topology.news_of(second) == [("msg", "eve", "hello")]
    assert topology.news_of(first) == []
    topology.news_of(bob)
    for connection, left in (
        ((older, 1), (newer, 0)) if older_first else ((newer, 0), (older, 0))
    ):
        assert connection.is_open
        connection.lost()
        assert topology.news_of(bob) == ([EXIT_ANN] if connection is newer else [])
        topology.here.sessions.heartbeat(older)
        assert topology.addressed(NEWEST, "ann") == left


# --- multi, single ------------------------------------------------------------


def test_under_multi_the_end_of_the_last_session_is_the_exit(
    topology: Topology,
) -> None:
    nodes = (topology.here, topology.there, topology.here)
    devices = ("phone", "phone", "laptop")
    sessions = [
        node.login(MULTI, "ann", each)[0]
        for node, each in zip(nodes, devices, strict=True)
    ]
    _, bob = topology.there.login(MULTI, "bob")
    for number, connection in enumerate(sessions):
        assert topology.news_of(bob) == []
        assert topology.addressed(MULTI, "ann") == 3 - number
        connection.lost()
    assert topology.news_of(bob) == [EXIT_ANN]


def test_under_single_a_login_closes_the_session_of_that_device_with_4500(
    topology: Topology,
) -> None:
    older, first = topology.here.login(SINGLE, "ann", "phone")
    laptop, _ = topology.here.login(SINGLE, "ann", "laptop")
    other, bob = topology.here.login(SINGLE, "bob", "phone")
    newer, _ = topology.there.login(SINGLE, "ann", "phone")
    assert first.close_code() == 4500
    first.hang_up()
    until(lambda: older in [connection for connection, _ in topology.here.ended])
    assert (laptop.is_open, newer.is_open, other.is_open) == (True, True, True)
    assert topology.news_of(bob) == [ENTER_ANN], "no exit: the user is still there"
    assert topology.addressed(SINGLE, "ann") == 2
    assert topology.here.metrics.closes == {4500: 1}


class SlowDecisions(set[str]):
    """Tokens about which somebody else is asked."""

    def __contains__(self, token: object) -> bool:
        gevent.sleep(0)
        return True


def test_under_single_logins_that_are_decided_at_once_leave_one_session(
    topology: Topology,
) -> None:
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


# --- refuse, on one node and on two -------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_under_refuse_the_newer_one_is_closed_with_4501_while_the_older_answers(
    topology: Topology,
) -> None:
    older, first = topology.here.login(REFUSE, "ann", "phone")
    newer, second = topology.there.connect()
    login = gevent.spawn(
        topology.there.sessions.login, newer, Login(REFUSE, "ann", device="phone")
    )
    until(lambda: first.answer_pings())
    assert second.close_code() == 4501
    assert login.get() == 1009
    assert (older.is_open, newer.user) == (True, None)
    assert topology.addressed(REFUSE, "ann") == 1


@pytest.mark.usefixtures("hasty")
def test_under_refuse_an_older_connection_that_shows_no_life_gives_way(
    topology: Topology,
) -> None:
    dead, first = topology.here.login(REFUSE, "ann")
    newer, _ = topology.there.connect()
    assert topology.there.sessions.login(newer, Login(REFUSE, "ann")) == 200
    assert first.close_code() == 4500
    assert (dead.is_open, newer.user) == (False, "ann")
    assert topology.addressed(REFUSE, "ann") == 1


def test_under_refuse_another_device_logs_in_at_once(topology: Topology) -> None:
    older, newer = (
        node.login(REFUSE, "ann", device)[0]
        for node, device in ((topology.here, "phone"), (topology.there, "laptop"))
    )
    assert (older.is_open, newer.is_open) == (True, True)
    assert topology.addressed(REFUSE, "ann") == 2


# --- kicking and banning, on one node and on two ------------------------------


@pytest.mark.parametrize(
    ("app", "addressed"), [(NEWEST, 1), (MULTI, 2), (SINGLE, 2), (REFUSE, 2)]
)
def test_a_kick_closes_all_of_a_user_with_4502(
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
def test_a_banned_user_is_closed_with_4503_and_stays_out_until_unbanned(
    topology: Topology, app: str
) -> None:
    here = topology.here
    there = topology.there
    _, client = here.login(app, "ann")
    assert there.sessions.close(app, ["ann", "zoe"], ban_seconds=600).total == 1
    assert client.close_code() == 4503
    for node, user in product((here, there), ("ann", "zoe")):  # zoe was absent
        connection, again = node.connect()
        assert node.sessions.login(connection, Login(app, user)) == 1003
        assert again.close_code() == 4503
    assert topology.addressed(app, "ann") == 0
    assert here.login(SINGLE, "ann")[0].is_open, "a ban is of one app"
    assert here.sessions.unban(app, ["ann", "was never banned"]) == ()
    banned = [
        node.sessions.is_banned(app, user)
        for node in (here, there)
        for user in ("ann", "zoe")
    ]
    assert banned == [False, True] * 2
    assert here.sessions.close(NEWEST, ["nobody"]).total == 0
    assert here.sessions.close("no such app", ["ann"], ban_seconds=60).total == 0
    here.sessions.forget_app(app)
    assert not here.sessions.is_banned(app, "zoe"), "a deleted app has no bans"


def test_the_sessions_of_each_user_are_closed_and_counted_or_those_of_one_device(
    harness: Harness,
) -> None:
    gone = [harness.login(MULTI, user)[1] for user in ("ann", "ann", "bob")]
    stays = [
        harness.login(*who)[0]
        for who in ((MULTI, "eve"), ("103", "ann"), (MULTI, "zoe", "phone"))
    ]
    nameless, web = (harness.login(MULTI, "zoe", device)[1] for device in ("", "web"))
    removed = harness.sessions.close(MULTI, ["bob", "nobody", "ann"])
    assert (removed.closed, removed.missing, removed.lasting) == ([1, 0, 2], (), True)
    assert [client.close_code() for client in gone] == [4502] * 3
    assert harness.sessions.close(MULTI, ["zoe"], "web").closed == [1]
    assert web.close_code() == 4502
    assert harness.sessions.close(MULTI, ["zoe"], "").closed == [1], (
        "no name is a name, too"
    )
    assert nameless.close_code() == 4502
    assert all(connection.is_open for connection in stays)


def test_a_ban_under_newest_closes_older_connections_too(harness: Harness) -> None:
    (_, older), (newest, _) = (harness.login(NEWEST, "ann") for _ in range(2))
    newest.lost()
    assert harness.sessions.close(NEWEST, ["ann"], None, 3600).closed == [0]
    assert older.close_code() == 4503


def test_a_node_that_is_silent_is_named(nodes: Several) -> None:
    sessions = nodes[1].sessions
    nodes[1].login(MULTI, "ann")
    nodes[1].rpc.cut.add(2)
    removed = sessions.close(MULTI, ["ann"])
    assert (removed.closed, removed.missing) == ([1], ("127.0.0.1:9002",))
    assert sessions.unban(MULTI, ["ann"]) == ("127.0.0.1:9002",)


@pytest.mark.parametrize(
    ("fault", "lasting"),
    [("registry", True), ("database", False), ("no database", False)],
)
def test_a_ban_holds_where_nodes_run_whatever_is_away(
    nodes: Several, fault: str, lasting: bool
) -> None:
    """A node makes no database that nodes elsewhere do not find: nodes with
    different ones refuse to run."""
    sessions = nodes[1].sessions
    store = nodes.book.store
    _, ann = nodes[2].login(MULTI, "ann")
    nodes[1].registry.away = fault == "registry"
    store.away = fault == "database"
    store.has_database = fault != "no database"
    removed = sessions.close(MULTI, ["ann"], None, 3600)
    assert (removed.closed, removed.lasting) == ([1], lasting)
    assert ann.close_code() == 4503
    assert store.seconds == ({(MULTI, "ann"): 3600} if lasting else {})
    assert [nodes[epoch].sessions.is_banned(MULTI, "ann") for epoch in (1, 2)] == [
        True
    ] * 2
    if fault == "database":
        with pytest.raises(StorageUnavailable):
            sessions.unban(MULTI, ["ann"])
    else:
        assert sessions.unban(MULTI, ["ann"]) == ()
    assert nodes[2].sessions.is_banned(MULTI, "ann") is (fault == "database")
