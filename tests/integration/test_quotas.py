"""Each way to push counts once against the quota of the app, and is refused
over it as its dialect does."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.conftest import StartServer
from tests.support import Server
from tests.users import User

from . import pusher
from .action import action_session
from .client import api as client_api
from .client import listening
from .cmd import form_request, json_request, logged_in
from .raw import Response, ask, bearer, open_socket, request, text
from .v1 import call, good

Way = Callable[[Server, str, ExitStack], Callable[[], Any]]
"""Makes of a server and an app what pushes there once, and says how it was
answered."""
KEY: Final = "key-of-all-apps-0123456789"
SENT = (200, None)
REFUSED = (429, "too_many_requests")
NEWS: Final = {"channel": "news", "text": "x"}
FAILED: Final = {"code": -1, "msg": "系统错误", "data": []}


def answered(answer: Response) -> Any:
    """Status and code of an answer of ``/api/v1``. A refusal says when the day
    ends."""
    if answer.status == 200:
        return SENT
    assert "the next day begins at" in answer.json["message"]
    assert 0 < int(answer.header("Retry-After") or 0) <= 86_400
    return answer.status, answer.json["code"]


def v1(route: str, **body: Any) -> Way:
    return lambda server, app, _: (
        lambda: answered(call(server.http, route, {"app": app, **body}, key=KEY))
    )


def to_a_connection(server: Server, app: str, _: ExitStack) -> Callable[[], Any]:
    (session,) = good(server.http, "presence", key=KEY, app=app, user="ann")["users"][
        0
    ]["sessions"]
    body = {"app": app, "connection": session["connection"], "text": "x"}
    return lambda: answered(call(server.http, "push", body, key=KEY))


def in_a_batch(server: Server, app: str, _: ExitStack) -> Callable[[], Any]:
    body = {"commands": [{"push": {"app": app, "user": "ann", "text": "x"}}]}

    def push() -> Any:
        (result,) = good(server.http, "batch", body, key=KEY)["results"]
        return result["status"], result["body"].get("code")

    return push


def by_a_publisher(**body: Any) -> Way:
    def way(server: Server, app: str, stack: ExitStack) -> Callable[[], Any]:
        key = ("Authorization", f"Bearer {KEY}")
        line = stack.enter_context(
            open_socket(server.http, "/api/v1/publisher", more=[key])
        )

        def push() -> Any:
            line.send(text(json.dumps({"publish": {"app": app, "text": "x", **body}})))
            answer = line.message().json
            return (429, answer["error"]["code"]) if "error" in answer else SENT

        return push

    return way


def by_cmd(path: str, **fields: Any) -> Way:
    def way(server: Server, app: str, _: ExitStack) -> Callable[[], Any]:
        make = json_request if "Batch" in path else form_request
        data = bearer(make(path, {"appID": int(app), "message": "x", **fields}), KEY)
        return lambda: ask(server.http, data).json["code"]

    return way


def by_a_client_of_cmd(server: Server, app: str, stack: ExitStack) -> Callable[[], Any]:
    one = stack.enter_context(logged_in(server.ws, "bob", app))
    assert one.ask_cmd("subscribe", {"channel": "news"})[0] == 200
    return lambda: one.ask_cmd("publish", NEWS)[2]


def by_client(route: str, fields: Callable[[str], dict[str, Any]]) -> Way:
    def way(server: Server, app: str, stack: ExitStack) -> Callable[[], Any]:
        system = app.removeprefix("system:")
        one = stack.enter_context(listening(server.ws, system))
        body = {"data": "x", **fields(one.id)}
        joins = {"clientId": one.id, "groupName": "tea"}
        assert (
            client_api(server.http, "bind_to_group", joins, system, key=KEY).json[
                "code"
            ]
            == 0
        )

        def push() -> Any:
            answer = client_api(server.http, route, body, system, key=KEY).json
            return answer if answer["code"] else 0

        return push

    return way


def by_pusher(path: str, **body: Any) -> Way:
    event = {"name": "e", "data": "x"}
    body = {"batch": [event | body]} if path == "batch_events" else event | body

    def way(server: Server, app: str, _: ExitStack) -> Callable[[], Any]:
        return lambda: (
            pusher.call(
                server, "POST", f"/apps/{app}/{path}", body, auth_key=f"key{app}"
            ).status
        )

    return way


def by_a_client_of_pusher(
    server: Server, app: str, stack: ExitStack
) -> Callable[[], Any]:
    one, other = (
        stack.enter_context(pusher.Client(server.ws, f"key{app}")) for _ in range(2)
    )
    for each in (one, other):
        signed = pusher.sign(f"{each.socket_id}:private-room")
        each.say(
            "pusher:subscribe",
            {"channel": "private-room", "auth": f"key{app}:{signed}"},
        )
        each.event("pusher_internal:subscription_succeeded", "private-room")

    def push() -> Any:
        one.say("client-e", {}, "private-room")
        one.say("pusher:ping", {})
        answer = one.message().json
        if answer["event"] == "pusher:pong":
            return ""
        one.event("pusher:pong")
        return answer["data"]["message"][:19]

    return push


def by_centrifugo(method: str, body: Any) -> Way:
    def way(server: Server, app: str, _: ExitStack) -> Callable[[], Any]:
        key = ("X-API-Key", f"key-of-the-one-app-{app}")
        data = json.dumps(body).encode()

        def push() -> Any:
            answer = ask(
                server.http,
                request(f"/api/{method}", method="POST", headers=[key], body=data),
            ).json
            reply = answer.get("replies", [answer])[0]
            return reply["error"]["code"] if "error" in reply else 0

        return push

    return way


def by_action(room: str) -> Way:
    def way(server: Server, app: str, stack: ExitStack) -> Callable[[], Any]:
        number = int(app.removeprefix("action:"))
        stack.enter_context(action_session(server.ws, "ann", number, "bob", room))
        one = stack.enter_context(action_session(server.ws, "bob", number, "ann", room))
        return lambda: one.ask_action("sendmsg", {"msgType": "text", "message": "x"})[0]

    return way


ANN = {"userID": "ann", "message": "x"}
CENTRIFUGO = {"channel": "news", "data": 1}
WAYS: Final[dict[str, tuple[Way, Any, Any]]] = {
    "user": (v1("push", user="ann", text="x"), SENT, REFUSED),
    "users": (v1("push", users=["ann", "nobody"], text="x"), SENT, REFUSED),
    "device": (v1("push", user="ann", device="phone", text="x"), SENT, REFUSED),
    "connection": (to_a_connection, SENT, REFUSED),
    "targets": (v1("push", targets=[{"user": "ann"}], text="x"), SENT, REFUSED),
    "all": (v1("push", all=True, text="x"), SENT, REFUSED),
    "channel": (v1("push", **NEWS), SENT, REFUSED),
    "publish": (v1("channels/publish", **NEWS), SENT, REFUSED),
    "broadcast": (v1("channels/broadcast", channels=["news"], text="x"), SENT, REFUSED),
    "stream": (v1("channels/stream/open", channel="news"), SENT, REFUSED),
    "batch": (in_a_batch, SENT, REFUSED),
    "publisher, user": (by_a_publisher(user="ann"), SENT, REFUSED),
    "publisher, channel": (by_a_publisher(channel="news"), SENT, REFUSED),
    "sendMessage": (by_cmd("/user/sendMessage", userID="ann"), 200, 1004),
    "sendMessageAll": (by_cmd("/user/sendMessageAll", userID="bob"), 200, 1004),
    "userIDs": (by_cmd("/user/sendMessageBatch", userIDs=["ann"]), 200, 1004),
    "messages": (by_cmd("/user/sendMessageBatch", messages=[ANN]), 200, 1004),
    "client of cmd": (by_a_client_of_cmd, None, {"refused": "rate"}),
    "system:send_to_client": (
        by_client("send_to_client", lambda id: {"clientId": id}),
        0,
        FAILED,
    ),
    "system:send_to_clients": (
        by_client("send_to_clients", lambda id: {"clientIds": [id]}),
        0,
        FAILED,
    ),
    "system:send_to_group": (
        by_client("send_to_group", lambda _: {"groupName": "tea"}),
        0,
        FAILED,
    ),
    "system:send_to_system": (by_client("send_to_system", lambda _: {}), 0, FAILED),
    "pusher": (by_pusher("events", channels=["news"]), 200, 429),
    "pusher, batch": (by_pusher("batch_events", channel="news"), 200, 429),
    "client of pusher": (by_a_client_of_pusher, "", "The app has used it"),
    "centrifugo": (by_centrifugo("publish", CENTRIFUGO), 0, 111),
    "centrifugo, batch": (
        by_centrifugo("batch", {"commands": [{"publish": CENTRIFUGO}]}),
        0,
        111,
    ),
    "action:user": (by_action("0"), 200, 1008),
    "action:room": (by_action("5"), 200, 1008),
}
"""Name → the way, and the answers below the quota and over it. A prefix is that
of the app."""
APPS: Final = {
    name: f"{name[: name.find(':') + 1]}{number}"
    for number, name in enumerate(WAYS, 101)
}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """A server with an app for each way, which has one push a day."""
    app: dict[str, Any] = {
        "open": True,
        "quotas": {"pushes_per_day": 1},
        "channels": {"*": {"subscribe": "anybody", "publish": "subscribers"}},
    }
    apps = {name: dict(app) for name in APPS.values()}
    for way in ("pusher", "pusher, batch", "client of pusher"):
        name = APPS[way]
        apps[name]["pusher"] = pusher.SHOP | {"app_id": name, "key": f"key{name}"}
    keys: list[dict[str, Any]] = [{"key": KEY, "scopes": ["admin"]}]
    for way in ("centrifugo", "centrifugo, batch"):
        keys.append(
            {
                "key": f"key-of-the-one-app-{APPS[way]}",
                "scopes": ["push"],
                "apps": [APPS[way]],
            }
        )
    return start_shared_server(config={"apps": apps, "api": {"keys": keys}})


def pushes_of(server: Server, app: str) -> int:
    """How many pushes an app has had today."""
    (day,) = good(server.http, "apps/usage", key=KEY, app=app)["days"]
    return int(day["pushes"])


@pytest.mark.parametrize("name", WAYS)
def test_one_is_sent_and_counted_the_next_refused(server: Server, name: str) -> None:
    (way, sent, refused), app = WAYS[name], APPS[name]
    with ExitStack() as stack:
        if app.isdecimal():
            ann = stack.enter_context(logged_in(server.ws, "ann", app, device="phone"))
            assert ann.ask_cmd("subscribe", {"channel": "news"})[0] == 200
        push = way(server, app, stack)
        assert push() == sent
        assert [push(), push()] == [refused, refused]
    assert pushes_of(server, app) == 1


def test_what_begins_below_the_quota_is_sent_whole(start_server: StartServer) -> None:
    apps = {
        name: {"open": True, "quotas": {"pushes_per_day": 1}}
        for name in ("201", "202", "203")
    }
    server = start_server(config={"apps": apps})
    two = [{"user": "ann", "text": "x"}, {"user": "bob", "text": "x"}]

    def push(app: str, route: str, **body: Any) -> Any:
        return good(server.http, route, {"app": app, "text": "x", **body})["sent"]

    with ExitStack() as stack:
        for app in apps:
            for user in ("ann", "bob"):
                stack.enter_context(logged_in(server.ws, user, app))
        assert push("201", "push", users=["ann", "bob"]) == 2
        targets = [{"user": "ann"}, {"channel": "user:bob"}, {"all": True}]
        assert push("202", "push", targets=targets) == 3
        commands = [{"push": {"app": "203", **each}} for each in two]
        results = good(server.http, "batch", {"commands": commands})["results"]
        # each command of a batch is a request
        assert [each["status"] for each in results] == [200, 429]
    assert [pushes_of(server, app) for app in apps] == [2, 3, 1]


def test_stored_messages_over_their_quota(start_server: StartServer) -> None:
    apps: dict[str, Any] = {
        name: {"quotas": {"messages_per_day": 1}} for name in ("301", "302")
    }
    apps["301"]["account_tokens"], apps["302"]["channels"] = (
        "required",
        {"*": {"history": "log"}},
    )
    keys = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    server = start_server(
        config={"apps": apps, "api": keys, "accounts": {"registration": True}}
    )
    bob = User.register(server, "301")
    bot = bob.bot("helper")
    opened = bot.post("messages/stream/open", to=bob.user, text="x")["stream"]
    push = {
        "app": "301",
        "user": bob.user,
        "sender": bot.user,
        "text": "x",
        "store": True,
    }
    assert [answered(call(server.http, "push", push, key=KEY)) for _ in range(2)] == [
        SENT,
        REFUSED,
    ]
    assert bot.refused("messages/stream/open", to=bob.user, text="x") == REFUSED
    assert bot.refused("messages/stream/close", stream=opened) == (403, "rejected")
    news = {"app": "302", **NEWS}
    statuses = [
        good(server.http, "channels/publish", news, key=KEY)["status"] for _ in range(2)
    ]
    assert statuses == ["sent", "refused"]
