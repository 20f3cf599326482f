"""Entry of a generator process: ``python -m bench.worker`` speaks JSON lines over its pipes.

A command is ``{"do": task, …parameters}``; it is answered by one line, ``{"done": …}`` or ``{"failed": …}``,
after any number of ``{"progress": [done, total]}``. The line ``stop`` ends a task early; ``quit``, or
the end of the input, ends the process.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from bench import (
    attendance,
    backend,
    chaos_database,
    chaos_proxy,
    chaos_talk,
    chat,
    chat_members,
    chat_sync,
    echo,
    fanout,
    floor,
    generator,
    publish,
    push,
    redis,
    sampler,
    server,
    storm,
)
from bench.generator import Generator
from bench.loop import BenchError, Loop

TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "aim": generator.aim,
    "open": generator.open_connections,
    "settle": generator.settle,
    "close": generator.close_connections,
    "serve": server.keep,
    "redis": redis.keep,
    "database": chaos_database.keep,
    "disturb": server.disturb,
    "network.carry": chaos_proxy.carry,
    "network.disturb": chaos_proxy.disturb,
    "chaos.meet": chaos_talk.meet,
    "chaos.talk": chaos_talk.talk,
    "chaos.settle": chaos_talk.settle,
    "chaos.audit": chaos_talk.audit,
    "sample": sampler.sample,
    "floor.listen": floor.listen,
    "floor.accept": floor.accept,
    "floor.send": floor.send,
    "floor.connect": floor.connect,
    "floor.receive": floor.receive,
    "fanout": fanout.push_and_receive,
    "fanout.prepare": fanout.prepare,
    "fanout.receive": fanout.receive,
    "fanout.verdict": fanout.verdict,
    "echo": echo.echo,
    "push": push.push_and_receive,
    "publish": publish.publish_and_receive,
    "chat.register": chat_members.register,
    "chat.group": chat_members.group,
    "chat.open": chat_members.open_chat,
    "chat": chat.chat,
    "chat.prepare": chat_sync.prepare,
    "chat.come": chat_sync.come,
    "crowd.facts": attendance.tell,
    "crowd.come": attendance.come,
    "crowd.beat": attendance.beat,
    "crowd.count": attendance.count_anew,
    "crowd.expect": attendance.expect,
    "crowd.verdict": attendance.verdict,
    "crowd.leave": attendance.leave,
    "backend.push": backend.push,
    "backend.broadcast": backend.broadcast,
    "backend.ask": backend.ask,
    "backend.count": backend.count,
    "backend.online": backend.online,
    "storm.return": storm.drop_and_return,
    "storm.move": storm.move,
    "storm.stand": storm.stand_by,
}


def perform(process: Generator, command: dict[str, Any]) -> dict[str, Any]:
    """Run one command and return its answer, with the CPU and wall time it took here."""
    task = TASKS[command.pop("do")]
    cpu, wall = time.process_time(), time.monotonic()
    try:
        done = task(process, **command)
    except BenchError as error:
        return {"failed": str(error)}
    except Exception:
        return {"failed": traceback.format_exc()}
    done["generator_cpu_seconds"] = time.process_time() - cpu
    done["task_seconds"] = time.monotonic() - wall
    return {"done": done}


def main() -> None:
    """Serve commands until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # with what is to be done at the exit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
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


if __name__ == "__main__":
    main()
