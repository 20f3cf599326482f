"""Keys over the API: who makes and sees which, expiry, rotation, and
connections that end with their key."""

import json
import time
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.auth.authority import configured_key
from imserver.gateway.config.settings import KeySettings
from tests.conftest import StartServer
from tests.integration.cmd import form_request
from tests.integration.raw import ask, bearer, open_socket, text
from tests.integration.sse import end_of, listening
from tests.integration.v1 import call
from tests.support import HTTP_SERVERS, Server, eventually, run_cli, with_constants
from tests.users import User

PUBLISHER = "/api/v1/publisher"
ADMIN = "admin-key-of-the-tests"
SHOP = "admin-key-of-the-shop-1"


@pytest.fixture(scope="module", params=HTTP_SERVERS)
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    return start_shared_server(
        http_server=request.param,
        config={
            "apps": {
                "shop": {"open": True},
                "tea": {"open": True},
                "store": {"same_as": "shop"},
            },
            "api": {
                "keys": [
                    {"key": ADMIN, "scopes": ["admin"]},
                    {"key": SHOP, "scopes": ["admin"], "apps": ["shop"]},
                    {
                        "key": "key-that-has-expired-1",
                        "scopes": ["push"],
                        "expires": "2020-01-31",
                    },
                ]
            },
            "storage": {"look_seconds": 0.1},
        },
    )


@pytest.fixture
def admin(server: Server) -> User:
    return User(server, ADMIN)


@pytest.fixture
def shop(server: Server) -> User:
    """The back end of one app."""
    return User(server, SHOP)


def push(server: Server, key: str, app: str = "shop") -> tuple[int, Any]:
    answer = call(
        server.http, "push", {"app": app, "user": "ann", "text": "hi"}, key=key
    )
    return answer.status, answer.json


def ids(user: User, **query: Any) -> set[str]:
    return {each["id"] for each in user.get("keys", **query)["keys"]}


def test_a_new_key_is_shown_once_and_works(server: Server, admin: User) -> None:
    created = admin.post(
        "keys/create",
        scopes=["push"],
        apps=["store"],
        note="till",
        expires_seconds=3600,
    )
    key = created["key"]
    assert key["apps"] == ["shop"], "an alias is its target"
    assert (key["scopes"], key["note"], key["state"], key["configured"]) == (
        ["push"],
        "till",
        "valid",
        False,
    )
    assert 3590 < key["expires"] - time.time() <= 3600
    assert push(server, created["secret"])[0] == 200
    assert push(server, created["secret"], "tea")[0] == 403
    assert created["secret"] not in json.dumps(admin.get("keys"))
    assert key["id"] in ids(admin)
    assert key["id"] not in ids(admin, app="tea")


def test_keys_of_the_settings_are_listed_and_stay_there(admin: User) -> None:
    rows = {
        row["id"]: row
        for row in admin.get("keys", ended="true")["keys"]
        if row["configured"]
    }
    assert {row["state"] for row in rows.values()} == {"valid", "expired"}
    (expired,) = [row for row in rows.values() if row["state"] == "expired"]
    assert expired["expires"] == 1580428800
    assert expired["id"] not in ids(admin)
    for route in ("keys/revoke", "keys/rotate"):
        assert admin.refused(route, id=expired["id"]) == (400, "invalid_request")


def test_an_app_sees_and_makes_keys_of_its_own_only(
    server: Server, admin: User, shop: User
) -> None:
    others = [
        admin.post("keys/create", scopes=["push"], apps=apps)
        for apps in ([], ["tea"], ["shop", "tea"])
    ]
    own = shop.post("keys/create", scopes=["push", "read"], apps=["shop"])
    for apps in ([], ["tea"], ["shop", "tea"], ["none"]):
        assert shop.refused("keys/create", scopes=["push"], apps=apps) == (
            403,
            "forbidden",
        )
    assert own["key"]["id"] in ids(shop)
    for other in others:
        id = other["key"]["id"]
        assert id not in ids(shop)
        assert shop.refused("keys/revoke", id=id) == (404, "unknown_key")
        assert shop.refused("keys/rotate", id=id) == (404, "unknown_key")
        assert shop.refused_get("keys/usage", id=id) == (404, "unknown_key")
        assert push(server, other["secret"], "tea")[0] == 200
    assert admin.refused("keys/create", scopes=["push"], apps=["none"]) == (
        404,
        "unknown_app",
    )
    assert admin.refused("keys/create", scopes=["metrics"], apps=["shop"]) == (
        400,
        "invalid_request",
    )
    assert (
        User(server, own["secret"]).refused(
            "keys/create", scopes=["push"], apps=["shop"]
        )[0]
        == 403
    )
    assert User(server, "").refused("keys/create", scopes=["push"])[0] == 401


