"""Pushes that find nobody, and what pages say, are told to the app's back end;
nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from imserver.backends.webhooks.parts import EVENTS
from imserver.backends.webhooks.requests import Receiver
from imserver.gateway.config.settings import Config, KeySettings, TenantSettings
from tests.backends.login_harness import webhooks_of
from tests.gateway.api.api_node import ApiNode, with_keys
from tests.gateway.core.back_end import BackEnd
from tests.gateway.core.login_harness import JWT, token_for
from tests.gateway.transport.harness import until


class HookedNode(ApiNode):
    """One with webhooks, where 马远 is online."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        super().__init__(folder, config)
        self.back_end = BackEnd()
        self.webhooks = self.core.observer = webhooks_of(self.back_end)
        self.begin("101", "马远")

    def close(self) -> None:
        self.webhooks.stop(1)
        super().close()


EVERYTHING = Receiver("101", "http://back.end/", b"secret", EVENTS)
KEYED = with_keys(
    KeySettings("push-key", ("push",)), apps={"101": TenantSettings(jwt=JWT)}
)


@pytest.fixture(params=[None])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HookedNode]:
    one = HookedNode(tmp_path, request.param)
    one.webhooks.set("101", EVERYTHING)
    yield one
    one.close()


keyed = pytest.mark.parametrize("node", [KEYED], ids=["keyed"], indirect=True)


def received(node: HookedNode) -> list[tuple[str, str, str]]:
    """(user, message id, text) of the absent, once all is told."""
    until(lambda: node.webhooks.tally.waiting.total() == 0 and not node.back_end.busy)
    return [
        (event["user"], event["message"], event["text"])
        for event in node.back_end.events
    ]


def test_a_push_to_an_absent_user_is_reported_with_its_content(
    node: HookedNode,
) -> None:
    node.post("/user/sendMessage", appID=101, userID="zoe", msgID="m1", message="hi")
    node.post("/user/sendMessage", appID=101, userID="马远", msgID="m2", message="hi")
    node.post("/user/sendMessage", appID=102, userID="zoe", msgID="m3", message="hi")
    node.post("/user/sendMessage", appID=101, userID="", msgID="m4", message="hi")
    assert received(node) == [("zoe", "m1", "hi")]


@keyed
def test_messages_of_a_page_are_reported_and_those_of_a_back_end_are_not(
    node: HookedNode,
) -> None:
    node.webhooks.set("101", replace(EVERYTHING, events=EVENTS - {"absent"}))
    ann = token_for("ann")
    form = {"appID": 101, "userID": "ann", "message": "hello"}
    node.post("/user/sendMessageAll", key="push-key", msgID="p1", **form)
    node.post("/user/sendMessageAll", key=ann, msgID="p2", **form)
    node.post("/user/sendMessageAll", key=ann, msgID="p2", **form)
    until(lambda: node.back_end.posts)
    (event,) = node.back_end.events
    fields = [event[name] for name in ("event", "sender", "message", "to", "text")]
    assert fields == ["message", "ann", "p2", "all", "hello"]


@keyed
def test_a_message_between_users_is_reported_with_its_sender(node: HookedNode) -> None:
    ann = token_for("ann")
    for user in ("马远", "zoe"):
        form = {"appID": 101, "userID": user, "msgID": f"m-{user}", "message": "hi"}
        node.post("/user/sendMessage", key=ann, **form)
    until(lambda: len(node.back_end.events) == 2)
    names = ("event", "sender", "message", "to", "user")
    assert [[event.get(name) for name in names] for event in node.back_end.events] == [
        ["message", "ann", "m-马远", "马远", None],
        ["absent", "ann", "m-zoe", None, "zoe"],
    ]
