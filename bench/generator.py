"""A generator process: its loop, its connections, and the tasks that it is asked for.

It speaks JSON lines over its pipes. A command is ``{"do": "module.function", …parameters}``; the answer is
one line, ``{"done": …}`` or ``{"failed": …}``, after any number of ``{"progress": [done, total]}``. The line
``stop`` ends a task early; ``quit``, or the end of the input, ends the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from bench.connections import Swarm, Target
from bench.dialects import OPENERS
from bench.loop import BenchError, Json, Loop

PROGRESS_SECONDS = 0.2


class Generator:
    """One generator process: its loop, its target and its swarm. ``index`` sets it apart from the others."""

    target: Target
    swarm: Swarm

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.index = 0
        self._told = 0.0
        self.kept: Json = {}  # what a scenario needs from one task to the next
        self.at_exit: list[Callable[[], None]] = []

    def aim(self, target: Json, index: int) -> None:
        self.target = Target(**target)
        self.index = index
        self.swarm = Swarm(self.loop, self.target, index)

    def progress(self, done: int, total: int) -> None:
        """Tell the parent how far a task is, a few times a second."""
        now = time.monotonic()
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            self.tell({"progress": [done, total]})

    def passed(self, begin: float, end: float) -> None:
        """Tell the parent how much of the time from ``begin`` to ``end`` has passed."""
        self.progress(int(1000 * (time.monotonic() - begin)), int(1000 * (end - begin)))

    def tell(self, line: Json) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]


def aim(generator: Generator, target: Json, index: int, cores: list[int] | None = None) -> Json:
    """Task: choose the server, and stay on ``cores``."""
    if cores:
        os.sched_setaffinity(0, cores)
    generator.aim(target, index)
    return {}


def open_connections(
    generator: Generator, first: int, count: int, login: bool = True, dialect: str = "cmd"
) -> Json:
    """Task: open ``count`` connections, as users ``first`` and following."""
    opener = OPENERS[dialect]
    opening = generator.swarm.open(
        range(first, first + count),
        partial(opener.login, generator.target.app) if login and opener.login else None,
        progress=generator.progress,
        path=opener.path,
        answer=opener.answer,
    )
    return opening.pack()


def settle(generator: Generator, quiet_seconds: float = 0.3, seconds: float = 20) -> Json:
    return {"quiet": generator.swarm.settle(quiet_seconds, seconds), **generator.swarm.facts()}


def close_connections(generator: Generator, reset: bool = True) -> Json:
    return {"closed": generator.swarm.close(reset=reset)}


def perform(process: Generator, command: Json) -> Json:
    """Run one command and return its answer, with the CPU time it took here."""
    module, _, name = command.pop("do").rpartition(".")
    task = getattr(importlib.import_module(module), name)
    cpu = time.process_time()
    try:
        done = task(process, **command)
    except BenchError as error:
        return {"failed": str(error)}
    except Exception:
        return {"failed": traceback.format_exc()}
    done["generator_cpu_seconds"] = time.process_time() - cpu
    return {"done": done}


def main() -> None:
    """Serve commands until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # with what is to be done at the exit
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # nothing here makes cycles worth a pause
    try:
        process = Generator(Loop())
    except BenchError as error:
        os.write(1, (f'{{"failed": "{error}"}}\n').encode())
        return
    try:
        while True:
            process.tell(perform(process, process.loop.command()))
    except BrokenPipeError:
        pass  # the parent is gone
    finally:
        for end in process.at_exit:
            end()
