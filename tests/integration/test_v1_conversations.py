"""What was said, over ``/api/v1``: lists, history, search, receipts; read, recalled and edited."""

from typing import Any

import pytest

from tests.support import Server
from tests.users import User

from .cmd import logged_in
from .test_messaging import send
from .v1 import good, refused

KEY = "admin-key-of-the-tests"


def pushed(server: Server, sender: str, to: str, text: str, app: object = "gochat") -> dict[str, Any]:
    """Store a message as a back end does; where it is."""
    body = {"app": str(app), "user": to, "sender": sender, "text": text, "store": True}
    stored: dict[str, Any] = good(server.http, "push", body, key=KEY)["results"][0]["stored"]
    return stored


@pytest.mark.full
def test_a_back_end_reads_what_a_user_may_read(server: Server, app: int) -> None:
    question = {"app": app, "user": "bob"}
    with logged_in(server.ws, "ann", app) as one:
        sent = [send(one, "bob", text) for text in ("tea at five", "tea at six", "coffee")]
        send(one, "cat", "secret tea")
    where = sent[0]["conversation"]
    listed = good(server.http, "conversations", **question)
    assert listed["before"] == 0
    (row,) = listed["conversations"]
    last = row.pop("last")
    assert row == {
        "conversation": where,
        "kind": "user",
        "peer": "ann",
        "name": "",
        "role": "member",
        "unread": 3,
        "mentions": 0,
        "read": 0,
    }
    assert (last["id"], last["from"], last["to"], last["text"]) == (sent[2]["id"], "ann", "bob", "coffee")
    page = good(server.http, "messages", **question, conversation=where, limit=2)
    assert [each["text"] for each in page["messages"]] == ["tea at six", "coffee"]
    page = good(server.http, "messages", **question, conversation=where, before=page["before"])
    assert ([each["text"] for each in page["messages"]], page["before"]) == (["tea at five"], 0)
    found = good(server.http, "messages/search", **question, text="TEA")
    assert [each["id"] for each in found["messages"]] == [sent[0]["id"], sent[1]["id"]]
    assert good(server.http, "messages/search", **question, text="secret")["messages"] == []
    filters = {"from": "ann", "types": "text,file", "link": False, "since": 1, "until": 2**53}
    found = good(server.http, "messages/search", **question, **filters)
    assert [each["id"] for each in found["messages"]] == [each["id"] for each in sent]
    assert good(server.http, "messages/search", **question, text="tea", until=1)["messages"] == []
    outsider = {"app": app, "user": "eve", "conversation": where}
    assert good(server.http, "messages", **outsider) == {"messages": [], "before": 0}
    assert good(server.http, "messages/receipts", **outsider)["receipts"] == []


def test_conversations_come_page_by_page_whatever_is_hidden(server: Server, app: int) -> None:
    with logged_in(server.ws, "me", app) as one:
        sent = [send(one, peer, "hi") for peer in ("a", "b", "c", "d")]
        assert one.ask_cmd("hide", {"ids": [each["id"] for each in sent[1:3]]})[0] == 200
    seen, before = [], 0
    while not seen or before:
        page = good(server.http, "conversations", app=app, user="me", limit=1, before=before)
        seen += [row["peer"] for row in page["conversations"]]
        before = page["before"]
    assert seen == ["d", "c", "b", "a"]


def test_reading_moves_on_and_informs_the_author(server: Server, app: int) -> None:
    with logged_in(server.ws, "ann", app, cursor=0) as one:
        sent = send(one, "bob", "hi")
        body = {"app": str(app), "user": "bob", "conversation": sent["conversation"], "id": sent["id"]}
        assert good(server.http, "messages/read", body) == {
            "conversation": sent["conversation"],
            "read": sent["id"],
        }
        received = one.push("receipt").json["response"]["data"]
        assert received == {"from": "bob", "conversation": sent["conversation"], "read": sent["id"]}
        shown = good(server.http, "messages/receipts", app=app, user="ann", conversation=sent["conversation"])
        assert shown == {
            "receipts": [{"user": "bob", "read": sent["id"], "received": sent["id"]}],
            "next": "",
        }
        strange = {**body, "user": "eve"}
        assert refused(server.http, "messages/read", strange)[:2] == (404, "unknown_conversation")


def test_an_account_recalls_and_edits_its_own_only(locked: Server, ann: User, bob: User) -> None:
    stored = pushed(locked, ann.user, bob.user, "helo")
    edited = ann.post("messages/edit", id=stored["id"], text="hello")
    assert (edited["conversation"], edited["seq"]) == (stored["conversation"], stored["seq"] + 1)
    for word, more in (("edit", {"text": "x"}), ("recall", {})):
        assert bob.refused(f"messages/{word}", id=stored["id"], **more) == (404, "unknown_message")
        assert ann.refused(f"messages/{word}", id=10**9, **more) == (404, "unknown_message")
        assert ann.refused(f"messages/{word}", id=edited["id"], **more) == (404, "unknown_message")
    recalled = ann.post("messages/recall", id=stored["id"])
    page = bob.get("messages", conversation=stored["conversation"])
    assert [(each["kind"], each.get("about", 0), each["from"]) for each in page["messages"]] == [
        ("recall", stored["id"], ann.user),
        ("recall", stored["id"], ann.user),
        ("recall", stored["id"], ann.user),
    ]
    assert not any("text" in each for each in page["messages"])
    assert page["messages"][-1]["id"] == recalled["id"]
    assert bob.get("messages/search", text="hello")["messages"] == []
    assert ann.refused("messages/edit", id=stored["id"], text="again") == (404, "unknown_message")


