"""The gateway: a node without features. The package of the messenger cannot be
imported."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.gateway.errors import ReplyCode
from tests.conftest import StartServer
from tests.integration.cmd import CmdClient, fresh, logged_in, users
from tests.integration.raw import open_socket, text
from tests.integration.v1 import good, refused
from tests.support import Server
from tests.test_removal import WITHOUT

WITHOUT_THE_MESSENGER = (
    sys.executable,
    "-c",
    WITHOUT.format(
        packages=("imserver.messenger.messages", "imserver.plugin.messages")
    ),
)
NEWS = {"history_size": 5, "history_seconds": 60, "subscribe": "anybody"}
APPS: dict[str, Any] = {
    "7": {"open": True, "login_policy": "multi", "channels": {"news": NEWS}},
    "8": {"open": True},
}


def started(start: StartServer, features: list[str], **settings: Any) -> Server:
    config = {"features": features, "apps": APPS, **settings}
    return start(command=WITHOUT_THE_MESSENGER, config=config)


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return started(start_shared_server, [])


@pytest.fixture
def ann(server: Server) -> Iterator[CmdClient]:
    with logged_in(server.ws, "ann", 7) as one:
        yield one


def words(client: CmdClient) -> str:
    return str(client.push("msg").json["response"]["data"]["msg"])


def push(server: Server, **fields: Any) -> list[str]:
    return [
        each["status"]
        for each in good(server.http, "push", {"app": "7", **fields})["results"]
    ]


def test_pushes_reach_users_connections_channels_and_all(
    server: Server, ann: CmdClient
) -> None:
    (session,) = good(server.http, "presence", app=7, user="ann")["users"][0][
        "sessions"
    ]
    assert ann.ask_cmd("subscribe", {"channel": "lobby"})[0] == 200
    targets = [
        {"user": "ann"},
        {"connection": session["connection"]},
        {"channel": "lobby"},
        {"group": "7"},
        {"user": "bob"},
        {"all": True},
    ]
    assert push(server, targets=targets, text="hello") == [
        "sent",
        "sent",
        "sent",
        "absent",
        "absent",
        "sent",
    ]
    kinds = [ann.push().json["cmd"] for _ in range(4)]
    assert kinds == ["msg", "msg", "publication", "msg"]
    with open_socket(server.http, "/api/v1/publisher") as publisher:
        publisher.send(
            text(
                json.dumps(
                    {"seq": 1, "publish": {"app": "7", "user": "ann", "text": "hi"}}
                )
            )
        )
        assert publisher.message().json == {"seq": 1, "sent": 1}
        publisher.send(
            text(
                json.dumps(
                    {"seq": 2, "channels/stream/open": {"app": "7", "channel": "lobby"}}
                )
            )
        )
        assert publisher.message().json["error"]["code"] == "invalid_request"
        publisher.send(text(json.dumps({"seq": 3})))
        assert "`publish`, `ping`" in publisher.message().json["error"]["message"]
    assert words(ann) == "hi"


def test_nothing_of_the_messenger_is_there(server: Server, ann: CmdClient) -> None:
    for command in ("send", "conversations", "nonsense"):
        assert (
            ann.ask_cmd(command, {"to": "bob", "text": "tea"})[0] == ReplyCode.NO_ROUTE
        ), command
    stored = {"app": "7", "user": "ann", "text": "tea", "store": True}
    assert refused(server.http, "push", stored)[:2] == (400, "store_unavailable")
    described = json.loads(server.get("/api/v1/openapi.json").body)
    assert "conversations" not in {tag["name"] for tag in described["tags"]}
    # a write, which makes the database
    good(server.http, "apps/create", {"app": fresh("shop")})
    with sqlite3.connect(server.folder / "data" / "imserver.db") as database:
        names = [
            row[0]
            for row in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            )
        ]
        full = {
            name
            for name in names
            if database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
        }
    assert full <= {
        "alembic_version",
        "app",
        "audit_head",
        "directory",
        "install",
        "owner_step",
    }


def test_two_nodes_push_and_have_histories_in_redis(
    start_server: StartServer, redis_url: str
) -> None:
    settings = {"redis": {"addr": redis_url.removeprefix("redis://")}}
    first = started(start_server, [], **settings)
    second = started(
        start_server, [], **settings, server={"data_dir": str(first.folder / "data")}
    )
    with logged_in(first.ws, "ann", 7) as ann, logged_in(second.ws, "bob", 7):
        assert push(second, user="ann", text="hello") == ["sent"]
        assert words(ann) == "hello"
        assert users(first.http, 7) == ["ann", "bob"]
        assert ann.ask_cmd("subscribe", {"channel": "news:1"})[0] == 200
        publication = {"app": "7", "channel": "news:1", "text": "one"}
        assert good(second.http, "channels/publish", publication)["offset"] == 1
        assert "one" in ann.push("publication").text
        page = good(first.http, "channels/history", app=7, channel="news:1")
        assert [each["text"] for each in page["publications"]] == ["one"]
