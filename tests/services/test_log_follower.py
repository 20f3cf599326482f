"""Positions: whatever order batches come in, and whichever are lost, entries are told in order and once."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.metrics import Metrics
from imserver.services.messages import log_follower as module
from imserver.services.messages.log_follower import LogFollower
from imserver.storage.log.contract import Draft, Entry
from tests.services.memory_log import MemoryLog, MemoryStore
from tests.transport.rig import until

APP = "101"


class Told:
    """A follower of a log, and what it told."""

    def __init__(self, stored: int = 0) -> None:
        self.log = MemoryLog()
        self.metrics = Metrics()
        self.ids: list[int] = []
        self.store(stored)
        self.wanted = {APP}
        deliverer: Any = self
        self.follower = LogFollower(MemoryStore(self.log), deliverer, self.metrics)

    def is_wanted(self, app: str) -> bool:
        return app in self.wanted

    def deliver(self, _app: str, entries: list[Entry], _position: int) -> None:
        self.ids += [entry.id for entry in entries]

    def store(self, number: int) -> list[Entry]:
        first = len(self.log.shelf.entries.get(APP, ()))
        for _ in range(number):
            self.log.append(APP, [Draft(sender="ann", to_user="bob")])
        return self.log.shelf.entries.get(APP, [])[first:]

    def hear(self, entries: list[Entry]) -> None:
        self.follower.committed(APP, entries[0].id, entries[-1].id, entries)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAP_SECONDS", 0.001)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)


def test_what_was_stored_before_is_not_told() -> None:
    told = Told(stored=3)
    assert told.follower.follow(APP) == 3
    told.hear(told.store(1))
    assert told.ids == [4]


def test_a_batch_of_an_app_that_nobody_follows_is_not_told() -> None:
    told = Told()
    told.hear(told.store(1))
    assert (told.ids, told.follower.position(APP)) == ([], 0)


def test_an_early_batch_waits_for_the_one_before_it_without_a_look_into_the_log() -> None:
    told = Told()
    told.follower.follow(APP)
    one, two = told.store(2)
    told.hear([two])
    assert told.ids == []
    told.hear([one])
    assert told.ids == [1, 2]
    assert told.log.reads == 0


def test_a_batch_that_comes_twice_is_told_once() -> None:
    told = Told()
    told.follower.follow(APP)
    entries = told.store(3)
    told.hear(entries[:2])
    told.hear(entries)
    told.hear(entries[1:])
    assert told.ids == [1, 2, 3]


def test_an_empty_batch_moves_the_position() -> None:
    told = Told()
    told.follower.follow(APP)
    told.store(2)
    told.follower.committed(APP, 1, 2, [])
    assert (told.ids, told.follower.position(APP)) == ([], 2)


@pytest.mark.usefixtures("quick")
def test_a_lost_batch_is_read_from_the_log_before_a_later_one_is_told() -> None:
    told = Told()
    told.follower.follow(APP)
    entries = told.store(5)
    told.hear(entries[:1])
    told.hear(entries[3:])  # 2 and 3 are lost
    assert told.ids == [1]
    until(lambda: told.ids == [1, 2, 3, 4, 5])
    assert told.metrics.log_gaps == 1


@pytest.mark.usefixtures("quick")
def test_the_last_batch_is_found_missing_without_any_news() -> None:
    told = Told()
    told.follower.follow(APP)
    told.store(2)
    gevent.sleep(0.001)
    told.follower.check()
    until(lambda: told.ids == [1, 2])


@pytest.mark.usefixtures("quick")
def test_the_ends_of_all_quiet_logs_are_asked_for_at_once() -> None:
    log = MemoryLog()
    told: dict[str, list[int]] = {}

    def deliver(app: str, entries: list[Entry], _position: int) -> None:
        told.setdefault(app, []).extend(entry.id for entry in entries)

    deliverer: Any = SimpleNamespace(deliver=deliver, is_wanted=lambda app: True)
    follower = LogFollower(MemoryStore(log), deliverer, Metrics())
    apps = [f"app{number}" for number in range(5)]
    for app in apps:
        follower.follow(app)
    for app in apps[1:]:
        log.append(app, [Draft(sender="ann", to_user="bob")])
    gevent.sleep(0.001)
    follower.check()
    until(lambda: told == {app: [1] for app in apps[1:]})
    assert log.asked_heads == 1


@pytest.mark.usefixtures("quick")
def test_a_gap_is_read_when_the_database_is_back() -> None:
    told = Told()
    told.follower.follow(APP)
    entries = told.store(3)
    told.log.away = True
    told.hear(entries[2:])
    gevent.sleep(0.02)
    assert told.ids == []
    told.log.away = False
    until(lambda: told.ids == [1, 2, 3])


@pytest.mark.usefixtures("quick")
def test_a_long_gap_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    told = Told()
    told.follower.follow(APP)
    entries = told.store(35)
    told.hear(entries[34:])
    until(lambda: told.ids == list(range(1, 36)))
    assert told.log.reads == 4


@pytest.mark.usefixtures("quick")
def test_more_early_batches_than_are_kept_are_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    told = Told()
    told.follower.follow(APP)
    entries = told.store(20)
    for entry in entries[5:]:
        told.hear([entry])
    until(lambda: len(told.ids) >= 8)
    told.follower.check()
    until(lambda: told.ids == list(range(1, 21)))


def test_batches_that_come_while_the_position_is_asked_for_are_not_lost() -> None:
    told = Told(stored=2)
    gate = told.log.answering = gevent.event.Event()
    asking = gevent.spawn(told.follower.follow, APP)
    gevent.sleep(0)
    told.hear(told.log.shelf.entries[APP][:2])
    told.hear(told.store(1))
    gate.set()
    asking.join()
    assert told.ids == [3]


@pytest.mark.usefixtures("quick")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_and_any_loss_ends_in_the_log(data: st.DataObject) -> None:
    told = Told()
    told.follower.follow(APP)
    entries = told.store(data.draw(st.integers(1, 12)))
    batches, rest = [], list(entries)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batches.append(rest[:size])
        rest = rest[size:]
    for batch in data.draw(st.permutations(batches)):
        if data.draw(st.booleans()):
            told.hear(batch)
        if data.draw(st.booleans()):
            gevent.sleep(0.002)
    gevent.sleep(0.002)
    told.follower.check()
    until(lambda: told.ids == [entry.id for entry in entries])


@pytest.mark.usefixtures("quick")
def test_what_comes_to_be_expected_while_the_log_is_read_is_read_at_once() -> None:
    told = Told()
    told.follower.follow(APP)
    entries = told.store(2)
    read = told.log.read

    def reading(app: str, after: int, limit: int) -> list[Entry]:
        found = read(app, after, limit)
        if after < 2:
            (late,) = told.store(1)
            told.follower.expect(APP, late.id)
        return found

    told.log.read = reading  # type: ignore[method-assign]
    told.hear(entries[1:])
    until(lambda: told.ids == [1, 2, 3])


@pytest.mark.usefixtures("quick")
def test_what_is_expected_and_not_there_keeps_nobody_reading() -> None:
    told = Told()
    told.follower.follow(APP)
    told.follower.expect(APP, 7)
    until(lambda: told.log.reads == 1)
    for _ in range(10):
        gevent.sleep(0.001)
    assert told.log.reads == 1
    told.hear(told.store(1))
    assert told.ids == [1]


@pytest.mark.usefixtures("quick")
def test_an_app_of_which_nobody_wants_to_know_is_forgotten_when_it_is_quiet() -> None:
    told = Told()
    told.wanted = {"wanted"}
    for app in (APP, "wanted"):
        told.follower.follow(app)
    gevent.sleep(0.001)
    told.follower.check()
    assert [told.follower.follows(app) for app in (APP, "wanted")] == [False, True]
    assert told.follower.follow(APP) == 0
