"""``/api/v1`` on two nodes that share a Redis: whatever is asked of one holds for both."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import jwt
import pytest

from tests.support import Server, eventually

from .client import Listener, new_system
from .clusters import Nodes, app_with, name_of, nodes_of
from .cmd import cmd_client, command, fresh, logged_in
from .raw import ask, bearer, request
from .test_v1 import close_code
from .v1 import good, refused, sessions_of


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("v1"), 2) as two:
        yield two


@pytest.fixture(params=[0, 1], ids=["front", "wsgi"])
def via(request: pytest.FixtureRequest, nodes: Nodes) -> Server:
    """The node that is asked: each in turn."""
    server: Server = nodes.servers[request.param]
    return server


@pytest.mark.full
def test_presence_names_sessions_of_both(nodes: Nodes, via: Server) -> None:
    app, user = app_with("multi"), fresh()
    first, second = nodes.servers
    with logged_in(first.ws, user, app, device="one"), logged_in(second.ws, user, app, device="two"):
        found = eventually(
            lambda: len(them := sessions_of(via.http, app, user)) == 2 and them, what="both are known"
        )
        assert sorted((each["device"], each["node"]) for each in found) == [
            ("one", name_of(first)),
            ("two", name_of(second)),
        ]
        for session in found:
            shown = good(via.http, "connections/show", app=app, connection=session["connection"])
            assert (shown["user"], shown["device"], shown["node"]) == (
                user,
                session["device"],
                session["node"],
            )
        counts = good(via.http, "counts", app=app)["apps"][0]
        assert (counts["sessions"], counts["channels"]) == (2, 0)
        both_users = {"app": str(app), "users": [user, "nobody"]}
        assert [each["online"] for each in good(via.http, "presence", both_users)["users"]] == [True, False]


@pytest.mark.full
def test_users_of_both_are_listed_page_by_page(nodes: Nodes, via: Server) -> None:
    app = app_with("multi")
    names = sorted(fresh() for _ in range(4))
    first, second = nodes.servers
    with ExitStack() as stack:
        for number, name in enumerate(names):
            stack.enter_context(logged_in((first, second)[number % 2].ws, name, app))
        page = good(via.http, "users", app=app, limit=3)
        rest = good(via.http, "users", app=app, limit=3, cursor=page["next"])
        assert (page["users"] + rest["users"], rest["next"]) == (names, "")
        assert page["count"] == 4


def test_a_channel_has_subscribers_on_both(nodes: Nodes, via: Server) -> None:
    app, ann, bob = app_with("multi"), fresh(), fresh()
    first, second = nodes.servers
    with logged_in(first.ws, ann, app), logged_in(second.ws, bob, app):
        subscribed = good(
            via.http, "channels/subscribe", {"app": str(app), "channel": "r", "users": [ann, bob]}
        )
        assert [each["status"] for each in subscribed["results"]] == ["subscribed", "subscribed"]
        listed = good(via.http, "channels/presence", app=app, channel="r")
        assert {each["user"] for each in listed["subscribers"]} == {ann, bob}
        times = [each["subscribed_at"] for each in listed["subscribers"]]
        assert times == sorted(times), "in the order of joining"
        (channel,) = good(via.http, "channels/list", app=app)["channels"]
        assert channel == {"channel": "r", "subscribers": 2}
        (connection,) = (each["connection"] for each in listed["subscribers"] if each["user"] == bob)
        change = {"app": str(app), "channel": "r", "connections": [connection]}
        assert good(via.http, "channels/unsubscribe", change)["unsubscribed"] == 1
        assert [
            each["user"] for each in good(via.http, "channels/presence", app=app, channel="r")["subscribers"]
        ] == [ann]


def test_a_disconnect_reaches_both(nodes: Nodes, via: Server) -> None:
    app, user = app_with("multi"), fresh()
    first, second = nodes.servers
    with logged_in(first.ws, user, app) as one, logged_in(second.ws, user, app) as two:
        answer = good(via.http, "disconnect", {"app": str(app), "users": [user]})
        assert (answer["closed"], answer["missing_nodes"]) == (2, [])
        assert [close_code(one), close_code(two)] == [4502, 4502]


def test_a_single_connection_is_ended_from_either(nodes: Nodes, via: Server) -> None:
    app, ann, bob = app_with("multi"), fresh(), fresh()
    first, second = nodes.servers
    with logged_in(first.ws, ann, app) as one, logged_in(second.ws, bob, app) as two:
        ids = [sessions_of(via.http, app, user)[0]["connection"] for user in (ann, bob)]
        assert good(via.http, "disconnect", {"app": str(app), "connections": ids})["closed"] == 2
        assert [close_code(one), close_code(two)] == [4502, 4502]


def test_a_ban_holds_on_both_until_it_is_lifted(nodes: Nodes, via: Server) -> None:
    app, user = app_with("multi"), fresh()
    ban = {"app": str(app), "users": [user], "seconds": 3600}
    good(via.http, "apps/create", {"app": f"of-{user}"})  # makes the database
    with logged_in(nodes.servers[0].ws, user, app) as ann:
        answer = good(via.http, "ban", ban)
        assert (answer["closed"], answer["lasting"]) == (1, True)
        assert close_code(ann) == 4503
    for server in nodes.servers:
        with cmd_client(server.ws) as ann:
            ann.send(command("login", {"userID": user, "appID": app}))
            assert close_code(ann) == 4503
    assert good(via.http, "unban", {"app": str(app), "users": [user]}) == {"missing_nodes": []}
    for server in nodes.servers:
        with logged_in(server.ws, user, app):
            pass


@pytest.mark.full
def test_a_node_that_did_not_hear_of_a_ban_refuses_the_requests_of_the_user(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    key, secret = "admin-key-of-the-tests", "a secret that is long enough to be one"
    options = {
        "apps": {"205": {"jwt": [{"key": secret}]}},
        "api": {"keys": [{"key": key, "scopes": ["admin"]}]},
        "cluster": {"redis_seconds": 0.5},
    }
    token = jwt.encode({"sub": "ann", "app": "205", "exp": time.time() + 3600}, secret, "HS256")
    question = bearer(request("/user/list?appID=205"), token)
    with nodes_of(tmp_path_factory.mktemp("late"), 1, **options) as nodes:

        def answer(node: Server) -> int:
            return int(ask(node.http, question).json["code"])

        (first,) = nodes.servers
        assert answer(first) == 200
        good(first.http, "apps/create", {"app": "another"}, key=key)  # makes the database
        good(first.http, "ban", {"app": "205", "users": ["ann"], "seconds": 3600}, key=key)
        second = nodes.start()
        assert answer(first) == answer(second) == 1003
        nodes.redis.kill()
        good(first.http, "unban", {"app": "205", "users": ["ann"]}, key=key)
        assert answer(first) == 200
        eventually(lambda: answer(second) == 200, what="the other node reads it from the database")


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
    first, second = nodes.servers
    system = new_system(first.http)
    app = f"system:{system}"
    with Listener(first.ws) as one, Listener(second.ws) as two:
        one.open(system)
        two.open(system)
        ids = sorted((one.id, two.id))
        assert good(via.http, "users", app=app)["users"] == ids
        for listener, server in ((one, first), (two, second)):
            (session,) = sessions_of(via.http, app, listener.id)
            assert (session["connection"], session["dialect"]) == (listener.id, "client")
            assert session["node"] == name_of(server)
        many = good(via.http, "presence", {"app": app, "users": [*ids, "nobody"]})
        assert [each["online"] for each in many["users"]] == [True, True, False]
        subscribed = good(via.http, "channels/subscribe", {"app": app, "channel": "r", "connections": ids})
        assert subscribed["subscribed"] == 2
        closed = good(via.http, "disconnect", {"app": app, "users": [one.id], "connections": [two.id]})
        assert closed["closed"] == 2
        assert [close_code(one), close_code(two)] == [4502, 4502]
    eventually(lambda: good(via.http, "users", app=app)["users"] == [], what="both are gone")
