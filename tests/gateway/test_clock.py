"""The beat: one moment for all that a process does each second, another one for
each process."""

import gevent
import pytest
from gevent.socket import socketpair

from imserver.gateway import clock
from imserver.gateway.clock import every, serve_others, until_beat
from imserver.gateway.errors import Unavailable
from tests.support import until


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows; may be set."""
    shown = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: shown[0])
    return shown


@pytest.mark.parametrize(
    ("seconds", "shorter"), [(0.05, 0.05), (2.0, 1.0), (3.0, 0.5), (1.0, 0.5)]
)
def test_whoever_asks_waits_for_the_same_moments_which_are_some_of_those_of_shorter_periods(
    time: list[float], seconds: float, shorter: float
) -> None:
    first = time[0] + until_beat(seconds)
    for step in range(1, 40):
        time[0] = 1000.0 + step * seconds / 7
        beats = (time[0] + until_beat(seconds) - first) / seconds
        assert beats == pytest.approx(round(beats), abs=1e-6)
        assert seconds / 4 <= until_beat(seconds) <= seconds * 5 / 4
        beats = (until_beat(seconds) - until_beat(shorter)) / shorter
        assert beats == pytest.approx(round(beats), abs=1e-6)


def test_a_timer_that_rings_early_does_not_ring_twice(time: list[float]) -> None:
    beat = time[0] + until_beat()
    time[0] = beat - 0.002
    assert until_beat() == pytest.approx(1.002)


def test_what_is_done_every_moment_goes_on_after_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [KeyError("strange"), Unavailable("away")]
    done = list[int]()

    def work() -> None:
        if failures:
            raise failures.pop()
        done.append(1)

    greenlet = gevent.spawn(every(0.001, work, "it could not be done"))
    until(lambda: len(done) > 1)
    greenlet.kill()
    (record,) = (
        each for each in caplog.records if each.name == "imserver.gateway.clock"
    )
    assert (record.message, record.exc_info is not None) == (
        "it could not be done",
        True,
    )


def test_long_work_that_serves_others_does_not_hold_up_sockets() -> None:
    """gevent.sleep(0) would: the loop then looks at its sockets after 50
    turns."""
    near, far = socketpair()
    received: list[int] = []
    reader = gevent.spawn(lambda: received.append(len(near.recv(1))))
    gevent.sleep(0)
    far.send(b"x")
    turns = 0
    while not received and turns < 10:
        serve_others()
        turns += 1
    reader.kill()
    near.close()
    far.close()
    assert received
