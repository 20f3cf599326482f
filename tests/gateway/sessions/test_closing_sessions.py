"""Ending the sessions of many users at once, keeping them out, and letting them in again."""

import pytest

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Login
from tests.gateway.core.cluster_harness import Several
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import Client, turn

NEWEST, MULTI = "101", "102"
LONG = 3600


def codes(*clients: Client) -> list[int | None]:
    turn()
    return [client.close_code() for client in clients]


def may_login(harness: Harness, app: str, user: str) -> bool:
    connection, _ = harness.connect()
    return harness.sessions.login(connection, Login(app, user)) == 200


# --- a node that is alone -----------------------------------------------------------------------------------


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


def test_a_banned_user_may_not_log_in_until_the_ban_is_lifted(harness: Harness) -> None:
    _, ann = harness.login(MULTI, "ann")
    removed = harness.sessions.close(MULTI, ["ann", "bob"], None, LONG)
    assert removed.closed == [1, 0]
    assert codes(ann) == [4503]
    assert not may_login(harness, MULTI, "ann")
    assert not may_login(harness, MULTI, "bob")
    assert may_login(harness, "103", "ann"), "a ban is of one app"
    assert harness.sessions.unban(MULTI, ["ann", "was never banned"]) == ()
    assert may_login(harness, MULTI, "ann")
    assert not may_login(harness, MULTI, "bob")


def test_a_deleted_app_has_no_bans(harness: Harness) -> None:
    harness.sessions.close(MULTI, ["ann"], None, LONG)
    harness.sessions.close(NEWEST, ["ann"], None, LONG)
    harness.sessions.close_app(MULTI)
    assert [harness.sessions.is_banned(app, "ann") for app in (MULTI, NEWEST)] == [False, True]


# --- several nodes ------------------------------------------------------------------------------------------


def test_a_ban_holds_on_all_nodes_and_so_does_lifting_it(nodes: Several) -> None:
    sessions = nodes[1].sessions
    assert sessions.close(MULTI, ["ann"], None, LONG).lasting
    assert nodes.book.store.seconds == {(MULTI, "ann"): LONG}
    assert not any(may_login(nodes[epoch], MULTI, "ann") for epoch in (1, 2))
    assert sessions.unban(MULTI, ["ann"]) == ()
    assert all(may_login(nodes[epoch], MULTI, "ann") for epoch in (1, 2))


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
    assert bool(store.seconds) is lasting
    assert not any(may_login(nodes[epoch], MULTI, "ann") for epoch in (1, 2))
    if fault == "database":
        with pytest.raises(StorageUnavailable):
            sessions.unban(MULTI, ["ann"])
        assert not may_login(nodes[2], MULTI, "ann")
    else:
        assert sessions.unban(MULTI, ["ann"]) == ()
        assert may_login(nodes[2], MULTI, "ann")
