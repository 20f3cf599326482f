"""The consumer alone: order, repeats, pauses, the lease, and when it stores its
position."""

from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic

import pytest
from gevent.event import Event as Flag

from imserver.backends.webhooks import consumer as module
from imserver.backends.webhooks.consumer import (
    Consumer,
    DeliveryLease,
    Failure,
    NotOwner,
)
from imserver.gateway.errors import StorageUnavailable
from tests.backends.webhooks.conftest import Pauses
from tests.gateway.transport.harness import turn, until

pytestmark = pytest.mark.usefixtures("hasty_consumers")

AWAY = Failure("away")


class One:
    """A consumer of numbers. ``reply``: what becomes of each; an exception is
    raised."""

    def __init__(
        self,
        lease: DeliveryLease | None = None,
        due: Callable[[], float | None] = lambda: None,
    ):
        self.lease = lease or DeliveryLease(inf)
        self.waiting: deque[int] = deque()
        self.reply: Callable[[int], Failure | Exception | None] = lambda _: None
        self.tried: list[int] = []
        self.taken: list[int] = []
        self.saved: list[int] = []
        self.reads = 0
        self.errors: dict[str, list[Exception]] = {
            "read": [],
            "deliver": [],
            "save": [],
        }
        """What its functions raise the next times."""
        self.then: Callable[[], object] = lambda: None
        """What happens while it reads."""
        self.consumer = Consumer(
            "the test", self.lease, self.read, self.deliver, self.save, due
        )

    def add(self, *numbers: int) -> None:
        self.waiting.extend(numbers)
        self.consumer.wake()

    def fail(self, function: str) -> None:
        if self.errors[function]:
            raise self.errors[function].pop()

    def read(self) -> int | None:
        self.fail("read")
        self.reads += 1
        found = self.waiting.popleft() if self.waiting else None
        self.then()
        return found

    def deliver(self, number: int) -> Failure | None:
        self.fail("deliver")
        self.tried.append(number)
        answer = self.reply(number)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            self.taken.append(number)
        return answer

    def save(self) -> None:
        self.fail("save")
        self.saved.append(len(self.taken))

    def finish(self) -> None:
        until(lambda: not self.consumer.is_busy)


def test_what_waits_is_delivered_in_order_and_stored_at_the_end() -> None:
    one = One()
    assert not one.consumer.is_busy, "without work it has no greenlet"
    one.add(1, 2)
    assert one.tried == [], "the greenlet has not run yet"
    one.finish()
    one.add(3)
    one.finish()
    assert one.taken == [1, 2, 3]
    assert one.saved[-1] == 3


def test_a_busy_receiver_costs_few_writes(pauses: Pauses) -> None:
    """Before the time to store the position, whose clock stands still."""
    one = One()
    one.add(*range(100))
    until(lambda: len(one.taken) == 100)
    assert one.saved == []
    Consumer.stop_all([one.consumer])
    assert one.saved == [100]
    Consumer.stop_all([one.consumer])
    assert one.saved == [100]


def test_what_fails_is_tried_again_before_what_comes_later() -> None:
    one = One()
    answers = [AWAY, Failure("refused", 0.01), AWAY]
    one.reply = lambda _: answers.pop() if answers else None
    one.add(1)
    until(lambda: one.tried)
    one.add(2)
    one.finish()
    assert one.tried == [1, 1, 1, 1, 2]
    assert one.taken == [1, 2]
    assert one.consumer.failures == 0


def test_pauses_double_are_random_and_have_a_longest(pauses: Pauses) -> None:
    one = One()
    pauses.of(one.consumer)
    count = 10
    one.reply = lambda _: AWAY if len(one.tried) <= count else None
    one.add(1)
    until(lambda: one.taken)
    middles = [
        min(module.FIRST_PAUSE_SECONDS * 2**n, module.LONGEST_PAUSE_SECONDS)
        for n in range(count)
    ]
    factors = [
        pause / middle for pause, middle in zip(pauses.seconds, middles, strict=True)
    ]
    assert all(0.5 <= factor <= 1.5 for factor in factors)
    assert len(set(factors)) > 1
    one.reply = lambda _: AWAY if len(one.tried) == count + 2 else None
    one.add(2)
    until(lambda: one.taken == [1, 2])
    assert pauses.seconds[-1] <= 1.5 * module.FIRST_PAUSE_SECONDS, (
        "success makes pauses short again"
    )


