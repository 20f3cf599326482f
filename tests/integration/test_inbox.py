"""What a user keeps about conversations, over the wire: commands, routes, other devices, two nodes."""

from collections.abc import Iterator
from typing import Any

import pytest

from . import v1
from .clusters import Nodes, nodes_of
from .cmd import CmdClient, logged_in
from .setting import MULTI
from .test_messaging import send

NOTHING = {"pinned": 0, "archived": 0, "marked": 0}
DRAFT = {"text": "tea with @Bob", "replyTo": 1, "mentions": [{"name": "Bob", "user": "bob"}]}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    apps = {str(MULTI): {"open": True, "login_policy": "multi"}}
    limits = {"pins": 1, "drafts": 1}
    with nodes_of(tmp_path_factory.mktemp("inbox"), 2, apps=apps, inbox=limits) as two:
        yield two


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


def test_a_change_reaches_the_devices_at_all_nodes_and_the_back_end(nodes: Nodes) -> None:
    with (
        logged_in(nodes.ws[0], "ann", MULTI, cursor=0) as phone,
        logged_in(nodes.ws[1], "ann", MULTI, cursor=0) as desk,
        logged_in(nodes.ws[1], "bob", MULTI, cursor=0) as bob,
    ):
        where = send(phone, "bob", "one")["conversation"]
        desk.push("message")
        row = {"conversation": where, **NOTHING, "pinned": 7}
        assert changed(phone, conversation=where, pinned=7) == row
        assert arrived(desk) == row
        row |= {"draft": DRAFT}
        assert changed(desk, conversation=where, draft=DRAFT) == row
        assert arrived(phone) == row
        page = phone.ask_cmd("arrangements", {})[2]
        assert [{**each, "version": 0} for each in page["arrangements"]] == [{**row, "version": 0}]
        assert phone.ask_cmd("arrangements", {"version": page["version"]})[2] == {
            "arrangements": [],
            "version": page["version"],
            "hasMore": False,
        }
        on_behalf = {"app": str(MULTI), "user": "ann"}
        (shown,) = v1.good(nodes.http[0], "inbox", **on_behalf)["conversations"]
        assert (shown["pinned"], shown["draft"]["reply_to"]) == (7, 1)
        change = {**on_behalf, "conversation": where, "archived": 9, "draft": {}}
        v1.good(nodes.http[1], "inbox", change)
        row = {"conversation": where, **NOTHING, "archived": 9}
        for each in (phone, desk):
            assert arrived(each) == row
        bob.no_push("arrangement")
