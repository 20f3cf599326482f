"""What a generator process is asked to do with its crowd: come, stay alive, count what comes, leave."""

from __future__ import annotations

import time
from typing import Any

from bench.crowd import Crowd
from bench.generator import Generator, pack_opening

WINDOW = 256
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2


def crowd_of(generator: Generator) -> Crowd:
    """Return the crowd of this process; the first call makes it."""
    crowd = generator.kept.get("crowd")
    if not isinstance(crowd, Crowd):
        crowd = generator.kept["crowd"] = Crowd(generator.loop, generator.target, generator.index)
    return crowd


def facts(crowd: Crowd) -> dict[str, Any]:
    """Return how many connections stand, what became of those that the server ended, and how many frames came
    that nobody counts: notices of logins and departures."""
    return {
        "connections": crowd.open_now,
        "lost": crowd.lost,
        "closes": crowd.reasons,
        "notices": crowd.notices,
    }


def tell(generator: Generator) -> dict[str, Any]:
    """Task: tell how many connections stand."""
    return facts(crowd_of(generator))


def come(
    generator: Generator, first: int, count: int, window: int = WINDOW, seconds: float = COME_SECONDS
) -> dict[str, Any]:
    """Task: log in ``count`` users, ``first`` and following; done when all are in, or after ``seconds``."""
    crowd = crowd_of(generator)
    begin = time.monotonic()
    opening = crowd.arrivals.open(
        generator.loop,
        range(first, first + count),
        window=window,
        seconds=seconds,
        progress=generator.progress,
    )
    return {**pack_opening(opening), "begin": begin, "end": time.monotonic(), **facts(crowd)}


def beat(generator: Generator, window: int = WINDOW) -> dict[str, Any]:
    """Task: one heartbeat of everybody."""
    crowd = crowd_of(generator)
    sent = crowd.open_now
    return {"sent": sent, "unanswered": crowd.beat(generator.progress, window), **facts(crowd)}


def count_anew(generator: Generator) -> dict[str, Any]:
    """Task: forget what was received."""
    crowd = crowd_of(generator)
    crowd.count_anew()
    return facts(crowd)


def expect(generator: Generator, broadcasts: int, seconds: float, look_seconds: float) -> dict[str, Any]:
    """Task: receive until all have so many broadcasts, for ``seconds`` at most; with pauses between looks."""
    crowd = crowd_of(generator)
    end = time.monotonic() + seconds
    with crowd.unheard():
        while time.monotonic() < end and not generator.loop.stopped:
            wanted = broadcasts * crowd.open_now
            if crowd.received.total >= wanted:
                break
            crowd.harvest(max(HARVEST_SECONDS, look_seconds), look_seconds)
            generator.loop.turn(0)
            generator.progress(crowd.received.total, wanted)
    return facts(crowd)


def verdict(generator: Generator, broadcasts: int) -> dict[str, Any]:
    """Task: tell what was received, compared with so many broadcasts to everybody."""
    crowd = crowd_of(generator)
    generator.loop.turn(0)
    return {"verdict": crowd.received.verdict(crowd.members(), broadcasts), **facts(crowd)}


def leave(generator: Generator, window: int = WINDOW) -> dict[str, Any]:
    """Task: everybody closes."""
    crowd = crowd_of(generator)
    stayed = crowd.open_now
    missing = crowd.leave(generator.progress, window)
    return {"left": stayed - missing, "missing": missing, **facts(crowd)}
