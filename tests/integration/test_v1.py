"""Presence, channels, disconnect and ban by ``/api/v1``, on both HTTP servers."""

import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import Server, eventually

from .cmd import cmd_client, command, fresh, logged_in
from .raw import CLOSE
from .setting import MULTI
from .v1 import call, good, refused, sessions_of

UNKNOWN_ID = "A" * 38


# --- presence -----------------------------------------------------------------------------------------------


def test_presence_names_where_a_user_is_and_since_when(server: Server) -> None:
    app = MULTI
    user = fresh()
    before = int(time.time())
    assert sessions_of(server.http, app, user) == []
    with logged_in(server.ws, user, app, device="phone"), logged_in(server.ws, user, app):
        answer = good(server.http, "presence", app=app, user=user)
        assert (answer["online_count"], answer["missing_nodes"]) == (1, [])
        (shown,) = answer["users"]
        assert (shown["user"], shown["online"]) == (user, True)
        phone, other = shown["sessions"]
        assert list(phone) == ["connection", "device", "dialect", "since", "node"]
        assert [phone["device"], other["device"]] == ["phone", ""]
        assert phone["dialect"] == "cmd"
        assert before - 60 <= phone["since"] <= time.time(), "of a clock that is read now and then"
        assert phone["connection"] != other["connection"]
        assert sessions_of(server.http, app, user)[0] == phone, "an id holds as long as its connection"
    eventually(lambda: sessions_of(server.http, app, user) == [], what="the end")


def test_presence_of_many_keeps_their_order(server: Server, app: int) -> None:
    ann, bob = fresh(), fresh()
    with logged_in(server.ws, ann, app), logged_in(server.ws, bob, app):
        question = {"app": str(app), "users": [bob, "nobody", ann, bob]}
        assert good(server.http, "presence", question) == {
            "online_count": 3,
            "users": [
                {"user": bob, "online": True},
                {"user": "nobody", "online": False},
                {"user": ann, "online": True},
                {"user": bob, "online": True},
            ],
            "missing_nodes": [],
        }
        received = good(server.http, "presence", {**question, "sessions": True})
        assert [len(each["sessions"]) for each in received["users"]] == [1, 0, 1, 1]
    assert good(server.http, "presence", {"app": str(app), "users": []})["users"] == []


def test_users_are_listed_page_by_page(server: Server, app: int) -> None:
    names = sorted(fresh("马") for _ in range(5))
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(logged_in(server.ws, name, app))
        listed_page_by_page(server, app, names)


def listed_page_by_page(server: Server, app: int, names: list[str]) -> None:
    listed: list[str] = []
    cursor = ""
    while True:
        page = good(server.http, "users", app=app, limit=2, cursor=cursor)
        assert (page["count"], page["missing_nodes"]) == (5, [])
        listed += page["users"]
        cursor = page["next"]
        if not cursor:
            break
    assert listed == names
    assert good(server.http, "users", app=app)["users"] == names
    counts = good(server.http, "counts", app=app)
    assert counts["apps"] == [{"app": str(app), "users": 5, "sessions": 5, "channels": 0}]


# --- channels -----------------------------------------------------------------------------------------------


def test_connections_and_users_subscribe_and_unsubscribe(server: Server) -> None:
    app = MULTI
    ann, bob = fresh(), fresh()
    with logged_in(server.ws, ann, app), logged_in(server.ws, bob, app), logged_in(server.ws, bob, app):
        (connection,) = (each["connection"] for each in sessions_of(server.http, app, ann))
        change = {
            "app": str(app),
            "channel": "茶",
            "connections": [connection, UNKNOWN_ID],
            "users": [bob, "nobody"],
        }
        subscribed = good(server.http, "channels/subscribe", change)
        assert subscribed["subscribed"] == 3
        assert [(each["status"], each.get("user")) for each in subscribed["results"]] == [
            ("subscribed", None),
            ("unknown", None),
            ("subscribed", bob),
            ("subscribed", bob),
            ("unknown", "nobody"),
        ]
        again = good(server.http, "channels/subscribe", change)
        assert (again["subscribed"], again["results"][0]["status"]) == (0, "exists")

        first = good(server.http, "channels/presence", app=app, channel="茶", limit=2)
        assert (first["count"], first["subscribers"][0]["connection"]) == (3, connection)
        rest = good(server.http, "channels/presence", app=app, channel="茶", limit=2, cursor=first["next"])
        assert rest["next"] == ""
        subscribers = first["subscribers"] + rest["subscribers"]
        assert [each["user"] for each in subscribers] == [ann, bob, bob]
        assert [each["subscribed_at"] for each in subscribers] == sorted(
            each["subscribed_at"] for each in subscribers
        )

        shown = good(server.http, "connections/show", app=app, connection=connection)
        assert (shown["user"], shown["channels"], shown["dialect"]) == (ann, ["茶"], "cmd")
        assert shown["peer"].startswith("127.0.0.1:")

        ended = good(server.http, "channels/unsubscribe", {"app": str(app), "channel": "茶", "users": [bob]})
        assert (ended["unsubscribed"], {each["status"] for each in ended["results"]}) == (2, {"unsubscribed"})
        gone = good(server.http, "channels/unsubscribe", {"app": str(app), "channel": "茶", "users": [bob]})
        assert {each["status"] for each in gone["results"]} == {"absent"}
        assert good(server.http, "channels/presence", app=app, channel="茶")["count"] == 1
    eventually(
        lambda: good(server.http, "channels/list", app=app)["channels"] == [], what="the channel is gone"
    )


