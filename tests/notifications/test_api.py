"""The routes of notifications: endpoints, wishes, tests, and what holders of
tokens may do."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.notify import MAX_NOTIFY_BYTES
from imserver.notifications.contract import MUTED_FOR_GOOD, Shown, Wishes
from imserver.notifications.declared import (
    SUBSCRIPTION_REQUESTS,
    TEST_REQUESTS,
    AppNotifySettings,
    NotifyOfApp,
)
from imserver.notifications.parts import notifications_of
from tests.rows import ROUTES, sections
from tests.security.node_harness import ADMIN, APPS, PUSH, RULED, Harness, config
from tests.users import PASSWORD, User

P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
"""The receiver of RFC 8291, appendix A."""
_numbers = count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A node with keys: 201 has users with session tokens and accounts, 208 no
    notifications."""
    apps = {
        **APPS,
        "208": msgspec.structs.replace(
            RULED, of_features=(NotifyOfApp(AppNotifySettings(enabled=False)),)
        ),
    }
    harness = Harness(
        config(
            Path(tmp_path_factory.mktemp("notifications")),
            apps=apps,
            of_features=sections(
                accounts={"registration": True, "registrations_per_address": 0}
            ),
        )
    )
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
    one = person(node)
    one.post("notifications/endpoints", **subscription())
    return one


def user(node: Harness, app: str = "201") -> User:
    """Somebody with a session token."""
    name = f"user-{next(_numbers)}"
    return User(node, node.session(app, name), name, app)


def person(node: Harness) -> User:
    """Somebody with an account."""
    return User.register(node, "201")


def subscription(name: str = "", **more: Any) -> dict[str, Any]:
    """What a browser has subscribed."""
    return {
        "endpoint": f"https://push.example.com/{name or next(_numbers)}",
        "expirationTime": None,
        "keys": {"p256dh": P256DH, "auth": AUTH},
        **more,
    }


def sent_to(node: Harness, user: User) -> list[tuple[int, Shown]]:
    """What is to be sent to the endpoints of a user."""
    rows = notifications_of(node.node.core).rows
    return [
        (each.endpoint, msgspec.json.decode(each.body, type=Shown))
        for each in rows.deliveries("push.example.com", 1 << 60, 1000)
        if each.user == user.user
    ]


# --- endpoints ----------------------------------------------------------------


def test_a_browser_subscribes_with_the_key_of_the_server(node: Harness) -> None:
    status, answer = node.call("GET", "/api/v1/notifications/key", query={"app": "201"})
    assert (status, len(answer["key"])) == (200, 87)
    ann = user(node)
    shown = ann.post(
        "notifications/endpoints", **subscription(), device="Phone", language="zh-CN"
    )
    assert shown == {
        "id": shown["id"],
        "host": "push.example.com",
        "device": "Phone",
        "language": "zh-CN",
        "enabled": True,
        "created": shown["created"],
    }
    assert ann.get("notifications/endpoints")["endpoints"] == [shown]


def test_an_endpoint_is_switched_off_and_removed_by_its_user_and_a_back_end(
    node: Harness, admin: User
) -> None:
    ann = user(node)
    id = ann.post("notifications/endpoints", **subscription())["id"]
    ann.post("notifications/endpoints/update", id=id, enabled=False)
    assert [
        each["enabled"] for each in ann.get("notifications/endpoints")["endpoints"]
    ] == [False]
    for other in (
        user(node),
        User(node, node.session("202", ann.user), ann.user, "202"),
    ):
        assert other.get("notifications/endpoints")["endpoints"] == []
        assert (
            other.refused("notifications/endpoints/update", id=id, enabled=True)[0]
            == 404
        )
        assert other.refused("notifications/endpoints/remove", id=id) == (
            404,
            "unknown_endpoint",
        )
    assert [
        each["id"]
        for each in admin.get("notifications/endpoints", user=ann.user)["endpoints"]
    ] == [id]
    assert admin.refused("notifications/endpoints/remove", id=id) == (
        400,
        "invalid_request",
    )
    for remover, named in ((ann, {}), (admin, {"user": ann.user})):
        remover.post("notifications/endpoints/remove", id=id, **named)
        assert ann.get("notifications/endpoints")["endpoints"] == []
        assert ann.refused("notifications/endpoints/remove", id=id) == (
            404,
            "unknown_endpoint",
        )
        id = ann.post("notifications/endpoints", **subscription())["id"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"endpoint": "http://push.example.com/x"},
            "`endpoint`: expected an https:// URL",
        ),
        ({"keys": {"p256dh": "A" * 87, "auth": AUTH}}, "`keys`: p256dh"),
        ({"keys": {"p256dh": P256DH, "auth": "short"}}, "$.keys.auth"),
        ({"device": "a\nb"}, "$.device"),
        ({"language": "a language"}, "$.language"),
    ],
    ids=str,
)
def test_a_wrong_subscription_is_refused_with_a_reason(
    node: Harness, change: dict[str, Any], text: str
) -> None:
    ann = user(node)
    body = {"app": "201", **subscription(), **change}
    status, answer = node.call(
        "POST", "/api/v1/notifications/endpoints", body, ann.token
    )
    assert (status, answer["code"]) == (400, "invalid_request"), answer
    assert text in answer["message"]


