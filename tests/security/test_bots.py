"""Bots: who makes and manages them, what their tokens prove, and what ends with
them."""

from types import SimpleNamespace

import pytest

from imserver.messenger.streams import streamed_messages
from imserver.people.bots import bots
from tests.users import PASSWORD, User

from .node_harness import ADMIN, Harness

NODE = {"accounts": {"bots": 3}, "limits": {"bot_rate": 0.001}}
"""A person has at most three bots, which send a message in 1,000 s."""


def person(node: Harness, name: str) -> User:
    return User.register(node, "201", name=name)


def test_an_owner_manages_a_bot_and_nobody_else_does(node: Harness) -> None:
    ann = person(node, "ann")
    eve = person(node, "eve")
    weather = ann.bot("Weather")
    assert weather.token.startswith(f"bot_{weather.user}_")
    changed = ann.post(
        "bots/update", bot=weather.user, nickname="Sun", commands=[{"name": "today"}]
    )
    assert (changed["nickname"], changed["commands"]) == (
        "Sun",
        [{"name": "today", "description": ""}],
    )
    (shown,) = ann.get("bots")["bots"]
    assert (shown["name"], shown["owner"]) == ("weather", ann.user)
    assert eve.get("bots")["bots"] == []
    for route in ("bots/update", "bots/rotate", "bots/delete"):
        assert eve.refused(route, bot=weather.user) == (404, "unknown_account")
        assert weather.refused(route, bot=weather.user) == (403, "not_allowed")
        assert ann.refused(route, bot=ann.user) == (404, "unknown_account")
    admin = User(node, ADMIN.key, app="201")
    assert weather.user in [each["id"] for each in admin.get("bots")["bots"]]
    assert (
        admin.post("bots/update", bot=weather.user, nickname="Rain")["nickname"]
        == "Rain"
    )
    assert weather.refused("bots", name="child") == (403, "not_allowed")
    assert admin.refused("bots", name="child", user=weather.user) == (
        404,
        "unknown_account",
    )


def test_a_bot_has_a_token_and_no_password(node: Harness) -> None:
    bob = person(node, "bob")
    clock = bob.bot("clock")
    assert clock.get("accounts/show")["name"] == "clock"
    for password in ("", "x" * 8, "no hash"):
        login = {"app": "201", "login": "clock", "password": password}
        assert node.call("POST", "/api/v1/accounts/login", login)[0] in (400, 401)
    logins = node.node.core.logins
    source = SimpleNamespace(peer="192.0.2.1:1", origin="")
    decision = logins.check("201", "", clock.token, "cmd", source, "left")  # type: ignore[arg-type]
    assert (decision.ok, decision.user, decision.device, decision.expires_at) == (
        True,
        clock.user,
        "left",
        0,
    )
    assert not logins.check("202", "", clock.token, "cmd", source).ok  # type: ignore[arg-type]
    wrong = (
        clock.token[:-1] + ("A" if clock.token[-1] != "A" else "B"),
        clock.token.replace(f"_{clock.user}_", f"_{int(clock.user) + 1}_"),
        clock.token.replace(f"_{clock.user}_", "_99999999999999999999_"),
        "bot_",
        "bot__",
        f"bot_{clock.user}",
        f"bot_²_{'x' * 43}",
    )
    for token in wrong:
        refused = User(node, token, app="201").refused(
            "messages/send", to=bob.user, text="x"
        )
        assert refused == (401, "token_invalid")
        assert not logins.check("201", "", token, "cmd", source).ok  # type: ignore[arg-type]


def test_bots_end_with_their_owner(node: Harness) -> None:
    dan = person(node, "dan")
    mine = dan.bot("mine")
    other = dan.bot("other")
    mia = person(node, "friend_of_dan")
    for bot in (mine, other):
        bot.post("messages/send", to=mia.user, text="sunny")
    dan.post("bots/delete", bot=other.user)
    assert other.refused("messages/send", to=dan.user, text="x") == (
        401,
        "token_invalid",
    )
    dan.post("accounts/delete", password=PASSWORD)
    texts = [
        [
            each.get("text")
            for each in mia.get("messages", conversation=one["conversation"])[
                "messages"
            ]
        ]
        for one in mia.get("conversations")["conversations"]
    ]
    assert texts == [["sunny"], ["sunny"]], "what bots wrote stays, however they end"
    assert mine.refused("messages/send", to=dan.user, text="x") == (
        401,
        "token_invalid",
    )
    assert User(node, ADMIN.key, app="201").refused("bots/rotate", bot=mine.user) == (
        404,
        "unknown_account",
    )


