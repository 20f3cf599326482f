"""``imserver bench million``: everybody logs in, beats, rests, is pushed to, gets broadcasts, leaves."""

from __future__ import annotations

import os
import resource
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench import backend, crowd, proc
from bench.crew import Hand, Progress, Task
from bench.crowd import COME_SECONDS
from bench.figures import Figures
from bench.latency import Latency
from bench.loop import BenchError
from bench.proc import sample
from bench.servers import redis_facts
from bench.stage import Stage, parameter, seconds_parameter, text_parameter

#: Files of a process that are no connections: logs, listeners, Redis, three for each other node.
SPARE_FILES = 2_100
MOST_ONLINE = 2_000_000
START_SECONDS = 240.0
BYTES_A_CONNECTION = 12_000  # both ends, kernel included; what is looked for before we begin
BASE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class MillionOptions:
    """Parameters of the scenario."""

    connections: int = parameter(10_000, "Users to log in.", least=100, most=MOST_ONLINE)
    processes: int = parameter(
        0, "Server processes; 0: as many as their open files need, at least one a core.", least=0, most=500
    )
    abreast: int = parameter(4, "Generator processes that log in at once.", most=64)
    rate: float = parameter(100.0, "Pushes to random users a second.", most=10_000)
    push_seconds: float = seconds_parameter(20.0, "How long to push to random users")
    broadcasts: int = parameter(3, "Broadcasts to everybody.", most=100)
    calm_seconds: float = seconds_parameter(120.0, "How long to wait before the idle CPU is watched")
    idle_seconds: float = seconds_parameter(60.0, "How long to watch it")
    redis: str = text_parameter("", "The URL of a Redis [default: start one].")
    redis_server: str = text_parameter("", "The redis-server to start [default: one that is found].")

    def server_processes(self) -> int:
        return self.processes or max(len(os.sched_getaffinity(0)), -(-self.connections // room()))

    def generator_processes(self) -> int:
        return max(2, -(-self.connections // room()))


def room() -> int:
    """Return how many connections one process has files for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(max(files - SPARE_FILES, 100), 60_000) if files > 0 else 60_000


def check_machine(options: MillionOptions) -> None:
    """Raise BenchError if this machine cannot hold so many connections."""
    files, left = 2 * options.connections + 30_000, proc.files_left()
    if left < files:
        raise BenchError(
            f"{files} open files are needed here, and fs.file-max leaves {left}: raise it (sysctl)"
        )
    wanted = BASE_BYTES + BYTES_A_CONNECTION * options.connections
    if (available := proc.available_bytes()) < wanted:
        raise BenchError(
            f"about {wanted / 1e9:.1f} GB of memory are needed, and {available / 1e9:.1f} GB are free"
        )


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
        count, spare = divmod(self.connections, len(self.hands))
        shares, first = [], 0
        for place, hand in enumerate(self.hands):
            size = count + (place < spare)
            shares.append((hand, {"first": first, "count": size}))
            first += size
        return shares

    def come(self, progress: Progress) -> list[dict[str, Any]]:
        """Log everybody in; those who are in already and were silent for long send a heartbeat meanwhile."""
        answers = self._work(crowd.come, deque(self.shares()), progress, seconds=COME_SECONDS)
        self.online = sum(answer["connections"] for answer in answers)
        return answers

    def beat(self, progress: Progress) -> list[dict[str, Any]]:
        return self._work(crowd.beat, deque((hand, {}) for hand in self.hands), progress)

    def beat_is_due(self, within_seconds: float) -> bool:
        """Whether somebody would be silent for too long ``within_seconds`` from now."""
        oldest = min(self._since.values(), default=time.monotonic())
        return time.monotonic() + within_seconds > oldest + BEAT_SECONDS

    def leave(self, progress: Progress) -> list[dict[str, Any]]:
        return self._work(crowd.leave, deque((hand, {}) for hand in self.hands), progress)

    def _work(
        self, do: Task, waiting: deque[tuple[Hand, dict[str, int]]], progress: Progress, **parameters: Any
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
            if do == crowd.come:
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
                hand.ask(crowd.beat, window=WINDOW, limit_seconds=TASK_SECONDS)
                self._since[hand.index] = now
                return [hand]
        return []

    def each(self, do: Task, **parameters: Any) -> list[dict[str, Any]]:
        return self.stage.ask(self.hands, do, **parameters)

    def verdict(self, broadcasts: int) -> dict[str, Any]:
        """Return what all received together, compared with so many broadcasts."""
        answers = self.each(crowd.verdict, broadcasts=broadcasts)
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
        return sum(answer["notices"] for answer in self.each(crowd.tell))

    def dropped(self) -> tuple[int, dict[str, int]]:
        """Return how many connections the server ended by itself, and how."""
        answers = self.each(crowd.tell)
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


EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process of the crowd between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
PAUSE_SECONDS = 0.005
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
        self.crowd.each(crowd.count_anew)
        time.sleep(CALM_SECONDS)
        if pushing_seconds:
            self._push(pushing_seconds)
        sent_bytes = proc.loopback_bytes()
        with self.stage.measured() as span:
            self._expect()
            (answer,) = self.stage.ask([self.caller], backend.push_to_all)
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
        users, rate = self.options.connections, self.options.rate
        self.pusher.ask(backend.push_to_users, first=0, users=users, rate=rate, seconds=seconds)
        time.sleep(BUSY_SECONDS / 2)

    def _expect(self) -> None:
        hands = self.crowd.hands
        look_seconds = min(len(hands) * PAUSE_SECONDS, LONGEST_LOOK_SECONDS)
        for hand in hands:
            hand.ask(crowd.expect, broadcasts=1, seconds=EXPECT_SECONDS, look_seconds=look_seconds)


SAMPLER_SECONDS = 7200.0
ABSENT_USERS = 1000


class Million:
    """One run. Owns its figures, which grow phase by phase, so that what was measured is never lost."""

    def __init__(self, stage: Stage, options: MillionOptions, redis_url: str) -> None:
        self.stage = stage
        self.options = options
        self.redis_url = redis_url
        self.figures: Figures = {}
        self.details: dict[str, Any] = {}
        self.redis_pid = redis_facts(redis_url).pid if redis_url else 0
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
        sampler.ask(sample, groups=groups, seconds=SAMPLER_SECONDS)
        self.sampler = sampler
        self.marks: list[tuple[float, str]] = []

    def phase(self, text: str) -> Progress:
        self.marks.append((time.monotonic(), text))
        return self.stage.begin(f"{self.options.connections:,} users: {text}")

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
        self.marks.append((time.monotonic(), "end"))
        self.sampler.stop()
        (answer,) = self.stage.gather([self.sampler])
        return {"samples": answer["samples"], "marks": self.marks}

    def log_in(self) -> None:
        before = redis_facts(self.redis_url) if self.redis_url else None
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
            after = redis_facts(self.redis_url)
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
        before = redis_facts(self.redis_url) if self.redis_url else None
        begin = time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.beat(self.phase("heartbeats"))
        sent = sum(answer["sent"] for answer in answers)
        self.figures["beat_seconds"] = time.monotonic() - begin
        self.figures["beat_cpu_us"] = span.cost("heartbeat", sent)["cpu_us"]
        if before is not None:
            self.details["redis_calls"]["heartbeats"] = redis_facts(self.redis_url).calls_since(before)

    def beat_if_due(self, within_seconds: float) -> None:
        """Let everybody send a heartbeat if somebody would be silent for too long in the next phase."""
        if self.crowd.beat_is_due(within_seconds):
            self.crowd.beat(self.phase("heartbeats"))

    def rest(self) -> None:
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
        self.beat_if_due(4 * self.options.push_seconds)
        self.phase("who is online")
        (answer,) = self.stage.ask(
            [self.caller],
            backend.ask_online,
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
        self.phase("pushes to single users")
        self.crowd.each(crowd.count_anew)
        before = redis_facts(self.redis_url) if self.redis_url else None
        with self.stage.measured() as span:
            (answer,) = self.stage.ask(
                [self.pusher],
                backend.push_to_users,
                first=0,
                users=self.options.connections,
                rate=self.options.rate,
                seconds=self.options.push_seconds,
            )
        self.stage.wait(CALM_SECONDS)
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
            self.details["redis_calls"]["pushes"] = redis_facts(self.redis_url).calls_since(before)

    def broadcast(self) -> None:
        """Push to everybody: alone, and at last with pushes to single users beside it."""
        broadcasts = Broadcasts(self.stage, self.crowd, self.options, self.caller, self.pusher)
        runs = []
        for number in range(self.options.broadcasts):
            self.beat_if_due(EXPECT_SECONDS)
            progress = self.phase(f"broadcast {number + 1}")
            runs.append(broadcasts.one(progress))
        seconds = BUSY_SECONDS + 2 * max(run["seconds"] for run in runs)
        progress = self.phase("broadcast among pushes")
        runs.append(broadcasts.one(progress, pushing_seconds=seconds))
        (pushed,) = self.stage.gather([self.pusher])
        self.stage.wait(CALM_SECONDS)
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
        (answer,) = self.stage.ask([self.caller], backend.count_users)
        dropped, closes = self.crowd.dropped()
        self.figures["listed"] = answer["count"]
        self.figures["list_ms"] = answer["milliseconds"]
        self.figures["miscounted"] = abs(answer["count"] - self.crowd.online)
        self.figures["dropped"] = dropped
        self.figures["beats_unanswered"] = self.crowd.unanswered
        self.details["closes"] = closes

    def leave(self) -> None:
        begin = time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.leave(self.phase("leave"))
        left = sum(answer["left"] for answer in answers)
        self.figures["leave_notices"] = self.crowd.notices() - (self.figures["notices"] or 0)
        self.figures["leave_seconds"] = time.monotonic() - begin
        self.figures["leave_cpu_us"] = span.cost("departure", left)["cpu_us"]
        self.phase("gone")
        self.stage.rest()
        (answer,) = self.stage.ask([self.caller], backend.count_users)
        memory = proc.memory(self.stage.pids)
        self.figures["ghosts"] = answer["count"]
        self.figures["pss_after_mb"] = memory.pss_bytes / 1e6


def run(stage: Stage, options: MillionOptions) -> Figures:
    """Log a million users in on one machine, and reach them all.

    What was measured before something failed is in the report; ``stopped`` says what failed.
    """
    check_machine(options)
    processes, url = options.server_processes(), ""
    stage.begin(f"{processes} server processes start")
    environment = {"IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
    if processes > 1:
        url = options.redis or stage.crew.serve_redis(options.redis_server)[1]
        environment["IMSERVER_REDIS_URL"] = url
    own = stage.crew.serve(
        log=stage.log, environment=environment, processes=processes, start_seconds=START_SECONDS
    )
    stage.target, stage.pids = own.target, own.pids
    million = Million(stage, options, url)
    stopped = ""
    try:
        million.run()
    except BenchError as error:
        stopped = str(error)
    stage.extra |= {"details": million.details, "stopped": stopped}
    stage.extra["series"] = {} if stopped else million.series()
    return million.figures
