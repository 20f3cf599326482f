"""The clock tick of a process, at which all periodic work runs with one
wake-up. Also pauses between attempts, and yielding in long work."""

import logging
import os
from collections.abc import Callable
from random import uniform
from time import monotonic, perf_counter, time
from typing import Final

import gevent
from gevent.hub import get_hub

from imserver.gateway.errors import Unavailable
from imserver.gateway.metrics import Timings

log = logging.getLogger(__name__)

CLOCK_SECONDS: Final = 1.0
"""Difference of the clocks of two machines above which tokens expire too early
or too late."""
_A_MOMENT: Final = 1e-9
"""A pause in which the loop serves its sockets once."""
_MAX_DOUBLINGS: Final = 20
"""The most times that a pause between attempts is doubled."""
_GOLDEN_RATIO: Final = 0.618_033_988_749_895
"""Multiples of this number, without their whole part, are spread evenly."""
_TOO_EARLY: Final = 0.25
"""If a tick is due within this part of its period, it counts as the tick that
has just passed."""
_TURN_SECONDS: Final = 0.05
"""Time per node over which nodes spread work that all of them would begin at
once."""
_LONGEST_TURN_SECONDS: Final = 3.0
JOBS: Final = Timings()
"""Function → how long each of its turns in :func:`every` took in this process.
Read-only for others."""


def serve_others() -> None:
    """Let the loop serve its sockets once. Switches greenlets.

    Long work calls this between its parts. ``gevent.sleep(0)`` only runs
    callbacks: the loop looks at its sockets after 50 of them.
    """
    gevent.sleep(_A_MOMENT)


def is_long_turn(seconds: float = 0.005) -> bool:
    """Tell whether the loop has not looked at its sockets for too long.

    More than ``seconds`` is too long. If the result is True, work that can be
    interrupted calls :func:`serve_others`. Never switches greenlets.
    """
    return time() - get_hub().loop.now() > seconds


def retry_pause(failures: int, first: float, longest: float) -> float:
    """Return how many seconds to wait after this number of failures in a row.

    The pause is ``first`` after the first failure, then twice as long each
    time, up to ``longest``. The pauses vary by half at random, so that attempts
    that failed together are not repeated together.
    """
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    pause = min(first * 2.0**doublings, longest)
    return pause * uniform(0.5, 1.5)


def until_beat(seconds: float = 1.0) -> float:
    """Return the seconds until this process's next tick with that period.

    The result is between 0.25 and 1.25 periods. A sleeping process loses its
    data from the processor's caches. So ten tasks at ten moments cost several
    times as much as at one moment. Therefore the ticks of all periods that are
    whole numbers of seconds, or half a second, coincide. The ticks of the
    processes of a machine are spread over a second, so that they do not query
    each other at the same time.
    """
    # Successive process ids give offsets that are far from each other.
    offset = os.getpid() * _GOLDEN_RATIO % 1.0
    seconds_left = seconds - (monotonic() - offset) % seconds
    # A timer that fired early must not fire twice.
    if seconds_left > seconds * _TOO_EARLY:
        return seconds_left
    return seconds_left + seconds


def every(
    seconds: float, work: Callable[[], object], failure: str
) -> Callable[[], None]:
    """Return the function of a greenlet that calls ``work`` again and again.

    The greenlet calls ``work`` at each tick of :func:`until_beat`, until the
    greenlet is killed. ``failure`` is the text of the log line if ``work``
    raises. If a service does not answer, the line has the level debug.
    :data:`JOBS` counts how long ``work`` takes.
    """
    name = _job_name(work)

    def run() -> None:
        """Greenlet: call the work at each tick, and log its failures."""
        while True:
            gevent.sleep(until_beat(seconds))
            started = perf_counter()
            try:
                work()
            except Unavailable as error:
                log.debug("%s: %s", failure, error)
            except Exception:
                log.exception("%s", failure)
            JOBS.took(name, perf_counter() - started)

    return run


def _job_name(work: Callable[[], object]) -> str:
    """Return the name of a function in :data:`JOBS`, with its module.

    A nested function has the name of the function that makes it.
    """
    # A partial has the function that it calls in "func".
    function = getattr(work, "func", work)
    path = f"{function.__module__}.{function.__qualname__}"
    return path.removeprefix("imserver.").partition(".<")[0]


def take_turns(nodes: int) -> None:
    """Sleep for a random time, so that nodes do not begin work together.

    ``nodes`` is how many nodes do this work. The more there are, the longer the
    sleep may be. Switches greenlets.
    """
    if nodes > 1:
        longest = min(nodes * _TURN_SECONDS, _LONGEST_TURN_SECONDS)
        gevent.sleep(uniform(0, longest))
