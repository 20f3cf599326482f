"""``imserver bench million``: all users log in, send heartbeats, rest, receive
pushes and broadcasts, and leave.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from bench import proc
from bench.connections import LEAVING, OPENERS, ConnectionSet
from bench.context import (
    RunContext,
    Span,
    parameter,
    seconds_parameter,
    shares,
    text_parameter,
)
from bench.figures import Figures
from bench.frames import CLOSE, client_frame, user_name
from bench.generator import Generator, settle
from bench.latency import Latency
from bench.loop import BATCH, BenchError, Json
from bench.push import LAST_FRAMES_SECONDS, SENDER, Messages, Sending, Tally, new_tag
from bench.report import show_phase
from bench.servers import NodeProcess, RedisProcess, Task, Worker, redis_facts
from bench.session_scenarios import beat, count_users

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
#: The servers close nobody who is silent: heartbeats are a phase of their own.
SETTINGS = {
    "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
    "IMSERVER_WEBSOCKET_HEARTBEAT_SECONDS": "86400",
}
PUSHES_PER_SECOND = 100.0
EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process with users between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
PAUSE_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.5
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000
#: Requested buffer size; the kernel doubles it. An idle client needs no more.
SOCKET_BYTES = 8192
QUIET_SECONDS = 15.0
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2
PUSH_CLIENTS = 64
BUSY_SECONDS = 4.0  # of pushes before and after a broadcast
GOODBYE = client_frame((1000).to_bytes(2, "big"), CLOSE)


@dataclass(frozen=True)
class MillionOptions:
    connections: int = parameter(
        0,
        "Users to log in [default: 10,000, 100,000, 1,000,000].",
        least=0,
        most=2_000_000,
    )
    processes: int = parameter(
        0,
        "Server processes. 0 means as many as the connections need.",
        least=0,
        most=500,
    )
    push_seconds: float = seconds_parameter(20.0, "How long to push to random users")
    broadcasts: int = parameter(3, "Broadcasts to everybody.", most=100)
    calm_seconds: float = seconds_parameter(
        120.0, "How long to wait before the idle CPU is watched"
    )
    idle_seconds: float = seconds_parameter(60.0, "How long to watch the idle CPU")
    redis: str = text_parameter("", "The URL of a Redis [default: start one].")
    redis_server: str = text_parameter(
        "", "The redis-server to start [default: the one in PATH]."
    )


def come(generator: Generator, first: int, count: int) -> Json:
    """Task: log in ``count`` users, from ``first`` on; ends when all are in, or
    it is too late."""
    begin = time.monotonic()
    numbers = range(first, first + count)
    users = ConnectionSet(
        generator.loop, generator.target, generator.index, SOCKET_BYTES
    )
    generator.connections = users
    opening = users.open(
        numbers, OPENERS["cmd"], window=WINDOW, seconds=COME_SECONDS, retry=True
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic(), **users.facts()}


def leave(generator: Generator) -> Json:
    """Task: close all connections as clients do, with a close frame."""
    users = generator.connections
    conns = list(users.by_fd.values())
    for conn in generator.loop.each(conns):
        if conn.fd in users.by_fd:
            conn.phase = LEAVING
            users.send(conn, GOODBYE)
    generator.loop.until(lambda: not users.by_fd, QUIET_SECONDS)
    return {"left": len(conns) - users.close()}


def count_anew(generator: Generator, tag: str, every: bool) -> Json:
    """Task: count the messages of a run; ``every``: they are for single
    users."""
    tally = Tally(generator.connections, tag, every=every)
    generator.state["tally"] = tally
    if every:
        tally.latency = tally.latency
    else:
        tally.latency = Latency(SPREAD_STEP_US)
    return {}


def expect(generator: Generator, seconds: float, look_seconds: float) -> Json:
    """Task: receive until all have a broadcast, at most ``seconds``.

    Between two checks the process sleeps, so that an arriving frame wakes
    nothing. So the server is measured, and not the wake-ups of the few
    processes that play so many clients.
    """
    tally = generator.state["tally"]
    loop = generator.loop
    end = time.monotonic() + seconds
    while (
        tally.received < len(tally.receivers)
        and time.monotonic() < end
        and not loop.stopped
    ):
        pause = time.monotonic() + max(HARVEST_SECONDS, look_seconds)
        while time.monotonic() < pause:
            if loop.turn(0) < BATCH:
                time.sleep(look_seconds)
    return {}


def verdict(generator: Generator, pushed: list[int] | None = None) -> Json:
    """Task: compare what was received with one broadcast, or with accepted
    pushes, which are the numbers of their users (-1: refused)."""
    tally: Tally = generator.state["tally"]
    generator.loop.turn(0)
    tally.release()
    if pushed is None:
        receipts = tally.verdict({0})
    else:
        wanted = {conn.number: [0, 0] for conn in tally.receivers}
        for number, user in enumerate(pushed):
            if user in wanted:
                wanted[user][0] += 1
                wanted[user][1] += number
        receipts = tally.compare([*wanted.values()])
    return {**receipts._asdict(), "last_ns": tally.last_ns, **tally.figures()}


def push_to_users(generator: Generator, tag: str, users: int, seconds: float) -> Json:
    """Task: push to random users of ``users``."""
    names = [
        user_name(random.randrange(users))
        for _ in range(int(PUSHES_PER_SECOND * seconds) + 1)
    ]
    run = Messages(generator, tag, Sending("users", PUSH_CLIENTS), names)
    for turn in generator.loop.paced(PUSHES_PER_SECOND, seconds):
        run.push(run.conns[turn % PUSH_CLIENTS])
    generator.loop.until(lambda: run.http.answered == run.requests, LAST_FRAMES_SECONDS)
    run.http.close()
    pushed = [
        -1 if at in run.refused else int(names[at][1:]) for at in range(run.pushed)
    ]
    return {
        "pushed": pushed,
        "wrong": len(run.refused) + run.requests - run.http.answered,
    }


def push_to_all(generator: Generator, tag: str) -> Json:
    """Task: push to everybody, once."""
    run = Messages(generator, tag, Sending("all", clients=1), [SENDER])
    begin_ns = time.monotonic_ns()
    run.push(run.conns[0])
    answered = generator.loop.until(lambda: run.http.answered > 0, EXPECT_SECONDS)
    run.http.close()
    wrong = not answered or bool(run.refused)
    return {
        "begin_ns": begin_ns,
        "answer_ms": run.latency.max_us / 1000,
        "wrong": wrong,
    }


def room() -> int:
    """Return the number of connections that one process has files for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files > 0:
        return min(max(files - SPARE_FILES, 100), 60_000)
    return 60_000


