"""Positions: whatever order batches come in, and whichever are lost, entries are told in order and once."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.metrics import Metrics
from imserver.messenger.messages.deliverer import LogFollower
from imserver.messenger.messages.log.contract import Commit, Draft, Entry
from imserver.messenger.messages.log.message_log import MessageLog
from tests.gateway.transport.harness import until
from tests.messenger.log_file import Gates, LogFile
from tests.support import CountingSignal

APP = "101"


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

    def store(self, number: int) -> list[Entry]:
        found = self.log.writer.append(APP, [Draft(sender="ann", to_user="bob")] * number)
        return [each.entry for each in found]

    def receive(self, entries: list[Entry]) -> None:
        self.follower.committed(Commit(APP, entries[0].id, entries[-1].id, entries))


QUIET = 0.02
"""After it the log is looked at, in small."""


def test_a_batch_of_an_app_without_subscribers_is_not_delivered() -> None:
    received = Receiver()
    received.receive(received.store(1))
    assert (received.ids, received.follower.position(APP)) == ([], 0)


def test_an_early_batch_waits_for_the_one_before_it_without_a_look_into_the_log() -> None:
    received = Receiver()
    received.follower.follow(APP)
    one, two = received.store(2)
    received.receive([two])
    assert received.ids == []
    received.receive([one])
    assert received.ids == [1, 2]
    assert received.gates.reads == 1
    received.store(1)
    received.follower.committed(Commit(APP, 3, 3, []))
    assert (received.ids, received.follower.position(APP)) == ([1, 2], 3), "an empty one moves the position"


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
    batches, rest = [], list(entries)
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
    assert received.ids == [1]


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
    follows_any = received.follower.follows_any = CountingSignal()
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
    watched = {APP: Signal(), "another": Signal()}
    for app, news in watched.items():
        received.follower.watch(news, [app])
    received.receive(received.store(1))
    assert [news.is_set() for news in watched.values()] == [True, False]
    assert received.ids == []
