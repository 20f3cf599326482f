"""Messages of users that a back end reviews: what is stored and delivered, and
what each dialect answers."""

from functools import cached_property
from typing import Any

import pytest
from msgspec import json as fast

from imserver.backends.webhooks.reviews import ReviewHook, ReviewRequests
from imserver.dialects.action.stored import ActionMessages
from imserver.dialects.action.wire import ActionDialect, Say
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.model import ReviewUnavailable
from tests.dialects.action.harness import ActionHarness, One
from tests.dialects.protobuf.test_service import APP as CHATS
from tests.dialects.protobuf.test_service import Harness as Chats
from tests.gateway.core.back_end import Answer, Post
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import until
from tests.messenger.messaging_harness import APP, Node

RUDE = {"action": "reject", "reason": "be nice"}
STARS = {"action": "replace", "text": "***"}
ALLOW = {"action": "allow"}
QUESTION = {"kind": "message", "sender": "ann", "type": "text", "text": "rude"}
"""What a back end is asked, but for the receiver."""


def judge(message: dict[str, Any]) -> dict[str, Any]:
    """The answer to a message, by its text."""
    text = message.get("text", "")
    return RUDE if "rude" in text else STARS if "word" in text else ALLOW


def reply(post: Post) -> Answer:
    return 200, fast.encode(
        {"answers": [judge(each) for each in post.json["messages"]]}
    )


def reviewing(kind: type[Harness], **options: Any) -> Any:
    """A node of this kind whose messages a back end may review."""
    reviews = cached_property(
        lambda node: ReviewRequests(node.back_end, lambda: "node:1")
    )
    return type(kind.__name__, (kind,), {"reviews": reviews})(**options)


def reviewed(harness: Any, app: str = APP, seconds: float = 60.0) -> None:
    """From now on a back end reviews the messages of an app."""
    harness.reviews.set(app, ReviewHook(app, "http://back.end/", b"s", seconds, False))
    harness.back_end.reply = reply


def questions(harness: Any) -> list[dict[str, Any]]:
    return [
        message for post in harness.back_end.posts for message in post.json["messages"]
    ]


def test_a_message_is_stored_as_the_back_end_says_or_rejected_with_its_reason() -> None:
    with reviewing(Node) as node:
        reviewed(node)
        ann = node.speaker("ann", 0)
        bob = node.speaker("bob", 0)
        assert ann.send("bob", "rude") == (1003, {"reason": "be nice"})
        assert ann.send("bob", "a word")[0] == 200
        assert ann.send("bob", "hi")[0] == 200
        until(lambda: len(bob.pushed()) >= 2)
        assert bob.texts() == ["***", "hi"]
        assert [entry.body for entry in node.stored] == [b"***", b"hi"]
        assert questions(node)[0] == {**QUESTION, "to": "bob"}


def test_the_sender_learns_what_is_stored_instead() -> None:
    with reviewing(Node) as node:
        reviewed(node)
        ann = node.speaker("ann", 0)
        assert "replaced" not in ann.send("bob", "hi")[1]
        id = ann.send("bob", "a word", clientMsgID="1")[1]["id"]
        stars = {"type": "text", "text": "***"}
        assert ann.send("bob", "a word", clientMsgID="1")[1]["replaced"] == stars
        assert (
            ann.ask("edit", {"id": id, "text": "another word"})[1]["replaced"] == stars
        )
        node.back_end.reply = lambda _: (
            200,
            b'{"answers":[{"action":"replace","data":{"n":1}}]}',
        )
        assert ann.send("bob", "hi")[1]["replaced"] == {
            "type": "custom",
            "data": {"n": 1},
        }
        assert "replaced" not in ann.ask("recall", {"id": id})[1]


def test_messages_of_a_connection_are_stored_in_their_order_and_others_do_not_wait() -> (
    None
):
    with reviewing(Node) as node:
        reviewed(node)
        ann = node.speaker("ann", 0)
        bob = node.speaker("bob", 0)
        id = ann.send("bob", "0")[1]["id"]
        node.back_end.open.clear()
        first = ann.send_payload("send", {"to": "bob", "text": "1"})
        until(lambda: node.back_end.busy == 1)
        recall = ann.send_payload("recall", {"id": id})
        ann.settle()
        node.reviews.set(APP, None)
        assert bob.send("ann", "at once")[0] == 200
        node.back_end.open.set()
        assert ann.answer(first)[1]["id"] < ann.answer(recall)[1]["id"]


