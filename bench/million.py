"""``imserver bench million``: all users log in, send heartbeats, rest, receive pushes and broadcasts, and
leave.
"""

from __future__ import annotations

import os
import resource
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench import backend, proc, user_tasks
from bench.context import RunContext, parameter, seconds_parameter, shares, text_parameter
from bench.figures import Figures
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.servers import NodeProcess, RedisFacts, RedisProcess, redis_facts
from bench.workers import Task, Worker

#: Files of a process that are no connections: logs, listeners, Redis, three for each other node.
SPARE_FILES = 2_100
START_SECONDS = 240.0
BYTES_A_CONNECTION = 12_000  # both ends, kernel included; checked before the start
BASE_BYTES = 2_000_000_000
LEAST_MEMORY_BYTES = 800_000_000
LOOK_SECONDS = 5.0
TASK_SECONDS = 600.0
#: Generator processes that work at the same time. More of them would only slow each other down.
ABREAST = 4
#: Connections that one process works on at once. So many share the turns of the servers' loops and the
#: looks at Redis: with 256 a login costs the servers half as much again.
WINDOW = 1024
#: A client sends a heartbeat after so much silence; servers wait 360 s.
BEAT_SECONDS = 200.0
#: Pushes and queries per second.
RATE = 100.0
EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process with users between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
PAUSE_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.5
BUSY_SECONDS = 4.0  # of pushes before and after a broadcast
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
    """Return the number of connections that one process has files for."""
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
    """Raise BenchError before the memory of the machine is used up."""
    left = proc.available_bytes()
    if left < LEAST_MEMORY_BYTES:
        raise BenchError(f"stopped: only {left / 1e6:.0f} MB of memory are left on this machine")


class UserWorkers:
    """The generator processes with their shares of the users. Owner of the times of the next heartbeats."""

    def __init__(self, context: RunContext, connections: int, processes: int) -> None:
        self.context = context
        self.connections = connections
        self.workers = context.start_workers(processes)
        self.online = 0
        self.unanswered = 0  # heartbeats
        self._since: dict[int, float] = {}

    def come(self) -> list[Json]:
        """Log all users in. Users who have been silent for long send a heartbeat meanwhile."""
        parts = shares(self.workers, self.connections)
        waiting = deque((worker, {"first": first, "count": count}) for worker, first, count in parts)
        answers = self._work(user_tasks.come, waiting, seconds=user_tasks.COME_SECONDS)
        self.online = sum(answer["connections"] for answer in answers)
        return answers

    def all(self, do: Task) -> list[Json]:
        """Let all processes run a task, with as few at a time as for logins."""
        return self._work(do, deque((worker, {}) for worker in self.workers))

    def beat_is_due(self, within_seconds: float) -> bool:
        """Whether a user would be silent for too long ``within_seconds`` from now."""
        oldest = min(self._since.values(), default=time.monotonic())
        return time.monotonic() + within_seconds > oldest + BEAT_SECONDS

    def _work(self, do: Task, waiting: deque[tuple[Worker, dict[str, int]]], **parameters: Any) -> list[Json]:
        answers: list[Json] = []
        busy: list[Worker] = []
        beating: set[int] = set()

        while waiting or busy:
            while waiting and len(busy) < ABREAST:
                worker, share = waiting.popleft()
                worker.ask(do, window=WINDOW, limit_seconds=TASK_SECONDS, **share, **parameters)
                self._since[worker.index] = time.monotonic()
                busy.append(worker)
            if do == user_tasks.come and (
                silent := self._silent([*busy, *(worker for worker, _ in waiting)])
            ):
                silent.ask(user_tasks.beat, window=WINDOW, limit_seconds=TASK_SECONDS)
                self._since[silent.index] = time.monotonic()
                beating.add(silent.index)
                busy.append(silent)
            for worker, answer in self.context.pool.first(busy, LOOK_SECONDS):
                busy.remove(worker)
                self.unanswered += answer.get("unanswered", 0)
                if worker.index in beating:
                    beating.remove(worker.index)
                    continue
                answers.append(answer)
                if do == user_tasks.come:
                    self._came(answers)
            check_memory()
        return answers

    def _came(self, answers: list[Json]) -> None:
        """Show how many users are online. Raises BenchError if the server admits nobody."""
        online = sum(answer["connections"] for answer in answers)
        if not online:
            reason = next((reason for answer in answers for reason in answer["errors"]), "no answer in time")
            raise BenchError(f"nobody could log in: {reason}")
        self.context.show_phase(f"{self.connections:,} users: log in, {online:,} are online")

    def _silent(self, working: list[Worker]) -> Worker | None:
        """Return the next idle process whose users have been silent for long."""
        now = time.monotonic()
        for worker in self.workers:
            if worker not in working and now > self._since.get(worker.index, now) + BEAT_SECONDS:
                return worker
        return None

    def each(self, do: Task, **parameters: Any) -> list[Json]:
        return self.context.ask(self.workers, do, **parameters)

    def verdict(self, broadcasts: int) -> Json:
        """Return the received messages of all, compared with so many broadcasts."""
        parts = [answer["verdict"] for answer in self.each(user_tasks.verdict, broadcasts=broadcasts)]
        names = ("received", "lost", "doubled", "singles", "misdelivered")
        return {
            **{name: sum(part[name] for part in parts) for name in names},
            "last_ns": max(part["last_ns"] for part in parts),
            "latency": Latency.merged(part["latency"] for part in parts),
            "spread": Latency.merged(part["spread"] for part in parts),
        }

    def notices(self) -> int:
        return sum(answer["notices"] for answer in self.each(user_tasks.report))


