"""What expires, over the wire: who comes back from before is told to begin anew."""

import pytest

from tests.support import Server, eventually

from .cmd import CmdClient, cmd_client, logged_in
from .setting import Launch
from .test_messaging import ids, send


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
