"""``imserver bench million``: all users log in, send heartbeats, rest, receive pushes and broadcasts, and
leave.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import proc
from bench.connections import LEAVING, OPEN, OPEN_WINDOW, OPENERS, Connection, ConnectionSet
from bench.context import RunContext, parameter, seconds_parameter, shares, text_parameter
from bench.figures import Figures
from bench.frames import CLOSE, TEXT, client_frame, request_frame, scan, user_name
from bench.generator import Generator
from bench.http_client import FORM, HttpConnections, fetch, request_head
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import BATCH, BenchError, Json
from bench.push import LAST_FRAMES_SECONDS, MOST_MESSAGES, SENDER, new_tag
from bench.report import show_phase
from bench.servers import NodeProcess, RedisProcess, Task, Worker, redis_facts
from bench.session_scenarios import count_users

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
PUSHES_PER_SECOND = 100.0
EXPECT_SECONDS = 120.0
CALM_SECONDS = 2.0
#: Pause of a process with users between two looks for a broadcast, times their number: a process that was
#: asleep finds nothing that it needs in the caches, which costs more than reading a few frames.
PAUSE_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.5
#: A message text is its time stamp and the number of its user, or EVERYBODY.
TARGET_DIGITS = 7
EVERYBODY = 9_999_999
TEXT_AT = b'"msg":"'
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000
#: Requested buffer size; the kernel doubles it. An idle client needs no more.
SOCKET_BYTES = 8192
QUIET_SECONDS = 15.0
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2
PUSH_CLIENTS = 64
BUSY_SECONDS = 4.0  # of pushes before and after a broadcast
BEAT = request_frame("heartbeat", "beat", {})
GOODBYE = client_frame((1000).to_bytes(2, "big"), CLOSE)


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


def message_text(stamp: int, target: int) -> bytes:
    return b"%0*d%0*d" % (STAMP_DIGITS, stamp, TARGET_DIGITS, target)


class Received:
    """The messages of one measurement at all connections of a process. Owned by its connections.

    ``misdelivered``: messages that reached a wrong user.
    """

    def __init__(self) -> None:
        self.total = self.singles = self.misdelivered = self.last_ns = 0
        self.latency = Latency()
        self.spread = Latency(SPREAD_STEP_US)
        self._frame = b"-"
        self._stamp = 0

    def same(self, conn: Connection, data: bytes) -> bool:
        """Count ``data`` if it is the broadcast that other connections have received."""
        if data != self._frame:
            return False
        conn.frames += 1
        self.total += 1
        self.spread.add(self._since(self._stamp))
        return True

    def message(self, conn: Connection, frame: bytes) -> None:
        at = frame.find(TEXT_AT) + len(TEXT_AT)
        stamp = int(frame[at : at + STAMP_DIGITS])
        target = int(frame[at + STAMP_DIGITS : at + STAMP_DIGITS + TARGET_DIGITS])
        if target == EVERYBODY:
            self._frame, self._stamp = frame, stamp
            self.same(conn, frame)
        elif target == conn.number:
            self.singles += 1
            self.latency.add(self._since(stamp))
        else:
            self.misdelivered += 1

    def _since(self, stamp: int) -> int:
        self.last_ns = now = time.monotonic_ns()
        return (now // 1000 - stamp) % STAMP_WRAP

    def verdict(self, conns: list[Connection], wanted: int) -> Json:
        """Compare the received messages with ``wanted`` broadcasts to each of ``conns``."""
        counts = [conn.frames for conn in conns]
        return {
            "received": self.total,
            "lost": sum(wanted - count for count in counts if count < wanted),
            "doubled": sum(count - wanted for count in counts if count > wanted),
            "singles": self.singles,
            "misdelivered": self.misdelivered,
            "last_ns": self.last_ns,
            "latency": self.latency.pack(),
            "spread": self.spread.pack(),
        }


class UserConnections(ConnectionSet):
    """The connections of one generator process, which count broadcasts, heartbeats and notices."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.loop, generator.target, generator.index, SOCKET_BYTES)
        self.received = Received()
        self.beats = self.notices = 0
        self.take = self.count
        self._beaten = b"-"  # the answer to a heartbeat, the same for everybody

    def count(self, conn: Connection, end: int) -> None:
        data, conn.rest = bytes(self.view[:end]), b""
        if data == self._beaten:
            self.beats += 1
            return
        if self.received.same(conn, data):
            return
        found, used = scan(data, end)
        conn.rest = data[used:]
        begin = 0
        for opcode, start, stop in found:
            payload, frame = data[start:stop], data[begin:stop]
            begin = stop
            if opcode >= CLOSE:
                self.control(conn, opcode, payload)
            elif opcode == TEXT and b'"cmd":"msg"' in payload:
                self.received.message(conn, frame)
            elif opcode == TEXT and b'"cmd":"heartbeat"' in payload and b'"code":200' in payload:
                self.beats += 1
                self._beaten = frame
            else:
                self.notices += 1

    def each(self, conns: list[Connection], frame: bytes, answered: Callable[[], int], window: int) -> int:
        """Send ``frame`` on each connection and wait for as many answers, at most ``window`` requests at a
        time; return the number of missing answers.
        """
        before, lost, total, sent = answered(), self.lost, len(conns), 0
        quiet = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet and not self.loop.stopped:
            done = answered() - before + self.lost - lost
            if done >= total:
                break
            for conn in conns[sent : done + window]:
                sent += 1
                if conn.fd in self.by_fd:
                    self.send(conn, frame)
            if self.loop.turn(0.1):
                quiet = time.monotonic() + QUIET_SECONDS
        return total - (answered() - before)

    def facts(self) -> Json:
        """``notices``: number of enter and exit frames, which are not counted elsewhere."""
        return {**super().facts(), "notices": self.notices}