def test_a_banned_account_cannot_go_on_over_http_or_with_a_new_bot(
    node: Harness,
) -> None:
    mia = person(node, "mia")
    admin = User(node, ADMIN.key, app="201")
    group = mia.post("groups/create", name="g")["group"]
    bot = mia.bot("miabot")
    admin.post("ban", users=[mia.user, bot.user], seconds=100)
    for asking, route, fields in (
        (mia, "bots", {"name": "child"}),
        (mia, "groups/rename", {"group": group, "name": "seen by all"}),
        (mia, "messages/send", {"to": bot.user, "text": "x"}),
        (bot, "bots/commands", {"commands": []}),
    ):
        assert asking.refused(route, **fields) == (403, "banned")
    assert admin.post(
        "groups/rename", user=mia.user, group=group, name="by the back end"
    )
    admin.post("unban", users=[mia.user, bot.user])
    assert mia.post("accounts/set", nickname="back")["nickname"] == "back"


def test_a_bot_that_was_removed_or_blocked_does_not_go_on_with_its_answer(
    node: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_messages, "CHECK_SECONDS", 0.0)
    pia = person(node, "pia")
    bot = pia.bot("piabot")
    group = int(pia.post("groups/create", name="g", members=[bot.user])["group"])

    def status(stream: str, number: int) -> str:
        pieces = [{"stream": stream, "piece": number, "text": "x"}]
        (result,) = bot.post("messages/stream/append", pieces=pieces)["results"]
        return str(result["status"])

    # the messages of a back end count against no rate
    admin = User(node, ADMIN.key, app="201")
    to_group = admin.post("messages/stream/open", user=bot.user, conversation=group)[
        "stream"
    ]
    to_pia = admin.post("messages/stream/open", user=bot.user, to=pia.user)["stream"]
    assert (status(to_group, 1), status(to_pia, 1)) == ("appended", "appended")
    pia.post("groups/remove", group=str(group), members=[bot.user])
    assert (status(to_group, 2), status(to_pia, 2)) == ("closed", "appended")
    pia.post("friends/block", friend=bot.user)
    assert status(to_pia, 3) == "closed"
    assert bot.refused("messages/stream/close", stream=to_pia) == (403, "not_allowed")
    assert bot.refused("messages/stream/close", stream=to_group) == (
        404,
        "unknown_conversation",
    )


def test_the_number_of_bots_and_the_forms_of_commands_are_limited(
    node: Harness,
) -> None:
    fay = person(node, "fay")
    bots = [fay.bot(f"limit{number}") for number in range(3)]
    assert fay.refused("bots", name="limit4") == (409, "too_many_bots")
    assert fay.refused("bots", name="x") == (400, "invalid_request")
    fay.post("bots/delete", bot=bots[0].user)
    assert fay.refused("bots", name="limit1") == (409, "login_taken")
    fay.bot("limit4")
    one = bots[1]
    fifty = [{"name": f"c{number}", "description": "d" * 128} for number in range(50)]
    one.post("bots/commands", commands=fifty)
    for wrong in (
        [*fifty, {"name": "more"}],
        [{"name": "Upper"}],
        [{"name": "x" * 33}],
        [{"name": ""}],
        [{"name": "a"}, {"name": "a"}],
        [{"name": "a", "description": "d" * 129}],
        [{"name": "a", "description": "\u0007"}],
    ):
        assert one.refused("bots/commands", commands=wrong) == (
            400,
            "invalid_request",
        ), wrong
    one.post("bots/commands", commands=[{"name": "x" * 32}])
    assert fay.refused("bots/commands", commands=[]) == (403, "not_allowed")


