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
from .cmd import CmdClient, cmd_client
from .pusher import SHOP as PUSHER
from .pusher import Client as PusherClient
from .raw import Raw, text

PAST = {"subscribe": "anybody", "history_size": 10, "history_seconds": 60}
SHOP = {"open": True, "channels": {"past": PAST}, "pusher": PUSHER}
KEY = "key-of-the-shop-0123456789"
KEYS = {"keys": [{"key": KEY, "scopes": ["push", "read"]}]}
APPS = {"shop": SHOP}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config={"apps": APPS, "api": KEYS})


def good(address: HostAndPort, route: str, body: Any = None, **query: Any) -> Any:
    return v1.good(address, route, body, key=KEY, **query)


def open_stream(address: HostAndPort, channel: str, **fields: Any) -> str:
    opened = good(address, "channels/stream/open", {"app": "shop", "channel": channel, **fields})
    assert opened["channel"] == channel
    stream: str = opened["stream"]
    return stream


def append(address: HostAndPort, *pieces: tuple[str, int, str]) -> list[str]:
    """Append pieces; what became of each."""
    body = [{"stream": stream, "piece": piece, "text": text} for stream, piece, text in pieces]
    answer = good(address, "channels/stream/append", {"app": "shop", "pieces": body})
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
        whole = {"stream": stream, "whole": True, "type": "text"}
        assert found == [
            {"data": {**whole, "piece": 0, "text": ""}},
            {"data": {"stream": stream, "piece": 1, "text": "a"}},
            {"data": {**whole, "piece": 1, "text": "a", "done": True, "incomplete": True}, "offset": 1},
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
