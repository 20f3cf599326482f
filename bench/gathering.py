"""A crowd spread over many generator processes: who comes when, who is due a heartbeat."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from bench import proc
from bench.attendance import COME_SECONDS
from bench.crew import Hand, Progress
from bench.latency import Latency
from bench.loop import BenchError
from bench.stage import Stage

LOOK_SECONDS = 5.0
TASK_SECONDS = 600.0
#: Connections that one process works on at once. So many share the turns of the servers' loops and the
#: looks at Redis: with 256 a login costs the servers half as much again.
WINDOW = 1024
#: A client that was silent for so long sends a heartbeat; servers wait 360 s.
BEAT_SECONDS = 200.0
LEAST_MEMORY_BYTES = 800_000_000


class Gathering:
    """The generator processes with their shares of the users. Owns who of them has to beat when.

    ``abreast`` of them work at once: all together they would only get into each other's way.
    """

    def __init__(self, stage: Stage, connections: int, processes: int, abreast: int) -> None:
        self.stage = stage
        self.connections = connections
        self.abreast = abreast
        self.hands = stage.hire(processes)
        self.online = 0
        self.unanswered = 0  # heartbeats
        self._since: dict[int, float] = {}

    def shares(self) -> list[tuple[Hand, dict[str, int]]]:
        """Return which users each process is."""
        count, spare = divmod(self.connections, len(self.hands))
        shares, first = [], 0
        for place, hand in enumerate(self.hands):
            size = count + (place < spare)
            shares.append((hand, {"first": first, "count": size}))
            first += size
        return shares

    def come(self, progress: Progress) -> list[dict[str, Any]]:
        """Log everybody in; those who are in already and were silent for long send a heartbeat meanwhile."""
        answers = self._work("crowd.come", deque(self.shares()), progress, seconds=COME_SECONDS)
        self.online = sum(answer["connections"] for answer in answers)
        return answers

    def beat(self, progress: Progress) -> list[dict[str, Any]]:
        """Let everybody send one heartbeat."""
        return self._work("crowd.beat", deque((hand, {}) for hand in self.hands), progress)

    def beat_is_due(self, within_seconds: float) -> bool:
        """Whether somebody would be silent for too long ``within_seconds`` from now."""
        oldest = min(self._since.values(), default=time.monotonic())
        return time.monotonic() + within_seconds > oldest + BEAT_SECONDS

    def leave(self, progress: Progress) -> list[dict[str, Any]]:
        """Close all connections."""
        return self._work("crowd.leave", deque((hand, {}) for hand in self.hands), progress)

    def _work(
        self, do: str, waiting: deque[tuple[Hand, dict[str, int]]], progress: Progress, **parameters: Any
    ) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        steps: dict[int, int] = {}
        busy: list[Hand] = []
        beating: set[int] = set()

        def step(hand: Hand, done: int, _total: int) -> None:
            if hand.index not in beating:
                steps[hand.index] = done
                progress(sum(steps.values()), self.connections)

        while waiting or busy:
            while waiting and len(busy) < self.abreast:
                hand, share = waiting.popleft()
                hand.ask(do, window=WINDOW, limit_seconds=TASK_SECONDS, **share, **parameters)
                self._since[hand.index] = time.monotonic()
                busy.append(hand)
            if do == "crowd.come":
                for hand in self._due(busy, {entry.index for entry, _share in waiting}):
                    beating.add(hand.index)
                    busy.append(hand)
            for hand, answer in self.stage.crew.first(busy, step, LOOK_SECONDS):
                busy.remove(hand)
                self.unanswered += answer.get("unanswered", 0)
                if hand.index in beating:
                    beating.remove(hand.index)
                else:
                    answers.append(answer)
            check_memory()
        return answers

    def _due(self, busy: list[Hand], waiting: set[int]) -> list[Hand]:
        """Ask the next one that was silent for long for a round of heartbeats; one at a time."""
        now = time.monotonic()
        for hand in self.hands:
            since = self._since.get(hand.index, now)
            if hand not in busy and hand.index not in waiting and now > since + BEAT_SECONDS:
                hand.ask("crowd.beat", window=WINDOW, limit_seconds=TASK_SECONDS)
                self._since[hand.index] = now
                return [hand]
        return []

    def each(self, do: str, **parameters: Any) -> list[dict[str, Any]]:
        """Give the same command to all processes at once."""
        return self.stage.ask(self.hands, do, **parameters)

    def verdict(self, broadcasts: int) -> dict[str, Any]:
        """Return what all received together, compared with so many broadcasts."""
        answers = self.each("crowd.verdict", broadcasts=broadcasts)
        parts = [answer["verdict"] for answer in answers]
        whole: dict[str, Any] = {
            name: sum(part[name] for part in parts)
            for name in ("received", "lost", "doubled", "singles", "strays")
        }
        whole["last_ns"] = max(part["last_ns"] for part in parts)
        whole["latency"] = Latency.merged(part["latency"] for part in parts)
        whole["spread"] = Latency.merged(part["spread"] for part in parts)
        return whole

    def notices(self) -> int:
        """Return how many notices of logins and departures all together have received."""
        return sum(answer["notices"] for answer in self.each("crowd.facts"))

    def dropped(self) -> tuple[int, dict[str, int]]:
        """Return how many connections the server ended by itself, and how."""
        answers = self.each("crowd.facts")
        closes: dict[str, int] = {}
        for answer in answers:
            for reason, count in answer["closes"].items():
                closes[reason] = closes.get(reason, 0) + count
        self.online = sum(answer["connections"] for answer in answers)
        return sum(answer["lost"] for answer in answers), closes


def check_memory() -> None:
    """Raise BenchError before the machine has no memory left."""
    left = proc.available_bytes()
    if left < LEAST_MEMORY_BYTES:
        raise BenchError(f"stopped: only {left / 1e6:.0f} MB of memory are left on this machine")