def test_channels_are_listed_page_by_page(server: Server, app: int) -> None:
    user = fresh()
    with logged_in(server.ws, user, app):
        for channel in ("c", "a", "b"):
            good(server.http, "channels/subscribe", {"app": str(app), "channel": channel, "users": [user]})
        first = good(server.http, "channels/list", app=app, limit=2)
        assert first["channels"] == [{"channel": "a", "subscribers": 1}, {"channel": "b", "subscribers": 1}]
        second = good(server.http, "channels/list", app=app, limit=2, cursor=first["next"])
        assert (second["channels"], second["next"]) == ([{"channel": "c", "subscribers": 1}], "")
        assert good(server.http, "counts", app=app)["apps"][0]["channels"] == 3


def test_a_channel_has_a_name_of_at_most_255_bytes(server: Server, app: int) -> None:
    user = fresh()
    with logged_in(server.ws, user, app):
        change = {"app": str(app), "channel": "茶" * 86, "users": [user]}
        status, code, message = refused(server.http, "channels/subscribe", change)
        assert (status, code) == (400, "invalid_request")
        assert "255 bytes" in message
        good(server.http, "channels/subscribe", {**change, "channel": "茶" * 85})


def test_nothing_crosses_from_one_app_to_another(server: Server, app: int) -> None:
    user = fresh()
    other = 101
    with logged_in(server.ws, user, app) as ann:
        (session,) = sessions_of(server.http, app, user)
        connection = session["connection"]
        assert sessions_of(server.http, other, user) == []
        assert refused(server.http, "connections/show", app=other, connection=connection)[1] == (
            "unknown_connection"
        )
        change = {"app": str(other), "channel": "r", "connections": [connection]}
        assert good(server.http, "channels/subscribe", change)["results"][0]["status"] == "unknown"
        closing = {"app": str(other), "users": [user], "connections": [connection]}
        assert good(server.http, "disconnect", closing)["closed"] == 0
        ann.no_push()


# --- disconnect and ban -------------------------------------------------------------------------------------


def test_a_disconnect_ends_sessions_of_users_and_single_connections(server: Server, app: int) -> None:
    ann, bob = fresh(), fresh()
    with logged_in(server.ws, ann, app) as one, logged_in(server.ws, bob, app) as two:
        (session,) = sessions_of(server.http, app, bob)
        question = {
            "app": str(app),
            "users": [ann, "nobody"],
            "connections": [session["connection"], UNKNOWN_ID],
        }
        assert good(server.http, "disconnect", question) == {
            "closed": 2,
            "users": [{"user": ann, "closed": 1}, {"user": "nobody", "closed": 0}],
            "connections": [
                {"connection": session["connection"], "closed": 1},
                {"connection": UNKNOWN_ID, "closed": 0},
            ],
            "missing_nodes": [],
        }
        assert [close_code(one), close_code(two)] == [4502, 4502]
    with logged_in(server.ws, ann, app):
        pass


