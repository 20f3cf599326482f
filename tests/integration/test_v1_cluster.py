"""``/api/v1`` on two nodes that share a Redis: whatever is asked of one holds for both."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import Server, eventually

from .client import Listener, new_system
from .clusters import Nodes, app_with, name_of, nodes_of
from .cmd import cmd_client, command, fresh, logged_in
from .raw import CLOSE, Raw
from .v1 import good, refused, sessions_of

UNKNOWN_ID = "A" * 38


def close_code(client: Raw) -> int | None:
    """The code of the close frame that comes next, notices of others left out."""
    while (found := client.frame()).opcode != CLOSE:
        pass
    return found.close_code


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("v1"), 2) as two:
        yield two


@pytest.fixture(params=[0, 1], ids=["front", "wsgi"])
def via(request: pytest.FixtureRequest, nodes: Nodes) -> Server:
    """The node that is asked: each in turn."""
    server: Server = nodes.servers[request.param]
    return server


def test_presence_names_sessions_of_both_and_since_when(nodes: Nodes, via: Server) -> None:
    app, user, before = app_with("multi"), fresh(), time.time()
    first, second = nodes.servers
    with logged_in(first.ws, user, app, device="one"), logged_in(second.ws, user, app, device="two"):
        found = eventually(
            lambda: len(them := sessions_of(via.http, app, user)) == 2 and them, what="both are known"
        )
        where = {"one": name_of(first), "two": name_of(second)}
        assert {each["device"]: each["node"] for each in found} == where
        for session in found:
            assert list(session) == ["connection", "device", "dialect", "since", "node"]
            assert session["dialect"] == "cmd"
            assert before - 60 <= session["since"] <= time.time(), "of a clock that is read now and then"
            shown = good(via.http, "connections/show", app=app, connection=session["connection"])
            assert (shown["user"], shown["device"], shown["node"]) == (
                user,
                session["device"],
                session["node"],
            )
            assert shown["peer"].startswith("127.0.0.1:")
        assert sessions_of(via.http, app, user) == found, "an id holds as long as its connection"
        assert good(via.http, "users", app=app)["users"] == [user]
        assert good(via.http, "counts", app=app)["apps"][0]["sessions"] == 2
        question = {"app": str(app), "users": [user, "nobody", user]}
        assert good(via.http, "presence", question) == {
            "online_count": 2,
            "users": [{"user": name, "online": name == user} for name in question["users"]],
            "missing_nodes": [],
        }
    eventually(lambda: sessions_of(via.http, app, user) == [], what="the end")


def test_a_channel_has_subscribers_on_both(nodes: Nodes, via: Server) -> None:
    app, ann, bob = app_with("multi"), fresh(), fresh()
    first, second = nodes.servers
    with logged_in(first.ws, ann, app), logged_in(first.ws, bob, app), logged_in(second.ws, bob, app):
        (connection,) = (each["connection"] for each in sessions_of(via.http, app, ann))
        where = {"app": str(app), "channel": "茶"}
        change = {**where, "connections": [connection, UNKNOWN_ID], "users": [bob, "nobody"]}
        subscribed = good(via.http, "channels/subscribe", change)
        assert subscribed["subscribed"] == 3
        assert [(each["status"], each.get("user")) for each in subscribed["results"]] == [
            ("subscribed", None),
            ("unknown", None),
            ("subscribed", bob),
            ("subscribed", bob),
            ("unknown", "nobody"),
        ]
        again = good(via.http, "channels/subscribe", change)
        assert (again["subscribed"], again["results"][0]["status"]) == (0, "exists")
        page = good(via.http, "channels/presence", **where, limit=2)
        rest = good(via.http, "channels/presence", **where, limit=2, cursor=page["next"])
        assert (page["count"], rest["next"]) == (3, "")
        listed = page["subscribers"] + rest["subscribers"]
        assert sorted(each["user"] for each in listed) == sorted([ann, bob, bob])
        times = [each["subscribed_at"] for each in listed]
        assert times == sorted(times), "in the order of joining"
        (channel,) = good(via.http, "channels/list", app=app)["channels"]
        assert channel == {"channel": "茶", "subscribers": 3}
        for count, status in ((2, "unsubscribed"), (0, "absent")):
            ended = good(via.http, "channels/unsubscribe", {**where, "users": [bob]})
            assert (ended["unsubscribed"], {each["status"] for each in ended["results"]}) == (count, {status})
        left = good(via.http, "channels/presence", **where)["subscribers"]
        assert [each["connection"] for each in left] == [connection]
    eventually(lambda: good(via.http, "channels/list", app=app)["channels"] == [], what="it is gone")


def test_a_disconnect_reaches_both(nodes: Nodes, via: Server) -> None:
    app, ann, bob = app_with("multi"), fresh(), fresh()
    with ExitStack() as stack:
        sessions = [(address, user) for address in nodes.ws for user in (ann, bob)]
        clients = [stack.enter_context(logged_in(address, user, app)) for address, user in sessions]
        ids = [*(each["connection"] for each in sessions_of(via.http, app, bob)), UNKNOWN_ID]
        question = {"app": str(app), "users": [ann, "nobody"], "connections": ids}
        assert good(via.http, "disconnect", question) == {
            "closed": 4,
            "users": [{"user": ann, "closed": 2}, {"user": "nobody", "closed": 0}],
            "connections": [{"connection": id, "closed": int(id != UNKNOWN_ID)} for id in ids],
            "missing_nodes": [],
        }
        assert [close_code(one) for one in clients] == [4502] * 4


def test_a_ban_holds_on_both_until_it_is_lifted(nodes: Nodes, via: Server) -> None:
    app, user = app_with("multi"), fresh()
    ban = {"app": str(app), "users": [user], "seconds": 3600}
    good(via.http, "apps/create", {"app": f"of-{user}"})  # makes the database
    with logged_in(nodes.servers[0].ws, user, app) as ann:
        closing = {"closed": 1, "users": [{"user": user, "closed": 1}], "lasting": True, "missing_nodes": []}
        assert good(via.http, "ban", ban) == closing
        assert close_code(ann) == 4503
    for server in nodes.servers:
        with cmd_client(server.ws) as ann:
            ann.send(command("login", {"userID": user, "appID": app}))
            assert close_code(ann) == 4503
    good(via.http, "ban", {**ban, "users": [f"{user}x"]})
    page = good(via.http, "bans", app=str(app), limit=1)
    rest = good(via.http, "bans", app=str(app), cursor=page["next"])
    ends = {row["user"]: row["until"] for row in page["bans"] + rest["bans"]}
    assert {user, f"{user}x"} <= ends.keys()
    assert abs(ends[user] - time.time() - 3600) < 60
    assert good(via.http, "unban", {"app": str(app), "users": [user]}) == {"missing_nodes": []}
    assert user not in [row["user"] for row in good(via.http, "bans", app=str(app))["bans"]]
    for server in nodes.servers:
        with logged_in(server.ws, user, app):
            pass


def test_an_app_that_is_created_on_one_is_there_on_the_other(nodes: Nodes) -> None:
    first, second = nodes.servers
    good(first.http, "apps/create", {"app": "777", "settings": {"max_channels": 3}})
    assert good(second.http, "apps/show", app="777")["max_channels"] == 3, "who is asked looks"
    good(second.http, "apps/set", {"app": "777", "settings": {"max_channels": 4}})
    eventually(
        lambda: good(first.http, "apps/show", app="777")["max_channels"] == 4,
        what="the change has come round",
    )
    with logged_in(second.ws, "ann", 777):
        assert good(first.http, "presence", app="777", user="ann")["online_count"] == 1
    assert refused(second.http, "apps/create", {"app": "777"})[:2] == (409, "app_exists")


@pytest.mark.full
def test_a_dead_node_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(
        tmp_path_factory.mktemp("gone"), 2, cluster={"lease_seconds": 60, "rpc_seconds": 1}
    ) as nodes:
        first, second = nodes.servers
        app, user = app_with("multi"), fresh()
        with logged_in(first.ws, user, app):
            name = name_of(second)
            second.process.kill()
            second.process.wait()
            assert good(first.http, "users", app=app) == {
                "count": 1,
                "users": [user],
                "next": "",
                "missing_nodes": [name],
            }
            assert good(first.http, "counts", app=app)["missing_nodes"] == [name]
            assert good(first.http, "channels/list", app=app)["missing_nodes"] == [name]
            answer = good(first.http, "disconnect", {"app": str(app), "users": [user]})
            assert (answer["closed"], answer["missing_nodes"]) == (1, [name])


def test_a_system_is_an_app_whose_users_are_its_clients(nodes: Nodes, via: Server) -> None:
    system = new_system(nodes.http[0])
    app = f"system:{system}"
    with Listener(nodes.ws[0]) as one, Listener(nodes.ws[1]) as two:
        for listener in (one, two):
            listener.open(system)
        ids = sorted((one.id, two.id))
        assert good(via.http, "users", app=app)["users"] == ids
        for listener, server in zip((one, two), nodes.servers, strict=True):
            (session,) = sessions_of(via.http, app, listener.id)
            shown = (session["connection"], session["dialect"], session["node"])
            assert shown == (listener.id, "client", name_of(server))
        subscribed = good(via.http, "channels/subscribe", {"app": app, "channel": "r", "connections": ids})
        assert subscribed["subscribed"] == 2
        closed = good(via.http, "disconnect", {"app": app, "users": [one.id], "connections": [two.id]})
        assert closed["closed"] == 2
        assert [close_code(one), close_code(two)] == [4502, 4502]
    eventually(lambda: good(via.http, "users", app=app)["users"] == [], what="both are gone")
