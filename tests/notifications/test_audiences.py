"""Audiences on each engine, each device once, whatever ends; and notifications
of pushes without storage."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import gevent
import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import DeliveryLease, NotOwner
from imserver.backends.webhooks.event_rows import EventStore
from imserver.gateway.model import Event
from imserver.gateway.notify import Action, Notify, encode_notify
from imserver.gateway.storage.store import Store
from imserver.notifications.audiences import AudiencePages, AudienceRows, Audiences
from imserver.notifications.contract import (
    Audience,
    AudienceContent,
    AudienceKind,
    AudienceTarget,
    Delivery,
    PushEndpoint,
    QuietHours,
    Shown,
    ShownAction,
    Wishes,
)
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.pushes import PushNotifications
from imserver.notifications.rows import LEASE, NotificationRows, Results
from tests.messenger.log_file import Gates
from tests.stores import OpenStore
from tests.support import until

APP = "shop"
HOST = "fake/shop"
RULES = AppNotifySettings(audience_per_second=100_000)
CONTENT = AudienceContent(Notify("Sale", "Until Friday"), Raw(b'{"a":1}'))


class Sender:
    """A node that goes through audiences. What it queues is sent by
    :meth:`send`."""

    def __init__(
        self, store: Store, name: str = "one", rules: AppNotifySettings = RULES
    ) -> None:
        self.rows = NotificationRows(store, lambda app, url: f"fake/{app}")
        self.audience_rows = AudienceRows(store)
        self.woken: list[Collection[str]] = []
        self.lease = DeliveryLease(monotonic() + 1000)
        assert LEASE in EventStore(store).claim({LEASE: 0}, name, 1000)
        pushes = PushNotifications(self.rows, lambda: None, lambda _app: rules)
        self.audiences = Audiences(
            store,
            self.audience_rows,
            pushes,
            self.lease,
            lambda: name,
            self.woken.append,
            lambda _app, _user, proof: proof != "key:gone",
            AudiencePages(users=3, waiting=4, look_seconds=0.001),
        )

    def subscribe(self, *users: str, devices: int = 1) -> None:
        for user in users:
            for number in range(devices):
                url = f"fake:t-{user}-{number}"
                self.rows.add_endpoint(PushEndpoint(0, APP, user, url, "", ""), 20)

    def start(
        self, kind: AudienceKind = "all", name: str = "a", **target: Any
    ) -> Audience:
        new = Audience(0, APP, name, kind, AudienceTarget(**target), CONTENT, created=1)
        stored = self.audience_rows.add(new, 5)
        assert stored is not None
        self.audiences.look()
        return stored

    def send(self, *, result: str = "taken", most: int = 1000) -> list[int]:
        """Take what waits; the endpoints of the deliveries."""
        found = self.rows.deliveries(HOST, 1 << 60, most)
        counts = Counter((one.audience, result) for one in found)
        gone = [one.endpoint for one in found] if result == "gone" else []
        self.rows.settle(Results([one.id for one in found], gone, audiences=counts))
        return [one.endpoint for one in found]

    def of(self, audience: Audience) -> Audience:
        (found,) = self.audience_rows.of(APP, audience.id, 1)
        return found


@pytest.fixture
def node(store: Store) -> Iterator[Sender]:
    one = Sender(store)
    yield one
    one.audiences.stop()


@pytest.fixture(autouse=True)
def _quick(hasty_consumers: None) -> None:
    """Short pauses of consumers."""


def test_each_device_of_all_users_gets_it_once_page_by_page(node: Sender) -> None:
    names = [f"user {number}" for number in range(10)]
    node.subscribe(*names, devices=2)
    one = node.start()
    sent: list[int] = []
    counts: list[dict[str, int]] = []
    most = 0

    def is_done() -> bool:
        nonlocal most
        waiting = node.audience_rows.waiting([one.id]).get(one.id, 0)
        most = max(most, waiting)
        sent.extend(node.send())
        counts.append(dict(node.audiences.active))
        return node.of(one).state == "done"

    until(is_done)
    assert {APP: 1} in counts
    assert sorted(sent) == [
        each.id for name in names for each in node.rows.endpoints(APP, [name])[name]
    ]
    assert 0 < most <= 4 - 1 + 3 * 2, "little waits at a time"
    ended = node.of(one)
    assert (ended.users, ended.queued, ended.taken) == (10, 20, 20)
    until(lambda: not node.audiences.active)
    assert ended.ended > 0
    assert {host for hosts in node.woken for host in hosts} == {HOST}


def test_users_who_are_named_and_what_became_of_their_devices(node: Sender) -> None:
    node.subscribe("ann", "bob", "cat", "dan", "eve")
    one = node.start("users", users=("ann", "bob", "dan", "zoe"))
    until(lambda: node.of(one).state == "queued")
    assert node.of(one).users == 4
    node.send(most=1)
    node.send(result="gone", most=1)
    node.send(result="refused")
    until(lambda: node.of(one).state == "done")
    ended = node.of(one)
    assert (ended.queued, ended.taken, ended.gone, ended.refused) == (3, 1, 1, 1)
    assert ended.target == AudienceTarget(), "no names are kept"
    assert set(node.rows.endpoints(APP, ["ann", "bob", "cat", "dan", "eve"])) == {
        "ann",
        "cat",
        "dan",
        "eve",
    }


def test_a_killed_node_leaves_the_rest_to_another_one(store: Store) -> None:
    first = Sender(store)
    names = [f"user {number:02}" for number in range(20)]
    first.subscribe(*names)
    one = first.start()
    sent: list[int] = []
    until(lambda: first.of(one).users >= 3)
    sent += first.send()
    until(lambda: first.of(one).users >= 9)
    first.audiences.stop()
    EventStore(store).release([LEASE], "one")
    second = Sender(store, "two")
    with pytest.raises(NotOwner):
        first.audience_rows.add_page(second.of(one), ["x"], [], False, "one")
    second.audiences.look()

    def is_done() -> bool:
        sent.extend(second.send())
        return second.of(one).state == "done"

    until(is_done)
    assert len(sent) == len(set(sent)) == 20
    assert second.of(one).taken == 20
    second.audiences.stop()


def test_cancel_ends_it_at_once(node: Sender) -> None:
    node.subscribe(*map(str, range(9)))
    one = node.start()
    until(lambda: node.of(one).queued >= 4)
    assert not node.audience_rows.cancel("other", one.id)
    assert node.audience_rows.cancel(APP, one.id)
    assert not node.audience_rows.cancel(APP, one.id)
    gevent.sleep(0.01)
    assert node.send() == []
    assert node.of(one).state == "cancelled"
    assert not node.audience_rows.active(9)


def test_it_ends_with_the_key_of_its_maker(node: Sender) -> None:
    node.subscribe(*map(str, range(9)))
    new = Audience(
        0,
        APP,
        "a",
        "all",
        AudienceTarget(),
        replace(CONTENT, proof="key:gone"),
        created=1,
    )
    one = node.audience_rows.add(new, 9)
    assert one is not None
    node.audiences.look()
    until(lambda: node.of(one).state == "cancelled")
    assert node.send() == []


@pytest.mark.parametrize("kind", ["users", "all"])
def test_a_user_who_is_erased_is_named_no_more_and_the_others_get_it_once(
    node: Sender, store: Store, kind: AudienceKind
) -> None:
    names = ("ann", "bob", "cat", "dan", "eve")
    node.subscribe(*names)
    until_then = node.lease.until
    node.lease.until = 0.0
    one = node.start("users", users=names) if kind == "users" else node.start()
    assert node.audience_rows.add_page(one, ["ann", "bob"], [], False, "one")
    for user in ("eve", "bob", "nobody"):
        node.audience_rows.erase_user("other", user)
        node.audience_rows.erase_user(APP, user)
        store.execute("DELETE FROM notify_endpoint WHERE member = %s", (user,))
    (row,) = store.rows("SELECT target, last_user FROM notify_audience")
    assert not {b"bob", b"eve"} & {*re.findall(rb"\w+", b" ".join(map(_bytes, row)))}
    node.lease.until = until_then
    node.audiences.look()
    until(lambda: node.of(one).state == "queued")
    assert node.of(one).users == 4
    assert node.send() == [
        node.rows.endpoints(APP, [user])[user][0].id for user in ("cat", "dan")
    ]
    until(lambda: node.of(one).state == "done")


@pytest.mark.parametrize("user", ["ann", "bob"])
def test_whoever_is_erased_as_the_first_of_an_audience_leaves_no_position(
    node: Sender, user: str
) -> None:
    node.lease.until = 0.0
    for one in (node.start("all", "a"), node.start("users", "b", users=(user,))):
        assert node.audience_rows.add_page(one, [user], [], False, "one")
        node.audience_rows.erase_user(APP, user)
        assert (node.of(one).last_user, node.of(one).target) == ("", AudienceTarget())


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def test_the_budget_of_an_app_limits_its_audiences(store: Store) -> None:
    node = Sender(store, rules=AppNotifySettings(audience_per_second=1))
    node.subscribe(*map(str, range(9)))
    one = node.start()
    until(lambda: node.of(one).users)
    gevent.sleep(0.05)
    assert node.of(one).users == 3, "the next page comes in three seconds"
    node.audiences.stop()


def test_a_name_starts_one_audience_and_few_run_at_a_time(node: Sender) -> None:
    node.lease.until = 0.0
    some = [node.start(name=f"a{number}") for number in range(5)]
    assert node.start(name="a3") == some[3]
    assert (
        node.audience_rows.add(
            Audience(0, APP, "more", "all", AudienceTarget(), CONTENT), 5
        )
        is None
    )
    assert [each.id for each in node.audience_rows.of(APP, 0, 3)] == [
        each.id for each in some[:1:-1]
    ]
    assert node.audience_rows.of("other", some[0].id, 1) == []


# --- notifications of pushes that are not stored ------------------------------

USUAL = AppNotifySettings()


class Pushed:
    """Notifications of pushes on a real database."""

    def __init__(
        self, store: Store, rules: AppNotifySettings = USUAL, **wishes: Wishes
    ) -> None:
        self.rows = NotificationRows(store)
        for user, wish in wishes.items():
            self.rows.set_wishes("shop", user, wish)
        self.wakes: list[None] = []
        self.pushes = PushNotifications(
            self.rows, lambda: self.wakes.append(None), lambda _app: rules
        )
        store.start()
        self.gates = store.database().runner = Gates()

    def subscribe(
        self, id: int, user: str, enabled: bool = True, language: str = "en"
    ) -> int:
        new = PushEndpoint(
            0,
            "shop",
            user,
            f"https://push{id}.example:8443/x",
            "key",
            "auth",
            language=language,
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
        return [
            each for host in hosts for each in self.rows.deliveries(host, 1 << 60, 99)
        ]

    @property
    def shown(self) -> list[Shown]:
        return [msgspec.json.decode(each.body, type=Shown) for each in self.deliveries]


def push(notify: Notify | bool | None = None, **more: Any) -> Event:
    encoded = b"" if notify is None else encode_notify(notify)
    return Event(
        "msg", "", more.pop("text", "your order has left"), notify=encoded, **more
    )


def test_each_device_of_an_absent_user_gets_one(open_store: OpenStore) -> None:
    pushed = Pushed(open_store())
    ids = [
        pushed.subscribe(id, user)
        for id, user in ((1, "ann"), (2, "ann"), (3, "bob"), (4, "eve"))
    ]
    pushed.subscribe(5, "bob", enabled=False)
    notify = Notify(
        "Order 17",
        "It has left",
        "/orders/17",
        "/box.png",
        (Action("track", "Track"),),
        "17",
        600,
    )
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert [(each.user, each.endpoint, each.host) for each in pushed.deliveries] == [
        ("ann", ids[0], "push1.example:8443"),
        ("ann", ids[1], "push2.example:8443"),
        ("bob", ids[2], "push3.example:8443"),
    ]
    first = pushed.deliveries[0]
    assert (first.kind, first.conversation, first.entry, first.ttl, first.attempts) == (
        "push",
        0,
        0,
        600,
        0,
    )
    actions = (ShownAction("track", "Track"),)
    expected = Shown(
        "push", "17", "Order 17", "It has left", "/box.png", "/orders/17", actions
    )
    assert msgspec.structs.replace(pushed.shown[0], time=0) == expected
    assert len(pushed.wakes) == 1


@pytest.mark.parametrize(
    ("notify", "rules"),
    [(None, USUAL), (False, USUAL), (Notify(), AppNotifySettings(enabled=False))],
)
def test_a_push_that_notifies_nobody_asks_the_database_little(
    open_store: OpenStore, notify: Notify | bool | None, rules: AppNotifySettings
) -> None:
    pushed = Pushed(open_store(), rules)
    pushed.subscribe(1, "ann")
    pushed.absent(("ann", push(notify)), ("bob", push(notify)))
    assert pushed.gates.reads == 0
    pushed = Pushed(open_store())
    pushed.absent(*((f"user-{number}", push(Notify())) for number in range(100)))
    assert (pushed.gates.reads, pushed.wakes) == (1, []), (
        "users without endpoints cost one query"
    )


def test_what_is_left_out_is_made_from_the_push_and_short_data_is_passed_on(
    open_store: OpenStore,
) -> None:
    pushed = Pushed(open_store())
    pushed.subscribe(1, "ann")
    pushed.absent(
        ("ann", msgspec.structs.replace(push(Notify(), id="order-17"), sender="shop"))
    )
    for data in (b'{"order":17}', b'"%b"' % (b"x" * 5000)):
        pushed.absent(("ann", push(Notify("Order"), text="", type="order", data=data)))
    first, *others = pushed.shown
    assert (first.title, first.body, first.tag) == (
        "shop",
        "your order has left",
        "order-17",
    )
    assert [shown.data for shown in others] == [{"order": 17}, None]


def test_a_later_push_with_the_same_tag_replaces_the_first(
    open_store: OpenStore,
) -> None:
    pushed = Pushed(open_store())
    pushed.subscribe(1, "ann")
    for tag in ("17", "17", "18", "", ""):
        pushed.absent(("ann", push(Notify("Order", tag=tag))))
    topics = {each.topic for each in pushed.deliveries}
    assert len(topics) == len(pushed.deliveries) == 4, (
        "each push without a tag has a topic of its own"
    )
    assert all(len(topic) == 32 for topic in topics)


@pytest.mark.parametrize("by_user", [True, False])
def test_without_previews_of_the_user_or_the_app_there_is_no_text(
    open_store: OpenStore, by_user: bool
) -> None:
    pushed = Pushed(
        open_store(),
        AppNotifySettings(preview=by_user),
        ann=Wishes(preview=not by_user),
    )
    pushed.subscribe(1, "ann", language="zh-CN")
    pushed.absent(
        ("ann", push(Notify("Order 17", "secret", "/17"), data=b'{"a":1}', text=""))
    )
    (shown,) = pushed.shown
    assert (shown.title, shown.body, shown.url, shown.data) == (
        "新消息",
        "新消息",
        "/17",
        None,
    )


def test_quiet_hours_postpone_it_and_a_database_that_is_away_fails_no_push(
    open_store: OpenStore,
) -> None:
    minute = datetime.now(UTC).hour * 60 + datetime.now(UTC).minute
    pushed = Pushed(
        open_store(), ann=Wishes(quiet=QuietHours(minute, (minute + 120) % 1440))
    )
    pushed.subscribe(1, "ann")
    pushed.absent(("ann", push(Notify())))
    (one,) = pushed.deliveries
    assert 3600_000 < one.next_try - one.created * 1000 <= 7200_000
    pushed.gates.away = True
    pushed.absent(("ann", push(Notify())))
    assert pushed.pushes.lost == {"shop": 1}