def test_a_disconnect_may_be_of_one_device(server: Server) -> None:
    app = MULTI
    user = fresh()
    with logged_in(server.ws, user, app, device="web") as web, logged_in(server.ws, user, app) as nameless:
        question = {"app": str(app), "users": [user], "device": "web"}
        assert good(server.http, "disconnect", question)["closed"] == 1
        assert close_code(web) == 4502
        assert nameless.ask_cmd("ping")[2] == "pong"
        assert good(server.http, "disconnect", {**question, "device": ""})["closed"] == 1
        assert close_code(nameless) == 4502


def test_a_ban_keeps_a_user_out_until_it_is_lifted(server: Server, app: int) -> None:
    user = fresh()
    with logged_in(server.ws, user, app) as ann:
        answer = good(server.http, "ban", {"app": str(app), "users": [user], "seconds": 3600})
        assert answer == {
            "closed": 1,
            "users": [{"user": user, "closed": 1}],
            "lasting": True,
            "missing_nodes": [],
        }
        assert close_code(ann) == 4503
    with cmd_client(server.ws) as ann:
        ann.send(command("login", {"userID": user, "appID": app}))
        assert close_code(ann) == 4503
    other = f"{user}x"
    good(server.http, "ban", {"app": str(app), "users": [other], "seconds": 3600})
    first = good(server.http, "bans", app=str(app), limit=1)
    assert first["count"] >= 2
    listed, following = first["bans"], first["next"]
    while following:
        page = good(server.http, "bans", app=str(app), cursor=following)
        listed, following = listed + page["bans"], page["next"]
    ends = {row["user"]: row["until"] for row in listed}
    assert abs(ends[user] - time.time() - 3600) < 60
    assert other in ends
    good(server.http, "unban", {"app": str(app), "users": [other]})
    assert good(server.http, "unban", {"app": str(app), "users": [user]}) == {"missing_nodes": []}
    assert user not in [row["user"] for row in good(server.http, "bans", app=str(app))["bans"]]
    with logged_in(server.ws, user, app):
        pass


def close_code(cmd_client: Any) -> int | None:
    """The code of the close frame that comes next, notices of others left out."""
    while (found := cmd_client.frame()).opcode != CLOSE:
        pass
    code: int | None = found.close_code
    return code


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body", "query"),
    [
        ("presence", None, {"app": "101"}),
        ("presence", None, {"app": "101", "user": ""}),
        ("presence", None, {"app": "101", "user": "a", "usr": "b"}),
        ("users", None, {"app": "101", "limit": 0}),
        ("users", None, {"app": "101", "limit": 10001}),
        ("users", None, {"app": "101", "limit": "many"}),
        ("users", None, {"app": "101", "cursor": "?"}),
        ("channels/presence", None, {"app": "101"}),
        ("presence", {"app": "101"}, {}),
        ("presence", {"app": 101, "users": []}, {}),
        ("presence", {"app": "101", "users": [""]}, {}),
        ("presence", {"app": "101", "users": ["a"], "more": 1}, {}),
        ("presence", [], {}),
        ("presence", b"{", {}),
        ("presence", b"\xff", {}),
        ("presence", b"", {}),
        ("channels/subscribe", {"app": "101", "channel": ""}, {}),
        ("ban", {"app": "101", "users": ["a"], "seconds": -1}, {}),
        ("ban", {"app": "101", "users": ["a"], "seconds": 31622401}, {}),
        ("disconnect", {"app": "101", "users": ["a"] * 1001}, {}),
    ],
)
def test_what_is_malformed_is_refused_with_400(server: Server, route: str, body: Any, query: Any) -> None:
    status, code, message = refused(server.http, route, body, **query)
    assert (status, code) == (400, "invalid_request")
    assert message


def test_a_parameter_may_be_given_once(server: Server) -> None:
    status, code, message = refused(server.http, "presence?app=101&app=102&user=a")
    assert (status, code, message) == (400, "invalid_request", "The parameter `app` is given twice")


@pytest.mark.parametrize("route", ["presence", "users", "counts", "channels/list"])
def test_an_unknown_app_is_404(server: Server, route: str) -> None:
    query = {"user": "a"} if route == "presence" else {}
    assert refused(server.http, route, app="no such app", **query)[:2] == (404, "unknown_app")


@pytest.mark.parametrize(("route", "allowed"), [("users", "GET"), ("ban", "POST")])
def test_another_method_is_405_and_says_which(server: Server, route: str, allowed: str) -> None:
    response = call(server.http, route, {} if allowed == "GET" else None)
    assert response.status == 405
    assert response.json["code"] == "method_not_allowed"
    assert allowed in (response.header("Allow") or "")
