"""How long the loop of a server is held, as another client of it sees."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.generator import Generator
from bench.http_client import HttpConnections, get_request
from bench.loop import Json

PROBE_SECONDS = 0.001  # between two requests of the probe
ANSWER_SECONDS = 20.0


class Probe:
    """Requests ``/health`` repeatedly over one connection; ``worst_us`` is the
    longest block.

    A block is the time until the answer, without the time that the server's
    thread and this one waited for a core. Both may wait at once, so the result
    is at least the CPU time that the server used meanwhile.
    """

    def __init__(self, generator: Generator, pid: int) -> None:
        self.loop = generator.loop
        self.threads = [
            Path(f"/proc/{each}/task/{each}/schedstat") for each in (pid, os.getpid())
        ]
        self.request = get_request(generator.target, "/health")
        self.worst_us = 0
        self.http = HttpConnections(self.loop, generator.target, 1, self._answered)
        (self.conn,) = self.http
        self._due = 0.0
        self._begun = (0, 0)

    def _answered(self, _number: int, micros: int, status: int, body: bytes) -> None:
        ran, waited = (
            now - then for now, then in zip(self._times_us(), self._begun, strict=True)
        )
        self.worst_us = max(self.worst_us, min(micros, max(ran, micros - waited)))
        self._due = time.monotonic() + PROBE_SECONDS

    def _times_us(self) -> tuple[int, int]:
        """Return how long the server's thread has run, and how long both
        threads have waited for a core."""
        server, own = (
            [int(word) for word in path.read_text().split()] for path in self.threads
        )
        return server[0] // 1000, (server[1] + own[1]) // 1000

    def turn(self) -> float:
        """Let the loop turn once; return the time."""
        if not self.conn.waiting and time.monotonic() >= self._due:
            self._begun = self._times_us()
            self.http.send(self.conn, (0,), self.request)
        self.loop.turn(PROBE_SECONDS)
        return time.monotonic()

    def watch(self, seconds: float) -> None:
        """Continue for so many seconds, and until the last request is
        answered."""
        end = time.monotonic() + seconds
        while self.turn() < end or (
            self.conn.waiting and time.monotonic() < end + ANSWER_SECONDS
        ):
            pass


def probe(generator: Generator, pid: int, seconds: float) -> Json:
    """Task: how long the loop of the server is held at most, until it is
    stopped."""
    watcher = Probe(generator, pid)
    watcher.watch(0.2)
    watcher.worst_us = 0
    end = time.monotonic() + seconds
    while not generator.loop.stopped and watcher.turn() < end:
        pass
    watcher.watch(0.0)
    watcher.http.close()
    return {"worst_us": watcher.worst_us}
