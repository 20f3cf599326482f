"""The routes of the admin page: search, rights, live connections, nodes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.integration.clusters import Nodes, name_of, nodes_of
from tests.integration.cmd import logged_in
from tests.integration.receiver import SECRET, Receiver
from tests.integration.v1 import good, refused
from tests.support import Server, eventually, run_cli

ADMIN = "an-admin-key-of-this-test"
OF_SHOP = "an-admin-key-of-the-shop"
KEYS = {
    "keys": [
        {"key": ADMIN, "scopes": ["admin"]},
        {"key": OF_SHOP, "scopes": ["admin"], "apps": ["7"]},
    ]
}
ACCOUNTS: dict[str, Any] = {
    "account_tokens": "required",
    "accounts": {"identifiers": ["name", "email", "phone"]},
}
APPS: dict[str, Any] = {"7": {"open": True}, "8": {"open": True}, "people": ACCOUNTS}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(
        config={"api": KEYS, "apps": APPS, "accounts": {"registration": True}}
    )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("cluster"), 2) as two:
        yield two


def found(
    server: Server, text: str, key: str = ADMIN, **query: Any
) -> list[tuple[str, str, str]]:
    """(type, id, app) of what a text names."""
    results = good(server.http, "find", key=key, text=text, **query)["results"]
    return [(each["type"], each["id"], each["app"]) for each in results]


def test_one_text_finds_people_connections_channels_groups_and_apps(
    server: Server,
) -> None:
    registration = {
        "app": "people",
        "name": "ann",
        "email": "ann@example.com",
        "password": "correct horse",
    }
    ann = good(
        server.http,
        "accounts/register",
        {**registration, "nickname": "Ann of Accounting"},
    )
    user = ann["account"]["user"]
    for text in (user, "ann", "ANN@example.com", "accounting"):
        assert ("account", user, "people") in found(server, text), text
    group = good(
        server.http,
        "groups/create",
        {"app": "people", "user": user, "name": "The lamp makers"},
        key=ADMIN,
    )
    assert ("group", str(group["group"]), "people") in found(server, "LAMP")
    with logged_in(server.ws, "bob", 7) as bob:
        assert bob.ask_cmd("subscribe", {"channel": "news:lamps"})[0] == 200
        (session,) = good(server.http, "presence", key=ADMIN, app=7, user="bob")[
            "users"
        ][0]["sessions"]
        assert found(server, session["connection"]) == [
            ("connection", session["connection"], "7")
        ]
        assert found(server, "bob") == [("user", "bob", "7")]
        assert found(server, "news:la") == [("channel", "news:lamps", "7")]
    assert found(server, "7") == [("app", "7", "7")]
    assert found(server, "nobody at all") == []


def test_the_id_of_a_request_finds_what_it_has_changed(server: Server) -> None:
    good(
        server.http, "ban", {"app": "8", "users": ["mallory"], "seconds": 60}, key=ADMIN
    )
    (act,) = good(server.http, "audit", key=ADMIN, app=8, name="ban")["acts"]
    assert found(server, act["request"]) == [("request", act["request"], "8")]
    assert found(server, act["request"], key=OF_SHOP) == []


def test_a_key_finds_only_what_it_reaches(server: Server) -> None:
    registration = {"app": "people", "name": "cid", "password": "correct horse"}
    good(server.http, "accounts/register", registration)
    assert found(server, "cid")
    with logged_in(server.ws, "cid", 8) as cid:
        assert ("user", "cid", "8") in found(server, "cid")
        assert cid.ask_cmd("subscribe", {"channel": "secret"})[0] == 200
        (session,) = good(server.http, "presence", key=ADMIN, app=8, user="cid")[
            "users"
        ][0]["sessions"]
        for text in ("cid", "8", "secret", session["connection"]):
            assert found(server, text, OF_SHOP) == [], text
        assert refused(server.http, "find", key=OF_SHOP, text="cid", app=8)[0] == 403


def test_it_says_what_one_may_do(server: Server) -> None:
    rights = good(server.http, "admin/rights", key=OF_SHOP)
    assert (rights["kind"], rights["apps"]) == ("key", ["7"])
    assert "GET find" in rights["routes"]
    assert "GET nodes" not in rights["routes"]  # it wants all apps
    assert "GET nodes" in good(server.http, "admin/rights", key=ADMIN)["routes"]
    assert refused(server.http, "admin/rights")[1] == "unauthorized"


def test_the_settings_of_an_app_are_described(server: Server) -> None:
    hook = {"url": "http://127.0.0.1:9/hook", "secret": SECRET}
    good(
        server.http,
        "apps/create",
        {"app": "lamps", "settings": {"open": True, "webhook": hook}},
        key=ADMIN,
    )
    described = good(server.http, "apps/settings", key=ADMIN, app="lamps")
    assert described["given"] == ["open", "webhook.url", "webhook.secret"]
    assert SECRET not in str(described)
    schemas = described["schemas"]
    settings = schemas["AppSettingsGiven"]["properties"]
    assert settings["webhook"]["$ref"].endswith("/AppWebhook")
    assert (
        settings["known_channels_only"].items()
        >= {"type": "boolean", "default": False}.items()
    )
    assert schemas["AppWebhook"]["properties"]["secret"]["writeOnly"]
    assert settings["open"]["x-by-key"]
    assert settings["quotas"]["x-by-key"]
    groups = {
        name: each["$ref"].rpartition("/")[2]
        for name, each in settings.items()
        if "$ref" in each
    }
    for group, _, inner in (name.partition(".") for name in described["new_logins"]):
        assert (
            inner in schemas[groups[group]]["properties"]
            if inner
            else group in settings
        )
    chinese = good(server.http, "apps/settings", key=ADMIN, app="lamps", language="zh")[
        "schemas"
    ]
    assert (
        chinese["AppWebhook"]["properties"]["url"]["description"] == "事件回调的地址。"
    )
    assert refused(server.http, "apps/settings", key=OF_SHOP, app="lamps")[0] == 403


def test_one_setting_of_a_group_changes_and_its_secret_stays(server: Server) -> None:
    hook = {"url": "http://127.0.0.1:9/hook", "secret": SECRET}
    good(
        server.http,
        "apps/create",
        {"app": "chairs", "settings": {"webhook": hook}},
        key=ADMIN,
    )

    def change(settings: dict[str, Any]) -> tuple[Any, ...]:
        body = {"app": "chairs", "settings": {"webhook": settings}, "merge": True}
        shown = good(server.http, "apps/set", body, key=ADMIN)["webhook"]
        return shown["url"], shown["absent_seconds"], shown["signed"]

    assert change({"absent_seconds": 15}) == (hook["url"], 15, True)
    assert change({"absent_seconds": 16, "url": ""}) == ("", 16, True)
    body = {"app": "chairs", "settings": {"webhook": {"absent_seconds": 17}}}
    assert good(server.http, "apps/set", body, key=ADMIN)["webhook"]["signed"] is False


def test_live_connections_are_listed_page_by_page(server: Server) -> None:
    with (
        logged_in(server.ws, "dan", 7),
        logged_in(server.ws, "eve", 7, device="phone"),
        logged_in(server.ws, "flo", 7),
    ):
        seen = []
        cursor = ""
        while True:
            page = good(
                server.http,
                "connections/list",
                key=OF_SHOP,
                app=7,
                limit=2,
                cursor=cursor,
            )
            seen += page["connections"]
            cursor = page["next"]
            if not cursor:
                break
        assert [each["user"] for each in seen] == ["dan", "eve", "flo"]
        assert page["users"] == 3
        assert all(each["peer"].startswith("127.0.0.1:") for each in seen)
        (one,) = good(server.http, "connections/list", key=OF_SHOP, app=7, user="eve")[
            "connections"
        ]
        assert (one["user"], one["device"], one["dialect"]) == ("eve", "phone", "cmd")
        closed = good(
            server.http,
            "disconnect",
            {"app": "7", "connections": [one["connection"]]},
            key=OF_SHOP,
        )
        assert closed["closed"] == 1


def test_each_node_shows_and_drains_the_other(nodes: Nodes) -> None:
    here, there = nodes.servers
    with logged_in(there.ws, "ann", 101) as ann:
        page = good(here.http, "connections/list", app=101)
        assert [(each["user"], each["node"]) for each in page["connections"]] == [
            ("ann", name_of(there))
        ]
        connection = page["connections"][0]["connection"]
        assert found(here, connection, "") == [("connection", connection, "101")]
        assert ("user", "ann", "101") in found(here, "ann", "")
        done = run_cli("drain", name_of(there), "--url", here.http_url)
        lines = done.stdout.splitlines()
        assert (lines[0], lines[-1]) == tuple(
            f"connections of {name_of(there)}: {each}" for each in "10"
        )
        ann.closed(1001)

    def states() -> dict[str, tuple[bool, str, bool]]:
        rows = good(here.http, "nodes")["nodes"]
        assert all(
            0 < row["disk_free"] <= row["disk"] and row["last_backup"] is None
            for row in rows
        )
        return {
            row["node"]: (row["ready"], row["reason"], row["drained"]) for row in rows
        }

    ready = (True, "", False)
    drained = (False, "it is drained", True)
    eventually(
        lambda: states() == {name_of(here): ready, name_of(there): drained},
        what="it is drained",
    )
    assert there.get("/ready")[0] == 503
    alone = run_cli("drain", name_of(here), "--url", here.http_url)
    assert "no other node serves clients: 0 connections end" in alone.stderr
    assert (alone.returncode, "use --yes" in alone.stderr) == (1, True)
    assert states()[name_of(here)] == ready
    assert (
        run_cli("drain", "--yes", name_of(here), "--url", here.http_url).returncode == 0
    )
    run_cli("drain", "--back", "--url", here.http_url)
    assert good(there.http, "counts", app=101)["apps"][0]["users"] == 0
    assert (
        "there is no node of-nobody"
        in run_cli("drain", "of-nobody", "--url", here.http_url).stderr
    )
    back = run_cli("drain", "--back", "--url", there.http_url)
    assert back.stdout == f"{name_of(there)} serves clients\n", "the one that answers"
    assert states() == {name_of(here): ready, name_of(there): ready}
    assert there.get("/ready")[0] == 200
    with logged_in(there.ws, "ann", 101):
        (own,) = [row for row in good(there.http, "nodes")["nodes"] if row["own"]]
        assert (own["node"], own["answers"]) == (name_of(there), True)
        assert own["messages_in"] >= 2, "both logins of ann"


def test_the_last_answers_of_a_webhook_are_shown_and_it_can_be_tried(
    start_server: StartServer,
) -> None:
    with Receiver() as receiver:
        settings = {
            "open": True,
            "webhook": {"url": receiver.url, "secret": SECRET, "events": ["connect"]},
        }
        server = start_server(config={"apps": {"7": settings, "8": {"open": True}}})

        def state() -> dict[str, Any]:
            (webhook,) = good(server.http, "webhooks")["webhooks"]
            assert webhook["app"] == "7"
            return dict(webhook)

        # while nothing waits
        for status, problem in ((503, "it answered with status 503"), (200, "")):
            receiver.reply = lambda _, status=status: (status, b"")
            answer = good(server.http, "webhooks/test", {"app": "7"})
            assert (answer["status"], answer["problem"]) == (status, problem)
            shown = state()
            assert (shown["failing"], shown["answers"][0]) == (bool(problem), answer), (
                "the newest one counts"
            )
        receiver.reply = lambda _: (503, b"")
        with logged_in(server.ws, "ann", 7):
            eventually(lambda: state()["failing"], what="the event was refused")
            shown = state()
            assert (shown["waiting"], shown["dead"]) == (1, 0)
            assert [each["status"] for each in shown["answers"]].count(503) > 1
            assert good(server.http, "webhooks", app=8)["webhooks"] == []
            assert refused(server.http, "webhooks/test", {"app": "8"})[0] == 400


def test_nodes_are_for_keys_of_all_apps(server: Server) -> None:
    assert refused(server.http, "nodes", key=OF_SHOP)[0] == 403
    (node,) = good(server.http, "nodes", key=ADMIN)["nodes"]
    assert (
        refused(server.http, "nodes/drain", {"node": node["node"]}, key=OF_SHOP)[0]
        == 403
    )
    status, _, message = refused(
        server.http, "nodes/drain", {"node": "10.9.9.9:1"}, key=ADMIN
    )
    assert (status, message) == (400, "`node`: no live node of this name answers")
