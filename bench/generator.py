"""What a generator process has and what every scenario asks of it: connections opened, settled, dropped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from bench.client import Swarm
from bench.dialects import OPENERS
from bench.loop import BenchError, Loop
from bench.peer import Opening, Target

PROGRESS_SECONDS = 0.2
OPEN_WINDOW = 256


class Generator:
    """One generator process: its loop, its target and its swarm. ``index`` sets it apart from the others."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.index = 0
        self._target: Target | None = None
        self._swarm: Swarm | None = None
        self._told = 0.0
        self.kept: dict[str, Any] = {}  # what a scenario needs from one task to the next
        self.at_exit: list[Callable[[], None]] = []

    @property
    def target(self) -> Target:
        """The server under test."""
        if self._target is None:
            raise BenchError("a generator was not told its target")
        return self._target

    @property
    def swarm(self) -> Swarm:
        """The connections of this process."""
        if self._swarm is None:
            self._swarm = Swarm(self.loop, self.target, self.index)
        return self._swarm

    def aim(self, target: dict[str, Any], index: int) -> None:
        """Take a (new) target."""
        self._target = Target(**target)
        self.index = index
        self._swarm = None

    def progress(self, done: int, total: int) -> None:
        """Tell the parent how far a task is, a few times a second."""
        now = time.monotonic()
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            self.tell({"progress": [done, total]})

    def passed(self, begin: float, end: float) -> None:
        """Tell the parent how much of the time from ``begin`` to ``end`` has passed."""
        self.progress(int(1000 * (time.monotonic() - begin)), int(1000 * (end - begin)))

    def tell(self, line: dict[str, Any]) -> None:
        """Write one line to the parent."""
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]


def aim(
    generator: Generator, target: dict[str, Any], index: int, cores: list[int] | None = None
) -> dict[str, Any]:
    """Task: choose the server, and stay on ``cores``."""
    if cores:
        os.sched_setaffinity(0, cores)
    generator.aim(target, index)
    return {}


def open_connections(
    generator: Generator,
    first: int,
    count: int,
    login: bool = True,
    window: int = OPEN_WINDOW,
    seconds: float = 60,
    retry: bool = False,
    dialect: str = "cmd",
) -> dict[str, Any]:
    """Task: open ``count`` connections, as users ``first`` and following."""
    opener = OPENERS[dialect]
    opening = generator.swarm.open(
        range(first, first + count),
        partial(opener.login, generator.target.app) if login and opener.login else None,
        window=window,
        seconds=seconds,
        retry=retry,
        progress=generator.progress,
        path=opener.path,
        answer=opener.answer,
    )
    return pack_opening(opening)


def pack_opening(opening: Opening) -> dict[str, Any]:
    """Return the outcome of an opening as JSON-ready data."""
    return {**asdict(opening), "latency": opening.latency.pack()}


def settle(generator: Generator, quiet_seconds: float = 0.3, seconds: float = 20) -> dict[str, Any]:
    """Task: receive and drop until nothing comes any more."""
    return {"quiet": generator.swarm.settle(quiet_seconds, seconds), **generator.swarm.facts()}


def close_connections(generator: Generator, reset: bool = True) -> dict[str, Any]:
    """Task: drop all connections."""
    return {"closed": generator.swarm.close(reset=reset)}
