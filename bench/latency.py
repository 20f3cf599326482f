"""Latencies in bounded memory: a histogram that processes can merge."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

STEP_US = 10
STEPS = 200_000  # of the usual ones two seconds; beyond it only the maximum is exact

#: Time stamps travel in message texts as ten digits of microseconds; this is where they wrap (2.7 hours).
STAMP_DIGITS = 10
STAMP_WRAP = 10_000_000_000


def stamp_us() -> int:
    """Return the machine-wide monotonic clock in µs, in the form used in
    messages."""
    return (time.monotonic_ns() // 1000) % STAMP_WRAP


class Latency:
    """Latencies in buckets of ``step_us``. Owned by one loop; merge the packed
    forms of several."""

    __slots__ = ("buckets", "max_us", "step_us")

    def __init__(self, step_us: int = STEP_US) -> None:
        self.step_us = step_us
        self.buckets: dict[int, int] = {}
        self.max_us = 0

    def add(self, micros: int) -> None:
        if micros > self.max_us:
            self.max_us = micros
        step = min(micros // self.step_us, STEPS)
        buckets = self.buckets
        buckets[step] = buckets.get(step, 0) + 1

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def percentile_ms(self, percent: float) -> float | None:
        """Return the latency in ms that ``percent`` of all did not exceed; None
        without any."""
        wanted = self.count * percent / 100
        seen = 0
        for step in sorted(self.buckets):
            seen += self.buckets[step]
            if seen >= wanted:
                if step < STEPS:
                    most = (step + 1) * self.step_us
                else:
                    most = self.max_us
                return min(most, self.max_us) / 1000
        return None

    def pack(self) -> dict[str, Any]:
        return {
            "step_us": self.step_us,
            "buckets": sorted(self.buckets.items()),
            "max_us": self.max_us,
        }

    @classmethod
    def merged(cls, packed: Iterable[dict[str, Any]]) -> Latency:
        """Return one histogram of several packed ones, all with the same
        steps."""
        whole = cls()
        for part in packed:
            whole.step_us = int(part["step_us"])
            whole.max_us = max(whole.max_us, int(part["max_us"]))
            for step, count in part["buckets"]:
                whole.buckets[step] = whole.buckets.get(step, 0) + count
        return whole

    def figures(
        self, prefix: str = "", *, maximum: bool = True
    ) -> dict[str, float | None]:
        """Return p50, p99 and the maximum in ms by the names of figures."""
        found = {
            f"{prefix}p50_ms": self.percentile_ms(50),
            f"{prefix}p99_ms": self.percentile_ms(99),
        }
        longest = {f"{prefix}max_ms": self.max_us / 1000 if self.buckets else None}
        return {**found, **longest} if maximum else found
