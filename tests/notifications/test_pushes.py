"""Notifications of pushes that are not stored: who gets one, what it shows, and what it costs."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from imserver.gateway.model import Event
from imserver.gateway.notify import Action, Notify, encode_notify
from imserver.gateway.storage.store import Store
from imserver.notifications.contract import Delivery, PushEndpoint, QuietHours, Shown, ShownAction, Wishes
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.pushes import PushNotifications
from imserver.notifications.rows import NotificationRows
from tests.messenger.log_file import Gates
from tests.stores import OpenStore

RULES = AppNotifySettings()


class Pushed:
    """Notifications of pushes on a real database."""

    def __init__(self, store: Store, rules: AppNotifySettings = RULES, **wishes: Wishes) -> None:
        self.rows = NotificationRows(store)
        for user, wish in wishes.items():
            self.rows.set_wishes("shop", user, wish)
        self.wakes: list[None] = []
        self.pushes = PushNotifications(self.rows, lambda: self.wakes.append(None), lambda _app: rules)
        store.start()
        self.gates = store.database().runner = Gates()

    def subscribe(self, id: int, user: str, enabled: bool = True, language: str = "en") -> int:
        new = PushEndpoint(
            0, "shop", user, f"https://push{id}.example:8443/x", "key", "auth", language=language
        )
        found = self.rows.add_endpoint(new, 9).id
        self.rows.set_enabled("shop", user, found, enabled)
        self.gates.reads = 0
        return found

    def absent(self, *pushes: tuple[str, Event]) -> None:
        self.pushes.absent("shop", pushes)

    @property
    def deliveries(self) -> list[Delivery]:
        hosts = sorted(self.rows.hosts(1 << 50))
        return [each for host in hosts for each in self.rows.deliveries(host, 1 << 60, 99)]

    @property
    def shown(self) -> list[Shown]:
        return [msgspec.json.decode(each.body, type=Shown) for each in self.deliveries]


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def push(notify: Notify | bool | None = None, **more: Any) -> Event:
    encoded = b"" if notify is None else encode_notify(notify)
    return Event("msg", "", more.pop("text", "your order has left"), notify=encoded, **more)


def test_each_device_of_an_absent_user_gets_one(store: Store) -> None:
    pushed = Pushed(store)
    ids = [pushed.subscribe(id, user) for id, user in ((1, "ann"), (2, "ann"), (3, "bob"), (4, "eve"))]
    pushed.subscribe(5, "bob", enabled=False)
    notify = Notify(
        "Order 17", "It has left", "/orders/17", "/box.png", (Action("track", "Track"),), "17", 600
    )
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert [(each.user, each.endpoint, each.host) for each in pushed.deliveries] == [
        ("ann", ids[0], "push1.example:8443"),
        ("ann", ids[1], "push2.example:8443"),
        ("bob", ids[2], "push3.example:8443"),
    ]
    first = pushed.deliveries[0]
    assert (first.kind, first.conversation, first.entry, first.ttl, first.attempts) == ("push", 0, 0, 600, 0)
    actions = (ShownAction("track", "Track"),)
    expected = Shown("push", "17", "Order 17", "It has left", "/box.png", "/orders/17", actions)
    assert msgspec.structs.replace(pushed.shown[0], time=0) == expected
    assert len(pushed.wakes) == 1


@pytest.mark.parametrize(
    ("notify", "rules"), [(None, RULES), (False, RULES), (Notify(), AppNotifySettings(enabled=False))]
)
def test_a_push_that_notifies_nobody_asks_the_database_little(
    store: Store, notify: Notify | bool | None, rules: AppNotifySettings
) -> None:
    pushed = Pushed(store, rules)
    pushed.subscribe(1, "ann")
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert pushed.gates.reads == 0
    pushed = Pushed(store)
    pushed.absent(*((f"user-{number}", push(Notify())) for number in range(100)))
    assert (pushed.gates.reads, pushed.wakes) == (1, []), "users without endpoints cost one query"


def test_what_is_left_out_is_made_from_the_push_and_data_is_passed_on_if_it_is_short(store: Store) -> None:
    pushed = Pushed(store)
    pushed.subscribe(1, "ann")
    pushed.absent(("ann", msgspec.structs.replace(push(Notify(), id="order-17"), sender="shop")))
    for data in (b'{"order":17}', b'"%b"' % (b"x" * 5000)):
        pushed.absent(("ann", push(Notify("Order"), text="", type="order", data=data)))
    first, *others = pushed.shown
    assert (first.title, first.body, first.tag) == ("shop", "your order has left", "order-17")
    assert [shown.data for shown in others] == [{"order": 17}, None]


def test_a_later_push_with_the_same_tag_replaces_the_first(store: Store) -> None:
    pushed = Pushed(store)
    pushed.subscribe(1, "ann")
    for tag in ("17", "17", "18", "", ""):
        pushed.absent(("ann", push(Notify("Order", tag=tag))))
    topics = {each.topic for each in pushed.deliveries}
    assert len(topics) == len(pushed.deliveries) == 4, "each push without a tag has a topic of its own"
    assert all(len(topic) == 32 for topic in topics)


@pytest.mark.parametrize("by_user", [True, False])
def test_where_the_user_or_the_app_wants_no_preview_there_is_no_text(store: Store, by_user: bool) -> None:
    pushed = Pushed(store, AppNotifySettings(preview=by_user), ann=Wishes(preview=not by_user))
    pushed.subscribe(1, "ann", language="zh-CN")
    pushed.absent(("ann", push(Notify("Order 17", "secret", "/17"), data=b'{"a":1}', text="")))
    (shown,) = pushed.shown
    assert (shown.title, shown.body, shown.url, shown.data) == ("新消息", "新消息", "/17", None)


def test_quiet_hours_postpone_it_and_a_database_that_is_away_fails_no_push(store: Store) -> None:
    minute = datetime.now(UTC).hour * 60 + datetime.now(UTC).minute
    pushed = Pushed(store, ann=Wishes(quiet=QuietHours(minute, (minute + 120) % 1440)))
    pushed.subscribe(1, "ann")
    pushed.absent(("ann", push(Notify())))
    (one,) = pushed.deliveries
    assert 3600_000 < one.next_try - one.created * 1000 <= 7200_000
    pushed.gates.away = True
    pushed.absent(("ann", push(Notify())))
    assert pushed.pushes.lost == {"shop": 1}
