"""What accounts and back ends write, mark and read over ``/api/v1``, and who is told of it."""

from typing import Any

import pytest

from tests.support import Server
from tests.users import User

from .cmd import CmdClient, logged_in
from .sse import Listener
from .test_messaging import send
from .v1 import good

KEY = "admin-key-of-the-tests"


def texts(page: Any) -> list[str]:
    return [each.get("text", "") for each in page["messages"]]


def test_an_account_sends_and_the_other_reads_with_nothing_but_their_tokens(ann: User, bob: User) -> None:
    body = {"to": bob.user, "text": "tea?", "client_msg_id": "a-1"}
    first = ann.post("messages/send", **body)
    assert (first["seq"], first["repeated"]) == (1, False)
    assert ann.post("messages/send", **body) == {**first, "repeated": True}
    back = {"conversation": first["conversation"], "data": {"n": [1, "é"]}, "reply_to": first["id"]}
    second = bob.post("messages/send", **back, mentions=[ann.user])
    page = ann.get("messages/sync", after=first["id"] - 1)
    shown = page["messages"][1]
    assert (page["after"], page["more"], page["begin_anew"]) == (second["id"], False, False)
    assert (shown["type"], shown["data"], shown["about"]) == ("custom", {"n": [1, "é"]}, first["id"])
    assert shown["meta"] == {"mentions": [ann.user]}
    assert texts(bob.get("messages", conversation=first["conversation"])) == ["tea?", ""]
    assert [row["peer"] for row in bob.get("conversations")["conversations"]] == [ann.user]


def test_edits_and_recalls_are_of_the_authors_own_and_what_comes_again_is_stored_once(
    ann: User, bob: User
) -> None:
    sent = ann.post("messages/send", to=bob.user, text="here it is")
    edit = {"id": sent["id"], "data": {"url": "/p/1"}, "type": "picture", "mentions": [bob.user]}
    first = ann.post("messages/edit", **edit, client_msg_id="e")
    assert ann.post("messages/edit", **edit, client_msg_id="e") == {**first, "repeated": True}
    (shown, _) = bob.get("messages", conversation=sent["conversation"])["messages"]
    assert (shown["type"], shown["data"]) == ("picture", {"url": "/p/1"})
    assert shown["meta"] == {"mentions": [bob.user], "edited": first["id"]}
    unknown = (404, "unknown_message")
    for word, more in (("edit", {"text": "x"}), ("recall", {})):
        assert bob.refused(f"messages/{word}", id=sent["id"], **more) == unknown
        for id in (10**9, first["id"]):
            assert ann.refused(f"messages/{word}", id=id, **more) == unknown
    ann.post("messages/edit", id=sent["id"], text="hello")
    assert len(bob.get("messages/search", text="hello")["messages"]) == 1
    gone = ann.post("messages/recall", id=sent["id"], client_msg_id="r")
    assert ann.post("messages/recall", id=sent["id"], client_msg_id="r") == {**gone, "repeated": True}
    assert ann.post("messages/edit", **edit, client_msg_id="e") == {**first, "repeated": True}
    page = bob.get("messages", conversation=sent["conversation"])["messages"]
    assert [(each["kind"], each["about"], each["from"]) for each in page] == [
        ("recall", sent["id"], ann.user)
    ] * 4
    assert not any("text" in each or "data" in each for each in page)
    assert bob.get("messages/search", text="hello")["messages"] == []
    assert ann.refused("messages/edit", **edit) == unknown
    assert ann.refused("messages/edit", id=sent["id"]) == (400, "invalid_request")


def test_reactions_and_pins_are_stored_shown_and_refused(locked: Server, ann: User, bob: User) -> None:
    group = ann.group(bob)
    sent = ann.post("messages/send", conversation=int(group), text="tea?", mentions=["all"])
    id, at = sent["id"], sent["conversation"]
    done = bob.post("messages/react", id=id, emoji="👍")
    assert done["conversation"] == at
    assert done["id"] > id
    assert bob.post("messages/react", id=id, emoji="👍") == {"conversation": at, "id": 0}
    assert bob.refused("messages/pin", id=id) == (403, "role_too_low")
    assert ann.post("messages/pin", id=id)["id"] > done["id"]
    shown = ann.get("conversations/pins", conversation=at)["messages"]
    assert [each["reactions"] for each in shown] == [
        [{"emoji": "👍", "count": 1, "users": [bob.user], "mine": False}]
    ]
    assert ann.get("messages", conversation=at, types="text,picture")["messages"] == shown
    page = ann.get("messages", conversation=at, after=0, limit=1)
    assert (page["messages"][0]["kind"], page["before"], page["after"]) == ("group", 0, id - 1)
    page = ann.get("messages", conversation=at, after=id - 1)
    assert ([each["kind"] for each in page["messages"]], page["after"]) == (["message", "pin"], 0)
    kinds = [each["kind"] for each in bob.get("messages/sync", after=id - 1)["messages"]]
    assert kinds == ["message", "reaction", "pin"]
    (conversation,) = bob.get("conversations")["conversations"]
    assert (conversation["unread"], conversation["mentions"], conversation["last"]["id"]) == (1, 1, id)
    eve = User.register(locked)
    copy = bob.post("messages/send", to=eve.user, forward=id)
    (received,) = eve.get("messages", conversation=copy["conversation"])["messages"]
    assert (received["text"], received["meta"]) == ("tea?", {"forwarded": {"from": ann.user, "id": id}})
    for route, body in (("react", {"emoji": "+1"}), ("pin", {}), ("send", {"to": bob.user, "forward": id})):
        given = body if "to" in body else {"id": id, **body}
        assert eve.refused(f"messages/{route}", **given) == (404, "unknown_message")
    assert eve.get("conversations/pins", conversation=at) == {"messages": [], "before": 0}
    bad = [
        ("react", {"id": id, "emoji": ""}),
        ("react", {"id": id, "emoji": "é" * 20}),
        ("react", {"id": id, "emoji": "a\n"}),
        ("send", {"to": bob.user, "forward": id, "text": "x"}),
        ("send", {"to": bob.user, "text": "x", "mentions": ["all", bob.user]}),
    ]
    for route, body in bad:
        assert ann.refused(f"messages/{route}", **body) == (400, "invalid_request")
    assert ann.refused_get("messages", conversation=at, after=0, types="text") == (400, "invalid_request")
    assert good(locked.http, "messages/pin", {"id": id, "remove": True}, key=KEY)["id"]
    assert good(locked.http, "messages/recall", {"id": id}, key=KEY)["id"]
    last = bob.get("messages", conversation=at)["messages"][-1]
    assert (last["kind"], last["from"], last["about"]) == ("recall", "", id), "a back end recalls anybody's"
    assert bob.refused("messages/react", id=id, emoji="👍") == (404, "unknown_message")


