"""Messaging inside one node and between two: order, acknowledgements, groups, catching up."""

from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from imserver.gateway import errors
from imserver.messenger.messages import messaging
from imserver.messenger.messages.acks import AckingLogSubscription
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log_subscriptions import LogSubscription
from tests.gateway.transport.harness import turn, until
from tests.messenger.log_file import LogFile
from tests.messenger.messaging_harness import APP, MessageClient, Node


def test_a_message_is_delivered_and_acknowledged_after_the_commit() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        gate = node.gates.committing = Signal()
        seq = ann.send_payload("send", {"to": "bob", "text": "hi", "clientMsgID": "a"})
        ann.settle()
        bob.settle()
        assert ([body["cmd"] for body in ann.bodies()], bob.pushed()) == (["login", "enter"], [])
        gate.set()
        assert ann.answer(seq) == (200, {"id": 1, "conversation": 1, "seq": 1, "repeated": False})
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


@pytest.mark.parametrize(
    ("draft", "only_accounts", "refused"),
    [
        (Draft(sender="ann", to_user="bob"), True, "unknown_account"),
        (Draft(sender="ann", to_user="bob"), False, ""),
        (Draft(sender="ann", to_user="bob", to_anybody=True), True, ""),
        (Draft(sender="ann", conversation=7), True, "unknown_conversation"),
    ],
)
def test_receivers_must_be_accounts_where_all_users_are(
    draft: Draft, only_accounts: bool, refused: str
) -> None:
    with Node() as node:
        node.logins.account_apps.update([APP] if only_accounts else ["another"])
        results: list[Any] = []
        node.messaging.send(APP, draft, results.append)
        until(lambda: results)
        assert getattr(results[0], "reason", "") == refused


def test_the_senders_other_devices_receive_the_message_and_the_sending_one_does_not() -> None:
    with Node() as node:
        phone, desk = node.speaker("ann", 0, "phone"), node.speaker("ann", 0, "desk")
        assert phone.send("bob", "hi")[0] == 200
        until(desk.pushed)
        phone.settle()
        assert (desk.texts(), phone.texts()) == (["hi"], [])


def test_a_client_without_a_cursor_gets_no_pushes_until_the_first_sync() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann"), node.speaker("bob")
        ann.send("bob", "1")
        bob.settle()
        assert bob.pushed() == []
        code, page = bob.ask("sync", {"cursor": 0})
        assert (code, [each["text"] for each in page["messages"]], page["hasMore"]) == (200, ["1"], False)
        ann.send("bob", "2")
        until(bob.pushed)
        assert bob.stream() == [1, 2]


def test_a_repeat_gets_the_first_answer_and_is_not_delivered() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        first = ann.send("bob", "hi", clientMsgID="x")
        again = ann.send("bob", "hi", clientMsgID="x")
        assert again == (200, {**first[1], "repeated": True})
        assert (node.metrics.stored.total, node.metrics.stored_repeats) == (1, 1)
        bob.settle()
        assert bob.texts() == ["hi"]


def test_while_the_database_is_away_a_message_is_refused_and_may_be_sent_again() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        node.gates.away = True
        assert ann.send("bob", "hi", clientMsgID="x") == (1008, None)
        assert node.metrics.not_stored == 1
        assert ann.ask("sync", {"cursor": 0}) == (1008, None)
        node.gates.away = False
        assert ann.send("bob", "hi", clientMsgID="x")[0] == 200
        until(bob.pushed)
        assert bob.texts() == ["hi"]


def test_a_message_found_stored_after_its_refusal_is_delivered_once() -> None:
    """The answer to its COMMIT came too late."""
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
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
        assert (ann.texts(), bob.texts(), [each.id for each in node.stored]) == (["hi"], ["hi"], [1])
        assert (node.metrics.stored.total, node.metrics.stored_repeats) == (1, 1)


def test_a_member_receives_entries_from_joining_to_leaving() -> None:
    with Node() as node:
        group = node.group("ann", "bob")
        ann, eve = node.speaker("ann", 0), node.speaker("eve", 0)
        ann.send(group, "before")
        node.log.groups.join(APP, group, ["eve"])
        ann.send(group, "between")
        node.log.groups.leave(APP, group, ["eve"])
        ann.send(group, "after")
        ann.settle()
        eve.settle()
        assert eve.texts() == ["join", "between", "leave"]
        assert node.messaging.log_subscriptions.followers.members(APP, group) == {ann.connection: None}


def test_online_members_receive_the_creation_of_a_group() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        group = node.group("ann", "bob")
        ann.send(group, "hi")
        until(lambda: bob.texts() == ["group", "hi"])


