"""Pushes that find nobody, and what pages say, are told to the app's back end; nothing else is."""

from collections.abc import Iterator

import pytest

from imserver.backends.webhooks.parts import EVENTS
from imserver.backends.webhooks.requests import Receiver
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.config.settings import Config, KeySettings
from tests.backends.login_harness import webhooks_of
from tests.gateway.api.fakes import FakeNode, with_keys
from tests.gateway.transport.harness import until


class HookedNode(FakeNode):
    """One with webhooks."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.webhooks = self.observer = webhooks_of(self.back_end)


SILENT = Receiver("101", "http://back.end/", b"secret", EVENTS - {"absent"})


@pytest.fixture
def node() -> Iterator[HookedNode]:
    one = HookedNode()
    one.webhooks.set("101", Receiver("101", "http://back.end/", b"secret", EVENTS))
    yield one
    one.webhooks.stop(1)


def received(node: HookedNode) -> list[tuple[str, str, str]]:
    """(user, message id, text) of the absent, once all is told."""
    until(lambda: node.webhooks.tally.waiting.total() == 0 and not node.back_end.busy)
    return [(event["user"], event["message"], event["text"]) for event in node.back_end.events]


def test_a_push_to_an_absent_user_is_reported_with_its_content(node: HookedNode) -> None:
    node.post("/user/sendMessage", appID=101, userID="zoe", msgID="m1", message="hi")
    node.post("/user/sendMessage", appID=101, userID="马远", msgID="m2", message="hi")
    node.post("/user/sendMessage", appID=102, userID="zoe", msgID="m3", message="hi")
    node.post("/user/sendMessage", appID=101, userID="", msgID="m4", message="hi")
    assert received(node) == [("zoe", "m1", "hi")]


def test_messages_of_a_page_are_reported_and_those_of_a_back_end_are_not() -> None:
    node = HookedNode(with_keys(KeySettings("push-key", ("push",))))
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


def test_a_message_between_users_is_reported_with_its_sender() -> None:
    node = HookedNode(with_keys(KeySettings("push-key", ("push",))))
    node.webhooks.set("101", Receiver("101", "http://back.end/", b"secret", EVENTS))
    node.session_tokens["eyJ.ann.101"] = Claims("ann", "101", 2**40)
    for user in ("马远", "zoe"):
        form = {"appID": 101, "userID": user, "msgID": f"m-{user}", "message": "hi"}
        node.post("/user/sendMessage", key="eyJ.ann.101", **form)
    until(lambda: len(node.back_end.events) == 2)
    sent, absent = (
        {name: event.get(name) for name in ("event", "sender", "message", "to", "user")}
        for event in node.back_end.events
    )
    assert list(sent.values()) == ["message", "ann", "m-马远", "马远", None]
    assert list(absent.values()) == ["absent", "ann", "m-zoe", None, "zoe"]
