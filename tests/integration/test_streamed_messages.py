"""Streamed messages over nodes of a cluster."""

from pathlib import Path
from typing import Any

import pytest

from imserver.plugin.testing import HostAndPort

from . import v1
from .clusters import nodes_of
from .cmd import CmdClient, cmd_client

PAST = {"subscribe": "anybody", "history_size": 10, "history_seconds": 60}
KEY = "key-of-the-shop-0123456789"
KEYS = {"keys": [{"key": KEY, "scopes": ["push", "read"]}]}
APPS = {"shop": {"open": True, "channels": {"past": PAST}}}


def ask(address: HostAndPort, what: str, **fields: Any) -> Any:
    return v1.good(address, f"channels/stream/{what}", {"app": "shop", **fields}, key=KEY)


def append(address: HostAndPort, stream: str, piece: int) -> str:
    """Append a piece; what became of it."""
    pieces = [{"stream": stream, "piece": piece, "text": str(piece)}]
    status: str = ask(address, "append", pieces=pieces)["results"][0]["status"]
    return status


def log_in(client: CmdClient, user: str, channel: str) -> None:
    client.login(user, "shop")
    assert client.ask_cmd("subscribe", {"channel": channel})[0] == 200


def pushed(client: CmdClient, cmd: str) -> Any:
    """The data of the next push, which must be this one."""
    while (found := client.push().json)["cmd"] in ("enter", "exit"):
        pass
    assert found["cmd"] == cmd, found
    return found["response"]["data"]


@pytest.mark.full("faults")
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
        stream = ask(nodes.http[0], "open", channel=channel)["stream"]
        for piece in range(1, 7):
            assert append(nodes.http[piece % 3], stream, piece) == "appended"
        for client in (ann, bob):
            assert [pushed(client, "stream")["text"] for _ in range(7)] == ["", *"123456"]
        nodes.servers[0].process.kill()
        for client in (ann, bob):
            found = client.push("publication", seconds=40).json["response"]["data"]
            assert (found["text"], found["offset"], found["incomplete"]) == ("123456", 1, True)
        history = v1.good(nodes.http[1], "channels/history", key=KEY, app="shop", channel=channel)
        assert [each["text"] for each in history["publications"]] == ["123456"]
        assert append(nodes.http[1], stream, 7) == "unknown"
        other = ask(nodes.http[1], "open", channel=channel)["stream"]
        assert append(nodes.http[2], other, 1) == "appended"
        assert ask(nodes.http[2], "close", stream=other)["offset"] == 2
        for client in (ann, bob):
            assert [pushed(client, "stream")["text"] for _ in range(2)] == ["", "1"]
            assert pushed(client, "publication")["offset"] == 2
