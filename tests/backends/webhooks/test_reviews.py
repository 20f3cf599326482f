"""Reviews: what back ends are asked about messages, in which requests, and what
becomes of the messages."""

from typing import Any

import gevent
import pytest
from msgspec import json

from imserver.backends.webhooks import reviews
from imserver.backends.webhooks.reviews import ReviewHook, ReviewRequests
from imserver.gateway.auth.questions import ALLOWED, UNDECIDED, ReviewDecision
from imserver.gateway.config.settings import TenantSettings, WebhookSettings
from imserver.messenger.delivery.messaging import facts_of
from imserver.messenger.log.contract import Draft
from tests.backends.login_harness import WebhookHarness
from tests.gateway.core.back_end import Answer, BackEnd, Post
from tests.gateway.transport.harness import until

APP = "101"
ANN: Any = "the connection of ann"
BOB: Any = "the connection of bob"


def hook(**more: Any) -> ReviewHook:
    settings = {
        "app": APP,
        "url": "http://back.end/review",
        "secret": b"s",
        "seconds": 60.0,
    } | more
    return ReviewHook(**{"allows_failure": False, **settings})


def message(text: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "message",
        "sender": "ann",
        "to": "bob",
        "type": "text",
        "text": text,
        **more,
    }


def allow_all(post: Post) -> Answer:
    return 200, json.encode(
        {"answers": [{"action": "allow"}] * len(post.json["messages"])}
    )


class Reviewed:
    """Reviews of a scripted back end; what became of each message, in the order
    of the decisions."""

    def __init__(self, **more: Any) -> None:
        self.back_end = BackEnd(allow_all)
        self.reviews = ReviewRequests(self.back_end, lambda: "node:1")  # type: ignore[arg-type]
        self.reviews.set(APP, hook(**more))
        self.decisions: list[tuple[str, ReviewDecision]] = []

    def ask(
        self, text: str, connection: Any = None, app: str = APP, **more: Any
    ) -> None:
        self.reviews.review(
            app,
            message(text, **more),
            lambda decision: self.decisions.append((text, decision)),
            connection,
        )

    def answers(self, *answers: dict[str, Any]) -> None:
        """What the back end answers from now on."""
        self.back_end.reply = lambda _: (200, json.encode({"answers": list(answers)}))

    def one(self, answer: dict[str, Any], **more: Any) -> ReviewDecision:
        """What becomes of a message that gets this answer."""
        self.answers(answer)
        return self.reviews.decide(APP, {**message("hi"), **more})

    def wait(self, count: int) -> list[str]:
        """The texts of so many messages in the order of their decisions."""
        until(lambda: len(self.decisions) >= count)
        return [text for text, _ in self.decisions]


def test_messages_of_one_turn_are_asked_about_in_one_signed_request() -> None:
    it = Reviewed()
    for number in range(3):
        it.ask(f"m{number}")
    assert it.wait(3) == ["m0", "m1", "m2"]
    (post,) = it.back_end.posts
    assert (post.url, post.secret) == ("http://back.end/review", b"s")
    messages = [message(f"m{number}") for number in range(3)]
    wanted = {
        "event": "review",
        "app": APP,
        "time": 0,
        "node": "node:1",
        "messages": messages,
    }
    assert {**post.json, "time": 0} == wanted
    assert {decision for _, decision in it.decisions} == {ALLOWED}
    assert it.reviews.asked.total() == 3


def test_messages_that_wait_for_a_turn_are_asked_about_together(
    small_limits: None,
) -> None:
    it = Reviewed()
    it.back_end.open.clear()
    it.ask("first")
    until(lambda: it.back_end.busy == 1)
    for number in range(4):
        it.ask(f"m{number}")
        gevent.sleep(0)
    it.back_end.open.set()
    assert it.wait(5) == ["first", "m0", "m1", "m2", "m3"]
    assert [len(post.json["messages"]) for post in it.back_end.posts] == [1, 4]


