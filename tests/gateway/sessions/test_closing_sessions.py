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


def test_the_sessions_of_each_user_are_closed_and_counted(harness: Harness) -> None:
    gone = [harness.login(MULTI, user)[1] for user in ("ann", "ann", "bob")]
    stays, _ = harness.login(MULTI, "eve")
    elsewhere, _ = harness.login("103", "ann")
    removed = harness.sessions.close(MULTI, ["bob", "nobody", "ann"])
    assert (removed.closed, removed.missing, removed.lasting) == ([1, 0, 2], (), True)
    assert codes(*gone) == [4502] * 3
    assert (stays.is_open, elsewhere.is_open) == (True, True)
    assert may_login(harness, MULTI, "ann"), "removed is not banned"


def test_only_sessions_of_a_device_are_closed_if_one_is_named(harness: Harness) -> None:
    phone, _ = harness.login(MULTI, "ann", "phone")
    nameless, _ = harness.login(MULTI, "ann")
    _, web = harness.login(MULTI, "ann", "web")
    assert harness.sessions.close(MULTI, ["ann"], "web").closed == [1]
    assert codes(web) == [4502]
    assert (phone.is_open, nameless.is_open) == (True, True)
    assert harness.sessions.close(MULTI, ["ann"], "").closed == [1], "no name is a name, too"
    assert not nameless.is_open
    assert phone.is_open


def test_under_newest_older_connections_go_with_the_one_that_is_addressed(harness: Harness) -> None:
    clients = [harness.login(NEWEST, "ann")[1] for _ in range(3)]
    assert harness.sessions.close(NEWEST, ["ann"]).closed == [1]
    assert codes(*clients) == [4502] * 3


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


def test_an_unknown_app_has_nobody_to_remove(harness: Harness) -> None:
    assert harness.sessions.close("999", ["ann", "bob"], None, LONG).closed == [0, 0]


# --- several nodes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", [1, 2])
def test_sessions_are_closed_on_all_nodes(nodes: Several, via: int) -> None:
    clients = [nodes[epoch].login(MULTI, "ann")[1] for epoch in (1, 2, 2)]
    stays, _ = nodes[2].login(MULTI, "eve")
    removed = nodes[via].sessions.close(MULTI, ["ann", "nobody"])
    assert (removed.closed, removed.missing, removed.lasting) == ([3, 0], (), True)
    assert codes(*clients) == [4502] * 3
    assert stays.is_open


@pytest.mark.parametrize("via", [1, 2])
def test_under_newest_older_connections_go_on_other_nodes_too(nodes: Several, via: int) -> None:
    _, older = nodes[1].login(NEWEST, "ann")
    _, newest = nodes[2].login(NEWEST, "ann")
    assert nodes[via].sessions.close(NEWEST, ["ann"]).closed == [1]
    assert codes(older, newest) == [4502, 4502]


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


def test_without_the_registry_a_ban_holds_and_is_lifted(nodes: Several) -> None:
    sessions = nodes[1].sessions
    _, ann = nodes[2].login(MULTI, "ann")
    nodes[1].registry.away = True
    removed = sessions.close(MULTI, ["ann"], None, LONG)
    assert (removed.closed, removed.lasting) == ([1], True)
    assert codes(ann) == [4503]
    assert not may_login(nodes[2], MULTI, "ann")
    assert sessions.unban(MULTI, ["ann"]) == ()
    assert may_login(nodes[2], MULTI, "ann")


def test_without_the_database_a_ban_holds_where_nodes_run_and_cannot_be_lifted(nodes: Several) -> None:
    sessions = nodes[1].sessions
    _, ann = nodes[2].login(MULTI, "ann")
    nodes.book.store.away = True
    removed = sessions.close(MULTI, ["ann"], None, LONG)
    assert (removed.closed, removed.lasting) == ([1], False)
    assert codes(ann) == [4503]
    with pytest.raises(StorageUnavailable):
        sessions.unban(MULTI, ["ann"])
    assert not may_login(nodes[2], MULTI, "ann")


def test_a_ban_makes_no_database_that_nodes_elsewhere_do_not_find(nodes: Several) -> None:
    """Nodes with different databases refuse to run, and a node cannot know all that will start."""
    nodes.book.store.has_database = False
    assert not nodes[1].sessions.close(MULTI, ["ann"], None, LONG).lasting
    assert nodes.book.store.seconds == {}
    assert not any(may_login(nodes[epoch], MULTI, "ann") for epoch in (1, 2))
    assert nodes[1].sessions.unban(MULTI, ["ann"]) == ()
    assert may_login(nodes[2], MULTI, "ann")


def test_a_deleted_app_has_no_bans(harness: Harness) -> None:
    harness.sessions.close(MULTI, ["ann"], None, LONG)
    harness.sessions.close(NEWEST, ["ann"], None, LONG)
    harness.sessions.close_app(MULTI)
    assert [harness.sessions.is_banned(app, "ann") for app in (MULTI, NEWEST)] == [False, True]
