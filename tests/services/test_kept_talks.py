"""Kept talks inside one node: what proves that something was delivered, and what does not."""

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import gevent
import pytest

from imserver.errors import StorageUnavailable
from imserver.protocol.action import ActionDialect
from imserver.services.dialects import kept_talks
from imserver.services.dialects.kept_talks import KeptTalks
from tests.integration.raw import PING, PONG, TEXT, frame
from tests.services.messaging_world import Node
from tests.transport.rig import until

ACTION = ActionDialect()
APP = "action:1"


class Places:
    """The positions, in memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], int] = {}
        self.away = False

    def get(self, app: str, user: str) -> int:
        gevent.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        return self.known.get((app, user), 0)

    def raise_to(self, rows: Sequence[tuple[str, str, int]]) -> None:
        gevent.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        for app, user, id in rows:
            self.known[app, user] = max(id, self.known.get((app, user), 0))


class Keeping(Node):
    """A node whose apps keep talks, and that looks after pings when a test says so."""

    def __init__(self) -> None:
        super().__init__(policies={APP: "newest"})
        self.places = Places()
        self.kept = KeptTalks(self.messaging, self.places, lambda app: True)
        self.kept._running = True
        self.talks.kept = self.kept
        self.carrier.ponged = self.kept.ponged
        self.hub.on_forgotten = self.messaging.ended


class One:
    """A client of the action dialect that answers pings when a test says so."""

    def __init__(self, node: Keeping, user: str, to: str = "0") -> None:
        self.node = node
        self.connection, self.client = node.connect(dialect=ACTION)
        self._seqs = count()
        assert self.login(user, to) == 200

    def login(self, user: str, to: str = "0") -> int:
        return self.ask("login", userId=user, appId=1, toUid=to, groupsId="0")

    def ask(self, action: str, **data: Any) -> int:
        seq = f"s{next(self._seqs)}"
        self.client.send(frame(TEXT, json.dumps({"seq": seq, "action": action, "data": data})))
        found = until(lambda: [body for body in self._bodies() if body.get("seq") == seq])
        return int(found[0]["response"]["code"])

    def say(self, text: str) -> int:
        return self.ask("sendmsg", msgType="text", message=text)

    def _bodies(self) -> list[Any]:
        return [json.loads(payload) for payload in self.client.payloads()]

    def told(self) -> list[str]:
        return [body["data"]["content"] for body in self._bodies() if "code" in body]

    def hears(self, *texts: str) -> None:
        until(lambda: self.told() == list(texts))

    def ping(self) -> bytes:
        """Have the node look; the ping that comes of it."""
        before = len(self.pings(0))
        self.node.kept.look()
        return self.pings(before + 1)[-1]

    def pings(self, number: int) -> list[bytes]:
        """Wait for so many; all so far."""

        def found() -> list[bytes]:
            return [each.payload for each in self.client.read() if each.opcode == PING]

        until(lambda: len(found()) >= number)
        return found()

    def pong(self, payload: bytes, *, together: bytes = b"") -> None:
        """Answer a ping, and wait until the server has read it."""
        self.client.send(together + frame(PONG, payload))
        self.ask("heartbeat")


def test_only_the_pong_to_what_was_told_proves_that_it_came() -> None:
    with Keeping() as node:
        ann, bob = One(node, "ann", "bob"), One(node, "bob")
        assert ann.say("one") == 200
        bob.hears("one")
        ping = bob.ping()
        assert ann.say("two") == 200
        bob.hears("one", "two")
        bob.ask("heartbeat")
        for wrong in (b"", b"x", ping[:-1], ping + b"x", ping[:8] + b"\xff" * 8, b"\xff" * 8 + ping[8:]):
            bob.pong(wrong)
        node.kept.look()
        assert node.places.known == {}
        bob.pong(ping)
        node.kept.look()
        assert node.places.known == {(APP, "bob"): 1}
        bob.pong(bob.pings(2)[-1], together=frame(PING))
        node.kept.look()
        assert node.places.known == {(APP, "bob"): 2}


def test_a_pong_to_a_former_login_proves_nothing_about_the_next() -> None:
    with Keeping() as node:
        dan = One(node, "dan", "bob")
        ann, bob = One(node, "ann", "cid"), One(node, "cid")
        assert (dan.say("old 1"), ann.say("new"), dan.say("old 2")) == (200, 200, 200)
        bob.hears("new")
        ping = bob.ping()
        assert bob.login("bob") == 200
        bob.hears("new", "old 1", "old 2")
        bob.pong(ping)
        node.kept.look()
        assert node.places.known == {}


def test_what_cannot_be_remembered_yet_is_remembered_later_and_known_here_meanwhile() -> None:
    with Keeping() as node:
        ann, bob = One(node, "ann", "bob"), One(node, "bob")
        assert ann.say("one") == 200
        bob.hears("one")
        bob.pong(bob.ping())
        node.places.away = True
        node.kept.look()
        node.places.away = False
        bob.connection.close(1000)
        assert ann.say("two") == 200
        One(node, "bob").hears("two")
        assert node.places.known == {}
        node.kept.look()
        assert node.places.known == {(APP, "bob"): 1}


def test_whoever_logs_in_while_storage_is_away_is_told_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_talks, "RETRY_SECONDS", 0.001)
    with Keeping() as node:
        ann = One(node, "ann", "bob")
        assert ann.say("one") == 200
        node.log.away = True
        bob = One(node, "bob", "ann")
        assert (bob.say("lost"), ann.say("lost")) == (1008, 1008)
        assert bob.told() == []
        node.log.away = False
        bob.hears("one")
        assert ann.say("two") == 200
        bob.hears("one", "two")


def test_a_reader_is_pinged_once_for_all_that_it_was_told() -> None:
    with Keeping() as node:
        ann, bob = One(node, "ann", "bob"), One(node, "bob")
        for text in ("one", "two", "three"):
            assert ann.say(text) == 200
        bob.hears("one", "two", "three")
        bob.pong(bob.ping())
        node.kept.look()
        node.kept.look()
        bob.ask("heartbeat")
        assert len(bob.pings(1)) == 1
        assert node.places.known == {(APP, "bob"): 3}