def test_a_request_is_bounded_in_messages_and_bytes() -> None:
    it = Reviewed()
    sizes = (
        [1] * (reviews.BATCH_EVENTS + 1)
        + [reviews.BATCH_BYTES // 2] * 2
        + [2 * reviews.BATCH_BYTES]
    )
    for size in sizes:
        it.ask("x" * size)
    it.wait(len(sizes))
    assert [len(post.json["messages"]) for post in it.back_end.posts] == [
        reviews.BATCH_EVENTS,
        2,
        1,
        1,
    ]


def test_a_back_end_allows_and_rejects_with_a_reason() -> None:
    it = Reviewed()
    assert it.one({"action": "allow", "later": "a field"}) == ALLOWED
    assert it.one({"action": "reject", "reason": "spam"}) == ReviewDecision(
        "reject", reason="spam"
    )
    assert it.one({"action": "reject", "reason": "x" * 501}).reason == "x" * 500
    assert (
        it.reviews.asked.total(),
        it.reviews.rejected.total(),
        it.reviews.undecided.total(),
    ) == (3, 2, 0)


@pytest.mark.parametrize(
    ("answer", "kind", "body"),
    [
        ({"text": "***"}, "text", b"***"),
        ({"text": "***", "type": "notice"}, "notice", b"***"),
        ({"text": ""}, "text", b""),
        ({"data": {"n": [1, 2]}}, "custom", b'{"n":[1,2]}'),
        ({"data": 1, "type": "order"}, "order", b"1"),
    ],
)
def test_a_back_end_replaces_content(
    answer: dict[str, Any], kind: str, body: bytes
) -> None:
    it = Reviewed()
    decision = ReviewDecision("replace", kind, body, is_text="text" in answer)
    assert it.one({"action": "replace", **answer}) == decision
    assert it.reviews.replaced.total() == 1


def test_a_replacement_keeps_the_type_of_content_of_its_kind_and_replaces_no_file() -> (
    None
):
    it = Reviewed()
    assert it.one({"action": "replace", "text": "x"}, type="note").type == "note"
    picture = {"kind": "message", "type": "picture", "data": {"url": "/a"}}
    it.answers({"action": "replace", "data": {"url": "/b"}})
    assert it.reviews.decide(APP, picture) == ReviewDecision(
        "replace", "picture", b'{"url":"/b"}'
    )
    it.answers({"action": "replace", "text": "removed"})
    assert it.reviews.decide(APP, picture) == ReviewDecision(
        "replace", "text", b"removed", is_text=True
    )
    assert it.reviews.decide(APP, {"kind": "upload", "name": "a"}) == UNDECIDED


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"text": "a", "data": 1},
        {"data": 1, "type": "text"},
        {"text": "a", "type": "x" * 33},
        {"text": "a", "type": "a\0"},
        {"text": "x" * (reviews.CONTENT_BYTES + 1)},
    ],
)
def test_a_replacement_that_is_not_valid_decides_nothing_about_this_message_only(
    answer: dict[str, Any],
) -> None:
    it = Reviewed()
    it.answers({"action": "replace", **answer}, {"action": "allow"})
    it.ask("bad")
    it.ask("good")
    it.wait(2)
    assert it.decisions == [("bad", UNDECIDED), ("good", ALLOWED)]
    assert it.reviews.undecided.total() == 1