def test_an_app_may_have_no_notifications(node: Harness) -> None:
    ann = user(node, "208")
    off = (403, "notifications_off")
    status, answer = node.call("GET", "/api/v1/notifications/key", query={"app": "208"})
    assert (status, answer["code"]) == off
    assert ann.refused("notifications/endpoints", **subscription()) == off
    assert ann.refused("notifications/test") == off
    assert ann.get("notifications/endpoints")["endpoints"] == []


def test_a_user_adds_so_many_endpoints_an_hour_and_a_back_end_any_number(
    node: Harness, admin: User
) -> None:
    ann = user(node)
    one = subscription()
    for _ in range(SUBSCRIPTION_REQUESTS):
        ann.post("notifications/endpoints", **one)
    assert ann.refused("notifications/endpoints", **one) == (429, "too_many_requests")
    admin.post("notifications/endpoints", user=ann.user, **one)


# --- tests --------------------------------------------------------------------


def test_a_test_goes_to_the_endpoints_that_are_switched_on(node: Harness) -> None:
    ann = user(node)
    on, off = (
        ann.post("notifications/endpoints", **subscription(), language="zh")["id"]
        for _ in range(2)
    )
    ann.post("notifications/endpoints/update", id=off, enabled=False)
    assert ann.post("notifications/test") == {"endpoints": 1}
    ((endpoint, shown),) = sent_to(node, ann)
    assert (endpoint, shown.kind, shown.title) == (on, "test", "测试")
    for _ in range(TEST_REQUESTS - 1):
        ann.post("notifications/test")
    assert ann.refused("notifications/test") == (429, "too_many_requests")
    assert len(sent_to(node, ann)) == 1, "one replaces another"
    assert user(node).post("notifications/test") == {"endpoints": 0}


# --- wishes -------------------------------------------------------------------


def test_wishes_are_changed_one_by_one(node: Harness) -> None:
    ann = person(node)
    usual = {
        "preview": True,
        "mail": "never",
        "quiet": {"begin": "00:00", "end": "00:00", "zone": "UTC"},
        "language": "en",
        "groups": "all",
        "keywords": [],
        "mail_possible": False,
        "mail_confirmed": False,
    }
    assert ann.get("notifications/wishes") == usual
    quiet = {"begin": "22:00", "end": "07:05", "zone": "Asia/Tokyo"}
    assert ann.post("notifications/wishes", quiet=quiet) == {**usual, "quiet": quiet}
    assert (
        ann.post("notifications/wishes", preview=False, language="zh")["quiet"] == quiet
    )
    changed = {**usual, "quiet": quiet, "preview": False, "language": "zh"}
    assert ann.get("notifications/wishes") == changed
    assert ann.post("notifications/wishes") == changed


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"mail": "soon"}, 403, "sends no mail"),
        (
            {"quiet": {"begin": "24:00", "end": "07:00", "zone": "UTC"}},
            400,
            "$.quiet.begin",
        ),
        (
            {"quiet": {"begin": "22:00", "end": "07:00", "zone": "../../etc/passwd"}},
            400,
            "`quiet.zone`",
        ),
    ],
    ids=str,
)
def test_a_wrong_wish_is_refused_with_a_reason(
    node: Harness, change: dict[str, Any], status: int, text: str
) -> None:
    ann = user(node)
    body = {"app": "201", **change}
    found, answer = node.call("POST", "/api/v1/notifications/wishes", body, ann.token)
    assert (found, text in answer["message"]) == (status, True), answer


