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
from bench.figures import Figures
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.servers import RedisFacts, redis_facts
from bench.stage import Stage, parameter, seconds_parameter, shares, text_parameter

#: Files of a process that are no connections: logs, listeners, Redis, three for each other node.
SPARE_FILES = 2_100
START_SECONDS = 240.0
BYTES_A_CONNECTION = 12_000  # both ends, kernel included; what is looked for before we begin
BASE_BYTES = 2_000_000_000
LEAST_MEMORY_BYTES = 800_000_000
LOOK_SECONDS = 5.0
TASK_SECONDS = 600.0
#: Generator processes that work at once: all together they would only get into each other's way.
ABREAST = 4
#: Connections that one process works on at once. So many share the turns of the servers' loops and the
#: looks at Redis: with 256 a login costs the servers half as much again.
WINDOW = 1024
#: A client that was silent for so long sends a heartbeat; servers wait 360 s.
BEAT_SECONDS = 200.0
#: Pushes and questions a second.
RATE = 100.0
EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process of the crowd between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
PAUSE_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.5
BUSY_SECONDS = 4.0  # of pushes before and after a broadcast
SAMPLER_SECONDS = 7200.0
ABSENT_USERS = 1000


@dataclass(frozen=True)
class MillionOptions:
    connections: int = parameter(10_000, "Users to log in.", least=100, most=2_000_000)
    processes: int = parameter(0, "Server processes; 0: as many as are needed.", least=0, most=500)
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
        raise BenchError(f"{files} open files are needed, and fs.file-max leaves {left}: raise it (sysctl)")
    wanted, available = BASE_BYTES + BYTES_A_CONNECTION * options.connections, proc.available_bytes()
    if available < wanted:
        need = f"about {wanted / 1e9:.1f} GB of memory are needed"
        raise BenchError(f"{need}, and {available / 1e9:.1f} GB are free")


def check_memory() -> None:
    """Raise BenchError before the machine has no memory left."""
    left = proc.available_bytes()
    if left < LEAST_MEMORY_BYTES:
        raise BenchError(f"stopped: only {left / 1e6:.0f} MB of memory are left on this machine")


class Gathering:
    """The generator processes with their shares of the users. Owns who of them has to beat when."""

    def __init__(self, stage: Stage, connections: int, processes: int) -> None:
        self.stage = stage
        self.connections = connections
        self.hands = stage.hire(processes)
        self.online = 0
        self.unanswered = 0  # heartbeats
        self._since: dict[int, float] = {}

    def come(self, progress: Progress) -> list[Json]:
        """Log everybody in; those who are in already and were silent for long send a heartbeat meanwhile."""
        parts = shares(self.hands, self.connections)
        waiting = deque((hand, {"first": first, "count": count}) for hand, first, count in parts)
        answers = self._work(crowd.come, waiting, progress, seconds=crowd.COME_SECONDS)
        self.online = sum(answer["connections"] for answer in answers)
        return answers

    def all(self, do: Task, progress: Progress) -> list[Json]:
        """Have everybody do something, as few processes at a time as log in."""
        return self._work(do, deque((hand, {}) for hand in self.hands), progress)

    def beat_is_due(self, within_seconds: float) -> bool:
        """Whether somebody would be silent for too long ``within_seconds`` from now."""
        oldest = min(self._since.values(), default=time.monotonic())
        return time.monotonic() + within_seconds > oldest + BEAT_SECONDS

    def _work(
        self, do: Task, waiting: deque[tuple[Hand, dict[str, int]]], progress: Progress, **parameters: Any
    ) -> list[Json]:
        answers: list[Json] = []
        steps: dict[int, int] = {}
        busy: list[Hand] = []
        beating: set[int] = set()

        def step(hand: Hand, done: int, _total: int) -> None:
            if hand.index not in beating:
                steps[hand.index] = done
                progress(sum(steps.values()), self.connections)

        while waiting or busy:
            while waiting and len(busy) < ABREAST:
                hand, share = waiting.popleft()
                hand.ask(do, window=WINDOW, limit_seconds=TASK_SECONDS, **share, **parameters)
                self._since[hand.index] = time.monotonic()
                busy.append(hand)
            if do == crowd.come and (silent := self._silent([*busy, *(hand for hand, _ in waiting)])):
                silent.ask(crowd.beat, window=WINDOW, limit_seconds=TASK_SECONDS)
                self._since[silent.index] = time.monotonic()
                beating.add(silent.index)
                busy.append(silent)
            for hand, answer in self.stage.crew.first(busy, step, LOOK_SECONDS):
                busy.remove(hand)
                self.unanswered += answer.get("unanswered", 0)
                if hand.index in beating:
                    beating.remove(hand.index)
                else:
                    answers.append(answer)
            check_memory()
        return answers

    def _silent(self, working: list[Hand]) -> Hand | None:
        """Return the next one that was silent for long and has no work."""
        now = time.monotonic()
        for hand in self.hands:
            if hand not in working and now > self._since.get(hand.index, now) + BEAT_SECONDS:
                return hand
        return None

    def each(self, do: Task, **parameters: Any) -> list[Json]:
        return self.stage.ask(self.hands, do, **parameters)

    def verdict(self, broadcasts: int) -> Json:
        """Return what all received together, compared with so many broadcasts."""
        parts = [answer["verdict"] for answer in self.each(crowd.verdict, broadcasts=broadcasts)]
        names = ("received", "lost", "doubled", "singles", "strays")
        return {
            **{name: sum(part[name] for part in parts) for name in names},
            "last_ns": max(part["last_ns"] for part in parts),
            "latency": Latency.merged(part["latency"] for part in parts),
            "spread": Latency.merged(part["spread"] for part in parts),
        }

    def notices(self) -> int:
        return sum(answer["notices"] for answer in self.each(crowd.tell))


