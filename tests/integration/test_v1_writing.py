"""What accounts and back ends do over ``/api/v1``: they write, mark, read, and
manage; who is told of it."""

from time import time
from typing import Any

import pytest

from tests.support import Server
from tests.users import PASSWORD, User

from .cmd import CmdClient, cmd_client, logged_in
from .gochat import fresh_phone
from .protobuf import chatting
from .setting import Launch
from .v1 import good, refused

KEY = "admin-key-of-the-tests"


def texts(page: Any) -> list[str]:
    return [each.get("text", "") for each in page["messages"]]


def test_an_account_sends_changes_and_the_other_reads_with_nothing_but_their_tokens(
    ann: User, bob: User
) -> None:
    body = {"to": bob.user, "text": "tea?", "client_msg_id": "a-1"}
    first = ann.post("messages/send", **body)
    assert (first["seq"], first["repeated"]) == (1, False)
    assert ann.post("messages/send", **body) == {**first, "repeated": True}
    back = {
        "conversation": first["conversation"],
        "data": {"n": [1, "é"]},
        "reply_to": first["id"],
    }
    second = bob.post("messages/send", **back, mentions=[ann.user])
    page = ann.get("messages/sync", after=first["id"] - 1)
    shown = page["messages"][1]
    assert (page["after"], page["more"], page["begin_anew"]) == (
        second["id"],
        False,
        False,
    )
    assert (shown["type"], shown["data"], shown["about"]) == (
        "custom",
        {"n": [1, "é"]},
        first["id"],
    )
    assert shown["meta"] == {"mentions": [ann.user]}
    assert [row["peer"] for row in ann.get("conversations")["conversations"]] == [
        bob.user
    ]
    edit = {
        "id": first["id"],
        "data": {"url": "/p/1"},
        "type": "picture",
        "mentions": [bob.user],
    }
    edited = ann.post("messages/edit", **edit, client_msg_id="e")
    assert ann.post("messages/edit", **edit, client_msg_id="e") == {
        **edited,
        "repeated": True,
    }
    (shown, *_) = bob.get("messages", conversation=first["conversation"])["messages"]
    assert (shown["type"], shown["data"]) == ("picture", {"url": "/p/1"})
    assert shown["meta"] == {"mentions": [bob.user], "edited": edited["id"]}
    unknown = (404, "unknown_message")
    for word, more in (("edit", {"text": "x"}), ("recall", {})):
        assert bob.refused(f"messages/{word}", id=first["id"], **more) == unknown
        for id in (10**9, edited["id"]):
            assert ann.refused(f"messages/{word}", id=id, **more) == unknown
    ann.post("messages/edit", id=first["id"], text="hello")
    assert len(bob.get("messages/search", text="hello")["messages"]) == 1
    gone = ann.post("messages/recall", id=first["id"], client_msg_id="r")
    assert ann.post("messages/recall", id=first["id"], client_msg_id="r") == {
        **gone,
        "repeated": True,
    }
    recalled = bob.get("messages", conversation=first["conversation"])["messages"][0]
    assert (recalled["kind"], recalled["about"], recalled["from"]) == (
        "recall",
        first["id"],
        ann.user,
    )
    assert not {"text", "data"} & recalled.keys()
    assert bob.get("messages/search", text="hello")["messages"] == []
    assert ann.refused("messages/edit", **edit) == unknown
    assert ann.refused("messages/edit", id=first["id"]) == (400, "invalid_request")


