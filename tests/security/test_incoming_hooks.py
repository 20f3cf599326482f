"""Incoming webhooks: who makes them, what their URLs may do, and what a
stranger learns."""

from typing import Any

from msgspec import json

from imserver.messenger.log.bots import MOST_BOTS
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.parts import bots_of
from tests.rows import ROUTES
from tests.users import User

from .node_harness import ADMIN, Harness
from .test_bots import person

POST = next(row for row in ROUTES if row.path == "/hooks/*")
FORM = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def post(
    node: Harness, url: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    answer = node.ask(POST, headers, body=body, path=url)
    return answer.status, json.decode(answer.body)


def group_of(owner: User, *members: User) -> str:
    group: str = owner.post(
        "groups/create", name="tea", members=[each.user for each in members]
    )["group"]
    return group


def history(reader: User, group: str) -> list[dict[str, Any]]:
    found = reader.get("messages", conversation=int(group))["messages"]
    return [each for each in found if each["kind"] == "message"]


def test_a_request_becomes_a_message_of_a_bot_until_the_url_is_revoked(
    node: Harness,
) -> None:
    ann = person(node, "ann")
    bob = person(node, "bob")
    group = group_of(ann, bob)
    hook = ann.post("hooks", group=group, nickname="Builds")
    assert hook["url"].startswith("/hooks/")
    status, stored = post(
        node, hook["url"], [{"text": "green", "username": "x", "channel": "#a"}]
    )
    assert (status, str(stored["conversation"])) == (200, group)
    buttons = [[{"text": "Yes", "value": "y"}]]
    again = [
        {
            "buttons": buttons,
            "data": {"ok": True},
            "type": "build",
            "client_msg_id": "b-1",
        }
    ]
    first = post(node, hook["url"], again)
    second = post(node, hook["url"], again)
    assert (first[1]["id"], second[1]["repeated"]) == (second[1]["id"], True)
    slack = post(
        node, hook["url"], b"payload=%7B%22text%22%3A+%22red+%F0%9F%94%B4%22%7D", FORM
    )
    curl = post(node, hook["url"], b' {"text": "curl"}', FORM)
    assert (slack[0], curl[0]) == (200, 200)
    seen = history(bob, group)
    assert seen[1]["meta"]["buttons"] == buttons
    assert [(each["from"], each["type"], each.get("text")) for each in seen] == [
        (hook["id"], "text", "green"),
        (hook["id"], "build", None),
        (hook["id"], "text", "red 🔴"),
        (hook["id"], "text", "curl"),
    ]
    (card,) = bob.post("accounts/cards", users=[hook["id"]])["cards"]
    assert card["nickname"] == "Builds"
    (shown,) = ann.get("hooks", group=group)["hooks"]
    assert (shown["id"], shown["group"], shown["nickname"]) == (
        hook["id"],
        group,
        "Builds",
    )
    assert hook["url"].removeprefix("/hooks/") not in str(shown)
    ann.post("hooks/revoke", hook=hook["id"])
    revoked = post(node, hook["url"], [{"text": "x"}])
    unknown = post(node, "/hooks/" + "x" * 43, [{"text": "x"}])
    for status, answer in (revoked, unknown):
        answer.pop("request_id")
        assert (status, answer["code"]) == (404, "unknown_hook")
    assert revoked == unknown
    assert len(history(bob, group)) == 4, "its messages stay"
    assert ann.get("hooks", group=group)["hooks"] == []
    assert ann.get("bots")["bots"] == []


def test_only_the_owner_and_admins_of_a_group_manage_its_webhooks(
    node: Harness,
) -> None:
    cid = person(node, "cid")
    dan = person(node, "dan")
    eve = person(node, "eve")
    group = group_of(cid, dan)
    hook = cid.post("hooks", group=group, nickname="Alerts")
    for by, refused in ((dan, (403, "role_too_low")), (eve, (404, "unknown_group"))):
        assert by.refused("hooks", group=group, nickname="Mine") == refused
        assert by.refused_get("hooks", group=group) == refused
    assert dan.refused("hooks/revoke", hook=hook["id"]) == (403, "role_too_low")
    assert eve.refused("hooks/revoke", hook=hook["id"]) == (404, "unknown_hook")
    assert eve.refused("hooks/revoke", hook="999999") == (404, "unknown_hook")
    assert eve.get("bots")["bots"] == [], "a refused request leaves no bot behind"
    cid.post("groups/role", group=group, member=dan.user, role="admin")
    dan.post("hooks/revoke", hook=hook["id"])
    admin = User(node, ADMIN.key, app="201")
    new_hook = admin.post("hooks", group=group, nickname="Back end")
    assert post(node, new_hook["url"], [{"text": "x"}])[0] == 200
    cid.post("groups/remove", group=group, members=[new_hook["id"]])
    assert (
        post(node, new_hook["url"], [{"text": "x"}])[1]["code"]
        == "unknown_conversation"
    )
    admin.post("bots/delete", bot=new_hook["id"])
    assert post(node, new_hook["url"], [{"text": "x"}])[1]["code"] == "unknown_hook"


def test_a_group_has_a_limited_number_of_webhooks(node: Harness) -> None:
    fay = person(node, "fay")
    group = group_of(fay)
    for number in range(MOST_BOTS):
        fay.post("hooks", group=group, nickname=f"hook {number}")
    assert fay.refused("hooks", group=group, nickname="one more") == (
        400,
        "invalid_request",
    )
    assert len(fay.get("hooks", group=group)["hooks"]) == MOST_BOTS
    assert len(fay.get("bots", limit=100)["bots"]) == MOST_BOTS, (
        "the refused one left no bot behind"
    )


def test_what_comes_in_is_checked_and_limited(node: Harness) -> None:
    guy = person(node, "guy")
    hook = guy.post("hooks", group=group_of(guy), nickname="x")
    url = hook["url"]
    assert post(node, url, [{"text": "x"}])[0] == 200
    of_no_form = [(b"", None), (b"", FORM), (b"text=hi", FORM), (b"--x", MULTIPART)]
    documents: list[Any] = [
        ["text"],
        {},
        {"text": ""},
        {"text": 1},
        {"text": "a", "data": 1},
    ]
    others = [
        (b"text", None),
        (b"payload=no", FORM),
        *(([each], None) for each in documents),
    ]
    for body, headers in (*of_no_form, *others):
        status, answer = post(node, url, body, headers)
        assert (status, answer["code"]) == (400, "invalid_request"), body
        assert ((body, headers) in others) or "Send a JSON object, or a form" in answer[
            "message"
        ]
    assert post(node, url, [{"text": "x" * 65536}])[1]["code"] == "body_too_large"
    rates = accounts_of(node.node.core).tokens.bot_messages
    limit = rates.number
    rates.set(1e-6)
    assert [post(node, url, [{"text": "x"}])[0] for _ in range(2)] == [200, 429], (
        "limits.bot_rate"
    )
    rates.set(limit)
    addresses = bots_of(node.node.core).incoming.addresses
    limit = addresses.number
    addresses.set(2)
    answers = [node.ask(POST, body=[{"text": "x"}], path=url) for _ in range(3)]
    addresses.set(limit)
    assert [each.status for each in answers] == [200, 200, 429]
    assert "Retry-After" in dict(answers[2].headers)
