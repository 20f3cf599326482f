"""Feeds on a real database: what is durable, in which order, by which node;
retries and dead events."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from msgspec import json

from imserver.backends.webhooks import feeds as module
from imserver.backends.webhooks.dead_events import list_retries, send_again
from imserver.backends.webhooks.event_json import page_of
from imserver.backends.webhooks.event_rows import StoredEvent
from imserver.backends.webhooks.feeds import Feed, Feeds
from imserver.backends.webhooks.requests import Receiver, WebhookCounts
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Commit, Draft, Entry
from imserver.messenger.log.message_log import MessageLog
from tests.backends.webhooks.consumer_users import Events, end
from tests.gateway.core.back_end import BackEnd, Post
from tests.gateway.transport.harness import until

APP = "shop"
EVENTS = frozenset(("message", "group", "account", "absent"))


class Node:
    """One node with a feed. ``kill`` ends it as a killed process ends: nothing
    is given back."""

    def __init__(
        self,
        folder: Path,
        back_end: BackEnd,
        name: str = "one",
        url: str = "http://back.end/",
        receives: bool = True,
        has_messages: bool = True,
    ) -> None:
        self.store = Store(StorageSettings(), str(folder), threaded=False)
        self.store.part(MessageLog).writer.report_to(self)
        self.store.start()
        self.tally = WebhookCounts()
        self.events = Events(self.store)
        self.feeds = Feeds(self.store, self.events, back_end, lambda: name, self.tally)  # type: ignore[arg-type]
        if has_messages:
            self.feeds.attach(self.store.part(MessageLog))
        self.receiver = Receiver(APP, url, b"secret", EVENTS)
        if receives:
            self.feeds.set(APP, self.receiver)
        self._run = gevent.spawn(self.feeds.run)

    def committed(self, commit: Commit) -> None:
        if self.feeds.log is not None and commit.app in self.feeds.feeds:
            self.feeds.committed(commit.app, commit.first, commit.last, commit.entries)

    def batch_stored(self, _app: str, _drafts: int, _seconds: float) -> float:
        return 0.0

    def send(self, sender: str, *texts: str) -> list[int]:
        drafts = [
            Draft(sender=sender, to_user="zoe", body=text.encode(), time_ms=1000)
            for text in texts
        ]
        return [
            each.entry.id
            for each in self.store.part(MessageLog).writer.append(APP, drafts)
        ]  # type: ignore[union-attr]

    @property
    def feed(self) -> Feed:
        return self.feeds.feeds[APP]

    def kill(self) -> None:
        self._run.kill()
        end([each for feed in self.feeds.feeds.values() for each in feed.consumers])
        self.store.close()

    def stop(self) -> None:
        self.feeds.stop(1.0)
        self.kill()


StartNode = Callable[..., Node]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[Node] = []

    def start_node(back_end: BackEnd, **options: Any) -> Node:
        nodes.append(Node(tmp_path, back_end, **options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()


def texts(back_end: BackEnd) -> list[str]:
    """The texts that were taken, each once, in the order of the first time."""
    return list(
        dict.fromkeys(event["text"] for event in back_end.events if "text" in event)
    )


def test_a_node_without_stored_messages_delivers_the_events_and_leaves_the_entries(
    start: StartNode,
) -> None:
    first = BackEnd()
    second = BackEnd()
    node = start(first, has_messages=False)
    node.feeds.add(APP, "account", [("ann", {"user": "ann", "change": "changed"})])
    until(lambda: [event["id"] for event in first.events] == ["event-1"])
    node.send("ann", "a")
    node.feeds.add(APP, "account", [("bob", {"user": "bob", "change": "changed"})])
    until(lambda: [event["id"] for event in first.events] == ["event-1", "event-2"])
    node.stop()
    start(second)
    until(lambda: [event["id"] for event in second.events] == ["log-1"])


@pytest.mark.parametrize("status", [400, 500])
def test_a_refused_event_holds_up_its_user_only(start: StartNode, status: int) -> None:
    healed = False
    taken: list[tuple[str, str]] = []

    def reply(post: Post) -> tuple[int, bytes]:
        rows = [(event["sender"], event["text"]) for event in post.json["events"]]
        if ("ann", "bad") in rows and not healed:
            return status, b""
        taken.extend(rows)
        return 200, b""

    back_end = BackEnd(reply)
    back_end.open.clear()
    node = start(back_end)
    node.send("ann", "1", "bad", "2")
    node.send("bob", "x")
    back_end.open.set()
    until(lambda: ("bob", "x") in taken)
    assert taken == [("ann", "1"), ("bob", "x")]
    node.send("ann", "3")
    node.send("bob", "y")
    until(lambda: ("bob", "y") in taken)
    assert [text for user, text in taken if user == "ann"] == ["1"], (
        "later ones of the user wait"
    )
    healed = True
    until(lambda: len(taken) == 6)
    assert [text for user, text in taken if user == "ann"] == ["1", "bad", "2", "3"]
    until(lambda: not node.feeds.events.waiting_users(APP))
    node.send("ann", "4")
    until(lambda: taken[-1] == ("ann", "4"))


def test_entries_that_are_committed_while_others_are_put_aside_are_delivered(
    start: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []

    def reply(post: Post) -> tuple[int, bytes]:
        if any(event["sender"] == "bad" for event in post.json["events"]):
            return 422, b""
        taken.extend(event["text"] for event in post.json["events"])
        return 200, b""

    node = start(BackEnd(reply))
    node.send("bad", "b1")
    until(lambda: node.feed.waiting)
    new = ["new 1", "new 2", "new 3"]

    def advance_while_others_commit(*given: Any) -> None:
        node.events.advance(*given)
        node.send("carl", *new)

    node.events.instead["advance"] = advance_while_others_commit
    drafts = [
        Draft(sender=sender, to_user="zoe", body=sender.encode())
        for sender in ("bad", "ann")
    ]
    node.store.part(MessageLog).writer.append(APP, drafts)
    until(lambda: not node.feed.count)
    assert taken == ["ann", *new]
    assert node.feed.entries.position == 6
    assert "could not be delivered" not in caplog.text


def test_a_receiver_that_takes_nothing_is_not_asked_for_each_event(
    start: StartNode,
) -> None:
    back_end = BackEnd(lambda _: (404, b""))
    node = start(back_end)
    node.send("ann", "a", "b")
    until(lambda: len(back_end.posts) > 8)
    assert not node.feeds.events.waiting_users(APP)
    assert node.tally.delivered.total() == 0


def test_entries_that_the_receiver_has_not_got_do_not_expire(start: StartNode) -> None:
    back_end = BackEnd(lambda _: "away")
    node = start(back_end)
    node.send("ann", *map(str, range(20)))
    until(lambda: node.feed.owned)
    assert node.feeds.events.undelivered(APP) == 0
    assert node.store.part(MessageLog).expire(APP, more_than=5, upto=0) == 0
    back_end.reply = lambda _: (200, b"")
    until(lambda: node.tally.delivered.total() == 20)
    node.feed.noting.take(20)
    until(lambda: node.feeds.events.undelivered(APP) == 20)
    assert node.store.part(MessageLog).expire(APP, more_than=5, upto=20) == 15


def test_what_was_stored_before_all_nodes_were_off_for_a_week_is_delivered(
    start: StartNode,
) -> None:
    one = start(BackEnd(lambda _: "away"))
    one.send("ann", *map(str, range(40)))
    until(lambda: one.feed.owned and one.feeds.backlog == {"shop": 40})
    one.store.execute("UPDATE event_feed SET lease_until = lease_until - 604800")
    one.store.execute("UPDATE message SET stored_at = stored_at - 604800")
    one.kill()
    back_end = BackEnd()
    two = start(back_end, name="two")
    until(lambda: two.tally.delivered.total() == 40)
    assert texts(back_end) == list(map(str, range(40)))
    assert not list_retries(two.store, APP, True, 0, 10), (
        "the age counts once it is tried"
    )


def test_after_three_days_events_are_dead_and_can_be_replayed(start: StartNode) -> None:
    down = True
    back_end = BackEnd(lambda _: "away" if down else (200, b""))
    node = start(back_end)
    node.send("ann", "a", "b")
    back_end.open.clear()
    node.send("ann", "young")
    long_ago = int(time.time()) - 4 * 86400
    node.store.execute("UPDATE message SET stored_at = %s WHERE id < 3", (long_ago,))
    back_end.open.set()
    until(lambda: len(list_retries(node.store, APP, True, 0, 10)) == 2)
    down = False
    until(lambda: texts(back_end)[-1] == "young" and node.tally.delivered.total() == 1)
    dead = list_retries(node.store, APP, True, 0, 10)
    assert sorted(row.event for row in dead) == ["log-1", "log-2"]
    back_end.posts.clear()
    assert send_again(node.store, APP, "log-2") == 1
    until(lambda: texts(back_end) == ["b"])
    assert send_again(node.store, APP) == 1
    until(lambda: len(back_end.events) == 2)
    until(lambda: not list_retries(node.store, APP, True, 0, 10))


def test_without_a_url_nothing_is_sent_and_all_is_recorded(start: StartNode) -> None:
    back_end = BackEnd()
    node = start(back_end, url="")
    node.feeds.add(APP, "account", [("ann", {"change": "changed"})])
    until(lambda: node.feed.owned)
    began = time.time()
    found = node.feeds.events.read(APP, 0, 10)
    assert [(event.id, event.user, event.kind) for event in found] == [
        (1, "ann", "account")
    ]
    assert abs(found[0].time - began) < 60
    assert back_end.posts == []


def test_many_refused_users_do_not_hold_up_the_others(start: StartNode) -> None:
    back_end = BackEnd()
    node = start(back_end)
    node.send("ann", "first")
    until(lambda: node.tally.delivered.total() == 1)
    aside = [
        module.RetryRow(0, f"x-{number}", f"user {number}", 1, 1, b"{}")
        for number in range(2000)
    ]
    node.feeds.events.advance(APP, "one", 1, 0, aside)
    back_end.reply = lambda post: (
        200 if "text" in post.json["events"][0] else 500,
        b"",
    )
    until(lambda: node.feed.waiting)
    node.send("ann", "second")
    until(lambda: "second" in texts(back_end))
    assert node.feeds.events.due_retries(APP, int(time.time()), 1 << 40, 1), (
        "not after all of them"
    )


def test_a_login_is_not_forgotten_while_the_database_is_away(start: StartNode) -> None:
    node = start(BackEnd())
    node.send("ann", "hi")
    until(lambda: node.feed.owned)
    node.events.instead["came_online"] = Mock(side_effect=StorageUnavailable("away"))
    node.feeds.came_online(APP, "zoe")
    with pytest.raises(StorageUnavailable):
        node.feeds.look()
    found: list[set[tuple[str, str]]] = []

    def remember(users: set[tuple[str, str]]) -> None:
        found.append(set(users))
        node.events.came_online(users)

    node.events.instead["came_online"] = remember
    until(lambda: found)
    assert found == [{(APP, "zoe")}]


def test_an_event_that_is_added_while_no_rows_are_found_is_delivered(
    start: StartNode,
) -> None:
    back_end = BackEnd()
    node = start(back_end)
    node.send("ann", "a")
    until(lambda: node.tally.delivered.total() == 1)
    feed = node.feed

    def read_before_the_commit(app: str, after: int, limit: int) -> list[StoredEvent]:
        rows: list[StoredEvent] = node.events.read(app, after, limit)
        node.feeds.add(APP, "account", [("ann", {"change": "changed"})])
        return rows

    node.events.instead["read"] = read_before_the_commit
    # that row has expired
    node.store.write(lambda sql: sql.execute("UPDATE event_feed SET last_id = 1"))
    feed.event_head = 1
    assert feed.sender is not None
    feed.sender.wake()
    until(lambda: [event["id"] for event in back_end.events] == ["log-1", "event-2"])


def test_a_reaction_is_an_event_beside_edits_and_recalls() -> None:
    reaction = Entry(7, 3, 2, "bob", kind="reaction", type="add", body=b"+1", about=6)
    (event,) = page_of(APP, [reaction], [], "one", EVENTS, 100, 1 << 20).events
    body = json.decode(event.body)
    assert (body["event"], body["kind"], body["type"], body["text"]) == (
        "message",
        "reaction",
        "add",
        "+1",
    )
    assert (body["sender"], body["group"], body["about"], body["stored"]["id"]) == (
        "bob",
        "3",
        6,
        7,
    )


def test_a_corrected_address_is_tried_at_once(
    start: StartNode, patient_consumers: None
) -> None:
    back_end = BackEnd(
        lambda post: (200, b"") if post.url == "http://right/" else "away"
    )
    node = start(back_end, url="http://wrong/")
    node.send("ann", "1", "2")
    until(lambda: node.feed.sender and node.feed.sender.failures)
    node.feeds.set(APP, Receiver(APP, "http://right/", b"secret", EVENTS))
    until(lambda: node.tally.delivered.total() == 2)
    assert texts(back_end) == ["1", "2"]


def test_a_message_from_the_future_does_not_hold_up_the_feed() -> None:
    entries = [
        Entry(number, 1, number, "ann", body=b"x", time_ms=2**60)
        for number in range(1, 4)
    ]
    now = int(time.time())
    rows = [
        StoredEvent(number, "bob", "account", now + 60, b"{}")
        for number in range(1, 200)
    ]
    page = page_of(APP, entries, rows, "one", EVENTS, 100, 1 << 20)
    assert [event.id for event in page.events[:3]] == ["log-1", "log-2", "log-3"]
