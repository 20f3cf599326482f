"""What crosses two nodes beside stored messages: signals, and what users
arrange."""

from typing import Any

from .clusters import Nodes, app_with
from .cmd import CmdClient, logged_in
from .v1 import good


def send(one: CmdClient, to: str, text: str, **more: Any) -> dict[str, Any]:
    code, _, data = one.ask_cmd("send", {"to": to, "text": text, **more})
    assert code == 200, code
    found: dict[str, Any] = data
    return found


def test_typing_and_receipts_cross_nodes(nodes: Nodes) -> None:
    app = app_with("multi")
    with (
        logged_in(nodes.ws[0], "ann", app, cursor=0) as ann,
        logged_in(nodes.ws[0], "bob", app, cursor=0) as phone,
        logged_in(nodes.ws[1], "bob", app, cursor=0) as desk,
    ):
        assert desk.ask_cmd("typing", {"to": "ann"})[0] == 200
        assert ann.push("typing").json["response"]["data"] == {
            "from": "bob",
            "to": "ann",
        }
        sent = send(ann, "bob", "tea")
        assert (
            desk.ask_cmd(
                "read", {"conversation": sent["conversation"], "id": sent["id"]}
            )[0]
            == 200
        )
        received = {
            "from": "bob",
            "conversation": sent["conversation"],
            "read": sent["id"],
        }
        for one in (ann, phone):
            assert one.push("receipt").json["response"]["data"] == received


def test_what_a_user_arranges_reaches_the_devices_at_all_nodes_and_the_back_end(
    nodes: Nodes,
) -> None:
    app = app_with("multi")
    nothing = {"pinned": 0, "archived": 0, "marked": 0}
    draft = {
        "text": "tea with @Bob",
        "replyTo": 1,
        "mentions": [{"name": "Bob", "user": "bob"}],
    }

    def changed(one: CmdClient, **change: Any) -> Any:
        """The answer to a change, without its version."""
        code, _, answer = one.ask_cmd("arrange", change)
        assert code == 200, (code, answer)
        assert answer.pop("version") > 0
        return answer

    def arrived(one: CmdClient) -> Any:
        data = one.push("arrangement").json["response"]["data"]
        assert data.pop("version") > 0
        return data

    with (
        logged_in(nodes.ws[0], "ann", app, cursor=0) as phone,
        logged_in(nodes.ws[1], "ann", app, cursor=0) as desk,
        logged_in(nodes.ws[1], "bob", app, cursor=0) as bob,
    ):
        where = send(phone, "bob", "one")["conversation"]
        desk.push("message")
        row = {"conversation": where, **nothing, "pinned": 7}
        assert changed(phone, conversation=where, pinned=7) == row
        assert arrived(desk) == row
        row |= {"draft": draft}
        assert changed(desk, conversation=where, draft=draft) == row
        assert arrived(phone) == row
        page = phone.ask_cmd("arrangements", {})[2]
        assert [{**each, "version": 0} for each in page["arrangements"]] == [
            {**row, "version": 0}
        ]
        assert phone.ask_cmd("arrangements", {"version": page["version"]})[2] == {
            "arrangements": [],
            "version": page["version"],
            "hasMore": False,
        }
        on_behalf = {"app": str(app), "user": "ann"}
        (shown,) = good(nodes.http[0], "inbox", **on_behalf)["conversations"]
        assert (shown["pinned"], shown["draft"]["reply_to"]) == (7, 1)
        change = {**on_behalf, "conversation": where, "archived": 9, "draft": {}}
        good(nodes.http[1], "inbox", change)
        row = {"conversation": where, **nothing, "archived": 9}
        for each in (phone, desk):
            assert arrived(each) == row
        listed = [{"id": 7, "name": "Team"}]
        code, _, folders = phone.ask_cmd("setFolders", {"folders": listed})
        assert (code, folders["folders"]) == (200, listed)
        assert desk.push("folders").json["response"]["data"] == folders
        good(nodes.http[1], "inbox/folders", {**on_behalf, "folders": listed[:0]})
        for each in (phone, desk):
            assert each.push("folders").json["response"]["data"]["folders"] == []
        for twice in (
            [*listed, *listed],
            [{"id": 0, "name": "x"}],
            [{"id": 1, "name": "x" * 51}],
            {},
        ):
            assert phone.ask_cmd("setFolders", {"folders": twice})[0] == 1001
        bob.no_push("arrangement")
