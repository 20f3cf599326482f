"""Threads over two nodes: replies are entries of their conversation, which nobody misses or gets twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import v1
from .clusters import nodes_of
from .cmd import CmdClient, logged_in
from .setting import MULTI


def pushed(client: CmdClient, kind: str = "message") -> Any:
    return client.push(kind).json["response"]["data"]


def send(client: CmdClient, **data: Any) -> dict[str, Any]:
    code, _, stored = client.ask_cmd("send", data)
    assert code == 200
    return dict(stored)


def test_replies_and_read_positions_cross_nodes_and_catch_up(tmp_path: Path) -> None:
    with nodes_of(tmp_path, 2, apps={str(MULTI): {"open": True, "login_policy": "multi"}}) as nodes:
        one, two = nodes.servers
        with (
            logged_in(one.ws, "ann", MULTI, cursor=0) as ann,
            logged_in(two.ws, "bob", MULTI, cursor=0) as bob,
        ):
            root = send(ann, to="bob", text="tea?")
            where = root["conversation"]
            assert pushed(bob)["id"] == root["id"]
            reply = send(bob, conversation=where, text="yes", thread=root["id"])
            came = pushed(ann)
            assert (came["id"], came["about"], came["meta"]) == (
                reply["id"],
                root["id"],
                {"thread": root["id"]},
            )
            with logged_in(two.ws, "ann", MULTI, cursor=reply["id"]) as desk:
                code, _, thread = ann.ask_cmd("readThread", {"thread": root["id"], "id": reply["id"]})
                assert (code, thread["unread"], thread["follows"]) == (200, 0, True)
                mark = pushed(desk, "threadMark")
                assert (mark["thread"], mark["read"]) == (root["id"], reply["id"])
            assert ann.ask_cmd("thread", {"thread": 10**9})[0] == 1005
            assert ann.ask_cmd("send", {"to": "bob", "text": "x", "also": True})[0] == 1001
        on_behalf = {"app": str(MULTI), "user": "ann", "conversation": where}
        ids = [
            v1.good(one.http, "messages/send", {**on_behalf, "text": str(number), "thread": root["id"]})["id"]
            for number in range(5)
        ]
        with logged_in(two.ws, "bob", MULTI, cursor=reply["id"]) as bob:
            assert [pushed(bob)["id"] for _ in ids] == ids
            bob.no_push("message")
            page = bob.ask_cmd("thread", {"thread": root["id"], "limit": 2})[2]
            assert ([each["id"] for each in page["messages"]], page["hasMore"]) == (ids[-2:], True)
            (listed,) = bob.ask_cmd("threads", {})[2]["threads"]
            assert (listed["thread"], listed["unread"]) == (root["id"], 5)
            assert listed["message"]["meta"]["replies"]["count"] == 6
            (chat,) = bob.ask_cmd("conversations", {})[2]["conversations"]
            assert (chat["unread"], chat["last"]["id"]) == (1, root["id"])
