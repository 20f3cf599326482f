"""What users of the action dialect say to each other, in an app that keeps it: on both HTTP servers."""

import pytest

from tests.support import Server

from .action import ActionClient, action_session
from .cmd import cmd_client, logged_in
from .setting import Launch
from .v1 import good

MISSED = 450
"""More than two pages of what was missed."""
STORING = {"store_conversations": True}


@pytest.fixture(scope="module")
def keeping(launch: Launch, http_server: str) -> Server:
    """A server whose apps keep talks; of the last, all connections of a user are addressed."""
    apps = {**{f"action:{number}": STORING for number in range(1, 8)}, "105": {"same_as": "action:4"}}
    apps["action:8"] = {**STORING, "login_policy": "multi"}
    return launch(http_server, apps=apps)


def texts_of(one: ActionClient, count: int) -> list[str]:
    """What the next messages say."""
    return [one.received()["content"] for _ in range(count)]


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


def test_messages_without_a_pong_are_sent_again(keeping: Server) -> None:
    with action_session(keeping.ws, "ann", 2, "bob") as ann, action_session(keeping.ws, "bob", 2) as bob:
        bob.deaf = True
        ann.say("one")
        bob.until_pinged()
        assert texts_of(bob, 1) == ["one"]
        for text in ("two", "three"):
            ann.say(text)
        assert texts_of(bob, 2) == ["two", "three"]
        bob.reset()
        with action_session(keeping.ws, "bob", 2) as again:
            assert texts_of(again, 3) == ["one", "two", "three"]


def test_many_missed_messages_arrive_in_order_before_new_ones(keeping: Server) -> None:
    with action_session(keeping.ws, "ann", 3, "bob") as ann:
        for number in range(MISSED):
            ann.say(str(number))
        with action_session(keeping.ws, "bob", 3, "ann") as bob:
            ann.say("new")
            bob.say("hi")
            assert texts_of(bob, MISSED + 1) == [*map(str, range(MISSED)), "new"]
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


def test_messages_to_oneself_are_live_and_not_stored(keeping: Server) -> None:
    with action_session(keeping.ws, "3", 5, "3") as alone:
        alone.say("me")
        alone.receives("3", "me", "3")
    with action_session(keeping.ws, "3", 5, "3") as alone:
        alone.nothing()


def test_a_later_login_of_the_connection_changes_the_peer_and_the_user(keeping: Server) -> None:
    with (
        action_session(keeping.ws, "ann", 6, "bob") as ann,
        action_session(keeping.ws, "bob", 6, "ann") as bob,
        action_session(keeping.ws, "cid", 6, "ann") as cid,
    ):
        ann.login("ann", 6, "cid")
        ann.say("one")
        cid.receives("ann", "one", "cid")
        bob.say("two")
        ann.receives("bob", "two", "ann")
        ann.login("dan", 6, "bob")
        ann.say("three")
        bob.receives("dan", "three", "bob")
        bob.say("four")
        ann.login("eve", 6, room="r")
        ann.say("five")
        ann.receives("eve", "five", "eve")
        ann.login("ann", 6, "0")
        assert texts_of(ann, 2) == ["two", "four"]


def test_no_other_connection_of_the_sender_receives_it(keeping: Server) -> None:
    with (
        action_session(keeping.ws, "ann", 8, "bob") as ann,
        action_session(keeping.ws, "ann", 8, "bob") as other,
        action_session(keeping.ws, "bob", 8) as phone,
        action_session(keeping.ws, "bob", 8) as desk,
    ):
        ann.say("one")
        for one in (phone, desk):
            one.receives("ann", "one", "bob")
        other.nothing()
    with action_session(keeping.ws, "ann", 8) as again:
        again.nothing()


def test_an_app_may_be_set_to_store_its_conversations(keeping: Server) -> None:
    created = good(
        keeping.http, "apps/create", {"app": "action:77", "settings": {"store_conversations": True}}
    )
    assert created["store_conversations"] is True
    with action_session(keeping.ws, "ann", 77, "bob") as ann:
        ann.say("one")
    with action_session(keeping.ws, "bob", 77) as bob:
        bob.receives("ann", "one", "bob")