def test_no_key_outlives_the_one_that_created_it(server: Server, admin: User) -> None:
    short = User(
        server,
        admin.post("keys/create", scopes=["admin"], expires_seconds=600)["secret"],
    )
    assert short.refused("keys/create", scopes=["push"])[0] == 403
    assert short.refused("keys/create", scopes=["push"], expires_seconds=700)[0] == 403
    created = short.post("keys/create", scopes=["push"], expires_seconds=500)
    assert short.refused("keys/rotate", id=created["key"]["id"])[0] == 403
    assert short.post("keys/rotate", id=created["key"]["id"], expires_seconds=500)[
        "secret"
    ]


def test_a_rotated_key_ends_after_its_grace(server: Server, admin: User) -> None:
    old = admin.post("keys/create", scopes=["push"], apps=["shop"], note="till")
    new = admin.post("keys/rotate", id=old["key"]["id"], grace_seconds=2)
    assert [new["key"][name] for name in ("scopes", "apps", "note")] == [
        ["push"],
        ["shop"],
        "till",
    ]
    assert push(server, new["secret"])[0] == 200
    status, problem = eventually(
        lambda: (got := push(server, old["secret"]))[0] != 200 and got
    )
    assert (status, problem["code"], problem["message"]) == (
        401,
        "unauthorized",
        "The API key has expired",
    )
    last = admin.post("keys/rotate", id=new["key"]["id"], grace_seconds=0)
    assert push(server, new["secret"])[0] == 401
    assert push(server, last["secret"])[0] == 200
    assert admin.refused("keys/rotate", id=old["key"]["id"]) == (400, "invalid_request")
    facts = admin.get("audit", name="keys.rotate")["acts"][0]["facts"]
    assert facts == {
        "key": new["key"]["id"],
        "id": last["key"]["id"],
        "grace_seconds": 0,
    }


def test_an_expired_key_of_the_settings_is_refused_by_its_name(server: Server) -> None:
    key = "key-that-has-expired-1"
    assert push(server, key)[1]["message"] == "The API key has expired"
    form = form_request(
        "/user/sendMessage", {"appID": 101, "userID": "ann", "message": "hi"}
    )
    assert ask(server.http, bearer(form, key)).json["code"] == 1003
    id = configured_key(KeySettings(key, ())).id
    for path in ("/api/v1/push", "/user/sendMessage"):
        (line, *_) = [
            row
            for row in server.log_with_requests().splitlines()
            if f"POST {path} " in row and id in row
        ]
        assert line.endswith(f" by=key:{id}")


@pytest.mark.parametrize("requests", [True, False])
def test_a_stolen_key_leaves_a_trace(start_server: StartServer, requests: bool) -> None:
    server = start_server(
        config={
            "apps": {"shop": {"open": True}},
            "api": {"keys": [{"key": ADMIN, "scopes": ["admin"]}]},
            "log": {"requests": requests},
        },
        command=with_constants({"imserver.operate.keys.usage.PERIOD_SECONDS": 0.2}),
    )
    admin = User(server, ADMIN)
    stolen = admin.post("keys/create", scopes=["push"], apps=["shop"])
    id = stolen["key"]["id"]
    key = stolen["secret"]
    assert push(server, key)[0] == 200
    assert push(server, key, "tea")[0] == 403
    assert call(server.http, "presence", key=key, app="shop", user="ann").status == 403
    commands = [{"push": {"app": "shop", "user": "ann", "text": "hi"}}] * 3
    assert call(server.http, "batch", {"commands": commands}, key=key).status == 200
    with open_socket(
        server.http, PUBLISHER, more=[("Authorization", f"Bearer {key}")]
    ) as one:
        for number in range(4):
            user = "" if number == 3 else "ann"
            one.send(
                text(
                    json.dumps(
                        {
                            "seq": number,
                            "publish": {"app": "shop", "user": user, "text": "hi"},
                        }
                    )
                )
            )
        for _ in range(4):
            one.message()
    wanted = {
        ("POST /api/v1/push", "shop"): (4, 0),
        ("POST /api/v1/push", ""): (0, 1),
        ("GET /api/v1/presence", ""): (0, 1),
        ("POST /api/v1/batch", ""): (1, 0),
        ("GET /api/v1/publisher", ""): (1, 0),
        ("GET /api/v1/publisher publish", "shop"): (3, 0),
        ("GET /api/v1/publisher publish", ""): (0, 1),
    }

    def tally() -> dict[tuple[str, str], tuple[int, int]]:
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for row in admin.get("keys/usage", id=id)["uses"]:
            assert row["address"] == "127.0.0.1"
            before = counts.get((row["route"], row["app"]), (0, 0))
            counts[row["route"], row["app"]] = (
                before[0] + row["answered"],
                before[1] + row["refused"],
            )
        return counts

    eventually(lambda: tally() == wanted)
    first = admin.get("keys/usage", id=id, limit=2)
    rest = admin.get("keys/usage", id=id, cursor=first["next"])["uses"]
    assert [*first["uses"], *rest] == admin.get("keys/usage", id=id)["uses"]
    (row,) = [each for each in admin.get("keys")["keys"] if each["id"] == id]
    assert row["last_used_from"] == "127.0.0.1"
    assert 0 <= time.time() - row["last_used"] < 180
    output = run_cli("key", "usage", id, "--config", str(server.config_file)).stdout
    unknown = run_cli(
        "key", "usage", "none", "--config", str(server.config_file)
    ).stderr
    assert "no key has the id none" in unknown
    assert "GET /api/v1/publisher publish" in output
    shown = run_cli("key", "show", id, "--config", str(server.config_file)).stdout
    assert "from 127.0.0.1" in shown
    assert "state      valid" in shown

    def lines() -> list[str]:
        return [
            line
            for line in server.log_text.splitlines()
            if line.endswith(f"by=key:{id}")
        ]

    eventually(
        lambda: len(lines()) == (5 if requests else 0), what="the lines of the requests"
    )
    assert key not in server.log_text