def check_machine(options: MillionOptions) -> None:
    """Raise BenchError if this machine cannot hold so many connections."""
    files = 2 * options.connections + 30_000
    left = proc.files_left()
    if left < files:
        raise BenchError(
            f"{files} open files are needed, and fs.file-max leaves {left}: raise it (sysctl)"
        )
    wanted = BASE_BYTES + BYTES_A_CONNECTION * options.connections
    available = proc.available_bytes()
    if available < wanted:
        need = f"about {wanted / 1e9:.1f} GB of memory are needed"
        raise BenchError(f"{need}, and {available / 1e9:.1f} GB are free")


class MillionRun:
    """One run. Owner of its figures, which grow phase by phase, so that no
    measured figure is lost."""

    def __init__(
        self, context: RunContext, options: MillionOptions, redis_url: str
    ) -> None:
        self.context = context
        self.options = options
        self.redis_url = redis_url
        self.empty = proc.memory(context.pids)
        self.free_bytes = proc.available_bytes()
        processes = len(context.pids) - (len(context.pids) > 1)
        self.figures: Figures = {
            "processes": processes,
            "pss_empty_mb": self.empty.pss_bytes / 1e6,
        }
        self.users = context.start_workers(max(2, -(-options.connections // room())))
        self.online = 0
        self.pusher, self.caller = context.start_workers(2)

    def run(self) -> None:
        """Run all phases; raises BenchError if it cannot continue."""
        pushes = (self.push, self.broadcast, self.push_beside)
        for phase in (
            self.log_in,
            self.beat,
            self.rest,
            *pushes,
            self.count,
            self.leave,
        ):
            show_phase(
                f"{self.options.connections:,} users: {phase.__name__.replace('_', ' ')}"
            )
            phase()

    def work(self, do: Task, given: Iterable[Json] = repeat({})) -> list[Json]:
        """Let all processes run a task, a few at a time. Raises BenchError if
        the server admits nobody, or the memory is used up."""
        waiting = deque(zip(self.users, given, strict=False))
        busy = list[Worker]()
        answers = list[Json]()
        while waiting or busy:
            while waiting and len(busy) < ABREAST:
                worker, parameters = waiting.popleft()
                worker.ask(do, limit_seconds=TASK_SECONDS + COME_SECONDS, **parameters)
                busy.append(worker)
            for worker, answer in self.context.pool.first(busy, LOOK_SECONDS):
                busy.remove(worker)
                answers.append(answer)
                if do == come and not any(each["connections"] for each in answers):
                    raise BenchError(f"nobody could log in: {answer['errors']}")
            left = proc.available_bytes()
            if left < LEAST_MEMORY_BYTES:
                raise BenchError(
                    f"stopped: only {left / 1e6:.0f} MB of memory are left on this machine"
                )
        return answers

    def each(self, do: Task, **parameters: Any) -> list[Json]:
        return self.context.ask(self.users, do, **parameters)

    def verdict(self, **pushed: Any) -> Json:
        """Return the received messages of all."""
        parts = self.each(verdict, **pushed)
        return {
            **{
                name: sum(part[name] for part in parts)
                for name in ("received", "lost", "doubled")
            },
            "last_ns": max(part["last_ns"] for part in parts),
            "latency": Latency.merged(part["latency"] for part in parts),
        }

    def log_in(self) -> None:
        if self.redis_url:
            before = redis_facts(self.redis_url)
        else:
            before = None
        parts = shares(self.users, self.options.connections)
        with self.context.measured() as span:
            answers = self.work(
                come, [{"first": first, "count": count} for _, first, count in parts]
            )
        span.note(answers)
        online = sum(answer["connections"] for answer in answers)
        self.online = online
        seconds = max(answer["end"] for answer in answers) - min(
            answer["begin"] for answer in answers
        )
        self.figures |= {
            "online": online,
            "missing": self.options.connections - online,
            "errors": sum(
                count for answer in answers for count in answer["errors"].values()
            ),
            "login_seconds": seconds,
            "logins_per_second": online / seconds,
            **{f"login_{name}": value for name, value in span.cost(online).items()},
            **Latency.merged(answer["latency"] for answer in answers).figures(
                "login_", maximum=False
            ),
        }
        if before is not None:
            after = redis_facts(self.redis_url)
            self.figures["redis_login_cpu_us"] = (after.cpu_us - before.cpu_us) / max(
                online, 1
            )
            self.figures["redis_login_commands"] = sum(
                after.calls_since(before).values()
            ) / max(online, 1)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        memory = proc.memory(self.context.pids)
        online = max(self.online, 1)
        redis = (redis_facts(self.redis_url).pid,) if self.redis_url else ()
        self.figures |= {
            "pss_full_mb": memory.pss_bytes / 1e6,
            "rss_full_mb": memory.rss_bytes / 1e6,
            "pss_connection_bytes": (memory.pss_bytes - self.empty.pss_bytes) / online,
            "redis_mb": proc.memory(redis).rss_bytes / 1e6 if redis else None,
            "machine_mb": (self.free_bytes - proc.available_bytes()) / 1e6,
        }

    def beat(self) -> None:
        """Let all users send a heartbeat: the last traffic before the rest."""
        with self.context.measured() as span:
            answers = self.work(beat)
        self.figures |= {
            "beat_seconds": span.seconds,
            "beat_cpu_us": span.cost(sum(answer["answered"] for answer in answers))[
                "cpu_us"
            ],
            "beats_unanswered": sum(answer["unanswered"] for answer in answers),
        }

    def rest(self) -> None:
        time.sleep(self.options.calm_seconds)
        with self.context.measured() as span:
            time.sleep(self.options.idle_seconds)
        self.figures["idle_cpu_percent"] = span.server_us / 1e4 / span.seconds
        self._look_at_memory()

    def push(self) -> None:
        found, span = self._push(self.options.push_seconds)
        self.figures |= {
            **found["latency"].figures("push_"),
            "pushes": len(found["pushed"]),
            "push_cpu_us": span.cost(len(found["pushed"]))["cpu_us"],
            "pushes_lost": found["lost"],
            "pushes_wrong": found["wrong"],
        }

    def push_beside(self) -> None:
        """Push to random users while one push goes to all."""
        worst = float(self.figures["broadcast_worst_seconds"] or 0)
        found, _ = self._push(BUSY_SECONDS + 2 * worst, to_all=True)
        self.figures |= found["latency"].figures("busy_push_")
        for name in ("lost", "wrong"):
            self.figures[f"pushes_{name}"] = found[name] + int(
                self.figures[f"pushes_{name}"] or 0
            )

    def _push(self, seconds: float, to_all: bool = False) -> tuple[Json, Span]:
        """Push to random users, and with ``to_all`` once to all meanwhile."""
        tag = new_tag()
        pool = self.context.pool
        self.each(count_anew, tag=tag, every=True)
        with self.context.measured() as span:
            self.pusher.ask(
                push_to_users, tag=tag, users=self.options.connections, seconds=seconds
            )
            if to_all:
                time.sleep(BUSY_SECONDS / 2)
                pool.ask(self.caller, push_to_all, tag=new_tag())
            (answer,) = pool.gather([self.pusher])
        time.sleep(CALM_SECONDS)
        found = self.verdict(pushed=answer["pushed"])
        return {**answer, **found, "wrong": answer["wrong"] + found["doubled"]}, span

    def _broadcast(self) -> Json:
        """Push to all users and wait until all have received it."""
        tag = new_tag()
        self.each(count_anew, tag=tag, every=False)
        time.sleep(CALM_SECONDS)
        with self.context.measured() as span:
            look_seconds = min(len(self.users) * PAUSE_SECONDS, LONGEST_LOOK_SECONDS)
            for worker in self.users:
                worker.ask(expect, seconds=EXPECT_SECONDS, look_seconds=look_seconds)
            answer = self.context.pool.ask(self.caller, push_to_all, tag=tag)
            self.context.gather(self.users)
        found = self.verdict()
        seconds = max((found["last_ns"] - answer["begin_ns"]) / 1e9, 1e-6)
        return {
            **{name: found[name] for name in ("lost", "doubled")},
            "refused": answer["wrong"],
            "broadcast_seconds": seconds,
            "broadcast_p50_ms": found["latency"].percentile_ms(50),
            "broadcast_answer_ms": answer["answer_ms"],
            "deliveries_per_second": found["received"] / seconds,
            "cpu_us": span.cost(found["received"])["cpu_us"],
        }

    def broadcast(self) -> None:
        """Push to all users, several times."""
        runs = [self._broadcast() for _ in range(self.options.broadcasts)]
        runs.sort(key=lambda run: float(run["broadcast_seconds"]))
        self.figures |= {
            **runs[len(runs) // 2],
            "broadcast_worst_seconds": runs[-1]["broadcast_seconds"],
            **{
                name: sum(run[name] for run in runs)
                for name in ("lost", "doubled", "refused")
            },
        }

    def count(self) -> None:
        """Query the server for the number of online users, and the generators
        for lost connections."""
        listed = self.context.pool.ask(self.caller, count_users)["count"]
        found = self.each(settle, quiet_seconds=0.1)
        self.figures |= {
            "listed": listed,
            "miscounted": abs(listed - sum(each["connections"] for each in found)),
            "dropped": sum(each["lost"] for each in found),
        }

    def leave(self) -> None:
        with self.context.measured() as span:
            answers = self.work(leave)
        self.figures["leave_seconds"] = span.seconds
        self.figures["leave_cpu_us"] = span.cost(
            sum(answer["left"] for answer in answers)
        )["cpu_us"]
        self.context.rest()
        self.figures["ghosts"] = self.context.pool.ask(self.caller, count_users)[
            "count"
        ]
        self.figures["pss_after_mb"] = proc.memory(self.context.pids).pss_bytes / 1e6


def run(context: RunContext, options: MillionOptions) -> Figures:
    """Log a million users in on one machine, and reach them all.

    The report has everything that was measured before a failure; ``stopped`` is
    the error.
    """
    check_machine(options)
    processes = options.processes or max(
        len(os.sched_getaffinity(0)), -(-options.connections // room())
    )
    show_phase(f"{processes} server processes start")
    settings = SETTINGS
    url = ""
    if processes > 1:
        url = (
            options.redis or context.pool.start(RedisProcess(options.redis_server)).url
        )
        settings = {**SETTINGS, "IMSERVER_REDIS_URL": url}
    own = context.pool.start(
        NodeProcess(
            context.log,
            environment=settings,
            processes=processes,
            start_seconds=START_SECONDS,
        )
    )
    context.target = own.target
    context.pids = own.pids
    million = MillionRun(context, options, url)
    context.extra["stopped"] = ""
    try:
        million.run()
    except BenchError as error:
        context.extra["stopped"] = str(error)
    return million.figures
