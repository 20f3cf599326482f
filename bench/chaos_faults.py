"""The faults of a chaos run: one table of what is broken, for how long, and how it is mended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.chaos_ground import SLOW_MS, STALL_LIMIT_SECONDS, Ground
from bench.loop import BenchError

Act = Callable[[Ground, int], None]
"""Something is done to the ground; the number says to which node."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks for ``least`` to ``most`` seconds. ``possible``: whether this ground has it."""

    name: str
    label: str
    least: float
    most: float
    begin: Act
    end: Act
    possible: Callable[[Ground], bool] = lambda ground: True


def _node(how: str) -> Act:
    return lambda ground, number: ground.disturb(ground.nodes[number], how)


def _redis(how: str) -> Act:
    return lambda ground, number: ground.disturb(ground.redis, how)


def _database(how: str) -> Act:
    def act(ground: Ground, number: int) -> None:
        assert ground.database is not None
        ground.disturb(ground.database, how)

    return act


def _network(how: str) -> Act:
    return lambda ground, number: ground.disturb_network(how)


def _disk(milliseconds: int) -> Act:
    return lambda ground, number: ground.stall(milliseconds)


def _several(ground: Ground) -> bool:
    return len(ground.nodes) > 1


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("kill", "kill -9 of a node", 0.0, 5.0, _node("kill"), _node("again")),
        Fault("restart", "a node stopped and started", 0.0, 2.0, _node("stop"), _node("again")),
        Fault("pause", "a node standing still", 1.0, 14.0, _node("pause"), _node("resume")),
        Fault("redis", "kill -9 of Redis, which forgets all", 0.0, 5.0, _redis("kill"), _redis("again")),
        Fault(
            "database",
            "kill -9 of the database",
            0.0,
            5.0,
            _database("kill"),
            _database("again"),
            lambda ground: ground.database is not None,
        ),
        Fault("cut", "the network between nodes cut", 1.0, 15.0, _network("cut"), _network("heal"), _several),
        Fault(
            "hold", "the network between nodes late", 0.5, 5.0, _network("hold"), _network("heal"), _several
        ),
        Fault(
            "stall",
            "an fsync that stalls",
            1.0,
            10.0,
            _disk(STALL_LIMIT_SECONDS * 1000),
            _disk(0),
            lambda ground: ground.can_stall,
        ),
        Fault(
            "slow", "every fsync slow", 2.0, 8.0, _disk(SLOW_MS), _disk(0), lambda ground: ground.can_stall
        ),
    )
}


def chosen(names: str, ground: Ground) -> list[Fault]:
    """The faults of these names, separated by commas (none: all), that this ground has."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FAULTS:
            raise BenchError(f"there is no fault {name}: {', '.join(FAULTS)}")
    found = [fault for fault in FAULTS.values() if not wanted or fault.name in wanted]
    possible = [fault for fault in found if fault.possible(ground)]
    if not possible:
        raise BenchError("there is nothing to break here")
    return possible


def shuffled(faults: list[Fault], chance: random.Random) -> Iterator[Fault]:
    """All faults again and again, each time in another order."""
    while True:
        chance.shuffle(faults)
        yield from faults