def test_reactions_and_pins_are_stored_shown_and_refused(
    locked: Server, ann: User, bob: User
) -> None:
    group = ann.group(bob)
    sent = ann.post(
        "messages/send", conversation=int(group), text="tea?", mentions=["all"]
    )
    id = sent["id"]
    at = sent["conversation"]
    done = bob.post("messages/react", id=id, emoji="👍")
    assert done["conversation"] == at
    assert done["id"] > id
    assert bob.post("messages/react", id=id, emoji="👍") == {
        "conversation": at,
        "id": 0,
    }
    assert bob.refused("messages/pin", id=id) == (403, "role_too_low")
    assert ann.post("messages/pin", id=id)["id"] > done["id"]
    shown = ann.get("conversations/pins", conversation=at)["messages"]
    assert [each["reactions"] for each in shown] == [
        [{"emoji": "👍", "count": 1, "users": [bob.user], "mine": False}]
    ]
    assert (
        ann.get("messages", conversation=at, types="text,picture")["messages"] == shown
    )
    page = ann.get("messages", conversation=at, after=0, limit=1)
    assert (page["messages"][0]["kind"], page["before"], page["after"]) == (
        "group",
        0,
        id - 1,
    )
    page = ann.get("messages", conversation=at, after=id - 1)
    assert ([each["kind"] for each in page["messages"]], page["after"]) == (
        ["message", "pin"],
        0,
    )
    kinds = [
        each["kind"] for each in bob.get("messages/sync", after=id - 1)["messages"]
    ]
    assert kinds == ["message", "reaction", "pin"]
    (conversation,) = bob.get("conversations")["conversations"]
    assert (
        conversation["unread"],
        conversation["mentions"],
        conversation["last"]["id"],
    ) == (1, 1, id)
    eve = User.register(locked)
    copy = bob.post("messages/send", to=eve.user, forward=id)
    (received,) = eve.get("messages", conversation=copy["conversation"])["messages"]
    assert (received["text"], received["meta"]) == (
        "tea?",
        {"forwarded": {"from": ann.user, "id": id}},
    )
    assert eve.refused("messages/send", to=bob.user, forward=id) == (
        404,
        "unknown_message",
    )
    assert eve.get("conversations/pins", conversation=at) == {
        "messages": [],
        "before": 0,
    }
    bad = [
        ("react", {"id": id, "emoji": ""}),
        ("react", {"id": id, "emoji": "é" * 20}),
        ("react", {"id": id, "emoji": "a\n"}),
        ("send", {"to": bob.user, "forward": id, "text": "x"}),
        ("send", {"to": bob.user, "text": "x", "mentions": ["all", bob.user]}),
    ]
    for route, body in bad:
        assert ann.refused(f"messages/{route}", **body) == (400, "invalid_request")
    assert ann.refused_get("messages", conversation=at, after=0, types="text") == (
        400,
        "invalid_request",
    )
    assert good(locked.http, "messages/pin", {"id": id, "remove": True}, key=KEY)["id"]
    assert good(locked.http, "messages/recall", {"id": id}, key=KEY)["id"]
    last = bob.get("messages", conversation=at)["messages"][-1]
    assert (last["kind"], last["from"], last["about"]) == ("recall", "", id), (
        "a back end recalls anybody's"
    )
    assert bob.refused("messages/react", id=id, emoji="👍") == (404, "unknown_message")


def test_what_one_device_marks_the_others_learn(
    locked: Server, ann: User, bob: User
) -> None:
    first, second = (
        ann.post("messages/send", to=bob.user, text=text) for text in ("one", "two")
    )
    where = first["conversation"]
    mark = {"conversation": where, "id": first["id"]}
    assert bob.post("messages/received", **mark) == {
        "conversation": where,
        "received": first["id"],
    }
    assert bob.post("messages/read", **mark) == {
        "conversation": where,
        "read": first["id"],
    }
    version = bob.post("messages/hide", ids=[second["id"], 10**12])["version"]
    assert bob.get("messages/marks") == {
        "version": version,
        "read": [{"conversation": where, "id": first["id"]}],
        "hidden": [second["id"]],
        "receipts": [],
    }
    assert bob.get("messages/marks", version=version)["hidden"] == []
    assert [
        (row["user"], row["read"]) for row in ann.get("messages/marks")["receipts"]
    ] == [(bob.user, first["id"])]
    assert texts(bob.get("messages", conversation=where)) == ["one"]
    assert texts(ann.get("messages", conversation=where)) == ["one", "two"]
    assert ann.refused("messages/received", **{**mark, "conversation": 10**12}) == (
        404,
        "unknown_conversation",
    )


# --- pushes that are stored ---------------------------------------------------


def received(one: CmdClient) -> dict[str, Any]:
    data: dict[str, Any] = one.push("message").json["response"]["data"]
    return data


def stored(answer: Any) -> list[dict[str, Any]]:
    """Where the messages of an answer are, all of which must be stored."""
    assert [result["status"] for result in answer["results"]] == ["stored"] * answer[
        "sent"
    ]
    return [result["stored"] for result in answer["results"]]


def test_a_stored_push_reaches_online_users_now_and_others_later(
    server: Server, app: int
) -> None:
    push = {
        "app": str(app),
        "users": ["ann", "bob"],
        "sender": "shop",
        "text": "hi",
        "store": True,
    }
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        first, second = stored(good(server.http, "push", push))
        assert (first["id"], second["id"], first["seq"], second["seq"]) == (1, 2, 1, 1)
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["to"], heard["text"]) == (
            1,
            "shop",
            "ann",
            "hi",
        )
        order = {
            "app": str(app),
            "user": "ann",
            "type": "order",
            "data": {"number": 17},
            "store": True,
        }
        stored(good(server.http, "push", order))
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["type"]) == (3, "", "order"), (
            "the server itself says it"
        )
        assert heard["data"] == {"number": 17}
    with logged_in(server.ws, "bob", app, cursor=0) as bob:
        assert received(bob)["id"] == 2