FAULTS: dict[str, Answer] = {
    "unreachable": "it is away",
    "status": (500, b'{"answers":[{"action":"allow"}]}'),
    "forbidden": (403, b""),
    "nonsense": (200, b"yes"),
    "no array": (200, b'{"answers":{"action":"allow"}}'),
    "unknown action": (200, b'{"answers":[{"action":"maybe"}]}'),
    "too few": (200, b'{"answers":[]}'),
    "too many": (200, b'{"answers":[{"action":"allow"},{"action":"allow"}]}'),
    "surrogate": (200, b'{"answers":[{"action":"reject","reason":"\\ud800"}]}'),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("allows", [False, True])
def test_without_a_valid_answer_the_setting_decides(fault: str, allows: bool) -> None:
    it = Reviewed(allows_failure=allows)
    it.back_end.reply = lambda _: FAULTS[fault]
    assert it.reviews.decide(APP, message("hi")) == (ALLOWED if allows else UNDECIDED)
    assert it.reviews.undecided.total() == 1


def test_the_time_includes_the_wait_for_a_turn_and_other_apps_do_not_wait(
    small_limits: None,
) -> None:
    it = Reviewed(seconds=0.1)
    it.reviews.set("102", hook(app="102", url="http://other/"))
    it.back_end.open.clear()
    it.ask("first")
    until(lambda: it.back_end.busy == 1)
    it.ask("waits for a turn")
    it.ask("of another app", app="102")
    it.wait(2)
    assert it.decisions == [("first", UNDECIDED), ("waits for a turn", UNDECIDED)]
    it.back_end.open.set()
    it.wait(3)
    assert it.decisions[2] == ("of another app", ALLOWED)


def test_the_queue_is_bounded_by_app_connection_and_bytes(small_limits: None) -> None:
    it = Reviewed()
    it.back_end.open.clear()
    it.ask("x" * 1000)
    assert it.decisions == [("x" * 1000, UNDECIDED)], "at once"
    for number in range(3):
        it.ask(f"ann{number}", ANN)
    for number in range(4):
        it.ask(f"bob{number}")
    it.reviews.pass_by(lambda decision: it.decisions.append(("recall", decision)), ANN)
    refused = [("ann2", UNDECIDED), ("bob3", UNDECIDED), ("recall", UNDECIDED)]
    assert it.decisions[1:] == refused
    assert it.reviews.undecided.total() == 3, "a recall is not reviewed"
    it.back_end.open.set()
    it.wait(9)
    allowed = sorted(text for text, decision in it.decisions if decision == ALLOWED)
    assert allowed == ["ann0", "ann1", "bob0", "bob1", "bob2"]
    it.ask("y" * 800, ANN)
    assert it.wait(10)[-1] == "y" * 800, "nothing is left of the queue"
    assert it.decisions[-1][1] == ALLOWED


def test_an_app_whose_secret_cannot_be_read_asks_nobody() -> None:
    it = Reviewed(secret=b"")
    assert it.reviews.decide(APP, message("hi")) == UNDECIDED
    assert not it.back_end.posts


def test_messages_of_one_connection_keep_their_order_and_others_do_not_wait() -> None:
    it = Reviewed()
    slow = gevent.event.Event()

    def reply(post: Post) -> Answer:
        if post.json["messages"][0]["text"] == "a1":
            slow.wait(60)
        return allow_all(post)

    it.back_end.reply = reply
    for text, connection in (("a1", ANN), ("a2", ANN), ("b1", BOB)):
        it.ask(text, connection)
        until(
            lambda text=text: (
                text in str(it.back_end.posts[-1].body if it.back_end.posts else "")
            )
        )
    it.reviews.pass_by(lambda decision: it.decisions.append(("recall", decision)), ANN)
    assert it.wait(1) == ["b1"]
    slow.set()
    assert it.wait(4) == ["b1", "a1", "a2", "recall"]
    it.reviews.pass_by(lambda decision: it.decisions.append(("at once", decision)), ANN)
    assert it.decisions[-1][0] == "at once"


def test_a_draft_is_shown_as_its_receivers_would_see_it() -> None:
    draft = Draft(sender="ann", to_user="bob", body=b"hi", client_msg_id="m1")
    assert facts_of(draft) == message("hi", client_msg_id="m1")
    of_edit = {
        "sender": "ann",
        "kind": "edit",
        "conversation": 3,
        "type": "order",
        "about": 7,
    }
    edit = Draft(**of_edit, body=b"[1]", meta=b'{"mentions":[]}')
    assert json.decode(json.encode(facts_of(edit))) == {
        **of_edit,
        "data": [1],
        "meta": {"mentions": []},
    }
    voice = Draft(sender="ann", room="r", type="voice", body=b"\xff")
    assert json.decode(json.encode(facts_of(voice)))["base64"] == "/w=="


def test_the_settings_of_an_app_say_who_reviews_its_messages() -> None:
    of_app = {
        "review_url": "http://back.end/",
        "review_seconds": 0.5,
        "review_failure": "allow",
    }
    settings = TenantSettings(webhook=WebhookSettings(secret="hook secret", **of_app))
    with WebhookHarness({APP: settings, "102": TenantSettings()}) as harness:
        hooks = harness.webhooks.reviews.apps
        assert hooks == {
            APP: ReviewHook(APP, "http://back.end/", b"hook secret", 0.5, True)
        }
        other = WebhookSettings(secret="s" * 32, review_url="http://x/")
        harness.change("102", TenantSettings(webhook=other))
        assert hooks["102"] == ReviewHook("102", "http://x/", b"s" * 32, 2.0, False)
        harness.change(APP, TenantSettings())
        assert list(hooks) == ["102"]


def test_a_failing_listener_stops_no_other() -> None:
    it = Reviewed()
    it.reviews.review(APP, message("a1"), lambda _: 1 / 0, ANN)  # type: ignore[arg-type,return-value]
    it.ask("a2", ANN)
    assert it.wait(1) == ["a2"]