def test_who_uses_what_is_deprecated_is_known_with_and_without_a_key(
    start_server: StartServer,
) -> None:
    server = start_server()
    nobody = User(server, "")
    command = ("key", "deprecated", "--url", server.http_url)
    assert "does not know" in run_cli(*command).stderr
    nobody.post("apps/create", app="shop", settings={"keep_seconds": 60})
    nobody.post("apps/create", app="tea", settings={"retention_seconds": 60})
    created = nobody.post("keys/create", scopes=["admin"])  # demo mode ends
    admin = User(server, created["secret"])
    id = created["key"]["id"]
    admin.post("apps/set", app="tea", unset=["keep_talks"])
    assert admin.refused("apps/set", app="tea", settings={"keep_seconds": -1})[0] == 400
    commands = [
        {"apps/set": {"app": "tea", "settings": {"keep_messages": number}}}
        for number in (5, 6)
    ]
    admin.post("batch", commands=commands)

    def uses(user: User, **query: Any) -> dict[str, list[tuple[Any, ...]]]:
        answer = user.get("keys/deprecated", **query)
        return {
            each["name"].removeprefix("POST /api/v1/apps/"): [
                (
                    use["key"],
                    use["app"],
                    use["address"],
                    use["answered"],
                    use["refused"],
                )
                for use in each["uses"]
            ]
            for each in answer["deprecated"]
            if each["uses"]
        }

    mine = {
        "set keep_talks": [(id, "tea", "127.0.0.1", 1, 0)],
        "set keep_messages": [(id, "tea", "127.0.0.1", 2, 0)],
    }
    others = {"create keep_seconds": [("demo", "shop", "127.0.0.1", 1, 0)]}
    assert uses(admin) == {**mine, **others}
    limited = User(
        server, admin.post("keys/create", scopes=["admin"], apps=["shop"])["secret"]
    )
    assert (uses(limited), uses(admin, app="tea")) == (others, mine)
    result = run_cli(*command, IMSERVER_KEY=admin.token)
    assert (result.returncode, "store_conversations" in result.stdout) == (1, True)
    admin.post("apps/create", app="new")
    unused = run_cli(*command, "--app", "new", IMSERVER_KEY=admin.token)
    assert (unused.returncode, "nobody has used" in unused.stdout) == (0, True)


def test_connections_end_with_their_key(server: Server, admin: User) -> None:
    revoked = admin.post("keys/create", scopes=["push", "read"], apps=["shop"])
    expiring = admin.post(
        "keys/create", scopes=["push", "read"], apps=["shop"], expires_seconds=3
    )
    with ExitStack() as stack:
        publishers = []
        streams = []
        for each in (revoked, expiring):
            headers = [("Authorization", f"Bearer {each['secret']}")]
            publishers.append(
                stack.enter_context(open_socket(server.http, PUBLISHER, more=headers))
            )
            one = listening(
                server.http, "shop", each["key"]["id"], channels="news", headers=headers
            )
            streams.append(stack.enter_context(one))
        admin.post("keys/revoke", id=revoked["key"]["id"])
        for one in publishers:
            one.closed(4504)
        for one in streams:
            assert end_of(one)["code"] == 4504
