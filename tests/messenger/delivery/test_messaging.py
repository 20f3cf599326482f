"""Messaging inside one node and between two: order, acknowledgements, catching
up, and following the log."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.metrics import Metrics
from imserver.messenger.delivery import messaging
from imserver.messenger.delivery.deliverer import LogFollower
from imserver.messenger.delivery.log_subscriptions import (
    LogSubscription,
    LogSubscriptions,
)
from imserver.messenger.log.contract import (
    Commit,
    Draft,
    Entry,
    Membership,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.transport.harness import until
from tests.messenger.log_file import Gates, LogFile
from tests.messenger.messaging_harness import APP, MessageClient, Node
from tests.support import CountingFlag


def test_a_message_is_delivered_and_acknowledged_after_the_commit(node: Node) -> None:
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    gate = Flag()
    node.gates.committing = gate
    seq = ann.send_payload("send", {"to": "bob", "text": "hi", "clientMsgID": "a"})
    ann.settle()
    bob.settle()
    assert ([body["cmd"] for body in ann.bodies()], bob.pushed()) == (
        ["login", "enter"],
        [],
    )
    gate.set()
    assert ann.answer(seq) == (
        200,
        {"id": 1, "conversation": 1, "seq": 1, "repeated": False},
    )
    until(bob.pushed)
    pushed = bob.pushed()[0]
    assert pushed.pop("time") > 1_700_000_000_000
    assert pushed == {
        "id": 1,
        "conversation": 1,
        "seq": 1,
        "kind": "message",
        "from": "ann",
        "to": "bob",
        "type": "text",
        "text": "hi",
        "clientMsgID": "a",
    }


def test_receivers_must_be_accounts_where_all_users_are(node: Node) -> None:
    for user, app, to_anybody, reason in (
        ("1", "another", False, ""),
        ("2", APP, False, "unknown_account"),
        ("3", APP, True, ""),
    ):
        node.logins.account_apps.clear()
        node.logins.account_apps.add(app)
        results: list[Any] = []
        draft = Draft(sender="ann", to_user=user, to_anybody=to_anybody)
        node.messaging.send(APP, draft, results.append)
        until(lambda results=results: results)  # type: ignore[misc]
        assert getattr(results[0], "reason", "") == reason


@pytest.mark.parametrize("cursor", [None, 99])
def test_a_client_without_a_cursor_of_the_log_gets_no_pushes_until_it_syncs(
    node: Node, cursor: int | None
) -> None:
    ann = node.speaker("ann")
    bob = node.speaker("bob", cursor)
    ann.send("bob", "1")
    bob.settle()
    assert bob.pushed() == []
    if cursor:
        assert bob.login == (200, {"recovered": False})
        assert bob.ask("sync", {"cursor": 99})[1]["beginAnew"] is True
    code, page = bob.ask("sync", {"cursor": 0})
    assert (code, [each["text"] for each in page["messages"]], page["hasMore"]) == (
        200,
        ["1"],
        False,
    )
    ann.send("bob", "2")
    until(bob.pushed)
    assert bob.stream() == [1, 2]


def test_a_repeat_gets_the_first_answer_and_is_not_delivered(node: Node) -> None:
    ann = node.speaker("ann", 0)
    desk = node.speaker("ann", 0, "desk")
    bob = node.speaker("bob", 0)
    first = ann.send("bob", "hi", clientMsgID="x")
    again = ann.send("bob", "hi", clientMsgID="x")
    assert again == (200, {**first[1], "repeated": True})
    assert (node.metrics.stored.total, node.metrics.stored_repeats) == (1, 1)
    for each in (ann, desk, bob):
        each.settle()
    assert (ann.texts(), desk.texts(), bob.texts()) == ([], ["hi"], ["hi"])


def test_while_the_database_is_away_a_message_is_refused_and_may_be_sent_again(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    node.gates.away = True
    assert ann.send("bob", "hi", clientMsgID="x") == (1008, None)
    assert node.metrics.not_stored == 1
    assert ann.ask("sync", {"cursor": 0}) == (1008, None)
    node.gates.away = False
    assert ann.send("bob", "hi", clientMsgID="x")[0] == 200
    until(bob.pushed)
    assert bob.texts() == ["hi"]


def test_a_message_found_stored_after_its_refusal_is_delivered_once(node: Node) -> None:
    """The answer to its COMMIT came too late."""
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    node.lose_answer()
    assert ann.send("bob", "hi", clientMsgID="x") == (1008, None)
    assert node.metrics.not_stored == node.metrics.stored.total == 0
    node.find_answer()
    assert ann.send("bob", "hi", clientMsgID="x")[1] == {
        "id": 1,
        "conversation": 1,
        "seq": 1,
        "repeated": True,
    }
    until(bob.pushed)
    assert (ann.texts(), bob.texts(), [each.id for each in node.stored]) == (
        ["hi"],
        ["hi"],
        [1],
    )
    assert (node.metrics.stored.total, node.metrics.stored_repeats) == (1, 1)


def test_online_members_follow_a_group_from_its_creation_to_the_end_of_their_connections(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    bob = node.speaker("bob", 0)
    group = node.group("ann", "bob")
    ann.send(group, "hi")
    until(lambda: bob.texts() == ["group", "hi"])
    assert node.messaging.log_subscriptions.followers.members(APP, group)
    for each in (ann, bob):
        each.client.hang_up()
    until(lambda: not node.messaging.log_subscriptions.followers.members(APP, group))
    assert APP not in node.messaging.follower.apps


def test_a_join_that_commits_while_memberships_are_read_is_not_missed(
    node: Node,
) -> None:
    group = node.group("ann")
    ann = node.speaker("ann", 1)
    bob = node.speaker("bob")
    gate = Flag()
    node.gates.answering = gate
    bob.send_payload("sync", {"cursor": 0})
    until(lambda: node.messaging.log_subscriptions.reads)
    node.log.groups.join(APP, group, ["bob"])
    node.gates.answering = None
    gate.set()
    ann.send(group, "hi")
    until(lambda: bob.stream() == [2, 3])


def test_a_guests_app_that_ends_with_its_session_ends_the_following_too(
    node: Node,
) -> None:
    connection, _ = node.connect()
    app = node.hub.open("guests", "multi", is_registered=False)
    node.hub.join(app, connection, "bob", "")
    node.gates.answering = Flag()
    following = gevent.spawn(
        node.messaging.catch_up.subscribe, connection, LogSubscription()
    )
    until(lambda: node.messaging.log_subscriptions.by_app)
    connection.lost()
    node.hub.close_unregistered("guests")
    node.gates.answering.set()
    following.get(timeout=60)
    assert not node.messaging.log_subscriptions.by_app
    assert "guests" not in node.messaging.follower.apps


def test_a_client_must_begin_anew_if_entries_expire_while_they_are_read(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    for text in "12345":
        ann.send("bob", text)
    node.during(3, lambda: node.log.expire(APP, more_than=1, upto=3))
    assert node.speaker("bob", 1).login == (200, {"recovered": False})
    bob = node.speaker("bob")
    node.during(2, lambda: node.log.expire(APP, more_than=1, upto=4))
    page = bob.ask("sync", {"cursor": 3})[1]
    assert ([each["id"] for each in page["messages"]], page["beginAnew"]) == ([5], True)


@pytest.mark.usefixtures("small")
def test_a_node_without_receivers_follows_the_log_only_while_it_stores(
    node: Node,
) -> None:
    ann = node.speaker("ann")
    ann.send("bob", "1")
    gevent.sleep(0.02)
    node.messaging.follower.check()
    assert APP not in node.messaging.follower.apps
    bob = node.speaker("bob", 1)
    ann.send("bob", "2")
    until(lambda: bob.texts() == ["2"])
    node.messaging.follower.check()
    assert APP in node.messaging.follower.apps


# --- two nodes


def two() -> tuple[Node, Node]:
    file = LogFile()
    first = Node(file)
    second = Node(file)
    first.others, second.others = [second], [first]
    return first, second


def test_a_repeat_on_another_node_is_acknowledged_after_earlier_entries() -> None:
    first, second = two()
    with first, second:
        ann = first.speaker("ann", 0)
        bob = second.speaker("bob", 0)
        first.wire = lambda *_: False
        bob2 = first.speaker("bob", 0, "other")
        ann.send("bob", "before")
        bob2.send("ann", "mine", clientMsgID="x")
        assert bob.send("ann", "mine", clientMsgID="x")[1] == {
            "id": 2,
            "conversation": 1,
            "seq": 2,
            "repeated": True,
        }
        assert bob.stream() == [1, 2]


def test_a_client_does_not_wait_until_its_node_has_delivered_what_it_received_elsewhere() -> (
    None
):
    first, second = two()
    with first, second:
        ann = first.speaker("ann", 0)
        eve = second.speaker("eve", 0)
        first.wire = lambda *_: False
        ann.send("bob", "1")
        ann.send("bob", "2")
        bob = second.speaker("bob", 1)
        assert (bob.login, bob.stream()) == ((200, {"recovered": True}), [2])
        assert second.messaging.follower.position(APP) == 0
        first.wire = lambda *_: True
        ann.send("eve", "3")
        ann.send("bob", "4")
        until(lambda: eve.texts() == ["3"])
        until(lambda: 4 in bob.stream())
        assert bob.stream() == [2, 4]


def test_an_answer_comes_in_its_place_although_the_log_has_the_message_already() -> (
    None
):
    first, second = two()
    with first, second:
        ann = first.speaker("ann", 0)
        bob = second.speaker("bob", 0)
        first.wire = lambda *_: False
        ann.send("bob", "1")
        sending = bob.send_payload("send", {"to": "ann", "text": "2"})
        until(lambda: second.messaging.deliverer.owes(APP, bob.connection))
        bob.ask("sync", {"cursor": 0})
        bob.answer(sending)
        assert bob.entries() == [("sync", 1), ("send", 2)]


def test_messages_to_many_gather_so_that_they_share_writes(
    constants: Callable[..., None],
) -> None:
    constants(messaging, WIDE=2, _GATHER_SECONDS=600, _MAX_GATHER_SECONDS=600)
    with Node() as node:
        group = node.group("ann", "bob", "eve")
        ann = node.speaker("ann", 1)
        bob = node.speaker("bob", 1)
        node.speaker("eve", 1)
        first = ann.send_payload("send", {"conversation": group, "text": "0"})
        ann.answer(first)
        for number in range(1, 10):
            ann.send_payload("send", {"conversation": group, "text": str(number)})
        ann.settle()
        node.log.writer.close()  # ends the pause
        until(lambda: len(bob.pushed()) == 10)
        assert node.appends == [1, 9]


def store(node: Node, text: str) -> None:
    """Store a message to a user, who receives it before this returns."""
    stored: list[Stored] = []
    node.messaging.send(
        APP, Draft(sender="shop", body=text.encode(), to_user="ann"), stored.append
    )
    until(lambda: bool(stored))


def heard(client: MessageClient, count: int) -> list[str]:
    """So many messages that were delivered, and no more."""

    def messages() -> list[str]:
        return [
            body["response"]["data"]["text"]
            for body in client.bodies()
            if body["cmd"] == "message"
        ]

    until(lambda: len(messages()) >= count)
    client.settle()
    return messages()


def test_a_client_begins_at_the_end_of_the_log(node: Node) -> None:
    store(node, "before")
    client = node.speaker("ann")
    node.messaging.catch_up.follow(client.connection)
    store(node, "held")
    assert heard(client, 0) == []
    node.messaging.catch_up.release(client.connection)
    store(node, "live")
    assert heard(client, 2) == ["held", "live"]


def test_no_login_waits_for_a_database_that_does_not_answer(node: Node) -> None:
    connection = node.speaker("ann").connection
    node.store.database().failed("no answer in time", wrote=False)
    with pytest.raises(StorageUnavailable):
        node.messaging.catch_up.follow(connection)
    assert connection.log_subscription is None


def test_a_bot_receives_entries_of_its_groups_that_name_it_in_order(node: Node) -> None:
    group = node.group("ann", "7", "bob")
    ann, bot, bob = (node.speaker(user, 1) for user in ("ann", "7", "bob"))
    followers = node.messaging.log_subscriptions.followers
    followers.enter(APP, bot.connection, group, True)

    def draft(text: str, meta: bytes = b"", sender: str = "ann") -> Draft:
        return Draft(
            sender=sender, conversation=group, body=text.encode(), meta=meta, time_ms=1
        )

    gate = Flag()
    node.gates.committing = gate
    for each in (
        draft("hidden"),
        draft("named", b'{"bots":["7"]}'),
        draft("of another", b'{"bots":["8"]}'),
        Draft(sender="bob", to_user="7", body=b"to you", time_ms=1),
        draft("named again", b'{"mentions":["7"],"bots":["8","7"]}', "bob"),
    ):
        node.messaging.send(APP, each, lambda _: None)
    gate.set()
    until(lambda: len(bob.texts()) >= 5)
    bot.settle()
    assert bot.texts() == ["named", "to you", "named again"]
    assert ann.texts() == ["hidden", "named", "of another", "named again"]
    bot.client.hang_up()
    until(lambda: not followers.bots)


def test_of_two_devices_that_come_at_once_the_slower_one_learns_of_a_change_too() -> (
    None
):
    subscriptions = LogSubscriptions()
    gates = [Flag(), Flag()]
    reads = [0, 0]

    def memberships(device: int) -> list[Membership]:
        reads[device] += 1
        gates[device].wait()
        return []

    slow, quick = (
        gevent.spawn(
            subscriptions.read_memberships,
            lambda *_, device=device: memberships(device),
            "app",
            "bob",
        )
        for device in (0, 1)
    )
    until(lambda: reads == [1, 1])
    gates[1].set()
    quick.get(timeout=60)
    subscriptions.memberships_changed("app", "bob")
    gates[0].set()
    slow.get(timeout=60)
    assert reads == [2, 1]
    assert not subscriptions.reads


# --- positions ----------------------------------------------------------------


class Receiver:
    """A follower of a log, and what it told."""

    def __init__(self, stored: int = 0) -> None:
        self.gates = Gates()
        self.log: Any = LogFile().open(self.gates).part(MessageLog)
        self.metrics = Metrics()
        self.ids: list[int] = []
        self.store(stored)
        self.wanted = {APP}
        deliverer: Any = self
        self.follower = LogFollower(self.log, deliverer, self.metrics)

    def is_wanted(self, app: str) -> bool:
        return app in self.wanted

    def deliver(self, _app: str, entries: list[Entry], _position: int) -> None:
        self.ids += [entry.id for entry in entries]

    def store(self, number: int, time_ms: int = 0) -> list[Entry]:
        found = self.log.writer.append(
            APP, [Draft(sender="ann", to_user="bob", time_ms=time_ms)] * number
        )
        return [each.entry for each in found]

    def receive(self, entries: list[Entry]) -> None:
        self.follower.committed(Commit(APP, entries[0].id, entries[-1].id, entries))


QUIET = 0.02
"""After it the log is looked at, in small."""


def test_an_early_batch_waits_for_the_one_before_it_without_a_look_into_the_log() -> (
    None
):
    received = Receiver()
    received.follower.follow(APP)
    one, two = received.store(2)
    received.receive([two])
    assert received.ids == []
    received.receive([one])
    assert (received.ids, received.gates.reads) == ([1, 2], 1)
    received.receive(received.store(1, time_ms=1))
    assert sum(received.metrics.delivery_seconds.counts) == 2, (
        "an old message was not long on its way"
    )
    received.follower.committed(Commit(APP, 4, 4, []))
    assert (received.ids, received.follower.position(APP)) == ([1, 2, 3], 4), (
        "an empty one moves it"
    )


@pytest.mark.usefixtures("small")
def test_the_ends_of_all_quiet_logs_are_asked_for_at_once() -> None:
    gates = Gates()
    log = LogFile().open(gates).part(MessageLog)
    received: dict[str, list[int]] = {}

    def deliver(app: str, entries: list[Entry], _position: int) -> None:
        received.setdefault(app, []).extend(entry.id for entry in entries)

    deliverer: Any = SimpleNamespace(deliver=deliver, is_wanted=lambda app: True)
    follower = LogFollower(log, deliverer, Metrics())
    apps = [f"app{number}" for number in range(5)]
    for app in apps:
        follower.follow(app)
    for app in apps[1:]:
        log.writer.append(app, [Draft(sender="ann", to_user="bob")])
    gevent.sleep(QUIET)
    reads = gates.reads
    follower.check()
    until(lambda: received == {app: [1] for app in apps[1:]})
    assert gates.reads - reads == 1 + 8


@pytest.mark.usefixtures("small")
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_order_and_any_loss_ends_in_the_log(data: st.DataObject) -> None:
    received = Receiver()
    received.follower.follow(APP)
    entries = received.store(data.draw(st.integers(1, 12)))
    batches = []
    rest = list(entries)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batches.append(rest[:size])
        rest = rest[size:]
    for batch in data.draw(st.permutations([*batches, *batches])):
        received.gates.away = data.draw(st.sampled_from([False, False, True]))
        if data.draw(st.booleans()):
            received.receive(batch)
        if data.draw(st.booleans()):
            gevent.sleep(0.002)
    received.gates.away = False
    gevent.sleep(QUIET)
    received.follower.check()
    until(lambda: received.ids == [entry.id for entry in entries])


@pytest.mark.usefixtures("small")
def test_an_expected_entry_that_does_not_exist_ends_the_reading() -> None:
    received = Receiver()
    received.follower.follow(APP)
    received.follower.expect(APP, 7)
    until(lambda: received.gates.reads == 3)
    for _ in range(10):
        gevent.sleep(0.001)
    assert received.gates.reads == 3
    received.receive(received.store(1))
    assert (received.ids, received.metrics.log_gaps) == ([1], 1)


@pytest.mark.usefixtures("small")
def test_an_app_of_which_nobody_wants_to_know_is_forgotten_when_it_is_quiet() -> None:
    received = Receiver()
    received.wanted = {"wanted"}
    for app in (APP, "wanted"):
        received.follower.follow(app)
    gevent.sleep(QUIET)
    received.follower.check()
    assert list(received.follower.apps) == ["wanted"]
    assert received.follower.follow(APP) == 0


@pytest.mark.usefixtures("small")
def test_the_log_is_looked_at_while_an_app_is_followed() -> None:
    received = Receiver()
    follows_any = CountingFlag()
    received.follower.follows_any = follows_any
    looking = gevent.spawn(received.follower.run)
    try:
        until(lambda: follows_any.pauses)
        assert not follows_any.is_set()
        for number in (1, 2):
            received.wanted = {APP}
            received.follower.follow(APP)
            received.store(1)
            until(lambda number=number: received.ids == [*range(1, number + 1)])
            received.wanted.clear()
            until(lambda: not follows_any.is_set())
            assert APP not in received.follower.apps
    finally:
        looking.kill()


def test_what_is_stored_in_a_watched_app_is_noticed_though_nobody_follows_it() -> None:
    received = Receiver()
    watched = {APP: Flag(), "another": Flag()}
    for app, news in watched.items():
        received.follower.watch(news, [app])
    received.receive(received.store(1))
    assert [news.is_set() for news in watched.values()] == [True, False]
    assert received.ids == []
