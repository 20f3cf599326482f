"""A publication that nothing has accepted is a temporary error at every edge,
and does not use up its id."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.support import Server, eventually

from . import pusher
from .clusters import nodes_of
from .cmd import logged_in
from .raw import Raw, Response, ask, open_socket, request, text
from .v1 import call, good

OPEN = {"subscribe": "anybody", "publish": "subscribers"}
REDIS = {"history_size": 100, "history_seconds": 600}
LOG = {"history": "log"}
KEY = "key-of-all-apps-0123456789"
AUTHORISED = ("Authorization", f"Bearer {KEY}")
Away = Callable[[], AbstractContextManager[None]]
Edge = Callable[[Server], Any]


@pytest.fixture(
    scope="module",
    params=["redis", pytest.param("database", marks=pytest.mark.full("sampled"))],
)
def outage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Away]]:
    """A server, and what takes the store away that has the histories of all
    channels except `live:…`."""
    folder = tmp_path_factory.mktemp("stores")
    rows = {"*": OPEN | (LOG if request.param == "database" else REDIS), "live": OPEN}
    config: dict[str, Any] = {
        "apps": {"shop": {"open": True, "pusher": pusher.SHOP, "channels": rows}},
        "centrifuge": {"app": "shop"},
        "cluster": {"redis_seconds": 0.5},
        "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
    }
    with nodes_of(folder, 1, **config) as nodes:

        @contextmanager
        def redis_away() -> Iterator[None]:
            """Redis answers nothing, and carries out later what it has got."""
            nodes.redis.pause()
            try:
                yield
            finally:
                nodes.redis.resume()
                eventually(lambda: call(nodes.http[0], "counts", key=KEY).status == 200)

        @contextmanager
        def database_away() -> Iterator[None]:
            lock = sqlite3.connect(
                folder / "data" / "imserver.db", timeout=60, isolation_level=None
            )
            lock.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                lock.close()

        yield (
            nodes.servers[0],
            redis_away if request.param == "redis" else database_away,
        )


def temporary(answer: Response) -> bool:
    """Whether it is the refusal of a publication that nothing has accepted. It
    must be that or a success."""
    if answer.status == 200:
        return False
    assert (answer.status, answer.json["code"], answer.json["temporary"]) == (
        503,
        "not_accepted",
        True,
    )
    return True


def retained(server: Server, channel: str) -> list[Any]:
    """The publications in the history of a channel."""
    page = good(server.http, "channels/history", key=KEY, app="shop", channel=channel)
    return list(page["publications"])


def news(name: str, **fields: Any) -> dict[str, Any]:
    return {"app": "shop", "channel": f"news:{name}", "text": name, **fields}


def v1(path: str, body: dict[str, Any], idempotency_key: str = "") -> Edge:
    headers = [
        AUTHORISED,
        *([("Idempotency-Key", idempotency_key)] if idempotency_key else []),
    ]
    data = request(
        f"/api/v1/{path}",
        method="POST",
        headers=headers,
        body=json.dumps(body).encode(),
    )
    return lambda server: temporary(ask(server.http, data))


def in_a_batch(server: Server) -> bool:
    body = {"commands": [{"channels/publish": news("batch", id="x1")}]}
    (result,) = good(server.http, "batch", body, key=KEY)["results"]
    assert (result["status"], result["body"].get("temporary")) in (
        (200, None),
        (503, True),
    )
    return bool(result["status"] == 503)


def by_a_publisher(server: Server) -> bool:
    with open_socket(server.http, "/api/v1/publisher", more=[AUTHORISED]) as line:
        line.send(text(json.dumps({"seq": 1, "publish": news("publisher", id="w1")})))
        answer = line.message().json
    if "error" not in answer:
        assert answer["sent"] == 1 or answer["results"][0]["status"] == "repeated"
        return False
    assert (answer["error"]["code"], answer["error"]["temporary"]) == (
        "not_accepted",
        True,
    )
    return True


def centrifugo(server: Server, method: str, **body: Any) -> Any:
    headers = [("X-API-Key", KEY)]
    data = json.dumps(body).encode()
    answer = ask(
        server.http,
        request(f"/api/{method}", method="POST", headers=headers, body=data),
    )
    assert answer.status == 200
    return answer.json


def has_failed(reply: Any) -> bool:
    if "error" in reply:
        assert reply["error"] == {"code": 100, "message": "internal server error"}
    return "error" in reply


def by_centrifugo(server: Server) -> bool:
    body = {"channel": "news:centrifugo", "data": 1, "idempotency_key": "c1"}
    return has_failed(centrifugo(server, "publish", **body))


def by_centrifugos_batch(server: Server) -> bool:
    body = {"channels": ["news:cf-broadcast"], "data": 1, "idempotency_key": "c2"}
    (reply,) = centrifugo(server, "batch", commands=[{"broadcast": body}])["replies"]
    return has_failed(reply["broadcast"]["responses"][0])


def by_pusher(server: Server) -> bool:
    event = {"name": "e", "channels": ["news-pusher"], "data": "x"}
    answer = pusher.call(server, "POST", "/apps/7/events", event)
    assert answer.status in (200, 503)
    return answer.status == 503


TWO = {
    "app": "shop",
    "channels": ["news:broadcast", "news:also"],
    "text": "x",
    "id": "b1",
}
TO_SOME = {
    "app": "shop",
    "targets": [{"channel": "news:keyed-push"}, {"user": "nobody"}],
    "text": "x",
}
EDGES: dict[str, tuple[Edge, list[str]]] = {
    "publish": (v1("channels/publish", news("published", id="p1")), ["news:published"]),
    "publish without an id": (
        v1("channels/publish", news("keyed"), "k1"),
        ["news:keyed"],
    ),
    "broadcast": (v1("channels/broadcast", TWO), ["news:broadcast", "news:also"]),
    "push": (v1("push", news("pushed", id="u1")), ["news:pushed"]),
    "push to a channel and an absent user": (
        v1("push", TO_SOME, "k2"),
        ["news:keyed-push"],
    ),
    "batch": (in_a_batch, ["news:batch"]),
    "publisher": (by_a_publisher, ["news:publisher"]),
    "centrifugo": (by_centrifugo, ["news:centrifugo"]),
    "a batch of centrifugo": (by_centrifugos_batch, ["news:cf-broadcast"]),
    "pusher": (by_pusher, []),  # its protocol has no ids
}
"""Each way to publish, and the channels that then have its publication once."""


def test_back_ends_get_a_temporary_error_and_their_repeats_are_accepted_once(
    outage: tuple[Server, Away],
) -> None:
    server, away = outage
    with ThreadPoolExecutor(len(EDGES)) as pool:
        with away():
            refused = list(pool.map(lambda row: row[0](server), EDGES.values()))
        assert [name for name, has in zip(EDGES, refused, strict=True) if not has] == []
        for name, (edge, _) in EDGES.items():
            eventually(lambda edge=edge: not edge(server), what=f"{name} is accepted")
    for edge, channels in EDGES.values():
        assert not channels or not edge(server)
        assert [len(retained(server, channel)) for channel in channels] == [1] * len(
            channels
        )


def test_clients_get_a_temporary_error(outage: tuple[Server, Away]) -> None:
    server, away = outage
    with logged_in(server.ws, "ann", "shop") as cmd, Raw(server.ws) as centrifuge:
        assert cmd.ask_cmd("subscribe", {"channel": "news:clients"})[0] == 200
        centrifuge.upgrade("/connection/websocket")
        centrifuge.send(
            text(
                '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news:clients"}}'
            )
        )
        assert "connect" in centrifuge.message().json
        assert "subscribe" in centrifuge.message().json
        publish = {"channel": "news:clients", "text": "x"}
        with away():
            code, _, data = cmd.ask_cmd("publish", publish)
            assert (code, data["refused"]) == (1008, "unavailable")
            centrifuge.send(
                text(
                    json.dumps(
                        {"id": 3, "publish": {"channel": "news:clients", "data": 1}}
                    )
                )
            )
            while not (answer := centrifuge.message().json):
                pass  # a ping
            assert answer["error"] == {
                "code": 100,
                "message": "internal server error",
                "temporary": True,
            }
        eventually(lambda: cmd.ask_cmd("publish", publish)[0] == 200)


def test_some_were_accepted_so_each_has_its_status(outage: tuple[Server, Away]) -> None:
    server, away = outage
    body = {
        "app": "shop",
        "channels": ["live:some", "news:some"],
        "text": "x",
        "id": "s1",
    }
    with logged_in(server.ws, "ann", "shop") as cmd:
        assert cmd.ask_cmd("subscribe", {"channel": "live:some"})[0] == 200

        def statuses() -> list[str]:
            answer = call(server.http, "channels/broadcast", body, key=KEY)
            assert answer.status == 200
            return [each["status"] for each in answer.json["results"]]

        with away():
            assert statuses() == ["sent", "failed"]
        eventually(lambda: statuses()[1] in ("sent", "repeated"))
        assert statuses() == ["repeated", "repeated"]
        assert cmd.push("publication").json["response"]["data"]["text"] == "x"
        cmd.no_push("publication")


def test_the_end_of_a_streamed_message_is_refused_and_stored_once(
    outage: tuple[Server, Away],
) -> None:
    server, away = outage
    stream = good(server.http, "channels/stream/open", news("stream"), key=KEY)[
        "stream"
    ]
    end = {"app": "shop", "stream": stream}

    def closed() -> Response:
        return call(server.http, "channels/stream/close", end, key=KEY)

    with away():
        assert temporary(closed())
    eventually(lambda: not temporary(closed()), what="the stream is closed")
    assert closed().json["status"] == "repeated"
    assert [each["text"] for each in retained(server, "news:stream")] == ["stream"]