def test_a_join_that_commits_while_memberships_are_read_is_not_missed() -> None:
    with Node() as node:
        group = node.group("ann")
        ann, bob = node.speaker("ann", 1), node.speaker("bob")
        gate = node.gates.answering = Signal()
        bob.send_payload("sync", {"cursor": 0})
        until(lambda: node.messaging.log_subscriptions.reads)
        node.log.groups.join(APP, group, ["bob"])
        node.gates.answering = None
        gate.set()
        ann.send(group, "hi")
        until(lambda: bob.stream() == [2, 3])


def test_rooms_are_empty_when_their_connections_have_ended() -> None:
    with Node() as node:
        group = node.group("ann")
        ann = node.speaker("ann", 1)
        assert node.messaging.log_subscriptions.followers.members(APP, group)
        ann.client.hang_up()
        until(lambda: not node.messaging.log_subscriptions.followers.members(APP, group))
        assert APP not in node.messaging.follower.apps


def test_a_guests_app_that_ends_with_its_session_ends_the_following_too() -> None:
    with Node() as node:
        connection, _ = node.connect()
        app = node.hub.open("guests", "multi", is_registered=False)
        node.hub.join(app, connection, "bob", "")
        node.gates.answering = Signal()
        following = gevent.spawn(node.messaging.catch_up.subscribe, connection, LogSubscription())
        until(lambda: node.messaging.log_subscriptions.by_app)
        connection.lost()
        node.hub.close_unregistered("guests")
        node.gates.answering.set()
        following.get(timeout=60)
        assert not node.messaging.log_subscriptions.by_app
        assert "guests" not in node.messaging.follower.apps


def test_a_login_with_a_cursor_gets_exactly_the_missed_entries() -> None:
    with Node() as node:
        ann, bob = node.speaker("ann", 0), node.speaker("bob", 0)
        ann.send("bob", "1")
        until(bob.pushed)
        bob.client.hang_up()
        until(lambda: not node.hub.is_online(APP, "bob"))
        for text in "23":
            ann.send("bob", text)
        bob = node.speaker("bob", 1)
        assert bob.login == (200, {"recovered": True})
        ann.send("bob", "4")
        until(lambda: bob.texts() == ["2", "3", "4"])
        assert next(body["cmd"] for body in bob.bodies()) == "login"


def test_a_kick_during_the_lookup_of_the_cursor_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with Node() as node:
        node.speaker("ann", 0).send("bob", "1")
        gate = node.gates.answering = Signal()
        connection, client = node.connect()
        MessageClient(connection, client).send_payload(
            "login", {"userID": "bob", "appID": int(APP), "cursor": 1}
        )
        until(lambda: node.messaging.log_subscriptions.by_app[APP] == 2)
        connection.close(errors.CloseCode.KICKED, "")
        gate.set()
        until(lambda: node.messaging.log_subscriptions.by_app == {APP: 1})
        turn()
        assert not caplog.records


def test_a_client_must_begin_anew_if_entries_expire_while_they_are_read() -> None:
    with Node() as node:
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
def test_a_client_that_missed_too_much_must_sync_first() -> None:
    with Node() as node:
        ann = node.speaker("ann", 0)
        for number in range(12):
            ann.send("bob", str(number))
        bob = node.speaker("bob", 2)
        assert bob.login == (200, {"recovered": False})
        ann.send("bob", "12")
        bob.settle()
        assert bob.pushed() == []
        cursor, pages = 2, list[dict[str, Any]]()
        while not pages or pages[-1]["hasMore"]:
            pages.append(bob.ask("sync", {"cursor": cursor, "limit": 4})[1])
            cursor = pages[-1]["messages"][-1]["id"]
            ann.send("bob", "x")
        until(lambda: len(bob.stream()) == node.log.entries.head(APP) - 2)
        assert bob.stream() == list(range(3, node.log.entries.head(APP) + 1))


def test_an_acknowledgement_does_not_overtake_what_is_still_to_be_synced() -> None:
    with Node() as node:
        ann = node.speaker("ann", 0)
        for number in range(6):
            ann.send("bob", str(number))
        bob = node.speaker("bob")
        assert bob.ask("sync", {"cursor": 0, "limit": 4})[1]["hasMore"]
        seq = bob.send_payload("send", {"to": "ann", "text": "me"})
        until(lambda: "me" in ann.texts())
        bob.settle()
        assert max(bob.stream()) == 4
        assert not bob.ask("sync", {"cursor": 4, "limit": 4})[1]["hasMore"]
        assert bob.answer(seq)[1]["id"] == 7


def test_a_cursor_that_is_beyond_the_log_must_start_again() -> None:
    with Node() as node:
        ann = node.speaker("ann", 0)
        ann.send("bob", "1")
        bob = node.speaker("bob", 99)
        assert bob.login == (200, {"recovered": False})
        assert bob.ask("sync", {"cursor": 99})[1]["beginAnew"] is True
        assert [each["text"] for each in bob.ask("sync", {"cursor": 0})[1]["messages"]] == ["1"]


