"""Streamed messages over the API, and how clients of each dialect receive them."""

import json
from pathlib import Path
from typing import Any

import pytest

from imserver.plugin.testing import HostAndPort
from tests.conftest import StartServer
from tests.support import Server

from . import v1
from .clusters import nodes_of
from .cmd import CmdClient, cmd_client, logged_in
from .pusher import SHOP as PUSHER
from .pusher import Client as PusherClient
from .raw import Raw, text
from .sse import listening

PAST = {"subscribe": "anybody", "history_size": 10, "history_seconds": 60}
SHOP = {"open": True, "channels": {"past": PAST, "short": {"max_bytes": 3}}, "pusher": PUSHER}
KEY = "key-of-the-shop-0123456789"
KEYS = {"keys": [{"key": KEY, "scopes": ["push", "read"]}]}
APPS = {"shop": SHOP, "narrow": {"open": True}}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    config = {"apps": APPS, "limits": {"open_streams": 3}, "api": KEYS}
    return start_shared_server(config=config)


def good(address: HostAndPort, route: str, body: Any = None, **query: Any) -> Any:
    return v1.good(address, route, body, key=KEY, **query)


def refused(address: HostAndPort, route: str, body: Any) -> Any:
    return v1.refused(address, route, body, key=KEY)


def open_stream(address: HostAndPort, channel: str, **fields: Any) -> str:
    opened = good(address, "channels/stream/open", {"app": "shop", "channel": channel, **fields})
    assert opened["channel"] == channel
    stream: str = opened["stream"]
    return stream


def append(address: HostAndPort, *pieces: tuple[str, int, str], app: str = "shop") -> list[str]:
    """Append pieces; what became of each."""
    body = [{"stream": stream, "piece": piece, "text": text} for stream, piece, text in pieces]
    answer = good(address, "channels/stream/append", {"app": app, "pieces": body})
    return [each["status"] for each in answer["results"]]


def close(address: HostAndPort, stream: str, **fields: Any) -> Any:
    answer = good(address, "channels/stream/close", {"app": "shop", "stream": stream, **fields})
    assert answer.pop("stream") == stream
    return answer


def log_in(client: CmdClient, user: str, channel: str) -> CmdClient:
    client.login(user, "shop")
    assert client.ask_cmd("subscribe", {"channel": channel})[0] == 200
    return client


def pushed(client: CmdClient, cmd: str) -> Any:
    """The data of the next push, which must be this one."""
    while (found := client.push().json)["cmd"] in ("enter", "exit"):
        pass
    assert found["cmd"] == cmd, found
    return found["response"]["data"]


def test_clients_of_the_cmd_dialect_receive_pieces_and_then_the_publication(server: Server) -> None:
    channel = "past:cmd"
    with cmd_client(server.ws) as ann, cmd_client(server.ws) as bob:
        log_in(ann, "ann", channel)
        stream = open_stream(server.http, channel, sender="bot", type="answer", tags={"lang": "de"})
        assert append(server.http, (stream, 1, "H"), (stream, 2, "al")) == ["appended"] * 2
        assert append(server.http, (stream, 3, "lo")) == ["appended"]
        head = {"channel": channel, "from": "bot", "type": "answer", "tags": {"lang": "de"}}
        begun = {"stream": stream, "piece": 0, "text": "", "whole": True, **head}
        assert pushed(ann, "stream") == begun
        assert pushed(ann, "stream") == {"stream": stream, "piece": 1, "text": "Hal", "channel": channel}
        assert pushed(ann, "stream") == {"stream": stream, "piece": 2, "text": "lo", "channel": channel}
        log_in(bob, "bob", channel)
        assert pushed(bob, "stream") == {**begun, "piece": 2, "text": "Hallo"}
        closed = close(server.http, stream)
        assert closed == {"status": "closed", "channel": channel, "offset": 1, "epoch": closed["epoch"]}
        assert close(server.http, stream) == {**closed, "status": "repeated"}
        end = {**head, "offset": 1, "epoch": closed["epoch"], "id": stream, "text": "Hallo", "stream": stream}
        assert pushed(ann, "publication") == pushed(bob, "publication") == end
        (past,) = good(server.http, "channels/history", app="shop", channel=channel)["publications"]
        assert (past["id"], past["text"], past["sender"]) == (stream, "Hallo", "bot")


def test_a_user_of_another_dialect_receives_the_end_as_an_ordinary_message(server: Server) -> None:
    channel = "team"
    with logged_in(server.ws, "ann", "shop") as ann, listening(server.http, "shop", "bob") as bob:
        good(server.http, "channels/subscribe", {"app": "shop", "channel": channel, "users": ["ann", "bob"]})
        stream = open_stream(server.http, channel, text="a")
        append(server.http, (stream, 1, "b"))
        close(server.http, stream, incomplete=True)
        assert pushed(ann, "msg")["msg"] == "ab"
        events: list[Any] = []
        while not events or events[-1]["event"] != "msg":
            found = bob.event().data
            if found["event"] in ("stream", "msg"):
                events.append(found)
        assert events[0]["data"] == {
            "stream": stream,
            "piece": 0,
            "text": "a",
            "whole": True,
            "channel": channel,
            "type": "text",
        }
        assert events[1]["data"] == {"stream": stream, "piece": 1, "text": "b", "channel": channel}
        assert (events[2]["id"], events[2]["text"]) == (stream, "ab")