class Million:
    """One run. Owns its figures, which grow phase by phase, so that what was measured is never lost."""

    def __init__(self, stage: Stage, options: MillionOptions, redis_url: str) -> None:
        self.stage = stage
        self.options = options
        self.redis_url = redis_url
        self.figures: Figures = {}
        self.details: Json = {"redis_calls": {}}
        self.redis_pids = (redis_facts(redis_url).pid,) if redis_url else ()
        self.empty = proc.memory(stage.pids)
        self.free_bytes = proc.available_bytes()
        self.figures["processes"] = len(stage.pids) - (len(stage.pids) > 1)
        self.figures["pss_empty_mb"] = self.empty.pss_bytes / 1e6
        self.crowd = Gathering(stage, options.connections, options.generator_processes())
        self.pusher, self.caller, self.sampler = stage.hire(3)
        groups = {"servers": stage.pids, "generators": [hand.process.pid for hand in self.crowd.hands]}
        if redis_url:
            groups["redis"] = self.redis_pids
        self.sampler.ask(proc.sample, groups=groups, seconds=SAMPLER_SECONDS)
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

    def series(self) -> Json:
        """End the sampler; return what it saw and when the phases began."""
        self.phase("end")
        self.sampler.stop()
        (answer,) = self.stage.gather([self.sampler])
        return {"samples": answer["samples"], "marks": self.marks}

    def _redis(self) -> RedisFacts | None:
        return redis_facts(self.redis_url) if self.redis_url else None

    def _redis_since(self, before: RedisFacts | None, name: str) -> tuple[float, int]:
        """Note the calls since ``before``; return the CPU in µs and how many they were."""
        if before is None:
            return 0.0, 0
        after = redis_facts(self.redis_url)
        calls = self.details["redis_calls"][name] = after.calls_since(before)
        return after.cpu_us - before.cpu_us, sum(calls.values())

    def log_in(self) -> None:
        before = self._redis()
        with self.stage.measured() as span:
            answers = self.crowd.come(self.phase("log in"))
        span.note(answers)
        online = self.crowd.online
        seconds = max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers)
        cost = span.cost(online)
        self.figures |= {
            "online": online,
            "missing": self.options.connections - online,
            "errors": sum(count for answer in answers for count in answer["errors"].values()),
            "login_seconds": seconds,
            "notices": self.crowd.notices(),
            "logins_per_second": online / seconds,
            "login_cpu_us": cost["cpu_us"],
            "login_generator_cpu_us": cost["generator_cpu_us"],
            **Latency.merged(answer["latency"] for answer in answers).figures("login_", maximum=False),
        }
        self.details["errors"] = [answer["errors"] for answer in answers if answer["errors"]]
        if before is not None:
            cpu_us, calls = self._redis_since(before, "login")
            self.figures["redis_login_cpu_us"] = cpu_us / max(online, 1)
            self.figures["redis_login_commands"] = calls / max(online, 1)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        memory, online = proc.memory(self.stage.pids), max(self.crowd.online, 1)
        self.figures |= {
            "pss_full_mb": memory.pss_bytes / 1e6,
            "rss_full_mb": memory.rss_bytes / 1e6,
            "pss_connection_bytes": (memory.pss_bytes - self.empty.pss_bytes) / online,
            "redis_mb": proc.memory(self.redis_pids).rss_bytes / 1e6 if self.redis_pids else None,
            "machine_mb": (self.free_bytes - proc.available_bytes()) / 1e6,
        }

    def beat(self) -> None:
        """Everybody sends a heartbeat: the last traffic before the rest."""
        before, begin = self._redis(), time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.all(crowd.beat, self.phase("heartbeats"))
        self.figures["beat_seconds"] = time.monotonic() - begin
        self.figures["beat_cpu_us"] = span.cost(sum(answer["sent"] for answer in answers))["cpu_us"]
        self._redis_since(before, "heartbeats")

    def beat_if_due(self, within_seconds: float) -> None:
        """Let everybody send a heartbeat if somebody would be silent for too long in the next phase."""
        if self.crowd.beat_is_due(within_seconds):
            self.crowd.all(crowd.beat, self.phase("heartbeats"))

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
        users, seconds = self.options.connections, self.options.push_seconds
        self.beat_if_due(4 * seconds)
        self.phase("who is online")
        answer = self.stage.crew.ask(
            self.caller, backend.ask_online, users=users, absent=ABSENT_USERS, rate=RATE, seconds=seconds
        )
        self.figures |= Latency.merged([answer["answers"]]).figures("ask_", maximum=False)
        self.figures |= {"asked": answer["requests"], "asked_wrong": answer["wrong"]}
        self.details["asked_wrong"] = answer["first_wrong"]

    def push(self) -> None:
        self.phase("pushes to single users")
        self.crowd.each(crowd.count_anew)
        before = self._redis()
        with self.stage.measured() as span:
            self._push(self.options.push_seconds)
            (answer,) = self.stage.gather([self.pusher])
        self.stage.wait(CALM_SECONDS)
        found = self.crowd.verdict(0)
        self.figures |= {
            **found["latency"].figures("push_"),
            "pushes": answer["requests"],
            "push_cpu_us": span.cost(answer["requests"])["cpu_us"],
            "pushes_lost": answer["requests"] - answer["refused"] - found["singles"],
            "pushes_wrong": answer["wrong"] + found["strays"],
        }
        self.details["pushes_wrong"] = answer["first_wrong"]
        self._redis_since(before, "pushes")

    def _push(self, seconds: float) -> None:
        users = self.options.connections
        self.pusher.ask(backend.push_to_users, users=users, rate=RATE, seconds=seconds)

    def _broadcast(self, progress: Progress, pushing_seconds: float = 0.0) -> Json:
        """Push to everybody and wait until all have it; among pushes to single users for so many seconds."""
        hands = self.crowd.hands
        self.crowd.each(crowd.count_anew)
        time.sleep(CALM_SECONDS)
        if pushing_seconds:
            self._push(pushing_seconds)
            time.sleep(BUSY_SECONDS / 2)
        sent_bytes = proc.loopback_bytes()
        with self.stage.measured() as span:
            look_seconds = min(len(hands) * PAUSE_SECONDS, LONGEST_LOOK_SECONDS)
            for hand in hands:
                hand.ask(crowd.expect, broadcasts=1, seconds=EXPECT_SECONDS, look_seconds=look_seconds)
            answer = self.stage.crew.ask(self.caller, backend.push_to_all)
            self.stage.crew.gather(hands, progress)
        sent_bytes = proc.loopback_bytes() - sent_bytes
        found = self.crowd.verdict(1)
        return {
            "seconds": max((found["last_ns"] - answer["begin_ns"]) / 1e9, 1e-6),
            **{name: found[name] for name in ("received", "lost", "doubled")},
            "wrong": answer["wrong"],
            "answer_ms": answer["answers"]["max_us"] / 1000,
            **found["spread"].figures(maximum=False),
            "sent_bytes": sent_bytes,
            **span.cost(found["received"]),
        }

    def broadcast(self) -> None:
        """Push to everybody: alone, and at last with pushes to single users beside it."""
        runs = []
        for number in range(self.options.broadcasts):
            self.beat_if_due(EXPECT_SECONDS)
            runs.append(self._broadcast(self.phase(f"broadcast {number + 1}")))
        median = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
        worst = max(run["seconds"] for run in runs)
        runs.append(self._broadcast(self.phase("broadcast among pushes"), BUSY_SECONDS + 2 * worst))
        (pushed,) = self.stage.gather([self.pusher])
        self.stage.wait(CALM_SECONDS)
        singles = self.crowd.verdict(1)
        self.figures |= {
            "broadcast_seconds": median["seconds"],
            "broadcast_worst_seconds": worst,
            "broadcast_p50_ms": median["p50_ms"],
            "broadcast_answer_ms": median["answer_ms"],
            "deliveries_per_second": median["received"] / median["seconds"],
            "cpu_us": median["cpu_us"],
            "network_mb_per_second": median["sent_bytes"] / 1e6 / median["seconds"],
            "broadcast_pushes_seconds": runs[-1]["seconds"],
            **singles["latency"].figures("busy_push_"),
            "lost": sum(run["lost"] for run in runs),
            "doubled": sum(run["doubled"] for run in runs),
            "refused": sum(run["wrong"] for run in runs),
        }
        lost = pushed["requests"] - pushed["refused"] - singles["singles"]
        self.figures["pushes_lost"] = (self.figures["pushes_lost"] or 0) + lost
        self.figures["pushes_wrong"] = (self.figures["pushes_wrong"] or 0) + pushed["wrong"]
        self.details["broadcasts"] = runs

    def count(self) -> None:
        """Ask the server how many are online, and the generators how many they lost."""
        self.phase("count")
        answer = self.stage.crew.ask(self.caller, backend.count_users)
        found = self.crowd.each(crowd.tell)
        self.crowd.online = sum(each["connections"] for each in found)
        self.figures |= {
            "listed": answer["count"],
            "list_ms": answer["milliseconds"],
            "miscounted": abs(answer["count"] - self.crowd.online),
            "dropped": sum(each["lost"] for each in found),
            "beats_unanswered": self.crowd.unanswered,
        }
        self.details["closes"] = [each["closes"] for each in found if each["closes"]]

    def leave(self) -> None:
        begin = time.monotonic()
        with self.stage.measured() as span:
            answers = self.crowd.all(crowd.leave, self.phase("leave"))
        self.figures["leave_notices"] = self.crowd.notices() - (self.figures["notices"] or 0)
        self.figures["leave_seconds"] = time.monotonic() - begin
        self.figures["leave_cpu_us"] = span.cost(sum(answer["left"] for answer in answers))["cpu_us"]
        self.phase("gone")
        self.stage.rest()
        self.figures["ghosts"] = self.stage.crew.ask(self.caller, backend.count_users)["count"]
        self.figures["pss_after_mb"] = proc.memory(self.stage.pids).pss_bytes / 1e6


def run(stage: Stage, options: MillionOptions) -> Figures:
    """Log a million users in on one machine, and reach them all.

    What was measured before something failed is in the report; ``stopped`` says what failed.
    """
    check_machine(options)
    processes, url = options.server_processes(), ""
    stage.begin(f"{processes} server processes start")
    settings = {"IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
    if processes > 1:
        url = settings["IMSERVER_REDIS_URL"] = (
            options.redis or stage.crew.serve_redis(options.redis_server)[1]
        )
    own = stage.crew.serve(
        log=stage.log, environment=settings, processes=processes, start_seconds=START_SECONDS
    )
    stage.target, stage.pids = own.target, own.pids
    million, stopped = Million(stage, options, url), ""
    try:
        million.run()
    except BenchError as error:
        stopped = str(error)
    stage.extra |= {"details": million.details, "stopped": stopped}
    stage.extra["series"] = {} if stopped else million.series()
    return million.figures
