"""Kept talks inside one node: what proves that something was delivered, and
what does not."""

import json
from collections.abc import Iterator
from time import time
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.dialects.action.service import LEFT_TEXT
from imserver.dialects.action.stored import ActionMessages
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.transport.connection import Connection
from imserver.messenger.delivery import acks
from imserver.messenger.delivery.acks import PongLogSubscription
from tests.dialects.action.harness import ACTION, APP, ActionHarness, One
from tests.gateway.transport.harness import until
from tests.integration.raw import PING, TEXT, frame
from tests.messenger.messaging_harness import Node
from tests.stores import WriteAt
from tests.support import CountingFlag


class Keeping(ActionHarness, Node):
    """A node whose apps keep talks, and that looks after pings when a test says
    so."""

    store_conversations = True

    def __init__(self) -> None:
        super().__init__(policies={APP: "newest"})
        self.context.ponged = self.catch_up.ponged

    def make_messaging(self) -> None:
        self.catch_up = self.messaging.catch_up
        self.messages = ActionMessages(self.messaging, self.store)

    def pass_second(self) -> None:
        """Ping, and store what pongs have proved."""
        self.catch_up.check_acks()
        self.positions.store_proved()

    def forgotten(self, connection: Connection) -> None:
        self.messaging.catch_up.forget(connection)
        super().forgotten(connection)


@pytest.fixture(name="node")
def _node() -> Iterator[Keeping]:
    with Keeping() as node:
        yield node


def test_only_the_pong_after_a_delivery_proves_its_arrival(node: Keeping) -> None:
    ann = One(node, "ann", "bob")
    bob = One(node, "bob")
    assert ann.say("one") == 200
    bob.receives("one")
    ping = bob.ping()
    assert ann.say("two") == 200
    bob.receives("one", "two")
    bob.ask("heartbeat")
    for wrong in (
        b"",
        b"x",
        ping[:-1],
        ping + b"x",
        ping[:8] + b"\xff" * 8,
        b"\xff" * 8 + ping[8:],
    ):
        bob.pong(wrong)
    node.pass_second()
    assert node.positions.known == {}
    bob.pong(ping)
    node.pass_second()
    assert node.positions.known == {(APP, "bob", ""): 1}
    bob.pong(bob.pings(2)[-1], together=frame(PING))
    node.pass_second()
    assert node.positions.known == {(APP, "bob", ""): 2}


def test_a_pong_to_a_former_login_proves_nothing_about_the_next(node: Keeping) -> None:
    dan = One(node, "dan", "bob")
    ann = One(node, "ann", "cid")
    bob = One(node, "cid")
    assert (dan.say("old 1"), ann.say("new"), dan.say("old 2")) == (200, 200, 200)
    bob.receives("new")
    ping = bob.ping()
    assert bob.login("bob") == 200
    bob.receives("new", "old 1", "old 2")
    bob.pong(ping)
    node.pass_second()
    assert node.positions.known == {}


def test_a_position_that_cannot_be_stored_yet_is_stored_later_and_used_meanwhile(
    node: Keeping,
) -> None:
    ann = One(node, "ann", "bob")
    bob = One(node, "bob")
    assert ann.say("one") == 200
    bob.receives("one")
    bob.pong(bob.ping())
    node.positions.gates.away = True
    node.pass_second()
    node.positions.gates.away = False
    bob.connection.close(1000)
    assert ann.say("two") == 200
    One(node, "bob").receives("two")
    assert node.positions.known == {}
    node.pass_second()
    assert node.positions.known == {(APP, "bob", ""): 1}


def test_a_login_without_the_database_gets_missed_messages_when_it_answers_again(
    node: Keeping,
) -> None:
    ann = One(node, "ann", "bob")
    assert ann.say("one") == 200
    node.gates.away = True
    bob = One(node, "bob", "ann")
    assert (bob.say("lost"), ann.say("lost")) == (1008, 1008)
    assert bob.received() == []
    node.gates.away = False
    bob.receives("one")
    assert ann.say("two") == 200
    bob.receives("one", "two")


def cursors_of(node: Keeping, user: str) -> dict[str, int]:
    """Where a user stands, by room."""
    return {key[2]: id for key, id in node.positions.known.items() if key[1] == user}


def test_a_position_in_a_room_is_taken_at_the_first_login_before_it_is_answered(
    node: Keeping,
) -> None:
    ann = One(node, "ann", room="r")
    assert [ann.say(str(number)) for number in range(3)] == [200] * 3
    One(node, "bob", room="r")
    assert (cursors_of(node, "ann"), cursors_of(node, "bob")) == ({"r": 0}, {"r": 3})


def test_only_rooms_that_the_connection_is_in_move_on_with_a_pong(
    node: Keeping,
) -> None:
    ann = One(node, "ann", room="r")
    dan = One(node, "dan", "bob")
    bob = One(node, "bob", room="r")
    assert ann.say("one") == 200
    bob.receives("one")
    bob.pong(bob.ping())
    node.pass_second()
    assert cursors_of(node, "bob") == {"": 1, "r": 1}
    node.channels.members.leave(APP, "r", bob.connection)
    assert (ann.say("two"), dan.say("three")) == (200, 200)
    bob.receives("one", "three")
    bob.pong(bob.ping())
    node.pass_second()
    assert cursors_of(node, "bob") == {"": 3, "r": 1}
    assert bob.login("bob", room="r") == 200
    bob.receives("one", "three", "two")


