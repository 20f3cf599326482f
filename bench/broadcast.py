"""One push to everybody in ``imserver bench million``, and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench import proc
from bench.capacity import MillionOptions
from bench.crew import Hand, Progress
from bench.gathering import Gathering
from bench.stage import Stage

EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process of the crowd between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
LOOK_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.5
BUSY_SECONDS = 4.0  # of pushes before and after a broadcast


@dataclass(frozen=True)
class Broadcasts:
    """Who takes part: the crowd, the ``caller`` who pushes to it, and the ``pusher`` (to single users)."""

    stage: Stage
    crowd: Gathering
    options: MillionOptions
    caller: Hand
    pusher: Hand

    def one(self, progress: Progress, pushing_seconds: float = 0.0) -> dict[str, Any]:
        """Push to everybody and wait until all have it; among pushes to single users for so many seconds."""
        self.crowd.each("crowd.count")
        time.sleep(CALM_SECONDS)
        if pushing_seconds:
            self._push(pushing_seconds)
        sent_bytes = proc.loopback_bytes()
        with self.stage.measured() as span:
            self._expect()
            (answer,) = self.stage.ask([self.caller], "backend.broadcast")
            answers = self.stage.crew.gather(self.crowd.hands, progress)
        span.note(answers)
        sent_bytes = proc.loopback_bytes() - sent_bytes
        found = self.crowd.verdict(1)
        return {
            "seconds": max((found["last_ns"] - answer["begin_ns"]) / 1e9, 1e-6),
            "received": found["received"],
            "lost": found["lost"],
            "doubled": found["doubled"],
            "wrong": answer["wrong"] + answer["unanswered"],
            "answer_ms": answer["answers"]["max_us"] / 1000,
            "p50_ms": found["spread"].percentile_ms(50),
            "p99_ms": found["spread"].percentile_ms(99),
            "sent_bytes": sent_bytes,
            **span.cost("delivery", found["received"]),
        }

    def _push(self, seconds: float) -> None:
        """Begin to push to single users."""
        users, rate = self.options.connections, self.options.rate
        self.pusher.ask("backend.push", first=0, users=users, rate=rate, seconds=seconds)
        time.sleep(BUSY_SECONDS / 2)

    def _expect(self) -> None:
        """Have the crowd look for the broadcast."""
        hands = self.crowd.hands
        look_seconds = min(len(hands) * LOOK_SECONDS, LONGEST_LOOK_SECONDS)
        for hand in hands:
            hand.ask("crowd.expect", broadcasts=1, seconds=EXPECT_SECONDS, look_seconds=look_seconds)
