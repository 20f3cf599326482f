"""Receipts and retention over the wire, on both HTTP servers: who is told what was read, and what expired."""

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, cmd_client, logged_in
from .setting import MULTI, Launch
from .test_messaging import ids, send


def test_an_author_learns_what_was_received_and_read(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app, cursor=0) as ann, logged_in(server.ws, "bob", app, cursor=0) as bob:
        first, second = (send(ann, "bob", text)["id"] for text in ("one", "two"))
        where = bob.push("message").json["response"]["data"]["conversation"]
        for word, id in (("received", second), ("read", first)):
            assert bob.ask_cmd(word, {"conversation": where, "id": id})[0] == 200
            receipt = ann.push("receipt").json["response"]["data"]
            assert receipt == {"from": "bob", "conversation": where, word: id}
        at = {"user": "bob", "read": first, "received": second}
        page = ann.ask_cmd("receipts", {"conversation": where})[2]
        assert page == {"receipts": [at], "hasMore": False}
        marks = ann.ask_cmd("marks", {})[2]
        assert marks["receipts"] == [{**at, "conversation": where}]
        assert ann.ask_cmd("marks", {"version": marks["version"]})[2]["receipts"] == []
        # Who was away learns it with the sync.
        assert ann.ask_cmd("sync", {"cursor": 0, "version": 0})[2]["marks"] == marks
        assert "marks" not in bob.ask_cmd("sync", {"cursor": 0})[2]


def test_the_users_other_devices_are_informed(server: Server) -> None:
    with (
        logged_in(server.ws, "bob", MULTI, cursor=0) as phone,
        logged_in(server.ws, "bob", MULTI, cursor=0) as desk,
        logged_in(server.ws, "ann", MULTI) as ann,
    ):
        sent = send(ann, "bob", "one")
        for each in (phone, desk):
            each.push("message")
        assert phone.ask_cmd("read", {"conversation": sent["conversation"], "id": sent["id"]})[0] == 200
        assert desk.push("receipt").json["response"]["data"] == {
            "from": "bob",
            "conversation": sent["conversation"],
            "read": sent["id"],
        }
        assert phone.ask_cmd("hide", {"ids": [sent["id"]]})[0] == 200
        assert desk.push("hidden").json["response"]["data"] == {"ids": [sent["id"]]}


def _history(one: CmdClient, conversation: int) -> list[str]:
    return [each["text"] for each in one.ask_cmd("history", {"conversation": conversation})[2]["messages"]]


@pytest.mark.full
def test_a_client_from_before_starts_again(launch: Launch, http_server: str) -> None:
    server: Server = launch(
        http_server,
        storage={"expire_seconds": 0.05},
        apps={"105": {"retention_messages": 2}, "106": {"login_policy": "multi"}},
    )
    with (
        logged_in(server.ws, "ann", 105) as ann,
        cmd_client(server.ws) as bob,
        logged_in(server.ws, "ann", 106) as other,
    ):
        sent = [send(ann, "bob", str(number)) for number in range(6)]
        answers = [send(other, "bob", str(number)) for number in range(6)]
        where = sent[0]["conversation"]
        eventually(lambda: _history(ann, where) == ["4", "5"])
        assert len(_history(other, answers[0]["conversation"])) == 6
        assert bob.ask_cmd("login", {"userID": "bob", "appID": 105, "cursor": 1})[2] == {"recovered": False}
        page = bob.ask_cmd("sync", {"cursor": 1})[2]
        assert (page["beginAnew"], [each["text"] for each in page["messages"]]) == (True, ["4", "5"])
        later = send(ann, "bob", "6")
        assert ids(bob, 1) == [later["id"]] == [7]
        assert later["seq"] == 7
