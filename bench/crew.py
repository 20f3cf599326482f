"""Generator processes seen from their parent: started fresh and unpatched, spoken to in JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.connections import Target
from bench.loop import BenchError, Json
from bench.servers import serve, serve_redis

SOURCE = Path(__file__).resolve().parents[1]
TASK_SECONDS = 60.0  # what a task may take beyond the seconds it was given
GOODBYE_SECONDS = 25.0  # longer than a server of ours may take to end
LOOK_SECONDS = 1.0
START_SECONDS = 30.0
WORKER = "bench.generator"
Progress = Callable[[int, int], None]
Task = Callable[..., Json]


@dataclass(frozen=True)
class OwnServer:
    """A server of our own, as its keeper started it. ``pids``: its parent, and children if there are any."""

    hand: Hand
    target: Target
    pids: tuple[int, ...]
    folder: str
    rpc_port: int


class Hand:
    """One generator process. Owned by its crew."""

    def __init__(self, index: int, module: str = WORKER) -> None:
        self.index = index
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # the terminal's interrupt is for the parent, which ends its workers
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.commands, self.answers = self.process.stdin, self.process.stdout
        self._partial = b""
        self.deadline = 0.0

    def ask(self, do: str | Task, *, limit_seconds: float = TASK_SECONDS, **parameters: Any) -> None:
        """Give a task; its answer is gathered by the crew. A name is for a process with tasks of its own.

        It has to come within ``limit_seconds`` and the seconds that the command is given for its work.
        """
        self.deadline = time.monotonic() + parameters.get("seconds", 0) + limit_seconds
        name = do if isinstance(do, str) else f"{do.__module__}.{do.__qualname__}"
        self._write(json.dumps({"do": name, **parameters}).encode() + b"\n")

    def stop(self) -> None:
        self._write(b"stop\n")

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[self.commands.write(data) :]
        except BrokenPipeError:
            raise BenchError(f"generator process {self.process.pid} has ended") from None

    def lines(self) -> list[Json]:
        """Read what is there; call when ``answers`` is readable."""
        data = os.read(self.answers.fileno(), 1 << 20)
        if not data:
            raise BenchError(f"generator process {self.process.pid} has ended")
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def dismiss(self) -> None:
        """End the process: it goes when it is told, or its input ends; otherwise it is killed."""
        with contextlib.suppress(BenchError):
            self._write(b"quit\n")  # a close may be put off as long as this process waits (gevent does)
        self.commands.close()
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(GOODBYE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        self.answers.close()


class Crew:
    """The generator processes of one run. Owns them; :meth:`dismiss` ends all."""

    def __init__(self) -> None:
        self.hands: list[Hand] = []

    def hire(self, count: int, module: str = WORKER) -> list[Hand]:
        """Start ``count`` processes that run ``module``, which speaks as :mod:`.generator` does."""
        hired = []
        for _ in range(count):
            hand = Hand(len(self.hands), module)
            self.hands.append(hand)
            hired.append(hand)
        return hired

    def gather(self, hands: Sequence[Hand], progress: Progress | None = None) -> list[Json]:
        """Wait for one answer of each, in their order; raises BenchError when one fails or is late."""
        answers: dict[int, Json] = {}
        steps: dict[int, tuple[int, int]] = {}

        def step(hand: Hand, done: int, total: int) -> None:
            steps[hand.index] = done, total
            if progress is not None:
                progress(sum(s[0] for s in steps.values()), sum(s[1] for s in steps.values()))

        while missing := [hand for hand in hands if hand.index not in answers]:
            for hand, answer in self.first(missing, step):
                answers[hand.index] = answer
        return [answers[hand.index] for hand in hands]

    def first(
        self, hands: Sequence[Hand], step: Callable[[Hand, int, int], None], seconds: float = TASK_SECONDS
    ) -> list[tuple[Hand, Json]]:
        """Wait until one of ``hands`` answers or ``seconds`` are over; return who answered and what.

        ``step`` is told how far each of them is. Raises BenchError when one fails or is late.
        """
        found: list[tuple[Hand, Json]] = []
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for hand in hands:
                selector.register(hand.answers, selectors.EVENT_READ, hand)
            while not found and (now := time.monotonic()) < end:
                if now > min(hand.deadline for hand in hands):
                    raise BenchError("a generator process did not answer in time")
                for key, _events in selector.select(min(end - now, LOOK_SECONDS)):
                    hand = key.data
                    for line in hand.lines():
                        if "failed" in line:
                            raise BenchError(line["failed"])
                        if "done" in line:
                            found.append((hand, line["done"]))
                        else:
                            step(hand, *line["progress"])
        return found

    def ask(self, hand: Hand, do: str | Task, **parameters: Any) -> Json:
        hand.ask(do, **parameters)
        return self.gather([hand])[0]

    def serve(self, *, start_seconds: float = START_SECONDS, **parameters: Any) -> OwnServer:
        """Start a server of our own in a worker; see :func:`.servers.serve`."""
        (hand,) = self.hire(1)
        given = {"log": "file", "arguments": [], "cores": [], "environment": {}, **parameters}
        limit = start_seconds + TASK_SECONDS
        own = self.ask(hand, serve, limit_seconds=limit, start_seconds=start_seconds, **given)
        target = Target("127.0.0.1", own["ws_port"], "/acc", "127.0.0.1", own["http_port"])
        return OwnServer(hand, target, tuple(own["pids"]), own["data_directory"], own["rpc_port"])

    def serve_redis(self, program: str = "") -> tuple[Hand, str]:
        (hand,) = self.hire(1)
        return hand, self.ask(hand, serve_redis, program=program)["url"]

    def dismiss(self) -> None:
        while self.hands:
            self.hands.pop().dismiss()