def users_of(generator: Generator) -> UserConnections:
    """Return the connections of this process; the first call makes it."""
    users: UserConnections = generator.state.get("users") or generator.state.setdefault(
        "users", UserConnections(generator)
    )
    return users


def report(generator: Generator) -> Json:
    return users_of(generator).facts()


def come(
    generator: Generator, first: int, count: int, window: int = OPEN_WINDOW, seconds: float = COME_SECONDS
) -> Json:
    """Task: log in ``count`` users, from ``first`` on; ends when all are in, or after ``seconds``."""
    users, begin = users_of(generator), time.monotonic()
    opening = users.open(
        range(first, first + count), OPENERS["cmd"], window=window, seconds=seconds, retry=True
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic(), **users.facts()}


def beat(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    """Task: send a heartbeat of each user."""
    users = users_of(generator)
    conns = list(users.by_fd.values())
    missing = users.each(conns, BEAT, lambda: users.beats, window)
    return {"sent": len(conns), "unanswered": missing, **users.facts()}


def count_anew(generator: Generator) -> Json:
    users = users_of(generator)
    users.received = Received()
    for conn in users.by_fd.values():
        conn.clear()
    return users.facts()


def expect(generator: Generator, seconds: float, look_seconds: float) -> Json:
    """Task: receive until all have a broadcast, at most ``seconds``.

    Between two checks the process sleeps, so that an arriving frame wakes nothing. So the server is measured,
    and not the wake-ups of the few processes that play so many clients.
    """
    users, loop = users_of(generator), generator.loop
    end = time.monotonic() + seconds
    while users.received.total < len(users.by_fd) and time.monotonic() < end and not loop.stopped:
        pause = time.monotonic() + max(HARVEST_SECONDS, look_seconds)
        while time.monotonic() < pause:
            if loop.turn(0) < BATCH:
                time.sleep(look_seconds)
    return users.facts()


def verdict(generator: Generator, broadcasts: int) -> Json:
    """Task: report the received messages, compared with so many broadcasts to all users."""
    users = users_of(generator)
    generator.loop.turn(0)
    return {"verdict": users.received.verdict(list(users.by_fd.values()), broadcasts), **users.facts()}


def leave(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    """Task: close all connections as clients do, with a close frame."""
    users = users_of(generator)
    conns = [conn for conn in users.by_fd.values() if conn.phase == OPEN]
    for conn in conns:
        conn.phase = LEAVING
    missing = users.each(conns, GOODBYE, lambda: -len(users.by_fd), window)
    users.close()
    return {"left": len(conns) - missing, "missing": missing, **users.facts()}


def _push_form(generator: Generator, user: str, number: int, target: int) -> str:
    """The fields of a push to a user of this name, with the text for ``target``."""
    text = message_text(stamp_us(), target).decode()
    return f"appID={generator.target.app}&userID={user}&msgID={number:07d}{new_tag()}&message={text}"


def push_to_users(generator: Generator, users: int, rate: float, seconds: float) -> Json:
    """Task: push to random users of ``users``, ``rate`` times a second."""
    sent = answered = refused = 0

    def note(_number: int, _micros: int, _status: int, body: bytes) -> None:
        nonlocal answered, refused
        answered += 1
        refused += b'"sendResults":true' not in body

    http = HttpConnections(generator.loop, generator.target, PUSH_CLIENTS, note)
    conns = list(http)
    for _ in generator.loop.paced(rate, seconds):
        user = random.randrange(users)
        body = _push_form(generator, user_name(user), sent % MOST_MESSAGES, user).encode()
        head = request_head(generator.target, "/user/sendMessage", FORM, len(body))
        http.send(conns[sent % len(conns)], (sent,), head + body)
        sent += 1
    generator.loop.until(lambda: answered == sent, LAST_FRAMES_SECONDS)
    http.close()
    return {"requests": sent, "refused": refused, "wrong": refused + sent - answered}


def push_to_all(generator: Generator) -> Json:
    """Task: push to everybody, once."""
    form, begin_ns = _push_form(generator, SENDER, 0, EVERYBODY), time.monotonic_ns()
    answer = fetch(generator.target, "/user/sendMessageAll", form)
    answer_ms = (time.monotonic_ns() - begin_ns) / 1e6
    return {"begin_ns": begin_ns, "answer_ms": answer_ms, "wrong": not answer.get("sendResults")}


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


class UserWorkers:
    """The generator processes with their shares of the users. Owner of the times of the next heartbeats."""

    def __init__(self, context: RunContext, connections: int) -> None:
        self.context = context
        self.connections = connections
        self.workers = context.start_workers(max(2, -(-connections // room())))
        self.online = 0
        self.unanswered = 0  # heartbeats
        self._since: dict[int, float] = {}

    def come(self) -> list[Json]:
        """Log all users in. Users who have been silent for long send a heartbeat meanwhile."""
        parts = shares(self.workers, self.connections)
        waiting = deque((worker, {"first": first, "count": count}) for worker, first, count in parts)
        answers = self._work(come, waiting, seconds=COME_SECONDS)
        self.online = sum(answer["connections"] for answer in answers)
        return answers

    def all(self, do: Task) -> list[Json]:
        """Let all processes run a task, with as few at a time as for logins."""
        return self._work(do, deque((worker, {}) for worker in self.workers))

    def beat_if_due(self, within_seconds: float) -> None:
        """Let all users send a heartbeat if one would be silent for too long ``within_seconds`` from now."""
        oldest = min(self._since.values(), default=time.monotonic())
        if time.monotonic() + within_seconds > oldest + BEAT_SECONDS:
            self.all(beat)

    def _work(self, do: Task, waiting: deque[tuple[Worker, dict[str, int]]], **parameters: Any) -> list[Json]:
        answers: list[Json] = []
        busy: list[Worker] = []
        beating: set[int] = set()

        def begin(worker: Worker, task: Task, **more: Any) -> None:
            worker.ask(task, window=WINDOW, limit_seconds=TASK_SECONDS, **more)
            self._since[worker.index] = time.monotonic()
            busy.append(worker)

        while waiting or busy:
            while waiting and len(busy) < ABREAST:
                worker, share = waiting.popleft()
                begin(worker, do, **share, **parameters)
            if do == come and (silent := self._silent([*busy, *(worker for worker, _ in waiting)])):
                beating.add(silent.index)
                begin(silent, beat)
            for worker, answer in self.context.pool.first(busy, LOOK_SECONDS):
                busy.remove(worker)
                self.unanswered += answer.get("unanswered", 0)
                if worker.index in beating:
                    beating.remove(worker.index)
                    continue
                answers.append(answer)
                if do == come:
                    self._came(answers)
            left = proc.available_bytes()
            if left < LEAST_MEMORY_BYTES:
                raise BenchError(f"stopped: only {left / 1e6:.0f} MB of memory are left on this machine")
        return answers

    def _came(self, answers: list[Json]) -> None:
        """Show how many users are online. Raises BenchError if the server admits nobody."""
        online = sum(answer["connections"] for answer in answers)
        if not online:
            reason = next((reason for answer in answers for reason in answer["errors"]), "no answer in time")
            raise BenchError(f"nobody could log in: {reason}")
        show_phase(f"{self.connections:,} users: log in, {online:,} are online")

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
        parts = [answer["verdict"] for answer in self.each(verdict, broadcasts=broadcasts)]
        names = ("received", "lost", "doubled", "singles", "misdelivered")
        return {
            **{name: sum(part[name] for part in parts) for name in names},
            "last_ns": max(part["last_ns"] for part in parts),
            "latency": Latency.merged(part["latency"] for part in parts),
            "spread": Latency.merged(part["spread"] for part in parts),
        }

    def notices(self) -> int:
        return sum(answer["notices"] for answer in self.each(report))


class MillionRun:
    """One run. Owner of its figures, which grow phase by phase, so that no measured figure is lost."""

    def __init__(self, context: RunContext, options: MillionOptions, redis_url: str) -> None:
        self.context = context
        self.options = options
        self.redis_url = redis_url
        self.figures: Figures = {}
        self.details: Json = {}
        self.empty = proc.memory(context.pids)
        self.free_bytes = proc.available_bytes()
        self.figures["processes"] = len(context.pids) - (len(context.pids) > 1)
        self.figures["pss_empty_mb"] = self.empty.pss_bytes / 1e6
        self.users = UserWorkers(context, options.connections)
        self.pusher, self.caller = context.start_workers(2)

    def phase(self, text: str) -> None:
        show_phase(f"{self.options.connections:,} users: {text}")

    def run(self) -> None:
        """Run all phases; raises BenchError if it cannot continue."""
        self.log_in()
        self.beat()
        self.rest()
        self.push()
        self.broadcast()
        self.count()
        self.leave()

    def log_in(self) -> None:
        self.phase("log in")
        before = redis_facts(self.redis_url) if self.redis_url else None
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
            after = redis_facts(self.redis_url)
            calls = self.details["redis_calls"] = after.calls_since(before)
            self.figures["redis_login_cpu_us"] = (after.cpu_us - before.cpu_us) / max(online, 1)
            self.figures["redis_login_commands"] = sum(calls.values()) / max(online, 1)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        memory, online = proc.memory(self.context.pids), max(self.users.online, 1)
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
        self.phase("heartbeats")
        begin = time.monotonic()
        with self.context.measured() as span:
            answers = self.users.all(beat)
        self.figures["beat_seconds"] = time.monotonic() - begin
        self.figures["beat_cpu_us"] = span.cost(sum(answer["sent"] for answer in answers))["cpu_us"]

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

    def push(self) -> None:
        seconds = self.options.push_seconds
        self.users.beat_if_due(4 * seconds)
        self.phase("pushes to single users")
        self.users.each(count_anew)
        given = {"users": self.options.connections, "rate": PUSHES_PER_SECOND, "seconds": seconds}
        with self.context.measured() as span:
            answer = self.context.pool.ask(self.pusher, push_to_users, **given)
        time.sleep(CALM_SECONDS)
        found = self.users.verdict(0)
        self.figures |= {
            **found["latency"].figures("push_"),
            "pushes": answer["requests"],
            "push_cpu_us": span.cost(answer["requests"])["cpu_us"],
            "pushes_lost": answer["requests"] - answer["refused"] - found["singles"],
            "pushes_wrong": answer["wrong"] + found["misdelivered"],
        }

    def _broadcast(self, pushing_seconds: float = 0.0) -> Json:
        """Push to all users and wait until all have received it, among pushes to single users for so long."""
        workers = self.users.workers
        self.users.each(count_anew)
        time.sleep(CALM_SECONDS)
        if pushing_seconds:
            given = {"users": self.options.connections, "rate": PUSHES_PER_SECOND, "seconds": pushing_seconds}
            self.pusher.ask(push_to_users, **given)
            time.sleep(BUSY_SECONDS / 2)
        sent_bytes = proc.loopback_bytes()
        with self.context.measured() as span:
            look_seconds = min(len(workers) * PAUSE_SECONDS, LONGEST_LOOK_SECONDS)
            for worker in workers:
                worker.ask(expect, seconds=EXPECT_SECONDS, look_seconds=look_seconds)
            answer = self.context.pool.ask(self.caller, push_to_all)
            self.context.pool.gather(workers)
        sent_bytes = proc.loopback_bytes() - sent_bytes
        found = self.users.verdict(1)
        return {
            "seconds": max((found["last_ns"] - answer["begin_ns"]) / 1e9, 1e-6),
            **{name: found[name] for name in ("received", "lost", "doubled")},
            **{name: answer[name] for name in ("wrong", "answer_ms")},
            **found["spread"].figures(maximum=False),
            "sent_bytes": sent_bytes,
            **span.cost(found["received"]),
        }

    def broadcast(self) -> None:
        """Push to all users, several times."""
        runs = self.details["broadcasts"] = list[Json]()
        for number in range(self.options.broadcasts):
            self.users.beat_if_due(EXPECT_SECONDS)
            self.phase(f"broadcast {number + 1}")
            runs.append(self._broadcast())
        median = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
        worst = max(run["seconds"] for run in runs)
        self.users.beat_if_due(EXPECT_SECONDS)
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
            "pushes_lost": (self.figures["pushes_lost"] or 0)
            + (pushed["requests"] - pushed["refused"] - singles["singles"]),
            "lost": sum(run["lost"] for run in runs),
            "doubled": sum(run["doubled"] for run in runs),
            "refused": sum(run["wrong"] for run in runs),
        }

    def count(self) -> None:
        """Query the server for the number of online users, and the generators for lost connections."""
        self.phase("count")
        listed = self.context.pool.ask(self.caller, count_users)["count"]
        found = self.users.each(report)
        self.users.online = sum(each["connections"] for each in found)
        self.figures |= {
            "listed": listed,
            "miscounted": abs(listed - self.users.online),
            "dropped": sum(each["lost"] for each in found),
            "beats_unanswered": self.users.unanswered,
        }
        self.details["closes"] = [each["closes"] for each in found if each["closes"]]

    def leave(self) -> None:
        self.phase("leave")
        begin = time.monotonic()
        with self.context.measured() as span:
            answers = self.users.all(leave)
        self.figures["leave_seconds"] = time.monotonic() - begin
        self.figures["leave_cpu_us"] = span.cost(sum(answer["left"] for answer in answers))["cpu_us"]
        self.phase("gone")
        self.context.rest()
        self.figures["ghosts"] = self.context.pool.ask(self.caller, count_users)["count"]
        self.figures["pss_after_mb"] = proc.memory(self.context.pids).pss_bytes / 1e6


def run(context: RunContext, options: MillionOptions) -> Figures:
    """Log a million users in on one machine, and reach them all.

    The report has everything that was measured before a failure; ``stopped`` is the error.
    """
    check_machine(options)
    processes = options.processes or max(len(os.sched_getaffinity(0)), -(-options.connections // room()))
    show_phase(f"{processes} server processes start")
    settings, url = {"IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}, ""
    if processes > 1:
        url = options.redis or context.pool.start(RedisProcess(options.redis_server)).url
        settings["IMSERVER_REDIS_URL"] = url
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