def test_a_failure_may_limit_the_pause(pauses: Pauses) -> None:
    one = One()
    pauses.of(one.consumer)
    since: set[float] = set()

    def fail(_number: int) -> Failure | None:
        since.add(one.consumer.first_tried_at)
        return Failure("refused", 0.02) if len(one.tried) <= 20 else None

    one.reply = fail
    one.add(1)
    until(lambda: one.taken)
    assert max(pauses.seconds) <= 0.03
    assert since == {1000.0}, "when it was tried first"


def test_what_is_dead_is_not_tried_again_and_the_receiver_goes_on_failing() -> None:
    one = One()
    one.reply = lambda number: Failure("never", is_dead=True) if number < 3 else None
    one.add(1, 2)
    one.finish()
    assert one.tried == [1, 2]
    assert one.consumer.failures == 2
    assert one.saved, "its position is behind them"
    one.add(3)
    one.finish()
    assert one.consumer.failures == 0


def test_a_changed_receiver_is_tried_at_once(patient_consumers: None) -> None:
    one = One()
    answers = [AWAY]
    one.reply = lambda _: answers.pop() if answers else None
    one.add(1)
    until(lambda: one.tried)
    one.add(2)
    turn()
    assert one.tried == [1], "news do not end the pause"
    one.consumer.retry()
    one.finish()
    assert one.taken == [1, 2]


def test_without_the_lease_nothing_is_read_or_delivered() -> None:
    lease = DeliveryLease()
    one = One(lease)
    one.add(1)
    turn()
    assert one.reads == 0
    lease.until = inf

    def lose() -> None:
        lease.until = 0.0

    one.then = lose
    until(lambda: not lease.is_owned)
    turn()
    assert one.tried == []
    lease.until = inf
    one.then = lambda: None
    until(lambda: one.taken == [1])


def test_a_consumer_that_is_no_owner_ends_the_lease_of_the_node() -> None:
    one = One()
    one.reply = lambda _: NotOwner("another")
    one.add(1)
    until(lambda: not one.lease.is_owned)
    assert one.saved == []
    one.consumer.stop()
    assert not one.consumer.is_busy


@pytest.mark.parametrize("function", ["read", "deliver", "save"])
@pytest.mark.parametrize(
    "error", [StorageUnavailable("away"), RuntimeError("a defect")]
)
def test_after_an_error_nothing_is_lost(
    function: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    one = One()
    one.errors[function] = [error, error]
    one.add(1, 2)
    one.finish()
    assert one.taken == [1, 2]
    assert one.saved[-1] == 2
    assert ("the test failed" in caplog.text) == isinstance(error, RuntimeError)
    assert one.consumer.failures == 0, "the receiver has not failed"


def test_news_that_come_while_it_reads_are_not_lost() -> None:
    one = One()

    def add_late() -> None:
        if one.reads == 1:
            turn()
            one.add(1)

    one.then = add_late
    one.consumer.wake()
    one.finish()
    assert one.taken == [1]


def test_what_is_due_is_read_without_news() -> None:
    due: list[float | None] = [None, 0.01, 3600.0]
    one = One(due=lambda: due[-1])
    one.consumer.wake()
    until(lambda: one.reads)
    reads = one.reads
    for _ in range(10):
        turn()
    assert one.reads == reads, "nothing is due"
    due.pop()
    one.consumer.wake()
    until(lambda: one.reads > 3)
    one.waiting.append(1)
    until(lambda: one.taken)
    due.pop()
    one.finish()


def test_a_stopped_consumer_delivers_nothing_more() -> None:
    one = One()
    over = Flag()

    def hang(_number: int) -> None:
        over.wait()

    one.reply = hang
    one.add(1, 2)
    until(lambda: one.tried)
    Consumer.stop_all([one.consumer])
    over.set()
    one.add(3)
    turn()
    assert (one.tried, one.taken, one.saved) == ([1], [], [])
    assert not one.consumer.is_busy


def test_a_lease_is_unbroken_if_it_was_renewed_in_time() -> None:
    lease = DeliveryLease()
    now = monotonic()
    assert not lease.renew(now, is_granted=True), (
        "the first time, others may have had it"
    )
    assert lease.is_owned
    assert lease.until == now + DeliveryLease.SECONDS - module.CLOCK_SECONDS
    assert lease.renew(now + 8, is_granted=True)
    assert not lease.renew(now + 18, is_granted=True), "it had ended"
    assert not lease.renew(now + 19, is_granted=False)
    assert not lease.is_owned