def test_a_push_to_a_group_is_stored_once_for_all_members(
    server: Server, app: int
) -> None:
    request = {"app": str(app), "user": "ann", "name": "tea", "members": ["bob"]}
    group = good(server.http, "groups/create", request)["group"]
    push = {"app": str(app), "text": "milk?", "store": True}
    for sender in ("bob", ""):
        (at,) = stored(
            good(server.http, "push", {**push, "group": group, "sender": sender})
        )
        assert at["conversation"] == int(group)
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        assert [received(ann)["kind"] for _ in range(3)] == [
            "group",
            "message",
            "message",
        ]
    (direct,) = stored(
        good(server.http, "push", {**push, "user": "bob", "sender": "ann"})
    )
    targets = [
        {"group": group},
        {"group": "999"},
        {"group": str(direct["conversation"])},
    ]
    targets += [{"user": name} for name in ("ann", "eve", "x" * 256)]
    answer = good(server.http, "push", {**push, "targets": targets, "sender": "eve"})
    assert [(each["status"], each.get("reason")) for each in answer["results"]] == [
        ("refused", "not_member"),
        ("refused", "unknown_conversation"),
        ("refused", "unknown_conversation"),
        ("stored", None),
        ("refused", "invalid"),
        ("refused", "invalid"),
    ]
    assert answer["sent"] == 1


@pytest.mark.full("processes")
def test_both_learn_of_a_change_but_not_of_a_block(
    launch: Launch, http_server: str
) -> None:
    server = launch(http_server, apps={"77": {"account_tokens": "required"}})
    one, two = (User.register(server, "77", login=name) for name in ("ann", "bob"))
    ann = one.user
    bob = two.user

    with cmd_client(server.ws) as first, cmd_client(server.ws) as second:
        for client, user in ((first, one), (second, two)):
            client.login(user.user, 77, serviceToken=user.token, cursor=0)
        for by, word, receivers in (
            (one, "block", [one]),
            (two, "request", [two]),  # ann has blocked bob, and learns nothing
            (one, "unblock", [one]),
            (one, "request", [one, two]),  # both have asked now
            (two, "remove", [one, two]),
        ):
            by.post(f"friends/{word}", friend=bob if by is one else ann)
            for user in receivers:
                client, about = (first, bob) if user is one else (second, ann)
                assert client.push("contact").json["response"]["data"] == {
                    "from": about,
                    "to": user.user,
                }


def test_a_muted_member_names_nothing_and_invites_nobody(
    ann: User, bob: User, cid: User
) -> None:
    group = ann.group(bob, cid)
    until = int(time()) + 100
    mute = {"group": group, "member": cid.user, "until": until}
    ann.post("groups/options", group=group, rename="member")
    assert ann.post("groups/mute", **mute)["users"] == [cid.user]
    assert cid.get("groups/show", group=group)["muted_until"] == until
    for route, body in (
        ("groups/rename", {"name": "coffee"}),
        ("groups/invite", {"members": [bob.user]}),
    ):
        assert cid.refused(route, group=group, **body) == (403, "role_too_low")
    assert cid.refused("invitations/create", group=group) == (403, "role_too_low")
    ann.post("groups/remove", group=group, members=[cid.user])
    assert ann.refused("groups/mute", **mute) == (404, "unknown_member")


def test_a_refused_change_of_a_bot_changes_nothing(ann: User) -> None:
    bot = ann.post("bots", name=f"bot{ann.user}")["id"]
    twice = [{"name": "tea", "description": "x"}] * 2
    question = {"bot": bot, "hook_url": "https://example.com/h", "commands": twice}
    assert ann.refused("bots/update", **question) == (400, "invalid_request")
    (shown,) = [each for each in ann.get("bots")["bots"] if each["id"] == bot]
    assert not shown.get("hook_url")


# --- logins one by one --------------------------------------------------------


def test_one_login_is_ended_with_its_tabs_and_the_others_stay(
    locked: Server, ann: User
) -> None:
    body = {"phone": ann.phone, "password": PASSWORD, "device": "phone"}
    account = (ann.user, good(locked.http, "accounts/login", body)["token"])
    with (
        chatting(locked.ws, account, "phone/1") as one,
        chatting(locked.ws, account, "phone/2") as two,
        chatting(locked.ws, (ann.user, ann.token), "phones/1") as other,
    ):
        rows = {row["name"]: row for row in ann.get("accounts/devices")["devices"]}
        phone = rows["phone"]
        own = rows[""]
        assert (phone["online"], phone["current"], own["current"]) == (
            True,
            False,
            True,
        )
        assert ann.post("accounts/devices/logout", device=phone["device"]) == {
            "user": ann.user
        }
        one.closed(4502)
        two.closed(4502)
        assert other.catch_up(0) == []
        assert refused(locked.http, "accounts/show", key=account[1])[:2] == (
            401,
            "token_invalid",
        )
        assert [row["device"] for row in ann.get("accounts/devices")["devices"]] == [
            own["device"]
        ]
    assert ann.refused("accounts/devices/logout", device=phone["device"]) == (
        404,
        "unknown_device",
    )


def test_a_device_that_may_not_be_called_so_is_refused_before_an_account_is_made(
    locked: Server,
) -> None:
    body = {"phone": fresh_phone(), "password": PASSWORD}
    for route in ("accounts/register", "accounts/login"):
        assert refused(locked.http, route, {**body, "device": "phone\n"})[:2] == (
            400,
            "invalid_request",
        )
    assert good(locked.http, "accounts/register", body)["account"]["user"]