def test_members_of_a_conversation_see_the_commands_of_its_bot(node: Harness) -> None:
    guy = person(node, "guy")
    eva = person(node, "eva")
    tea = guy.bot("tea")
    tea.post("bots/commands", commands=[{"name": "brew", "description": "Make tea"}])
    conversation_id = eva.post("messages/send", to=tea.user, text="hello")[
        "conversation"
    ]
    shown = {
        "bot": tea.user,
        "name": "tea",
        "nickname": "",
        "command": "brew",
        "description": "Make tea",
    }
    assert eva.get("bots/commands", conversation=conversation_id)["commands"] == [shown]
    # before the first message
    assert eva.get("bots/commands", bot=tea.user)["commands"] == [shown]
    assert eva.get("bots/commands", bot=guy.user)["commands"] == []
    for wrong in ({}, {"bot": tea.user, "conversation": conversation_id}):
        assert eva.refused_get("bots/commands", **wrong)[0] == 400
    for by, conversation in ((guy, conversation_id), (eva, conversation_id + 1000)):
        assert by.refused_get("bots/commands", conversation=conversation) == (
            404,
            "unknown_conversation",
        )


def test_a_bot_has_a_message_rate_and_a_block_stops_it(node: Harness) -> None:
    jan = person(node, "jan")
    kim = person(node, "kim")
    bot, first, second = (jan.bot(name) for name in ("talker", "first", "second"))
    kim.post("friends/block", friend=bot.user)
    assert bot.refused("messages/send", to=kim.user, text="x") == (403, "not_allowed")
    assert bot.refused("messages/send", to=jan.user, text="x") == (
        429,
        "too_many_requests",
    )
    assert first.post("messages/send", to=kim.user, text="x")
    assert first.refused("messages/send", to=kim.user, text="x") == (
        429,
        "too_many_requests",
    )
    assert second.post("messages/send", to=kim.user, text="x")
    for _ in range(3):
        assert kim.post("messages/send", to=first.user, text="x")


BUTTONS = [[{"text": "Yes", "value": "y"}, {"text": "No", "value": "n"}]]


def test_a_press_goes_to_the_bot_of_the_button_once(node: Harness) -> None:
    lea = person(node, "lea")
    moe = person(node, "moe")
    bot = lea.bot("asking")
    back_end = User(node, ADMIN.key, app="201")
    group = int(lea.post("groups/create", name="tea", members=[bot.user])["group"])
    named = {"user": bot.user, "conversation": group, "buttons": BUTTONS}
    message_id = back_end.post("messages/send", **named, text="Tea?")["id"]
    pressed = lea.post("messages/press", id=message_id, value="n", client_msg_id="p1")
    again = lea.post("messages/press", id=message_id, value="n", client_msg_id="p1")
    assert (again["id"], again["repeated"]) == (pressed["id"], True)
    (entry,) = bot.get("messages/sync", after=pressed["id"] - 1, limit=10)["messages"]
    assert (entry["kind"], entry["from"], entry["to"]) == ("press", lea.user, bot.user)
    own = pressed["conversation"]
    assert (entry["about"], entry["text"], entry["conversation"]) == (
        message_id,
        "n",
        own,
    )
    assert own != group
    assert bot.get("messages", conversation=own)["messages"] == []
    (only,) = [
        each
        for each in bot.get("conversations")["conversations"]
        if each["kind"] == "user"
    ]
    assert (only["unread"], only["last"]) == (0, None)
    unknown = (404, "unknown_message")
    assert lea.refused("messages/press", id=message_id, value="other") == unknown
    assert moe.refused("messages/press", id=message_id, value="y") == unknown, (
        "not a member"
    )
    assert bot.refused("messages/press", id=message_id, value="y") == unknown, "its own"
    own = lea.post("messages/send", conversation=group, text="no buttons")["id"]
    assert lea.refused("messages/press", id=own, value="y") == unknown
    back_end.post("messages/edit", user=bot.user, id=message_id, text="Decided")
    assert lea.refused("messages/press", id=message_id, value="y") == unknown, (
        "the edit has no buttons"
    )