@pytest.mark.parametrize("acks", [False, True])
def test_after_a_failed_catch_up_a_client_gets_no_new_entries_before_a_sync(acks: bool) -> None:
    """The log was away at the login, and is back when the client speaks, before it asks."""
    with Node() as node:
        ann = node.speaker("ann", 0)
        for text in "12":
            ann.send("bob", text)
        connection, client = node.connect()
        bob = MessageClient(connection, client)
        node.gates.away = True
        data = {"userID": "bob", "appID": int(APP), "cursor": 0, "acks": acks}
        assert bob.ask("login", data) == (200, {"recovered": False})
        assert bob.ask("sync", {"cursor": 0}) == (1008, None)
        node.gates.away = False
        seq = bob.send_payload("send", {"to": "ann", "text": "3"})
        ann.send("bob", "4")
        bob.settle()
        assert bob.stream() == []
        assert not bob.ask("sync", {"cursor": 0})[1]["hasMore"]
        assert bob.answer(seq)[1]["id"] == 3
        assert bob.stream() == [1, 2, 3, 4, 3], "the page, and then what it said itself"
        assert isinstance(connection.log_subscription, AckingLogSubscription) is acks
        client.hang_up()
        until(lambda: not node.hub.is_online(APP, "bob"))
        assert node.messaging.log_subscriptions.by_app == {APP: 1}
        assert node.messaging.log_subscriptions.acking == 0


@pytest.mark.usefixtures("small")
def test_a_node_without_receivers_follows_the_log_only_while_it_stores() -> None:
    with Node() as node:
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
    first, second = Node(file), Node(file)
    first.others, second.others = [second], [first]
    return first, second


def test_a_lost_batch_is_made_up_for_before_a_later_one_of_another_conversation() -> None:
    first, second = two()
    with first, second:
        ann, eve, bob = first.speaker("ann", 0), first.speaker("eve", 0), second.speaker("bob", 0)
        first.wire = lambda low, _: low != 1
        ann.send("bob", "lost on the way")
        bob.settle()
        assert bob.stream() == []
        eve.send("bob", "later")
        until(lambda: len(bob.stream()) == 2)
        assert bob.texts() == ["lost on the way", "later"]
        assert second.metrics.log_gaps == 1


@pytest.mark.usefixtures("small")
def test_a_lost_batch_without_a_later_one_is_found_within_a_second() -> None:
    first, second = two()
    with first, second:
        ann, bob = first.speaker("ann", 0), second.speaker("bob", 0)
        first.wire = lambda *_: False
        ann.send("bob", "lost")
        looking = gevent.spawn(second.messaging.follower.run)
        until(lambda: bob.texts() == ["lost"])
        looking.kill()


@pytest.mark.parametrize("logs_in_with_cursor", [True, False])
def test_a_client_that_moves_to_a_node_that_is_behind_gets_nothing_again(logs_in_with_cursor: bool) -> None:
    first, second = two()
    with first, second:
        second.speaker("eve", 0)
        ann, bob = first.speaker("ann", 0), first.speaker("bob", 0)
        first.wire = lambda low, _: low != 1
        ann.send("bob", "1")
        until(bob.pushed)
        if logs_in_with_cursor:
            bob = second.speaker("bob", 1)
            assert bob.login == (200, {"recovered": True})
        else:
            bob = second.speaker("bob")
            assert bob.ask("sync", {"cursor": 1})[1]["messages"] == []
        ann.send("bob", "2")
        until(lambda: bob.stream()[-1:] == [2])
        assert bob.stream() == [2]


def test_a_repeat_on_another_node_is_acknowledged_after_earlier_entries() -> None:
    first, second = two()
    with first, second:
        ann, bob = first.speaker("ann", 0), second.speaker("bob", 0)
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


def test_messages_to_many_gather_so_that_they_share_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDE", 2), ("_GATHER_SECONDS", 600), ("_MAX_GATHER_SECONDS", 600)):
        monkeypatch.setattr(messaging, name, value)
    with Node() as node:
        group = node.group("ann", "bob", "eve")
        ann, bob = node.speaker("ann", 1), node.speaker("bob", 1)
        node.speaker("eve", 1)
        first = ann.send_payload("send", {"conversation": group, "text": "0"})
        ann.answer(first)
        for number in range(1, 10):
            ann.send_payload("send", {"conversation": group, "text": str(number)})
        ann.settle()
        node.log.writer.close()  # ends the pause
        until(lambda: len(bob.pushed()) == 10)
        assert node.appends == [1, 9]
