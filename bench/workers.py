"""Generator processes, as their parent uses them: started fresh and unpatched, with commands as JSON
lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.loop import BenchError, Json
from bench.servers import ServerProcess

SOURCE = Path(__file__).resolve().parents[1]
TASK_SECONDS = 60.0  # time limit of a task beyond its own seconds
GOODBYE_SECONDS = 10.0
LOOK_SECONDS = 1.0
WORKER = "bench.generator"
Task = Callable[..., Json]
Server = TypeVar("Server", bound=ServerProcess)


class Worker:
    """One generator process. Owned by its pool."""

    def __init__(self, index: int, module: str = WORKER) -> None:
        self.index = index
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # the terminal's interrupt is for the parent, which ends its workers
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.commands, self.answers = self.process.stdin, self.process.stdout
        self.deadline = 0.0

    def ask(self, do: str | Task, *, limit_seconds: float = TASK_SECONDS, **parameters: Any) -> None:
        """Give a task to the process; the pool collects the answer.

        The answer must come within ``limit_seconds`` plus the seconds that the command gets for its work.
        """
        self.deadline = time.monotonic() + parameters.get("seconds", 0) + limit_seconds
        name = do if isinstance(do, str) else f"{do.__module__}.{do.__qualname__}"
        self._write(json.dumps({"do": name, **parameters}).encode())

    def stop(self) -> None:
        self._write(b"stop")

    def _write(self, line: bytes) -> None:
        try:
            self.commands.write(line + b"\n")
            self.commands.flush()
        except BrokenPipeError:
            raise BenchError(f"generator process {self.process.pid} has ended") from None

    def answer(self) -> Json:
        """Read the answer to the last task, when ``answers`` is readable; raises BenchError if it failed."""
        line = self.answers.readline()
        if not line:
            raise BenchError(f"generator process {self.process.pid} has ended")
        answer: Json = json.loads(line)
        if "failed" in answer:
            raise BenchError(answer["failed"])
        done: Json = answer["done"]
        return done

    def end(self) -> None:
        """End the process: by command, by the end of its input, or by killing it."""
        with contextlib.suppress(BenchError, OSError):
            self._write(b"quit")  # a close may be delayed as long as this process waits (gevent does that)
            self.commands.close()
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(GOODBYE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        self.answers.close()


class WorkerPool:
    """The generator processes and the servers of one run. Owner of them; :meth:`end` ends all."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.servers: list[ServerProcess] = []

    def start_workers(self, count: int, module: str = WORKER) -> list[Worker]:
        """Start ``count`` processes that run ``module``, with the protocol of :mod:`.generator`."""
        started = []
        for _ in range(count):
            worker = Worker(len(self.workers), module)
            self.workers.append(worker)
            started.append(worker)
        return started

    def gather(self, workers: Sequence[Worker]) -> list[Json]:
        """Wait for one answer of each, in their order; raises BenchError when one fails or is late."""
        answers: dict[int, Json] = {}
        while missing := [worker for worker in workers if worker.index not in answers]:
            for worker, answer in self.first(missing):
                answers[worker.index] = answer
        return [answers[worker.index] for worker in workers]

    def first(self, workers: Sequence[Worker], seconds: float = TASK_SECONDS) -> list[tuple[Worker, Json]]:
        """Wait until one of ``workers`` answers or ``seconds`` are over; return the worker and the answer.

        Raises BenchError if one fails or is late.
        """
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            end = time.monotonic() + seconds
            while (now := time.monotonic()) < end:
                if now > min(worker.deadline for worker in workers):
                    raise BenchError("a generator process did not answer in time")
                if ready := selector.select(min(end - now, LOOK_SECONDS)):
                    return [(key.data, key.data.answer()) for key, _events in ready]
        return []

    def ask(self, worker: Worker, do: str | Task, **parameters: Any) -> Json:
        worker.ask(do, **parameters)
        return self.gather([worker])[0]

    def start(self, server: Server) -> Server:
        """Start a server, which ends with the pool."""
        self.servers.append(server)
        server.start()
        return server

    def end(self) -> None:
        while self.workers:
            self.workers.pop().end()
        while self.servers:
            self.servers.pop().end()