def test_what_a_back_end_stores_is_not_reviewed() -> None:
    with reviewing(Node) as node:
        reviewed(node)
        results: list[Any] = []
        node.messaging.send(
            APP, Draft(sender="ann", to_user="bob", body=b"rude"), results.append
        )
        until(lambda: results)
        assert results[0].entry.body == b"rude"
        assert not node.back_end.posts


def test_a_user_without_a_connection_is_reviewed_too() -> None:
    with reviewing(Node) as node:
        reviewed(node)
        results: list[Any] = []
        node.messaging.send_of_user(
            APP, Draft(sender="ann", to_user="bob", body=b"rude"), results.append
        )
        until(lambda: results)
        assert (results[0].reason, results[0].detail) == ("rejected", "be nice")
        recall = Draft(sender="ann", to_user="bob", kind="recall", about=1)
        node.messaging.send_of_user(APP, recall, results.append)
        until(lambda: len(results) == 2)
        reviewed(node, seconds=0.05)
        node.back_end.open.clear()
        node.messaging.send_of_user(
            APP, Draft(sender="ann", to_user="bob", body=b"x"), results.append
        )
        until(lambda: len(results) == 3)
        assert isinstance(results[2], ReviewUnavailable)


def test_a_rejected_chat_message_is_acknowledged_and_not_delivered() -> None:
    with reviewing(Chats) as harness:
        reviewed(harness, CHATS)
        ann = harness.live(266)
        bob = harness.live(267)
        for number, text in enumerate(("rude", "a word", "hi"), 1):
            ann.single(number, 267, text)
        until(lambda: len(ann.acks()) == 3)
        assert sorted(number for number, _ in ann.acks()) == [1, 2, 3]
        until(lambda: len(bob.pushes()) == 2)
        assert [each.content for each in bob.pushes()] == [b"***", b"hi"]


def test_a_chat_message_that_nobody_reviewed_is_not_acknowledged_and_may_come_again() -> (
    None
):
    with reviewing(Chats) as harness:
        reviewed(harness, CHATS, seconds=0.05)
        ann = harness.live(266)
        harness.back_end.open.clear()
        ann.single(1, 267, "hi")
        until(lambda: not harness.uplink.queues)
        assert ann.acks() == []
        reviewed(harness, CHATS)
        harness.back_end.open.set()
        ann.single(1, 267, "hi")
        until(lambda: [number for number, _ in ann.acks()] == [1])


@pytest.mark.parametrize("room", ["0", "tea"])
def test_a_live_message_is_delivered_as_the_back_end_says(room: str) -> None:
    with reviewing(ActionHarness, policies={"action:1": "multi"}) as harness:
        reviewed(harness, "action:1")
        ann = One(harness, "ann", "bob", room)
        bob = One(harness, "bob", "ann", room)
        assert ann.answer("sendmsg", msgType="text", message="rude") == (
            1003,
            {"reason": "be nice"},
        )
        assert ann.say("a word") == 200
        harness.back_end.open.clear()
        reviewed(harness, "action:1", seconds=0.1)
        assert ann.say("hi") == 1008
        harness.back_end.open.set()
        reviewed(harness, "action:1")
        assert ann.say("hi") == 200
        bob.receives("***", "hi")
        where = {"to": "bob"} if room == "0" else {"room": "tea"}
        assert questions(harness)[0] == {**QUESTION, **where}
        assert [facts["text"] for _, _, facts in harness.observer.messages] == [
            "***",
            "hi",
        ]


def test_a_stored_conversation_is_reviewed() -> None:
    with reviewing(Node, policies={"action:1": "multi"}) as node:
        reviewed(node, "action:1")
        messages = ActionMessages(node.messaging, node.store)
        connection, _ = node.connect(dialect=ActionDialect())
        node.hub.join(node.hub.open("action:1", "multi"), connection, "ann", "")
        answers: list[Any] = []
        for text in ("rude", "a word"):
            messages.send(connection, Say("text", text), answers.append, to="bob")
        until(lambda: len(answers) == 2)
        assert {each.code for each in answers} == {1003, 200}
        assert [entry.body for entry in node.stored] == [b"***"]