def test_buttons_of_persons_and_bad_buttons_are_refused(node: Harness) -> None:
    nia = person(node, "nia")
    back_end = User(node, ADMIN.key, app="201")
    bot = nia.bot("buttons")
    assert nia.refused("messages/send", to=bot.user, text="x", buttons=BUTTONS) == (
        403,
        "not_allowed",
    )
    one = {"text": "x", "value": "v"}
    for wrong in (
        [[one]] * 9,
        [[{"text": "x", "value": str(number)} for number in range(5)]],
        [[]],
        [[one], [one]],
        [[{"text": "", "value": "v"}]],
        [[{"text": " ", "value": "v"}]],
        [[{"text": "x" * 65, "value": "v"}]],
        [[{"text": "x", "value": ""}]],
        [[{"text": "x", "value": "\N{SNOWMAN}" * 22}]],
        [[{"text": "x"}]],
        [one],
    ):
        sent = back_end.refused(
            "messages/send", user=bot.user, to=nia.user, text="x", buttons=wrong
        )
        assert sent == (400, "invalid_request"), wrong
    most = [
        [{"text": "x" * 64, "value": f"{row}{column}" * 32} for column in range(4)]
        for row in range(8)
    ]
    assert back_end.post(
        "messages/send", user=bot.user, to=nia.user, text="x", buttons=most
    )["id"]


def listed(user: User) -> list[str]:
    return [each["nickname"] for each in user.get("bots/listed", limit=100)["bots"]]


def test_owners_offer_bots_to_all_accounts_but_those_they_have_blocked(
    node: Harness,
) -> None:
    ora = person(node, "ora")
    pat = person(node, "pat")
    back_end = User(node, ADMIN.key, app="201")
    sun = ora.bot("sun", nickname="Sun")
    moon = ora.bot("moon", nickname="Moon")
    assert "Sun" not in listed(pat)
    commands = [{"name": "today", "description": "Weather"}]
    about = {
        "description": "Weather\nof your town",
        "listed": True,
        "commands": commands,
    }
    changed = ora.post("bots/update", bot=sun.user, **about)
    assert {name: changed[name] for name in about} == about
    (card,) = [
        each for each in pat.get("bots/listed")["bots"] if each["bot"] == sun.user
    ]
    shown = {"name": "sun", "nickname": "Sun", "avatar": "", **about, "bot": sun.user}
    del shown["listed"]
    assert card == shown == pat.get("bots/show", bot=sun.user)
    assert pat.get("bots/show", bot=moon.user)["nickname"] == "Moon", (
        "whoever knows its id"
    )
    assert pat.refused("bots/update", bot=sun.user, listed=False) == (
        404,
        "unknown_account",
    )
    guest = User(node, node.guest("201"), app="201")
    assert guest.refused_get("bots/listed") == (403, "not_allowed")
    ora.post("friends/block", friend=pat.user)
    assert "Sun" not in listed(pat)
    assert pat.refused_get("bots/show", bot=sun.user) == (404, "unknown_account")
    assert "Sun" in listed(back_end)
    assert back_end.post("bots/update", bot=sun.user, listed=False)["listed"] is False
    assert "Sun" not in listed(back_end)


def test_an_account_lists_few_bots(
    node: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bots, "MOST_LISTED", 1)
    rob = person(node, "rob")
    back_end = User(node, ADMIN.key, app="201")
    first = rob.bot("first_listed")
    second = rob.bot("second_listed")
    for _ in range(2):
        assert rob.post("bots/update", bot=first.user, listed=True)["listed"]
    assert rob.refused("bots/update", bot=second.user, listed=True) == (
        400,
        "invalid_request",
    )
    rob.post("bots/update", bot=first.user, listed=False)
    assert rob.post("bots/update", bot=second.user, listed=True)["listed"]
    for name in ("of_back_end_1", "of_back_end_2"):
        bot = back_end.post("bots", name=name)["id"]
        assert back_end.post("bots/update", bot=bot, listed=True)["listed"]
    for wrong in ("x" * 501, "a\u0000"):
        assert rob.refused("bots/update", bot=second.user, description=wrong) == (
            400,
            "invalid_request",
        )
