"""What a machine does while it is measured: once a second connections, CPU, memory and traffic."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from bench import proc
from bench.crew import Hand
from bench.generator import Generator
from bench.loop import BenchError

SAMPLE_SECONDS = 1.0
#: Reading PSS walks over all pages.
PSS_SAMPLES = 10


@dataclass
class Watch:
    """The sampler of a run and the marks between its phases. Owns both."""

    hand: Hand
    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, text: str) -> None:
        """A phase begins."""
        self.marks.append((time.monotonic(), text))


def sample(generator: Generator, groups: dict[str, list[int]], seconds: float) -> dict[str, Any]:
    """Task: sample the processes of ``groups`` (name → pids) and the machine, until told to stop.

    A sample has the time (monotonic), TCP sockets in use, bytes sent over loopback so far, memory available,
    and for each group CPU seconds so far, RSS, and now and then PSS (else None).
    """
    found: list[dict[str, Any]] = []
    begin = time.monotonic()
    while not generator.loop.stopped and (now := time.monotonic()) < begin + seconds:
        measured = {name: _group(tuple(pids), len(found) % PSS_SAMPLES == 0) for name, pids in groups.items()}
        found.append(
            {
                "at": now,
                "sockets": proc.sockets(),
                "sent_bytes": proc.loopback_bytes(),
                "available_bytes": proc.available_bytes(),
                "groups": measured,
            }
        )
        due = begin + len(found) * SAMPLE_SECONDS
        while not generator.loop.stopped and (left := due - time.monotonic()) > 0:
            generator.loop.turn(left)
    return {"samples": found}


def _group(pids: tuple[int, ...], with_pss: bool) -> dict[str, float | None]:
    try:
        return {
            "cpu_seconds": sum(proc.cpu_ticks(pid) for pid in pids) * proc.TICK_NS / 1e9,
            "rss_bytes": proc.quick_rss_bytes(pids),
            "pss_bytes": proc.memory(pids).pss_bytes if with_pss else None,
        }
    except BenchError:  # one has ended
        return {"cpu_seconds": None, "rss_bytes": None, "pss_bytes": None}
