"""Counters of one node: plain integers, raised where things happen and read when somebody asks.

How operators read them, and all else of the node, is the table in :mod:`imserver.api.metric_table`.
"""

from __future__ import annotations

import gc
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the buckets of what takes time."""
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
"""Upper bounds of the buckets of what is counted."""


class Histogram:
    """How often a value fell below each of ``bounds``. Owner: whoever observes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, not added up; the last holds what is above all bounds."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """The counters that no part of a node owns itself: counts since the start, but for the ``…_now`` gauges.

    Owner: the node. Whoever does the thing raises its counter; gevent switches only at I/O, so ``+= 1``
    needs no lock.
    """

    __slots__ = (
        "accepted",
        "batch_messages",
        "batch_seconds",
        "closes",
        "collections",
        "collector_pause_max_seconds",
        "collector_seconds",
        "deliveries",
        "denials",
        "downloads",
        "expired",
        "files_exhausted",
        "handshakes",
        "handshakes_refused",
        "http_fast",
        "http_handed_over",
        "http_refused",
        "log_gaps",
        "logins",
        "logins_refused",
        "loop_lag_max_seconds",
        "loop_lag_seconds",
        "loop_lags",
        "messages_in",
        "not_stored",
        "outbox_bytes_now",
        "pushes",
        "slow_readers",
        "stored",
        "stored_repeats",
        "streams",
        "sweeps",
        "swept",
        "told_again",
        "upload_bytes",
        "uploads",
        "uploads_refused",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.closes: dict[int, int] = {}
        self.collections = [0, 0, 0]
        """Of the garbage collector, by generation."""
        self.collector_pause_max_seconds = 0.0
        self.collector_seconds = [0.0, 0.0, 0.0]
        self.deliveries = 0
        self.denials: dict[str, int] = {}
        """Logins that an app's own rules refused, by reason."""
        self.files_exhausted = 0
        self.handshakes = 0
        self.handshakes_refused = 0
        self.streams = 0
        self.http_fast = 0
        self.http_handed_over = 0
        self.http_refused = 0
        self.logins = 0
        self.logins_refused = 0
        self.loop_lag_max_seconds = 0.0
        self.loop_lag_seconds = 0.0
        self.loop_lags = Histogram()
        self.messages_in = 0
        self.outbox_bytes_now = 0
        self.pushes = 0
        self.slow_readers = 0
        self.sweeps = 0
        self.swept = 0
        self.downloads = 0
        self.upload_bytes = 0
        self.uploads = 0
        self.uploads_refused = 0
        self.stored = 0
        self.stored_repeats = 0
        self.expired = 0
        self.not_stored = 0
        self.log_gaps = 0
        self.told_again = 0
        self.batch_messages = Histogram(SIZES)
        """Of clients that were handed to the log at once."""
        self.batch_seconds = Histogram()

    def closed(self, code: int) -> None:
        """Count one connection that ended with close code ``code`` (1006: without a close frame)."""
        self.closes[code] = self.closes.get(code, 0) + 1

    def lagged(self, seconds: float) -> None:
        """The event loop came ``seconds`` later to something than it should have."""
        self.loop_lag_seconds = seconds
        self.loop_lag_max_seconds = max(self.loop_lag_max_seconds, seconds)
        self.loop_lags.observe(seconds)

    def batched(self, messages: int, seconds: float) -> None:
        """So many messages of clients were stored together in ``seconds``."""
        self.batch_messages.observe(messages)
        self.batch_seconds.observe(seconds)

    def watch_collector(self) -> Callable[[], None]:
        """Time the garbage collector, whose pauses hold up everybody, until the result is called."""
        began = 0.0

        def collecting(phase: str, info: Mapping[str, int]) -> None:
            nonlocal began
            if phase == "start":
                began = perf_counter()
                return
            pause = perf_counter() - began
            self.collections[info["generation"]] += 1
            self.collector_seconds[info["generation"]] += pause
            self.collector_pause_max_seconds = max(self.collector_pause_max_seconds, pause)

        gc.callbacks.append(collecting)
        return lambda: gc.callbacks.remove(collecting)

    def snapshot(self) -> dict[str, Any]:
        """All counters by name, as they stand now; distributions are left out."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values |= {name: value.copy() for name, value in values.items() if isinstance(value, dict | list)}
        return {name: value for name, value in values.items() if not isinstance(value, Histogram)}


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
