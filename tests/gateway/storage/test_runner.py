"""Work that rows ask for: on one node at a time, on another one when that is
gone, and ended once."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.plugin.runner import MAX_PAUSE_SECONDS, Runner
from tests.stores import OpenStore
from tests.support import until


class Worker:
    """Does work in two steps. It waits for ``go`` before ``step``, and fails
    with ``errors`` first."""

    def __init__(self, store: Store, step: str = "", lease_seconds: int = 15) -> None:
        self.runner = Runner(
            store, "piece", "state = 0", self._work, lease_seconds, look_seconds=60.0
        )
        self.go = Flag()
        self.errors: list[Exception] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._step = step

    def _work(self, app: str, id: str) -> None:
        self.begun.append(id)
        if self.errors:
            raise self.errors.pop()
        if self._step == "proceed":
            self.go.wait()
        self.runner.proceed(app, id, done=1)
        if self._step == "end":
            self.go.wait()
        self.runner.end(app, id, state=1)
        self.ended.append(id)

    def begin(self) -> gevent.Greenlet[[], bool]:
        """Look in a greenlet, until the work waits."""
        greenlet = gevent.spawn(self.runner.look)
        until(lambda: self.begun)
        return greenlet

    def go_on(self, greenlet: gevent.Greenlet[[], bool]) -> None:
        """Let the work go on to its end."""
        self.go.set()
        greenlet.join()


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    """A store with one piece of work, once on each engine."""
    one = open_store(url)
    columns = "created BIGINT, leased BIGINT, state INTEGER, done INTEGER, PRIMARY KEY (app, id)"
    one.execute(f"CREATE TABLE piece (app VARCHAR(99), id VARCHAR(32), {columns})")
    one.execute("INSERT INTO piece VALUES ('shop', 'a', 1, 0, 0, 0)")
    return one


def pieces(store: Store) -> list[tuple[int, int]]:
    """State and progress of each piece."""
    return [
        (state, done)
        for state, done in store.rows("SELECT state, done FROM piece ORDER BY id")
    ]


def end_leases(store: Store) -> None:
    """Let their time pass."""
    store.execute("UPDATE piece SET leased = 1")


def test_one_of_two_runners_that_look_at_once_does_the_work(store: Store) -> None:
    first = Worker(store)
    second = Worker(store)
    gevent.joinall(
        [gevent.spawn(first.runner.look), gevent.spawn(second.runner.look)],
        raise_error=True,
    )
    assert first.begun + second.begun == first.ended + second.ended == ["a"]
    assert pieces(store) == [(1, 1)]
    assert not first.runner.look()


@pytest.mark.parametrize("step", ["proceed", "end"])
def test_another_runner_goes_on_with_work_of_a_dead_one_and_it_ends_once(
    store: Store, step: str
) -> None:
    dead = Worker(store, step)
    heir = Worker(store, step, 16)  # as if time had passed
    asleep = dead.begin()
    assert heir.runner.look(), "it is under way"
    assert heir.begun == []
    end_leases(store)
    at_work = heir.begin()
    if step == "end":  # both have done it
        heir.go_on(at_work)
    dead.go_on(asleep)
    assert pieces(store) == [(step == "end", step == "end")]
    heir.go_on(at_work)
    assert pieces(store) == [(1, 1)]
    assert (dead.ended, heir.ended) == ([], ["a"])


@pytest.mark.parametrize("cancel", ["DELETE FROM piece", "UPDATE piece SET state = 2"])
def test_work_that_is_cancelled_stops(store: Store, cancel: str) -> None:
    worker = Worker(store, "proceed")
    greenlet = worker.begin()
    store.execute(cancel)
    worker.go_on(greenlet)
    assert worker.ended == []
    assert pieces(store) in ([], [(2, 0)])


def test_work_that_fails_is_done_later_and_later_up_to_a_limit(store: Store) -> None:
    worker = Worker(store)
    other = Worker(store)
    pauses = list[int]()
    worker.errors = [KeyError("x"), OSError("full"), StorageUnavailable("away")] * 3
    while worker.errors:
        end_leases(store)
        assert worker.runner.look()
        leased, now = store.read(
            lambda sql: sql.query(f"SELECT leased, {sql.now} FROM piece")
        )[0]
        pauses.append(leased - int(now))
    assert 15 // 2 - 1 <= pauses[0] <= 15 * 1.5
    assert all(
        MAX_PAUSE_SECONDS // 2 - 1 <= pause <= MAX_PAUSE_SECONDS * 1.5
        for pause in pauses[4:]
    )
    other.runner.look()
    assert other.begun == []


def test_a_runner_that_stops_gives_its_work_to_others_at_once(store: Store) -> None:
    worker = Worker(store, "proceed")
    other = Worker(store)
    greenlet = worker.begin()
    stopping = gevent.spawn(worker.runner.stop)
    gevent.sleep(0)
    worker.go_on(greenlet)
    stopping.join()
    worker.runner.look()
    assert (worker.begun, worker.ended) == (["a"], [])
    other.runner.look()
    assert other.ended == ["a"]


def test_work_that_is_started_is_taken_from_who_has_it_and_who_is_woken_looks_at_once(
    store: Store,
) -> None:
    worker = Worker(store, "proceed")
    other = Worker(store)
    greenlet = worker.begin()
    other.runner.start("shop", "a")
    until(lambda: other.ended)
    worker.go_on(greenlet)
    assert (worker.ended, pieces(store)) == ([], [(1, 1)])
    running = gevent.spawn(other.runner.run)
    gevent.sleep(0)
    store.execute("INSERT INTO piece VALUES ('shop', 'b', 1, 0, 0, 0)")
    other.runner.wake()
    until(lambda: other.ended == ["a", "b"], 10)
    running.kill()