def test_wishes_for_a_conversation(node: Harness) -> None:
    ann = person(node)
    bob = person(node)
    conversation = ann.post("messages/send", to=bob.user, text="hi")["conversation"]
    route = "notifications/conversations"
    assert bob.get(route)["conversations"] == []
    usual = {"conversation": conversation, "level": "all", "mute_until": 0}
    assert bob.post(route, conversation=conversation, level="mentions") == {
        **usual,
        "level": "mentions",
    }
    wish = {**usual, "level": "mentions", "mute_until": MUTED_FOR_GOOD}
    assert bob.post(route, conversation=conversation, mute_until=MUTED_FOR_GOOD) == wish
    assert bob.get(route)["conversations"] == [wish]
    assert bob.get(route, conversation=conversation)["conversations"] == [wish]
    assert ann.get(route)["conversations"] == []
    bob.post(route, conversation=conversation, level="all", mute_until=0)
    bob.post("notifications/wishes", groups="mentions", keywords=["tea"])
    assert bob.get(route) == {
        "conversations": [],
        "groups": "mentions",
        "keywords": ["tea"],
    }
    for wrong in (conversation, 1 << 40):
        refused = person(node).refused(route, conversation=wrong, level="nothing")
        assert refused == (404, "unknown_conversation")


# --- what the holder of a token may do ----------------------------------------


def notified(
    node: Harness, sender: User, receiver: User
) -> tuple[dict[str, Any], str, int]:
    """A message, the token of its notification, and the id of the endpoint."""
    sent = sender.post("messages/send", to=receiver.user, text="tea?")
    endpoint = receiver.post("notifications/endpoints", **subscription())["id"]
    tokens = notifications_of(node.node.core).tokens
    token = tokens.make(
        "201", receiver.user, endpoint, sent["conversation"], sent["id"]
    )
    return sent, token, endpoint


def act(node: Harness, **body: Any) -> tuple[int, Any]:
    status, answer = node.call("POST", "/api/v1/notifications/act", body)
    return status, answer


def test_the_holder_marks_as_read_and_replies_once_as_long_as_the_user_may(
    node: Harness,
) -> None:
    ann = person(node)
    bob = person(node)
    sent, token, _ = notified(node, ann, bob)
    for _ in range(2):
        done = {"conversation": sent["conversation"], "read": sent["id"], "id": 0}
        assert act(node, token=token, action="read") == (200, done)
    assert bob.get("conversations")["conversations"][0]["unread"] == 0
    status, answer = act(node, token=token, action="reply", text="yes")
    assert (status, answer["read"]) == (200, sent["id"])
    assert act(node, token=token, action="reply", text="yes") == (status, answer)
    assert act(node, token=token, action="reply", text="yes, please") == (
        status,
        answer,
    )
    page = ann.get("messages", conversation=sent["conversation"])["messages"]
    assert [(each["from"], each["text"]) for each in page] == [
        (ann.user, "tea?"),
        (bob.user, "yes"),
    ]
    assert page[1]["id"] == answer["id"]
    _, token, _ = notified(node, ann, bob)
    ann.post("friends/block", friend=bob.user)
    assert act(node, token=token, action="reply", text="x")[1]["code"] == "not_allowed"
    User(node, ADMIN.key, app="201").post("ban", users=[bob.user], seconds=600)
    assert act(node, token=token, action="reply", text="x")[1]["code"] == "banned"


