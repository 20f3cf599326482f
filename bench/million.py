"""``imserver bench million``: everybody logs in, beats, rests, is pushed to, gets broadcasts, leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench import broadcast, proc, redis
from bench.broadcast import Broadcasts
from bench.capacity import MillionOptions
from bench.crew import Progress
from bench.gathering import Gathering
from bench.latency import Latency
from bench.sampler import Watch
from bench.stage import Figures, Stage

SAMPLER_SECONDS = 7200.0
ABSENT_USERS = 1000


class Million:
    """One run. Owns its figures, which grow phase by phase, so that what was measured is never lost."""

    def __init__(
        self, stage: Stage, options: MillionOptions, redis_url: str, begin: Callable[[str], Progress]
    ) -> None:
        self.stage = stage
        self.options = options
        self.redis_url = redis_url
        self._begin = begin
        self.figures: Figures = {}
        self.details: dict[str, Any] = {}
        self.redis_pid = redis.facts(redis_url).pid if redis_url else 0
        self.empty = proc.memory(stage.pids)
        self.free_bytes = proc.available_bytes()
        self.figures["processes"] = len(stage.pids) - (len(stage.pids) > 1)
        self.figures["pss_empty_mb"] = self.empty.pss_bytes / 1e6
        self.crowd = Gathering(stage, options.connections, options.generator_processes(), options.abreast)
        self.pusher, self.caller = stage.hire(2)
        (sampler,) = stage.hire(1)
        groups = {"servers": stage.pids, "generators": [hand.process.pid for hand in self.crowd.hands]}
        if self.redis_pid:
            groups["redis"] = [self.redis_pid]
        sampler.ask("sample", groups=groups, seconds=SAMPLER_SECONDS)
        self.watch = Watch(sampler)

    def phase(self, text: str) -> Progress:
        """Begin a phase."""
        self.watch.mark(text)
        return self._begin(f"{self.options.connections:,} users: {text}")

    def run(self) -> None:
        """Do all of it; raises BenchError when it cannot go on."""
        self.log_in()
        self.beat()
        self.rest()
        self.ask()
        self.push()
        self.broadcast()
        self.count()
        self.leave()

    def series(self) -> dict[str, Any]:
        """End the sampler; return what it saw and when the phases began."""
        self.watch.mark("end")
        self.watch.hand.stop()
        (answer,) = self.stage.gather([self.watch.hand])
        return {"samples": answer["samples"], "marks": self.watch.marks}

    # -- phases ------------------------------------------------------------------------------------------

    def log_in(self) -> None:
        """Everybody logs in."""
        before = redis.facts(self.redis_url) if self.redis_url else None
        with self.stage.measured() as span:
            answers = self.crowd.come(self.phase("log in"))
        span.note(answers)
        online = self.crowd.online
        seconds = max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers)
        opening = Latency.merged(answer["latency"] for answer in answers)
        cost = span.cost("login", online)
        self.figures |= {
            "online": online,
            "missing": self.options.connections - online,
            "errors": sum(count for answer in answers for count in answer["errors"].values()),
            "login_seconds": seconds,
            "notices": self.crowd.notices(),
            "logins_per_second": online / seconds,
            "login_cpu_us": cost["cpu_us"],
            "login_generator_cpu_us": cost["generator_cpu_us"],
            "login_p50_ms": opening.percentile_ms(50),
            "login_p99_ms": opening.percentile_ms(99),
        }
        self.details["errors"] = [answer["errors"] for answer in answers if answer["errors"]]
        if before is not None:
            after = redis.facts(self.redis_url)
            calls = after.calls_since(before)
            self.details["redis_calls"] = {"login": calls}
            self.figures["redis_login_cpu_us"] = (after.cpu_us - before.cpu_us) / max(online, 1)
            self.figures["redis_login_commands"] = sum(calls.values()) / max(online, 1)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        memory, online = proc.memory(self.stage.pids), max(self.crowd.online, 1)
        self.figures |= {
            "pss_full_mb": memory.pss_bytes / 1e6,
            "rss_full_mb": memory.rss_bytes / 1e6,
            "pss_connection_bytes": (memory.pss_bytes - self.empty.pss_bytes) / online,
            "redis_mb": proc.memory((self.redis_pid,)).rss_bytes / 1e6 if self.redis_pid else None,
            "machine_mb": (self.free_bytes - proc.available_bytes()) / 1e6,
        }

    def beat(self) -> None:
        """Everybody sends a heartbeat: the last traffic before the rest."""
        before = redis.facts(self.redis_url) if self.redis_url else None
        begin = time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.beat(self.phase("heartbeats"))
        sent = sum(answer["sent"] for answer in answers)
        self.figures["beat_seconds"] = time.monotonic() - begin
        self.figures["beat_cpu_us"] = span.cost("heartbeat", sent)["cpu_us"]
        if before is not None:
            self.details["redis_calls"]["heartbeats"] = redis.facts(self.redis_url).calls_since(before)

    def beat_if_due(self, within_seconds: float) -> None:
        """Let everybody send a heartbeat if somebody would be silent for too long in the next phase."""
        if self.crowd.beat_is_due(within_seconds):
            self.crowd.beat(self.phase("heartbeats"))

    def rest(self) -> None:
        """Nobody does anything: what does that cost?"""
        self.phase("calm")
        self.stage.wait(self.options.calm_seconds)
        self.phase("idle")
        written = proc.written_bytes(self.stage.pids)
        with self.stage.measured() as span:
            self.stage.wait(self.options.idle_seconds)
        self.figures["idle_cpu_percent"] = span.server_us / 1e4 / span.seconds
        self.figures["disk_written_mb"] = written / 1e6
        self._look_at_memory()

    def ask(self) -> None:
        """Ask for random users, online or not."""
        self.beat_if_due(4 * self.options.push_seconds)
        self.phase("who is online")
        (answer,) = self.stage.ask(
            [self.caller],
            "backend.ask",
            users=self.options.connections,
            absent=ABSENT_USERS,
            rate=self.options.rate,
            seconds=self.options.push_seconds,
        )
        answers = Latency.merged([answer["answers"]])
        self.figures |= {
            "ask_p50_ms": answers.percentile_ms(50),
            "ask_p99_ms": answers.percentile_ms(99),
            "asked": answer["requests"],
            "asked_wrong": answer["wrong"] + answer["unanswered"],
        }
        self.details["asked_wrong"] = answer["first_wrong"]

    def push(self) -> None:
        """Push to random users at a pace."""
        self.phase("pushes to single users")
        self.crowd.each("crowd.count")
        before = redis.facts(self.redis_url) if self.redis_url else None
        with self.stage.measured() as span:
            (answer,) = self.stage.ask(
                [self.pusher],
                "backend.push",
                first=0,
                users=self.options.connections,
                rate=self.options.rate,
                seconds=self.options.push_seconds,
            )
        self.stage.wait(broadcast.CALM_SECONDS)
        found = self.crowd.verdict(0)
        self.figures |= {
            "push_p50_ms": found["latency"].percentile_ms(50),
            "push_p99_ms": found["latency"].percentile_ms(99),
            "push_max_ms": found["latency"].max_us / 1000,
            "pushes": answer["requests"],
            "push_cpu_us": span.cost("push", answer["requests"])["cpu_us"],
            "pushes_lost": answer["requests"] - answer["wrong"] - found["singles"],
            "pushes_wrong": answer["wrong"] + answer["unanswered"] + found["strays"],
        }
        self.details["pushes_wrong"] = answer["first_wrong"]
        if before is not None:
            self.details["redis_calls"]["pushes"] = redis.facts(self.redis_url).calls_since(before)

    def broadcast(self) -> None:
        """Push to everybody: alone, and at last with pushes to single users beside it."""
        broadcasts = Broadcasts(self.stage, self.crowd, self.options, self.caller, self.pusher)
        runs = []
        for number in range(self.options.broadcasts):
            self.beat_if_due(broadcast.EXPECT_SECONDS)
            progress = self.phase(f"broadcast {number + 1}")
            runs.append(broadcasts.one(progress))
        seconds = broadcast.BUSY_SECONDS + 2 * max(run["seconds"] for run in runs)
        progress = self.phase("broadcast among pushes")
        runs.append(broadcasts.one(progress, pushing_seconds=seconds))
        (pushed,) = self.stage.gather([self.pusher])
        self.stage.wait(broadcast.CALM_SECONDS)
        singles = self.crowd.verdict(1)
        alone = sorted(runs[:-1], key=lambda run: float(run["seconds"]))[len(runs[:-1]) // 2]
        self.figures |= {
            "broadcast_seconds": alone["seconds"],
            "broadcast_worst_seconds": max(run["seconds"] for run in runs[:-1]),
            "broadcast_p50_ms": alone["p50_ms"],
            "broadcast_answer_ms": alone["answer_ms"],
            "deliveries_per_second": alone["received"] / alone["seconds"],
            "cpu_us": alone["cpu_us"],
            "network_mb_per_second": alone["sent_bytes"] / 1e6 / alone["seconds"],
            "broadcast_pushes_seconds": runs[-1]["seconds"],
            "busy_push_p50_ms": singles["latency"].percentile_ms(50),
            "busy_push_p99_ms": singles["latency"].percentile_ms(99),
            "busy_push_max_ms": singles["latency"].max_us / 1000,
            "lost": sum(run["lost"] for run in runs),
            "doubled": sum(run["doubled"] for run in runs),
            "refused": sum(run["wrong"] for run in runs),
        }
        self.figures["pushes_lost"] = (self.figures["pushes_lost"] or 0) + (
            pushed["requests"] - pushed["wrong"] - singles["singles"]
        )
        self.figures["pushes_wrong"] = (
            (self.figures["pushes_wrong"] or 0) + pushed["wrong"] + pushed["unanswered"]
        )
        self.details["broadcasts"] = runs

    def count(self) -> None:
        """Ask the server how many are online, and the generators how many they lost."""
        self.phase("count")
        (answer,) = self.stage.ask([self.caller], "backend.count")
        dropped, closes = self.crowd.dropped()
        self.figures["listed"] = answer["count"]
        self.figures["list_ms"] = answer["milliseconds"]
        self.figures["miscounted"] = abs(answer["count"] - self.crowd.online)
        self.figures["dropped"] = dropped
        self.figures["beats_unanswered"] = self.crowd.unanswered
        self.details["closes"] = closes

    def leave(self) -> None:
        """Everybody leaves."""
        begin = time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.leave(self.phase("leave"))
        left = sum(answer["left"] for answer in answers)
        self.figures["leave_notices"] = self.crowd.notices() - (self.figures["notices"] or 0)
        self.figures["leave_seconds"] = time.monotonic() - begin
        self.figures["leave_cpu_us"] = span.cost("departure", left)["cpu_us"]
        self.phase("gone")
        self.stage.rest()
        (answer,) = self.stage.ask([self.caller], "backend.count")
        memory = proc.memory(self.stage.pids)
        self.figures["ghosts"] = answer["count"]
        self.figures["pss_after_mb"] = memory.pss_bytes / 1e6
