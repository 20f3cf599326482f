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
from pathlib import Path
from typing import Any

from imserver.bench.loop import BenchError

SOURCE = Path(__file__).resolve().parents[2]
TASK_SECONDS = 60.0  # what a task may take beyond the seconds it was given
GOODBYE_SECONDS = 25.0  # longer than a server of ours may take to end
Progress = Callable[[int, int], None]


class Hand:
    """One generator process. Owned by its crew."""

    def __init__(self, index: int) -> None:
        self.index = index
        commands, self._commands = os.pipe()
        self.answers, answers = os.pipe()
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "imserver.bench.worker"],
                stdin=commands,
                stdout=answers,
                env=environ,
                start_new_session=True,  # the terminal's interrupt is for the parent, which ends its workers
            )
        finally:
            os.close(commands)
            os.close(answers)
        self._partial = b""
        self.deadline = 0.0

    def ask(self, do: str, **parameters: Any) -> None:
        """Give a command; its answer is gathered by the crew."""
        self.deadline = time.monotonic() + parameters.get("seconds", 0) + TASK_SECONDS
        self._write(json.dumps({"do": do, **parameters}).encode() + b"\n")

    def stop(self) -> None:
        """Ask a task that is under way to end; it still answers."""
        self._write(b"stop\n")

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._commands, data) :]
        except BrokenPipeError:
            raise BenchError(f"generator process {self.process.pid} has ended") from None

    def lines(self) -> list[dict[str, Any]]:
        """Read what is there; call when ``answers`` is readable."""
        data = os.read(self.answers, 1 << 20)
        if not data:
            raise BenchError(f"generator process {self.process.pid} has ended")
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def dismiss(self) -> None:
        """End the process: it goes when it is told, or its input ends; otherwise it is killed."""
        with contextlib.suppress(BenchError):
            self._write(b"quit\n")  # a close may be put off as long as this process waits (gevent does)
        os.close(self._commands)
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(GOODBYE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        os.close(self.answers)


class Crew:
    """The generator processes of one run. Owns them; :meth:`dismiss` ends all."""

    def __init__(self) -> None:
        self.hands: list[Hand] = []

    def hire(self, count: int) -> list[Hand]:
        """Start ``count`` processes."""
        hired = []
        for _ in range(count):
            hand = Hand(len(self.hands))
            self.hands.append(hand)
            hired.append(hand)
        return hired

    def gather(self, hands: Sequence[Hand], progress: Progress | None = None) -> list[dict[str, Any]]:
        """Wait for one answer of each, in their order; raises BenchError when one fails or is late."""
        answers: dict[int, dict[str, Any]] = {}
        steps: dict[int, list[int]] = {}
        deadline = max((hand.deadline for hand in hands), default=0.0)
        with selectors.DefaultSelector() as selector:
            for hand in hands:
                selector.register(hand.answers, selectors.EVENT_READ, hand)
            while len(answers) < len(hands):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BenchError("a generator process did not answer in time")
                for key, _events in selector.select(left):
                    hand = key.data
                    for line in hand.lines():
                        if "failed" in line:
                            raise BenchError(line["failed"])
                        if "done" in line:
                            answers[hand.index] = line["done"]
                            selector.unregister(hand.answers)
                        elif progress is not None:
                            steps[hand.index] = line["progress"]
                            progress(sum(s[0] for s in steps.values()), sum(s[1] for s in steps.values()))
        return [answers[hand.index] for hand in hands]

    def dismiss(self) -> None:
        """End all processes."""
        while self.hands:
            self.hands.pop().dismiss()
