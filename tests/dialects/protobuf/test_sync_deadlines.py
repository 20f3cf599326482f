"""Sync deadlines: which connections are released when; and the ids at which pages have ended meanwhile."""

from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest

from imserver.dialects.protobuf.service import PageEnds, SyncDeadlines

HOLD_SECONDS = 0.05


@dataclass(eq=False)
class Line:
    """Of a connection: what has not left yet."""

    outbox: list[bytes] | None = None


@dataclass
class Moment:
    """A grace, and whom it has released."""

    released: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        release: Any = self.released.append
        self.deadlines: Any = SyncDeadlines(release, HOLD_SECONDS)

    def over(self) -> list[Line]:
        """Wait until nobody is expected; who was released meanwhile."""
        with gevent.Timeout(60):
            while self.deadlines.expected:
                gevent.sleep(0.001)
        return self.released


@pytest.fixture
def moment() -> Moment:
    return Moment()


def test_a_client_that_does_not_sync_is_released_once(moment: Moment) -> None:
    lines = [Line(), Line()]
    for line in lines:
        moment.deadlines.expect(line)
    assert not moment.released
    assert sorted(map(id, moment.over())) == sorted(map(id, lines))


def test_a_client_that_syncs_is_not_released(moment: Moment) -> None:
    asks, silent = Line(), Line()
    moment.deadlines.expect(asks)
    moment.deadlines.expect(silent)
    moment.deadlines.cancel(asks)
    assert moment.over() == [silent]


def test_a_release_may_end_its_connection_or_fail() -> None:
    released: list[Line] = []

    def release(line: Line) -> None:
        deadlines.cancel(line)
        released.append(line)
        if line is failing:
            raise ValueError("not released")

    deadlines: Any = SyncDeadlines(release, HOLD_SECONDS)  # type: ignore[arg-type]
    lines = [Line() for _ in range(3)]
    failing = lines[1]
    for line in lines:
        deadlines.expect(line)
    with gevent.Timeout(60):
        while deadlines.expected:
            gevent.sleep(0.001)
    assert sorted(map(id, released)) == sorted(map(id, lines))


def test_the_time_begins_when_what_was_sent_has_left(moment: Moment) -> None:
    slow, quick = Line([b"a long page"]), Line()
    moment.deadlines.expect(slow)
    for _ in range(3):
        moment.deadlines.expect(quick)
        with gevent.Timeout(60):
            while quick not in moment.released:
                gevent.sleep(0.001)
        moment.released.clear()
    slow.outbox = None
    assert moment.over() == [slow]


def test_a_line_that_never_empties_is_given_up_with_its_connection(moment: Moment) -> None:
    stuck = Line([b"a page"])
    moment.deadlines.expect(stuck)
    gevent.sleep(HOLD_SECONDS * 2)
    assert moment.deadlines.expected
    moment.deadlines.cancel(stuck)
    assert moment.over() == []


ANN: Any = Line()
BOB: Any = Line()


def test_who_asks_in_time_is_given_what_they_ask_for() -> None:
    ends = PageEnds()
    ends.sent(ANN, 50)
    assert ends.begin(ANN, 70) == 70
    assert not ends.ends


def test_who_was_passed_over_is_given_the_rest_until_they_have_it() -> None:
    ends = PageEnds()
    ends.sent(ANN, 50)
    ends.pass_over(ANN)
    assert ends.begin(BOB, 121) == 121
    for last, end in ((50, 100), (100, 110)):
        assert ends.begin(ANN, 121) == last
        ends.sent(ANN, end)
    assert ends.begin(ANN, 7) == 7, "who wants more gets it"
    ends.sent(ANN, 0)
    assert not ends.ends
    assert ends.begin(ANN, 121) == 121


def test_who_has_asked_for_everything_is_not_passed_over() -> None:
    ends = PageEnds()
    ends.pass_over(ANN)
    ends.sent(ANN, 0)
    assert not ends.ends


@pytest.mark.parametrize("passed_over", [False, True])
def test_an_ended_connection_leaves_no_deadline(passed_over: bool) -> None:
    ends = PageEnds()
    ends.sent(ANN, 50)
    if passed_over:
        ends.pass_over(ANN)
    assert ends.ends
    ends.forget(ANN)
    assert not ends.ends
