"""Receipts over the wire, on both HTTP servers: who is told what was read and received, and who may ask."""

from tests.support import Server

from .cmd import logged_in
from .setting import MULTI
from .test_messaging import send


def test_an_author_learns_what_was_received_and_read(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app, cursor=0) as ann, logged_in(server.ws, "bob", app, cursor=0) as bob:
        sent = [send(ann, "bob", text) for text in ("one", "two")]
        where = sent[0]["conversation"]
        assert bob.ask_cmd("received", {"conversation": where, "id": sent[1]["id"]})[0] == 200
        assert ann.push("receipt").json["response"]["data"] == {
            "from": "bob",
            "conversation": where,
            "received": sent[1]["id"],
        }
        assert bob.ask_cmd("read", {"conversation": where, "id": sent[0]["id"]})[0] == 200
        assert ann.push("receipt").json["response"]["data"] == {
            "from": "bob",
            "conversation": where,
            "read": sent[0]["id"],
        }
        at = {"user": "bob", "read": sent[0]["id"], "received": sent[1]["id"]}
        page = ann.ask_cmd("receipts", {"conversation": where})[2]
        assert page == {"receipts": [at], "hasMore": False}
        marks = ann.ask_cmd("marks", {})[2]
        assert marks["receipts"] == [{**at, "conversation": where}]
        assert ann.ask_cmd("marks", {"version": marks["version"]})[2]["receipts"] == []


def test_who_was_away_learns_it_with_the_sync(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app) as ann, logged_in(server.ws, "bob", app) as bob:
        sent = [send(ann, "bob", text) for text in ("one", "two")]
        where = sent[0]["conversation"]
        assert bob.ask_cmd("hide", {"ids": [sent[1]["id"]]})[0] == 200
        assert bob.ask_cmd("read", {"conversation": where, "id": sent[0]["id"]})[0] == 200
        page = bob.ask_cmd("sync", {"cursor": 0, "version": 0})[2]
        assert page["marks"]["read"] == [{"conversation": where, "id": sent[0]["id"]}]
        assert page["marks"]["hidden"] == [sent[1]["id"]]
        version = page["marks"]["version"]
        assert bob.ask_cmd("sync", {"cursor": 0, "version": version})[2]["marks"] == {
            "version": version,
            "read": [],
            "hidden": [],
            "receipts": [],
        }
        assert "marks" not in bob.ask_cmd("sync", {"cursor": 0})[2]
        assert ann.ask_cmd("sync", {"cursor": 0, "version": 0})[2]["marks"]["receipts"] == [
            {"user": "bob", "read": sent[0]["id"], "received": sent[0]["id"], "conversation": where}
        ]


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


def test_outsiders_learn_nothing_and_change_nothing(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app) as ann, logged_in(server.ws, "eve", app) as eve:
        sent = send(ann, "bob", "one")
        where = sent["conversation"]
        for cmd in ("read", "received"):
            assert eve.ask_cmd(cmd, {"conversation": where, "id": sent["id"]})[0] == 1005
            assert eve.ask_cmd(cmd, {"conversation": where})[0] == 1001
        assert eve.ask_cmd("receipts", {"conversation": where})[2] == {"receipts": [], "hasMore": False}
        assert ann.ask_cmd("receipts", {"conversation": where})[2]["receipts"] == []
        assert eve.ask_cmd("receipts", {})[0] == 1001
        assert eve.ask_cmd("marks", {"version": -1})[0] == 1001


def test_what_was_written_is_found_by_those_who_may_read_it(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app) as ann, logged_in(server.ws, "bob", app) as bob:
        first, second = (send(ann, "bob", text) for text in ("Tea at five", "tea at six"))
        send(ann, "cat", "tea at seven")
        page = bob.ask_cmd("search", {"text": "TEA"})[2]
        assert [each["id"] for each in page["messages"]] == [first["id"], second["id"]]
        assert (page["hasMore"], page["before"]) == (False, 0)
        page = bob.ask_cmd("search", {"text": "tea", "limit": 1})[2]
        assert [each["text"] for each in page["messages"]] == ["tea at six"]
        assert (page["hasMore"], page["before"]) == (True, second["id"])
        more = {"text": "tea", "before": page["before"], "conversation": first["conversation"]}
        assert [each["id"] for each in bob.ask_cmd("search", more)[2]["messages"]] == [first["id"]]
        ann.ask_cmd("recall", {"id": first["id"]})
        assert bob.ask_cmd("search", more)[2]["messages"] == []
        for wrong in ({}, {"text": " "}, {"text": "x" * 257}, {"text": 1}, {"text": "x", "before": -1}):
            assert bob.ask_cmd("search", wrong)[0] == 1001
