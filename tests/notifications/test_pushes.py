"""Notifications of pushes that are not stored: who gets one, what it shows, and what it costs."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Event
from imserver.gateway.notify import Action, Notify, encode_notify
from imserver.notifications.contract import Delivery, PushEndpoint, QuietHours, Shown, ShownAction, Wishes
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.pushes import PushNotifications, delivery_of_test


def endpoint(id: int, user: str, **more: Any) -> PushEndpoint:
    host = f"push{id}.example:8443"
    return PushEndpoint(id, "shop", user, f"https://{host}/x", "key", "auth", host=host, **more)


RULES = AppNotifySettings()


class FakeRows:
    """The rows of some users, and the queries that were made."""

    def __init__(self, *endpoints: PushEndpoint, **wishes: Wishes) -> None:
        self._endpoints = endpoints
        self._wishes = wishes
        self.queries: list[str] = []
        self.deliveries: list[Delivery] = []
        self.away = False

    def endpoints(self, _app: str, users: list[str]) -> dict[str, list[PushEndpoint]]:
        self.queries.append("endpoints")
        if self.away:
            raise StorageUnavailable("away")
        found: dict[str, list[PushEndpoint]] = {}
        for each in self._endpoints:
            if each.user in users:
                found.setdefault(each.user, []).append(each)
        return found

    def wishes(self, _app: str, users: list[str]) -> dict[str, Wishes]:
        self.queries.append("wishes")
        return {user: self._wishes[user] for user in users if user in self._wishes}

    def add_deliveries(self, deliveries: list[Delivery]) -> None:
        self.queries.append("add_deliveries")
        self.deliveries += deliveries

    @property
    def shown(self) -> list[Shown]:
        return [msgspec.json.decode(each.body, type=Shown) for each in self.deliveries]


class Pushed:
    """Notifications of pushes over fake rows."""

    def __init__(self, rows: FakeRows, rules: AppNotifySettings = RULES) -> None:
        self.rows = rows
        self.wakes = 0
        self.pushes = PushNotifications(rows, self._wake, lambda _app: rules)

    def _wake(self) -> None:
        self.wakes += 1

    def absent(self, *pushes: tuple[str, Event]) -> None:
        self.pushes.absent("shop", pushes)


def push(notify: Notify | bool | None = None, **more: Any) -> Event:
    encoded = b"" if notify is None else encode_notify(notify)
    return Event("msg", "", more.pop("text", "your order has left"), notify=encoded, **more)


def test_each_device_of_an_absent_user_gets_one() -> None:
    rows = FakeRows(
        endpoint(1, "ann"),
        endpoint(2, "ann"),
        endpoint(3, "bob"),
        endpoint(4, "eve"),
        endpoint(5, "bob", enabled=False),
    )
    pushed = Pushed(rows)
    notify = Notify(
        "Order 17", "It has left", "/orders/17", "/box.png", (Action("track", "Track"),), "17", 600
    )
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert [(each.user, each.endpoint, each.host) for each in rows.deliveries] == [
        ("ann", 1, "push1.example:8443"),
        ("ann", 2, "push2.example:8443"),
        ("bob", 3, "push3.example:8443"),
    ]
    first = rows.deliveries[0]
    assert (first.kind, first.conversation, first.entry, first.ttl, first.attempts) == ("push", 0, 0, 600, 0)
    shown = rows.shown[0]
    assert (shown.kind, shown.title, shown.body, shown.url, shown.icon, shown.tag, shown.token) == (
        "push",
        "Order 17",
        "It has left",
        "/orders/17",
        "/box.png",
        "17",
        "",
    )
    assert shown.actions == (ShownAction("track", "Track"),)
    assert pushed.wakes == 1


@pytest.mark.parametrize(
    ("notify", "rules"), [(None, RULES), (False, RULES), (Notify(), AppNotifySettings(enabled=False))]
)
def test_a_push_that_notifies_nobody_asks_the_database_nothing(
    notify: Notify | bool | None, rules: AppNotifySettings
) -> None:
    pushed = Pushed(FakeRows(endpoint(1, "ann")), rules)
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert pushed.rows.queries == []


def test_users_without_endpoints_cost_one_query() -> None:
    pushed = Pushed(FakeRows(endpoint(1, "ann")))
    pushed.absent(*((f"user-{number}", push(Notify())) for number in range(100)))
    assert pushed.rows.queries == ["endpoints"]
    assert pushed.wakes == 0


def test_what_is_left_out_is_made_from_the_push() -> None:
    rows = FakeRows(endpoint(1, "ann"))
    Pushed(rows).absent(("ann", msgspec.structs.replace(push(Notify(), id="order-17"), sender="shop")))
    (shown,) = rows.shown
    assert (shown.title, shown.body, shown.tag) == ("shop", "your order has left", "order-17")


def test_data_is_passed_on_if_it_is_short() -> None:
    rows = FakeRows(endpoint(1, "ann"))
    pushed = Pushed(rows)
    for data in (b'{"order":17}', b'"%b"' % (b"x" * 5000)):
        pushed.absent(("ann", push(Notify("Order"), text="", type="order", data=data)))
    assert [shown.data for shown in rows.shown] == [{"order": 17}, None]


def test_a_later_push_with_the_same_tag_replaces_the_first() -> None:
    rows = FakeRows(endpoint(1, "ann"))
    pushed = Pushed(rows)
    for tag in ("17", "17", "18", "", ""):
        pushed.absent(("ann", push(Notify("Order", tag=tag))))
    topics = [each.topic for each in rows.deliveries]
    assert topics[0] == topics[1]
    assert len(set(topics)) == 4, "each push without a tag has a topic of its own"
    assert all(len(topic) == 32 for topic in topics)


def test_who_wants_no_preview_sees_no_text() -> None:
    rows = FakeRows(endpoint(1, "ann"), ann=Wishes(preview=False))
    Pushed(rows).absent(("ann", push(Notify("Order 17", "secret"), data=b'{"a":1}', text="")))
    (shown,) = rows.shown
    assert (shown.title, shown.body, shown.data) == ("New message", "New message", None)


def test_an_app_may_hide_texts_and_a_device_has_its_language() -> None:
    rows = FakeRows(endpoint(1, "ann", language="zh-CN"))
    Pushed(rows, AppNotifySettings(preview=False)).absent(("ann", push(Notify("Order 17", "secret", "/17"))))
    (shown,) = rows.shown
    assert (shown.title, shown.body, shown.url) == ("新消息", "新消息", "/17")


def test_quiet_hours_postpone_it() -> None:
    minute = datetime.now(UTC).hour * 60 + datetime.now(UTC).minute
    quiet = QuietHours(minute, (minute + 120) % 1440)
    rows = FakeRows(endpoint(1, "ann"), ann=Wishes(quiet=quiet))
    Pushed(rows).absent(("ann", push(Notify())))
    assert 3600_000 < rows.deliveries[0].next_try - rows.deliveries[0].created * 1000 <= 7200_000


def test_a_database_that_is_away_fails_no_push() -> None:
    rows = FakeRows(endpoint(1, "ann"))
    rows.away = True
    pushed = Pushed(rows)
    pushed.absent(("ann", push(Notify())))
    assert pushed.pushes.lost == {"shop": 1}


@pytest.mark.parametrize(("language", "title"), [("en", "Test"), ("zh-CN", "测试"), ("fr", "Test")])
def test_a_test_speaks_the_language_of_its_device(language: str, title: str) -> None:
    delivery = delivery_of_test(endpoint(1, "ann", language=language), 1000.5)
    shown = msgspec.json.decode(delivery.body, type=Shown)
    assert (delivery.kind, delivery.next_try, delivery.created, shown.title) == ("test", 0, 1000, title)


def test_an_endpoint_that_is_switched_off_gets_none() -> None:
    rows = FakeRows(endpoint(1, "ann", enabled=False))
    Pushed(rows).absent(("ann", push(Notify())))
    assert rows.deliveries == []
