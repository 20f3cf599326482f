"""What accounts write and mark over ``/api/v1``, with nothing but their token, and who is told of it."""

from time import time
from typing import Any

import pytest

from tests.support import Server
from tests.users import User

from .clusters import nodes_of
from .cmd import logged_in
from .protobuf import chatting
from .receiver import Receiver
from .setting import Launch
from .sse import Listener
from .v1 import KEYS, call, good, refused

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


def test_clients_of_other_dialects_receive_it_at_once(locked: Server, ann: User, bob: User) -> None:
    with chatting(locked.ws, (bob.user, bob.token)) as protobuf_client:
        protobuf_client.catch_up()
        ann.post("messages/send", to=bob.user, text="tea?")
        received = protobuf_client.output()
        assert b"tea?" in received.data


def test_members_of_a_group_speak_there_unless_they_are_muted(ann: User, bob: User) -> None:
    group = ann.group(bob)
    body = {"conversation": int(group), "text": "hi"}
    assert bob.post("messages/send", **body)["conversation"] == int(group)
    ann.post("groups/mute", group=group, member=bob.user, until=int(time()) + 1000)
    assert bob.refused("messages/send", **body) == (403, "muted")
    ann.post("groups/remove", group=group, members=[bob.user])
    assert bob.refused("messages/send", **body) == (404, "unknown_conversation")
    assert bob.refused("messages/send", **{**body, "conversation": 10**12}) == (404, "unknown_conversation")


def test_an_edit_may_say_anything_and_what_comes_again_is_stored_once(ann: User, bob: User) -> None:
    sent = ann.post("messages/send", to=bob.user, text="here it is")
    edit = {"id": sent["id"], "data": {"url": "/p/1"}, "type": "picture", "mentions": [bob.user]}
    first = ann.post("messages/edit", **edit, client_msg_id="e")
    assert ann.post("messages/edit", **edit, client_msg_id="e") == {**first, "repeated": True}
    (shown, _) = bob.get("messages", conversation=sent["conversation"])["messages"]
    assert (shown["type"], shown["data"]) == ("picture", {"url": "/p/1"})
    assert shown["meta"] == {"mentions": [bob.user], "edited": first["id"]}
    gone = ann.post("messages/recall", id=sent["id"], client_msg_id="r")
    assert ann.post("messages/recall", id=sent["id"], client_msg_id="r") == {**gone, "repeated": True}
    assert ann.post("messages/edit", **edit, client_msg_id="e") == {**first, "repeated": True}
    assert ann.refused("messages/edit", **edit) == (404, "unknown_message")
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
    for route, body in (
        ("react", {"id": id, "emoji": "+1"}),
        ("pin", {"id": id}),
        ("send", {"to": bob.user, "forward": id}),
    ):
        assert eve.refused(f"messages/{route}", **body) == (404, "unknown_message")
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
    assert bob.refused("messages/react", id=id, emoji="👍") == (404, "unknown_message")


def test_a_back_end_sends_as_a_user_with_a_key_that_may(locked: Server, ann: User, bob: User) -> None:
    body = {"user": ann.user, "to": bob.user, "text": "for ann"}
    assert good(locked.http, "messages/send", body, key=KEY)["seq"] == 1
    assert refused(locked.http, "messages/send", body)[:2] == (401, "unauthorized")
    assert refused(locked.http, "messages/send", body, key="push-key-of-the-tests")[:2] == (403, "forbidden")
    assert bob.refused("messages/send", **body) == (403, "not_allowed")
    assert refused(locked.http, "messages/send", {"to": "x", "text": "y"}, key=KEY)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"to": "1"},
        {"text": "x"},
        {"to": "1", "conversation": 1, "text": "x"},
        {"to": "1", "text": "x", "data": 1},
        {"to": "1", "data": 1, "type": "text"},
        {"to": "1\0", "text": "x"},
        {"to": "é" * 200, "text": "x"},
        {"to": "1", "text": "x", "client_msg_id": "é" * 40},
        {"to": "1", "text": "x", "type": "t" * 33},
        {"to": "1", "text": "x", "mentions": ["a"] * 101},
        {"to": "1", "data": "x" * 200_000},
        {"to": "1", "text": "x" * 65_537},
        {"to": "1", "text": "x", "more": 1},
        b'{"to":"1","data":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_an_invalid_message_is_refused(ann: User, body: Any) -> None:
    assert refused(ann.server.http, "messages/send", body, key=ann.token)[:2] == (400, "invalid_request")


def test_a_back_end_may_send_longer_messages_than_an_account(locked: Server, ann: User, bob: User) -> None:
    body = {"user": ann.user, "to": bob.user, "text": "x" * 65_537}
    assert good(locked.http, "messages/send", body, key=KEY)
    assert ann.post("messages/send", to=bob.user, text="x" * 65_536)
    body["text"] = "x" * 131_073
    assert refused(locked.http, "messages/send", body, key=KEY)[:2] == (400, "invalid_request")


