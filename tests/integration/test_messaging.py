"""Stored messages over the wire, on both HTTP servers: sent, delivered, synced, and there after a kill."""

import signal
from pathlib import Path
from typing import Any

import pytest

from .cmd import CmdClient, logged_in
from .setting import Launch


def ids(one: CmdClient, count: int) -> list[int]:
    """The ids of the next pushes of what is stored."""
    return [one.push("message").json["response"]["data"]["id"] for _ in range(count)]


def send(one: CmdClient, to: str, text: str, **more: Any) -> dict[str, Any]:
    code, _, data = one.ask_cmd("send", {"to": to, "text": text, **more})
    assert code == 200, code
    found: dict[str, Any] = data
    return found


def test_a_node_that_stores_nothing_opens_no_database(launch: Launch, http_server: str) -> None:
    server = launch(http_server)
    with logged_in(server.ws, "ann", 101) as ann:
        assert ann.ask_cmd("sync", {"cursor": 0})[2] == {"messages": [], "hasMore": False}
        assert ann.ask_cmd("conversations", {})[2] == {"conversations": [], "hasMore": False}
        assert ann.ask_cmd("history", {"conversation": 1})[2] == {"messages": [], "hasMore": False}
        assert ann.ask_cmd("search", {"text": "tea"})[2]["messages"] == []
        assert ann.ask_cmd("receipts", {"conversation": 1})[2] == {"receipts": [], "hasMore": False}
        assert ann.ask_cmd("marks", {})[2] == {"version": 0, "read": [], "hidden": [], "receipts": []}
        assert ann.ask_cmd("hide", {"ids": [1]})[0] == 200
        assert ann.ask_cmd("read", {"conversation": 1, "id": 1})[0] == 1005
        for command in ("recall", "react", "pin"):
            assert ann.ask_cmd(command, {"id": 1, "emoji": "+1"})[0] in (1003, 1005), command
    assert not list(server.folder.rglob("imserver.db"))


@pytest.mark.full
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_acknowledged_is_there_after_the_server_has_ended(
    launch: Launch, http_server: str, kill: signal.Signals, tmp_path: Path
) -> None:
    quick = {"close_seconds": 0.1}  # ann does not answer a close
    server = launch(http_server, server={"data_dir": str(tmp_path)}, websocket=quick)
    with logged_in(server.ws, "ann", 101) as ann:
        wanted = [send(ann, "bob", str(number), clientMsgID=str(number))["id"] for number in range(20)]
        server.stop(kill)
    server = launch(http_server, server={"data_dir": str(tmp_path)})
    with logged_in(server.ws, "ann", 101) as ann, logged_in(server.ws, "bob", 101, cursor=5) as bob:
        assert ids(bob, 15) == wanted[5:]
        assert send(ann, "bob", "0", clientMsgID="0")["repeated"] is True
        assert wanted == list(range(1, 21))