def test_what_one_device_marks_the_others_learn(locked: Server, ann: User, bob: User) -> None:
    first, second = (ann.post("messages/send", to=bob.user, text=text) for text in ("one", "two"))
    where = first["conversation"]
    mark = {"conversation": where, "id": first["id"]}
    assert bob.post("messages/received", **mark) == {"conversation": where, "received": first["id"]}
    assert bob.post("messages/read", **mark) == {"conversation": where, "read": first["id"]}
    version = bob.post("messages/hide", ids=[second["id"], 10**12])["version"]
    assert bob.get("messages/marks") == {
        "version": version,
        "read": [{"conversation": where, "id": first["id"]}],
        "hidden": [second["id"]],
        "receipts": [],
    }
    assert bob.get("messages/marks", version=version)["hidden"] == []
    assert [(row["user"], row["read"]) for row in ann.get("messages/marks")["receipts"]] == [
        (bob.user, first["id"])
    ]
    assert texts(bob.get("messages", conversation=where)) == ["one"]
    assert texts(ann.get("messages", conversation=where)) == ["one", "two"]
    assert ann.refused("messages/received", **{**mark, "conversation": 10**12}) == (
        404,
        "unknown_conversation",
    )


def test_a_front_end_needs_no_websocket(locked: Server, ann: User, bob: User) -> None:
    question = {"app": "gochat", "token": bob.token}
    with Listener(locked.http) as one:
        one.listen(**question)
        first = ann.post("messages/send", to=bob.user, text="helo")
        assert one.stored()["text"] == "helo"
        ann.post("messages/edit", id=first["id"], text="hello")
        received = one.stored()
        assert (received["kind"], received["about"]) == ("edit", first["id"])
    later = [ann.post("messages/send", to=bob.user, text=text)["id"] for text in ("secret", "more")]
    ann.post("messages/recall", id=later[0])
    with Listener(locked.http) as again:
        again.listen(headers=[("Last-Event-ID", str(received["id"]))], **question)
        assert [(each["kind"], each.get("text")) for each in (again.stored() for _ in range(3))] == [
            ("recall", None),
            ("message", "more"),
            ("recall", None),
        ]


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
    names = ("conversation", "kind", "peer", "role", "unread", "mentions", "read")
    assert [row[name] for name in names] == [where, "user", "ann", "member", 3, 0, 0]
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


# --- pushes that are stored ---------------------------------------------------------------------------------


def received(one: CmdClient) -> dict[str, Any]:
    data: dict[str, Any] = one.push("message").json["response"]["data"]
    return data


def stored(answer: Any) -> list[dict[str, Any]]:
    """Where the messages of an answer are, all of which must be stored."""
    assert [result["status"] for result in answer["results"]] == ["stored"] * answer["sent"]
    return [result["stored"] for result in answer["results"]]


def test_a_stored_push_reaches_online_users_now_and_others_later(server: Server, app: int) -> None:
    push = {"app": str(app), "users": ["ann", "bob"], "sender": "shop", "text": "hi", "store": True}
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        first, second = stored(good(server.http, "push", push))
        assert (first["id"], second["id"], first["seq"], second["seq"]) == (1, 2, 1, 1)
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["to"], heard["text"]) == (1, "shop", "ann", "hi")
        order = {"app": str(app), "user": "ann", "type": "order", "data": {"number": 17}, "store": True}
        stored(good(server.http, "push", order))
        heard = received(ann)
        assert (heard["id"], heard["from"], heard["type"]) == (3, "", "order"), "the server itself says it"
        assert heard["data"] == {"number": 17}
    with logged_in(server.ws, "bob", app, cursor=0) as bob:
        assert received(bob)["id"] == 2


def test_a_push_to_a_group_is_stored_once_for_all_members(server: Server, app: int) -> None:
    request = {"app": str(app), "user": "ann", "name": "tea", "members": ["bob"]}
    group = good(server.http, "groups/create", request)["group"]
    push = {"app": str(app), "text": "milk?", "store": True}
    for sender in ("bob", ""):
        (at,) = stored(good(server.http, "push", {**push, "group": group, "sender": sender}))
        assert at["conversation"] == int(group)
    with logged_in(server.ws, "ann", app, cursor=0) as ann:
        assert [received(ann)["kind"] for _ in range(3)] == ["group", "message", "message"]
    (direct,) = stored(good(server.http, "push", {**push, "user": "bob", "sender": "ann"}))
    targets = [{"group": group}, {"group": "999"}, {"group": str(direct["conversation"])}]
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