def test_clients_of_centrifugo_receive_publications_with_json(server: Server) -> None:
    channel = "past:centrifuge"
    with Raw(server.ws) as client:
        client.upgrade("/connection/shop/websocket")
        client.send(text('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"past:centrifuge"}}'))
        stream = ""
        found: list[Any] = []
        while len(found) < 3:
            for line in client.message().payload.split(b"\n"):
                frame = json.loads(line)
                if "subscribe" in frame:
                    stream = open_stream(server.http, channel)
                    append(server.http, (stream, 1, "a"))
                    close(server.http, stream, incomplete=True)
                elif "push" in frame:
                    assert frame["push"]["channel"] == channel
                    found.append(frame["push"]["pub"])
        assert found == [
            {"data": {"stream": stream, "piece": 0, "text": "", "whole": True, "type": "text"}},
            {"data": {"stream": stream, "piece": 1, "text": "a"}},
            {
                "data": {
                    "stream": stream,
                    "piece": 1,
                    "text": "a",
                    "whole": True,
                    "done": True,
                    "incomplete": True,
                    "type": "text",
                },
                "offset": 1,
            },
        ]


def test_clients_of_pusher_receive_events(server: Server) -> None:
    with PusherClient(server.ws) as client:
        assert client.subscribes("answers") == {}
        stream = open_stream(server.http, "answers", sender="bot")
        append(server.http, (stream, 1, "a"))
        close(server.http, stream)
        head = {"from": "bot", "type": "text"}
        for expected in (
            {"stream": stream, "piece": 0, "text": "", "whole": True, **head},
            {"stream": stream, "piece": 1, "text": "a"},
            {"stream": stream, "piece": 1, "text": "a", "whole": True, "done": True, **head},
        ):
            assert client.event("imserver:stream", "answers") == expected


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("open", {"channel": ""}),
        ("open", {"channel": "ö" * 128}),
        ("open", {"channel": "short:1", "text": "abcd"}),
        ("open", {"channel": "x", "text": 1}),
        ("open", {"channel": "x", "data": {}}),
        ("append", {"pieces": []}),
        ("append", {"pieces": [{"stream": "x", "piece": 0, "text": "a"}]}),
        ("append", {"pieces": [{"stream": "x", "piece": 1, "text": ""}]}),
        ("append", {"pieces": [{"stream": "x", "piece": 1}]}),
        ("append", {"pieces": [{"stream": "x", "piece": 1, "text": "a"}] * 1001}),
        ("close", {"stream": ""}),
        ("close", {"stream": "x", "incomplete": 1}),
    ],
)
def test_bad_requests_are_refused(server: Server, route: str, fields: dict[str, Any]) -> None:
    found = refused(server.http, f"channels/stream/{route}", {"app": "shop", **fields})
    assert found[:2] == (400, "invalid_request")


def test_limits_and_other_apps_are_refused(server: Server) -> None:
    body = {"app": "narrow", "channel": "x"}
    streams = [good(server.http, "channels/stream/open", body)["stream"] for _ in range(3)]
    assert refused(server.http, "channels/stream/open", body)[:2] == (409, "too_many_streams")
    assert append(server.http, (streams[0], 1, "a"), ("x", 1, "a")) == ["unknown"] * 2
    assert close(server.http, streams[0]) == {"status": "unknown"}
    pieces = [(streams[0], 2, "a"), (streams[0], 1, "a"), (streams[0], 1, "a")]
    assert append(server.http, *pieces, app="narrow") == ["gap", "appended", "repeated"]
    assert append(server.http, (streams[1], 1, "a" * 131073), app="narrow") == ["too_long"]
    for stream in streams:
        good(server.http, "channels/stream/close", {"app": "narrow", "stream": stream})
    assert append(server.http, (streams[0], 2, "a"), app="narrow") == ["closed"]


def test_a_batch_may_have_streams(server: Server) -> None:
    stream = open_stream(server.http, "batched")
    piece = {"app": "shop", "pieces": [{"stream": stream, "piece": 1, "text": "a"}]}
    end = {"app": "shop", "stream": stream}
    commands = [{"channels/stream/append": piece}, {"channels/stream/close": end}]
    results = good(server.http, "batch", {"commands": commands})["results"]
    assert results[0]["body"]["results"][0]["status"] == "appended"
    assert results[1]["body"]["status"] == "closed"


@pytest.mark.full
def test_a_stream_of_a_killed_node_ends_for_subscribers_of_others(tmp_path: Path) -> None:
    """Pieces through any node; the first node is killed, and the message is closed, once."""
    channel = "past:killed"
    with (
        nodes_of(tmp_path, 3, apps=APPS, api=KEYS) as nodes,
        cmd_client(nodes.ws[1]) as ann,
        cmd_client(nodes.ws[2]) as bob,
    ):
        log_in(ann, "ann", channel)
        log_in(bob, "bob", channel)
        stream = open_stream(nodes.http[0], channel)
        for piece in range(1, 7):
            assert append(nodes.http[piece % 3], (stream, piece, str(piece))) == ["appended"]
        for client in (ann, bob):
            assert [pushed(client, "stream")["text"] for _ in range(7)] == ["", *"123456"]
        nodes.servers[0].process.kill()
        for client in (ann, bob):
            found = client.push("publication", seconds=40).json["response"]["data"]
            assert (found["text"], found["offset"], found["incomplete"]) == ("123456", 1, True)
        history = good(nodes.http[1], "channels/history", app="shop", channel=channel)
        assert [each["text"] for each in history["publications"]] == ["123456"]
        assert append(nodes.http[1], (stream, 7, "7")) == ["unknown"]
        other = open_stream(nodes.http[1], channel)
        assert append(nodes.http[2], (other, 1, "a")) == ["appended"]
        assert close(nodes.http[2], other)["offset"] == 2
        for client in (ann, bob):
            assert [pushed(client, "stream")["text"] for _ in range(2)] == ["", "a"]
            assert pushed(client, "publication")["offset"] == 2