def test_an_answer_says_what_came_of_it_and_marks_as_read(node: Harness) -> None:
    ann = person(node)
    bob = person(node)
    eve = person(node)
    group = ann.post("groups/create", name="tea", members=[bob.user, eve.user])["group"]
    options = [{"text": "Yes", "value": "1"}, {"text": "No", "value": "2"}]
    question = ann.post(
        "asks/create", conversation=int(group), text="Deploy?", options=options
    )
    tokens = notifications_of(node.node.core).tokens
    devices = [
        each.post("notifications/endpoints", **subscription())["id"]
        for each in (bob, eve)
    ]
    first, second = (
        tokens.make("201", each.user, device, int(group), question["id"])
        for each, device in zip((bob, eve), devices, strict=True)
    )
    assert (
        act(node, token=first, action="answer", value="3")[1]["code"]
        == "invalid_request"
    )
    done = {"conversation": int(group), "read": question["id"], "id": 0}
    assert act(node, token=first, action="answer", value="2") == (
        200,
        {**done, "text": "You answered: No"},
    )
    assert act(node, token=first, action="answer", value="2") == (
        200,
        {**done, "text": "You answered: No"},
    )
    status, late = act(node, token=second, action="answer", value="1")
    assert (status, late) == (200, {**done, "text": f"{bob.user} answered: No"})
    (answer,) = ann.post("asks/get", id=question["id"])["answers"]
    assert (answer["user"], answer["value"]) == (bob.user, "2")
    assert bob.get("conversations")["conversations"][0]["unread"] == 0
    _, token, _ = notified(node, ann, bob)
    assert (
        act(node, token=token, action="answer", value="1")[1]["code"]
        == "unknown_notification"
    )


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"action": "answer"}, 400, "invalid_request"),
        ({"action": "read", "value": "1"}, 400, "invalid_request"),
        ({"token": "AAAA"}, 404, "unknown_notification"),
        ({"action": "delete"}, 400, "invalid_request"),
        ({"action": "reply", "text": " "}, 400, "invalid_request"),
        ({"action": "read", "text": "x"}, 400, "invalid_request"),
        ({"action": "reply", "text": "x" * 100_000}, 413, "body_too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_act_is_refused(
    node: Harness, change: dict[str, Any], status: int, code: str
) -> None:
    _, token, _ = notified(node, person(node), person(node))
    found, answer = act(node, **{"token": token, "action": "read", **change})
    assert (found, answer["code"]) == (status, code)


def test_a_token_ends_with_its_endpoint(node: Harness) -> None:
    ann = person(node)
    bob = person(node)
    eve = person(node)
    _, token, endpoint = notified(node, ann, bob)
    tokens = notifications_of(node.node.core).tokens
    foreign = tokens.make("201", eve.user, endpoint, 1, 1)
    assert act(node, token=foreign, action="read")[0] == 404, (
        "the endpoint is another user's"
    )
    bob.post("notifications/endpoints/remove", id=endpoint)
    for action in ({"action": "read"}, {"action": "reply", "text": "x"}):
        status, answer = act(node, token=token, **action)
        assert (status, answer["code"]) == (404, "unknown_notification")


# --- the end of mails ---------------------------------------------------------


def unsubscribe(node: Harness, method: str, token: str, **more: Any) -> Any:
    path = "/api/v1/notifications/unsubscribe"
    route = next(each for each in ROUTES if (each.method, each.path) == (method, path))
    return node.ask(route, query={"token": token}, **more)


def test_a_mail_program_unsubscribes_with_one_click(node: Harness) -> None:
    ann = user(node)
    parts = notifications_of(node.node.core)
    wishes = parts.rows.wishes
    parts.rows.set_wishes("201", ann.user, Wishes(mail="soon", language="zh"))
    token = parts.tokens.make_mail("201", ann.user)
    page = unsubscribe(node, "GET", token)
    assert (page.status, "退订" in page.body.decode()) == (200, True)
    assert page.content_type.startswith("text/html")
    assert wishes("201", [ann.user])[ann.user].mail == "soon", (
        "a program that opens links changes nothing"
    )
    done = unsubscribe(node, "POST", token, body={"List-Unsubscribe": "One-Click"})
    assert (done.status, done.body) == (200, b'{"unsubscribed":true}')
    assert wishes("201", [ann.user])[ann.user] == Wishes(language="zh")
    page = unsubscribe(node, "POST", token, headers={"accept": "text/html,*/*"})
    assert (page.status, "<form" in page.body.decode()) == (200, False)
    for wrong in (
        "",
        "AAAA",
        parts.tokens.make("201", "ann", 1, 1, 1),
        parts.tokens.make_mail("209", "ann"),
    ):
        assert [
            unsubscribe(node, method, wrong).status for method in ("GET", "POST")
        ] == [404, 404]