def test_a_message_to_oneself_is_refused(ann: User) -> None:
    assert ann.refused("messages/send", to=ann.user, text="x") == (400, "invalid_request")


def test_pages_of_what_was_missed_follow_one_another(ann: User, bob: User) -> None:
    sent = [ann.post("messages/send", to=bob.user, text=str(number))["id"] for number in range(5)]
    seen, after, more = list[str](), sent[0] - 1, True
    while more:
        page = bob.get("messages/sync", after=after, limit=2)
        seen += texts(page)
        after, more = page["after"], page["more"]
    assert (seen, after) == ([*"01234"], sent[-1])
    assert bob.get("messages/sync", after=after) == {
        "messages": [],
        "after": after,
        "more": False,
        "begin_anew": False,
    }
    assert bob.get("messages/sync", after=10**12)["begin_anew"] is True


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


@pytest.mark.full
def test_an_account_sends_no_faster_than_over_a_connection_and_not_while_it_is_banned(
    launch: Launch, http_server: str
) -> None:
    server = launch(
        http_server, api=KEYS, accounts={"registration": True}, apps={"gochat": {"messages_per_second": 0.1}}
    )
    ann, bob = User.register(server), User.register(server)
    body = {"to": bob.user, "text": "x"}
    first, late = (call(server.http, "messages/send", body, key=ann.token) for _ in range(2))
    assert first.status == 200
    assert (late.status, late.json["code"]) == (429, "too_many_requests")
    assert 0 < int(late.header("Retry-After") or 0) <= 10
    as_ann = {**body, "user": ann.user}
    assert all(good(server.http, "messages/send", as_ann, key=KEY) for _ in range(4))
    good(server.http, "ban", {"app": "gochat", "users": [bob.user], "seconds": 100}, key=KEY)
    assert bob.refused("messages/send", to=ann.user, text="x") == (403, "banned")


@pytest.mark.full
def test_stored_messages_of_users_are_reported_once(launch: Launch, http_server: str) -> None:
    with Receiver() as receiver:
        server = launch(
            http_server,
            api=KEYS,
            accounts={"registration": True},
            apps={"gochat": {"webhook": receiver.settings}},
        )
        ann, bob = User.register(server), User.register(server)
        body = {"to": bob.user, "text": "by the back end", "user": ann.user}
        good(server.http, "messages/send", body, key=KEY)
        sent = ann.post("messages/send", to=bob.user, text="by ann", client_msg_id="a")
        ann.post("messages/send", to=bob.user, text="by ann", client_msg_id="a")
        receiver.wait_for(2, "message")
        ann.post("messages/recall", id=sent["id"])
        events = receiver.wait_for(3, "message")
    assert [(each["sender"], each.get("text"), each.get("kind")) for each in events] == [
        (ann.user, "by the back end", None),
        (ann.user, "by ann", None),
        (ann.user, None, "recall"),
    ]


@pytest.mark.full
def test_where_nothing_can_be_stored_nothing_is(server: Server) -> None:
    body = {"app": "system:shop", "user": "1", "to": "2", "text": "x"}
    good(server.http, "apps/create", {"app": "system:shop"})
    assert refused(server.http, "messages/send", body)[:2] == (400, "store_unavailable")


def test_what_is_hidden_over_http_is_reported_to_the_users_connections(server: Server, app: int) -> None:
    with logged_in(server.ws, "bob", app, cursor=0) as one:
        question = {"app": str(app), "user": "ann", "to": "bob", "text": "hi"}
        sent = good(server.http, "messages/send", question)
        one.push("message")
        good(server.http, "messages/hide", {"app": str(app), "user": "bob", "ids": [sent["id"]]})
        assert one.push("hidden").json["response"]["data"] == {"ids": [sent["id"]]}


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
def test_on_two_nodes_it_is_as_on_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(tmp_path_factory.mktemp("writing"), 2, apps={"gochat": {}}) as nodes:
        here, there = nodes.servers
        ann, bob = User.register(here), User.register(there)
        with chatting(there.ws, (bob.user, bob.token)) as protobuf_client:
            body = {"to": bob.user, "text": "tea?", "client_msg_id": "a"}
            sent = ann.post("messages/send", **body)
            assert b"tea?" in protobuf_client.output().data
            again = good(there.http, "messages/send", body, key=ann.token)
            assert again == {**sent, "repeated": True}
        mark = {"conversation": sent["conversation"], "id": sent["id"]}
        assert bob.post("messages/read", **mark)["read"] == sent["id"]
        good(there.http, "messages/recall", {"id": sent["id"]}, key=ann.token)
        kinds = [each["kind"] for each in bob.get("messages/sync")["messages"]]
        assert kinds == ["recall", "recall"]
