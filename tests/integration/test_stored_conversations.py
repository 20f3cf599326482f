"""What users of the action dialect say to each other and in rooms, in an app that keeps it."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import Server, eventually

from .action import ActionClient, action_session
from .cmd import cmd_client, logged_in
from .setting import Launch
from .v1 import good

MISSED = 450
"""More than two pages of what was missed."""
STORING = {"store_conversations": True}
ROOM = "room 1 厅"


@pytest.fixture(scope="module")
def keeping(launch: Launch, http_server: str) -> Server:
    """A server whose apps keep talks. Of the second, room ``h`` has stored members; the fourth and fifth are
    apps of another dialect, too."""
    apps: dict[str, Any] = {f"action:{number}": STORING for number in (1, 3, 4, 5)}
    apps["action:2"] = {**STORING, "room_members": {"h": ["ann", "bob"]}}
    apps |= {str(number + 101): {"same_as": f"action:{number}"} for number in (4, 5)}
    return launch(http_server, apps=apps)


def heard(one: ActionClient, number: int) -> list[str]:
    """What the next messages say; that somebody has left is passed over."""
    found: list[str] = []
    while len(found) < number:
        received = one.received()
        if received["action"] == "sendmsg":
            found.append(received["content"])
    return found


def test_absent_users_get_missed_messages_at_the_next_login_once(keeping: Server) -> None:
    with action_session(keeping.ws, "ann", 1, "bob") as ann:
        ann.say("one")
        ann.say("https://im.example.com/a.png", "image")
        with action_session(keeping.ws, "bob", 1, "cid") as bob:
            first, second = bob.receives("ann", "one", "bob"), bob.received()
            assert (second["msgType"], second["content"]) == ("image", "https://im.example.com/a.png")
            assert (first["msgId"], second["msgId"]) == ("say", "say")
            ann.say("three")
            bob.receives("ann", "three", "bob")
            bob.until_pinged()
        ann.say("four")
        ann.nothing()
        with action_session(keeping.ws, "bob", 1, "ann") as again:
            again.receives("ann", "four", "bob")
            ann.say("five")
            again.receives("ann", "five", "bob")


def test_many_missed_messages_arrive_in_order_before_new_ones(keeping: Server) -> None:
    with action_session(keeping.ws, "ann", 3, "bob") as ann:
        for number in range(MISSED):
            ann.say(str(number))
        with action_session(keeping.ws, "bob", 3, "ann") as bob:
            ann.say("new")
            bob.say("hi")
            assert heard(bob, MISSED + 1) == [*map(str, range(MISSED)), "new"]
            ann.receives("bob", "hi", "ann")


def test_clients_of_other_dialects_take_part(keeping: Server) -> None:
    with action_session(keeping.ws, "ann", 4, "bob") as ann, cmd_client(keeping.ws) as bob:
        ann.say("hi", "voice")
        bob.login("bob", 105, cursor=0)
        received = bob.push("message").json["response"]["data"]
        assert (received["from"], received["type"], received["text"]) == ("ann", "voice", "hi")
        code, _, back = bob.ask_cmd("send", {"to": "ann", "text": "back"})
        assert code == 200
        # Who has no seq is known by the number of the message.
        assert ann.receives("bob", "back", "ann")["msgId"] == str(back["id"])
        bob.ask_cmd("recall", {"id": back["id"]})
        push = {"app": "105", "user": "ann", "sender": "shop", "text": "kept", "store": True}
        assert good(keeping.http, "push", push)["sent"] == 1
        ann.receives("shop", "kept", "ann")


def test_absent_users_get_edited_messages_and_no_recalled_ones(keeping: Server) -> None:
    with logged_in(keeping.ws, "ann", 105) as ann:
        secret, wrong = (
            ann.ask_cmd("send", {"to": "dan", "text": text})[2]["id"] for text in ("secret", "helo")
        )
        assert ann.ask_cmd("recall", {"id": secret})[0] == 200
        assert ann.ask_cmd("edit", {"id": wrong, "text": "hello"})[0] == 200
        with action_session(keeping.ws, "dan", 4, "ann") as dan:
            dan.receives("ann", "hello", "dan")
            dan.nothing()


@pytest.mark.full
def test_stored_members_get_all_messages_with_any_receiver(keeping: Server) -> None:
    with action_session(keeping.ws, "cid", 2, room="h") as cid:
        cid.say("before anybody")
        with action_session(keeping.ws, "bob", 2, "ann") as bob:
            assert heard(bob, 1) == ["before anybody"]
            cid.say("live")
            assert heard(bob, 1) == ["live"]
            bob.until_pinged()
        cid.say("later")
        with action_session(keeping.ws, "bob", 2, "cid") as bob:
            assert heard(bob, 1) == ["later"]
            bob.until_pinged()
            with action_session(keeping.ws, "bob", 2, room="h") as bob:
                bob.ask_action("nothing")
                assert "sendmsg" not in [each["action"] for each in bob.pushed]
        with action_session(keeping.ws, "ann", 2, room="h") as ann:
            assert heard(ann, 3) == ["before anybody", "live", "later"]


def test_members_of_another_dialect_receive_messages_in_a_room_live(keeping: Server) -> None:
    with (
        action_session(keeping.ws, "ann", 5, room=ROOM) as ann,
        logged_in(keeping.ws, "bob", 106) as bob,
        logged_in(keeping.ws, "cid", 106, cursor=0) as following,
    ):
        joined = good(
            keeping.http,
            "channels/subscribe",
            {"app": "106", "channel": ROOM, "users": ["ann", "bob", "cid"]},
        )
        assert joined["subscribed"] == 2
        for number in range(3):
            ann.say(str(number))
        for one in (bob, following):
            received = [one.push("msg").json for _ in range(3)]
            assert [each["response"]["data"]["msg"] for each in received] == ["0", "1", "2"]
            one.no_push("message")
        assert heard(ann, 3) == ["0", "1", "2"]
        push = {"app": "106", "channel": ROOM, "sender": "shop", "text": "live only"}
        assert good(keeping.http, "push", push)["sent"] == 1
        assert heard(ann, 1) == ["live only"]


@pytest.mark.full
def test_without_the_database_senders_get_an_error_and_new_members_miss_nothing(
    launch: Launch, http_server: str
) -> None:
    server = launch(http_server, apps={"action:1": STORING})
    file = Path(server.folder) / "data" / "imserver.db"
    file.mkdir()
    with (
        action_session(server.ws, "ann", 1, room=ROOM) as ann,
        action_session(server.ws, "bob", 1, room=ROOM) as bob,
    ):
        assert ann.ask_action("sendmsg", {"msgType": "text", "message": "lost"}) == (1008, "存储错误")
        file.rmdir()
        eventually(lambda: ann.ask_action("sendmsg", {"msgType": "text", "message": "kept"})[0] == 200)
        ann.say("more")
        assert heard(bob, 2)[-1] == "more"