def test_with_a_login_its_endpoints_end(node: Harness) -> None:
    """A device that was lost gets nothing more once its login has ended, or the
    password was changed."""
    one = person(node)
    login = {"login": one.account["phone"], "password": PASSWORD}
    other = User(
        node,
        one.post("accounts/login", **login, device="phone")["token"],
        one.user,
        one.app,
    )
    for each in (one, other):
        each.post("notifications/endpoints", **subscription())

    def shown() -> list[int]:
        return [each["id"] for each in one.get("notifications/endpoints")["endpoints"]]

    first, second = shown()
    (phone,) = [
        each
        for each in one.get("accounts/devices")["devices"]
        if each["name"] == "phone"
    ]
    one.post("accounts/devices/logout", device=phone["device"])
    assert shown() == [first] != [second]
    one.post("accounts/password", old_password=PASSWORD, password="another password")
    login["password"] = "another password"
    anew = User(node, one.post("accounts/login", **login)["token"], one.user, one.app)
    assert anew.get("notifications/endpoints")["endpoints"] == []


ORDER: dict[str, Any] = {
    "title": "Order 17",
    "text": "It has left",
    "url": "/orders/17",
    "icon": "https://shop.example/box.png",
    "actions": [
        {"action": "track", "title": "Track", "url": "https://shop.example/track/17"}
    ],
    "tag": "17",
    "ttl": 600,
}
OF_BOT: dict[str, Any] = {
    "text": "It has left",
    "url": "/orders/17",
    "icon": "/upload/box",
    "actions": [{"action": "track", "title": "Track", "url": "/track/17"}],
}


def test_a_push_that_is_not_stored_notifies_who_is_offline(
    node: Harness, back_end: User, ann: User
) -> None:
    answer = back_end.post(
        "push", users=[ann.user, "nobody"], text="left", notify=ORDER
    )
    assert [each["status"] for each in answer["results"]] == ["absent", "absent"]
    ((_, shown),) = sent_to(node, ann)
    assert (shown.kind, shown.title, shown.body, shown.tag) == (
        "push",
        "Order 17",
        "It has left",
        "17",
    )


def test_a_batch_may_have_it(node: Harness, back_end: User, ann: User) -> None:
    group = person(node).group(ann)
    push = {
        "app": "201",
        "targets": [{"group": group}],
        "text": "left",
        "notify": ORDER,
    }
    answer = User(node, PUSH.key).post(
        "batch", commands=[{"push": push}, {"push": {**push, "notify": True}}]
    )
    assert [each["status"] for each in answer["results"]] == [200, 400]
    assert len(sent_to(node, ann)) == 1


@pytest.mark.parametrize("notify", [ORDER, False, {}], ids=["order", "false", "empty"])
def test_the_log_keeps_it_with_a_stored_push(
    back_end: User, ann: User, notify: Any
) -> None:
    back_end.post("push", user=ann.user, text="left", store=True, notify=notify)
    (entry,) = ann.get("messages/sync")["messages"][-1:]
    assert entry["meta"] == {"notify": notify}


def test_bots_and_back_ends_set_it_and_people_do_not(
    node: Harness, admin: User, ann: User
) -> None:
    bob = person(node)
    bot = bob.bot(f"shop{next(_numbers)}")
    for sender, notify, named in (
        (bot, OF_BOT, {}),
        (admin, ORDER, {"user": bob.user}),
    ):
        sent = sender.post(
            "messages/send", to=ann.user, text="left", notify=notify, **named
        )
        (entry,) = ann.get("messages", conversation=sent["conversation"])["messages"][
            -1:
        ]
        assert entry["meta"]["notify"] == notify
    for notify in (ORDER, False):
        refused = bob.refused("messages/send", to=ann.user, text="left", notify=notify)
        assert refused == (403, "not_allowed")
    assert (
        bot.refused("messages/send", to=ann.user, forward=sent["id"], notify=False)[0]
        == 400
    )


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
    bot = person(node).bot(f"shop{next(_numbers)}")
    assert bot.refused("messages/send", to=ann.user, text="left", notify=notify) == (
        403,
        "not_allowed",
    )
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