def test_a_later_login_of_the_connection_to_another_room_has_the_positions_of_that(
    node: Keeping,
) -> None:
    ann = One(node, "ann", room="r")
    cid = One(node, "cid", room="s")
    bob = One(node, "bob", room="s")
    assert (bob.login("bob", room="r"), cid.say("missed"), ann.say("one")) == (
        200,
        200,
        200,
    )
    bob.receives("one")
    assert bob.login("bob", room="s") == 200
    bob.receives("one", "missed")
    assert (ann.say("nothing to bob"), cid.say("two")) == (200, 200)
    bob.receives("one", "missed", "two")
    bob.pong(bob.ping())
    node.pass_second()
    assert cursors_of(node, "bob") == {"": 4, "r": 0, "s": 4}


def test_a_login_that_still_catches_up_gives_way_to_a_later_one_of_the_connection(
    node: Keeping,
) -> None:
    ann = One(node, "ann", room="r")
    cid = One(node, "cid", room="s")
    One(node, "bob", room="r"), One(node, "bob", room="s")
    assert (ann.say("in r"), cid.say("in s")) == (200, 200)
    bob = One(node, "bob")
    signal = CountingFlag()
    node.gates.answering = signal
    assert bob.login("bob", room="r") == 200
    until(lambda: signal.pauses)  # its greenlet waits for the log
    assert bob.login("bob", room="s") == 200
    node.gates.answering = None
    signal.set()
    bob.receives("in s")
    assert (ann.say("nothing to bob"), cid.say("live")) == (200, 200)
    bob.receives("in s", "live")


def test_a_first_login_to_a_room_without_the_database_counts_from_its_time(
    node: Keeping, write_at: WriteAt
) -> None:
    ann = One(node, "ann", room="r")
    now = time()
    write_at(now - 5)
    assert ann.say("before") == 200
    write_at(now)
    node.positions.gates.away = True
    bob = One(node, "bob", room="r")
    assert ann.say("meanwhile") == 200
    assert (cursors_of(node, "bob"), bob.received()) == ({}, [])
    node.positions.gates.away = False
    bob.receives("meanwhile")
    assert cursors_of(node, "bob") == {"r": 1}


def test_a_message_sent_during_a_login_arrives_once(node: Keeping) -> None:
    ann = One(node, "ann", room="r")
    One(node, "bob", room="r")
    assert ann.say("0") == 200
    for number in range(1, 12):
        # The log answers the questions of the login only when more has been
        # said.
        signal = Flag()
        node.gates.answering = signal
        connection, client = node.connect(dialect=ACTION)
        data = {"userId": "bob", "appId": 1, "toUid": "0", "groupsId": "r"}
        client.send(
            frame(TEXT, json.dumps({"seq": "x", "action": "login", "data": data}))
        )
        for _ in range(number):
            gevent.sleep(0)
        node.gates.answering = None
        assert ann.say(str(number)) == 200
        signal.set()
        wanted = [str(each) for each in range(number + 1)]

        def received(client: Any = client) -> list[str]:
            bodies = [json.loads(payload) for payload in client.payloads()]
            return [each["data"]["content"] for each in bodies if "code" in each]

        until(lambda received=received, wanted=wanted: received() == wanted)
        connection.close(1000)


def test_the_last_messages_of_a_user_arrive_before_the_exit_notice(
    node: Keeping,
) -> None:
    ann = One(node, "ann", room="r")
    bob = One(node, "bob", room="r")
    node.gates.committing = Flag()
    bob.client.send(frame(TEXT, request("s", "bye")))
    until(lambda: node.messages.sending)
    bob.connection.close(1000)
    gevent.sleep(0)
    assert ann.received() == []
    node.gates.committing.set()
    ann.receives("bye", LEFT_TEXT)


def test_messages_during_catch_up_are_answered_and_an_ended_connection_leaves_no_state(
    node: Keeping,
) -> None:
    node.during(3, Flag().wait)
    bob = One(node, "bob", "ann")
    until(lambda: isinstance(bob.connection.log_subscription, PongLogSubscription))
    assert bob.say("one") == 200
    bob.connection.close(1000)
    until(lambda: not isinstance(bob.connection.log_subscription, PongLogSubscription))
    assert not node.messages.sending


def test_a_waiting_connection_is_pinged_in_the_next_second(
    node: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acks, "PINGS", 2)
    many = [One(node, user, room="r") for user in ("ann", "bob", "cid")]
    assert many[0].say("one") == 200
    for each in many:
        each.receives("one")
    node.pass_second()
    for each in many:
        each.ask("heartbeat")
    assert sorted(len(each.pings(0)) for each in many) == [0, 1, 1]
    node.pass_second()
    for each in many:
        each.pings(1)


def test_messages_to_a_stored_channel_are_stored_in_an_app_that_stores_no_others(
    node: Keeping,
) -> None:
    node.store_conversations = False
    node.channel_settings = {"news": ChannelSettings(history="log")}
    ann = One(node, "ann", room="news:1")
    bob = One(node, "bob", room="news:1")
    for text in ("one", "two"):
        ann.client.send(frame(TEXT, request("same", text)))
    ann.receives("one", "two")
    bob.receives("one", "two")
    node.gates.away = True
    assert ann.say("lost") == 1008
    node.gates.away = False
    assert ann.say("three") == 200
    bob.receives("one", "two", "three")
    page = node.channels.histories.read(APP, "news:1", limit=-1)
    assert [each.text for each in page.publications] == ["one", "two", "three"]
    # The log's feed reports them.
    assert node.observer.messages == []
    assert ann.login("ann", "bob") == 200
    assert ann.say("to bob") == 200
    bob.receives("one", "two", "three", "to bob")
    assert [facts["text"] for _, _, facts in node.observer.messages] == ["to bob"]


def request(seq: str, text: str) -> bytes:
    """A message with this ``seq``."""
    data = {"msgType": "text", "message": text}
    return json.dumps({"seq": seq, "action": "sendmsg", "data": data}).encode()
