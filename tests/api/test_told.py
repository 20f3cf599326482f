"""Pushes that find nobody, and what pages say, are told to the app's back end; nothing else is."""

from collections.abc import Iterator

import pytest

from imserver.auth.rules import EVENTS
from imserver.auth.tokens import Claims
from imserver.config.settings import KeySettings
from imserver.services.webhooks.requests import Receiver
from tests.transport.rig import until

from .fakes import FakeNode, with_keys

SILENT = Receiver("101", "http://back.end/", b"secret", EVENTS - {"absent"})


@pytest.fixture
def node() -> Iterator[FakeNode]:
    one = FakeNode()
    one.webhooks.set("101", Receiver("101", "http://back.end/", b"secret", EVENTS))
    yield one
    one.webhooks.stop(1)


def told(node: FakeNode) -> list[tuple[str, str, str]]:
    """(user, message id, text) of the absent, once all is told."""
    until(lambda: node.webhooks.tally.waiting == 0 and not node.back_end.busy)
    return [(event["user"], event["message"], event["text"]) for event in node.back_end.events]


def test_a_push_to_somebody_absent_is_told_with_what_it_was(node: FakeNode) -> None:
    node.post("/user/sendMessage", appID=101, userID="zoe", msgID="m1", message="hi")
    node.post("/user/sendMessage", appID=101, userID="马远", msgID="m2", message="hi")
    node.post("/user/sendMessage", appID=102, userID="zoe", msgID="m3", message="hi")
    node.post("/user/sendMessage", appID=101, userID="", msgID="m4", message="hi")
    assert told(node) == [("zoe", "m1", "hi")]


def test_of_a_batch_the_absent_are_told(node: FakeNode) -> None:
    messages = [{"userID": user, "msgID": f"b-{user}", "message": user} for user in ("zoe", "马远", "yan")]
    node.post_json("/user/sendMessageBatch", {"appID": 101, "messages": messages})
    node.post_json(
        "/user/sendMessageBatch", {"appID": 101, "userIDs": ["马远", "zoe"], "msgID": "c", "message": "x"}
    )
    assert told(node) == [("zoe", "b-zoe", "zoe"), ("yan", "b-yan", "yan"), ("zoe", "c", "x")]


def test_a_back_end_that_does_not_want_them_is_told_nothing(node: FakeNode) -> None:
    node.webhooks.set("101", SILENT)
    node.post("/user/sendMessage", appID=101, userID="zoe", msgID="m1", message="hi")
    node.post_json("/user/sendMessageBatch", {"appID": 101, "userIDs": ["zoe"], "msgID": "c", "message": "x"})
    assert told(node) == []


def test_what_a_page_says_is_told_and_what_a_back_end_says_is_not() -> None:
    node = FakeNode(with_keys(KeySettings("push-key", ("push",))))
    node.webhooks.set("101", SILENT)
    node.session_tokens["eyJ.ann.101"] = Claims("ann", "101", 2**40)
    form = {"appID": 101, "userID": "ann", "message": "hello"}
    node.post("/user/sendMessageAll", key="push-key", msgID="p1", **form)
    node.post("/user/sendMessageAll", key="eyJ.ann.101", msgID="p2", **form)
    node.post("/user/sendMessageAll", key="eyJ.ann.101", msgID="p2", **form)
    until(lambda: node.back_end.posts)
    (event,) = node.back_end.events
    assert {name: event[name] for name in ("event", "sender", "message", "to", "text")} == {
        "event": "message",
        "sender": "ann",
        "message": "p2",
        "to": "all",
        "text": "hello",
    }
