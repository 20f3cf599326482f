"""What is said in rooms of the action dialect, in an app that keeps it: on both HTTP servers."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import Server, eventually
from tests.users import User

from .action import ActionClient, action_client, action_session, command, login_data
from .cmd import logged_in
from .receiver import Receiver
from .setting import Launch
from .v1 import good

STORING = {"store_conversations": True}
VISITS = 6
"""How often somebody comes and goes while others speak."""
MISSED = 450
"""More than two pages of what was missed."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """The back end of the sixth app."""
    with Receiver() as one:
        yield one


@pytest.fixture(scope="module")
def keeping(launch: Launch, http_server: str, receiver: Receiver) -> Server:
    """A server whose apps keep talks. Of the second, room ``h`` has stored members; of the third, all
    connections of a user are addressed; the fourth is an app of another dialect, too; the fifth does not keep
    anything. From the tenth on each test has one of its own."""
    apps: dict[str, Any] = {f"action:{number}": STORING for number in range(10, 60)}
    apps["action:2"] = {**STORING, "room_members": {"h": ["ann", "bob"]}}
    apps["action:3"] = {**STORING, "login_policy": "multi"}
    apps["action:4"] = STORING
    apps["105"] = {"same_as": "action:4"}
    apps["action:6"] = {**STORING, "webhook": receiver.settings}
    apps["action:5"] = {}
    apps["action:60"] = {**STORING, "account_tokens": "required"}
    return launch(http_server, apps=apps)


_numbers = count(10)


ROOM = "room 1 厅"


@pytest.fixture
def app() -> int:
    """An app that no other test has."""
    return next(_numbers)


def messages(one: ActionClient, number: int) -> list[dict[str, Any]]:
    """The next messages; that somebody has left is passed over."""
    found: list[dict[str, Any]] = []
    while len(found) < number:
        received = one.received()
        if received["action"] == "sendmsg":
            found.append(received)
    return found


def heard(one: ActionClient, number: int) -> list[str]:
    """What the next messages say."""
    return [received["content"] for received in messages(one, number)]


def nothing(one: ActionClient) -> None:
    """No message came before the answer to a request sent now."""
    one.ask_action("nothing")
    found, one.pushed = one.pushed, []
    assert not [received for received in found if received["action"] == "sendmsg"]


@contextmanager
def been(server: Server, user: str, app: int, room: str) -> Iterator[None]:
    """A user has logged in to a room once, and gone."""
    with action_session(server.ws, user, app, room=room) as one:
        one.ask_action("heartbeat", {})
    yield


@pytest.mark.full
def test_absent_users_get_missed_messages_at_the_next_login_to_the_room_once(
    keeping: Server, app: int
) -> None:
    with action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            ann.say("live")
            assert heard(bob, 1) == ["live"]
            bob.until_pinged()
        for number in range(3):
            ann.say(f"missed {number}")
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            ann.say("new")
            assert heard(bob, 4) == ["missed 0", "missed 1", "missed 2", "new"]
            bob.until_pinged()
            bob.say("hi")
            assert heard(bob, 1) == ["hi"]
        assert heard(ann, 6) == ["live", "missed 0", "missed 1", "missed 2", "new", "hi"]


def test_missed_messages_look_like_live_ones(keeping: Server, app: int) -> None:
    with been(keeping, "bob", app, ROOM), action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        ann.say("https://im.example.com/a.png", "image", "1605-3")
        ann.say('{"a": "安\\u0000"}', "", "")
        ann.say("", "custom", "é\n")
        live = messages(ann, 3)
        with action_client(keeping.ws) as bob:
            bob.send(command("login", login_data("bob", app, room=ROOM)))
            assert bob.message().json["response"]["code"] == 200
            frames = [bob.message().payload for _ in range(3)]
    assert [received["msgId"] for received in live] == ["1605-3", live[1]["msgId"], "é\n"]
    for payload, received in zip(frames, live, strict=True):
        text = json.dumps(
            {"code": 200, "msg": "success", "data": {**received, "to": "bob"}}, ensure_ascii=False
        )
        assert json.loads(payload) == json.loads(text)
        assert list(json.loads(payload)["data"]) == list(received)


def test_a_first_login_to_a_room_gets_no_earlier_messages(keeping: Server, app: int) -> None:
    with action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        ann.say("before")
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            nothing(bob)
        ann.say("after")
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            assert heard(bob, 1) == ["after"]


def test_a_login_to_another_receiver_gets_no_messages_of_the_room(keeping: Server, app: int) -> None:
    with been(keeping, "bob", app, ROOM), action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        ann.say("one")
        with action_session(keeping.ws, "bob", app, "ann") as bob:
            ann.say("two")
            bob.say("to you alone")
            assert heard(ann, 3) == ["one", "two", "to you alone"]
            nothing(bob)
            ann.login("ann", app, "bob")
            ann.say("to you, too")
            assert heard(bob, 1) == ["to you, too"]
            bob.until_pinged()
            bob.login("bob", app, room=ROOM)
            assert heard(bob, 2) == ["one", "two"]


def test_each_room_has_its_own_position(keeping: Server, app: int) -> None:
    other = "another"
    with (
        been(keeping, "bob", app, ROOM),
        been(keeping, "bob", app, other),
        action_session(keeping.ws, "ann", app, room=ROOM) as ann,
        action_session(keeping.ws, "cid", app, room=other) as cid,
    ):
        ann.say("here")
        cid.say("there")
        with action_session(keeping.ws, "bob", app, room=other) as bob:
            assert heard(bob, 1) == ["there"]
            bob.until_pinged()
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            assert heard(bob, 1) == ["here"]


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
                nothing(bob)
        with action_session(keeping.ws, "ann", 2, room="h") as ann:
            assert heard(ann, 3) == ["before anybody", "live", "later"]


def test_messages_without_a_pong_are_sent_again(keeping: Server, app: int) -> None:
    with been(keeping, "bob", app, ROOM), action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        for text in ("one", "two"):
            ann.say(text)
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            bob.deaf = True
            first = messages(bob, 2)
            bob.until_pinged()
            bob.reset()
        with action_session(keeping.ws, "bob", app, room=ROOM) as again:
            assert messages(again, 2) == first


def test_many_missed_messages_arrive_in_the_order_of_the_log(keeping: Server, app: int) -> None:
    with (
        been(keeping, "bob", app, ROOM),
        action_session(keeping.ws, "ann", app, room=ROOM) as ann,
        action_session(keeping.ws, "cid", app, "bob") as cid,
    ):
        for number in range(MISSED // 2):
            ann.say(str(2 * number))
            cid.say(str(2 * number + 1))
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            ann.say("new")
            assert heard(bob, MISSED + 1) == [*map(str, range(MISSED)), "new"]


def test_every_connection_in_the_room_receives_it_once_the_senders_too(keeping: Server) -> None:
    with (
        action_session(keeping.ws, "ann", 3, room=ROOM) as ann,
        action_session(keeping.ws, "ann", 3, room=ROOM) as other,
        action_session(keeping.ws, "ann", 3, "bob") as elsewhere,
        action_session(keeping.ws, "bob", 3, room=ROOM) as phone,
        action_session(keeping.ws, "bob", 3, room=ROOM) as desk,
    ):
        for text in ("one", "two"):
            ann.say(text)
        for one, user in ((ann, "ann"), (other, "ann"), (phone, "bob"), (desk, "bob")):
            assert [one.received()["to"] for _ in range(2)] == [user, user]
            nothing(one)
        nothing(elsewhere)


def test_members_of_another_dialect_receive_messages_live(keeping: Server, app: int) -> None:
    with (
        action_session(keeping.ws, "ann", 4, room=ROOM) as ann,
        logged_in(keeping.ws, "bob", 105) as bob,
        logged_in(keeping.ws, "cid", 105, cursor=0) as following,
    ):
        joined = good(
            keeping.http,
            "channels/subscribe",
            {"app": "105", "channel": ROOM, "users": ["ann", "bob", "cid"]},
        )
        assert joined["subscribed"] == 2
        for number in range(3):
            ann.say(str(number))
        for one in (bob, following):
            received = [one.push("msg").json for _ in range(3)]
            assert [each["response"]["data"]["msg"] for each in received] == ["0", "1", "2"]
            one.no_push("message")
        assert heard(ann, 3) == ["0", "1", "2"]
        push = {"app": "105", "channel": ROOM, "sender": "shop", "text": "live only"}
        assert good(keeping.http, "push", push)["sent"] == 1
        assert heard(ann, 1) == ["live only"]
        nothing(ann)


def test_an_app_that_stores_nothing_is_as_it_was(keeping: Server, app: int) -> None:
    with action_session(keeping.ws, "ann", 5, room=ROOM) as ann:
        with action_session(keeping.ws, "bob", 5, room=ROOM) as bob:
            ann.say("live")
            assert heard(bob, 1) == ["live"]
        ann.say("missed")
        assert heard(ann, 2) == ["live", "missed"]
        with action_session(keeping.ws, "bob", 5, room=ROOM) as bob:
            nothing(bob)


def test_a_message_that_cannot_be_stored_is_refused(keeping: Server, app: int) -> None:
    with action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        assert ann.ask_action("sendmsg", {"msgType": "x" * 33, "message": "-"})[0] == 1001
        ann.say("next")
        assert heard(ann, 1) == ["next"]


def test_no_message_is_lost_or_repeated_while_a_member_reconnects(keeping: Server, app: int) -> None:
    with been(keeping, "bob", app, ROOM):
        over = threading.Event()
        sent: list[str] = []

        def speak() -> None:
            with action_session(keeping.ws, "ann", app, room=ROOM) as ann:
                last_words = False
                while not last_words:
                    last_words = over.is_set()
                    ann.say(str(len(sent)))
                    sent.append(str(len(sent)))
                    ann.pushed.clear()

        speaking = threading.Thread(target=speak)
        speaking.start()
        sessions: list[list[int]] = []
        try:
            for visit in range(VISITS):
                with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
                    if visit % 3:
                        session = heard(bob, 30)
                        if visit % 2:
                            bob.until_pinged()
                            session += [
                                received["content"]
                                for received in bob.pushed
                                if received["action"] == "sendmsg"
                            ]
                        sessions.append([int(text) for text in session])
        finally:
            over.set()
            speaking.join()
        with action_session(keeping.ws, "bob", app, room=ROOM) as bob:
            last: list[int] = []
            while not last or last[-1] != int(sent[-1]):
                last += map(int, heard(bob, 1))
            nothing(bob)
        sessions.append(last)
    end = -1
    for session in sessions:
        assert session == [*range(session[0], session[0] + len(session))]
        assert session[0] <= end + 1
        end = max(end, session[-1])
    assert end == len(sent) - 1


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


def test_a_back_end_reads_the_messages(keeping: Server, app: int) -> None:
    question = {"app": f"action:{app}", "channel": ROOM}
    with (
        action_session(keeping.ws, "ann", app, room=ROOM) as ann,
        action_session(keeping.ws, "ann", app, room="s") as other,
    ):
        assert good(keeping.http, "channels/messages", **question) == {"messages": [], "before": 0}
        for number in range(5):
            ann.say(str(number), seq=f"s{number}")
            other.say("elsewhere")
    newest = good(keeping.http, "channels/messages", **question, limit=2)
    received = [(each["from"], each["text"], each["meta"], each["seq"]) for each in newest["messages"]]
    assert received == [("ann", "3", {"seq": "s3"}, 4), ("ann", "4", {"seq": "s4"}, 5)]
    older = good(keeping.http, "channels/messages", **question, before=newest["before"])
    assert ([each["text"] for each in older["messages"]], older["before"]) == (["0", "1", "2"], 0)
    taken = {"app": f"action:{app}", "id": newest["messages"][0]["id"]}
    good(keeping.http, "messages/recall", taken)
    left = good(keeping.http, "channels/messages", **question)["messages"]
    assert [each.get("text") for each in left if each["kind"] == "message"] == ["0", "1", "2", "4"]
    with action_session(keeping.ws, "ann", app, room=ROOM) as ann:
        assert heard(ann, 4) == ["0", "1", "2", "4"]
        nothing(ann)


def test_no_position_is_left_of_a_deleted_account(keeping: Server) -> None:
    @contextmanager
    def present(person: User) -> Iterator[ActionClient]:
        with action_client(keeping.ws) as one:
            fields = {**login_data(person.user, 60, room=ROOM), "token": person.token}
            assert one.ask_action("login", fields) == (200, "Success")
            yield one

    ann, gone = (User.register(keeping, "action:60") for _ in range(2))
    with present(gone) as one:
        one.ask_action("heartbeat", {})
    with present(ann) as cmd_client:
        cmd_client.say("one")
        with present(gone) as one:
            assert heard(one, 1) == ["one"]
        assert positions(keeping, gone.user) == 1
        good(keeping.http, "accounts/delete", {"app": "action:60", "user": gone.user})
        eventually(lambda: positions(keeping, gone.user) == 0)


def positions(server: Server, user: str) -> int:
    """Rows of a user in the table of positions in rooms."""
    with closing(sqlite3.connect(server.folder / "data" / "imserver.db")) as database:
        query = "SELECT count(*) FROM room_position WHERE member = ?"
        found: int = database.execute(query, (user,)).fetchone()[0]
    return found


def test_the_back_end_gets_each_message_with_its_room(keeping: Server, receiver: Receiver) -> None:
    receiver.forget()
    with action_session(keeping.ws, "ann", 6, room=ROOM) as ann:
        ann.say("hi", "image", "s1")
    facts = receiver.wait_for(1, "message")[0]
    received = {name: facts[name] for name in ("sender", "room", "type", "meta", "stored")}
    where = {"id": 1, "conversation": 1, "seq": 1}
    assert received == {
        "sender": "ann",
        "room": ROOM,
        "type": "image",
        "meta": {"seq": "s1"},
        "stored": where,
    }
    assert "group" not in facts
