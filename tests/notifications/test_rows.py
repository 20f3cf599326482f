"""The rows of notifications on each engine."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import gevent
import pytest
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import NotOwner
from imserver.backends.webhooks.event_rows import EventStore, NewEvent
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import ServiceRefused
from imserver.gateway.node.feature_list import tables_of_server
from imserver.gateway.notify import Notify
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.notifications.audiences import AudienceRows
from imserver.notifications.contract import (
    Audience,
    AudienceContent,
    AudienceTarget,
    ConversationWish,
    Delivery,
    Due,
    MailDue,
    PushEndpoint,
    QuietHours,
    Wishes,
)
from imserver.notifications.rows import HOSTS_OF_USER, LEASE, NotificationRows, Results
from tests.messenger.log.test_log_effort import steps_of
from tests.stores import OpenStore

APP = "shop"


@pytest.fixture
def rows(store: Store) -> NotificationRows:
    return NotificationRows(store)


def endpoint(user: str, url: str = "", app: str = APP, **more: object) -> PushEndpoint:
    return PushEndpoint(
        0,
        app,
        user,
        url or f"https://push.test/{user}",
        f"key of {user}",
        "auth",
        **more,
    )  # type: ignore[arg-type]


def delivery(
    to: PushEndpoint,
    topic: str = "t",
    next_try: int = 1,
    body: bytes = b"{}",
    host: str = "push.test",
) -> Delivery:
    return Delivery(
        0, APP, to.user, to.id, host, "message", 1, 1, topic, 60, next_try, 0, 1, body
    )


def all_dues(store: Store) -> list[Due]:
    statement = "SELECT member, conversation, entry_id, due, notified_id, notified_at FROM notify_due"
    found = store.rows(f"{statement} ORDER BY member, conversation")
    return [
        Due(user if isinstance(user, str) else user.decode(), *numbers)
        for user, *numbers in found
    ]


def test_an_app_is_followed_from_the_end_of_its_log_when_somebody_can_be_notified(
    store: Store, rows: NotificationRows
) -> None:
    assert rows.apps() == {}
    store.part(MessageLog).writer.append(
        APP, [Draft(sender="a", to_user="b", body=b"1", time_ms=1)]
    )
    rows.add_endpoint(endpoint("b"), 5)
    store.part(MessageLog).writer.append(
        APP, [Draft(sender="a", to_user="b", body=b"2", time_ms=1)]
    )
    rows.add_endpoint(endpoint("a"), 5)
    rows.set_wishes("other", "x", Wishes(mail="soon"))
    rows.set_wishes("quiet", "x", Wishes())
    assert rows.apps() == {APP: 1, "other": 0}
    rows.advance(APP, 7, ())
    rows.advance(APP, 5, ())
    assert rows.apps()[APP] == 7
    assert rows.next_dues() == {APP: None, "other": None}


def test_an_endpoint_with_the_same_url_is_replaced_and_the_oldest_goes(
    rows: NotificationRows,
) -> None:
    first = rows.add_endpoint(endpoint("b", "https://push.test/1", device="phone"), 2)
    rows.add_deliveries([delivery(first)])
    again = rows.add_endpoint(
        endpoint("b", "https://push.test/1", device="tablet", language="zh"), 2
    )
    assert again.id == first.id
    assert rows.endpoints(APP, ["b", "x", "b"]) == {"b": [again]}
    assert len(rows.deliveries("push.test", 1, 9)) == 1, (
        "what waits is sent with the new keys"
    )
    with pytest.raises(ServiceRefused):
        rows.add_endpoint(endpoint("ann", "https://push.test/1"), 2)
    assert rows.endpoints(APP, ["b", "ann"]) == {"b": [again]}, (
        "whoever knows the URL only takes nothing"
    )
    of_ann = rows.add_endpoint(replace(again, user="ann"), 2)
    assert rows.endpoints(APP, ["b", "ann"]) == {"ann": [of_ann]}
    assert rows.deliveries("push.test", 1, 9) == []
    assert (
        rows.add_endpoint(endpoint("b", "https://push.test/1", "other"), 2).id
        != of_ann.id
    )
    some = [
        rows.add_endpoint(endpoint("b", f"https://push.test/Ä/{number}"), 2)
        for number in range(4)
    ]
    assert rows.endpoints(APP, ["b"]) == {"b": some[2:]}
    assert rows.endpoints_by_id([some[0].id, some[3].id, 10**6]) == {
        some[3].id: some[3]
    }


def test_the_endpoints_of_a_user_are_on_a_few_hosts(rows: NotificationRows) -> None:
    first = [
        rows.add_endpoint(endpoint("b", f"https://push.test/{number}"), 99)
        for number in range(3)
    ]
    some = [
        rows.add_endpoint(endpoint("b", f"https://{number}.test/"), 99)
        for number in range(HOSTS_OF_USER)
    ]
    assert rows.endpoints(APP, ["b"]) == {"b": some}, (
        "the oldest host went with all of its endpoints"
    )
    again = rows.add_endpoint(
        endpoint("b", f"https://{HOSTS_OF_USER - 1}.test/another"), 99
    )
    assert rows.endpoints(APP, ["b"]) == {"b": [*some, again]}
    assert not rows.endpoints_by_id([one.id for one in first])


def test_an_endpoint_that_is_added_several_times_at_once_is_one(
    url: str, open_store: OpenStore
) -> None:
    """A client sends its request again while the first one still waits for the
    database."""
    nodes = [NotificationRows(open_store(url)) for _ in range(4)]
    together = Barrier(len(nodes))

    def add(rows: NotificationRows, number: int) -> int:
        together.wait()
        return rows.add_endpoint(endpoint("b", f"https://push.test/{number}"), 50).id

    with ThreadPoolExecutor(len(nodes)) as threads:
        for number in range(10):
            assert (
                len(
                    set(
                        threads.map(
                            lambda rows, number=number: add(rows, number), nodes
                        )
                    )
                )
                == 1
            )  # type: ignore[misc]
    assert len(nodes[0].endpoints(APP, ["b"])["b"]) == 10


def test_endpoints_are_switched_off_and_removed_by_their_user_only(
    rows: NotificationRows,
) -> None:
    one = rows.add_endpoint(endpoint("b"), 5)
    rows.add_deliveries([delivery(one)])
    assert not rows.set_enabled(APP, "ann", one.id, False)
    assert not rows.set_enabled("other", "b", one.id, False)
    assert not rows.remove_endpoint(APP, "ann", one.id)
    assert rows.reachable(APP, ["ann", "b"]) == {"b"}
    assert rows.set_enabled(APP, "b", one.id, False)
    assert not rows.endpoints(APP, ["b"])["b"][0].enabled
    assert (rows.reachable(APP, ["ann", "b"]), rows.hosts(0)) == (set(), {})
    assert rows.set_enabled(APP, "b", one.id, True)
    rows.add_deliveries([delivery(one)])
    assert rows.remove_endpoint(APP, "b", one.id)
    assert not rows.remove_endpoint(APP, "b", one.id)
    assert (rows.endpoints(APP, ["b"]), rows.hosts(0)) == ({}, {})


def test_endpoints_go_with_the_login_that_has_added_them(
    rows: NotificationRows,
) -> None:
    of_phone, of_tablet, of_back_end = (
        rows.add_endpoint(endpoint("b", f"https://push.test/{login}", login=login), 5)
        for login in (1, 2, 0)
    )
    of_ann = rows.add_endpoint(endpoint("ann", "https://push.test/ann", login=1), 5)
    rows.add_deliveries([delivery(of_phone)])
    rows.remove_endpoints(APP, "b", 1)
    assert rows.endpoints(APP, ["ann", "b"]) == {
        "ann": [of_ann],
        "b": [of_tablet, of_back_end],
    }
    assert rows.hosts(0) == {}
    rows.remove_endpoints(APP, "b", None)
    assert rows.endpoints(APP, ["ann", "b"]) == {"ann": [of_ann]}


def test_wishes_of_users_and_for_conversations(rows: NotificationRows) -> None:
    wishes = Wishes(False, "daily", QuietHours(1320, 420, "Asia/Shanghai"), "zh")
    rows.set_wishes(APP, "b", wishes)
    assert rows.wishes(APP, ["a", "b"]) == {"b": wishes}
    assert rows.reachable(APP, ["a", "b"]) == {"b"}
    rows.set_wishes(APP, "b", Wishes())
    assert rows.wishes(APP, ["b"]) == {"b": Wishes()}
    assert rows.reachable(APP, ["b"]) == set()
    rows.set_conversation_wish(APP, "b", ConversationWish(3, "mentions"))
    rows.set_conversation_wish(APP, "b", ConversationWish(2, "nothing", 5))
    rows.set_conversation_wish(APP, "c", ConversationWish(3, "all", 1 << 40))
    rows.set_conversation_wish(APP, "b", ConversationWish(3, "nothing"))
    assert rows.all_conversation_wishes(APP, [(user, 3) for user in "abc"]) == {
        ("b", 3): ConversationWish(3, "nothing"),
        ("c", 3): ConversationWish(3, "all", 1 << 40),
    }
    assert rows.conversation_wishes_of(APP, "b") == [
        ConversationWish(2, "nothing", 5),
        ConversationWish(3, "nothing"),
    ]
    rows.set_conversation_wish(APP, "b", ConversationWish(3))
    assert rows.conversation_wishes_of(APP, "b") == [ConversationWish(2, "nothing", 5)]


def test_a_due_that_is_set_stays_and_one_that_was_notified_waits(
    store: Store, rows: NotificationRows
) -> None:
    rows.follow(APP)
    rows.advance(
        APP, 1, [Due("a", 1, 1, 1000), Due("b", 1, 1, 1000), Due("b", 2, 1, 1500)]
    )
    rows.advance(APP, 2, [Due("a", 1, 2, 2000), Due("c", 1, 2, 2000)])
    assert rows.due(APP, 999, 10) == ([], 1000)
    assert rows.due(APP, 1500, 2) == (
        [Due("a", 1, 1, 1000), Due("b", 1, 1, 1000)],
        1500,
    )
    found, next_due = rows.due(APP, 1500, 10)
    assert ([one.user for one in found], next_due) == (["a", "b", "b"], 2000)
    a, b = found[:2]
    assert rows.next_dues() == {APP: 1000}
    rows.decide(
        APP,
        [a],
        [(b, Due("b", 1, 1, 0, 1, 1600)), (found[2], Due("b", 2, 1, 3000))],
        [],
        {},
    )
    assert all_dues(store) == [
        Due("b", 1, 1, 0, 1, 1600),
        Due("b", 2, 1, 3000),
        Due("c", 1, 2, 2000),
    ]
    rows.advance(APP, 3, [Due("b", 1, 3, 1700), Due("b", 2, 3, 1700)], again_ms=60_000)
    assert all_dues(store)[:2] == [
        Due("b", 1, 3, 61_600, 1, 1600),
        Due("b", 2, 1, 3000),
    ]
    assert rows.apps() == {APP: 3}


def test_what_was_read_meanwhile_stays_to_be_decided(
    store: Store, rows: NotificationRows
) -> None:
    first = Due("a", 1, 5, 0, 5, 100)
    never = Due("b", 1, 5, 1000)
    rows.follow(APP)
    rows.advance(APP, 5, [Due("a", 1, 5, 50), never])
    rows.decide(APP, [], [(Due("a", 1, 5, 50), first)], [], {})
    assert rows.decide_again(APP, [("a", 1), ("b", 1), ("a", 2), ("x", 1)]) == 1
    read, due = rows.due(APP, 2000, 2)[0]
    assert (read.user, read.entry, read.notified) == ("a", 0, 5), (
        "at once, by any clock"
    )
    assert (due.user, due.entry, due.notified) == ("b", 5, 0)
    assert rows.decide_again("other", [("a", 1)]) == 0
    assert rows.decide_again(APP, [("a", 1)]) == 1, "while it is decided"
    rows.decide(APP, [], [(read, Due("a", 1, 5, 0, 6, 200))], [], {})
    found = {one.user: one for one in rows.due(APP, 1 << 50, 9)[0]}
    assert (found["a"].notified, found["a"].notified_at) == (6, 200)
    assert found["a"].due > read.due
    rows.decide(APP, [read], [], [], {})
    assert len(all_dues(store)) == 2, "it was changed"
    rows.decide(APP, [found["a"]], [], [], {})
    assert all_dues(store) == [never]


def test_dues_of_a_clock_that_was_ahead_are_bounded(rows: NotificationRows) -> None:
    dues = [
        Due("a", 1, 5, 0, 4, 100),
        Due("b", 1, 5, 9000),
        Due("c", 1, 5, 1100),
        Due("d", 1, 5, 9000),
    ]
    rows.advance(
        APP, 5, [replace(one, due=one.due or 9000, notified=0) for one in dues]
    )
    rows.decide(
        APP,
        [],
        [(replace(dues[0], due=9000, notified=0), replace(dues[0], due=9000))],
        [],
        {},
    )
    rows.limit_dues(APP, 2000, 3000)
    assert {one.user: one.due for one in rows.due(APP, 9000, 9)[0]} == {
        "a": 3000,
        "b": 2000,
        "c": 1100,
        "d": 2000,
    }


def test_a_user_waits_no_longer_than_is_usual_after_a_notification_of_a_clock_ahead(
    rows: NotificationRows,
) -> None:
    first = Due("a", 1, 5, 1000)
    rows.advance(APP, 5, [first])
    rows.decide(
        APP,
        [],
        [(first, replace(first, due=0, notified=5, notified_at=9_000_000))],
        [],
        {},
    )
    rows.advance(APP, 6, [Due("a", 1, 6, 2000)], 500)
    assert [one.due for one in rows.due(APP, 1 << 50, 9)[0]] == [2500]


def test_a_node_that_has_lost_the_lease_decides_nothing(
    store: Store, rows: NotificationRows
) -> None:
    rows.follow(APP)
    events = EventStore(store)
    assert LEASE in events.claim({LEASE: 0}, "one", 10)
    rows.advance(APP, 1, [Due("a", 1, 1, 10)], owner="one")
    for attempt in (
        lambda: rows.advance(APP, 2, [], owner="two"),
        lambda: rows.decide(APP, [Due("a", 1, 1, 10)], [], [], {}, owner="two"),
    ):
        with pytest.raises(NotOwner):
            attempt()
    assert (rows.apps(), len(all_dues(store))) == ({APP: 1}, 1)


def test_deliveries_wait_per_host_and_a_newer_one_with_the_topic_replaces_them(
    rows: NotificationRows,
) -> None:
    a, b = (rows.add_endpoint(endpoint(user), 5) for user in "ab")
    rows.add_deliveries(
        [
            delivery(a, "t", 30),
            delivery(a, "u", 20),
            delivery(b, "t", 10, host="ü.test"),
        ]
    )
    rows.decide(APP, [], [], [delivery(a, "t", 40, "é".encode())], {})
    assert rows.hosts(0) == {"push.test": 20, "ü.test": 10}
    assert rows.hosts(25) == {"push.test": 25, "ü.test": 25}
    assert [one.topic for one in rows.deliveries("push.test", 39, 9)] == ["u"]
    first, second = rows.deliveries("push.test", 40, 9)
    assert (second.topic, second.body, second.attempts) == ("t", "é".encode(), 0)
    assert second == delivery(a, "t", 40, "é".encode()).__class__(
        second.id,
        APP,
        "a",
        a.id,
        "push.test",
        "message",
        1,
        1,
        "t",
        60,
        40,
        0,
        1,
        "é".encode(),
    )
    assert [one.id for one in rows.deliveries("push.test", 40, 1)] == [first.id]
    rows.add_deliveries([delivery(a, ""), delivery(a, "")])
    assert len(rows.deliveries("push.test", 40, 9)) == 4, (
        "without a topic nothing is replaced"
    )


def test_results_are_settled_together_with_their_events(
    store: Store,
) -> None:
    heads: list[object] = []
    rows = NotificationRows(store, added=heads.append)
    a, b = (rows.add_endpoint(endpoint(user), 5) for user in "ab")
    rows.add_deliveries(
        [delivery(a, "1"), delivery(a, "2"), delivery(b, "1"), delivery(b, "2")]
    )
    ids = [one.id for one in rows.deliveries("push.test", 1, 9)]
    rows.settle(
        Results([ids[0]], [b.id], [(ids[1], 99)], [NewEvent(APP, "b", "gone", b"{}")])
    )
    assert heads == [{APP: 1}]
    assert [event.kind for event in EventStore(store).read(APP, 0, 9)] == ["gone"]
    (left,) = rows.deliveries("push.test", 99, 9)
    assert (left.id, left.next_try, left.attempts) == (ids[1], 99, 1)
    assert rows.endpoints(APP, ["a", "b"]) == {"a": [a]}
    rows.settle(Results())
    rows.settle(Results(ids, [b.id], [(ids[0], 5)]))
    assert (rows.hosts(0), len(heads)) == ({}, 1)


def test_mails_are_due_once_and_only_for_users_who_get_mail(
    rows: NotificationRows,
) -> None:
    rows.set_wishes(APP, "a", Wishes(mail="soon"))
    rows.set_wishes(APP, "b", Wishes(mail="soon"))
    rows.set_wishes(APP, "c", Wishes())
    rows.decide(APP, [], [], [], {"a": 500, "b": 900, "c": 100, "x": 100})
    assert rows.mails_due(APP, 400, 9) == ([], 500)
    a = MailDue("a", 500)
    b = MailDue("b", 900)
    assert rows.mails_due(APP, 500, 9) == ([a], 900)
    assert rows.mails_due(APP, 900, 1) == ([a], 900)
    rows.set_mailed(APP, a, MailDue("a", 0, 505, 7, 3), 0)
    assert rows.mails_due(APP, 900, 9) == ([b], None)
    rows.set_mailed(APP, b, MailDue("b", 2000, 905, 7, 3), 0)
    assert rows.mails_due(APP, 2000, 9) == ([MailDue("b", 2000, 905, 7, 3)], None)
    rows.set_wishes(APP, "b", Wishes())
    rows.set_mailed(APP, b, MailDue("b", 3000), 4000)
    assert rows.mails_due(APP, 4000, 9) == ([], None)


def test_what_is_to_be_mailed_while_a_mail_is_sent_is_mailed_later(
    rows: NotificationRows,
) -> None:
    rows.set_wishes(APP, "a", Wishes(mail="soon"))
    rows.decide(APP, [], [], [], {"a": 500})
    (before,), _ = rows.mails_due(APP, 500, 9)
    rows.decide(APP, [], [], [], {"a": 1400})
    assert rows.mails_due(APP, 499, 9) == ([], 501)
    rows.set_mailed(APP, before, MailDue("a", 0, 505, 7, 3), 1400)
    assert rows.mails_due(APP, 1400, 9) == ([MailDue("a", 1400, 505, 7, 3)], None)


def test_many_rows_at_once(store: Store, rows: NotificationRows) -> None:
    users = [f"u{number}" for number in range(1500)]
    rows.follow(APP)
    rows.advance(APP, 1, [Due(user, 1, 1, 10) for user in users])
    rows.advance(APP, 2, [Due(user, 1, 2, 20) for user in users])
    found, next_due = rows.due(APP, 10, 5000)
    assert (len(found), next_due) == (1500, None)
    rows.decide(
        APP,
        found[:700],
        [(one, Due(one.user, 1, 1, 0, 1, 5)) for one in found[700:]],
        [],
        {},
    )
    assert [one.notified for one in all_dues(store)] == [1] * 800
    assert rows.reachable(APP, users) == set()


def test_a_deleted_user_and_a_deleted_app_leave_nothing(
    store: Store, rows: NotificationRows
) -> None:
    store.add_app(APP, {})
    for user in "ab":
        one = rows.add_endpoint(endpoint(user), 5)
        rows.add_deliveries([delivery(one)])
        rows.set_wishes(APP, user, Wishes(mail="soon"))
        rows.set_conversation_wish(APP, user, ConversationWish(1, "nothing"))
        rows.advance(APP, 1, [Due(user, 1, 1, 10)])
    AudienceRows(store).add(
        Audience(0, APP, "sale", "all", AudienceTarget(), AudienceContent(Notify())), 5
    )
    tables = [
        table.name for table in tables_of_server() if table.name.startswith("notify_")
    ]

    def counts() -> list[int]:
        return [
            int(store.rows(f"SELECT count(*) FROM {table}")[0][0]) for table in tables
        ]

    assert counts() == [1, 2, 2, 2, 2, 1, 2]
    store.delete_rows_of_user(APP, "a")
    assert counts() == [1, 1, 1, 1, 1, 1, 1]
    store.delete_app(APP)
    store.delete_rows(APP)
    assert counts() == [0] * 7


def test_looking_costs_the_same_however_many_others_are_notified(
    tmp_path: Path,
) -> None:
    """In steps of the machine of SQLite, which scans a table where an index is
    missing."""
    store = Store(StorageSettings(), str(tmp_path), threaded=False)
    rows = NotificationRows(store)
    rows.follow("empty")
    mine = rows.add_endpoint(endpoint("me"), 5)
    looks: list[Callable[[], object]] = [
        lambda: rows.due(APP, 10, 5),
        lambda: rows.next_dues(),
        lambda: rows.deliveries("one.test", 10, 5),
        lambda: rows.endpoints(APP, ["me"]),
        lambda: rows.reachable(APP, ["me"]),
        lambda: rows.wishes(APP, ["me"]),
        lambda: rows.all_conversation_wishes(APP, [("me", 1)]),
        lambda: rows.mails_due(APP, 10, 5),
        lambda: rows.decide_again(APP, [("me", 1)]),
        lambda: rows.decide(
            APP,
            [],
            [(Due("me", 1, 1, 1), Due("me", 1, 1, 1))],
            [delivery(mine)],
            {"me": 9},
        ),
        lambda: rows.settle(Results([], [mine.id + 10**6], [(0, 1)])),
    ]
    costs = []
    for count in (50, 2000):
        users = [f"u{count}-{number}" for number in range(count)]
        rows.advance(
            APP,
            1,
            [
                Due(user, number % 7, 1, 1 + number % 2)
                for number, user in enumerate(users)
            ],
        )
        others = [rows.add_endpoint(endpoint(user), 5) for user in users[:200]]
        many = [
            delivery(one, str(n), host="two.test")
            for one in others
            for n in range(count // 50)
        ]
        rows.add_deliveries(many)
        for user in users[:200]:
            rows.set_wishes(APP, user, Wishes(mail="soon"))
            rows.set_conversation_wish(APP, user, ConversationWish(1, "nothing"))
        costs.append([steps_of(store, look) for look in looks])
    store.close()
    for few, many_steps in zip(*costs, strict=True):
        assert many_steps <= 2 * few + 8, costs


def test_the_devices_of_many_users_are_read_with_turns_of_the_loop_between(
    tmp_path: Path,
) -> None:
    # its queries do not switch
    store = Store(StorageSettings(""), str(tmp_path), threaded=False)
    store.start()
    users = [str(number) for number in range(1000)]
    devices = [
        (APP, user, f"{user}-{number}", b"https://push.example/1", 1)
        for user in users
        for number in range(20)
    ]
    columns = "app, member, digest, url, enabled, p256dh, auth, device, language, login, created"
    statement = f"INSERT INTO notify_endpoint ({columns}) VALUES (%s, %s, %s, %s, %s, '', '', '', 'en', 0, 0)"
    store.write(lambda sql: sql.execute_many(statement, devices))
    turns = [0]

    def turn() -> None:
        while True:
            turns[0] += 1
            gevent.sleep(0.001)

    other = gevent.spawn(turn)
    assert len(NotificationRows(store).endpoints(APP, users)) == len(users)
    other.kill()
    store.close()
    assert turns[0] > 1