def test_a_back_end_may_take_back_anybodys(locked: Server, ann: User, bob: User) -> None:
    stored = pushed(locked, ann.user, bob.user, "spam")
    done = good(locked.http, "messages/recall", {"id": stored["id"]}, key=KEY)
    assert done["conversation"] == stored["conversation"]
    for reader in (ann, bob):
        last = reader.get("messages", conversation=stored["conversation"])["messages"][-1]
        assert (last["kind"], last["from"], last["about"]) == ("recall", "", stored["id"])
    assert good(locked.http, "messages/recall", {"id": stored["id"], "user": ann.user}, key=KEY)


def test_whoever_left_a_group_changes_nothing_there(locked: Server, ann: User, bob: User) -> None:
    group = ann.group(bob)
    body = {"app": "gochat", "group": group, "sender": bob.user, "text": "hi", "store": True}
    stored = good(locked.http, "push", body, key=KEY)["results"][0]["stored"]
    bob.post("groups/leave", group=group)
    assert bob.refused("messages/recall", id=stored["id"]) == (404, "unknown_conversation")


def test_nobody_reads_for_others_without_the_right_to(locked: Server, ann: User, bob: User) -> None:
    stored = pushed(locked, ann.user, bob.user, "hi")
    for route, query in (
        ("conversations", {}),
        ("messages", {"conversation": stored["conversation"]}),
        ("messages/search", {"text": "hi"}),
        ("messages/receipts", {"conversation": stored["conversation"]}),
    ):
        assert refused(locked.http, route, user=bob.user, **query)[:2] == (401, "unauthorized")
        assert refused(locked.http, route, key="push-key-of-the-tests", user=bob.user, **query)[:2] == (
            403,
            "forbidden",
        )
        assert ann.refused_get(route, user=bob.user, **query) == (403, "not_allowed")
        assert refused(locked.http, route, key=KEY, **query)[:2] == (400, "invalid_request")


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("messages", {}),
        ("messages", {"conversation": 0}),
        ("messages", {"conversation": 1, "limit": 201}),
        ("messages/search", {}),
        ("messages/search", {"text": " "}),
        ("messages/search", {"text": "x" * 257}),
        ("messages/search", {"text": "a\0b"}),
        ("messages/search", {"text": " ", "from": "ann"}),
        ("messages/search", {"from": "a\0b"}),
        ("messages/search", {"types": ",".join("t" * 21)}),
        ("messages/search", {"text": "a", "since": -1}),
        ("conversations", {"before": -1}),
    ],
)
def test_what_cannot_be_asked_is_refused(server: Server, route: str, query: dict[str, Any]) -> None:
    assert refused(server.http, route, app="101", user="ann", **query)[:2] == (400, "invalid_request")


def test_in_an_app_without_a_word_nothing_is_found(server: Server, app: int) -> None:
    question = {"app": app, "user": "nobody"}
    assert good(server.http, "conversations", **question) == {"conversations": [], "before": 0}
    assert good(server.http, "messages", **question, conversation=1) == {"messages": [], "before": 0}
    assert good(server.http, "messages/search", **question, text="x") == {"messages": [], "before": 0}
    body = {"app": str(app), "user": "nobody", "id": 1}
    assert refused(server.http, "messages/recall", body)[:2] == (404, "unknown_message")


def test_pages_of_long_messages_are_short(server: Server, app: int) -> None:
    question = {"app": app, "user": "bob"}
    long = "x" * 60_000
    where = [pushed(server, "ann", "bob", long, app) for _ in range(10)]
    conversation, ids = where[0]["conversation"], [each["id"] for each in where]
    newest = good(server.http, "messages", **question, conversation=conversation, limit=200)
    assert [each["id"] for each in newest["messages"]] == ids[2:]
    rest = good(server.http, "messages", **question, conversation=conversation, before=newest["before"])
    assert [each["id"] for each in rest["messages"]] == ids[:2]
    assert rest["before"] == 0
    missed = good(server.http, "messages/sync", **question, limit=200)
    assert ([each["id"] for each in missed["messages"]], missed["more"]) == (ids[:8], True)
    missed = good(server.http, "messages/sync", **question, after=missed["after"])
    assert ([each["id"] for each in missed["messages"]], missed["more"]) == (ids[8:], False)
