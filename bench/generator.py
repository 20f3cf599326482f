"""A generator process: its loop, its connections, and its tasks.

It reads and writes JSON lines over its pipes. A command is ``{"do":
"module.function", …parameters}``; the answer is one line, ``{"done": …}`` or
``{"failed": …}``. The line ``stop`` ends a task early; ``quit``, or the end of
the input, ends the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import time
import traceback
from dataclasses import replace

from bench.connections import OPENERS, ConnectionSet, Target, protobuf_login
from bench.loop import BenchError, Json, Loop


class Generator:
    """One generator process: its loop, target and connections. ``index``
    distinguishes it from the others."""

    target: Target
    connections: ConnectionSet

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.index = 0
        self.state: Json = {}  # data that a scenario passes from one task to the next

    def aim(self, target: Json, index: int) -> None:
        self.target = Target(**target)
        self.index = index
        self.connections = ConnectionSet(self.loop, self.target, index)

    def write(self, line: Json) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]


def aim(
    generator: Generator, target: Json, index: int, cores: list[int] | None = None
) -> Json:
    """Task: set the server under test, and bind the process to ``cores``."""
    if cores:
        os.sched_setaffinity(0, cores)
    generator.aim(target, index)
    return {}


def open_connections(
    generator: Generator,
    first: int,
    count: int,
    login: bool = True,
    dialect: str = "cmd",
    end: tuple[str, int] | None = None,
) -> Json:
    """Task: open ``count`` connections, as users ``first`` and following;
    ``end``: at another address."""
    connections = generator.connections
    opener = OPENERS[dialect]
    accounts = generator.state.get("accounts")
    if accounts:
        opener = replace(
            opener, login=lambda _app, number: protobuf_login(accounts[number][1])
        )
    host, port = end or (generator.target.ws_host, generator.target.ws_port)
    connections.target = replace(generator.target, ws_host=host, ws_port=port)
    opening = connections.open(
        range(first, first + count), opener if login else replace(opener, login=None)
    )
    return opening.pack()


def settle(
    generator: Generator, quiet_seconds: float = 0.3, seconds: float = 20
) -> Json:
    return {
        "quiet": generator.connections.settle(quiet_seconds, seconds),
        **generator.connections.facts(),
    }


def close_connections(generator: Generator, reset: bool = True) -> Json:
    return {"closed": generator.connections.close(reset=reset)}


def perform(process: Generator, command: Json) -> Json:
    """Run one command and return its answer, with the CPU time used here."""
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
    """Run commands until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # nothing here makes enough cycles to justify a pause
    try:
        process = Generator(Loop())
    except BenchError as error:
        os.write(1, (f'{{"failed": "{error}"}}\n').encode())
        return
    try:
        while True:
            process.write(perform(process, process.loop.command()))
    except BrokenPipeError:
        pass  # the parent has ended
