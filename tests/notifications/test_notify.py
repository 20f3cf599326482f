"""The field ``notify`` of pushes and stored messages: who may set it, what is checked, where it goes."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.notify import MAX_NOTIFY_BYTES
from imserver.notifications.contract import Shown
from imserver.notifications.parts import notifications_of
from tests.notifications.test_api import subscription
from tests.rows import sections
from tests.security.node_harness import ADMIN, PUSH, Harness, config
from tests.users import User

_numbers = count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    accounts = {"registration": True, "registrations_per_address": 0}
    folder = Path(tmp_path_factory.mktemp("notify"))
    harness = Harness(config(folder, of_features=sections(accounts=accounts)))
    yield harness
    harness.close()


@pytest.fixture
def back_end(node: Harness) -> User:
    return User(node, PUSH.key, app="201")


@pytest.fixture
def admin(node: Harness) -> User:
    return User(node, ADMIN.key, app="201")


@pytest.fixture
def ann(node: Harness) -> User:
    """Somebody with an account and an endpoint."""
    person = User.register(node, "201")
    person.post("notifications/endpoints", **subscription())
    return person


def sent_to(node: Harness, user: User) -> list[Shown]:
    """What is to be sent to a user."""
    rows = notifications_of(node.node.core).rows
    return [
        msgspec.json.decode(each.body, type=Shown)
        for each in rows.deliveries("push.example.com", 1 << 60, 1000)
        if each.user == user.user
    ]


ORDER: dict[str, Any] = {
    "title": "Order 17",
    "text": "It has left",
    "url": "/orders/17",
    "icon": "https://shop.example/box.png",
    "actions": [{"action": "track", "title": "Track", "url": "https://shop.example/track/17"}],
    "tag": "17",
    "ttl": 600,
}
OF_BOT: dict[str, Any] = {
    "text": "It has left",
    "url": "/orders/17",
    "icon": "/upload/box",
    "actions": [{"action": "track", "title": "Track", "url": "/track/17"}],
}


def test_a_push_that_is_not_stored_notifies_who_is_offline(node: Harness, back_end: User, ann: User) -> None:
    answer = back_end.post("push", users=[ann.user, "nobody"], text="left", notify=ORDER)
    assert [each["status"] for each in answer["results"]] == ["absent", "absent"]
    (shown,) = sent_to(node, ann)
    assert (shown.kind, shown.title, shown.body, shown.tag) == ("push", "Order 17", "It has left", "17")


@pytest.mark.parametrize("notify", [{}, {"notify": False}], ids=["without", "false"])
def test_a_push_that_wants_none_notifies_nobody(
    node: Harness, back_end: User, ann: User, notify: dict[str, Any]
) -> None:
    back_end.post("push", user=ann.user, text="left", **notify)
    assert sent_to(node, ann) == []


def test_a_repeated_push_notifies_once(node: Harness, back_end: User, ann: User) -> None:
    # Nobody was reached, so the id is free again; the tag lets the second one replace the first.
    for _ in range(2):
        back_end.post("push", user=ann.user, text="left", id=f"order-{ann.user}", notify=ORDER)
    assert len(sent_to(node, ann)) == 1


def test_a_batch_may_have_it(node: Harness, back_end: User, ann: User) -> None:
    push = {"app": "201", "user": ann.user, "text": "left", "notify": ORDER}
    answer = User(node, PUSH.key).post("batch", commands=[{"push": push}, {"push": {**push, "notify": True}}])
    assert [each["status"] for each in answer["results"]] == [200, 400]
    assert len(sent_to(node, ann)) == 1


@pytest.mark.parametrize("notify", [ORDER, False, {}], ids=["order", "false", "empty"])
def test_the_log_keeps_it_with_a_stored_push(back_end: User, ann: User, notify: Any) -> None:
    back_end.post("push", user=ann.user, text="left", store=True, notify=notify)
    (entry,) = ann.get("messages/sync")["messages"][-1:]
    assert entry["meta"] == {"notify": notify}


def test_bots_and_back_ends_set_it_and_people_do_not(node: Harness, admin: User, ann: User) -> None:
    bob = User.register(node, "201")
    bot = bob.bot(f"shop{next(_numbers)}")
    for sender, notify, named in ((bot, OF_BOT, {}), (admin, ORDER, {"user": bob.user})):
        sent = sender.post("messages/send", to=ann.user, text="left", notify=notify, **named)
        (entry,) = ann.get("messages", conversation=sent["conversation"])["messages"][-1:]
        assert entry["meta"]["notify"] == notify
    assert bob.refused("messages/send", to=ann.user, text="left", notify=ORDER) == (403, "not_allowed")
    assert bob.refused("messages/send", to=ann.user, text="left", notify=False) == (403, "not_allowed")
    assert bot.refused("messages/send", to=ann.user, forward=sent["id"], notify=False)[0] == 400


@pytest.mark.parametrize(
    "notify",
    [
        {"title": "Your bank"},
        {"url": "https://evil.example/"},
        {"url": "//evil.example/"},
        {"url": "/\\evil.example/"},
        {"icon": "https://evil.example/pixel.png"},
        {"actions": [{"action": "a", "title": "A", "url": "http://evil.example/"}]},
    ],
    ids=["title", "url", "host", "backslash", "icon", "action"],
)
def test_a_bot_shows_no_other_name_and_leads_nowhere_else(
    node: Harness, ann: User, notify: dict[str, Any]
) -> None:
    """Anybody makes a bot: a notification must not be that of somebody else."""
    bot = User.register(node, "201").bot(f"shop{next(_numbers)}")
    assert bot.refused("messages/send", to=ann.user, text="left", notify=notify) == (403, "not_allowed")
    bot.post("messages/send", to=ann.user, text="left", notify={**OF_BOT, "title": ""})


@pytest.mark.parametrize(
    ("notify", "text"),
    [
        (True, "`notify`: expected an object, or false"),
        ("yes", "$.notify"),
        ({"url": "javascript:alert(1)"}, "$.notify.url"),
        ({"url": "https://a b"}, "$.notify.url"),
        ({"title": "x" * 201}, "$.notify.title"),
        ({"tag": "a\nb"}, "$.notify.tag"),
        ({"ttl": -1}, "$.notify.ttl"),
        ({"ttl": 28 * 86400 + 1}, "$.notify.ttl"),
        ({"actions": [{"action": "a", "title": "A"}] * 5}, "$.notify.actions"),
        ({"actions": [{"title": "A"}]}, "action"),
        ({"body": "x"}, "body"),
        ({"text": "漢" * 900}, f"more than {MAX_NOTIFY_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_one_is_refused_with_a_reason(
    node: Harness, back_end: User, admin: User, notify: Any, text: str
) -> None:
    push = {"app": "201", "user": "ann", "text": "left", "notify": notify}
    for key, route, more in (
        (back_end.token, "push", {}),
        (back_end.token, "push", {"store": True}),
        (admin.token, "messages/send", {"to": "bob"}),
    ):
        status, answer = node.call("POST", f"/api/v1/{route}", {**push, **more}, key)
        assert (status, answer["code"]) == (400, "invalid_request"), answer
        assert text in answer["message"]


def test_members_of_a_group_who_are_offline_are_notified(node: Harness, back_end: User, ann: User) -> None:
    bob = User.register(node, "201")
    group = bob.group(ann)
    back_end.post("push", targets=[{"group": group}, {"user": "nobody"}], text="left", notify=ORDER)
    assert len(sent_to(node, ann)) == 1