class MillionRun:
    """One run. Owner of its figures, which grow phase by phase, so that no measured figure is lost."""

    def __init__(self, context: RunContext, options: MillionOptions, redis_url: str) -> None:
        self.context = context
        self.options = options
        self.redis_url = redis_url
        self.figures: Figures = {}
        self.details: Json = {"redis_calls": {}}
        self.redis_pids = (redis_facts(redis_url).pid,) if redis_url else ()
        self.empty = proc.memory(context.pids)
        self.free_bytes = proc.available_bytes()
        self.figures["processes"] = len(context.pids) - (len(context.pids) > 1)
        self.figures["pss_empty_mb"] = self.empty.pss_bytes / 1e6
        self.users = UserWorkers(context, options.connections, options.generator_processes())
        self.pusher, self.caller = context.start_workers(2)

    def phase(self, text: str) -> None:
        self.context.show_phase(f"{self.options.connections:,} users: {text}")

    def run(self) -> None:
        """Run all phases; raises BenchError if it cannot continue."""
        self.log_in()
        self.beat()
        self.rest()
        self.ask()
        self.push()
        self.broadcast()
        self.count()
        self.leave()

    def _redis(self) -> RedisFacts | None:
        return redis_facts(self.redis_url) if self.redis_url else None

    def _redis_since(self, before: RedisFacts | None, name: str) -> tuple[float, int]:
        """Record the calls since ``before``; return their CPU in µs and their number."""
        if before is None:
            return 0.0, 0
        after = redis_facts(self.redis_url)
        calls = self.details["redis_calls"][name] = after.calls_since(before)
        return after.cpu_us - before.cpu_us, sum(calls.values())

    def log_in(self) -> None:
        self.phase("log in")
        before = self._redis()
        with self.context.measured() as span:
            answers = self.users.come()
        span.note(answers)
        online = self.users.online
        seconds = max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers)
        cost = span.cost(online)
        self.figures |= {
            "online": online,
            "missing": self.options.connections - online,
            "errors": sum(count for answer in answers for count in answer["errors"].values()),
            "login_seconds": seconds,
            "notices": self.users.notices(),
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
        memory, online = proc.memory(self.context.pids), max(self.users.online, 1)
        self.figures |= {
            "pss_full_mb": memory.pss_bytes / 1e6,
            "rss_full_mb": memory.rss_bytes / 1e6,
            "pss_connection_bytes": (memory.pss_bytes - self.empty.pss_bytes) / online,
            "redis_mb": proc.memory(self.redis_pids).rss_bytes / 1e6 if self.redis_pids else None,
            "machine_mb": (self.free_bytes - proc.available_bytes()) / 1e6,
        }

    def beat(self) -> None:
        """Let all users send a heartbeat: the last traffic before the rest."""
        self.phase("heartbeats")
        before, begin = self._redis(), time.monotonic()
        with self.context.measured() as span:
            answers = self.users.all(user_tasks.beat)
        self.figures["beat_seconds"] = time.monotonic() - begin
        self.figures["beat_cpu_us"] = span.cost(sum(answer["sent"] for answer in answers))["cpu_us"]
        self._redis_since(before, "heartbeats")

    def beat_if_due(self, within_seconds: float) -> None:
        """Let all users send a heartbeat if one would be silent for too long in the next phase."""
        if self.users.beat_is_due(within_seconds):
            self.phase("heartbeats")
            self.users.all(user_tasks.beat)

    def rest(self) -> None:
        self.phase("calm")
        time.sleep(self.options.calm_seconds)
        self.phase("idle")
        written = proc.written_bytes(self.context.pids)
        with self.context.measured() as span:
            time.sleep(self.options.idle_seconds)
        self.figures["idle_cpu_percent"] = span.server_us / 1e4 / span.seconds
        self.figures["disk_written_mb"] = written / 1e6
        self._look_at_memory()

    def ask(self) -> None:
        users, seconds = self.options.connections, self.options.push_seconds
        self.beat_if_due(4 * seconds)
        self.phase("who is online")
        answer = self.context.pool.ask(
            self.caller, backend.ask_online, users=users, absent=ABSENT_USERS, rate=RATE, seconds=seconds
        )
        self.figures |= Latency.merged([answer["answers"]]).figures("ask_", maximum=False)
        self.figures |= {"asked": answer["requests"], "asked_wrong": answer["wrong"]}
        self.details["asked_wrong"] = answer["first_wrong"]

    def push(self) -> None:
        self.phase("pushes to single users")
        self.users.each(user_tasks.count_anew)
        before = self._redis()
        with self.context.measured() as span:
            self._push(self.options.push_seconds)
            (answer,) = self.context.gather([self.pusher])
        time.sleep(CALM_SECONDS)
        found = self.users.verdict(0)
        self.figures |= {
            **found["latency"].figures("push_"),
            "pushes": answer["requests"],
            "push_cpu_us": span.cost(answer["requests"])["cpu_us"],
            "pushes_lost": answer["requests"] - answer["refused"] - found["singles"],
            "pushes_wrong": answer["wrong"] + found["misdelivered"],
        }
        self.details["pushes_wrong"] = answer["first_wrong"]
        self._redis_since(before, "pushes")

    def _push(self, seconds: float) -> None:
        users = self.options.connections
        self.pusher.ask(backend.push_to_users, users=users, rate=RATE, seconds=seconds)

    def _broadcast(self, pushing_seconds: float = 0.0) -> Json:
        """Push to all users and wait until all have received it, among pushes to single users for so many
        seconds.
        """
        workers = self.users.workers
        self.users.each(user_tasks.count_anew)
        time.sleep(CALM_SECONDS)
        if pushing_seconds:
            self._push(pushing_seconds)
            time.sleep(BUSY_SECONDS / 2)
        sent_bytes = proc.loopback_bytes()
        with self.context.measured() as span:
            look_seconds = min(len(workers) * PAUSE_SECONDS, LONGEST_LOOK_SECONDS)
            for worker in workers:
                worker.ask(user_tasks.expect, broadcasts=1, seconds=EXPECT_SECONDS, look_seconds=look_seconds)
            answer = self.context.pool.ask(self.caller, backend.push_to_all)
            self.context.pool.gather(workers)
        sent_bytes = proc.loopback_bytes() - sent_bytes
        found = self.users.verdict(1)
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
        """Push to all users: alone, and at the end together with pushes to single users."""
        runs = []
        for number in range(self.options.broadcasts):
            self.beat_if_due(EXPECT_SECONDS)
            self.phase(f"broadcast {number + 1}")
            runs.append(self._broadcast())
        median = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
        worst = max(run["seconds"] for run in runs)
        self.phase("broadcast among pushes")
        runs.append(self._broadcast(BUSY_SECONDS + 2 * worst))
        (pushed,) = self.context.gather([self.pusher])
        time.sleep(CALM_SECONDS)
        singles = self.users.verdict(1)
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
        self.details["busy_pushes_wrong"] = pushed["first_wrong"]

    def count(self) -> None:
        """Query the server for the number of online users, and the generators for lost connections."""
        self.phase("count")
        answer = self.context.pool.ask(self.caller, backend.count_users)
        found = self.users.each(user_tasks.report)
        self.users.online = sum(each["connections"] for each in found)
        self.figures |= {
            "listed": answer["count"],
            "list_ms": answer["milliseconds"],
            "miscounted": abs(answer["count"] - self.users.online),
            "dropped": sum(each["lost"] for each in found),
            "beats_unanswered": self.users.unanswered,
        }
        self.details["closes"] = [each["closes"] for each in found if each["closes"]]

    def leave(self) -> None:
        self.phase("leave")
        begin = time.monotonic()
        with self.context.measured() as span:
            answers = self.users.all(user_tasks.leave)
        self.figures["leave_notices"] = self.users.notices() - (self.figures["notices"] or 0)
        self.figures["leave_seconds"] = time.monotonic() - begin
        self.figures["leave_cpu_us"] = span.cost(sum(answer["left"] for answer in answers))["cpu_us"]
        self.phase("gone")
        self.context.rest()
        self.figures["ghosts"] = self.context.pool.ask(self.caller, backend.count_users)["count"]
        self.figures["pss_after_mb"] = proc.memory(self.context.pids).pss_bytes / 1e6


def run(context: RunContext, options: MillionOptions) -> Figures:
    """Log a million users in on one machine, and reach them all.

    The report has everything that was measured before a failure; ``stopped`` is the error.
    """
    check_machine(options)
    processes, url = options.server_processes(), ""
    context.show_phase(f"{processes} server processes start")
    settings = {"IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
    if processes > 1:
        url = settings["IMSERVER_REDIS_URL"] = (
            options.redis or context.pool.start(RedisProcess(options.redis_server)).url
        )
    own = context.pool.start(
        NodeProcess(context.log, environment=settings, processes=processes, start_seconds=START_SECONDS)
    )
    context.target, context.pids = own.target, own.pids
    million, stopped = MillionRun(context, options, url), ""
    try:
        million.run()
    except BenchError as error:
        stopped = str(error)
    context.extra |= {"details": million.details, "stopped": stopped}
    return million.figures
